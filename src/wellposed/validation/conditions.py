"""What problems must have in common for one calibration of their uncertainty."""

import torch
from torch import Tensor

from wellposed.conditions import MEASURED, MISSED, NOISE, OPERATOR, PRIOR, Conditions
from wellposed.linalg import conjugate_gradient
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import measured_numbers

FINE = 0.25
"""Cycles per pixel from which detail is fine, half of the largest."""

DEVIATION, LEAST_NOISE = 0.5, 0.01
"""Standard deviation of the test image, and least noise level of its filter, in units."""

ITERATIONS = 30
"""Conjugate-gradient steps of the filter."""


def problem_conditions(problem: Problem, weights: str | None = None) -> Conditions:
    """Return the conditions of a problem, for `uncertainty.Conformal`.

    They are the prior, the kind of operator, the measured numbers per number of the image, the
    noise level in the prior's units and, of linear problems, `missed_detail`. Images, masks of one
    kind, coil maps and angles may differ.

    Args:
        problem: the problem.
        weights: fingerprint of the prior before it was fitted to the range of a scan.
    """
    missed = {MISSED: missed_detail(problem)} if problem.is_linear else {}
    return {**task_conditions(problem, weights), **missed}


def task_conditions(problem: Problem, weights: str | None = None) -> Conditions:
    """Return the conditions of `problem_conditions` that need no calculation."""
    image = problem.zeros()
    numbers = image[0].numel() * (2 if image.is_complex() else 1)
    return {
        PRIOR: fingerprint(problem.prior) if weights is None else weights,
        OPERATOR: type(problem.known).__name__,
        MEASURED: float(measured_numbers(problem).mean()) / numbers,
        NOISE: float(problem.noise_sigma.mean()),
    }


@torch.no_grad()
def missed_detail(problem: Problem) -> list[float]:
    """Return which parts of an image, and of its fine detail, the data do not determine, 0 to 1.

    The operator measures a test image of the spectrum of natural ones, amplitudes 1 / frequency
    (Field, "Relations between the statistics of natural images and the response properties of
    cortical cells", 1987) with fixed random phases; a Wiener filter that knows spectrum and noise
    estimates it. The parts are the norm of the error over that of the test image, of all
    frequencies and of those above `FINE`.

    Args:
        problem: a linear problem.
    """
    like = problem.zeros()
    frequency, amplitude = _spectrum(like)
    phases = torch.fft.fft2(ItemNoise(0, [(0,)], MEASUREMENT).draw(like[:1]))
    white = _real_as(torch.fft.ifft2(phases / phases.abs()), like).expand_as(like)

    def coloured(u: Tensor) -> Tensor:
        return _real_as(torch.fft.ifft2(torch.fft.fft2(u) * amplitude), like)

    def seen(u: Tensor) -> Tensor:
        return coloured(problem.normal(coloured(u)))

    noise = float(problem.noise_sigma.mean().clamp(min=LEAST_NOISE))
    filtered = conjugate_gradient(
        lambda u: seen(u) + noise**2 * u, seen(white), iterations=ITERATIONS
    ).x
    whole, error = (torch.fft.fft2(coloured(u)) for u in (white, filtered - white))
    bands = (frequency >= 0, frequency >= FINE)
    return [float(error[..., band].norm() / whole[..., band].norm()) for band in bands]


def _spectrum(like: Tensor) -> tuple[Tensor, Tensor]:
    """Return the frequency of each coefficient of a slice, and the amplitudes of images there."""
    rows, columns = (torch.fft.fftfreq(n, device=like.device) for n in like.shape[-2:])
    frequency = torch.hypot(rows[:, None], columns)
    amplitude = (frequency + (like.shape[-2] * like.shape[-1]) ** -0.5).reciprocal()
    return frequency, DEVIATION * amplitude / amplitude.square().mean().sqrt()


def _real_as(image: Tensor, like: Tensor) -> Tensor:
    return image.to(like) if like.is_complex() else image.real.to(like)
