"""DDCM: from one condition to another without an inversion."""

from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Choice, Fraction, Seed, Steps, check_fields
from wellposed.errors import require
from wellposed.inversion.base import public, units
from wellposed.inversion.chain import Chain
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import SPACINGS


@dataclass(frozen=True, kw_only=True)
class DDCM:
    """The denoising diffusion consistent model of InfEdit: changes the condition of an image.

    Two branches share all noise: the source, noised from the image ``x_0`` itself, and the
    target. At each level, with the noises e that the prior finds in both::

        x0_tar = x_0 + (x_tar - x_src - sigma (e_tar - e_src)) / alpha
        e = e_tar - e_src + (x_src - alpha x_0) / sigma
        k = sigma' (sqrt(1 - eta) e + sqrt(eta) z)
        x_tar, x_src = alpha' x0_tar + k, alpha' x_0 + k

    Two calls a step. The same condition in both branches returns ``x_0`` exactly. For contrasts,
    classes or translation between kinds of images: any pair of priors of one schedule.

    Xu et al., "Inversion-Free Image Editing with Natural Language", 2023, arXiv 2312.04965.

    Args:
        steps: levels.
        spacing: spacing of the levels, see `Schedule.times`.
        eta: share of fresh noise in the variance.
        seed: seed of the noise.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> source, target = priors.GaussianPrior(0.3, 0.1), priors.GaussianPrior(0.6, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> edited = inversion.DDCM(steps=4).edit(image, source, target)
        >>> torch.allclose(inversion.DDCM(steps=4).edit(image, source, source), image, atol=1e-6)
        True
    """

    steps: Steps = 12
    spacing: Annotated[str, Choice(*SPACINGS)] = "karras"
    eta: Fraction = 1.0
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)

    @torch.no_grad()
    def edit(self, image: Tensor, source: Prior, target: Prior) -> Tensor:
        """Return images (B, C, ...) in public values as they would be under the target.

        Args:
            image: (B, C, ...), in public values.
            source: the prior under the condition of the image, see `priors.Guided`.
            target: the prior under the wanted condition, of the same schedule and units.

        Raises:
            ArgumentError and subclasses: before the first network call.
        """
        x0 = units(image, source)
        require(isinstance(target, Prior), "target", type(target).__name__, "a wellposed Prior")
        own, other = (
            Chain(prior, prior.schedule.times(self.steps, self.spacing).tolist()[-2::-1])
            for prior in (source, target)
        )
        same = own.sigma == other.sigma and own.alpha == other.alpha
        same = same and source.data_range == target.data_range and target.anchor is None
        require(
            same, "target", type(target).__name__, "a prior of the source's schedule and units"
        )
        positive = min(own.alpha) > 0
        require(positive, "spacing", self.spacing, "one whose first time has a signal")
        noise = ItemNoise(self.seed, [(b,) for b in range(len(x0))])
        return public(self.run(x0, own, other, noise), source, image.dtype)

    def run(self, x0: Tensor, source: Chain, target: Chain, noise: NoiseSource) -> Tensor:
        """Return the edited image in units."""
        goal, top = x0, source.top
        k = source.sigma[top] * noise.draw(x0)
        for level in range(top, -1, -1):
            alpha, sigma = source.alpha[level], source.sigma[level]
            x_tar, x_src = alpha * goal + k, alpha * x0 + k
            change = target.look(x_tar, level).eps - source.look(x_src, level).eps
            goal = x0 + (x_tar - x_src - sigma * change) / alpha
            eps = change + k / sigma
            if level:
                fresh = self.eta**0.5 * noise.draw(x0)
                k = source.sigma[level - 1] * ((1 - self.eta) ** 0.5 * eps + fresh)
        return goal
