"""Solvers for volumes, with a prior of slices."""
