"""Samplers that separate sums of images, as tissue and haze."""
