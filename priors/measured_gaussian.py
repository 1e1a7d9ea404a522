"""The Gaussian that explains measurements best, without clean images: expectation maximisation.

For measurements ``y_i = A_i x_i + n_i`` of unknown images ``x_i ~ N(mu, C)``, with
``P_i = A_i^H A_i / sigma_i^2`` and ``b_i = A_i^H y_i / sigma_i^2``, a round is::

    C_i  = (1 + C P_i)^-1 C,    m_i = mu + C_i (b_i - P_i mu)              E: the posterior of x_i
    mu   = mean_i m_i,          C   = mean_i C_i + (m_i - mu)(m_i - mu)^H  M: its moments

Each round is exact, so the likelihood of the measurements never falls. "Learning Diffusion Priors
from Observations by Expectation Maximization", 2024, arXiv 2405.13712, does it with samples.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.errors import ShapeError, require
from wellposed.linalg import as_real
from wellposed.operators.check import noise_levels
from wellposed.operators.physics import Forward

FLOOR = 1e-6
"""Least variance of a direction, over the mean variance."""

MOST_BYTES = 4 * 2**30
"""Memory of the normal matrices of all items, above which the images are too large."""

ITEMS_AT_ONCE = 512


class Information(NamedTuple):
    """What the measurements tell of flattened images.

    Attributes:
        P: ``A_i^H A_i / sigma_i^2``, (N, n, n), or (1, n, n) if all items have one operator.
        b: ``A_i^H y_i / sigma_i^2``, (N, n).
        square: ``|y_i|^2 / sigma_i^2``, (N,).
        log_noise: ``log(2 pi sigma_i^2)`` summed over the numbers of each measurement, (N,).
    """

    P: Tensor
    b: Tensor
    square: Tensor
    log_noise: Tensor


class Moments(NamedTuple):
    """Mean (n,) and covariance (n, n) of flattened images, complex ones of each part."""

    mu: Tensor
    C: Tensor


def information(y: Tensor, operator: Forward, sigma: Tensor) -> Information:
    """Return the information in measurements, in double precision.

    Args:
        y: measurements (N, ...).
        operator: a linear operator, one for all or with parameters for each of N items.
        sigma: noise level, (N,), positive.

    Raises:
        ShapeError: images too large for dense matrices.
    """
    back = operator.A_adjoint(y)
    count, size = len(back), back[0].numel()
    shared = _same_for_all(operator, back)
    needed = (1 if shared else count) * size**2 * 16
    if needed > MOST_BYTES:
        raise ShapeError(
            f"y: got {count} images of {size} values, whose matrices take {needed / 2**30:.0f} "
            f"GiB, accepted: {MOST_BYTES / 2**30:.0f} GiB; fit patches, or fewer images"
        )
    weight = sigma.double() ** -2
    normal = _normal_matrices(operator, back[:1] if shared else back)
    normal = (
        normal if shared and bool((weight == weight[0]).all()) else normal.expand(count, -1, -1)
    )
    P = normal * weight[: len(normal), None, None]
    kind = torch.complex128 if back.is_complex() else torch.float64
    b = back.flatten(1).to(kind) * weight[:, None]
    square = as_real(y).flatten(1).double().square().sum(1) * weight
    numbers = y[0].numel()
    return Information(P, b, square, numbers * (2 * math.pi / weight).log())


def _same_for_all(operator: Forward, back: Tensor) -> bool:
    """Return whether the operator takes a single item, and so is one for all items."""
    try:
        alone = operator.A_adjoint_A(back[:1])
    except ShapeError:
        return False
    if len(alone) != 1:
        return False
    return bool(torch.allclose(alone, operator.A_adjoint_A(back)[:1], rtol=1e-4, atol=1e-6))


def _normal_matrices(operator: Forward, like: Tensor) -> Tensor:
    """Return ``A^H A`` of every item, (N, n, n)."""
    size = like[0].numel()
    kind = torch.complex128 if like.is_complex() else torch.float64
    found = torch.zeros(len(like), size, size, dtype=kind, device=like.device)
    for column in range(size):
        unit = torch.zeros_like(like).flatten(1)
        unit[:, column] = 1
        found[:, :, column] = operator.A_adjoint_A(unit.view_as(like)).flatten(1).to(kind)
    return (found + found.mH) / 2


def fit_moments(
    known: Information,
    rounds: int,
    rank: int | None = None,
    callback: Callable[[int, float], None] | None = None,
) -> Moments:
    """Return the moments after rounds from mean 0 and covariance 1; see the module's equations.

    Args:
        known: the information in the measurements.
        rounds: number of rounds.
        rank: directions with variances of their own; the others share one (PPCA). None: all.
        callback: called as ``callback(round, log-likelihood per item before the round)``.
    """
    size = known.b.shape[1]
    now = Moments(known.b.new_zeros(size), torch.eye(size).to(known.b))
    for number in range(rounds):
        now, likelihood = _round(known, now)
        if callback is not None:
            callback(number, likelihood)
        now = Moments(now.mu, of_rank(now.C, rank))
    return now


def _round(known: Information, now: Moments) -> tuple[Moments, float]:
    """Return the moments after one round, and the log-likelihood per item before it."""
    total, likelihood, means = torch.zeros_like(now.C), 0.0, []
    for start in range(0, len(known.b), ITEMS_AT_ONCE):
        part = Information(*(_rows(v, start, len(known.b)) for v in known))
        m, spread, values = _posterior(part, now)
        means.append(m)
        total = total + spread
        likelihood += float(values.sum())
    m = torch.cat(means)
    mu = m.mean(0)
    # For complex images C is the covariance of each part, half of that of the whole.
    halves = 2 if m.is_complex() else 1
    C = (total + (m - mu).T @ (m - mu).conj() / halves) / len(m)
    return Moments(mu, (C + C.mH) / 2), likelihood / len(m)  # else asymmetry grows by rounding


def _rows(value: Tensor, start: int, count: int) -> Tensor:
    return value[start : start + ITEMS_AT_ONCE] if len(value) == count else value


def _posterior(known: Information, now: Moments) -> tuple[Tensor, Tensor, Tensor]:
    """Return the posterior means, the sum of the covariances, and the log-likelihoods."""
    mu, C = now
    unit = torch.eye(len(mu), dtype=C.dtype, device=C.device)
    M = unit + C @ known.P
    each = torch.linalg.solve(M, C.expand(len(known.P), -1, -1))
    gap = known.b - torch.einsum("knm,m->kn", known.P, mu)
    if len(known.P) == 1:
        step, spread = gap @ each[0].T, len(gap) * each[0]
    else:
        step, spread = torch.einsum("knm,km->kn", each, gap), each.sum(0)
    # |y - A mu|^2 / sigma^2 - gap^H C_i gap
    misfit = known.square - ((known.b + gap).conj() * mu).sum(1).real
    quadratic = misfit - (gap.conj() * step).sum(1).real
    parts = 2 if C.is_complex() else 1
    logdet = parts * (torch.linalg.slogdet(M).logabsdet + known.log_noise)
    return mu + step, spread, -0.5 * (quadratic + logdet)


def of_rank(C: Tensor, rank: int | None) -> Tensor:
    """Return the covariance of a rank plus a multiple of the identity that is nearest: PPCA.

    Tipping and Bishop, "Probabilistic principal component analysis", 1999,
    doi 10.1111/1467-9868.00196: the leading eigenvalues stay, the others become their mean.
    Eigenvalues are at least `FLOOR` of the mean.
    """
    values, vectors = torch.linalg.eigh(C)
    values = values.flip(0)
    if rank is not None and rank < len(values):
        values = torch.cat([values[:rank], values[rank:].mean().expand(len(values) - rank)])
    values = values.clamp(min=FLOOR * float(values.mean())).flip(0)
    C = (vectors * values) @ vectors.mH
    return C


def checked_noise(operator: Forward, y: Tensor) -> Tensor:
    """Return the noise level of each item of an operator, (N,), positive.

    Raises:
        ArgumentError, ShapeError: no noise level, one of 0, or neither one nor N.
    """
    sigma = noise_levels(operator, len(y)).double()
    positive = bool((sigma > 0).all()) and math.isfinite(float(sigma.sum()))
    accepted = "positive noise levels of y; set noise_sigma of the operator"
    require(positive, "operator", f"the noise levels {sigma.tolist()[:4]}", accepted)
    return sigma.expand(len(y)).to(y.device)
