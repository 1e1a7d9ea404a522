"""DiffusionMBIR: volumes by a 2-D prior and total variation (Chung et al. 2023)."""

from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Range
from wellposed.errors import require
from wellposed.linalg import Space, norm
from wellposed.noise import NoiseSource
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.volumes.tv import VolumeSolver, VolumeState


@dataclass(frozen=True, kw_only=True)
class DiffusionMBIR(VolumeSolver):
    r"""DiffusionMBIR: predictor, corrector and one ADMM sweep on the noisy volume.

    In ``x = x_t / alpha_t`` every process is variance exploding. For each pair of noise levels
    ``r = sigma_t / alpha_t`` -> ``q = sigma_s / alpha_s``, with ``score = (E[x_0 | x] - x) / r^2``
    and with ``d`` and ``u`` kept between steps::

        x <- x + (r^2 - q^2) score(x) + sqrt(r^2 - q^2) z       reverse diffusion
        x <- x + h score(x) + sqrt(2 h) z,   h = 2 (snr ||z|| / ||score||)^2       Langevin
        x, d, u <- ADMM sweep from x, see `VolumeSolver`

    Both scores are taken at the level r, as published. The norms are means over all slices of the
    volume, independent of how the prior groups slices. The result contains noise of the smallest
    level, as published.

    Reference: "Solving 3D Inverse Problems using Pre-trained 2D Diffusion Models", CVPR 2023,
    arXiv 2211.10655. The published code takes the norms over the chunks of slices that its network
    receives, 12 for CT: ``corrector_chunk=12``. It couples the last slice with the first:
    ``circular=True``. In 137 of 2000 steps its predictor uses the neighbouring level, because of
    truncation in single precision. For CT it ends with a step to the data:
    ``final_consistency=True``.

    Args:
        steps: noise levels, 2000 as published, with two network evaluations each.
        spacing: geometric, between the largest and the smallest ratio of the schedule (378 to .01
            as published).
        cg_steps: conjugate-gradient steps; 1 as published.
        snr: size of the Langevin step; .16 as published.
        corrector_chunk: largest number of slices over which the norms are taken; all by default.
        final_consistency: end with ``x + A^T (y - A x) / (A^T A 1)``, as published for CT: for
            real images, operators without negative entries and measurements with little noise.
            Pixels that are not measured stay as they are.
        rho, lam, tv_axes, circular: see `VolumeSolver`.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Stacked(operators.ParallelBeamCT(16, 12, noise_sigma=0.1), 4)
        >>> y = operator.measure(torch.rand(1, 1, 4, 16, 16), seed=0)
        >>> prior = priors.Slicewise(priors.GaussianPrior(0.5, 1 / 12, priors.VE(100.0)))
        >>> solvers.DiffusionMBIR(steps=20)(y, operator, prior, seed=0).mean.shape
        torch.Size([1, 1, 4, 16, 16])
    """

    steps: Count = 2000
    spacing: str = "geometric"
    cg_steps: Count = 1
    snr: Annotated[float, Range(0, 1, "()")] = 0.16
    corrector_chunk: Count | None = None
    final_consistency: bool = False

    name: ClassVar[str] = "diffusion-mbir"

    def check(self, problem: Problem) -> None:
        """Raise for chunks of slices if processes share the volume, or complex final steps."""
        super().check(problem)
        chunk, shared = self.corrector_chunk, problem.part.processes > 1
        accepted = "None if processes share a volume"
        require(chunk is None or not shared, "corrector_chunk", chunk, accepted)
        real = not problem.image_dtype.is_complex or not self.final_consistency
        require(real, "final_consistency", self.final_consistency, "False for complex images")

    def init(self, problem: Problem, noise: NoiseSource) -> VolumeState:
        """Start from pure noise, divided by alpha."""
        start = super().init(problem, noise)
        alpha, _ = problem.prior.schedule(self.times(problem)[0])
        return replace(start, x=start.x / alpha, x0=start.x0 / alpha)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> VolumeState:
        """Predict, correct, take one sweep."""
        assert isinstance(state, VolumeState)
        x, schedule = state.x, problem.prior.schedule
        alpha, r, q = schedule(t)[0], schedule.ratio(t), schedule.ratio(s)
        score = (problem.denoise(alpha * x, t) - x) / r**2
        x = x + (r**2 - q**2) * score + (r**2 - q**2).sqrt() * noise.draw(x)
        x0 = problem.denoise(alpha * x, t)
        score, z = (x0 - x) / r**2, noise.draw(x)
        h = self._langevin_step(z, score, problem.space)
        x = x + h * score + (2 * h).sqrt() * z
        x, d, u = self.sweep(x, state, problem)
        if s == 0 and self.final_consistency:
            x = _consistent(x, problem)
        return VolumeState(x, x0, d, u, state.norm2)

    def _langevin_step(self, z: Tensor, score: Tensor, space: Space) -> Tensor:
        """Return ``h`` of each slice, (B, 1, D, 1, 1)."""
        count = 1
        if self.corrector_chunk is not None:
            count = z.shape[2] // self.corrector_chunk + 1
        chunks = zip(*(_slice_norms(v).chunk(count, 1) for v in (z, score)), strict=True)
        sums = ((a, space.sum(a.sum(1)) / space.sum(b.sum(1))) for a, b in chunks)
        ratios = [ratio[:, None].expand_as(chunk) for chunk, ratio in sums]
        h = 2 * (self.snr * torch.cat(ratios, 1)) ** 2
        return h[:, None, :, None, None]


def _consistent(x: Tensor, problem: Problem) -> Tensor:
    """Return ``x + A^T (y - A x) / (A^T A 1)``, one simultaneous Kaczmarz step."""
    back, weight = problem.A_adjoint(problem.y - problem.A(x)), problem.normal(torch.ones_like(x))
    return torch.where(weight > 0, x + back / weight, x)


def _slice_norms(v: Tensor) -> Tensor:
    """Return the norm of each slice of volumes, (B, D)."""
    return norm(v.transpose(1, 2).flatten(0, 1)).view(len(v), -1)
