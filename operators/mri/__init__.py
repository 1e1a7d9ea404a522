"""Magnetic resonance imaging."""

from wellposed.operators.mri.cartesian import fft2c, ifft2c

__all__ = ["fft2c", "ifft2c"]
