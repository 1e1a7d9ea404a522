"""Operators by name, as the command line offers them, from the shape of an image and options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed import operators
from wellposed.checks import require_integer
from wellposed.errors import ShapeError, require, require_choice
from wellposed.operators.options import OperatorOptions

if TYPE_CHECKING:  # the command line reads the options' names before it loads any operator
    from wellposed.operators import LinearOperator


@dataclass(frozen=True)
class Task:
    """An inverse problem ready to be solved.

    Attributes:
        y: measurement (1, ...).
        operator: the operator that made it.
        truth: the clean image (1, C, H, W) or volume (1, 1, D, H, W), where it is known.
        in_scanner_units: the prior is yet to be fitted to ``y`` (`priors.fit_range`).
    """

    y: Tensor
    operator: "LinearOperator"
    truth: Tensor | None
    in_scanner_units: bool = False


def build(
    name: str, image_size: Sequence[int], options: OperatorOptions | None = None
) -> "LinearOperator":
    """Return the operator called ``name`` on images of a size.

    Args:
        name: one of `OPERATORS`.
        image_size: (C, H, W), or (1, D, H, W) for volumes, of which every slice is measured.
        options: the defaults, if not given.

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

    For super-resolution the image is first cut to sides that the factor divides.

    Raises:
        ArgumentError and subclasses: as `build`.
    """
    options = options or OperatorOptions()
    if name == "super-resolution" and options.factor > 1:
        height, width = (side - side % options.factor for side in image.shape[-2:])
        image = image[..., :height, :width]
    operator = build(name, image.shape[1:], options)
    image = image.to(torch.complex64) if operator.complex_image else image
    return Task(operator.measure(image, options.seed), operator, image)


def measured_mri(kspace: Tensor, noise_sigma: float = 0.0) -> Task:
    """Set up measured multi-coil k-space (1, coils, H, W): mask and coil maps.

    The mask is where k-space is not zero, the maps come from ESPIRiT. Values stay as they are.

    Args:
        kspace: complex, centred, zero where nothing was measured.
        noise_sigma: noise of the k-space, in its units, per real and imaginary part.
    """
    mask = (kspace[0].abs().sum(0) > 0).float()
    # Maps in every pixel: where they were cut to zero, no datum would hold the image to anything.
    maps = operators.espirit(kspace[0], calibration=None, crop=0.0)
    operator = operators.MultiCoilMRI(mask, maps, noise_sigma)
    return Task(kspace, operator, None, in_scanner_units=True)


def undersampled(kspace: Tensor, options: OperatorOptions) -> Tensor:
    """Return fully sampled k-space (..., H, W) with lines left out, see `uniform_random_lines`.

    Raises:
        ArgumentError: lines are missing already.
    """
    width, measured = kspace.shape[-1], (kspace != 0).flatten(0, -2).any(0)
    # Some scans leave out the outermost lines on one side.
    inside = measured.nonzero().flatten()
    complete = len(inside) > 0 and len(inside) == int(inside[-1] - inside[0]) + 1
    accepted = "None for k-space of which lines are missing already"
    require(complete, "acceleration", options.acceleration, accepted)
    mask = operators.uniform_random_lines(width, options.factor_of_lines, seed=options.seed)
    return kspace * mask.to(kspace.device)


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
    mask = operators.uniform_random_lines(width, o.factor_of_lines, seed=o.seed)
    return operators.MultiCoilMRI(mask, maps, o.noise_sigma)


def _ct(size: Size, o: OperatorOptions) -> "LinearOperator":
    _, height, width = _grey(size, "CT")
    require_integer("views", o.views)
    angles = torch.arange(o.views, dtype=torch.float64) * (o.arc / o.views)
    return operators.ParallelBeamCT((height, width), angles, noise_sigma=o.noise_sigma)


def _grey(size: Size, what: str) -> Size:
    require(size[0] == 1, "image", f"{size[0]} channels", f"a grey one for {what}")
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
"""Operators by name: one line about each, and what builds it."""

VOLUME_OPERATORS = ("inpainting", "deblurring", "mri", "ct")
"""Operators that keep the grid of a volume, on which its result is written."""
