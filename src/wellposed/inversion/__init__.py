"""Inversion: the noise from which a prior's sampler makes a given image, and back."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
