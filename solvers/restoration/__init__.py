"""Samplers of restoration processes, for restorers and plain priors."""
