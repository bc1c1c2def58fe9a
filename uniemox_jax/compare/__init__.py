"""The verb `compare`: many runs, each in a process of its own, and one table of them."""
