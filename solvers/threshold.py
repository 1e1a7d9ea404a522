"""Dynamic thresholding of the clean estimate (Saharia et al. 2022)."""

import math
from dataclasses import dataclass
from typing import Annotated

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Range
from wellposed.errors import require
from wellposed.linalg import per_item
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels
from wellposed.solvers.corrected import Correction, Estimate
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class DynamicThreshold(Correction):
    """Clips each estimate to a quantile of its own values, and divides by it.

    ``s`` is the quantile of ``|x0|`` of an image, in the prior's units, but at least 1 and at most
    ``largest``; then ``x0' = clip(x0, -s, s) / s``. It needs no data::

        MRSampler(correction=DynamicThreshold())

    Reference: "Photorealistic Text-to-Image Diffusion Models with Deep Language Understanding",
    2022, arXiv 2205.11487, section 2.3; an option (``thresholding``) of the code of the MR
    Sampler, arXiv 2502.07856, there for images in [0, 1]. That code clips the noise instead of the
    image if the parametrization is "noise"; here it is always the image.

    Args:
        quantile: share of the values that are not clipped, in (0, 1].
        largest: largest ``s``, at least 1.

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> threshold = solvers.DynamicThreshold(quantile=0.99)
        >>> sampler = solvers.MRSampler(steps=5, correction=threshold)
        >>> sampler(torch.rand(1, 3, 16, 16), None, priors.load("irsde-deblur"), seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    quantile: Annotated[float, Range(0, 1, "(]")] = 0.995
    largest: Annotated[float, Range(1, math.inf, "[)")] = 1.5

    def check(self, problem: Problem) -> None:
        """Raise for complex images, and for images that processes share."""
        super().check(problem)
        fits = not problem.image_dtype.is_complex and problem.part.processes == 1
        require(fits, "correction", self, "another one for complex images and shared volumes")

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Return the clipped estimate."""
        # torch.quantile refuses more than 2^24 values.
        sizes = found.x0.abs().flatten(1).double().numpy(force=True)
        s = torch.from_numpy(np.quantile(sizes, self.quantile, axis=1)).to(found.x0)
        s = per_item(s.clamp(1, self.largest), found.x0)
        return torch.clamp(found.x0, -s, s) / s
