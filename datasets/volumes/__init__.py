"""Volumes with geometry: DICOM and NIfTI, in and out."""
