"""Anyone's own pictures, with or without labels."""
