"""Small inputs of equal shape as one batch, in which each has the draws that it has alone."""

import copy
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import replace
from functools import partial

import torch
from deepinv.physics import Physics
from torch import Tensor

from wellposed.cli.file_task import FileTask
from wellposed.operators import Decomposable, EachItem, LinearOperator
from wellposed.operators.physics import GaussianPhysics, Noise
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import Solver


def together_key(task: FileTask) -> Hashable:
    """Return what is equal for tasks that may be solved in one batch."""
    operator = task.operator
    return tuple(task.y.shape), task.y.dtype, tuple(operator.img_size), _kind(operator)


def _kind(operator: Physics) -> str:
    """Return the class of operators of which each item may have its own; a hash of others."""
    own = isinstance(operator, LinearOperator) and not isinstance(operator, Decomposable)
    fits = own and operator.items == operator.noise_model.sigma.numel() == 1
    return type(operator).__name__ if fits else fingerprint(operator)


def solved_together(
    tasks: Sequence[FileTask],
    fitted: Sequence[Prior],
    prior: Prior,
    solver: Solver,
    num_samples: int,
    seed: int,
) -> Iterator[Reconstruction]:
    """Solve tasks of equal `together_key` as one batch; yield the result of each.

    Each has the draws that it has alone, so that its result is the same up to rounding.

    Args:
        tasks: two or more problems of one item.
        fitted: the prior in the units of each.
        prior: the prior, in whose units the batch is solved.
        solver: the solver.
        num_samples: samples of each.
        seed: seed of all draws.
    """
    scales = [_width(own) / _width(prior) for own in fitted]
    y = torch.cat(
        [task.y / s if s != 1 else task.y for task, s in zip(tasks, scales, strict=True)]
    )
    operators = [_quieter(t.operator, s) for t, s in zip(tasks, scales, strict=True)]
    items = [0] * len(tasks)
    found = solver(y, _joined(operators), prior, num_samples=num_samples, seed=seed, items=items)
    for b, scale in enumerate(scales):
        one = found.by_item(partial(torch.narrow, start=b, length=1))
        own = one.samples if scale == 1 else scale * one.samples
        yield replace(one, samples=own, seconds=found.seconds / len(tasks))


def _width(prior: Prior) -> float:
    low, high = prior.data_range
    return max(abs(low), abs(high))


def _quieter(operator: Physics, scale: float) -> Physics:
    """Return an operator for data divided by a scale."""
    if scale == 1:
        return operator
    assert isinstance(operator, GaussianPhysics)
    return _with_noise(operator, operator.noise_model.sigma / scale)


def _with_noise(operator: GaussianPhysics, sigma: Tensor) -> GaussianPhysics:
    twin = copy.copy(operator)
    twin._modules = dict(operator._modules)  # a shallow copy shares it
    twin.noise_model = Noise(sigma)
    return twin


def _joined(operators: Sequence[Physics]) -> Physics:
    """Return one operator for all items: that of all, with their noise levels, or one of each."""
    first, ours = operators[0], [op for op in operators if isinstance(op, GaussianPhysics)]
    if len(ours) < len(operators):
        return first
    silent = {fingerprint(_with_noise(op, torch.zeros(()))) for op in ours}
    if len(silent) > 1:
        return EachItem(ours)
    levels = torch.stack([op.noise_model.sigma.reshape(()) for op in ours])
    same = bool((levels == levels[0]).all())
    return first if same else _with_noise(ours[0], levels)
