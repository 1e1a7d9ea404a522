"""RePaint: inpainting by a plain diffusion whose known pixels are replaced at each step."""

from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from wellposed.checks import Count
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, levels, variance
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected
from wellposed.solvers.data import noised, noised_weight, proximal
from wellposed.solvers.problem import Problem
from wellposed.solvers.time_travel import travel_back, walk


@dataclass(frozen=True, kw_only=True)
class RePaint(Corrected):
    r"""Known pixels come from the noised measurement; jumps back in time blend in the others.

    For each pair of times t -> s, with DDPM's variance ``v`` (rule "markov")::

        x0  = E[x_0 | x_t]
        x_s = alpha_s x0 + sqrt(sigma_s^2 - v) eps + sqrt(v) z
        x_s <- x_s + A^H (A A^H + w)^-1 (alpha_s (y + sigma_y n) + sigma_s A z' - A x_s)

    with standard normal ``z``, ``z'`` and ``n``, and ``w = (alpha_s sigma_y / sigma_s)^2``. The
    published method is for noise-free inpainting: there ``w = 0``, and the last line sets the
    known pixels to ``alpha_s y + sigma_s z'``. The same line serves every linear operator and
    noisy data: what the data show better than x_s is replaced, and the rest is left. The noise
    ``n`` keeps the variance of x_s at ``sigma_s^2``.

    After each stretch of ``jump_length`` steps the image is noised back to the start of the
    stretch, which is then taken again. The jump is drawn at once, not in ``jump_length`` parts;
    the distribution is the same.

    Reference: "RePaint: Inpainting using Denoising Diffusion Probabilistic Models", CVPR 2022,
    arXiv 2201.09865, algorithm 1 and appendix on jumps.

    Args:
        steps: 250 as published. About ``steps * jump_repeats`` network evaluations.
        jump_length: steps of a stretch.
        jump_repeats: times that each stretch is taken; 1 never goes back.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.box_mask(16, 16, box=(6, 6)))
        >>> y = operator.A(torch.rand(1, 3, 16, 16))
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> result = solvers.RePaint(steps=20, jump_repeats=2)(y, operator, prior, seed=0)
        >>> torch.allclose(operator.A(result.mean), y, atol=1e-4)  # known pixels stay
        True
    """

    steps: Count = 250
    jump_length: Count = 10
    jump_repeats: Count = 10

    name: ClassVar[str] = "repaint"
    linear_only: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        fits = self.jump_repeats == 1 or self.jump_length < self.steps
        require(fits, "jump_length", self.jump_length, f"a number below steps = {self.steps}")

    def times(self, problem: Problem) -> list[float]:
        """Return the times of the run, which go up between stretches."""
        return walk(super().times(problem), self.jump_length, self.jump_repeats)

    def fresh(self, level: Levels) -> Tensor:
        """DDPM's variance."""
        return variance("markov", level)

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Denoise, renew the noise, set what is known; or go back in time."""
        if s > t:
            return travel_back(state, t, s, problem, noise)
        level = levels(problem.prior.schedule, t, s)
        state = super().step(state, t, s, problem, noise)
        x = replaced(state.x, level, problem, noise)
        return State(x, state.x0 if s > 0 else x)


def replaced(x: Tensor, level: Levels, problem: Problem, noise: NoiseSource) -> Tensor:
    """Return ``x_s`` with what the data show better, at the same noise; see `RePaint`."""
    known = level.alpha_s * noised(problem, problem.noise_sigma, noise).y
    if level.sigma_s > 0:
        known = known + level.sigma_s * problem.A(noise.draw(x))
    return proximal(replace(problem, y=known), x, noised_weight(level, problem))
