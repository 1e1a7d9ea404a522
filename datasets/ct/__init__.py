"""Measured sinograms, and MAT files."""
