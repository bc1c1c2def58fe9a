"""Emotion6: six emotions, with the distribution of the votes, valence and arousal."""
