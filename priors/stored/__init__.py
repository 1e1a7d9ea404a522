"""Priors on disk: shipped priors, your own, and checkpoint files of other codebases."""
