"""Image files for training, read when they are needed and held out by slab, file or patient."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wellposed.datasets.dicom import DICOM_SUFFIX, read_dicom_series
from wellposed.datasets.files import (
    IMAGE_SUFFIXES,
    READABLE_SUFFIXES,
    image_shape,
    read_array,
    suffix_of,
)
from wellposed.errors import FileError, ShapeError, require

CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How stored arrays become images of about [0, 1].

    Args:
        key: the data set inside HDF5 and MAT files; the largest by default.
        group_key: a vector in the same file with one entry per slice (a patient's name, say);
            slices of one group are never split between training and held-out data.
        channel_axis: axis of the channels of arrays (-1 for an (H, W, C) cube); ``None`` where
            arrays are single-channel slices (H, W) or volumes (D, H, W).
        window: stored values mapped to 0 and 1, others clipped, as (-1000, 1000) HU.
        percentile: percentile of the positive values mapped to 1 (99.8 suits MRI magnitudes in
            arbitrary units).
    """

    key: str | None = None
    group_key: str | None = None
    channel_axis: int | None = None
    window: tuple[float, float] | None = None
    percentile: float | None = None

    def __post_init__(self) -> None:
        one = self.window is None or self.percentile is None
        require(one, "window", self.window, "None where a percentile is given")
        if self.window is not None:
            low, high = self.window
            require(
                -np.inf < low < high < np.inf, "window", self.window, "(low, high), low < high"
            )
        percentile = self.percentile is None or 0 < self.percentile <= 100
        require(percentile, "percentile", self.percentile, "None or 0 < percentile <= 100")

    def read(self, path: Path) -> np.ndarray:
        """Return the images of a file as float32 (D, H, W, C).

        Raises:
            FileError: unreadable, complex, non-finite, or nothing to scale by.
            ShapeError: neither an image nor a volume.
        """
        stored = read_dicom_series(path).values if path.is_dir() else read_array(path, self.key)
        if stored.dtype.kind not in "biuf":
            raise FileError(f"data: {str(path)!r} holds {stored.dtype}, accepted: real numbers")
        images = _as_stack(stored.astype(np.float32), path, self.channel_axis)
        if not np.isfinite(images).all():
            raise FileError(f"data: {str(path)!r} holds NaN or infinite values")
        if self.window is not None:
            low, high = self.window
            return ((images - low) / (high - low)).clip(0, 1)
        if self.percentile is not None:
            if not (images > 0).any():
                raise FileError(f"data: {str(path)!r} holds no positive value to scale by")
            images /= np.percentile(images[images > 0], self.percentile)
        return images

    def groups(self, path: Path, depth: int) -> np.ndarray | None:
        """Return the group of each slice of a file, as integers (D,), if a group key is set."""
        if self.group_key is None:
            return None
        labels = read_array(path, self.group_key, min_axes=1)
        if labels.shape != (depth,):
            raise ShapeError(
                f"group_key: {self.group_key!r} in {path.name} has shape {labels.shape}, "
                f"accepted: ({depth},), one entry per slice"
            )
        return np.unique(labels, return_inverse=True)[1]


def _as_stack(array: np.ndarray, path: Path, channel_axis: int | None) -> np.ndarray:
    """Bring an image (H, W[, 3]), a volume (D, H, W) or a channelled array to (D, H, W, C)."""
    if suffix_of(path) in IMAGE_SUFFIXES:
        return array[None] if array.ndim == 3 else array[None, :, :, None]
    if channel_axis is not None:
        if array.ndim not in (3, 4) or not -array.ndim <= channel_axis < array.ndim:
            raise ShapeError(
                f"data: {path.name} holds an array of shape {array.shape}, accepted with "
                f"channel_axis {channel_axis}: an image or a volume with that axis"
            )
        array = np.ascontiguousarray(np.moveaxis(array, channel_axis, -1))
        return array[None] if array.ndim == 3 else array
    if array.ndim not in (2, 3):
        raise ShapeError(
            f"data: {path.name} holds an array of {array.ndim} axes, accepted: 2 or 3; "
            "with channels, set channel_axis"
        )
    return array[None, :, :, None] if array.ndim == 2 else array[..., None]


@dataclass(frozen=True)
class Stack:
    """Some consecutive slices of a file of a collection.

    Attributes:
        collection: where the file is.
        index: which file.
        rows: which slices, along the first axis.
    """

    collection: "Collection"
    index: int
    rows: slice

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, C)."""
        _, *image = self.collection.shapes[self.index]
        return (self.rows.stop - self.rows.start, *image)  # type: ignore[return-value]

    @property
    def share(self) -> float:
        """The part of its file that this is."""
        return self.shape[0] / self.collection.shapes[self.index][0]

    def array(self) -> np.ndarray:
        """Return the slices, float32 (D, H, W, C)."""
        return self.collection.array(self.index)[self.rows]


@dataclass
class Collection:
    """Image files, of which as many are kept in memory as fit.

    Args:
        paths: files, or folders searched for them; a folder of DICOM files is one volume.
        reading: how arrays become images.
        cache_bytes: memory for images that were read; the rest is read again when needed.

    Raises:
        FileError: nothing readable was found.
    """

    paths: Sequence[str | Path]
    reading: Reading = field(default_factory=Reading)
    cache_bytes: int = CACHE_BYTES
    files: list[Path] = field(init=False)
    shapes: list[tuple[int, int, int, int]] = field(init=False)
    _cache: dict[int, np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        self.files = [file for path in self.paths for file in find_files(Path(path))]
        if not self.files:
            raise FileError(f"data: no image files in {', '.join(map(str, self.paths))}")
        self.shapes = [self._shape(index) for index in range(len(self.files))]

    def _shape(self, index: int) -> tuple[int, int, int, int]:
        file = self.files[index]
        if suffix_of(file) in IMAGE_SUFFIXES:  # known without decoding the pixels
            return (1, *image_shape(file))
        return self.array(index).shape  # type: ignore[return-value]

    def array(self, index: int) -> np.ndarray:
        """Return the images of a file, float32 (D, H, W, C)."""
        if index in self._cache:
            return self._cache[index]
        images = self.reading.read(self.files[index])
        if sum(a.nbytes for a in self._cache.values()) + images.nbytes <= self.cache_bytes:
            self._cache[index] = images
        return images

    def split(self, fraction: float) -> tuple[list[Stack], list[Stack]]:
        """Split into training and held-out stacks.

        Where a group key is set, every ``1 / fraction``-th group is held out. Without one, a
        thick volume loses a slab of ``fraction`` of its first axis, a third of the way through
        (ends of scans are often empty), and of thin ones (single images) every
        ``1 / fraction``-th is held out whole, at least one of two; a single image serves as both.
        """
        train: list[Stack] = []
        held: list[Stack] = []
        thin = sum(round(fraction * depth) < 1 for depth, *_ in self.shapes)
        every, seen = max(2, min(round(1 / fraction), thin)), 0
        for index, (depth, *_) in enumerate(self.shapes):
            groups = self.reading.groups(self.files[index], depth)
            slab = round(fraction * depth)
            if groups is not None:
                of_groups = max(2, round(1 / fraction))
                is_held = groups % of_groups == of_groups - 1
            elif slab >= 1:
                start = max(1, depth // 3)
                is_held = np.zeros(depth, bool)
                is_held[start : start + slab] = True
            else:
                seen += 1
                is_held = np.full(depth, seen % every == 0)
            for rows in _runs(is_held):
                (held if is_held[rows.start] else train).append(Stack(self, index, rows))
        return train or held[-1:], held or train[-1:]


def _runs(flags: np.ndarray) -> list[slice]:
    """Return the stretches of equal flags."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1), len(flags)]
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def find_files(path: Path) -> list[Path]:
    """Return a file itself, or the readable files below a folder, DICOM folders as such."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file())
    series = {p.parent for p in files if suffix_of(p) == DICOM_SUFFIX}
    return sorted({*series, *(p for p in files if suffix_of(p) in READABLE_SUFFIXES)})
