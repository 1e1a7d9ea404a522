"""A folder of zarr stores that results are written to slab by slab."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.datasets.checks import translating
from wellposed.datasets.volumes.zarr_stores import SUFFIX, ZarrVolume, created, zarr_library
from wellposed.integrity import read_json
from wellposed.reconstruction import Reconstruction
from wellposed.remote import require_local
from wellposed.writing import make_folder, write_text

PARTS, PROGRESS = "slabs", "progress.json"
"""The subfolder of stores that are not complete, and the file of what they contain."""

SAMPLES = "samples"
"""Name of the store of all samples, (N, D, H, W)."""


class SlabFolder:
    """Mean, standard deviation and samples of a volume, written slab by slab.

    The stores are ``mean.zarr`` and, of two or more samples, ``std.zarr`` and ``samples.zarr``,
    with chunks as thick as a slab. They are in a subfolder until the last slab is written. Values
    are in the unit of the file, see `Units`; the mean of complex images is written as magnitudes,
    their samples as they are.

    Args:
        out: the folder.
        run: facts of the run, for JSON; what an equal run has written before is kept.
        depth: slices of the volume.
        thickness: slices of a slab.
        like: volume whose place, version and chunks across the slabs the stores get.
        axis: axis of that volume which the slices are taken along.

    Attributes:
        facts: ``done``, the number of slices that are written, and what else is remembered.

    Raises:
        FileError: the folder is not on this machine, or cannot be written.
    """

    def __init__(
        self,
        out: Path,
        run: Mapping[str, object],
        depth: int,
        thickness: int,
        like: ZarrVolume | None = None,
        axis: int = 0,
    ) -> None:
        require_local("out", out)
        zarr_library()  # known to be there before the run
        self.out, self.parts = out, out / PARTS
        self.depth, self.thickness, self.like, self.axis = depth, thickness, like, axis
        fresh: dict[str, Any] = {"run": json.loads(json.dumps(dict(run))), "done": 0}
        known = _known(self.parts / PROGRESS)
        self.facts = known if known.get("run") == fresh["run"] else fresh
        if self.facts is fresh:
            with translating(self.parts, "a folder of slabs", "replace"):
                shutil.rmtree(self.parts, ignore_errors=True)
                make_folder(self.parts, "out")

    @property
    def done(self) -> int:
        """Number of slices that are written."""
        return int(self.facts["done"])

    def remember(self, **facts: object) -> None:
        """Keep facts for runs that go on from here."""
        self.facts |= facts
        write_text(self.parts / PROGRESS, json.dumps(self.facts), "out")

    def add(self, result: Reconstruction) -> None:
        """Write the next slices, (N, d, C, H, W), and remember their cost and misfit."""
        first, end = self.done, self.done + result.samples.shape[1]
        units, several = result.units, len(result.samples) > 1
        values = {"mean": units.stored(result.mean).float()}
        if several:
            values["std"] = (abs(units.scale) * result.std).float()
            values[SAMPLES] = units.offset + units.scale * result.samples
        with translating(self.parts, "zarr", "write"):
            for name, value in values.items():
                self._write(name, _squeezed(value.cpu().numpy()), first, end)
        residual = [*self.facts.get("residual", []), *result.residual.median(0).values.tolist()]
        seconds = self.facts.get("seconds", 0.0) + result.seconds
        self.remember(
            done=end, residual=residual, seconds=seconds, nfe=result.nfe, stores=list(values)
        )

    def finish(self) -> tuple[Path, ...]:
        """Move the complete stores to their place, and return them."""
        with translating(self.out, "zarr", "write"):
            for part in self.parts.glob(f"*{SUFFIX}"):
                shutil.rmtree(self.out / part.name, ignore_errors=True)
                part.replace(self.out / part.name)
            shutil.rmtree(self.parts, ignore_errors=True)
        return tuple(self.out / f"{name}{SUFFIX}" for name in self.facts["stores"])

    def _write(self, name: str, values: np.ndarray, first: int, end: int) -> None:
        """Write slices (d, ...) into a store; those of samples are (N, d, ...)."""
        lead = int(name == SAMPLES)
        along = lead + self.axis
        values = np.moveaxis(values, lead, along)
        box = [slice(None)] * values.ndim
        box[along] = slice(first, end)
        self._opened(name, values, lead)[tuple(box)] = values

    def _opened(self, name: str, values: np.ndarray, lead: int) -> Any:
        """Return the array of a store, which the first slab makes."""
        path, along = self.parts / f"{name}{SUFFIX}", lead + self.axis
        if self.done:
            found = zarr_library().open(str(path), mode="r+")
            return found["0"] if hasattr(found, "keys") else found
        shutil.rmtree(path, ignore_errors=True)
        shape, chunks = list(values.shape), [1] * lead + list(values.shape[lead:])
        if self.like is not None:
            chunks[lead:] = self.like.chunks
        shape[along], chunks[along] = self.depth, self.thickness
        return created(path, shape, None if lead else self.like, chunks, values.dtype)


def _squeezed(values: np.ndarray) -> np.ndarray:
    """Return images (..., C, H, W) without the axis of their only channel."""
    return values[..., 0, :, :] if values.shape[-3] == 1 else values


def _known(path: Path) -> dict[str, Any]:
    """Return what an earlier run has remembered, if it has."""
    try:
        found = read_json(path)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("done"), int) else {}
