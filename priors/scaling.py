"""The prior in the units of a measurement: the one place where scales are found."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.errors import require
from wellposed.linalg import conjugate_gradient
from wellposed.operators.check import is_linear_operator, require_operator
from wellposed.priors.prior import Prior

if TYPE_CHECKING:
    from deepinv.physics import Physics

BRIGHTEST = 0.998
"""Quantile of the magnitudes that becomes 1; priors were trained so too."""

ITERATIONS = 10


@checked
def fit_range(prior: Prior, y: Tensor, operator: "Physics") -> Prior:
    """Return the prior with its range in the units of a measurement.

    Scanners deliver k-space, sinograms and images in their own units, but priors are trained on
    images of about [0, 1]. The range of the returned prior is stretched about zero, so that its
    larger end is the 99.8th percentile of the magnitude of a plain reconstruction: the
    root-sum-of-squares image for Cartesian MRI, otherwise the image after ten conjugate-gradient
    steps of least squares. Solvers then take the measurement and the noise level as they are, and
    results and files are in the units of the measurement.

    If the units are known, use them instead: ``prior.with_range(0, 2 * MU_WATER)`` takes a prior
    trained on [-1000, 1000] HU to attenuation in 1/mm.

    Args:
        prior: a prior of images about [0, 1], or another `data_range`.
        y: measurements (B, ...); one scale for the whole batch.
        operator: a linear operator.

    Returns:
        A prior that shares its weights with the given one.

    Raises:
        ArgumentError: the operator is not linear, or the reconstruction is zero.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors
        >>> operator = operators.ParallelBeamCT(32, angles=30)
        >>> sinogram = operator.A(torch.full((1, 1, 32, 32), 500.0))  # in some units
        >>> prior = priors.fit_range(priors.load("ct"), sinogram, operator)
        >>> 400 < prior.data_range[1] < 800
        True
    """
    require_operator(operator, y)
    linear, name = is_linear_operator(operator), type(operator).__name__
    require(linear, "operator", name, "a linear operator; for others use prior.with_range")
    magnitude = _plain_image(y, operator).abs().flatten().double()
    # torch.quantile refuses more than 16 million values.
    top = float(torch.quantile(magnitude[:: 1 + len(magnitude) // 4_000_000], BRIGHTEST))
    require(top > 0, "y", "an image of zeros", "a measurement whose reconstruction is not zero")
    low, high = prior.data_range
    stretch = top / max(abs(low), abs(high))
    return prior.with_range(stretch * low, stretch * high)


def _plain_image(y: Tensor, operator: "Physics") -> Tensor:
    if hasattr(operator, "coil_combined_rss"):
        image: Tensor = operator.coil_combined_rss(y)
        return image
    return conjugate_gradient(operator.A_adjoint_A, operator.A_adjoint(y), iterations=ITERATIONS).x
