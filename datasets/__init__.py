"""Reading real data and writing results; imported as ``wellposed.datasets``."""

import lazy_loader

if __name__ == "datasets":
    # In the repository's root ``import datasets`` would find this folder instead of another
    # package of that name.
    raise ImportError("this is wellposed.datasets; import it under that name")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
