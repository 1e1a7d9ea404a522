"""DDS on latents: the data step is taken in pixels and encoded."""

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Fraction
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers.corrected import Corrected, Correction, Estimate
from wellposed.solvers.data import matched_weight, proximal
from wellposed.solvers.dds import MATCHED_STEPS
from wellposed.solvers.descent import gradient_step
from wellposed.solvers.latent.pixels import decode, encode, pixels
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class PixelStep(Correction):
    """``z0' = z0 + E(x') - E(x)``, with ``x = D(z0)`` and x' its proximal solution; `LatentDDS`.

    Args:
        cg_steps: conjugate-gradient steps at most, until the residual is 1e-3.
    """

    cg_steps: Count = MATCHED_STEPS

    latent_only: ClassVar[bool] = True
    encodes: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Decode, solve in pixels, encode."""
        images, x = pixels(problem), decode(problem, found.x0)
        weight = 1 / matched_weight(level.sigma_t / level.alpha_t, images)
        if images.is_linear:
            moved = proximal(images, x, weight, self.cg_steps)
        else:
            moved = gradient_step(x, weight, images)
        after, before = encode(problem, torch.cat([moved, x])).chunk(2)
        return found.x0 + after - before


@dataclass(frozen=True, kw_only=True)
class LatentDDS(Corrected):
    r"""DDS on latents: denoise, decode, solve the data term in pixels, encode, re-noise.

    For each pair of times t -> s, with decoder D and encoder E::

        z0  = E[z_0 | z_t],   eps = (z_t - alpha_t z0) / sigma_t,   x = D(z0)
        x'  = argmin_x' || y - A x' ||^2 + rho_t || x' - x ||^2
        z0' = z0 + E(x') - E(x)
        z_s = alpha_s z0' + sigma_s (sqrt(1 - eta^2) eps + eta z),   z ~ N(0, I)

    The weight rho_t is matched to the noise, see `matched_weight`: nothing is to be tuned. No
    gradient is taken, neither of the network nor of the decoder. The difference of the codes
    leaves out what the autoencoder loses, so an image that fits the data stays. Operators that are
    not linear take one gradient step in pixels, as in `DiffPIR`. Pixels are weighed as if all
    varied alike; on Gaussian latents the mean is about .5 posterior standard deviations from the
    exact one. The correction is a value for
    other samplers: ``MRSampler(order=2, correction=LatentDDS().correction)``.

    Reference: Chung, Lee and Ye, "Decomposed Diffusion Sampler for Accelerating Large-Scale
    Inverse Problems", ICLR 2024, arXiv 2303.05754; data consistency in pixels and
    encoding are those of ReSample, arXiv 2307.08123.

    Args:
        eta: share of fresh noise, 0 (deterministic) to 1.
        cg_steps: conjugate-gradient steps at most, until the residual is 1e-3.

    Example:
        >>> import torch
        >>> from diffusers import AutoencoderKL
        >>> from wellposed import operators, priors, solvers
        >>> vae = priors.DiffusersAutoencoder(AutoencoderKL())  # with random weights
        >>> prior = priors.Latent(priors.GaussianPrior(0.0, 1.0), vae, (0.0, 1.0))
        >>> operator = operators.Denoising((3, 16, 16), noise_sigma=0.5)
        >>> y = torch.rand(1, 3, 16, 16)
        >>> solvers.LatentDDS(steps=4)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    eta: Fraction = 0.85
    cg_steps: Count = MATCHED_STEPS

    name: ClassVar[str] = "latent-dds"
    keeps_network_noise: ClassVar[bool] = True
    latent_only: ClassVar[bool] = True
    encodes: ClassVar[bool] = True

    @property
    def correction(self) -> PixelStep:
        """The step in pixels."""
        return PixelStep(cg_steps=self.cg_steps)

    def fresh(self, level: Levels) -> Tensor:
        """The share ``eta^2`` of the noise variance."""
        return variance("fresh", level, self.eta)
