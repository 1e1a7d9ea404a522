"""Latent diffusions conditioned on text: their conditions, networks, encoders and loading."""
