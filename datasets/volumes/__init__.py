"""Volumes with geometry: reading and writing of DICOM and NIfTI."""
