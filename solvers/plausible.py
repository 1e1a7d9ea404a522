"""Warnings of data that are not in the prior's range, and of images that do not explain them."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.errors import warn
from wellposed.linalg import Space
from wellposed.operators.check import is_linear_operator
from wellposed.operators.physics import Forward
from wellposed.priors.prior import Prior
from wellposed.solvers.problem import Problem

if TYPE_CHECKING:
    from deepinv.physics import Physics

FAR = 10.0
"""How many times larger or smaller than the prior's range images are suspected to be misscaled."""

UNEXPLAINED = 5.0
"""Residual from which on noise does not explain the misfit."""

FEW, COPIES = 2.0, 4.0
"""Effective particles below which samples are copies of one or two; samples from each of them."""

REMEDY = (
    "priors.fit_range(prior, y, operator) takes the prior to the units of y, --window LOW HIGH an "
    "image of the command line to those of the prior"
)
RESCALE = "give prior.with_range(low, high), in the units of y"


def warn_of_range(y: Tensor, operator: "Physics | None", prior: Prior, space: Space) -> None:
    """Warn if the least-squares image is far larger or smaller than the prior's range.

    Without an operator, the degraded image.
    """
    linear = operator is None or is_linear_operator(operator)
    if not (linear and prior.has_range):
        return
    level = _bright(y, space) if operator is None else brightness(y, operator, space)
    size = max(map(abs, prior.data_range))
    far = ((level > FAR * size) | (level < size / FAR)) & (level > 0)
    if bool(far.any()):
        item = int(far.nonzero()[0])
        low, high = prior.data_range
        warn(
            f"y: the image of item {item} has values about {float(level[item]):.3g}, the prior is "
            f"made for {low:g} to {high:g}; {REMEDY if operator is not None else RESCALE}"
        )


def brightness(y: Tensor, operator: Forward, space: Space) -> Tensor:
    """Return the magnitude of the bright parts of the least-squares image, (B,), float64.

    The image is estimated by one steepest descent from zero, its magnitude by the root of
    ``sum |x|^4 / sum |x|^2``; 0 where y is zero.
    """
    image = operator.A_adjoint(y)
    energy = space.sum(_powers(image, 2))
    bright = _bright(image, space)
    return (bright * energy / space.sum(_powers(operator.A(image), 2))).nan_to_num(0)


def _bright(image: Tensor, space: Space) -> Tensor:
    """Return the magnitude of the bright parts of images, (B,); NaN for images of zeros."""
    return (space.sum(_powers(image, 4)) / space.sum(_powers(image, 2))).sqrt()


def warn_of_misfit(problem: Problem, residual: Tensor) -> None:
    """Warn if images explain nothing of the data, or noise of a known level not the misfit.

    Args:
        problem: what was solved.
        residual: of samples (N, B), as `misfit` gives it.
    """
    worst = residual.nan_to_num(0).amax(0)
    noisy = problem.noise_sigma > 0
    limit = torch.where(noisy, UNEXPLAINED, 1.0).to(worst)
    if bool((worst < limit).all()):
        return
    item = int((worst / limit).argmax())
    what = "noise of this level does not explain" if bool(noisy[item]) else "the image explains"
    rest = "the misfit" if bool(noisy[item]) else "nothing of y, ||A x - y|| >= ||y||"
    warn(
        f"residual: {float(worst[item]):.3g} for item {item}: {what} {rest}; the scale of y, the "
        f"noise level or the solver's settings are wrong ({REMEDY})"
    )


def warn_of_copies(ess: Tensor, num_samples: int) -> None:
    """Warn if the samples of an item are copies of few particles.

    Args:
        ess: effective numbers of particles after each step, (steps, B). The least one counts, as
            later resampling hides that all particles descend from one; and the last one, from
            which the samples are drawn.
        num_samples: samples of each item.
    """
    least = ess.amin(0)
    few = (least < FEW) | (COPIES * ess[-1] < num_samples)
    if bool(few.any()):
        item = int(few.nonzero()[0])
        warn(
            f"ess: {float(least[item]):.3g} effective particles at least and "
            f"{float(ess[-1, item]):.3g} at last for {num_samples} samples of item {item}: the "
            "samples are copies of few; increase particles or steps, or take a solver without "
            "weights for this many measurements (MMPS)"
        )


def _powers(x: Tensor, power: int) -> Tensor:
    """Return the sum of ``|x|^power`` of each item, (B,), in double precision."""
    return x.abs().double().pow(power).flatten(1).sum(1)
