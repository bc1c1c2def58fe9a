"""From a raw folder to shards: what every dataset builder shares."""
