"""How many copies of images are found by their hashes, and how many different images are taken for copies."""
