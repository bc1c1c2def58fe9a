"""Networks and the preprocessing of pixels: plain Flax NNX modules, to which every random draw is an argument."""
