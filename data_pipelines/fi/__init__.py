"""FI: images from Flickr and Instagram, one of Mikels' eight emotions each, folders only."""
