"""The common base of the samplers of restoration processes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, ClassVar

from torch import Tensor

from wellposed.checks import PositiveOrInfinite, Whole
from wellposed.errors import require
from wellposed.noise import NoiseSource
from wellposed.priors.prediction import Components
from wellposed.priors.transition import Levels, starting_std
from wellposed.solvers.base import State
from wellposed.solvers.corrected import Corrected, Correction, estimate
from wellposed.solvers.dds import DataSteps
from wellposed.solvers.problem import Problem
from wellposed.solvers.scope import require_linear


@dataclass(frozen=True, kw_only=True)
class Restoration(Corrected):
    r"""Base of the samplers of restoration processes, from ``m + sigma_T z`` to the clean image.

    They sample any process with the kernel ``x_t = m + alpha_t (x_0 - m) + sigma_t eps``, where
    ``m`` is the degraded image for a prior with an anchor and 0 for a plain prior.

    If the operator is known, ``data_steps`` of conjugate gradients pull each estimate towards the
    data as in `DDS`, ``x0' = CG(I + gamma A^H A, x0 + gamma A^H y; start x0)``, and the noise
    implied by ``x0'`` is kept. This helps networks that were trained on many degradations. A large
    ``gamma`` brings the noise of the measurement into the image.

    Args:
        data_steps: conjugate-gradient steps per network evaluation; with 0 the operator is not
            used, and a plain prior is sampled without a measurement.
        gamma: weight of the data, in the prior's units; None follows the noise as in `DDS`,
            infinity is hard consistency.
        correction: a correction instead of the data steps, e.g. ``MMPS().correction``.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Blur(operators.uniform_kernel(3), (3, 16, 16), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> sampler = solvers.IRSDE(steps=5, data_steps=3, gamma=None)  # with the known blur
        >>> sampler(y, operator, priors.load("irsde-deblur"), seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """

    spacing: str = "trailing"
    data_steps: Annotated[int, Whole(0)] = 0
    gamma: PositiveOrInfinite | None = 1.0
    correction: Correction | None = None

    restores: ClassVar[bool] = True

    def __post_init__(self) -> None:
        super().__post_init__()
        one = self.correction is None or self.data_steps == 0
        require(one, "correction", self.correction, "None with data_steps")

    def check(self, problem: Problem) -> None:
        """Raise for data steps if the measurement is not linear in units."""
        if self.data_steps > 0:
            require_linear(problem, f"{type(self).__name__}(data_steps={self.data_steps})")
        super().check(problem)

    def used_correction(self) -> Correction | None:
        """Return ``correction``, the data steps, or ``None``."""
        if self.data_steps > 0:
            return DataSteps(gamma=self.gamma, cg_steps=self.data_steps)
        return self.correction

    def init(self, problem: Problem, noise: NoiseSource) -> State:
        """Return ``m`` plus the noise of the first time."""
        schedule, t = problem.prior.schedule, min(self.times(problem)[0], problem.prior.schedule.T)
        if problem.condition is None:
            std = starting_std(schedule, t)
        else:  # the signal that remains at t belongs to m, not to the noise
            std = schedule.terminal_std * float(schedule(t)[1] / schedule(schedule.T)[1])
        x_T = problem.anchor + std * noise.draw(problem.zeros())
        return State(x_T, x_T)

    def consistent(
        self,
        look: Callable[[Tensor], Components],
        x_t: Tensor,
        level: Levels,
        problem: Problem,
        noise: NoiseSource,
    ) -> Components:
        """Return the components ``look(x_t)``, with the clean image corrected by the data."""
        correction = self.used_correction()
        if correction is None:
            return look(x_t)
        seen: list[Components] = []

        def clean(x: Tensor) -> Tensor:
            seen.append(look(x))
            return seen[0].x0

        found = estimate(clean, x_t, problem, correction.differentiates)
        x0 = correction.correct(found, level, problem, noise)
        residual = seen[0].residual.detach() + found.x0 - x0
        return Components(x0, residual, remaining_noise(x_t, x0, residual, level))


def has_range(problem: Problem) -> bool:
    """Return whether images have a range, [-1, 1] in units: real images of pixels do."""
    return problem.prior.is_affine and not problem.image_dtype.is_complex


def remaining_noise(x_t: Tensor, x0: Tensor, residual: Tensor, level: Levels) -> Tensor:
    """Return the noise ``eps`` of ``x_t`` for a given clean image and residual."""
    return (x_t - x0 - (1 - level.alpha_t) * residual) / level.sigma_t
