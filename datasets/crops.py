"""Random training crops from photographs, slices and volumes, reproducible step by step."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.errors import ShapeError, require


class Images(Protocol):
    """A stack of images that crops are drawn from; see `collection.Stack`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, C)."""

    @property
    def share(self) -> float:
        """The part of its file that this is."""

    @property
    def name(self) -> str:
        """What error messages call it."""

    def array(self) -> np.ndarray:
        """Return the images, float32 (D, H, W, C), about [0, 1]."""


@dataclass
class Crops:
    """Draws augmented crops from stacks of images.

    Crop ``item`` of ``step`` and ``seed`` is always the same, so that a resumed training, and one
    spread over processes, sees the crops an uninterrupted single one would have seen.

    Args:
        stacks: images (D, H, W, C) of intensities about [0, 1]; a photograph has D = 1.
        size: largest side of the crops in pixels, which all images must hold.
        axes: the axes of a volume that slices may be taken across; (0,) for stacks and images.
        zoom: range of random magnifications.
        gain: range of random intensity factors.
        complex_phase: multiply magnitudes by a random smooth phase, real and imaginary part
            becoming two channels (MRI).
        foreground: mean magnitude under which a crop counts as empty and is mostly redrawn.

    Raises:
        ShapeError: images too small for the crops, or of channels that do not fit; names the file.
    """

    stacks: Sequence[Images]
    size: int = 64
    axes: tuple[int, ...] = (0,)
    zoom: tuple[float, float] = (1.0, 1.0)
    gain: tuple[float, float] = (1.0, 1.0)
    complex_phase: bool = False
    foreground: float = 0.0
    _weights: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(len(self.stacks) > 0, "stacks", self.stacks, "at least one stack of images")
        self._check_sizes()
        self._check_channels()
        voxels = np.array([float(np.prod(s.shape[:3])) for s in self.stacks])
        share = np.array([s.share for s in self.stacks])
        # Square roots of a file's size keep one large volume from drowning the small ones.
        weights = share * np.sqrt(voxels / share)
        self._weights = weights / weights.sum()

    def _check_sizes(self) -> None:
        sides = {
            (index, axis): min(n for i, n in enumerate(stack.shape[:3]) if i != axis)
            for index, stack in enumerate(self.stacks)
            for axis in self.axes
        }
        index, axis = min(sides, key=sides.__getitem__)
        smallest, across = sides[index, axis], f" across axis {axis}" if self.axes != (0,) else ""
        if smallest < self.size / self.zoom[1]:
            raise ShapeError(
                f"size: got crops of {self.size} pixels (zoom up to {self.zoom[1]}), but "
                f"{self.stacks[index].name} has slices{across} with a side of {smallest}; take a "
                "smaller size or larger images"
            )

    def _check_channels(self) -> None:
        accepted = 1 if self.complex_phase else self.channels
        for stack in self.stacks:
            if stack.shape[-1] != accepted:
                why = "with complex_phase" if self.complex_phase else "as the others have"
                raise ShapeError(
                    f"stacks: {stack.name} has {stack.shape[-1]} channels, accepted: "
                    f"{accepted}, {why}"
                )

    @property
    def channels(self) -> int:
        """Number of real channels of a crop."""
        return 2 if self.complex_phase else int(self.stacks[0].shape[-1])

    def batch(self, items: range, seed: int, step: int, size: int | None = None) -> Tensor:
        """Return float32 crops (len(items), C, size, size), set by item, seed and step alone."""
        return torch.stack([self._item(seed, step, item, size or self.size) for item in items])

    def _item(self, seed: int, step: int, item: int, size: int) -> Tensor:
        rng = np.random.default_rng((seed, step, item))
        crop = self._crop(rng, size) * float(rng.uniform(*self.gain))
        return _with_phase(crop, rng) if self.complex_phase else crop

    def _crop(self, rng: np.random.Generator, size: int) -> Tensor:
        for attempt in range(8):
            window = self._window(rng, size)
            if window.mean() >= self.foreground or (attempt == 0 and rng.random() < 0.05):
                break
        image = torch.from_numpy(np.ascontiguousarray(window)).permute(2, 0, 1)[None]
        if window.shape[0] != size:
            image = F.interpolate(
                image, (size, size), mode="bicubic", antialias=True, align_corners=False
            )
        return image[0]

    def _window(self, rng: np.random.Generator, size: int) -> np.ndarray:
        volume = self.stacks[rng.choice(len(self.stacks), p=self._weights)].array()
        axis = int(rng.choice(self.axes))
        index = int(rng.integers(volume.shape[axis]))
        image = volume[(slice(None),) * axis + (index,)]
        side = min(round(size / rng.uniform(*self.zoom)), *image.shape[:2])
        top, left = (rng.integers(n - side + 1) for n in image.shape[:2])
        window = image[top : top + side, left : left + side]
        for flip in (0, 1):
            window = np.flip(window, flip) if rng.random() < 0.5 else window
        return window.transpose(1, 0, 2) if rng.random() < 0.5 else window


def central_crop(image: Tensor, size: int) -> Tensor:
    """Return the central square of images (..., H, W)."""
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[..., top : top + size, left : left + size]


def random_phase(images: Tensor, seed: int) -> Tensor:
    """Return magnitudes (B, C, H, W) as complex images of random smooth phase, one per item."""
    phases = [
        _phase(images.shape[-2:], np.random.default_rng((seed, n))) for n in range(len(images))
    ]
    return torch.polar(images, torch.stack(phases).expand_as(images).contiguous())


def _with_phase(magnitude: Tensor, rng: np.random.Generator) -> Tensor:
    """Return the real and imaginary part of a magnitude (1, H, W) with a random phase."""
    phase = _phase(magnitude.shape[-2:], rng)
    return torch.cat([magnitude * phase.cos(), magnitude * phase.sin()])


def _phase(size: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    """Return a smooth random phase (1, H, W): a constant, a ramp and low-frequency waves."""
    height, width = size
    coarse = torch.from_numpy(rng.normal(0, 0.5, (1, 1, 4, 4))).float()
    waves = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)[0]
    y = torch.linspace(-0.5, 0.5, height)[:, None]
    x = torch.linspace(-0.5, 0.5, width)[None, :]
    offset, slope_y, slope_x = (float(rng.normal(0, std)) for std in (4, 1, 1))
    return offset + slope_y * y + slope_x * x + waves
