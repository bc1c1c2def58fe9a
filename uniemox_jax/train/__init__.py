"""From a config to a trained state: set-up, pure steps, the loop, checkpoints."""
