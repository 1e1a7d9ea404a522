"""Which solvers are measured, with which settings."""

from dataclasses import replace
from typing import Any

from wellposed.solvers.base import Solver
from wellposed.solvers.catalogue import named_solvers
from wellposed.solvers.pnp_dm import PnPDM

BUDGET = 100
SETTINGS: dict[str, dict[str, dict[str, Any]]] = {
    "DDS": {
        "DDS": {"steps": 50},
        "DDS, eta 0": {"steps": 50, "eta": 0.0},
        "DDS, gamma 100": {"steps": 50, "gamma": 100.0},
    },
    "DAPS": {"DAPS": {}, "DAPS, exact draws": {"draw": "exact"}},
    "DPS": {"DPS": {}, "DPS, zeta 1": {"zeta": 1.0}},
    "DDRM": {"DDRM": {"steps": 20}},
    "DiffPIR": {"DiffPIR": {}, "DiffPIR, lambda 1": {"lambda_": 1.0}},
    "NoisyProjection": {
        "NoisyProjection": {},
        "NoisyProjection, shared noise": {"noise": "shared"},
    },
    "PiGDM": {"PiGDM": {}, "PiGDM, by the score": {"guidance": "score"}},
    "PnPDM": {"PnPDM": {}, "PnPDM, rho_min .05": {"prior_steps": 10, "rho_min": 0.05}},
    "DDIMProjection": {"DDIMProjection": {"steps": 50}},
    "RePaint": {"RePaint": {"steps": 25, "jump_length": 5, "jump_repeats": 4}},
}
"""Settings shown besides each paper's defaults, by solver; ``BUDGET`` steps unless they say."""


def capped(solver: Solver, budget: int) -> Solver:
    """Return a solver of at most so many steps; a Gibbs sampler keeps what it anneals in."""
    if isinstance(solver, PnPDM):
        return solver
    return replace(solver, steps=min(solver.steps, budget))


def recorded_solvers() -> dict[str, Solver]:
    """Return the solvers whose errors are kept in ``docs/posterior.md``, by name.

    All zero-shot ones that `wellposed.solvers` offers for images, with the defaults of each paper
    and `BUDGET` steps; the times are spaced so that equivalent processes give equal samples.
    """
    recorded: dict[str, Solver] = {}
    for cls in named_solvers().values():
        # Samplers of trained restorers take the data as a condition.
        if cls.volumes_only or cls.restores:
            continue
        for label, settings in SETTINGS.get(cls.__name__, {cls.__name__: {}}).items():
            fields: dict[str, Any] = {"steps": BUDGET, "spacing": "karras"} | settings
            recorded[label] = cls(**fields)
    return recorded
