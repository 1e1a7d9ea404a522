"""Samplers that separate sums of images, such as tissue and haze."""
