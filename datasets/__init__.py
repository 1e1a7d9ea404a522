"""Reading real data; imported as ``wellposed.datasets``."""

if __name__ == "datasets":
    # In the repository's root ``import datasets`` would find this folder instead of another
    # package of that name.
    raise ImportError("this is wellposed.datasets; import it under that name")

from wellposed.datasets.files import read_array

__all__ = ["read_array"]
