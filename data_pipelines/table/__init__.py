"""Anyone's table of images: classes, several classes, votes, or valence and arousal."""
