"""Dehazing of sequences: each frame starts from the haze of the one before it."""

import time

import torch
from torch import Tensor

from wellposed.checks import Positive, Steps, checked
from wellposed.errors import require
from wellposed.operators.companding import compand, expand
from wellposed.priors.prior import Prior
from wellposed.solvers.problem import Problem
from wellposed.solvers.separation.dehazing import (
    Dehazed,
    Dehazing,
    both_priors,
    check_rf,
    dehaze,
    superposition,
)
from wellposed.solvers.separation.separated_mode import SeparatedMode


@checked
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
    """Separate the frames of one sequence, in less than half the evaluations of `dehaze`.

    Haze changes less from frame to frame than tissue does. The first frame is that of `dehaze`.
    Each other one starts from the haze h of the frame before it and the tissue that this leaves,
    ``C(E(y) - gamma E(h))``, at a low noise level, and follows `SeparatedMode`.

    Args:
        rf: linear RF (frames, 1, depths, beams) of one sequence in time, as for `dehaze`.
        tissue: a prior on companded RF of tissue, one channel.
        haze: a prior on companded RF of haze.
        settings: the settings; the solver must be the default one.
        steps: evaluations of each network for a frame, from the second on.
        start: first noise level from the second frame on, ``sigma / alpha``.

    Returns:
        The frames; ``nfe`` is that of the first one.

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
    accepted = "settings without a solver: sequences are dehazed by SeparatedMode"
    require(how.solver is None, "settings", "a solver", accepted)
    require(start >= SeparatedMode.stop, "start", start, f"at least {SeparatedMode.stop}")
    check_rf(rf)
    started = time.perf_counter()
    first = dehaze(rf[:1], tissue, haze, how)
    follow = SeparatedMode(steps=steps, start=start, rms=how.rms)
    operator = superposition(rf.shape[1:], how).to(rf.device)
    prior = both_priors(tissue, haze, how)
    tissues, hazes = [first.tissue], [first.haze]
    for frame in rf[1:].split(1):
        before = hazes[-1]
        blocks = torch.cat([frame - before, before / how.gamma], 1)
        problem = Problem.create(compand(frame, how.mu), operator, prior)
        follow.check(problem)
        climbed = follow.climb(problem.prior.to_units(compand(blocks, how.mu)), problem)
        x, h = expand(problem.to_public(climbed), how.mu).split(1, 1)
        tissues.append(x)
        hazes.append(how.gamma * h)
    seconds = time.perf_counter() - started
    return Dehazed(torch.cat(tissues), torch.cat(hazes), None, first.nfe, seconds)
