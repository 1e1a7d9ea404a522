"""Dehazing of sequences whose haze stands still."""

import math
import time
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.autograd import leaving_inference
from wellposed.checks import Positive, Steps, checked
from wellposed.errors import require
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.operators.companding import compand, expand
from wellposed.priors.prior import Prior
from wellposed.solvers.problem import Problem
from wellposed.solvers.separation.dehazing import (
    Dehazed,
    Dehazing,
    both_priors,
    check_rf,
    superposition,
)
from wellposed.solvers.separation.separated_mode import DenoisedState, SeparatedMode

DOMINANT = 3
"""Haze dominates where its magnitude exceeds that of the tissue so many times."""

AGREEMENT = 0.6
"""Least share of the haze before that is found again. Standing haze has .82 to .96 in simulations
of -40 to -22 dB, haze that moves with the tissue .14 to .3."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Following(SeparatedMode):
    """`SeparatedMode` from given companded blocks (B, 2, depths, beams)."""

    blocks: Tensor

    def init(self, problem: Problem, noise: NoiseSource) -> DenoisedState:
        """Start from the blocks."""
        x = problem.prior.to_units(self.blocks)
        return DenoisedState(x, x, x)


@checked
@leaving_inference
@torch.no_grad()
def dehaze_sequence(
    rf: Tensor,
    tissue: Prior,
    haze: Prior,
    settings: Dehazing | None = None,
    *,
    steps: Steps = 3,
    start: Positive = 0.3,
) -> Dehazed:
    """Separate the frames of one sequence whose haze stands still, in fewer evaluations.

    The first frame is dehazed as by `dehaze`. Each other one starts from the haze h of the frame
    before it and the tissue that this leaves, ``y - gamma h``, at a low noise level, and follows
    `SeparatedMode`. Haze stands still if it comes from layers that do, such as the chest wall. A
    frame that has lost the haze of the one before is dehazed as the first one: the share of it
    that is found again, ``<y, h> / <h, h>`` of companded values where h dominates, is below .6.

    Args:
        rf: linear RF (frames, 1, depths, beams) of one sequence in time, as for `dehaze`.
        tissue: a prior on companded RF of tissue, one channel.
        haze: a prior on companded RF of haze.
        settings: the settings; the solver must be the default one. Their steps are those of the
            first frame, and their batch size is not used.
        steps: evaluations of each network for a frame that starts from the one before.
        start: first noise level of such frames, ``sigma / alpha``.

    Returns:
        The frames; ``nfe`` is the mean over them, rounded up.

    Raises:
        ShapeError, ArgumentError, NonFiniteError: see `dehaze`; or settings with a solver.

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> rf = torch.rand(3, 1, 32, 16) - 0.5
        >>> tissue, haze = priors.GaussianPrior(0.0, 0.09), priors.GaussianPrior(0.0, 0.07)
        >>> solvers.dehaze_sequence(rf, tissue, haze).tissue.shape
        torch.Size([3, 1, 32, 16])
    """
    how = settings or Dehazing()
    accepted = "settings without one: sequences are dehazed by SeparatedMode"
    require(how.solver is None, "settings.solver", how.solver, accepted)
    require(start > SeparatedMode.stop, "start", start, f"more than {SeparatedMode.stop}")
    check_rf(rf)
    started, evaluations = time.perf_counter(), 0
    found: list[tuple[Tensor, Tensor]] = []
    operator = superposition(rf.shape[1:], how).to(rf.device)
    prior = both_priors(tissue, haze, how)
    problem = Problem.create(compand(rf[:1], how.mu), operator, prior)
    for solver in (how.method(), SeparatedMode(steps=steps, start=start, rms=how.rms)):
        solver.check(problem)
    for y in rf.split(1):
        solver = how.method()
        if found and agreement(y, *found[-1]) >= AGREEMENT:
            h = found[-1][1]
            blocks = compand(torch.cat([y - h, h / how.gamma], 1), how.mu)
            solver = Following(steps=steps, start=start, rms=how.rms, blocks=blocks)
        problem = Problem.create(compand(y, how.mu), operator, prior)
        sampled = solver.run(problem, ItemNoise(0, [(0, len(found))]))
        x, h = expand(problem.to_public(sampled.u), how.mu).split(1, 1)
        found.append((x, how.gamma * h))
        evaluations += sampled.evaluations
    tissues, hazes = (torch.cat(parts) for parts in zip(*found, strict=True))
    seconds = time.perf_counter() - started
    return Dehazed(tissues, hazes, None, math.ceil(evaluations / len(rf)), seconds)


def agreement(y: Tensor, tissue: Tensor, haze: Tensor) -> float:
    """Return how much of the haze of another frame is in a frame, where that haze dominates.

    1 if the frame has the same haze, about 0 if it has another one or none.
    """
    dominant = haze.abs() > DOMINANT * tissue.abs()
    there, before = compand(y[dominant]), compand(haze[dominant])
    power = float(before.square().sum())
    return float((there * before).sum()) / power if power > 0 else 0.0
