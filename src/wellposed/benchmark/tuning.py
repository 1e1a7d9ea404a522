"""Tuning: settings of a solver that are searched on validation images, at a cost that is known."""

import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from wellposed.benchmark.budget import Budget
from wellposed.benchmark.instance import Instance, no_pictures
from wellposed.benchmark.proposals import Proposals
from wellposed.benchmark.ranges import Searched, default_ranges, require_ranges
from wellposed.benchmark.recipe import Recipe, recipe_settings
from wellposed.benchmark.record import measured
from wellposed.benchmark.table import LARGER
from wellposed.checks import Count, Seed, checked
from wellposed.errors import ArgumentError, SamplingError, require_choice
from wellposed.priors import Flat
from wellposed.solvers.base import Solver
from wellposed.solvers.problem import Problem
from wellposed.validation.conditions import task_conditions

_log = logging.getLogger(__name__)

OBJECTIVES = (
    *("PSNR", "SSIM", "PSNR, sample", "SSIM, sample"),
    *("CRPS", "distance", "gap in dB"),
)
"""Scores that can be tuned."""


@checked
def tune(
    solver: Solver,
    problems: Sequence[Instance],
    ranges: Mapping[str, Searched] | None = None,
    *,
    evaluations: Count = 5000,
    objective: str = "PSNR",
    num_samples: Count = 1,
    seed: Seed = 0,
    folder: Path | None = None,
) -> Recipe:
    """Search the settings of a solver that have the best score on validation images.

    The first settings that are tried are those of ``solver``, so that the recipe is never worse
    than they are on these images. Settings that diverge or are refused count as worst. The search
    ends when the settings that come next could not be tried on all images with the evaluations
    that are left. The same seed gives the same recipe.

    Args:
        solver: a solver of the package; settings without a range remain.
        problems: the validation images, which must not be those of a test.
        ranges: of the hyper-parameters, by name; None takes `default_ranges` of the first problem.
        evaluations: network evaluations that may be spent, those of all samples; of solvers
            without a network, steps. Settings that fail count as one image.
        objective: the score, of `OBJECTIVES`; its mean over the problems is compared.
        num_samples: posterior samples of each image; point estimates return one.
        seed: of the search and of the solver.
        folder: where finished runs are kept, so that the same call goes on; None keeps none.

    Raises:
        UnknownNameError: no such objective or hyper-parameter.
        ArgumentError: a range that the solver does not accept, too few evaluations for the
            settings of ``solver``, or Optuna is not installed.
        SamplingError: all settings failed.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.benchmark import Instance, Span, tune
        >>> truth, operator = torch.rand(1, 1, 8, 8), operators.Denoising((1, 8, 8), 0.1)
        >>> y, prior = operator.measure(truth, seed=0), priors.GaussianPrior(0.5, 0.1)
        >>> problem = Instance.known("mine", truth, y, operator, prior)
        >>> ranges = {"lambda_": Span(0.1, 10.0, log=True)}
        >>> tune(solvers.HQS(steps=5), [problem], ranges, evaluations=20).trials
        4
    """
    require_choice("objective", objective, OBJECTIVES)
    settings, problem = recipe_settings(solver), problem_for(solver, problems[0])
    weights = problems[0].weights if solver.uses_prior else None
    ranges = default_ranges(type(solver), problem) if ranges is None else ranges
    require_ranges(type(solver), ranges)
    proposals = Proposals(type(solver), ranges, seed)
    count = 1 if solver.deterministic else num_samples
    trials = _Trials(problems, objective, count, seed, folder, Budget(evaluations, count))
    default = trials.first(solver)
    trials.search(solver, proposals)
    value, best = trials.best()
    return Recipe(
        method=solver.name,
        settings={**settings, **best},
        objective=objective,
        value=value,
        images=tuple(each.name for each in problems),
        image_size=problem.image_shape[1:],
        default=default,
        num_samples=count,
        conditions=task_conditions(problem, weights),
        evaluations=trials.budget.spent,
        trials=trials.number,
        failed=len(trials.failures),
        seed=seed,
    )


def problem_for(solver: Solver, instance: Instance) -> Problem:
    """Return the problem that a solver has to solve, whose prior is flat if it uses none."""
    prior = instance.prior if solver.uses_prior else Flat()
    return Problem.create(instance.y, instance.operator, prior)


class _Spent(Exception):
    """Settings cannot be tried on all images with the evaluations that are left."""


class _Failed(Exception):
    """Settings failed on an image."""


@dataclass
class _Trials:
    """The settings that are tried, one after another.

    Attributes:
        number: how many were tried.
        failures: why some of them failed.
        found: the objective of those that were tried on all images, with what differs from the
            first settings.
    """

    problems: Sequence[Instance]
    objective: str
    num_samples: int
    seed: int
    folder: Path | None
    budget: Budget
    number: int = 0
    failures: list[str] = field(default_factory=list)
    found: list[tuple[float, Mapping[str, object]]] = field(default_factory=list)

    @property
    def sign(self) -> int:
        """1 if more is better, else -1."""
        return 1 if self.objective in LARGER else -1

    def best(self) -> tuple[float, Mapping[str, object]]:
        """Return the best objective and settings, of equal ones the first."""
        if not self.found:
            many = f"all {self.number} settings failed"
            raise SamplingError(f"tune: {many}, the first as: {self.failures[0]}")
        return max(self.found, key=lambda each: self.sign * each[0])

    def first(self, solver: Solver) -> float | None:
        """Try the settings of a solver, and return the objective; None if they fail."""
        try:
            self._try(solver, {}, lambda value, images: False)
        except _Spent:
            least = self.budget.expected(solver, len(self.problems))
            accepted = f"at least {least}, which the settings of the solver take"
            raise ArgumentError(
                f"evaluations: got {self.budget.total}, accepted: {accepted}"
            ) from None
        return self.found[0][0] if self.found else None

    def search(self, solver: Solver, proposals: Proposals) -> None:
        """Try what is proposed, until it cannot be afforded."""
        for proposal in proposals:
            try:
                value = self._try(solver, proposal.settings, proposal.falls_behind)
            except _Spent:
                return
            proposals.tell(proposal, value)

    def _try(
        self,
        base: Solver,
        settings: Mapping[str, object],
        falls_behind: Callable[[float, int], bool],
    ) -> float | None:
        """Return how good settings are, -inf if they fail, or None if they fall behind."""
        told = ", ".join(f"{k}={v}" for k, v in settings.items()) or "settings as given"
        try:
            solver = _changed(base, settings)
            values = self._values(solver, told, falls_behind)
        except _Failed as error:
            self.budget.spent += self.budget.expected(base, 1)
            self.failures.append(f"{told}: {error}")
            self._tell(f"{told} failed: {error}")
            return -math.inf
        mean, count = fmean(values), len(values)
        if count < len(self.problems):
            self._tell(f"{told}: {self.objective} {mean:.4g} of {count}, behind others")
            return None
        self.found.append((mean, settings))
        self._tell(f"{told}: {self.objective} {mean:.4g}")
        return self.sign * mean

    def _tell(self, text: str) -> None:
        self.number += 1
        spent = f"{self.budget.spent} of {self.budget.total} evaluations"
        _log.info("trial %d, %s: %s", self.number, spent, text)

    def _values(
        self, solver: Solver, told: str, falls_behind: Callable[[float, int], bool]
    ) -> list[float]:
        """Return the objective on the images, on fewer if it falls behind."""
        values: list[float] = []
        for left in range(len(self.problems), 0, -1):
            if not self.budget.affords(solver, left):
                raise _Spent
            values.append(self._value(solver, told, self.problems[-left]))
            if left > 1 and falls_behind(self.sign * fmean(values), len(values)):
                break
        return values

    def _value(self, solver: Solver, told: str, problem: Instance) -> float:
        with warnings.catch_warnings():  # of settings that are tried; the best are seen again
            warnings.simplefilter("ignore", UserWarning)
            plain = replace(problem, pictures=no_pictures)
            record = measured(plain, told, solver, self.num_samples, self.seed, self.folder)
        if record.error:
            raise _Failed(record.error)
        self.budget.spend(solver, record.evaluations * record.samples or solver.steps)
        value = record.scores[require_choice("objective", self.objective, record.scores)]
        if math.isnan(value):
            raise _Failed(f"{self.objective} is not a number")
        return value


def _changed(base: Solver, settings: Mapping[str, Any]) -> Solver:
    try:
        return replace(base, **settings)
    except ArgumentError as error:
        raise _Failed(str(error)) from error
