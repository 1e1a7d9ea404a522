"""Random training crops from photographs, slices and volumes, reproducible in every step."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.errors import ShapeError, require, require_choice
from wellposed.operators.companding import compand

FLIPS = {"all": (0, 1), "sideways": (1,), "none": ()}
"""Axes of images, rows and columns, that may be reversed."""


class Images(Protocol):
    """A stack of images for crops; see `image_files.Stack`."""

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, C)."""

    @property
    def share(self) -> float:
        """The share of its file."""

    @property
    def group(self) -> str | None:
        """The patient whose they are, where one is named."""

    @property
    def ordered(self) -> bool:
        """Whether they are a volume, whose slices may be taken across other axes too."""

    @property
    def valid(self) -> np.ndarray:
        """The rectangle of every slice that crops may show, (D, 4): y0, y1, x0, x1."""

    @property
    def name(self) -> str:
        """Name in error messages."""

    def array(self) -> np.ndarray:
        """Return the images, float32 (D, H, W, C), about [0, 1], or [-1, 1] if signed."""


@dataclass
class Crops:
    """Draws augmented crops from stacks of images.

    Crops depend only on ``item``, ``step`` and ``seed``, so that resumed training, and training on
    several processes, uses the same crops as an uninterrupted single process.

    Args:
        stacks: images (D, H, W, C) of intensities in about [0, 1]; a photograph has D = 1.
        size: largest width of the crops in pixels; all images must be at least as large.
        aspect: height over width of the crops.
        axes: axes of a volume perpendicular to its slices; (0,) for stacks and images.
            Of unordered slices it is 0 alone.
        zoom: range of random magnifications.
        flips: flips used for augmentation: ``all`` (square crops are also transposed),
            ``sideways`` or ``none``.
        gain: range of random intensity factors.
        polarity: multiply by -1 at random (signals).
        companding: mu of the mu-law for linear RF, applied after gain and polarity, with values
            beyond 1 clipped; 0 for none.
        complex_phase: multiply magnitudes by a random smooth phase; real and imaginary part become
            two channels (MRI).
        foreground: mean magnitude below which a crop counts as empty and is usually redrawn.

    Raises:
        ShapeError: images are too small for the crops, or have unsuitable channels; names the
            file.
    """

    stacks: Sequence[Images]
    size: int = 64
    _: KW_ONLY
    aspect: float = 1.0
    axes: tuple[int, ...] = (0,)
    zoom: tuple[float, float] = (1.0, 1.0)
    flips: str = "all"
    gain: tuple[float, float] = (1.0, 1.0)
    polarity: bool = False
    companding: float = 0.0
    complex_phase: bool = False
    foreground: float = 0.0
    _weights: np.ndarray = field(init=False, repr=False)

    def __post_init__(self) -> None:
        require(len(self.stacks) > 0, "stacks", self.stacks, "at least one stack of images")
        require_choice("flips", self.flips, FLIPS)
        self._check_sizes()
        self._check_channels()
        self._weights = _weights(self.stacks)

    def _axes(self, stack: Images) -> tuple[int, ...]:
        return self.axes if stack.ordered else (0,)

    def _smallest(self, stack: Images, axis: int) -> tuple[int, ...]:
        """Return the smallest measured sides of the slices across an axis."""
        if stack.ordered:
            return tuple(n for i, n in enumerate(stack.shape[:3]) if i != axis)
        return tuple((stack.valid[:, 1::2] - stack.valid[:, ::2]).min(0).tolist())

    def _check_sizes(self) -> None:
        needed = [side / self.zoom[1] for side in self.sides(self.size)]
        for stack in self.stacks:
            for axis in self._axes(stack):
                slices = self._smallest(stack, axis)
                if any(n < least for n, least in zip(slices, needed, strict=True)):
                    across = f" across axis {axis}" if self.axes != (0,) else ""
                    height, width = self.sides(self.size)
                    raise ShapeError(
                        f"size: got crops of {height} x {width} pixels (zoom up to "
                        f"{self.zoom[1]}), but {stack.name} has slices{across} of {slices[0]} x "
                        f"{slices[1]}; use a smaller size or larger images"
                    )

    def _check_channels(self) -> None:
        accepted = 1 if self.complex_phase else self.channels
        for stack in self.stacks:
            if stack.shape[-1] != accepted:
                why = "with complex_phase" if self.complex_phase else "as for the other files"
                raise ShapeError(
                    f"stacks: {stack.name} has {stack.shape[-1]} channels, accepted: "
                    f"{accepted}, {why}"
                )

    @property
    def channels(self) -> int:
        """Number of real channels of a crop."""
        return 2 if self.complex_phase else int(self.stacks[0].shape[-1])

    def sides(self, width: int) -> tuple[int, int]:
        """Return (H, W) of crops of a width."""
        return round(self.aspect * width), width

    def batch(self, items: range, seed: int, step: int, size: int | None = None) -> Tensor:
        """Return float32 crops (len(items), C, H, W), which depend only on item, seed and step.

        Args:
            items: numbers of the crops.
            seed: seed of the run.
            step: step of the run.
            size: width of the crops; the largest by default.
        """
        return torch.stack([self._item(seed, step, item, size or self.size) for item in items])

    def _item(self, seed: int, step: int, item: int, size: int) -> Tensor:
        rng = np.random.default_rng((seed, step, item))
        crop = self._crop(rng, self.sides(size)) * float(rng.uniform(*self.gain))
        if self.polarity and rng.random() < 0.5:
            crop = -crop
        if self.companding > 0:
            crop = compand(crop.clamp(-1, 1), self.companding)
        return _with_phase(crop, rng) if self.complex_phase else crop

    def _crop(self, rng: np.random.Generator, sides: tuple[int, int]) -> Tensor:
        for attempt in range(8):
            window = self._window(rng, sides)
            seen = np.abs(window).mean() >= self.foreground
            if seen or (attempt == 0 and rng.random() < 0.05):
                break
        image = torch.from_numpy(np.ascontiguousarray(window)).permute(2, 0, 1)[None]
        if window.shape[:2] != sides:
            image = F.interpolate(
                image, sides, mode="bicubic", antialias=True, align_corners=False
            )
        return image[0]

    def _window(self, rng: np.random.Generator, sides: tuple[int, int]) -> np.ndarray:
        stack = self.stacks[rng.choice(len(self.stacks), p=self._weights)]
        volume = stack.array()
        axis = int(rng.choice(self._axes(stack)))
        index = int(rng.integers(volume.shape[axis]))
        image = volume[(slice(None),) * axis + (index,)]
        if not stack.ordered:
            y0, y1, x0, x1 = stack.valid[index]
            image = image[y0:y1, x0:x1]
        # Images too small for the magnification get a larger one.
        fits = max(side / n for side, n in zip(sides, image.shape[:2], strict=True))
        zoom = max(rng.uniform(*self.zoom), fits)
        height, width = (round(side / zoom) for side in sides)
        top = rng.integers(image.shape[0] - height + 1)
        left = rng.integers(image.shape[1] - width + 1)
        window = image[top : top + height, left : left + width]
        for flip in FLIPS[self.flips]:
            window = np.flip(window, flip) if rng.random() < 0.5 else window
        turned = self.flips == "all" and height == width and rng.random() < 0.5
        return window.transpose(1, 0, 2) if turned else window


def _weights(stacks: Sequence[Images]) -> np.ndarray:
    """Return how often each stack is drawn from.

    Patients, and files where no patients are named, count by the square root of their size, which
    keeps large volumes from drowning small ones; all slices of one count alike.
    """
    voxels = np.array([float(np.prod(s.shape[:3])) for s in stacks])
    whole = voxels / np.array([s.share for s in stacks])
    groups = [s.group for s in stacks]
    for group in {*groups} - {None}:
        ours = np.array([g == group for g in groups])
        whole[ours] = voxels[ours].sum()
    weights: np.ndarray = voxels / np.sqrt(whole)
    weights /= weights.sum()
    return weights


def central_crop(image: Tensor, size: int) -> Tensor:
    """Return the central square of images (..., H, W)."""
    top, left = ((n - size) // 2 for n in image.shape[-2:])
    return image[..., top : top + size, left : left + size]


def random_phase(images: Tensor, seed: int) -> Tensor:
    """Return magnitudes (B, C, H, W) as complex images with a random smooth phase per item."""
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
