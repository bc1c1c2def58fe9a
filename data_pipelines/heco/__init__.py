"""HECO: persons in context, eight emotions, folders only."""
