"""A user's own files, found, named and decoded in one way by every verb."""
