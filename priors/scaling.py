"""The prior in the units of a measurement: the one place where scales are found."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.errors import require
from wellposed.linalg import conjugate_gradient
from wellposed.operators.check import is_linear_operator
from wellposed.priors.prior import Prior

if TYPE_CHECKING:
    from deepinv.physics import Physics

BRIGHTEST = 0.998
"""Quantile of the magnitudes that becomes 1; priors were trained so too."""

ITERATIONS = 10


def fit_range(prior: Prior, y: Tensor, operator: "Physics") -> Prior:
    """Return the prior for images in the units of a measurement, whatever those are.

    Scanners give k-space, sinograms and images in units of their own; a prior was trained on
    images about [0, 1]. Of the prior returned the range is stretched, zero staying zero, so that
    its larger end is the 99.8 percentile of a plain reconstruction's magnitude: the
    root-sum-of-squares image of Cartesian MRI, else ten conjugate gradients towards the
    least-squares image. Measurement and noise level are given to solvers as they are, and what
    they return is in the units of the measurement, as is whatever is written of it.

    Where the units are known, say so instead: ``prior.with_range(0, 2 * MU_WATER)`` is a prior
    trained on [-1000, 1000] HU for attenuation in 1/mm.

    Args:
        prior: a prior of images about [0, 1], or another `data_range`.
        y: measurements (B, ...); one scale for the whole batch.
        operator: a linear one.

    Returns:
        A prior that shares the weights of the given one.

    Raises:
        ArgumentError: the operator is not linear, or the reconstruction is zero.
    """
    name = type(operator).__name__
    require(
        is_linear_operator(operator), "operator", name, "a linear one; else prior.with_range(...)"
    )
    magnitude = _plain_image(y, operator).abs().flatten().double()
    # torch.quantile refuses more than 16 million values.
    top = float(torch.quantile(magnitude[:: 1 + len(magnitude) // 4_000_000], BRIGHTEST))
    require(top > 0, "y", "an image of zeros", "a measurement of something")
    low, high = prior.data_range
    stretch = top / max(abs(low), abs(high))
    return prior.with_range(stretch * low, stretch * high)


def _plain_image(y: Tensor, operator: "Physics") -> Tensor:
    if hasattr(operator, "coil_combined_rss"):
        image: Tensor = operator.coil_combined_rss(y)
        return image
    return conjugate_gradient(operator.A_adjoint_A, operator.A_adjoint(y), iterations=ITERATIONS).x
