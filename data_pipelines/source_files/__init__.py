"""The files of a data set before it is built, tables and lists of text: found, named and decoded in one way."""
