"""What is learned, how it is penalised, and how it is measured."""
