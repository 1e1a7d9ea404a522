"""Settings that Optuna proposes, from those that were tried.

A tree-structured Parzen estimator proposes them (Bergstra et al., "Algorithms for Hyper-Parameter
Optimization", NeurIPS 2011). Those that fall behind after an image are stopped, by successive
halving (Li et al., "A System for Massively Parallel Hyperparameter Tuning", MLSys 2020, arXiv
1810.05934).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

from wellposed.benchmark.ranges import Ranges, Searched, Values, is_whole
from wellposed.errors import ArgumentError
from wellposed.solvers.base import Solver

if TYPE_CHECKING:
    from optuna.trial import Trial

Settings = dict[str, object]

REPEATS = 50
"""Proposals in a row that were all made before, after which the ranges are exhausted."""

DIGITS = 4
"""Significant digits of proposed numbers."""


@dataclass(frozen=True)
class Proposal:
    """Settings to try.

    Attributes:
        settings: values of the hyper-parameters that have a range.
        trial: Optuna's.
    """

    settings: Settings
    trial: "Trial"

    def falls_behind(self, value: float, images: int) -> bool:
        """Tell whether the mean after some images is in the lower half of those of others."""
        self.trial.report(value, images)
        return self.trial.should_prune()


class Proposals:
    """The settings that are proposed one after another; each is told before the next.

    Args:
        cls: the solver.
        ranges: of its hyper-parameters.
        seed: of the proposals.

    Raises:
        ArgumentError: Optuna is not installed.
    """

    def __init__(self, cls: type[Solver], ranges: Ranges, seed: int) -> None:
        optuna = _package()
        self.whole = {name: is_whole(cls, name) for name in ranges}
        self.ranges = ranges
        with _silent():
            self.study = optuna.create_study(
                direction="maximize",
                sampler=optuna.samplers.TPESampler(seed=seed),
                pruner=optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2),
            )

    def __iter__(self) -> Iterator[Proposal]:
        """Yield proposals, none twice, until nothing new is proposed."""
        made: list[Settings] = []
        repeated = 0
        while repeated < REPEATS:
            with _silent():
                proposal = self._asked()
            if proposal.settings in made:
                repeated += 1
                self._end(proposal, "FAIL")  # the estimator leaves it out
                continue
            repeated = 0
            made.append(proposal.settings)
            yield proposal

    def tell(self, proposal: Proposal, value: float | None) -> None:
        """Tell how good settings are, more is better; None if they fell behind."""
        if value is None:
            self._end(proposal, "PRUNED")
            return
        with _silent():
            self.study.tell(proposal.trial, value)

    def _end(self, proposal: Proposal, state: str) -> None:
        with _silent():
            self.study.tell(proposal.trial, state=_package().trial.TrialState[state])

    def _asked(self) -> Proposal:
        trial = self.study.ask()
        settings = {n: _drawn(trial, n, r, self.whole[n]) for n, r in self.ranges.items()}
        return Proposal(settings, trial)


def _drawn(trial: "Trial", name: str, searched: Searched, whole: bool) -> object:
    if isinstance(searched, Values):
        return trial.suggest_categorical(name, searched.values)
    low, high, log = searched.low, searched.high, searched.log
    if whole:
        return trial.suggest_int(name, int(low), int(high), log=log)
    value = float(f"{trial.suggest_float(name, low, high, log=log):.{DIGITS}g}")
    return min(max(value, low), high)


def _package() -> ModuleType:
    try:
        return import_module("optuna")
    except ImportError as error:
        raise ArgumentError(
            "tune: got no optuna, accepted: version 4 or later; pip install 'wellposed[tune]'"
        ) from error


@contextmanager
def _silent() -> Iterator[None]:
    """Keep Optuna from writing to stderr, and leave its logging as it was."""
    logging = _package().logging
    before = logging.get_verbosity()
    logging.set_verbosity(logging.ERROR)
    try:
        yield
    finally:
        logging.set_verbosity(before)
