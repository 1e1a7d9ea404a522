"""The prior in the units of a measurement: the one place where scales are found."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.errors import require
from wellposed.linalg import conjugate_gradient
from wellposed.operators.check import is_linear_operator, require_operator
from wellposed.parallel.slabs import Slabs
from wellposed.priors.prior import Prior

if TYPE_CHECKING:
    from deepinv.physics import Physics

BRIGHTEST = 0.998
"""Quantile of the magnitudes that becomes 1; priors were trained so too."""

ITERATIONS = 10

LARGEST = 4_000_000
"""Number of magnitudes, about which the quantile is taken of."""


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
    return _stretched(prior, [_magnitude(y, operator)], 1, 1)


@checked
def fit_range_by_slabs(prior: Prior, slabs: Slabs) -> Prior:
    """Return the prior in the units of a volume that is read slab by slab, see `fit_range`.

    There is one scale for the volume: that of `fit_range` for the measurement of all slices.

    Args:
        prior: see `fit_range`.
        slabs: the measurement of the slices.

    Raises:
        ArgumentError: see `fit_range`.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.parallel.slabs import Slabs
        >>> operator, y = operators.Denoising((1, 8, 8), 0.1), torch.rand(6, 1, 8, 8)
        >>> slabs = Slabs(6, 2, lambda first, end: (y[first:end], operator))
        >>> high = priors.fit_range_by_slabs(priors.load("ct"), slabs).data_range[1]
        >>> 0.9 < high < 1.0
        True
    """
    parts = (_magnitude(*slabs.read(*part)) for part in slabs.ranges())
    return _stretched(prior, parts, slabs.depth, min(slabs.thickness, slabs.depth))


def _stretched(prior: Prior, magnitudes: Iterable[Tensor], depth: int, thickness: int) -> Prior:
    """Return the prior whose range ends at the brightest of images, given slab by slab."""
    step, kept, seen = 0, [], 0
    for part in magnitudes:
        # torch.quantile refuses more than 16 million values.
        step = step or 1 + len(part) * depth // thickness // LARGEST
        kept.append(part[-seen % step :: step].clone())  # a view would keep all of the slab
        seen += len(part)
    top = float(torch.quantile(torch.cat(kept), BRIGHTEST))
    require(top > 0, "y", "an image of zeros", "a measurement whose reconstruction is not zero")
    low, high = prior.data_range
    stretch = top / max(abs(low), abs(high))
    return prior.with_range(stretch * low, stretch * high)


def _magnitude(y: Tensor, operator: "Physics") -> Tensor:
    """Return the magnitudes of a plain reconstruction."""
    require_operator(operator, y)
    linear, name = is_linear_operator(operator), type(operator).__name__
    require(linear, "operator", name, "a linear operator; for others use prior.with_range")
    return _plain_image(y, operator).abs().flatten().double()


def _plain_image(y: Tensor, operator: "Physics") -> Tensor:
    if hasattr(operator, "coil_combined_rss"):
        image: Tensor = operator.coil_combined_rss(y)
        return image
    return conjugate_gradient(operator.A_adjoint_A, operator.A_adjoint(y), iterations=ITERATIONS).x
