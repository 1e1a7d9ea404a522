"""Image files for training, read on demand and held out by slab, file or patient."""

import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np

from wellposed.datasets.checks import located
from wellposed.datasets.files import READABLE_SUFFIXES, report_skipped, suffix_of
from wellposed.datasets.images.photograph import PHOTOGRAPH_SUFFIXES, photograph_shape
from wellposed.datasets.images.reading import FAR, Reading, has_keys
from wellposed.datasets.images.shards import is_shard, unpacked
from wellposed.datasets.patterns import matched
from wellposed.datasets.volumes.dicom_frames import is_dicom
from wellposed.datasets.volumes.zarr_stores import is_zarr
from wellposed.errors import FileError, ShapeError, WellposedError, require, warn

CACHE_BYTES = 4 * 2**30
FEW = 16
"""Number of arrays whose brightness is looked at."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stack:
    """Consecutive slices of a file of a collection.

    Attributes:
        collection: the collection.
        index: index of the file.
        rows: the slices, along the first axis.
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
        """Name of the file, with the rows unless they are all."""
        whole = self.share == 1
        rows = "" if whole else f"[{self.rows.start}:{self.rows.stop}]"
        return f"{self.collection.files[self.index].name}{rows}"

    @property
    def share(self) -> float:
        """The share of its file."""
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
    """Image files, cached in memory as far as they fit.

    Args:
        paths: files, folders with files, or patterns; a folder of DICOM files is one volume, a tar
            file as of webdataset a folder. Duplicates are ignored.
        reading: conversion of arrays to images.
        cache_bytes: memory for cached images; others are read again when needed.
        skip_broken: leave out files that cannot be read, each with a warning; all are then read
            at once, to tell.

    Raises:
        FileError: no readable files.
        ShapeError: files with different channels; names one.
    """

    paths: Sequence[str | Path]
    reading: Reading = field(default_factory=Reading)
    cache_bytes: int = CACHE_BYTES
    skip_broken: bool = False
    files: list[Path] = field(init=False)
    shapes: list[tuple[int, int, int, int]] = field(init=False)
    _cache: dict[int, np.ndarray] = field(init=False, default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        named = (located("data", path) for path in matched("data", self.paths))
        found = [file for path in named for file in find_files(path)]
        # A duplicate file could be both held out and trained on.
        self.files = list({file.resolve(): file for file in found}.values())
        if not self.files:
            raise FileError(f"data: no image files in {', '.join(map(str, self.paths))}")
        if self.skip_broken:
            self.files = [file for file in self.files if self._is_whole(file)]
            require(len(self.files) > 0, "skip_broken", True, "a file that can be read")
        self.shapes = [self._shape(index) for index in range(len(self.files))]
        for file, shape in zip(self.files, self.shapes, strict=True):
            if shape[-1] != self.shapes[0][-1]:
                raise ShapeError(
                    f"data: {file.name} has {shape[-1]} channels, accepted: "
                    f"{self.shapes[0][-1]} as for {self.files[0].name}; or set channels to 1 or "
                    "3, to which photographs are then converted"
                )
        self._warn_if_dark()

    def _warn_if_dark(self) -> None:
        """Warn if the first arrays are far below the range, as those in another unit are."""
        wanted = self.reading.data_range
        if wanted is None:
            return
        tops = [
            float(np.abs(self.array(n)).max())
            for n, file in enumerate(self.files[:FEW])
            if suffix_of(file) not in PHOTOGRAPH_SUFFIXES
        ]
        top = max(tops, default=math.inf)
        if top < max(map(abs, wanted)) / FAR:
            warn(
                f"data: {self.files[0].name} and others have values to {top:.4g}, training "
                f"expects {wanted[0]:g} to {wanted[1]:g}; set window or percentile to scale them"
            )

    def _is_whole(self, file: Path) -> bool:
        try:
            self.reading.read(file)
        except WellposedError as error:
            _log.warning("skipped %s: %s", file, error)
            return False
        return True

    def _shape(self, index: int) -> tuple[int, int, int, int]:
        file = self.files[index]
        if suffix_of(file) in PHOTOGRAPH_SUFFIXES:  # known without decoding the pixels
            *sides, channels = photograph_shape(file)
            return (1, sides[0], sides[1], self.reading.channels or channels)
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
        """Return masks (D,) of the slices of held-out groups, for every file."""
        # Numbered over all files, as a patient may be in several.
        groups = np.unique(np.concatenate(self._groups), return_inverse=True)[1]
        count = int(groups.max()) + 1
        require(count > 1, "group_key", "one group", "a key with two or more groups")
        every = max(2, min(round(1 / fraction), count))
        ends = np.cumsum([depth for depth, *_ in self.shapes])
        return np.split(groups % every == every - 1, ends[:-1])

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


def _runs(labels: np.ndarray) -> list[slice]:
    """Return the runs of equal labels."""
    edges = [0, *(np.flatnonzero(labels[1:] != labels[:-1]) + 1), len(labels)]
    return [slice(int(a), int(b)) for a, b in itertools.pairwise(edges)]


def _below(folder: Path) -> Iterator[Path]:
    """Yield the files and zarr stores in a folder and below."""
    for path in folder.iterdir():
        if path.is_file() or is_zarr(path):
            yield path
        elif path.is_dir() and not path.is_symlink():
            yield from _below(path)


def find_files(path: Path) -> list[Path]:
    """Return a file, or the readable files in a folder and below.

    DICOM folders and zarr stores stay folders; tar files are unpacked, see `shards`.

    A warning lists the others; hidden files do not count.
    """
    if is_shard(path):
        return find_files(unpacked(path))
    if not path.is_dir() or is_zarr(path):
        return [path]
    files = sorted(p for p in _below(path) if p.name[0] != ".")
    read = {p for p in files if suffix_of(p) in READABLE_SUFFIXES or p.is_dir()}
    series = {p.parent for p in {*files}.difference(read) if is_dicom(p)}
    headers = {p.with_suffix(".hdr") for p in read if suffix_of(p) == ".cfl"}
    shards = [p for p in files if is_shard(p)]
    known = read | headers | {*shards}
    report_skipped(path, [p for p in files if p not in known and p.parent not in series])
    inside = (file for shard in shards for file in find_files(unpacked(shard)))
    return sorted({*series, *read, *inside})
