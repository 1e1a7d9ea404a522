"""wellposed: imaging inverse problems solved with diffusion priors.

``y = A(x) + n``: an operator from `wellposed.operators`, a prior from `wellposed.priors` and a
solver from `wellposed.solvers` give a `Reconstruction`. Sub-packages load on first use, so that
``import wellposed`` stays fast.
"""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from wellposed import datasets as datasets
    from wellposed import errors as errors
    from wellposed import inversion as inversion
    from wellposed import metrics as metrics
    from wellposed import operators as operators
    from wellposed import priors as priors
    from wellposed import solvers as solvers
    from wellposed.reconstruction import Reconstruction as Reconstruction

_MODULES = ("datasets", "errors", "inversion", "metrics", "operators", "priors", "solvers")

__all__ = ["Reconstruction", "__version__", *_MODULES]


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"wellposed.{name}")
    if name == "Reconstruction":
        return import_module("wellposed.reconstruction").Reconstruction
    raise AttributeError(f"module 'wellposed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
