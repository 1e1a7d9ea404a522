"""What is checked of a measurement, its operator and prior before the first network call."""

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, DeviceError, DtypeError, ShapeError, check_finite
from wellposed.linalg import inner
from wellposed.priors.anchor import Degraded
from wellposed.priors.prior import Prior

if TYPE_CHECKING:
    from deepinv.physics import Physics


class Unknown(nn.Module):
    """Stands for the operator of a restoration whose degradation is not known."""


def degraded_condition(image: Tensor, prior: Prior, clean: torch.Size) -> Degraded:
    """Return what a restorer is told of degraded images, those of clean ones of a shape."""
    sides = tuple(n * prior.upsample for n in image.shape[2:])
    if image.is_complex() or image.ndim != 4 or sides != tuple(clean[2:]):
        raise ShapeError(
            f"y: got shape {tuple(image.shape)}, accepted: degraded images that the prior "
            f"upsamples {prior.upsample} times to the operator's {tuple(clean)}"
        )
    with torch.no_grad():
        return prior.degraded(image)


def check_prior(prior: Prior) -> None:
    """Raise unless ``prior`` is one, and its condition one that solvers give."""
    if not isinstance(prior, Prior):
        raise ArgumentError(
            f"prior: got {type(prior).__name__}, accepted: a wellposed Prior; wrap a deepinv "
            "denoiser in priors.DenoiserPrior, a diffusers model in priors.DiffusersPrior"
        )
    held = any(isinstance(part, Prior) and part.anchor is not None for part in prior.modules())
    if held and prior.anchor is None:
        raise ArgumentError(
            f"prior: got a restorer inside {type(prior).__name__}, accepted: the restorer itself; "
            "for large images priors.Patchwise(restorer)"
        )


def check_measurement(y: Tensor, operator: "Physics | None") -> None:
    """Raise unless ``operator`` is one and ``y`` a measurement on its device."""
    complete = callable(getattr(operator, "A", None)) and hasattr(operator, "A_adjoint")
    if not (isinstance(operator, nn.Module) and complete):
        raise ArgumentError(
            f"operator: got {type(operator).__name__}, accepted: a wellposed operator or a "
            "deepinv physics with A and A_adjoint"
        )
    check_tensor(y)
    for tensor in (*operator.buffers(), *operator.parameters()):
        if tensor.device != y.device:
            raise DeviceError(
                f"operator: lives on {tensor.device} but y on {y.device}; move one with .to()"
            )
    check_finite("y", y)


def check_tensor(y: Tensor) -> None:
    """Raise unless ``y`` is a batch of numbers."""
    if not isinstance(y, Tensor):
        raise DtypeError(f"y: got {type(y).__name__}, accepted: a torch.Tensor")
    if not (y.is_floating_point() or y.is_complex()):
        raise DtypeError(f"y: got {y.dtype}, accepted: floating-point or complex; scale to [0, 1]")
    if y.ndim < 2 or y.numel() == 0:
        raise ShapeError(f"y: got shape {tuple(y.shape)}, accepted: (B, ...), batch first")


def is_linear_operator(operator: "Physics") -> bool:
    """Tell whether an operator is a linear one."""
    from deepinv.physics import LinearPhysics

    return isinstance(operator, LinearPhysics)


def is_decomposable(operator: "Physics") -> bool:
    """Tell whether an operator has its singular value decomposition at hand."""
    # Loading it loads deepinv, which takes seconds.
    from wellposed.operators.decomposable import Decomposable

    return isinstance(operator, Decomposable)


def check_adjoint(operator: "Physics", y: Tensor, back: Tensor, tolerance: float = 0.02) -> None:
    """Raise if ``A_adjoint`` is not the adjoint of ``A``.

    With ``x = A^H y``: ``<A x, y>`` must equal ``||x||^2``. These terms add up coherently, so a
    mismatch of a few percent shows, where random vectors would hide it.
    """
    square = inner(back, back)
    gap = (inner(operator.A(back), y) - square).abs()
    if bool((gap > tolerance * square.clamp(min=1e-300)).any()):
        raise ArgumentError(
            f"operator: A_adjoint of {type(operator).__name__} is not the adjoint of A (relative "
            f"mismatch {float((gap / square).max()):.3g}), accepted: mismatch below {tolerance}; "
            "see operators.check_operator"
        )
