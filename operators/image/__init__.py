"""Operators on photographs."""
