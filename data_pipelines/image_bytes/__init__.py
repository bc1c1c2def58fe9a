"""Images as bytes: their segments and chunks, of which those of the pixels are kept."""
