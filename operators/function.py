"""Operators given by a function of PyTorch operations."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from wellposed.autograd import leaving_inference
from wellposed.checks import Count
from wellposed.errors import ArgumentError, DtypeError, ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.check import check_operator

TOLERANCE = 1e-3
"""Largest relative error of linearity and adjoint for a linear function in float32."""


class FunctionOperator(LinearOperator):
    """``y = f(x) + n`` with a linear function; the adjoint is found by automatic differentiation.

    The adjoint of ``f`` is the vector-Jacobian product at 0; it costs a call of ``f`` and one
    backward pass. Creating the operator checks on random images that ``f`` is linear and
    differentiable and does not mix items. For nonlinear functions, subclass `NonlinearOperator`.

    Args:
        f: maps images (B, *image_size) to measurements (B, ...), with differentiable operations
            of PyTorch; a function, or a module, which moves with the operator.
        image_size: shape of one image.
        noise_sigma: noise level in ``y``.
        complex_image: whether images are complex.

    Raises:
        ArgumentError: ``f`` fails, is not linear, mixes the items of a batch, or cannot be
            differentiated.
        DtypeError, ShapeError: ``f`` does not return a floating-point or complex tensor with as
            many items as its input.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.FunctionOperator(lambda x: x.diff(dim=-1), (1, 8, 8), 0.1)
        >>> y = operator.measure(torch.rand(1, 1, 8, 8), seed=0)
        >>> y.shape, operator.A_adjoint(y).shape
        (torch.Size([1, 1, 8, 7]), torch.Size([1, 1, 8, 8]))
    """

    def __init__(
        self,
        f: Callable[[Tensor], Tensor],
        image_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        *,
        complex_image: bool = False,
    ) -> None:
        require(callable(f), "f", f, "a function of images (B, *image_size)")
        y = _probed(f, tuple(image_size), complex_image)
        super().__init__(
            image_size,
            y.shape[1:],
            noise_sigma,
            complex_image=complex_image,
            complex_measurement=y.is_complex(),
        )
        self.f = f
        self.to(y.device)
        self._require_linear()

    def forward_map(self, x: Tensor) -> Tensor:
        return self.f(x)

    @leaving_inference
    def adjoint_map(self, y: Tensor) -> Tensor:
        dtype = y.dtype.to_complex() if self.complex_image else y.dtype.to_real()
        x = torch.zeros(len(y), *self.img_size, dtype=dtype, device=y.device, requires_grad=True)
        with torch.enable_grad():
            again = self.f(x)
        onwards = torch.is_grad_enabled() and y.requires_grad
        (image,) = torch.autograd.grad(again, x, y, create_graph=onwards)
        return image

    @torch.no_grad()
    def _require_linear(self) -> None:
        x = _random(3, self.img_size, self.complex_image, self.device)
        alone = torch.cat([self.f(one) for one in x.split(1)])
        mixes = float((self.f(x) - alone).norm() / alone.norm()) > TOLERANCE
        accepted = "a function that treats each item separately"
        require(not mixes, "f", "a function that mixes the items of a batch", accepted)
        report = check_operator(self)
        got = f"errors of linearity {report.linearity:.1g} and adjoint {report.adjoint:.1g}"
        accepted = "a linear function; others are subclasses of operators.NonlinearOperator"
        require(report.passes(TOLERANCE), "f", got, accepted)


def _random(items: Count, size: tuple[int, ...], is_complex: bool, device: torch.device) -> Tensor:
    """Return random images, the same each time, without using the global generator."""
    generator = torch.Generator().manual_seed(0)
    dtype = torch.complex64 if is_complex else torch.float32
    return torch.randn(items, *size, dtype=dtype, generator=generator).to(device)


@leaving_inference
def _probed(f: Callable[[Tensor], Tensor], size: tuple[int, ...], is_complex: bool) -> Tensor:
    """Return ``f`` of two images, checked."""
    tensors = [*f.parameters(), *f.buffers()] if isinstance(f, nn.Module) else []
    device = tensors[0].device if tensors else torch.device("cpu")
    x = _random(2, size, is_complex, device).requires_grad_()
    try:
        with torch.enable_grad():
            y = f(x)
    except Exception as error:  # any error of the user's function
        raise ArgumentError(
            f"f: fails on images of shape {tuple(x.shape)} and {x.dtype}: {error}"
        ) from error
    if not isinstance(y, Tensor) or not (y.is_floating_point() or y.is_complex()):
        got = getattr(y, "dtype", type(y).__name__)
        raise DtypeError(f"f: returns {got}, accepted: a floating-point or complex tensor")
    if y.ndim < 2 or len(y) != len(x) or not y.numel():
        raise ShapeError(f"f: returns {tuple(y.shape)} for 2 images, accepted: (2, ...)")
    require(y.requires_grad, "f", "no gradient", "differentiable operations of PyTorch")
    return y.detach()
