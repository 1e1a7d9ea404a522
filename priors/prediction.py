"""Conversion of network predictions to E[x_0 | x_t].

All formulas are for the kernel ``x_t = m + alpha_t (x_0 - m) + sigma_t eps``.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from wellposed.errors import require, require_choice
from wellposed.priors.schedule import Schedule

PREDICTIONS = ("noise", "sample", "velocity", "flow", "score", "residual", "edm")
TWO_HEADS = ("residual+noise", "residual+sum", "sample+noise", "sample+sum")


def magnitude(alpha: float | Tensor, sigma: float | Tensor, sigma_data: float) -> Tensor:
    """Return ``sqrt(sigma^2 + alpha^2 sigma_data^2)``, the size of ``x_t`` (EDM's 1 / c_in)."""
    return torch.hypot(torch.as_tensor(sigma), sigma_data * torch.as_tensor(alpha))


def to_sample(
    prediction: str,
    output: Tensor,
    x_t: Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
    anchor: float | Tensor = 0.0,
    sigma_data: float = 0.5,
    floor: float = 0.0,
) -> Tensor:
    """Return the estimate of ``x_0`` from a network's ``output``.

    Args:
        prediction: ``noise`` (eps), ``sample`` (x_0), ``velocity`` (alpha eps - sigma (x_0 - m),
            Salimans and Ho 2022; needs alpha^2 + sigma^2 = 1), ``flow`` (eps - (x_0 - m),
            rectified flow with alpha = 1 - sigma), ``score`` (grad log p_t = -eps / sigma),
            ``residual`` (m - x_0, RDDM) or ``edm`` (the preconditioned F of Karras et al. 2022,
            eq. 7: ``x_0 = (alpha sigma_data^2 x_t + sigma sigma_data d F) / d^2`` with
            ``d^2 = sigma^2 + alpha^2 sigma_data^2``; finite at every noise level).
        output: the network's output, of the shape of ``x_t``.
        x_t: noisy image.
        alpha: value of the schedule, a scalar or broadcastable.
        sigma: value of the schedule, as ``alpha``.
        anchor: ``m``, the degraded image of restoration processes; 0 otherwise.
        sigma_data: standard deviation of the clean images, only for ``edm``.
        floor: smallest divisor of ``noise`` and ``score``: below it
            ``x_0 = (x_t - (1 - alpha) m - sigma eps) / floor``.
    """
    require_choice("prediction", prediction, PREDICTIONS)
    if prediction == "sample":
        return output
    if prediction == "residual":
        return anchor - output
    if prediction == "velocity":
        return anchor + alpha * (x_t - anchor) - sigma * output
    if prediction == "flow":
        return x_t - sigma * output
    if prediction == "edm":
        d = magnitude(alpha, sigma, sigma_data)
        mixed = alpha * sigma_data / d * (x_t - anchor) + sigma * output
        return anchor + sigma_data / d * mixed
    noise = output if prediction == "noise" else -sigma * output
    divisor = torch.as_tensor(alpha).clamp(min=floor) if floor > 0 else alpha
    return alpha / divisor * anchor + (x_t - anchor - sigma * noise) / divisor


def training_target(
    prediction: str,
    x0: Tensor,
    eps: Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
    anchor: float | Tensor = 0.0,
    sigma_data: float = 0.5,
) -> Tensor:
    """Return the training target of a network, the inverse of `to_sample`.

    For two-headed networks both targets are stacked along the channels; see `from_heads`.
    """
    require_choice("prediction", prediction, (*PREDICTIONS, *TWO_HEADS))
    u = x0 - anchor
    if prediction in TWO_HEADS:
        first, second = prediction.split("+")
        head = x0 if first == "sample" else -u
        return torch.cat([head, head + eps if second == "sum" else eps], 1)
    targets = {
        "noise": lambda: eps,
        "sample": lambda: x0,
        "velocity": lambda: alpha * eps - sigma * u,
        "flow": lambda: eps - u,
        "score": lambda: -eps / sigma,
        "residual": lambda: -u,
        "edm": lambda: (
            (sigma / sigma_data * u - alpha * sigma_data * eps)
            / magnitude(alpha, sigma, sigma_data)
        ),
    }
    return targets[prediction]()


def require_fitting(prediction: str, schedule: Schedule) -> None:
    """Raise `ArgumentError` unless the prediction fits a schedule with an anchor."""
    alpha, sigma = schedule(torch.linspace(0.25, 0.75, 3, dtype=torch.float64) * schedule.T)
    gaps = {
        "velocity": ("alpha^2 + (sigma / s)^2", alpha**2 + (sigma / schedule.terminal_std) ** 2),
        "flow": ("alpha + sigma", alpha + sigma),
    }
    if prediction in gaps:
        what, value = gaps[prediction]
        fits, name = bool(((value - 1).abs() < 1e-3).all()), type(schedule).__name__
        require(fits, "schedule", name, f"a schedule with {what} = 1, to predict {prediction}")


class Components(NamedTuple):
    """A network's decomposition of ``x_t``.

    One-headed networks satisfy ``x_t = x0 + (1 - alpha_t) residual + sigma_t eps`` and
    ``residual = m - x0``; two-headed ones need not, see `from_heads`.

    Attributes:
        x0: estimate of the clean image.
        residual: estimate of ``m - x_0``.
        eps: estimate of the noise.
    """

    x0: Tensor
    residual: Tensor
    eps: Tensor


def from_heads(
    prediction: str,
    output: Tensor,
    x_t: Tensor,
    alpha: float | Tensor,
    sigma: float | Tensor,
    anchor: float | Tensor,
) -> Components:
    """Return the components of ``x_t`` from the two outputs of a network.

    "Residual Denoising Diffusion Models", 2023, arXiv 2308.13712: the predictions are called
    pred_res_noise, pred_res_add_noise, pred_x0_noise and pred_x0_add_noise in the published code.
    If no output is the clean image, ``x0 = x_t - (1 - alpha) residual - sigma eps``.

    Args:
        prediction: ``residual+noise``, ``residual+sum`` (second: their sum), ``sample+noise`` or
            ``sample+sum`` (second: clean image plus noise).
        output: both outputs, stacked along the channels (B, 2 C, ...).
        x_t: noisy image.
        alpha: see `to_sample`.
        sigma: see `to_sample`.
        anchor: see `to_sample`.
    """
    require_choice("prediction", prediction, TWO_HEADS)
    first, second = output.chunk(2, dim=1)
    eps = second - first if prediction.endswith("+sum") else second
    if prediction.startswith("sample"):
        return Components(first, anchor - first, eps)
    return Components(x_t - (1 - alpha) * first - sigma * eps, first, eps)
