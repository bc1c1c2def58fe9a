"""Weights of other libraries: one table of names per family drives both import and export."""
