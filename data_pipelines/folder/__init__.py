"""Anyone's own images, with or without labels."""
