"""Photographs, image files for training, degradations, phantoms and hyperspectral cubes."""
