"""Plain Flax NNX modules. They hold parameters and mathematics; every random draw comes in as an argument."""
