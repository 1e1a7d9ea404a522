"""Priors on disk: the shipped ones, one's own, and everybody's checkpoint files."""
