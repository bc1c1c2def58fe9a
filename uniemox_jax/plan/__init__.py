"""The verb `plan`: a step compiled for accelerators that need not be present."""
