"""The verb `predict`: emotions of any images, as a table."""
