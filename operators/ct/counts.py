"""Conversion of photon counts to line integrals, and of attenuation to Hounsfield units."""

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Positive, RealTensor, Seed, checked
from wellposed.errors import ShapeError, check_finite, require
from wellposed.noise import COUNTS, item_generator

MU_WATER = 0.0193
"""Attenuation of water in 1/mm at about 70 keV, the mean energy of a clinical scanner."""


LARGEST = 1e15
"""Largest count for which double precision is certainly exact."""


@checked
def to_hounsfield(attenuation: RealTensor, mu_water: Positive = MU_WATER) -> Tensor:
    """Return Hounsfield units of attenuation in 1/mm: ``1000 (mu / mu_water - 1)``.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operators.to_hounsfield(torch.tensor([0.0, operators.MU_WATER]))  # air and water
        tensor([-1000.,     0.])
    """
    require(mu_water > 0, "mu_water", mu_water, "a positive attenuation")
    return 1000 * (attenuation / mu_water - 1)


@checked
def from_hounsfield(hounsfield: RealTensor, mu_water: Positive = MU_WATER) -> Tensor:
    """Return attenuation in 1/mm of Hounsfield units, at least that of vacuum.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operators.from_hounsfield(torch.tensor([-1000.0, 0.0]))  # in 1/mm
        tensor([0.0000, 0.0193])
    """
    require(mu_water > 0, "mu_water", mu_water, "a positive attenuation")
    return (mu_water * (1 + hounsfield / 1000)).clamp(min=0)


@checked
def simulate_counts(line_integrals: RealTensor, photons: Positive, seed: Seed = 0) -> Tensor:
    """Return Poisson counts with mean ``photons exp(-line_integrals)``, in at least float32.

    Args:
        line_integrals: sinograms (B, ...), dimensionless.
        photons: mean count of an unattenuated bin (I0).
        seed: the counts of item i depend on ``seed`` and i.

    Raises:
        ArgumentError, NonFiniteError: an invalid number of photons, or invalid integrals.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> counts = operators.simulate_counts(torch.ones(1, 1, 60, 46), photons=1e5, seed=0)
        >>> counts.shape, round(float(counts.mean()) / 1e5, 2)
        (torch.Size([1, 1, 60, 46]), 0.37)
    """
    require(0 < photons < LARGEST, "photons", photons, f"a positive number, below {LARGEST:g}")
    batch = line_integrals.ndim > 0
    require(batch, "line_integrals", "a number", "sinograms (B, ...)")
    integrals = _floating(line_integrals)
    mean = photons * (-integrals.double()).exp().cpu().numpy()
    highest = float(mean.max(initial=0))
    require(highest < LARGEST, "line_integrals", f"a mean count of {highest:g}", f"< {LARGEST:g}")
    counts = [item_generator(seed, (i,), COUNTS).poisson(m) for i, m in enumerate(mean)]
    return torch.from_numpy(np.stack(counts)).to(integrals)


@checked
def to_line_integrals(
    counts: RealTensor, photons: float | RealTensor, dark: float | RealTensor = 0.0
) -> Tensor:
    """Return ``-log((counts - dark) / (photons - dark))``, with ``counts - dark`` at least 1/2.

    Args:
        counts: measured counts (B, ...), integer or real.
        photons: counts without an object (the flat field), a number or broadcastable.
        dark: counts without a beam, a number or broadcastable.

    Raises:
        ArgumentError: a flat field less than one count above the dark field, e.g. for data that
            were already divided by the flat field.
        NonFiniteError: counts that are not finite.
        ShapeError: fields of another shape.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> counts = torch.tensor([5000.0, 1000.0, 10.0])
        >>> operators.to_line_integrals(counts, photons=10000.0)
        tensor([0.6931, 2.3026, 6.9078])
    """
    counts = _floating(check_finite("counts", counts))
    flat, dark = torch.as_tensor(photons).to(counts), torch.as_tensor(dark).to(counts)
    try:
        beam, signal = (flat - dark).expand_as(counts), counts - dark
    except RuntimeError as error:
        raise ShapeError(
            f"photons, dark: got {tuple(flat.shape)} and {tuple(dark.shape)}, accepted: numbers "
            f"or fields that fit counts of {tuple(counts.shape)}"
        ) from error
    lowest = float(beam.min())
    require(
        lowest >= 1, "photons", f"{lowest:g} above dark", "counts at least 1 above the dark counts"
    )
    return -(signal.clamp(min=0.5) / beam).log()


def _floating(values: Tensor) -> Tensor:
    """Return real values at least in single precision, in which counts up to 2^24 are exact."""
    real = values if values.is_floating_point() else values.to(torch.get_default_dtype())
    return real.to(torch.promote_types(real.dtype, torch.float32))


@checked
def line_integral_noise(counts: RealTensor) -> Tensor:
    """Return the standard deviation of line integrals from Poisson counts, ``1 / sqrt(counts)``.

    This is the first-order approximation (Sauer and Bouman 1993,
    https://doi.org/10.1109/78.193196), with counts of at least 1/2.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operators.line_integral_noise(torch.tensor([10000.0, 100.0]))
        tensor([0.0100, 0.1000])
    """
    return _floating(counts).clamp(min=0.5).rsqrt()
