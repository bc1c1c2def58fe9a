"""CAER-S: stills of television shows, persons in seven emotions."""
