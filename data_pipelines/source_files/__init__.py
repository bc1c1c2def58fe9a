"""The files of a data set before it is built, tables and lists of text, which every verb reads in one way."""
