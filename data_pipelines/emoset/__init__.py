"""EmoSet-118K: pictures with an emotion and up to six annotated attributes."""
