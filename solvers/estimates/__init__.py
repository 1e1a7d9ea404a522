"""Point estimates: one deterministic image instead of posterior samples."""
