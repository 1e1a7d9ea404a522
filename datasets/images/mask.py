"""Masks of known pixels, painted by hand."""

from pathlib import Path

import numpy as np

from wellposed.datasets.files import read_array, suffix_of
from wellposed.datasets.images.photograph import PHOTOGRAPH_SUFFIXES, read_photograph
from wellposed.errors import ShapeError, require

CLEARLY = 0.1
"""How far from black or white a pixel may be and still count as painted so."""

UNCLEAR = 0.25
"""Fraction of other pixels, as of soft edges, from which on a picture is no mask."""


def read_mask(path: str | Path) -> np.ndarray:
    """Return which pixels (H, W) a mask says are known: white ones; black ones are not.

    In a picture with transparency its holes are unknown, and all that can be seen is white.

    Args:
        path: a photograph, or an array (H, W) or (H, W, C) of 0 and 1.

    Raises:
        FileError: it cannot be read.
        ShapeError: no picture.
        ArgumentError: everything is known or nothing, or black and transparent pixels, or many
            grey ones, leave open which are meant.
    """
    path = Path(path)
    if suffix_of(path) in PHOTOGRAPH_SUFFIXES:
        photograph = read_photograph(path)
        white, alpha = photograph.pixels, photograph.alpha
    else:
        white, alpha = read_array(path), None
    if white.ndim not in (2, 3):
        raise ShapeError(f"mask: {path.name} has shape {white.shape}, accepted: (H, W)")
    white = white.mean(-1) if white.ndim == 3 else white
    known = _seen(white, alpha, path)
    share = float(known.mean())
    accepted = "one of white pixels, which are known, and black or transparent ones"
    require(0 < share < 1, "mask", f"{path.name}, where {share:.0%} is known", accepted)
    return known


def _seen(white: np.ndarray, alpha: np.ndarray | None, path: Path) -> np.ndarray:
    hole = np.zeros(white.shape, bool) if alpha is None else alpha <= 0.5
    unclear = (white > CLEARLY) & (white < 1 - CLEARLY) & ~hole
    share = float(unclear.mean())
    got = f"{path.name}, {share:.0%} of it grey"
    require(share <= UNCLEAR, "mask", got, "black and white pixels")
    dark = (white <= 0.5) & ~hole
    both = f"{path.name}, with transparent and with black pixels"
    only = "one of them, as what is unknown; flatten it"
    require(not (hole.any() and dark.any()), "mask", both, only)
    known: np.ndarray = (white > 0.5) & ~hole
    return known
