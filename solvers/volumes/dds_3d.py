"""DDS for volumes (Chung, Lee and Ye 2024, arXiv 2303.05754)."""

from dataclasses import dataclass

from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.transition import implied_noise, levels, transition, variance
from wellposed.solvers.base import State
from wellposed.solvers.problem import Problem
from wellposed.solvers.volumes.tv import VolumeSolver, VolumeState


@dataclass(frozen=True, kw_only=True)
class DDS3D(VolumeSolver):
    r"""DDS of volumes: Tweedie, one sweep of ADMM for total variation along z, re-noise.

    For each pair of times t -> s, with ``d`` and ``u`` kept from step to step::

        x0  = E[x_0 | x_t],  eps = (x_t - alpha_t x0) / sigma_t
        x0', d, u <- ADMM sweep from x0, see `VolumeSolver`
        x_s = alpha_s x0' + sigma_s (sqrt(1 - eta^2) eps + eta z),   z ~ N(0, I)

    ``x0`` enters the sweep only as the start of its few CG steps. The first sweep, with ``d`` and
    ``u`` zero, smooths along z whatever lambda.

    Reference: "Decomposed Diffusion Sampler for Accelerating Large-Scale Inverse Problems",
    ICLR 2024, arXiv 2303.05754. The published code couples the last slice with the first:
    ``circular=True``.

    Args:
        eta: share of fresh noise, 0 (deterministic) to 1; .85 as published.
        renoise_last: keep re-noising on the step into the last network time, as the equations
            say; the published code skips it there (``False``).
        rho, lam, cg_steps, tv_axes, circular: see `VolumeSolver`.
    """

    eta: float = 0.85
    renoise_last: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.eta <= 1, "eta", self.eta, "0 <= eta <= 1")

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> VolumeState:
        """Denoise, take one sweep, re-noise."""
        assert isinstance(state, VolumeState)
        level = levels(problem.prior.schedule, t, s)
        x0 = problem.denoise(state.x, t)
        eps = implied_noise(state.x, x0, level)
        x0, d, u = self.sweep(x0, state, problem)
        x = x0
        if s > 0:
            z = noise.draw(x0)
            if self.renoise_last or s != self.times(problem)[-2]:
                x = transition(x0, eps, z, level, variance("fresh", level, self.eta))
        return VolumeState(x, x0, d, u, state.norm2)
