"""Realistic degradations of photographs: blur, resizing, noise and compression, twice.

This is the model of Wang et al., "Real-ESRGAN: Training Real-World Blind Super-Resolution with
Pure Synthetic Data", 2021, arXiv 2107.10833, with the published probabilities and ranges. All
random choices use the generator passed to the call.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy.special
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import ShapeError, require
from wellposed.operators.image.jpeg import JPEG

Range = tuple[float, float]

SHAPES = ("gaussian", "generalised", "plateau")
SHAPE_ODDS = (0.70, 0.15, 0.15)
ROUND_ODDS = {"gaussian": 0.45 / 0.70, "generalised": 0.12 / 0.15, "plateau": 0.12 / 0.15}
"""Probability that a kernel of each shape is isotropic."""

QUALITY = 30, 95
"""Range of the quality of JPEG files."""

SIZES = tuple(range(7, 22, 2))
"""Sides of the kernels, in pixels."""


@dataclass(frozen=True, kw_only=True)
class Order:
    """Ranges and probabilities of one pass of blur, resizing, noise and compression.

    Attributes:
        blur_odds: probability of a blur.
        blur: standard deviations of the kernels along their axes, in pixels.
        resize: factors of the size.
        resize_odds: probabilities of enlarging, reducing and keeping the size.
        noise: standard deviation of Gaussian noise, in grey levels (255 is white).
        poisson: factor of the Poisson noise of 255 photons.
    """

    blur_odds: float
    blur: Range
    resize: Range
    resize_odds: tuple[float, float, float]
    noise: Range
    poisson: Range


FIRST = Order(
    blur_odds=1.0,
    blur=(0.2, 3.0),
    resize=(0.15, 1.5),
    resize_odds=(0.2, 0.7, 0.1),
    noise=(1, 30),
    poisson=(0.05, 3.0),
)
SECOND = Order(
    blur_odds=0.8,
    blur=(0.2, 1.5),
    resize=(0.3, 1.2),
    resize_odds=(0.3, 0.4, 0.3),
    noise=(1, 25),
    poisson=(0.05, 2.5),
)


@dataclass(frozen=True)
class RealWorld:
    """Degrades a photograph by two passes of blur, resizing, noise and JPEG, and reduces it.

    Args:
        factor: sides of the clean photograph over those of the degraded one.

    Example:
        >>> import numpy as np, torch
        >>> from wellposed import datasets
        >>> degrade = datasets.RealWorld(factor=4)
        >>> degrade(torch.rand(3, 64, 64), np.random.default_rng(0)).shape
        torch.Size([3, 16, 16])
    """

    factor: int = 4

    def __post_init__(self) -> None:
        require_integer("factor", self.factor)

    def __call__(self, clean: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the degraded photograph (C, H / factor, W / factor), in [0, 1].

        Args:
            clean: (C, H, W) in [0, 1], grey or RGB.
            rng: source of all random numbers.

        Raises:
            ShapeError: another shape, or sides that the factor does not divide.
        """
        sides = clean.shape[-2:]
        if clean.ndim != 3 or len(clean) not in (1, 3) or any(n % self.factor for n in sides):
            raise ShapeError(
                f"clean: got {tuple(clean.shape)}, accepted: (1 or 3, H, W) with sides in "
                f"multiples of {self.factor}"
            )
        image = _noisy(_resized(_blurred(clean, FIRST, rng), FIRST, rng), FIRST, rng)
        image = _blurred(_compress(image, rng), SECOND, rng)
        small = tuple(n // self.factor for n in sides)
        image = _noisy(_resized(image, SECOND, rng, small), SECOND, rng)
        sinc = sinc_kernel(_size(rng), rng.uniform(math.pi / 3, math.pi))
        ringing = sinc if rng.random() < 0.8 else None
        # The image is compressed before or after the final resizing, which may ring.
        if rng.random() < 0.5:
            return _compress(_filtered(_interpolate(image, small, rng), ringing), rng)
        image = _compress(image, rng)
        return _filtered(_interpolate(image, small, rng), ringing).clamp(0, 1)


def generalised_gaussian(
    size: int, widths: Range, angle: float = 0.0, beta: float = 1.0, plateau: bool = False
) -> Tensor:
    """Return a (size, size) kernel ``exp(-q^beta / 2)`` or ``1 / (1 + q^beta)``, sum 1.

    ``q = u^2 / width_u^2 + v^2 / width_v^2`` along axes rotated by ``angle``. Float64.

    Args:
        size: odd number of pixels.
        widths: standard deviations along u and v, in pixels.
        angle: angle between u and the column axis x, in radians.
        beta: 1 for a Gaussian; larger values have flatter tops.
        plateau: use the second form.
    """
    _require_odd(size)
    for name, value in (("widths", widths[0]), ("widths", widths[1]), ("beta", beta)):
        require(0 < value < math.inf, name, value, "positive numbers")
    x = torch.arange(size, dtype=torch.float64) - size // 2
    y = x[:, None]
    u, v = math.cos(angle) * x + math.sin(angle) * y, math.cos(angle) * y - math.sin(angle) * x
    q = ((u / widths[0]) ** 2 + (v / widths[1]) ** 2) ** beta
    kernel = 1 / (1 + q) if plateau else torch.exp(-q / 2)
    return kernel / kernel.sum()


def sinc_kernel(size: int, cutoff: float) -> Tensor:
    """Return a (size, size) ideal low-pass kernel with sum 1, float64; it rings and overshoots.

    It is the transform of a disc, ``k(r) = cutoff / (2 pi r) J_1(cutoff r)``.

    Args:
        size: odd number of pixels.
        cutoff: radius of the disc in radians per pixel, up to pi.
    """
    _require_odd(size)
    require(0 < cutoff <= math.pi, "cutoff", cutoff, "a number in (0, pi]")
    x = np.arange(size) - size // 2
    r = np.hypot(x, x[:, None])
    r[size // 2, size // 2] = 1.0
    kernel = cutoff * scipy.special.j1(cutoff * r) / (2 * np.pi * r)
    kernel[size // 2, size // 2] = cutoff**2 / (4 * np.pi)
    return torch.from_numpy(kernel / kernel.sum())


def _require_odd(size: int) -> None:
    require_integer("size", size)
    require(size % 2 == 1, "size", size, "an odd number of pixels")


def random_kernel(order: Order, rng: np.random.Generator) -> Tensor:
    """Return a random realistic blur kernel (size, size), sum 1, float64."""
    size = _size(rng)
    if rng.random() < 0.1:
        lowest = math.pi / 3 if size < 13 else math.pi / 5
        return sinc_kernel(size, rng.uniform(lowest, math.pi))
    shape = str(rng.choice(SHAPES, p=SHAPE_ODDS))
    wide, narrow = (float(rng.uniform(*order.blur)) for _ in range(2))
    narrow = wide if rng.random() < ROUND_ODDS[shape] else narrow
    angle = float(rng.uniform(-math.pi, math.pi))
    if shape == "gaussian":
        return generalised_gaussian(size, (wide, narrow), angle)
    # Half of the shapes are at most as flat as at 1, and half at least.
    low, high = (1.0, 2.0) if shape == "plateau" else (0.5, 4.0)
    beta = float(rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high))
    return generalised_gaussian(size, (wide, narrow), angle, beta, shape == "plateau")


def _size(rng: np.random.Generator) -> int:
    return int(rng.choice(SIZES))


def _blurred(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    kernel = random_kernel(order, rng)
    return _filtered(image, kernel if rng.random() < order.blur_odds else None)


def _filtered(image: Tensor, kernel: Tensor | None) -> Tensor:
    """Return an image (C, H, W) convolved channel by channel, with repeated borders."""
    if kernel is None:
        return image
    reach, channels = len(kernel) // 2, len(image)
    weight = kernel.to(image.dtype).expand(channels, 1, -1, -1)
    padded = F.pad(image[None], (reach,) * 4, mode="replicate")
    return F.conv2d(padded, weight, groups=channels)[0]


def _resized(
    image: Tensor, order: Order, rng: np.random.Generator, base: tuple[int, ...] | None = None
) -> Tensor:
    """Return an image resized by a random factor, relative to its own size or a base."""
    low, high = order.resize
    factors = [rng.uniform(1, high), rng.uniform(low, 1), 1.0]
    factor = float(rng.choice(factors, p=order.resize_odds))
    sides = [max(2, round(n * factor)) for n in base or image.shape[-2:]]
    return _interpolate(image, tuple(sides), rng)


def _interpolate(image: Tensor, sides: tuple[int, ...], rng: np.random.Generator) -> Tensor:
    mode = str(rng.choice(["area", "bilinear", "bicubic"]))
    aligned = None if mode == "area" else False
    return F.interpolate(image[None], sides, mode=mode, align_corners=aligned)[0]


def _noisy(image: Tensor, order: Order, rng: np.random.Generator) -> Tensor:
    """Return an image in [0, 1] with Gaussian or Poisson noise, per channel or grey."""
    image, grey = image.clamp(0, 1), rng.random() < 0.4
    seen = image.mean(0, keepdim=True) if grey else image
    if rng.random() < 0.5:
        noise = rng.uniform(*order.noise) / 255 * rng.standard_normal(tuple(seen.shape))
    else:
        size, mean = rng.uniform(*order.poisson), seen.double().numpy()
        noise = size * (rng.poisson(255 * mean) / 255 - mean)
    return (image + torch.from_numpy(noise).to(image.dtype)).clamp(0, 1)


def _compress(image: Tensor, rng: np.random.Generator) -> Tensor:
    quality = int(rng.integers(QUALITY[0], QUALITY[1] + 1))
    return JPEG(tuple(image.shape), quality).A(image.clamp(0, 1)[None])[0]
