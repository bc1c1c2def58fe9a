"""Weight files in every published form, read as data and never executed."""
