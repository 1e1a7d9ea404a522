"""Inverse problems on real images that solvers are compared and tuned on.

Photographs with the settings of the DPS and DDRM papers, noise .05 for images in [-1, 1] (Chung
et al., "Diffusion Posterior Sampling for General Noisy Inverse Problems", 2023, arXiv 2209.14687;
Kawar et al., "Denoising Diffusion Restoration Models", 2022, arXiv 2201.11793), multi-coil MRI
and sparse-view CT. Images are small central crops, for time on a processor; motion kernels and
boxes, which the papers give for 256 pixels, shrink with them. No prior has seen any of these
images, and tuning takes others than the table.

Data, under one folder: ``natural/kodak24/NN.png`` (Kodak lossless suite),
``mri/studyforrest_t1.nii.gz`` (PDDL) and ``ct/andrei_abdomen_256.nii.gz`` (FNNDSC, Apache-2.0).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed import operators, priors
from wellposed.datasets import load_nifti, read_array
from wellposed.datasets.images.crops import central_crop, random_phase
from wellposed.errors import require_choice
from wellposed.operators import LinearOperator

NOISE, MRI_NOISE, COILS, VIEWS = 0.025, 0.01, 8, 30
"""Noise of photographs in [0, 1] units, of k-space relative to the brightest tissue."""

Purpose = Literal["test", "tuning", "full"]
"""The small table, tuning for it, and the table of full-size images, which needs no tuning."""


@dataclass(frozen=True, eq=False)
class Case:
    """A batch of problems of one task.

    Attributes:
        y: measurements (B, ...).
        operator: what made them.
        truth: images (B, C, H, W) in public values.
        prior: the prior of these images.
        norm2: about ``||A||^2``, to which step sizes are relative.
        invertible: whether the pseudo-inverse leaves the noise about as it is.
    """

    y: Tensor
    operator: LinearOperator
    truth: Tensor
    prior: priors.Prior
    norm2: float
    invertible: bool

    @property
    def sigma(self) -> float:
        """Noise level in the prior's units."""
        return float(self.operator.noise_model.sigma) / self.prior.scale

    @property
    def red_start(self) -> str:
        """The start of RED-diff: the pseudo-inverse, unless it amplifies the noise."""
        return "pseudo-inverse" if self.invertible else "back-projection"

    def in_bfloat16(self) -> "Case":
        """Return the case with a prior whose network runs in bfloat16."""
        return replace(self, prior=priors.Tuned(self.prior, "bfloat16"))

    def only(self, index: int) -> "Case":
        """Return one problem alone."""
        here = slice(index, index + 1)
        return replace(self, y=self.y[here], truth=self.truth[here])

    def first(self, count: int) -> "Case":
        """Return the first problems alone."""
        return replace(self, y=self.y[:count], truth=self.truth[:count])

    def repeated(self, count: int) -> "Case":
        """Return copies of a single problem."""
        y, truth = (v.repeat(count, *[1] * (v.ndim - 1)) for v in (self.y, self.truth))
        return replace(self, y=y, truth=truth)


@dataclass(frozen=True)
class Task:
    """How the problems of a task are made.

    Attributes:
        prior: name of a shipped prior.
        load: images (B, C, size, size) of the data's folder, for a purpose.
        measure: the operator for images of a side.
        family: tasks of a family share the settings tuned on the one it is named after.
        norm2, invertible: see `Case`.
    """

    prior: str
    load: Callable[[Path, Purpose, int], Tensor]
    measure: Callable[[int], LinearOperator]
    family: str
    norm2: float = 1.0
    invertible: bool = False


def build_case(name: str, data: Path, purpose: Purpose, size: int) -> Case:
    """Return the problems of a task.

    Args:
        name: one of `TASKS`.
        data: folder of the data, see the module.
        purpose: "test" or "tuning", which have no image in common, or "full".
        size: side of the images.

    Raises:
        FileError: the data are not there.
    """
    task = TASKS[require_choice("name", name, TASKS)]
    return measured(task, task.load(data, purpose, size), seed=1 if purpose == "tuning" else 0)


def measured(task: Task, images: Tensor, seed: int) -> Case:
    """Return the problems of measuring images."""
    operator = task.measure(images.shape[-1])
    y = operator.measure(images, seed=seed)
    prior = priors.load(task.prior)
    return Case(y, operator, images, prior, task.norm2, task.invertible)


def photographs(data: Path, purpose: Purpose, size: int) -> Tensor:
    """Return crops of photographs at half their resolution, (B, 3, size, size)."""
    numbers = {
        "test": (4, 7, 15, 23),
        "tuning": (8, 19),
        "full": (1, 4, 5, 7, 10, 13, 15, 16, 21, 23),
    }[purpose]
    files = [data / "natural" / "kodak24" / f"{number:02}.png" for number in numbers]
    images = torch.stack(
        [
            central_crop(torch.from_numpy(read_array(file)).float().movedim(-1, 0), 2 * size)
            for file in files
        ]
    )
    return F.avg_pool2d(images, 2)


def heads(data: Path, purpose: Purpose, size: int) -> Tensor:
    """Return crops of MRI slices of a smooth random phase, complex (B, 1, size, size)."""
    volume = load_nifti(data / "mri" / "studyforrest_t1.nii.gz").volume[0, 0]
    positive = volume[volume > 0]
    brightest = torch.quantile(positive[:: 1 + len(positive) // 1_000_000], 0.998)
    places = {
        "test": (235, 250, 265, 280),
        "tuning": (205, 220),
        "full": (225, 230, 235, 245, 250, 255, 260, 265, 275, 280),
    }[purpose]
    return random_phase(_slices(volume / brightest, places, size), seed=0)


def abdomens(data: Path, purpose: Purpose, size: int) -> Tensor:
    """Return crops of CT slices, -1000 to 1000 HU as 0 to 1, (B, 1, size, size)."""
    volume = load_nifti(data / "ct" / "andrei_abdomen_256.nii.gz").volume[0, 0]
    places = {
        "test": (90, 120, 150, 180),
        "tuning": (105, 200),
        "full": (60, 75, 90, 120, 135, 150, 165, 180, 215, 230),
    }[purpose]
    return ((_slices(volume, places, size) + 1000) / 2000).clamp(0, 1)


def _slices(volume: Tensor, places: Sequence[int], size: int) -> Tensor:
    return torch.stack([central_crop(volume[place][None], size) for place in places])


def _super_resolution(size: int) -> LinearOperator:
    return operators.SuperResolution((3, size, size), 4, "bicubic", NOISE)


def _gaussian_blur(size: int) -> LinearOperator:
    # The published 61 pixels reach ten deviations; beyond five there is nothing.
    kernel = operators.gaussian_kernel(3.0, 31)
    return operators.SeparableBlur(kernel, (3, size, size), NOISE, boundary="reflect")


def _motion_blur(size: int) -> LinearOperator:
    kernel = operators.motion_kernel(2 * (size * 61 // 512) + 1, 0.5, seed=0)
    return operators.Blur(kernel, (3, size, size), NOISE)


def _box(size: int) -> LinearOperator:
    return operators.Inpainting(operators.box_mask(size, size, (size // 2, size // 2)), 3, NOISE)


def _random(size: int) -> LinearOperator:
    return operators.Inpainting(operators.random_mask(size, size, 0.3, seed=0), 3, NOISE)


def _mri(acceleration: int, centre: float) -> Callable[[int], LinearOperator]:
    def build(size: int) -> LinearOperator:
        maps = operators.simulate_sensitivity_maps(COILS, size, size, seed=0)
        mask = operators.uniform_random_lines(size, acceleration, centre, seed=0)
        return operators.MultiCoilMRI(mask, maps, MRI_NOISE)

    return build


def _ct(size: int) -> LinearOperator:
    # Lengths in which ||A|| is about 1; noise of 1 % of the ray through water all across.
    pixel = (size * VIEWS) ** -0.5
    return operators.ParallelBeamCT(
        size, VIEWS, pixel_size=pixel, noise_sigma=0.005 * size * pixel
    )


TASKS = {
    "sr4": Task("natural", photographs, _super_resolution, "sr4", norm2=1 / 16, invertible=True),
    "deblur-gauss": Task("natural", photographs, _gaussian_blur, "deblur-gauss"),
    "deblur-motion": Task("natural", photographs, _motion_blur, "deblur-gauss"),
    "inpaint-box": Task("natural", photographs, _box, "inpaint-random", invertible=True),
    "inpaint-random": Task("natural", photographs, _random, "inpaint-random", invertible=True),
    "mri4": Task("brain-mri", heads, _mri(4, 0.08), "mri4"),
    "mri8": Task("brain-mri", heads, _mri(8, 0.04), "mri4"),
    "ct30": Task("ct", abdomens, _ct, "ct30"),
}
"""Super-resolution 4 x, deblurring, inpainting of a box and of 70 %, MRI 4 x and 8 x, CT."""
