"""Simulated hearts, tissue and haze, and frames of them to train on."""
