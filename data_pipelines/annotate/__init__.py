"""The verb `annotate`: several people label images on a local page, and their votes become tables."""
