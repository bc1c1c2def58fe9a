"""The images and videos that a user names."""
