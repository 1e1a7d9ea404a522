"""Time travel: stretches of steps are taken again after noise was put back."""

from wellposed.noise import NoiseSource
from wellposed.priors.transition import levels, renoise
from wellposed.solvers.problem import Problem
from wellposed.solvers.sampler import State


def walk(times: list[float], length: int, repeats: int) -> list[float]:
    """Return the times of a run that takes each stretch of steps ``repeats`` times.

    The stretches are counted from the lowest noisy time, so that the first one may be shorter and
    is taken once. The last step, to the clean image, is taken once too.

    Args:
        times: decreasing times, ending in 0.
        length: steps of a stretch.
        repeats: times that a stretch is taken.
    """
    *noisy, clean = times
    first = (len(noisy) - 1) % length
    walked = noisy[: first + 1]
    for start in range(first, len(noisy) - 1, length):
        stretch = noisy[start : start + length + 1]
        walked += stretch[1:] + stretch * (repeats - 1)
    return [*walked, clean]


def travel_back(state: State, t: float, s: float, problem: Problem, noise: NoiseSource) -> State:
    """Return the state at ``s > t``, by the forward diffusion and without the network."""
    level = levels(problem.prior.schedule, s, t)
    return State(renoise(state.x, noise.draw(state.x), level), state.x0)
