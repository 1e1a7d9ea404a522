"""Operators by name, for the command line, from the shape of an image and options."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn.functional import pad

from wellposed import operators
from wellposed.checks import Count, Seed, require_integer
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
        truth: the clean image (1, C, H, W) or volume (1, 1, D, H, W), if it is known.
        margins: rows and columns (top, bottom, left, right) of the images of the operator that
            lie outside the photograph.
        in_scanner_units: the prior must still be fitted to ``y`` (`priors.fit_range`).
    """

    y: Tensor
    operator: "LinearOperator"
    truth: Tensor | None
    margins: tuple[int, int, int, int] = (0, 0, 0, 0)
    in_scanner_units: bool = False

    def inside(self, images: Tensor) -> Tensor:
        """Return images (..., H, W) without the margins."""
        top, bottom, left, right = self.margins
        height, width = images.shape[-2:]
        return images[..., top : height - bottom, left : width - right]


def build(
    name: str, image_size: Sequence[Count], options: OperatorOptions | None = None
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

    For super-resolution and compressed sensing the image is first cropped to sides that the
    factor, or 32, divides.

    Raises:
        ArgumentError and subclasses: see `build`.
    """
    options = options or OperatorOptions()
    factors = {"super-resolution": options.factor, "compressed-sensing": BLOCK}
    if factors.get(name, 1) > 1:
        height, width = (side - side % factors[name] for side in image.shape[-2:])
        image = image[..., :height, :width]
    operator = build(name, image.shape[1:], options)
    image = image.to(torch.complex64) if operator.complex_image else image
    return Task(operator.measure(image, options.seed), operator, image)


def measured_deblurring(y: Tensor, kernel: Tensor, noise_sigma: float = 0.0) -> Task:
    """Set up a blurred photograph (1, C, H, W), or volume of such slices, as it was measured.

    The scene goes on outside the frame, from where the blur carries it in: images of the operator
    have margins of what the kernel reaches, of which nothing else is known.

    Args:
        y: the photograph.
        kernel: (h, w).
        noise_sigma: its noise.
    """
    channels, *depth, height, width = y.shape[1:]
    rows, columns = kernel.shape
    size = (channels, height + rows - 1, width + columns - 1)
    operator: LinearOperator = operators.PaddedBlur(kernel, size, noise_sigma, boundary="valid")
    operator = operators.Stacked(operator, depth[0]) if depth else operator
    left, right, top, bottom = _reach(kernel)
    return Task(y, operator, None, (top, bottom, left, right))


def simulated_deblurring(
    scene: Tensor, kernel: Tensor, noise_sigma: float = 0.0, seed: Seed = 0
) -> Task:
    """Take a blurred photograph of a scene that goes on outside the frame.

    Args:
        scene: (1, C, H + h - 1, W + w - 1), or a volume of such slices.
        kernel: (h, w).
        noise_sigma: noise of the photograph.
        seed: seed of the noise.

    Returns:
        The problem of the photograph (1, C, H, W), whose truth is the scene in the frame.
    """
    rows, columns = kernel.shape
    frame = scene[..., rows - 1 :, columns - 1 :]  # for its shape
    task = measured_deblurring(frame, kernel, noise_sigma)
    return replace(task, y=task.operator.measure(scene, seed), truth=task.inside(scene))


def mirrored(image: Tensor, kernel: Tensor) -> Tensor:
    """Return an image (..., H, W) with what a kernel (h, w) reaches, mirrored, around it.

    Raises:
        ShapeError: the kernel is larger than the image.
    """
    (height, width), (rows, columns) = image.shape[-2:], kernel.shape
    if rows > height or columns > width:
        accepted = f"at most {(height, width)}, as the image"
        raise ShapeError(f"kernel: got shape {(rows, columns)}, accepted: {accepted}")
    flat = image.flatten(0, -4) if image.ndim > 4 else image
    whole = _mirror(flat, _reach(kernel))
    return whole.unflatten(0, image.shape[:-3]) if image.ndim > 4 else whole


def _reach(kernel: Tensor) -> tuple[int, int, int, int]:
    """Return how far a kernel reaches beyond the frame: left, right, top, bottom."""
    rows, columns = kernel.shape
    return columns - 1 - columns // 2, columns // 2, rows - 1 - rows // 2, rows // 2


def reflected_blur(
    kernel: Tensor, image_size: Sequence[int], noise_sigma: float = 0.0
) -> "LinearOperator":
    """Return the blur of a photograph whose scene goes on mirrored outside the frame.

    Where a restorer needs images of the photograph's size, this is nearest to the truth.

    Args:
        kernel: (h, w).
        image_size: (C, H, W).
        noise_sigma: noise level in ``y``.
    """
    channels, height, width = image_size
    rows, columns = kernel.shape
    around = partial(_mirror, sides=_reach(kernel))
    size = (channels, height + rows - 1, width + columns - 1)
    blur = operators.PaddedBlur(kernel, size, noise_sigma, boundary="valid")
    return blur @ operators.FunctionOperator(around, tuple(image_size))


def _mirror(x: Tensor, sides: tuple[int, int, int, int]) -> Tensor:
    return pad(x, sides, mode="reflect")


def gaussian_blur(image_size: Sequence[int], blur_sigma: float) -> Tensor:
    """Return the Gaussian kernel of a width in pixels, cut at 4 of it and to fit the image."""
    radius = min(int(4 * blur_sigma) + 1, (min(image_size[-2:]) - 1) // 2)
    return operators.gaussian_kernel(blur_sigma, 2 * radius + 1)


def measured_mri(kspace: Tensor, noise_sigma: float = 0.0) -> Task:
    """Set up measured multi-coil k-space (1, coils, H, W): mask and coil maps.

    The mask is where k-space is not zero, the maps are estimated by ESPIRiT. Values are not
    scaled.

    Args:
        kspace: complex, centred, zero where nothing was measured.
        noise_sigma: noise of k-space in its units, in the real and in the imaginary part.
    """
    mask = (kspace[0].abs().sum(0) > 0).float()
    # Maps in every pixel: no data would determine the image where maps are cropped to zero.
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
    require(complete, "acceleration", options.factor_of_lines, accepted)
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
    return operators.Blur(gaussian_blur(size, o.blur_sigma), size, o.noise_sigma)


def _mri(size: Size, o: OperatorOptions) -> "LinearOperator":
    _, height, width = _grey(size, "MRI")
    maps = operators.simulate_sensitivity_maps(o.coils, height, width, o.seed)
    mask = operators.uniform_random_lines(width, o.factor_of_lines, seed=o.seed)
    return operators.MultiCoilMRI(mask, maps, o.noise_sigma)


def _ct(size: Size, o: OperatorOptions) -> "LinearOperator":
    _, height, width = _grey(size, "CT")
    require_integer("views", o.views)
    angles = torch.tensor(o.view_angles(o.views), dtype=torch.float64)
    if o.fan is None:
        return operators.ParallelBeamCT((height, width), angles, noise_sigma=o.noise_sigma)
    source, far, bin_size = o.fan
    detector = operators.Detector(bin_size=bin_size)
    return operators.FanBeamCT(
        (height, width), angles, source, far, detector, noise_sigma=o.noise_sigma
    )


def _grey(size: Size, what: str) -> Size:
    require(size[0] == 1, "image", f"{size[0]} channels", f"a grey image for {what}")
    return size


def _compressed_sensing(size: Size, o: OperatorOptions) -> "LinearOperator":
    return operators.CompressedSensing(
        size, o.ratio, BLOCK, permuted=True, noise_sigma=o.noise_sigma, seed=o.seed
    )


BLOCK = 32
"""Side of the blocks of compressed sensing."""

OPERATORS: dict[str, tuple[str, Callable[[Size, OperatorOptions], "LinearOperator"]]] = {
    "inpainting": ("missing pixels, from --mask or random (--keep)", _inpainting),
    "super-resolution": (
        "downsampling by --factor, --kernel bicubic or average",
        _super_resolution,
    ),
    "deblurring": ("blur by --kernel-file, or Gaussian of --blur-sigma pixels", _deblurring),
    "compressed-sensing": (
        "orthonormal combinations of random pixels, --ratio of them",
        _compressed_sensing,
    ),
    "mri": ("multi-coil MRI: measured k-space, or an image undersampled --acceleration x", _mri),
    "ct": ("CT with --views over --arc degrees, of parallel or --fan beams", _ct),
}
"""Operators by name: one line about each, and the function that builds it."""

VOLUME_OPERATORS = ("inpainting", "deblurring", "mri", "ct")
"""Operators that keep the grid of a volume, on which its result is written."""
