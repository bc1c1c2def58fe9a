"""Measuring models that no longer change."""
