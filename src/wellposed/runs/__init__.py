"""What surrounds a run: checkpoints, identity, memory plan, progress."""
