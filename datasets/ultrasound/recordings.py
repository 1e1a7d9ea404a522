"""Files of hazy RF frames, with known clean tissue and regions if simulated."""

import math
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import finite, located, reading, stored_array
from wellposed.datasets.ultrasound.metaimage import load_rf_metaimage
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulation.simulator import simulate_echoes
from wellposed.errors import ArgumentError, FileError, require
from wellposed.operators.companding import LOUDEST
from wellposed.writing import replacing

KNOWN = ("tissue", "cavity", "myocardium")

FAINTEST = 0.1
"""Smallest largest magnitude of RF that is not rescaled."""


@dataclass(frozen=True, eq=False)
class Recording:
    """RF frames in about [-1, 1].

    Attributes:
        rf: float32 (B, 1, depths, beams); the stored values are ``rf * scale``.
        scale: 1 unless the largest magnitude in the file is far from 1.
        sector: the grid, if the file has it.
        known: for simulated frames, the clean ``tissue`` and the masks ``cavity`` and
            ``myocardium``.

    Example:
        >>> from wellposed import datasets
        >>> sector = datasets.Sector(depths=256, beams=64, centre_mhz=0.45)
        >>> path = datasets.write_hazy_frames("hazy.h5", hearts=1, sector=sector)
        >>> recording = datasets.load_recording(path)
        >>> recording.rf.shape, sorted(recording.known)
        (torch.Size([1, 1, 256, 64]), ['cavity', 'myocardium', 'tissue'])
    """

    rf: Tensor
    scale: float
    sector: Sector | None
    known: dict[str, Tensor]


@checked
def load_recording(path: str | Path) -> Recording:
    """Load RF frames from HDF5 or MetaImage files (.h5, .hdf5, .mha, .mhd).

    An HDF5 file has the data set ``rf`` (frames, depths, beams), or one frame (depths, beams), and
    for a sector scan the values of `Sector` as attributes; `write_hazy_frames` makes such files.

    Raises:
        FileError: the file is missing or unreadable, has no ``rf``, is not finite, all zero, or
            has a mask that is empty in a frame; names the file.

    Example:
        >>> import h5py, numpy as np
        >>> from wellposed import datasets
        >>> with h5py.File("scan.h5", "w") as file:
        ...     file["rf"] = np.random.uniform(-1, 1, (2, 256, 16)).astype("float32")
        >>> datasets.load_recording("scan.h5").rf.shape
        torch.Size([2, 1, 256, 16])
    """
    path = located("path", path)
    if path.suffix in (".mha", ".mhd"):
        stored = load_rf_metaimage(path)
        return Recording(stored.rf, stored.scale, None, {})
    if path.suffix not in (".h5", ".hdf5"):
        raise FileError(f"path: got {path.name}, accepted: .h5, .hdf5, .mha, .mhd")
    with reading(path, "HDF5"), h5py.File(path) as file:
        frames = _stored(path, file, "rf")
        known = {name: _stored(path, file, name) for name in KNOWN if name in file}
        sector = _sector(path, dict(file.attrs))
    peak = float(np.abs(frames).max())
    if peak == 0:
        raise FileError(f"path: {path.name} contains only zeros, accepted: RF data")
    scale = 1.0 if FAINTEST <= peak <= LOUDEST else peak
    rf = _frames(frames / scale)
    for name, values in known.items():
        if _frames(values).shape != rf.shape:
            raise FileError(
                f"path: {path.name} has '{name}' of shape {values.shape}, accepted: "
                f"{frames.shape} as for 'rf'"
            )
    tissue = {k: _frames(v / scale) for k, v in known.items() if k == "tissue"}
    masks = {k: _frames(v != 0) for k, v in known.items() if k != "tissue"}
    for name, mask in masks.items():
        if not bool(mask.flatten(1).any(1).all()):
            raise FileError(
                f"path: {path.name} has frames whose '{name}' is empty, accepted: masks with at "
                "least one pixel per frame"
            )
    fits = sector is not None and (sector.depths, sector.beams) == tuple(rf.shape[-2:])
    return Recording(rf, scale, sector if fits else None, tissue | masks)


@checked
def write_hazy_frames(
    path: str | Path,
    hearts: int,
    level_db: float = -34.0,
    split: str = "test",
    frames: int | None = None,
    sector: Sector | None = None,
) -> Path:
    """Write simulated hazy RF frames with their clean tissue, for testing dehazing.

    Args:
        path: an HDF5 file; see `load_recording`.
        hearts: number of hearts, each with one frame or, one after the other, with one sequence.
        level_db: haze level, see `EchoFrames.hazy`.
        split: ``train``, ``validation`` or ``test``.
        frames: frames per beat; ``None`` for single frames.
        sector: the grid.

    Raises:
        ArgumentError: no hearts, a level that is not finite, another suffix, or a sector too
            narrow to show the heart; see `simulate_echoes`.
        FileError: the file cannot be written.

    Example:
        >>> from wellposed import datasets
        >>> sector = datasets.Sector(depths=256, beams=64, centre_mhz=0.45)
        >>> path = datasets.write_hazy_frames("hazy.h5", hearts=1, level_db=-20.0, sector=sector)
        >>> datasets.load_recording(path).rf.shape
        torch.Size([1, 1, 256, 64])
    """
    path, grid = located("path", path), sector or Sector()
    require(path.suffix in (".h5", ".hdf5"), "path", path.name, "a name ending in .h5 or .hdf5")
    require(math.isfinite(level_db), "level_db", level_db, "a finite number of dB")
    echoes = simulate_echoes(range(hearts), split, grid, frames)
    content = {"rf": echoes.hazy(level_db), **{name: getattr(echoes, name) for name in KNOWN}}
    seen = all(bool(content[name].flatten(-2).any(-1).all()) for name in KNOWN)
    accepted = "a sector with enough depths and beams to show the whole heart in each frame"
    require(seen, "sector", grid, accepted)
    with replacing(path) as part, h5py.File(part, "w") as file:
        file.attrs.update(level_db=level_db, split=split, **asdict(grid))
        for name, values in content.items():
            file[name] = values.flatten(0, -3).numpy()
    return path


def _stored(path: Path, file: h5py.File, name: str) -> np.ndarray:
    """Return real frames (frames, depths, beams), or one, as float32."""
    stored = stored_array(path, file, name, (2, 3))
    if stored.dtype.kind not in "iufb" or stored.size == 0:
        raise FileError(
            f"path: {path.name} has '{name}' of {stored.dtype} and shape {stored.shape}, "
            "accepted: real, non-empty (frames, depths, beams)"
        )
    values = stored[()]
    with np.errstate(over="ignore"):  # values too large for float32 are reported as infinite
        return finite(path, name, values.astype(np.float32))


def _frames(values: np.ndarray) -> Tensor:
    """Return frames (B, 1, depths, beams) of one or several."""
    return torch.from_numpy(np.ascontiguousarray(values.reshape(-1, 1, *values.shape[-2:])))


def _sector(path: Path, attributes: dict[str, object]) -> Sector | None:
    values = {f.name: attributes[f.name] for f in fields(Sector) if f.name in attributes}
    if len(values) < len(fields(Sector)):
        return None
    try:
        return Sector(**{name: np.asarray(value).item() for name, value in values.items()})
    except ArgumentError as error:
        raise FileError(f"path: {path.name} has an invalid grid: {error}") from error
