"""How stored arrays become images for training."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from wellposed.datasets.files import KEYED_SUFFIXES, read_array, suffix_of
from wellposed.datasets.images.photograph import PHOTOGRAPH_SUFFIXES
from wellposed.datasets.volumes.dicom import read_dicom_series
from wellposed.datasets.volumes.zarr_stores import is_zarr
from wellposed.errors import FileError, ShapeError, require

BRIGHTNESS = np.array([0.299, 0.587, 0.114], np.float32)
"""Weights of red, green and blue in the brightness of a colour, ITU-R 601."""

FAR = 10.0
"""How many times larger or smaller than the range images are suspected to be misscaled."""


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How stored arrays become images of about [0, 1].

    Args:
        key: the data set inside HDF5 and MAT files; the largest by default.
        group_key: a vector in the same file with one entry per slice (a patient's name, say);
            slices of one group are never split between training and held-out data. A file
            without keys is a group of its own.
        channel_axis: axis of the channels of arrays (-1 for an (H, W, C) cube); ``None`` for
            single-channel slices (H, W) or volumes (D, H, W).
        window: stored values mapped to 0 and 1, such as (-1000, 1000) HU; others are clipped.
        percentile: percentile of the positive values that is mapped to 1, volume by volume (99.8
            suits MRI magnitudes in arbitrary units).
        volume_key: a vector in the same file with one entry per slice that names its volume; a
            file without it is one volume.
        channels: number of channels, 1 or 3, to which photographs are converted; unchanged by
            default.
        valid_key: an array (D, 4) in the same file: the measured rectangle of each slice,
            ``y0, y1, x0, x1`` with rows y0 to y1 - 1 and columns x0 to x1 - 1.
        data_range: values that the images are meant to have; files far from it are refused, by
            default none.
    """

    key: str | None = None
    group_key: str | None = None
    channel_axis: int | None = None
    window: tuple[float, float] | None = None
    percentile: float | None = None
    volume_key: str | None = None
    valid_key: str | None = None
    channels: int | None = None
    data_range: tuple[float, float] | None = None

    def __post_init__(self) -> None:
        one = self.window is None or self.percentile is None
        require(one, "window", self.window, "None with a percentile")
        if self.window is not None:
            low, high = self.window
            accepted = "(low, high) with low < high"
            require(-np.inf < low < high < np.inf, "window", self.window, accepted)
        percentile = self.percentile is None or 0 < self.percentile <= 100
        require(percentile, "percentile", self.percentile, "None, or a number in (0, 100]")
        require(self.channels in (None, 1, 3), "channels", self.channels, "None, 1 or 3")

    def read(self, path: Path) -> np.ndarray:
        """Return the images of a file as float32 (D, H, W, C).

        Raises:
            FileError: the file is unreadable, or its values are complex, not finite, or without
                a positive value to scale by, or far outside ``data_range``.
            ShapeError: it has neither an image nor a volume.
        """
        is_series = path.is_dir() and not is_zarr(path)
        stored = read_dicom_series(path).values if is_series else read_array(path, self.key)
        if stored.dtype.kind not in "biuf":
            raise FileError(f"data: {str(path)!r} has {stored.dtype}, accepted: real numbers")
        images = _as_stack(stored.astype(np.float32), path, self.channel_axis)
        images = images if self.channels is None else _converted(images, self.channels, path)
        if not np.isfinite(images).all():
            raise FileError(f"data: {str(path)!r} contains NaN or infinite values")
        if self.window is not None:
            low, high = self.window
            return ((images - low) / (high - low)).clip(0, 1)
        if self.percentile is not None:
            for rows in self._volumes(path, len(images)):
                volume = images[rows]
                if not (volume > 0).any():
                    raise FileError(f"data: {str(path)!r} has no positive value to scale by")
                images[rows] = volume / np.percentile(volume[volume > 0], self.percentile)
        self._check_range(path, images)
        return images

    def _check_range(self, path: Path, images: np.ndarray) -> None:
        """Raise if values are far outside the range, as those in another unit are."""
        if self.data_range is None:
            return
        top, size = float(np.abs(images).max()), max(map(abs, self.data_range))
        if top > FAR * size:
            low, high = self.data_range
            raise FileError(
                f"data: {str(path)!r} has values to {top:.4g}, accepted: about {low:g} to "
                f"{high:g}; set window or percentile to scale them, or another data_range"
            )

    def _volumes(self, path: Path, depth: int) -> list[np.ndarray]:
        """Return a mask over the slices, (D,), for each volume of a file."""
        if self.volume_key is None or not has_keys(path):
            return [np.ones(depth, bool)]
        labels = self.labels(path, depth, "volume_key")
        return [labels == label for label in np.unique(labels)]

    def labels(self, path: Path, depth: int, setting: str = "group_key") -> np.ndarray:
        """Return the labels stored under a key: numbers or text (D,), one per slice.

        Args:
            path: an HDF5 or MAT file.
            depth: its number of slices.
            setting: ``group_key`` or ``volume_key``.

        Raises:
            FileError: the file is not HDF5 or MAT, or lacks the key.
            ShapeError: the number of labels is not that of slices.
        """
        if not has_keys(path):
            accepted = ", ".join(KEYED_SUFFIXES)
            raise FileError(f"{setting}: {path.name} has no keys, accepted: {accepted}")
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
        """Return the measured rectangle of each slice, (D, 4): y0, y1, x0, x1.

        Args:
            path: a file; without keys the whole slice counts as measured.
            shape: (D, H, W, C).

        Raises:
            FileError: the file lacks the key.
            ShapeError: a rectangle is missing, empty or outside its slice.
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


def _converted(images: np.ndarray, channels: int, path: Path) -> np.ndarray:
    """Return grey images as colours, or colours as the grey of their brightness (ITU-R 601)."""
    found = images.shape[-1]
    if found not in (1, 3):
        raise ShapeError(f"channels: {path.name} has {found}, accepted: 1 or 3 to make {channels}")
    if found == channels:
        return images
    return np.repeat(images, 3, -1) if channels == 3 else images @ BRIGHTNESS[:, None]


def _as_stack(array: np.ndarray, path: Path, channel_axis: int | None) -> np.ndarray:
    """Bring an image (H, W[, 3]), a volume (D, H, W) or a channelled array to (D, H, W, C)."""
    if suffix_of(path) in PHOTOGRAPH_SUFFIXES:
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
