"""Priors and restorers of wellposed."""
