"""The verb `plan`: it compiles a step for accelerators that need not be present."""
