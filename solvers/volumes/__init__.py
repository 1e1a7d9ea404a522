"""Samplers of volumes with a prior of slices."""
