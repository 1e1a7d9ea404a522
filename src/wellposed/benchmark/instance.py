"""A problem of a comparison, and the scores of a reconstruction."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Self

import torch
from deepinv.physics import Physics
from torch import Tensor

from wellposed import metrics
from wellposed.operators.plain import plain_image
from wellposed.priors.prior import Prior
from wellposed.reconstruction import Reconstruction

Scores = dict[str, float]
Pictures = dict[str, Tensor]


def no_pictures(_: Reconstruction) -> Pictures:
    """Return none."""
    return {}


@dataclass(frozen=True, eq=False)
class Instance:
    """A measurement whose truth, or posterior, is known.

    Attributes:
        name: what its row of a table is called.
        y: the measurement (1, ...).
        operator: what made it.
        prior: the prior in its units.
        score: the scores of a reconstruction, by name.
        pictures: images (C, H, W) of a reconstruction that reports show, by name.
        weights: fingerprint of the prior, if it was since fitted to the units of a scan.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.benchmark import Instance
        >>> truth, operator = torch.rand(1, 3, 16, 16), operators.Denoising((3, 16, 16), 0.1)
        >>> y, prior = operator.measure(truth, seed=0), priors.GaussianPrior(0.5, 0.1)
        >>> problem = Instance.known("mine", truth, y, operator, prior)
        >>> sorted(problem.score(solvers.HQS(steps=5)(y, operator, prior)))
        ['PSNR', 'SSIM', 'residual']
    """

    name: str
    y: Tensor
    operator: Physics
    prior: Prior
    score: Callable[[Reconstruction], Scores]
    pictures: Callable[[Reconstruction], Pictures] = no_pictures
    weights: str | None = None

    @classmethod
    def known(
        cls, name: str, truth: Tensor, y: Tensor, operator: Physics, prior: Prior, peak: float = 1
    ) -> Self:
        """Return the problem of an image (1, C, H, W) that is known.

        Args:
            name: what it is called.
            truth: the image.
            y: the measurement (1, ...).
            operator: what made it.
            prior: the prior in its units.
            peak: value of white.
        """
        pictures = partial(image_pictures, truth, peak, dict([plain_image(y, operator)]))
        return cls(name, y, operator, prior, partial(image_scores, truth, peak), pictures)


def shown(image: Tensor) -> Tensor:
    """Return an image as it is scored and shown: the magnitude of a complex one."""
    return image.abs() if image.is_complex() else image


def image_scores(truth: Tensor, peak: float, found: Reconstruction) -> Scores:
    """Return the scores of a reconstruction against the truth (1, C, H, W).

    Of the mean of the samples: "PSNR" and "SSIM". Of one sample: "PSNR, sample", "SSIM, sample".
    With several samples "CRPS" and, of the central interval of probability .9, "coverage". The
    "residual" is `Reconstruction.residual`. Complex images are compared by magnitude.
    """
    clean, mean, one = shown(truth), shown(found.mean), shown(found.samples[0])
    # SSIM looks through a window, which must fit in.
    wide = min(clean.shape[-2:]) >= metrics.SSIM_WINDOW
    values = {
        "PSNR": metrics.psnr(mean, clean, peak),
        **({"SSIM": metrics.ssim(mean, clean, peak)} if wide else {}),
        "residual": found.residual.mean(),
    }
    if len(found.samples) > 1:
        samples = shown(found.samples)
        values |= {
            "PSNR, sample": metrics.psnr(one, clean, peak),
            **({"SSIM, sample": metrics.ssim(one, clean, peak)} if wide else {}),
            "CRPS": metrics.crps(samples, clean),
            "coverage": found.coverage(clean),
        }
    return {name: float(torch.as_tensor(value).mean()) for name, value in values.items()}


def image_pictures(
    truth: Tensor, peak: float, others: Mapping[str, Tensor], found: Reconstruction
) -> Pictures:
    """Return pictures of a reconstruction, in which 1 is white."""
    named = {
        "truth": truth,
        **others,
        "mean" if len(found.samples) > 1 else "estimate": found.mean,
    }
    spread = {}
    if len(found.samples) > 1:
        named["sample"] = found.samples[0]
        spread = {"deviation": found.std}
    error = {"error": (shown(found.mean) - shown(truth)).abs()}
    return {name: shown(image[0]) / peak for name, image in (named | spread | error).items()}
