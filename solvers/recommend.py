"""Which solver for which problem: the choices that docs/solvers.md justifies with numbers."""

from typing import TYPE_CHECKING, Annotated

from wellposed.checks import Choice, Count, checked
from wellposed.errors import require
from wellposed.operators.check import is_linear_operator, require_physics
from wellposed.operators.plain import filtered_back_projection
from wellposed.priors.adapters.autoencoder import Latent
from wellposed.priors.prior import Prior
from wellposed.priors.spatio_spectral.prior import SpatioSpectral
from wellposed.solvers.base import Solver
from wellposed.solvers.daps import DAPS
from wellposed.solvers.ddrm import DDRM
from wellposed.solvers.dds import DDS
from wellposed.solvers.dps import DPS
from wellposed.solvers.estimates.blind_hqs import BlindHQS
from wellposed.solvers.estimates.direct import FBP, BackProjection
from wellposed.solvers.estimates.plug_and_play import HQS
from wellposed.solvers.estimates.total_variation import TotalVariation
from wellposed.solvers.mmps import MMPS
from wellposed.solvers.red_diff import REDDiff
from wellposed.solvers.restoration.restore import default_sampler, default_steps

if TYPE_CHECKING:
    from deepinv.physics import Physics


@checked
def recommend(
    operator: "Physics | None",
    prior: Prior | None = None,
    goal: Annotated[str, Choice("mean", "samples")] = "mean",
    evaluations: Count | None = None,
) -> Solver:
    """Return the solver with settings that suit a problem.

    ======================  =======================  ==============================
    problem                 goal "mean"              goal "samples"
    ======================  =======================  ==============================
    linear                  `HQS`, 30 evaluations    `MMPS`, 30 on Karras's levels
    linear, `Slicewise`     `HQS`                    `DDS`, 30 on Karras's levels
    not linear              `HQS`                    `DAPS`
    `Bilinear`              `BlindHQS`               `DPS`
    latent prior            `REDDiff`                `DPS`
    `SpatioSpectral`        `DDRM`                   the same
    restorer                the sampler of its       the same
                            process
    no prior                `TotalVariation`         not possible
    no prior, no noise      `FBP` for CT, else       not possible
    level                   `BackProjection`
    ======================  =======================  ==============================

    Args:
        operator: an operator; ``None`` for a restorer that need not know it.
        prior: the prior; ``None`` for a reconstruction without one.
        goal: "mean" for one image near the posterior mean, "samples" for posterior samples.
        evaluations: network evaluations of an image or sample; the solver's own by default.

    Raises:
        ArgumentError: no operator where one is needed, or samples without a prior.

    Example:
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> solver = solvers.recommend(operator, prior, goal="samples", evaluations=20)
        >>> solver.name, solver.steps
        ('mmps', 20)
    """
    if prior is not None and prior.anchor is not None:
        sampler = default_sampler(prior)
        return sampler(steps=default_steps(prior, sampler) if evaluations is None else evaluations)
    operator = require_physics(operator)
    if prior is None:
        require(goal == "mean", "goal", goal, "'mean' without a prior")
        return _without_prior(operator)
    if any(isinstance(part, Latent) for part in prior.modules()):
        latent = REDDiff if goal == "mean" else DPS
        return latent() if evaluations is None else latent(steps=evaluations)
    if isinstance(prior, SpatioSpectral):
        return DDRM(steps=evaluations or 100, eta=0.5)
    if _is_blind(operator):
        return _blind(goal, evaluations)
    if goal == "mean":
        return HQS(steps=evaluations or HQS.steps)
    if not is_linear_operator(operator):
        levels = DAPS.steps if evaluations is None else max(1, evaluations // DAPS.ode_steps)
        return DAPS(steps=levels)
    # Jacobian products of a whole volume take too much memory.
    steps = evaluations or 30
    if prior.axes:
        return DDS(steps=steps, eta=1.0, spacing="karras")
    return MMPS(
        steps=steps, spacing="karras", cg_steps=2, isotropic_above=0.8, preconditioned=True
    )


def _is_blind(operator: "Physics") -> bool:
    # Importing Bilinear imports deepinv, which takes seconds; a physics has done so.
    from wellposed.operators.bilinear import Bilinear

    return isinstance(operator, Bilinear)


def _blind(goal: str, evaluations: int | None) -> Solver:
    """Return the solver of image and parameter of the operator."""
    if goal == "samples":
        return DPS() if evaluations is None else DPS(steps=evaluations)
    if evaluations is None:
        return BlindHQS()
    left = max(BlindHQS.starts, evaluations - BlindHQS.image_steps)
    return BlindHQS(steps=left // BlindHQS.starts)


def _without_prior(operator: "Physics") -> Solver:
    noise = getattr(getattr(operator, "noise_model", None), "sigma", None)
    if is_linear_operator(operator) and noise is not None and bool((noise > 0).all()):
        return TotalVariation()
    return BackProjection() if filtered_back_projection(operator) is None else FBP()
