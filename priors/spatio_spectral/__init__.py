"""Priors that are fitted to one image of many bands while it is sampled."""
