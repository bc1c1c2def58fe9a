"""EmoVerse: images with an emotion, a description, and the subject that carries it."""
