"""Files of codes."""

import json
from pathlib import Path

import torch

from wellposed.checks import require_path
from wellposed.errors import FileError, WellposedError
from wellposed.inversion.base import Code, Inversion
from wellposed.inversion.bdia import BDIA
from wellposed.inversion.ddim import DDIM
from wellposed.inversion.direct import DirectInversion
from wellposed.inversion.edict import EDICT
from wellposed.inversion.edit_friendly import EditFriendly
from wellposed.inversion.fixed_point import FixedPoint
from wellposed.inversion.midpoint import Midpoint
from wellposed.inversion.rf import RFInversion
from wellposed.inversion.rival import RIVAL
from wellposed.inversion.tuned import NullText, PromptTuning
from wellposed.results import read_hdf5

KINDS: tuple[type[Inversion], ...] = (
    *(BDIA, DDIM, DirectInversion, EDICT, EditFriendly, FixedPoint, Midpoint),
    *(NullText, PromptTuning, RFInversion, RIVAL),
)
METHODS: dict[str, type[Inversion]] = {cls.__name__: cls for cls in KINDS}
MOST_STATES = 10**6


def load(path: str | Path) -> Code:
    """Read the code that `Code.save` wrote.

    Raises:
        FileError: any other file.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> code = inversion.BDIA(steps=10).encode(torch.rand(1, 1, 8, 8), prior)
        >>> again = inversion.load(code.save("code.h5"))
        >>> torch.equal(again.decode(prior), code.decode(prior))
        True
    """
    path = require_path("path", path)
    try:
        names = [f"state {n}" for n in range(_count(path))]
        arrays, texts = read_hdf5(path, [*names, "residual"])
        facts = {name: json.loads(text) for name, text in texts.items()}
        return Code(
            states=tuple(arrays[name] for name in names),
            method=METHODS[facts["method"]](**facts["settings"]),
            residual=arrays["residual"],
            calls=int(facts["calls"]),
            levels=tuple(map(float, facts["levels"])),
            times=tuple(map(float, facts["times"])),
            std=float(facts["std"]),
            scale=float(facts["scale"]),
            dtype=_dtype(facts["dtype"]),
        )
    except FileError:
        raise
    except (OSError, KeyError, ValueError, TypeError, RecursionError, WellposedError) as error:
        raise FileError(f"path: {str(path)!r} is not a saved code: {error}") from error


def _count(path: Path) -> int:
    """Return how many states a file has."""
    import h5py

    with h5py.File(path, "r") as file:
        return len([name for name in file if name.startswith("state ")][:MOST_STATES])


def _dtype(name: object) -> torch.dtype:
    found = getattr(torch, str(name), None)
    if not isinstance(found, torch.dtype):
        raise ValueError(f"dtype {name!r}")
    return found
