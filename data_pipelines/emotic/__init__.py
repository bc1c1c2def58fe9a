"""EMOTIC: persons in context, with 26 categories, valence, arousal and dominance."""
