"""A user's own files, which every verb finds, names and decodes in one way."""
