"""Image files for training, read when they are needed and held out by slab, file or patient."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
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
    """How stored arrays become images of about [0, 1].

    Args:
        key: the data set inside HDF5 and MAT files; the largest by default.
        group_key: a vector in the same file with one entry per slice (a patient's name, say);
            slices of one group are never split between training and held-out data. Beside files
            that have it, a file without keys is a group of its own.
        channel_axis: axis of the channels of arrays (-1 for an (H, W, C) cube); ``None`` where
            arrays are single-channel slices (H, W) or volumes (D, H, W).
        window: stored values mapped to 0 and 1, others clipped, as (-1000, 1000) HU.
        percentile: percentile of the positive values mapped to 1 (99.8 suits MRI magnitudes in
            arbitrary units), each volume by its own.
        volume_key: a vector as of ``group_key`` that names each slice's volume, where a file
            holds several; a file without keys is one volume.
        valid_key: an array in the same file, (D, 4): first and last but one row, first and last
            but one column of each slice that were measured, ``y0, y1, x0, x1``.
    """

    key: str | None = None
    group_key: str | None = None
    channel_axis: int | None = None
    window: tuple[float, float] | None = None
    percentile: float | None = None
    volume_key: str | None = None
    valid_key: str | None = None

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
            for rows in self._volumes(path, len(images)):
                volume = images[rows]
                if not (volume > 0).any():
                    raise FileError(f"data: {str(path)!r} holds no positive value to scale by")
                images[rows] = volume / np.percentile(volume[volume > 0], self.percentile)
        return images

    def _volumes(self, path: Path, depth: int) -> list[np.ndarray]:
        """Return for each volume of a file which slices are its own, (D,)."""
        if self.volume_key is None or not has_keys(path):
            return [np.ones(depth, bool)]
        labels = self.labels(path, depth, "volume_key")
        return [labels == label for label in np.unique(labels)]

    def labels(self, path: Path, depth: int, setting: str = "group_key") -> np.ndarray:
        """Return the labels that a key names: numbers or text (D,), one per slice.

        Args:
            path: an HDF5 or MAT file.
            depth: its number of slices.
            setting: ``group_key`` or ``volume_key``.

        Raises:
            FileError: not an HDF5 or MAT file, or without that key.
            ShapeError: not one label per slice.
        """
        if not has_keys(path):
            accepted = ", ".join(KEYED_SUFFIXES)
            raise FileError(f"{setting}: {path.name} has no keys, accepted: {accepted} alone")
        key = getattr(self, setting)
        stored = read_array(path, key, min_axes=1)
        labels = np.atleast_1d(stored.squeeze())  # MATLAB has no vectors but (1, D)
        if labels.shape != (depth,):
            raise ShapeError(
                f"{setting}: {key!r} in {path.name} has shape {stored.shape}, "
                f"accepted: ({depth},), one entry per slice"
            )
        texts = [v.decode() if isinstance(v, bytes) else v for v in labels.tolist()]
        return np.array(texts)

    def valid(self, path: Path, shape: tuple[int, ...]) -> np.ndarray:
        """Return the rectangle that was measured of every slice, (D, 4): y0, y1, x0, x1.

        Args:
            path: a file; of one without keys it is the whole slice.
            shape: (D, H, W, C).

        Raises:
            FileError: no such key.
            ShapeError: no rectangles of all slices, or one that is empty or not inside.
        """
        depth, height, width, _ = shape
        if self.valid_key is None or not has_keys(path):
            return np.tile([0, height, 0, width], (depth, 1))
        stored = read_array(path, self.valid_key)
        fits = stored.shape == (depth, 4) and (
            (0 <= stored[:, ::2])
            & (stored[:, ::2] < stored[:, 1::2])
            & (stored[:, 1::2] <= (height, width))
        )
        if not np.all(fits):
            raise ShapeError(
                f"valid_key: {self.valid_key!r} in {path.name} has shape {stored.shape}, "
                f"accepted: ({depth}, 4), y0 < y1 <= {height} and x0 < x1 <= {width}"
            )
        return stored.astype(int)


def has_keys(path: Path) -> bool:
    """Return whether a file is of a kind that names several arrays."""
    return not path.is_dir() and suffix_of(path) in KEYED_SUFFIXES


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
        group: whose they are, as the group key has it.
    """

    collection: "Collection"
    index: int
    rows: slice
    group: str | None = None

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, C)."""
        _, *image = self.collection.shapes[self.index]
        return (self.rows.stop - self.rows.start, *image)

    @property
    def name(self) -> str:
        """The file's name, with the rows taken unless it is whole."""
        whole = self.share == 1
        rows = "" if whole else f"[{self.rows.start}:{self.rows.stop}]"
        return f"{self.collection.files[self.index].name}{rows}"

    @property
    def share(self) -> float:
        """The part of its file that this is."""
        return self.shape[0] / self.collection.shapes[self.index][0]

    @property
    def ordered(self) -> bool:
        """Whether the slices are those of a volume, one behind the other."""
        keys = self.collection.reading.group_key or self.collection.reading.valid_key
        return keys is None or not has_keys(self.collection.files[self.index])

    @cached_property
    def valid(self) -> np.ndarray:
        """The rectangle that was measured of every slice, (D, 4): y0, y1, x0, x1."""
        file, shape = self.collection.files[self.index], self.collection.shapes[self.index]
        return self.collection.reading.valid(file, shape)[self.rows]

    def array(self) -> np.ndarray:
        """Return the slices, float32 (D, H, W, C)."""
        return self.collection.array(self.index)[self.rows]


@dataclass
class Collection:
    """Image files, of which as many are kept in memory as fit.

    Args:
        paths: files, or folders searched for them; a folder of DICOM files is one volume. What
            is found twice counts once.
        reading: how arrays become images.
        cache_bytes: memory for images that were read; the rest is read again when needed.

    Raises:
        FileError: nothing readable was found.
        ShapeError: files of different channels; names one.
    """

    paths: Sequence[str | Path]
    reading: Reading = field(default_factory=Reading)
    cache_bytes: int = CACHE_BYTES
    files: list[Path] = field(init=False)
    shapes: list[tuple[int, int, int, int]] = field(init=False)
    _cache: dict[int, np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        found = [file for path in self.paths for file in find_files(Path(path))]
        # A file named twice could be held out and trained on.
        self.files = list({file.resolve(): file for file in found}.values())
        if not self.files:
            raise FileError(f"data: no image files in {', '.join(map(str, self.paths))}")
        self.shapes = [self._shape(index) for index in range(len(self.files))]
        for file, shape in zip(self.files, self.shapes, strict=True):
            if shape[-1] != self.shapes[0][-1]:
                raise ShapeError(
                    f"data: {file.name} has {shape[-1]} channels, accepted: "
                    f"{self.shapes[0][-1]}, as {self.files[0].name} has"
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

        Where a group key is set, every ``1 / fraction``-th group is held out, of at least two.
        Without one, a thick volume loses a slab of ``fraction`` of its first axis, a third of the
        way through (ends of scans are often empty), and of thin ones (single images) every
        ``1 / fraction``-th is held out whole, at least one of two; a single image serves as both.

        Raises:
            ArgumentError: not 0 < fraction < 0.5, or all slices are of one group.
        """
        require(0 < fraction < 0.5, "fraction", fraction, "between 0 and 0.5")
        by_group = self.reading.group_key is not None
        flags = self._held_groups(fraction) if by_group else self._held_places(fraction)
        train: list[Stack] = []
        held: list[Stack] = []
        for index, is_held in enumerate(flags):
            groups = self._groups[index] if by_group else is_held
            for rows in _runs(groups):
                group = str(groups[rows.start]) if by_group else None
                side = held if is_held[rows.start] else train
                side.append(Stack(self, index, rows, group))
        return train, held or train[-1:]

    @cached_property
    def _groups(self) -> list[np.ndarray]:
        """The group of every slice of every file, (D,)."""
        keyed = [has_keys(file) for file in self.files]
        return [
            self.reading.labels(file, depth)
            if has or not any(keyed)  # which tells that there are no keys
            else np.full(depth, file.name)
            for file, (depth, *_), has in zip(self.files, self.shapes, keyed, strict=True)
        ]

    def _held_groups(self, fraction: float) -> list[np.ndarray]:
        """Return for every file which slices are of held-out groups, (D,)."""
        # Numbered over all files, as a patient may be in several.
        groups = np.unique(np.concatenate(self._groups), return_inverse=True)[1]
        count = int(groups.max()) + 1
        require(count > 1, "group_key", "one group", "a key of two or more groups")
        every = max(2, min(round(1 / fraction), count))
        ends = np.cumsum([depth for depth, *_ in self.shapes])
        return np.split(groups % every == every - 1, ends[:-1])

    def _held_places(self, fraction: float) -> list[np.ndarray]:
        """Return for every file which slices are held out where nothing groups them, (D,)."""
        flags = [np.zeros(depth, bool) for depth, *_ in self.shapes]
        thin = [flag for flag in flags if round(fraction * len(flag)) < 1]
        every = max(2, min(round(1 / fraction), len(thin)))
        for flag in thin[every - 1 :: every]:
            flag[:] = True
        for flag in flags:
            start = max(1, len(flag) // 3)
            flag[start : start + round(fraction * len(flag))] = True
        return flags


def _runs(labels: np.ndarray) -> list[slice]:
    """Return the stretches of equal labels."""
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1), len(labels)]
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def find_files(path: Path) -> list[Path]:
    """Return a file itself, or the readable files below a folder, DICOM folders as such."""
    if not path.is_dir():
        return [path]
    files = sorted(p for p in path.rglob("*") if p.is_file())
    series = {p.parent for p in files if suffix_of(p) == DICOM_SUFFIX}
    return sorted({*series, *(p for p in files if suffix_of(p) in READABLE_SUFFIXES)})
