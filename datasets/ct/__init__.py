"""Measured sinograms, and the MAT files they come in."""
