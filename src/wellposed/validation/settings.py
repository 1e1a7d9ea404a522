"""The solvers that are measured, and their settings."""

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
        "DDS, gamma 1": {"steps": 50, "gamma": 1.0},
        "DDS, gamma 100": {"steps": 50, "gamma": 100.0},
        "DDS, drawn": {"draws": "sample", "eta": 1.0},
    },
    "DAPS": {"DAPS": {}, "DAPS, exact draws": {"draw": "exact"}},
    "DPS": {"DPS": {}, "DPS, zeta 1": {"zeta": 1.0}},
    "DDRM": {"DDRM": {"steps": 20}},
    "DiffPIR": {"DiffPIR": {}, "DiffPIR, lambda 1": {"lambda_": 1.0}},
    "Flower": {"Flower": {}, "Flower, gamma 1": {"gamma": 1.0}},
    "MMPS": {"MMPS": {}, "MMPS, drawn": {"spread_steps": 2}},
    "NoisyProjection": {
        "NoisyProjection": {},
        "NoisyProjection, shared noise": {"noise": "shared"},
    },
    "PiGDM": {"PiGDM": {}, "PiGDM, by the score": {"guidance": "score"}},
    "PnPDM": {"PnPDM": {}, "PnPDM, rho_min .05": {"prior_steps": 10, "rho_min": 0.05}},
    "PnPFlow": {"PnPFlow": {}, "PnPFlow, alpha .01": {"alpha": 0.01}},
    "DDIMProjection": {"DDIMProjection": {"steps": 50}},
    "RePaint": {"RePaint": {"steps": 25, "jump_length": 5, "jump_repeats": 4}},
}
"""Settings measured for each solver, with ``BUDGET`` steps unless stated."""


def capped(solver: Solver, budget: int) -> Solver:
    """Return a solver with at most ``budget`` steps; a Gibbs sampler keeps its annealing."""
    if isinstance(solver, PnPDM):
        return solver
    return replace(solver, steps=min(solver.steps, budget))


def recorded_solvers() -> dict[str, Solver]:
    """Return the solvers whose errors are recorded in ``docs/posterior.md``, by name.

    These are all zero-shot solvers for images, with the defaults of their papers and `BUDGET`
    steps. The times are spaced so that equivalent processes give equal samples.

    Example:
        >>> from wellposed.validation import recorded_solvers
        >>> "MMPS" in recorded_solvers()
        True
    """
    recorded: dict[str, Solver] = {}
    for cls in named_solvers().values():
        # Point estimates have no distribution; samplers of restorers use the data as a condition;
        # others are for one operator, or for latents.
        if cls.volumes_only or cls.restores or cls.deterministic:
            continue
        if cls.operators or cls.latent_only:
            continue
        for label, settings in SETTINGS.get(cls.__name__, {cls.__name__: {}}).items():
            fields: dict[str, Any] = {"steps": BUDGET, "spacing": "karras"} | settings
            recorded[label] = cls(**fields)
    return recorded
