"""Infrastructure of runs: checkpoints, identity, memory plan, progress."""
