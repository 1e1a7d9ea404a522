"""Image files for training, read on demand and held out by slab, file or patient."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from wellposed.datasets.files import (
    IMAGE_SUFFIXES,
    KEYED_SUFFIXES,
    READABLE_SUFFIXES,
    image_shape,
    read_array,
    suffix_of,
)
from wellposed.datasets.volumes.dicom import DICOM_SUFFIX, read_dicom_series
from wellposed.errors import FileError, ShapeError, require

CACHE_BYTES = 4 * 2**30


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How stored arrays are converted to images in about [0, 1].

    Args:
        key: data set inside HDF5 and MAT files; by default the largest.
        group_key: data set in the same file with one entry per slice, e.g. the patient's name;
            slices of one group are never divided between training and held-out data.
        channel_axis: channel axis of arrays (-1 for an (H, W, C) cube); ``None`` for
            single-channel slices (H, W) or volumes (D, H, W).
        window: stored values that become 0 and 1, e.g. (-1000, 1000) HU; others are clipped.
        percentile: percentile of the positive values that becomes 1 (99.8 suits MRI magnitudes in
            arbitrary units).
    """

    key: str | None = None
    group_key: str | None = None
    channel_axis: int | None = None
    window: tuple[float, float] | None = None
    percentile: float | None = None

    def __post_init__(self) -> None:
        one = self.window is None or self.percentile is None
        require(one, "window", self.window, "None with a percentile")
        if self.window is not None:
            low, high = self.window
            require(
                -np.inf < low < high < np.inf, "window", self.window, "(low, high) with low < high"
            )
        percentile = self.percentile is None or 0 < self.percentile <= 100
        require(percentile, "percentile", self.percentile, "None, or a number in (0, 100]")

    def read(self, path: Path) -> np.ndarray:
        """Return the images of a file as float32 (D, H, W, C).

        Raises:
            FileError: the file is unreadable, complex, not finite, or cannot be scaled.
            ShapeError: neither an image nor a volume.
        """
        stored = read_dicom_series(path).values if path.is_dir() else read_array(path, self.key)
        if stored.dtype.kind not in "biuf":
            raise FileError(f"data: {str(path)!r} has {stored.dtype}, accepted: real numbers")
        images = _as_stack(stored.astype(np.float32), path, self.channel_axis)
        if not np.isfinite(images).all():
            raise FileError(f"data: {str(path)!r} contains NaN or infinite values")
        if self.window is not None:
            low, high = self.window
            return ((images - low) / (high - low)).clip(0, 1)
        if self.percentile is not None:
            if not (images > 0).any():
                raise FileError(f"data: {str(path)!r} has no positive value to scale by")
            images /= np.percentile(images[images > 0], self.percentile)
        return images

    def labels(self, path: Path, depth: int) -> np.ndarray:
        """Return the values of the group key: numbers or text (D,), one per slice.

        Raises:
            FileError: not an HDF5 or MAT file, or no such key.
            ShapeError: not one label per slice.
        """
        if suffix_of(path) not in KEYED_SUFFIXES:
            accepted = ", ".join(KEYED_SUFFIXES)
            raise FileError(f"group_key: {path.name} has no keys, accepted: {accepted} files")
        stored = read_array(path, self.group_key, min_axes=1)
        labels = np.atleast_1d(stored.squeeze())  # MATLAB stores vectors as (1, D)
        if labels.shape != (depth,):
            raise ShapeError(
                f"group_key: {self.group_key!r} in {path.name} has shape {stored.shape}, "
                f"accepted: ({depth},), one entry per slice"
            )
        texts = [v.decode() if isinstance(v, bytes) else v for v in labels.tolist()]
        return np.array(texts)


def _as_stack(array: np.ndarray, path: Path, channel_axis: int | None) -> np.ndarray:
    """Convert an image (H, W[, 3]), volume (D, H, W) or array with channels to (D, H, W, C)."""
    if suffix_of(path) in IMAGE_SUFFIXES:
        return array[None] if array.ndim == 3 else array[None, :, :, None]
    if channel_axis is not None:
        if array.ndim not in (3, 4) or not -array.ndim <= channel_axis < array.ndim:
            raise ShapeError(
                f"data: {path.name} has an array of shape {array.shape}, accepted with "
                f"channel_axis {channel_axis}: an image or a volume with that axis"
            )
        array = np.ascontiguousarray(np.moveaxis(array, channel_axis, -1))
        return array[None] if array.ndim == 3 else array
    if array.ndim not in (2, 3):
        raise ShapeError(
            f"data: {path.name} has an array of {array.ndim} axes, accepted: 2 or 3 axes; "
            "for channels set channel_axis"
        )
    return array[None, :, :, None] if array.ndim == 2 else array[..., None]


@dataclass(frozen=True)
class Stack:
    """Consecutive slices of a file of a collection.

    Attributes:
        collection: the collection.
        index: index of the file.
        rows: the slices, along the first axis.
    """

    collection: "Collection"
    index: int
    rows: slice

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, C)."""
        _, *image = self.collection.shapes[self.index]
        return (self.rows.stop - self.rows.start, *image)

    @property
    def name(self) -> str:
        """Name of the file, with the rows unless they are all."""
        whole = self.share == 1
        rows = "" if whole else f"[{self.rows.start}:{self.rows.stop}]"
        return f"{self.collection.files[self.index].name}{rows}"

    @property
    def share(self) -> float:
        """The share of its file."""
        return self.shape[0] / self.collection.shapes[self.index][0]

    def array(self) -> np.ndarray:
        """Return the slices, float32 (D, H, W, C)."""
        return self.collection.array(self.index)[self.rows]


@dataclass
class Collection:
    """Image files, cached in memory as far as they fit.

    Args:
        paths: files, or folders with files; a folder of DICOM files is one volume. Duplicates are
            ignored.
        reading: conversion of arrays to images.
        cache_bytes: memory for cached images; others are read again when needed.

    Raises:
        FileError: no readable files.
        ShapeError: files with different channels; names one.
    """

    paths: Sequence[str | Path]
    reading: Reading = field(default_factory=Reading)
    cache_bytes: int = CACHE_BYTES
    files: list[Path] = field(init=False)
    shapes: list[tuple[int, int, int, int]] = field(init=False)
    _cache: dict[int, np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        found = [file for path in self.paths for file in find_files(Path(path))]
        # A duplicate file could be both held out and trained on.
        self.files = list({file.resolve(): file for file in found}.values())
        if not self.files:
            raise FileError(f"data: no image files in {', '.join(map(str, self.paths))}")
        self.shapes = [self._shape(index) for index in range(len(self.files))]
        for file, shape in zip(self.files, self.shapes, strict=True):
            if shape[-1] != self.shapes[0][-1]:
                raise ShapeError(
                    f"data: {file.name} has {shape[-1]} channels, accepted: "
                    f"{self.shapes[0][-1]} as for {self.files[0].name}"
                )

    def _shape(self, index: int) -> tuple[int, int, int, int]:
        file = self.files[index]
        if suffix_of(file) in IMAGE_SUFFIXES:  # known without decoding the pixels
            return (1, *image_shape(file))
        return self.array(index).shape

    def array(self, index: int) -> np.ndarray:
        """Return the images of a file, float32 (D, H, W, C)."""
        if index in self._cache:
            return self._cache[index]
        images = self.reading.read(self.files[index])
        if sum(a.nbytes for a in self._cache.values()) + images.nbytes <= self.cache_bytes:
            self._cache[index] = images
        return images

    def whole(self) -> list[Stack]:
        """Return every file as one stack."""
        return [Stack(self, i, slice(0, depth)) for i, (depth, *_) in enumerate(self.shapes)]

    def split(self, fraction: float) -> tuple[list[Stack], list[Stack]]:
        """Split into training and held-out stacks, always in the same way.

        With a group key every ``1 / fraction``-th group is held out; at least two groups are
        needed. Otherwise a slab of ``fraction`` of the first axis of thick volumes is held out, at
        a third of the axis (ends of scans are often empty). Of thin volumes and images every
        ``1 / fraction``-th is held out, at least one of two; a single image is used for both.

        Raises:
            ArgumentError: the fraction is not in (0, 0.5), or there is only one group.
        """
        require(0 < fraction < 0.5, "fraction", fraction, "a number in (0, 0.5)")
        by_group = self.reading.group_key is not None
        flags = self._held_groups(fraction) if by_group else self._held_places(fraction)
        train: list[Stack] = []
        held: list[Stack] = []
        for index, is_held in enumerate(flags):
            for rows in _runs(is_held):
                (held if is_held[rows.start] else train).append(Stack(self, index, rows))
        return train, held or train[-1:]

    def _held_groups(self, fraction: float) -> list[np.ndarray]:
        """Return masks (D,) of the slices of held-out groups, for every file."""
        depths = [depth for depth, *_ in self.shapes]
        labels = [self.reading.labels(*each) for each in zip(self.files, depths, strict=True)]
        # Numbered over all files, as a patient may be in several.
        groups = np.unique(np.concatenate(labels), return_inverse=True)[1]
        count = int(groups.max()) + 1
        require(count > 1, "group_key", "one group", "a key with two or more groups")
        every = max(2, min(round(1 / fraction), count))
        return np.split(groups % every == every - 1, np.cumsum(depths)[:-1])

    def _held_places(self, fraction: float) -> list[np.ndarray]:
        """Return masks (D,) of the slices held out without groups, for every file."""
        flags = [np.zeros(depth, bool) for depth, *_ in self.shapes]
        thin = [flag for flag in flags if round(fraction * len(flag)) < 1]
        every = max(2, min(round(1 / fraction), len(thin)))
        for flag in thin[every - 1 :: every]:
            flag[:] = True
        for flag in flags:
            start = max(1, len(flag) // 3)
            flag[start : start + round(fraction * len(flag))] = True
        return flags


def _runs(flags: np.ndarray) -> list[slice]:
    """Return the runs of equal flags."""
    edges = [0, *(np.flatnonzero(np.diff(flags)) + 1), len(flags)]
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def find_files(path: Path) -> list[Path]:
    """Return a file, or the readable files in a folder and below; DICOM folders stay folders."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file())
    series = {p.parent for p in files if suffix_of(p) == DICOM_SUFFIX}
    return sorted({*series, *(p for p in files if suffix_of(p) in READABLE_SUFFIXES)})
