"""Samplers of trained restoration processes."""
