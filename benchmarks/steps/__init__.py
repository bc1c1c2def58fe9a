"""One training step of each implementation, at the sizes that are measured."""
