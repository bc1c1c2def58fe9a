"""The images and videos that a user points at."""
