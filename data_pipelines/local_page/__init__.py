"""Pages of this machine: which requests they answer, and what every answer carries."""
