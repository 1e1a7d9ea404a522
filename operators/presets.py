"""Operators by name, for the command line, from the shape of an image and options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed import operators
from wellposed.checks import require_integer
from wellposed.errors import ShapeError, require, require_choice
from wellposed.operators.options import OperatorOptions

if TYPE_CHECKING:  # the command line reads the names of the options before loading operators
    from wellposed.operators import LinearOperator


@dataclass(frozen=True)
class Task:
    """An inverse problem ready to be solved.

    Attributes:
        y: measurement (1, ...).
        operator: its operator.
        truth: the clean image (1, C, H, W) or volume (1, 1, D, H, W) of a simulated problem.
    """

    y: Tensor
    operator: "LinearOperator"
    truth: Tensor | None


def build(
    name: str, image_size: Sequence[int], options: OperatorOptions | None = None
) -> "LinearOperator":
    """Return the operator called ``name`` on images of a size.

    Args:
        name: one of `OPERATORS`.
        image_size: (C, H, W), or (1, D, H, W) for volumes, measured slice by slice.
        options: the options; by default those of `OperatorOptions`.

    Raises:
        UnknownNameError: no such operator; the nearest is suggested.
        ArgumentError and subclasses: a size or an option that the operator does not accept.
    """
    _, builder = OPERATORS[require_choice("operator", name, OPERATORS)]
    channels, *depth, height, width = image_size
    if len(depth) > 1 or (depth and channels != 1):
        raise ShapeError(f"image_size: got {tuple(image_size)}, accepted: (C, H, W), (1, D, H, W)")
    if depth and name not in VOLUME_OPERATORS:
        accepted = f"{', '.join(VOLUME_OPERATORS)} for volumes"
        require(False, "operator", name, accepted)
    operator = builder((channels, height, width), options or OperatorOptions())
    return operators.Stacked(operator, depth[0]) if depth else operator


def simulate(name: str, image: Tensor, options: OperatorOptions | None = None) -> Task:
    """Measure a clean image (1, C, H, W) or volume (1, 1, D, H, W) by an operator of `build`.

    For super-resolution the image is first cropped to sides that the factor divides.

    Raises:
        ArgumentError and subclasses: see `build`.
    """
    options = options or OperatorOptions()
    if name == "super-resolution" and options.factor > 1:
        height, width = (side - side % options.factor for side in image.shape[-2:])
        image = image[..., :height, :width]
    operator = build(name, image.shape[1:], options)
    image = image.to(torch.complex64) if operator.complex_image else image
    return Task(operator.measure(image, options.seed), operator, image)


def measured_mri(kspace: Tensor, noise_sigma: float = 0.0) -> Task:
    """Set up measured multi-coil k-space (1, coils, H, W): mask, coil maps and scale.

    The mask is where k-space is not zero, the maps are estimated by ESPIRiT, and the data are
    scaled so that the 99.8 percentile of the root-sum-of-squares image is 1, as priors expect.

    Args:
        kspace: complex, centred, zero where nothing was measured.
        noise_sigma: noise of the scaled k-space, in the real and in the imaginary part.
    """
    mask = (kspace[0].abs().sum(0) > 0).float()
    # Maps in every pixel: no data would determine the image where maps are cropped to zero.
    maps = operators.espirit(kspace[0], calibration=None, crop=0.0)
    operator = operators.MultiCoilMRI(mask, maps, noise_sigma)
    brightest = torch.quantile(operator.coil_combined_rss(kspace).flatten(), 0.998)
    return Task(kspace / brightest, operator, None)


Size = tuple[int, int, int]


def _inpainting(size: Size, o: OperatorOptions) -> "LinearOperator":
    channels, height, width = size
    mask = operators.random_mask(height, width, o.keep, o.seed)
    return operators.Inpainting(mask, channels, o.noise_sigma)


def _super_resolution(size: Size, o: OperatorOptions) -> "LinearOperator":
    require_integer("factor", o.factor, 2)
    return operators.SuperResolution(size, o.factor, o.kernel, o.noise_sigma)


def _deblurring(size: Size, o: OperatorOptions) -> "LinearOperator":
    radius = min(int(4 * o.blur_sigma) + 1, (min(size[1:]) - 1) // 2)
    kernel = operators.gaussian_kernel(o.blur_sigma, 2 * radius + 1)
    return operators.Blur(kernel, size, o.noise_sigma)


def _mri(size: Size, o: OperatorOptions) -> "LinearOperator":
    _, height, width = _grey(size, "MRI")
    maps = operators.simulate_sensitivity_maps(o.coils, height, width, o.seed)
    mask = operators.uniform_random_lines(width, o.acceleration, seed=o.seed)
    return operators.MultiCoilMRI(mask, maps, o.noise_sigma)


def _ct(size: Size, o: OperatorOptions) -> "LinearOperator":
    _, height, width = _grey(size, "CT")
    require_integer("views", o.views)
    angles = torch.arange(o.views, dtype=torch.float64) * (o.arc / o.views)
    return operators.ParallelBeamCT((height, width), angles, noise_sigma=o.noise_sigma)


def _grey(size: Size, what: str) -> Size:
    require(size[0] == 1, "image", f"{size[0]} channels", f"a grey image for {what}")
    return size


OPERATORS: dict[str, tuple[str, Callable[[Size, OperatorOptions], "LinearOperator"]]] = {
    "inpainting": ("missing pixels, from --mask or random (--keep)", _inpainting),
    "super-resolution": (
        "downsampling by --factor, --kernel bicubic or average",
        _super_resolution,
    ),
    "deblurring": ("Gaussian blur of --blur-sigma pixels", _deblurring),
    "mri": ("multi-coil MRI: measured k-space, or an image undersampled --acceleration x", _mri),
    "ct": ("parallel-beam CT with --views over --arc degrees", _ct),
}
"""Operators by name: one line about each, and the function that builds it."""

VOLUME_OPERATORS = ("inpainting", "deblurring", "mri", "ct")
"""Operators that keep the grid of a volume, on which its result is written."""
