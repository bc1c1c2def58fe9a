"""Emo8: eight emotions, five visual styles, folders only."""
