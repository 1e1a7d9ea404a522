"""Zarr stores: arrays, and volumes with OME-NGFF metadata, read and written part by part."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked, require_path
from wellposed.datasets.checks import as_stored, located, translating
from wellposed.datasets.volumes.ome import Scene, described, scene_of
from wellposed.errors import FileError, ShapeError, require
from wellposed.integrity import check_free
from wellposed.writing import replacing_folder

MARKS = ("zarr.json", ".zarray", ".zgroup")
"""Files of which every store has one, of version 3 or of version 2."""

SUFFIX = ".zarr"
SLAB = 16
"""Slices that are written at a time where the reference has no chunks of slices."""


def is_zarr(path: Path) -> bool:
    """Tell whether a folder is a zarr store."""
    return path.is_dir() and any((path / name).is_file() for name in MARKS)


@dataclass(frozen=True, eq=False)
class ZarrVolume:
    """An array of a zarr store, of which no value is read before it is needed.

    Attributes:
        path: the store.
        array: its `zarr.Array`.
        box: the rows that are taken along each axis of the stored array.
        scene: axes and place of a volume according to OME-NGFF; None of a plain array.
        leading: number of axes before those of the volume, channel and time.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> datasets.write_zarr("volume.zarr", np.ones((10, 32, 40)))
        >>> volume = datasets.load_zarr("volume.zarr")  # no value is read yet
        >>> volume.values.shape
        (10, 32, 40)
    """

    path: Path
    array: Any
    box: tuple[slice, ...]
    scene: Scene | None = None
    leading: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """(D, H, W) or (H, W) of a volume; any shape of a plain array."""
        return tuple(rows.stop - rows.start for rows in self.box[self.leading :])

    @property
    def dtype(self) -> np.dtype:
        """The kind of the stored values."""
        kind: np.dtype = np.dtype(self.array.dtype)
        return kind

    @property
    def spacing(self) -> tuple[float, ...]:
        """Size of a voxel along the axes in mm; empty for a plain array."""
        return () if self.scene is None else self.scene.spacing

    @property
    def chunks(self) -> tuple[int, ...]:
        """Shape of the stored chunks along the axes."""
        return tuple(self.array.chunks)[self.leading :]

    @property
    def values(self) -> np.ndarray:
        """The values, read now, with those chunks only that hold any.

        Raises:
            FileError: they are damaged, or larger than the free memory.
        """
        check_free(self.path, "the array", math.prod(self.shape) * self.dtype.itemsize)
        with translating(self.path, "zarr"):
            return np.asarray(self.array[self.box]).reshape(self.shape)

    def cut(self, axis: int, first: int, end: int) -> "ZarrVolume":
        """Return the rows ``first`` to ``end`` along an axis, in their place; reads nothing."""
        require(0 <= axis < len(self.shape), "axis", axis, f"0 to {len(self.shape) - 1}")
        accepted = f"0 <= first < end <= {self.shape[axis]}"
        require(0 <= first < end <= self.shape[axis], "first, end", (first, end), accepted)
        box, place = list(self.box), self.leading + axis
        start = box[place].start
        box[place] = slice(start + first, start + end)
        scene = None if self.scene is None else self.scene.moved(axis, first)
        return replace(self, box=tuple(box), scene=scene)

    def rows(self, axis: int, first: int, end: int) -> np.ndarray:
        """Return the rows ``first`` to ``end`` along an axis; no other chunks are read."""
        return self.cut(axis, first, end).values

    def slabs(self) -> "Iterator[ZarrVolume]":
        """Yield the volume as slabs of the first axis, each one chunk thick; reads nothing."""
        for first in range(0, self.shape[0], self.chunks[0]):
            yield self.cut(0, first, min(first + self.chunks[0], self.shape[0]))


@checked
def load_zarr(
    path: str | Path,
    *,
    key: str | None = None,
    channel: int | None = None,
    time: int | None = None,
) -> ZarrVolume:
    """Open a zarr store of version 2 or 3; values are read when `ZarrVolume.values` is.

    Of an OME-NGFF image (0.1 to 0.5) the level of full resolution is taken, with its voxel size.
    Lengths are converted to mm; axes without a unit are assumed to be in mm.

    Args:
        path: the folder of the store.
        key: path of an array in the store, which is then taken as a plain array; by default the
            full resolution of an OME-NGFF image, or the only array.
        channel: index along the axis c of an image, if it has more than one.
        time: index along the axis t, if it has more than one.

    Raises:
        FileError: no store, damaged metadata, several arrays without a key or without axes z, y
            and x, or zarr is not installed; names the store.
        ArgumentError: several channels or times and no choice, or no such index.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> datasets.write_zarr("volume.zarr", np.ones((10, 32, 40)))
        >>> datasets.load_zarr("volume.zarr").shape
        (10, 32, 40)
    """
    path = located("path", path)
    if not is_zarr(path):
        raise FileError(f"path: {str(path)!r} is not a zarr store, accepted: a folder with one")
    with translating(path, "zarr"):
        found = zarr_library().open(str(path), mode="r")
        levels = None if key is not None or not hasattr(found, "keys") else scene_of(path, found)
        array = found[levels[0]] if levels is not None else _array(path, found, key)
        whole = tuple(slice(0, int(n)) for n in array.shape)
        if levels is None:
            return ZarrVolume(path, array, whole)
        return _placed(ZarrVolume(path, array, whole), levels[1], {"c": channel, "t": time})


def zarr_library() -> Any:
    """Return the package zarr; raise if it is not installed."""
    try:
        import zarr
    except ImportError:
        raise FileError(
            "path: zarr stores need the package zarr: pip install 'wellposed[zarr]'"
        ) from None
    return zarr


def _array(path: Path, found: Any, key: str | None) -> Any:
    """Return the array of a key, or the only one."""
    if not hasattr(found, "keys"):
        require(key is None, "key", key, f"None, as {path.name} is one array")
        return found
    names = sorted(name for name, _ in found.arrays())
    if key is None and len(names) == 1:
        key = names[0]
    chosen = found.get(key) if key is not None else None
    if not hasattr(chosen, "chunks"):
        got = "several arrays" if key is None else f"no array {key!r}"
        raise FileError(f"key: {path.name} has {got}, it contains: {', '.join(names) or 'none'}")
    return chosen


def _placed(volume: ZarrVolume, scene: Scene, chosen: Mapping[str, int | None]) -> ZarrVolume:
    """Return the volume of the chosen channel and time."""
    if len(scene.axes) != len(volume.box):
        raise ShapeError(
            f"path: {volume.path.name} has an array of {len(volume.box)} axes, but its metadata "
            f"name {len(scene.axes)}"
        )
    names = {"c": "channel", "t": "time"}
    box, leading = list(volume.box), len(scene.axes) - len(scene.space)
    for place, axis in enumerate(scene.axes[:leading]):
        count, index = box[place].stop, chosen.get(axis)
        index = 0 if index is None and count == 1 else index
        require(index is not None and 0 <= index < count, names[axis], index, f"0 to {count - 1}")
        assert index is not None
        box[place] = slice(index, index + 1)
    return replace(volume, box=tuple(box), scene=scene, leading=leading)


@checked
def write_zarr(
    path: str | Path,
    volume: Tensor | np.ndarray | Iterator[Tensor | np.ndarray],
    reference: ZarrVolume | None = None,
) -> None:
    """Write an image or a volume in float32, with the chunks and metadata of the reference.

    Args:
        path: the folder of the store; an existing store is replaced.
        volume: real values of the shape of the reference; axes of length one may be missing or
            additional. Or an iterator of slabs of them, in order along the first axis, of which
            only one is in memory at a time.
        reference: the loaded store; without it a plain array of version 3 is written.

    Raises:
        DtypeError, ShapeError, NonFiniteError: the volume is not real, finite and of the shape of
            the reference.
        FileError: the store cannot be written, or zarr is not installed.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> slabs = (np.full((2, 32, 40), float(k)) for k in range(5))  # one in memory at a time
        >>> datasets.write_zarr("volume.zarr", np.ones((10, 32, 40)))
        >>> datasets.write_zarr("brighter.zarr", slabs, datasets.load_zarr("volume.zarr"))
    """
    path, _ = require_path("path", path), zarr_library()
    require(not path.exists() or is_zarr(path), "path", str(path), "a new folder, or a store")
    whole = isinstance(volume, Tensor | np.ndarray)
    require(whole or isinstance(volume, Iterator), "volume", volume, "an array or an iterator")
    require(whole or reference is not None, "reference", reference, "a ZarrVolume for slabs")
    shape = reference.shape if reference is not None else tuple(volume.shape)  # type: ignore[union-attr]
    with replacing_folder(path) as part, translating(part, "zarr", "write"):
        target = created(part, shape, reference)
        parts = _slabs(volume, shape, target.chunks[0]) if whole else volume  # type: ignore[arg-type]
        end = 0
        for slab in parts:
            first, end = end, end + _thickness(slab, shape)
            require(end <= shape[0], "volume", f"{end} slices or more", f"{shape[0]}")
            target[first:end] = as_stored(slab, (end - first, *shape[1:])).astype(np.float32)
        require(end == shape[0], "volume", f"{end} slices", f"{shape[0]} as of the reference")


def created(
    path: Path,
    shape: Sequence[int],
    like: ZarrVolume | None = None,
    chunks: Sequence[int] | None = None,
    kind: np.dtype | str = "float32",
) -> Any:
    """Return a new array in a store with the metadata of another, by default with its chunks."""
    library, version = zarr_library(), 3 if like is None else int(like.array.metadata.zarr_format)
    if chunks is None:
        chunks = like.chunks if like is not None else (SLAB, *shape[1:])
    fitting = tuple(min(n, size) for n, size in zip(chunks, shape, strict=True))
    settings: dict[str, Any] = {
        "shape": tuple(shape),
        "chunks": fitting,
        "dtype": kind,
        "fill_value": 0,
    }
    if version == 2:  # as OME-NGFF wants it
        settings["chunk_key_encoding"] = {"name": "v2", "separator": "/"}
    if like is None or like.scene is None:
        return library.create_array(str(path), zarr_format=version, **settings)
    group = library.create_group(str(path), zarr_format=version)
    group.attrs.update(described(like.scene, path.name, version))
    if version == 3:
        settings["dimension_names"] = like.scene.space
    return group.create_array("0", **settings)


def _slabs(
    volume: Tensor | np.ndarray, shape: Sequence[int], thickness: int
) -> Iterator[Tensor | np.ndarray]:
    """Yield the slabs of a volume, after a check of its shape."""
    if [n for n in volume.shape if n != 1] != [n for n in shape if n != 1]:
        raise ShapeError(
            f"volume: got shape {tuple(volume.shape)}, accepted: {tuple(shape)} as for the "
            "reference"
        )
    whole = torch.as_tensor(volume).reshape(tuple(shape))
    for first in range(0, shape[0], thickness):
        yield whole[first : first + thickness]


def _thickness(slab: Tensor | np.ndarray, shape: Sequence[int]) -> int:
    """Return the number of slices of a slab."""
    return max(1, math.prod(slab.shape) // math.prod(shape[1:]))
