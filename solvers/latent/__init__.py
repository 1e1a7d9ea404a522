"""Samplers for latent priors."""
