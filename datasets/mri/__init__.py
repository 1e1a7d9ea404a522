"""Measured k-space: fastMRI and ISMRMRD."""
