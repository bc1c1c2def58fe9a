"""EmoSet-118K: images with an emotion and up to six annotated attributes."""
