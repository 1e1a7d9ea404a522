"""Network architectures; parameter names are the published ones."""
