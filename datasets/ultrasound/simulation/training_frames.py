"""Simulated frames for training the two priors of dehazing, written to HDF5."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import h5py
import numpy as np
from torch import Tensor

from wellposed.checks import checked, require_integer
from wellposed.datasets.checks import located
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulation.simulator import SPLITS, EchoFrames, simulate_echoes
from wellposed.errors import require, require_choice
from wellposed.noise import item_generator
from wellposed.writing import replacing

LEVELS_DB = {"tissue": (-10.0, 0.0), "haze": (-48.0, -20.0)}
"""Ranges of random levels: largest magnitude of tissue, and root mean square of haze."""

GAINS = 6
"""First word of the seeds of levels and polarities, next to those in `simulator`."""


@checked
def write_training_frames(
    path: str | Path,
    kind: str,
    frames: int,
    split: str = "train",
    sector: Sector | None = None,
    progress: Callable[[int], None] | None = None,
) -> Path:
    """Write simulated RF frames of ``tissue`` or ``haze`` for training a prior.

    Frame n is heart n of `simulate_echoes` with a random level and polarity, as neither
    distinguishes tissue from haze. Frames are linear; training compands them after further random
    gains. Values beyond 1 are clipped, as in receivers.

    Args:
        path: an HDF5 file, with ``rf`` (frames, depths, beams), float16 in [-1, 1], and the
            attributes kind, split and sector.
        kind: ``tissue`` or ``haze``.
        frames: number of frames.
        split: ``train``, ``validation`` or ``test``.
        sector: the grid.
        progress: called after each frame with the number of finished frames.

    Returns:
        The path; the file appears when it is complete.

    Raises:
        ArgumentError: an unknown kind or split, no frames, or a path of another suffix.
        FileError: the file cannot be written.

    Example:
        >>> from wellposed import datasets
        >>> sector = datasets.Sector(depths=256, beams=16, centre_mhz=0.45)
        >>> path = datasets.write_training_frames("tissue.h5", "tissue", frames=2, sector=sector)
        >>> datasets.read_array(path, key="rf").shape
        (2, 256, 16)
    """
    path, grid = located("path", path), sector or Sector()
    require(path.suffix in (".h5", ".hdf5"), "path", path.name, "a name ending in .h5 or .hdf5")
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
    rf: Tensor = gain * getattr(echoes, kind)
    return rf.clamp(-1, 1)
