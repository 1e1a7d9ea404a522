"""Simulated hearts, tissue and haze, and training frames."""
