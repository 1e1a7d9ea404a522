"""The solvers that are compared on images, at one budget, and the ranges they are tuned in.

Ranges are log-uniform for what is a scale, as those of InverseBench (Zheng et al., "InverseBench:
Benchmarking Plug-and-Play Diffusion Priors for Inverse Problems in Physical Sciences", 2025,
arXiv 2503.11043), but for the few trials made here its sweeps of three to six decades are narrowed
to about two around the published value. Step sizes and weights are relative to ``||A||`` and the
noise level, so that one range serves all tasks.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from image_problems import Case

from wellposed import solvers
from wellposed.reconstruction import Reconstruction

Settings = dict[str, Any]


@dataclass(frozen=True)
class Log:
    """A positive number, log-uniform between two, times a unit that the case decides."""

    low: float
    high: float
    unit: Callable[[Case], float] = lambda case: 1.0

    def at(self, u: float, case: Case) -> float:
        """Return the value at a fraction ``u`` of the range, of 4 digits."""
        value = self.low * (self.high / self.low) ** u * self.unit(case)
        return float(f"{value:.4g}")


@dataclass(frozen=True)
class Share:
    """A number uniform between 0 and 1."""

    def at(self, u: float, case: Case) -> float:
        """Return ``u``, of 4 digits."""
        return float(f"{u:.4g}")


@dataclass(frozen=True)
class Choice:
    """One of some values."""

    values: tuple[Any, ...]

    def at(self, u: float, case: Case) -> Any:
        """Return the value at a fraction ``u`` of the list."""
        return self.values[int(u * len(self.values))]


@dataclass(frozen=True)
class Method:
    """A solver at a budget of network evaluations.

    Attributes:
        make: the solver, of its hyper-parameters.
        space: what is tuned, and in which range.
        budget: the hyper-parameters that spend a number of evaluations.
        fixed: others that the case decides.
    """

    make: Callable[..., Callable[..., Reconstruction]]
    space: Mapping[str, Log | Share | Choice]
    budget: Callable[[int], Settings] = lambda nfe: {"steps": nfe}
    fixed: Callable[[Case], Settings] = field(default=lambda case: {})

    def draw(self, case: Case, trials: int, seed: int) -> list[Settings]:
        """Return settings to try: the published ones, then a Latin hypercube of the ranges."""
        rng, count = np.random.default_rng(seed), trials - 1
        columns = [(rng.permutation(count) + rng.random(count)) / count for _ in self.space]
        points = zip(*columns, strict=True)
        drawn = [
            {
                name: r.at(float(u), case)
                for (name, r), u in zip(self.space.items(), p, strict=True)
            }
            for p in points
        ]
        return [{}, *drawn]

    def run(
        self, case: Case, settings: Settings, nfe: int, num_samples: int = 1, seed: int = 0
    ) -> Reconstruction:
        """Solve a case.

        Raises:
            ArgumentError: the solver takes no such problems.
            SamplingError: it diverged.
        """
        solver = self.make(**self.budget(nfe), **self.fixed(case), **settings)
        return solver(case.y, case.operator, case.prior, num_samples=num_samples, seed=seed)


def _data_weight(case: Case) -> float:
    return 1 / (case.norm2 * case.sigma**2)


def _start(case: Case) -> Settings:
    return {"start": case.red_start}


def _deepinv(name: str) -> Callable[..., Callable[..., Reconstruction]]:
    return lambda **options: solvers.from_deepinv(name, **options)


METHODS = {
    "DDS": Method(solvers.DDS, {"gamma": Log(3e-4, 0.1, _data_weight), "eta": Share()}),
    "REDDiff": Method(
        solvers.REDDiff,
        {"learning_rate": Log(0.01, 0.5), "regularization": Log(0.01, 1.0)},
        fixed=_start,
    ),
    "DDIMProjection": Method(solvers.DDIMProjection, {"eta": Share()}),
    "DDNM": Method(solvers.DDNM, {"eta": Share()}),
    "DDRM": Method(solvers.DDRM, {"eta": Share(), "eta_b": Share()}),
    "DiffPIR": Method(solvers.DiffPIR, {"lambda_": Log(1.0, 100.0), "zeta": Share()}),
    "FlowChef": Method(
        solvers.FlowChef, {"step_size": Log(0.01, 0.9, lambda case: 1 / case.norm2)}
    ),
    "FLAIR": Method(solvers.FLAIR, {"regularization": Log(0.1, 1.0)}),
    "Flower": Method(solvers.Flower, {"gamma": Share()}),
    "PnPFlow": Method(
        solvers.PnPFlow,
        {"step_size": Log(0.1, 1.9), "alpha": Log(0.01, 2.0)},
        budget=lambda nfe: {"steps": nfe // 5, "averages": 5},
    ),
    "DAPS": Method(
        solvers.DAPS,
        {"tau": Log(0.1, 3.0, lambda case: case.sigma), "learning_rate": Log(0.03, 1.0)},
        budget=lambda nfe: {"steps": nfe // 5, "ode_steps": 5},
    ),
    "PnPDM": Method(
        solvers.PnPDM,
        {"rho_min": Log(0.03, 1.0), "rho_decay_rate": Log(0.4, 0.9)},
        budget=lambda nfe: {"steps": nfe // 5, "prior_steps": 5},
    ),
    "PiGDM": Method(solvers.PiGDM, {"eta": Share(), "guidance": Choice(("published", "score"))}),
    "DPS": Method(solvers.DPS, {"zeta": Log(0.1, 10.0, lambda case: 1 / math.sqrt(case.norm2))}),
    "MMPS": Method(solvers.MMPS, {"eta": Share(), "cg_steps": Choice((1, 2, 3))}),
    "deepinv DDRM": Method(
        _deepinv("DDRM"),
        {"eta": Share(), "etab": Share()},
        budget=lambda nfe: {"sigmas": np.linspace(1, 0, nfe)},
    ),
    "deepinv DiffPIR": Method(
        _deepinv("DiffPIR"),
        {"lambda_": Log(1.0, 100.0), "zeta": Share()},
        budget=lambda nfe: {"max_iter": nfe},
    ),
    "deepinv DPS": Method(
        _deepinv("DPS"), {"weight": Log(1.0, 3000.0)}, budget=lambda nfe: {"num_steps": nfe}
    ),
}
"""By the name in the tables."""
