"""What all dataset builders share, on the way from a raw folder to shards."""
