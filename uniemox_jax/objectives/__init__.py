"""What is learned, how it is regularised, and how it is measured."""
