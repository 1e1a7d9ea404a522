"""Simulated frames to train the two priors of dehazing on, written to HDF5."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulation.simulator import SPLITS, EchoFrames, simulate_echoes
from wellposed.errors import require, require_choice
from wellposed.noise import item_generator
from wellposed.writing import replacing

LEVELS_DB = {"tissue": (-10.0, 0.0), "haze": (-48.0, -20.0)}
"""Range of random levels: of tissue's largest magnitude, and of haze's root mean square."""

GAINS = 6
"""First word of the seeds of levels and polarities, next to those in `simulator`."""


def write_training_frames(
    path: str | Path,
    kind: str,
    frames: int,
    split: str = "train",
    sector: Sector | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write simulated RF frames of ``tissue`` or ``haze`` to train a prior on.

    Frame n is that of `simulate_echoes` number n at a random level and with random polarity, since
    neither tells tissue from haze. It is linear; training compands it after further changes of
    gain. Values beyond 1 are clipped, as receivers do.

    Args:
        path: an HDF5 file. It will hold ``rf`` (frames, depths, beams), float16 in [-1, 1], and as
            attributes kind, split and sector.
        kind: ``tissue`` or ``haze``.
        frames: their number.
        split: ``train``, ``validation`` or ``test``.
        sector: the grid.
        progress: called after each frame with the number done.

    Returns:
        The path; the file appears there when it is complete.

    Raises:
        ArgumentError: an unknown kind or split, no frames, or a path of another suffix.
        FileError: the file cannot be written.
    """
    path, grid = Path(path), sector or Sector()
    require(path.suffix in (".h5", ".hdf5"), "path", path.name, "a name that ends in .h5 or .hdf5")
    require_choice("kind", kind, LEVELS_DB)
    require_choice("split", split, SPLITS)
    require_integer("frames", frames)
    shape = (frames, grid.depths, grid.beams)
    with replacing(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(kind=kind, split=split, **asdict(grid))
        rf = file.create_dataset("rf", shape, np.float16, chunks=(1, *shape[1:]))
        for n in range(frames):
            rf[n] = _frame(simulate_echoes([n], split, grid), kind, split, n)[0, 0].numpy()
            if progress is not None:
                progress(n + 1)
    return path


def _frame(echoes: EchoFrames, kind: str, split: str, item: int) -> Tensor:
    rng = item_generator(item, (SPLITS.index(split),), GAINS)
    gain = 10 ** (rng.uniform(*LEVELS_DB[kind]) / 20) * rng.choice((-1, 1))
    return (gain * getattr(echoes, kind)).clamp(-1, 1)
