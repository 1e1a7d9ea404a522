"""Operators of magnetic resonance imaging, masks, trajectories and coils."""
