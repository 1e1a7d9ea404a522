"""Random training crops from photographs, slices and volumes, reproducible step by step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.datasets.files import IMAGE_SUFFIXES, read_array, suffix_of
from wellposed.errors import FileError, ShapeError, require


@dataclass
class Crops:
    """Draws augmented crops from volumes held in memory.

    Crop ``step`` of a given ``seed`` is always the same, so that a resumed training sees the
    batches an uninterrupted one would have seen.

    Args:
        volumes: float32 arrays (D, H, W, C), intensities about [0, 1]; an image has D = 1.
        size: side of the crops in pixels.
        axes: the axes of a volume that slices may be taken across; (0,) for stacks and images.
        zoom: range of random magnifications.
        gain: range of random intensity factors.
        complex_phase: multiply magnitudes by a random smooth phase, real and imaginary part
            becoming two channels (MRI).
        foreground: mean magnitude under which a crop counts as empty and is mostly redrawn.
    """

    volumes: Sequence[np.ndarray]
    size: int = 64
    axes: tuple[int, ...] = (0,)
    zoom: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (1.0, 1.0)
    complex_phase: bool = False
    foreground: float = 0.0
    _weights: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(len(self.volumes) > 0, "volumes", self.volumes, "at least one volume")
        smallest = min(self._slice_sides(v, a) for v in self.volumes for a in self.axes)
        if smallest < self.size / self.zoom[1]:
            raise ShapeError(
                f"size: got crops of {self.size} pixels (zoom up to {self.zoom[1]}), but the "
                f"smallest slice side is {smallest}; take a smaller size or larger images"
            )
        channels = sorted({v.shape[-1] for v in self.volumes})
        if channels != [1] and (self.complex_phase or len(channels) > 1):
            raise ShapeError(
                f"volumes: got images of {' and '.join(map(str, channels))} channels, accepted: "
                + ("1 channel with complex_phase" if self.complex_phase else "all of one kind")
            )
        voxels = np.array([float(v[..., 0].size) for v in self.volumes])
        # Square roots keep one large volume from drowning the small ones.
        self._weights = np.sqrt(voxels) / np.sqrt(voxels).sum()

    @staticmethod
    def _slice_sides(volume: np.ndarray, axis: int) -> int:
        return min(n for i, n in enumerate(volume.shape[:3]) if i != axis)

    @property
    def channels(self) -> int:
        """Number of real channels of a crop."""
        return 2 if self.complex_phase else int(self.volumes[0].shape[-1])

    def batch(self, count: int, seed: int, step: int) -> Tensor:
        """Return float32 crops (count, C, size, size), set by ``seed`` and ``step`` alone."""
        rng = np.random.default_rng((seed, step))
        crops = torch.stack([self._crop(rng) for _ in range(count)])
        crops = crops * torch.from_numpy(rng.uniform(*self.gain, (count, 1, 1, 1))).float()
        return self._with_phase(crops, rng) if self.complex_phase else crops

    def _crop(self, rng: np.random.Generator) -> Tensor:
        for attempt in range(8):
            window = self._window(rng)
            if window.mean() >= self.foreground or (attempt == 0 and rng.random() < 0.05):
                break
        image = torch.from_numpy(np.ascontiguousarray(window)).permute(2, 0, 1)[None]
        if window.shape[0] != self.size:
            image = F.interpolate(
                image, (self.size, self.size), mode="bicubic", antialias=True, align_corners=False
            )
        return image[0]

    def _window(self, rng: np.random.Generator) -> np.ndarray:
        volume = self.volumes[rng.choice(len(self.volumes), p=self._weights)]
        axis = int(rng.choice(self.axes))
        index = int(rng.integers(volume.shape[axis]))
        image = volume[(slice(None),) * axis + (index,)]
        side = min(round(self.size / rng.uniform(*self.zoom)), *image.shape[:2])
        top, left = (rng.integers(n - side + 1) for n in image.shape[:2])
        window = image[top : top + side, left : left + side]
        for flip in (0, 1):
            window = np.flip(window, flip) if rng.random() < 0.5 else window
        return window.transpose(1, 0, 2) if rng.random() < 0.5 else window

    def _with_phase(self, magnitude: Tensor, rng: np.random.Generator) -> Tensor:
        """Attach a smooth random phase: a constant, a ramp and low-frequency waves."""
        count, _, height, width = magnitude.shape
        coarse = torch.from_numpy(rng.normal(0, 0.5, (count, 1, 4, 4))).float()
        waves = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        y = torch.linspace(-0.5, 0.5, height)[:, None]
        x = torch.linspace(-0.5, 0.5, width)[None, :]
        offset, slope_y, slope_x = (
            torch.from_numpy(rng.normal(0, std, (count, 1, 1, 1))).float() for std in (4, 1, 1)
        )
        phase = offset + slope_y * y + slope_x * x + waves
        return torch.cat([magnitude * phase.cos(), magnitude * phase.sin()], 1)


def load_volumes(
    paths: Sequence[str | Path], percentile: float | None = None
) -> tuple[list[np.ndarray], list[str]]:
    """Read photographs, folders of them, and volumes for training.

    Args:
        paths: files, or folders whose image files are taken.
        percentile: divide each volume by this percentile of its positive values (99.8 suits MRI
            magnitudes in arbitrary units); ``None`` keeps the stored values.

    Returns:
        Arrays (D, H, W, C) in float32 and the file names they come from.

    Raises:
        FileError: nothing readable, or complex, non-finite or only zero values in a file.
        ShapeError: an array that is neither an image nor a volume.
    """
    files: list[Path] = []
    for path in map(Path, paths):
        if path.is_dir():
            files += sorted(p for p in path.iterdir() if suffix_of(p) in IMAGE_SUFFIXES)
        else:
            files.append(path)
    if not files:
        raise FileError(f"paths: no image files in {', '.join(map(str, paths))}")
    volumes = []
    for file in files:
        stored = read_array(file)
        if np.iscomplexobj(stored):
            raise FileError(f"paths: {str(file)!r} is complex, accepted: real images")
        array = stored.astype(np.float32)
        if not np.isfinite(array).all():
            raise FileError(f"paths: {str(file)!r} holds NaN or infinite values")
        if percentile is not None:
            if not (array > 0).any():
                raise FileError(f"paths: {str(file)!r} holds no positive value to scale by")
            array /= np.percentile(array[array > 0], percentile)
        volumes.append(np.ascontiguousarray(_as_volume(array, file)))
    return volumes, [file.name for file in files]


def _as_volume(array: np.ndarray, file: Path) -> np.ndarray:
    """Bring an image (H, W[, 3]) or a volume (D, H, W) to (D, H, W, C)."""
    if array.ndim == 2:
        return array[None, :, :, None]
    if array.ndim == 3 and suffix_of(file) in IMAGE_SUFFIXES:
        return array[None]
    if array.ndim == 3:
        return array[..., None]
    raise ShapeError(f"paths: {file.name} holds an array of {array.ndim} axes, accepted: 2 or 3")


def split(
    volumes: Sequence[np.ndarray], fraction: float
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Split volumes into training and held-out ones.

    A thick volume loses a slab of ``fraction`` of its first axis, a third of the way through
    (ends of scans are often empty). Of thin ones (single images) every ``1 / fraction``-th is
    held out whole, at least one of two; a single image serves as both.
    """
    train: list[np.ndarray] = []
    held: list[np.ndarray] = []
    thin = sum(round(fraction * len(volume)) < 1 for volume in volumes)
    every, seen = max(2, min(round(1 / fraction), thin)), 0
    for volume in volumes:
        depth = volume.shape[0]
        slab = round(fraction * depth)
        if slab >= 1:
            start = max(1, depth // 3)
            train += [part for part in (volume[:start], volume[start + slab :]) if len(part)]
            held.append(volume[start : start + slab])
        else:
            seen += 1
            (train if seen % every else held).append(volume)
    return train, held or train[-1:]
