"""A linear map with known shapes, on deepinv's `LinearPhysics`, and checks of its parameters."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import ClassVar, Self

import torch
from deepinv.physics import LinearPhysics
from torch import Tensor, nn

from wellposed.checks import Count, require_integer
from wellposed.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    ShapeError,
    check_finite,
    require,
)
from wellposed.linalg import conjugate_gradient
from wellposed.operators.physics import GaussianPhysics, Noise
from wellposed.operators.proximal import proximal_by_cg

Spectral = Callable[[Tensor], Tensor]
"""Maps eigenvalues, (1 or B, ...), to factors that broadcast with them, of as many axes."""


class LinearMap(GaussianPhysics, LinearPhysics):
    """A linear map with Gaussian noise that checks its inputs: `LinearOperator` without algebra.

    See `LinearOperator` for its arguments and for the methods that subclasses implement.
    """

    _device_holder: Tensor
    _of_items: ClassVar[tuple[str, ...]] = ()
    """Buffers with one entry, along the first axis, for all items or for each."""

    def __init__(
        self,
        image_size: Sequence[Count],
        measurement_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        *,
        complex_image: bool = False,
        complex_measurement: bool = False,
        items: Count = 1,
    ) -> None:
        size = tuple(require_integer("image_size", side) for side in image_size)
        super().__init__(noise_sigma, img_size=size)
        self.measurement_size = tuple(
            require_integer("measurement_size", side) for side in measurement_size
        )
        self.complex_image = complex_image
        self.complex_measurement = complex_measurement
        self.items = items

    def extra_repr(self) -> str:
        """Return the content of `repr`: shapes, noise level, kinds, items and device."""
        kinds = [self.complex_image, self.complex_measurement]
        told = ["complex"] if all(kinds) else ["complex measurements"] if kinds[1] else []
        told += [f"items={self.items}"] if self.items > 1 else []
        told += [f"device={self.device}"] if self.device.type != "cpu" else []
        return ", ".join([super().extra_repr(), *told])

    @abstractmethod
    def forward_map(self, x: Tensor) -> Tensor:
        """Return ``A x`` for a checked ``x``."""

    @abstractmethod
    def adjoint_map(self, y: Tensor) -> Tensor:
        """Return ``A^H y`` for a checked ``y``."""

    def A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A x``, noise-free; ``x`` has shape (B, *image_size)."""
        self._check("x", x, self.img_size, self.complex_image)
        return self.forward_map(x)

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H y``; ``y`` has shape (B, *measurement_size)."""
        self._check("y", y, self.measurement_size, self.complex_measurement)
        return self.adjoint_map(y)

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return an approximate inverse of ``A^H A + weight``, for conjugate gradients, if any.

        The weight is at least 0 and broadcasts over images (B, *image_size).
        """
        return None

    def normal_function(self, f: Spectral, b: Tensor) -> Tensor | None:
        """Return ``f(A^H A) b`` to rounding, where the eigenvectors are at hand, else None.

        Args:
            f: maps the eigenvalues of ``A^H A`` to factors.
            b: images (B, *image_size).
        """
        return None

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the least-squares image of smallest norm, here by conjugate gradients."""
        b = self.A_adjoint(y)
        return conjugate_gradient(self.A_adjoint_A, b, iterations=100, tolerance=1e-5).x

    def prox_l2(self, z: Tensor, y: Tensor, gamma: float | Tensor, **kwargs: object) -> Tensor:
        """Return ``argmin_x gamma/2 ||A x - y||^2 + 1/2 ||x - z||^2``, here by CG.

        Args:
            z: images (B, *image_size).
            y: measurements (B, *measurement_size), or one for all.
            gamma: weight of the data, at least 0, one number or one per item.
            kwargs: arguments of deepinv, not used.
        """
        self._check("z", z, self.img_size, self.complex_image)
        return proximal_by_cg(self.A_adjoint_A, self.A_adjoint(y), z, gamma, self.preconditioner)

    def noise(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``x`` plus noise of the global generator, for deepinv's ``physics(x)``."""
        if not x.is_complex():
            return self.restrict(super().noise(x, **kwargs))
        parts = super().noise(torch.view_as_real(x), **kwargs)
        return self.restrict(torch.view_as_complex(parts))

    def item(self, index: int) -> Self:
        """Return the operator of one item, with its noise level, for any batch size."""
        one, sigma = copy.copy(self), self.noise_model.sigma
        one._buffers, one._modules, one.items = dict(self._buffers), dict(self._modules), 1
        for name in self._of_items:
            values = self._buffers[name]
            if values is not None and self.items > 1 and len(values) == self.items:
                one._buffers[name] = values[index : index + 1]
        for name, part in self._modules.items():
            one._modules[name] = None if part is None else _item_of(part, index)
        if sigma.numel() > 1:
            one.noise_model = Noise(sigma.flatten()[index])
        return one

    def _check(self, name: str, value: Tensor, size: tuple[int, ...], is_complex: bool) -> None:
        check_batch(name, value, size, is_complex)
        if self.items not in (1, len(value)):
            raise ShapeError(
                f"{name}: got {len(value)} items, accepted: {self.items} items, as this "
                f"{type(self).__name__} has a mask or maps for each"
            )
        home = self.device
        if value.device != home:
            raise DeviceError(
                f"{name}: is on {value.device} but the {type(self).__name__} on {home}; "
                f"move one of them with .to()"
            )

    @property
    def device(self) -> torch.device:
        """Device of the operator, and of its images and measurements."""
        return self._device_holder.device

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Keep complex buffers complex in a cast to a real dtype, e.g. ``.to(torch.float64)``."""

        def keep(t: Tensor) -> Tensor:
            parts = fn(torch.view_as_real(t.resolve_conj())) if t.is_complex() else None
            return fn(t) if parts is None or parts.is_complex() else torch.view_as_complex(parts)

        super()._apply(keep, recurse)
        return self


def _item_of(part: nn.Module, index: int) -> nn.Module:
    """Return the part of an operator for one item."""
    if isinstance(part, nn.ModuleList):
        return nn.ModuleList(_item_of(operator, index) for operator in part)
    return part.item(index) if isinstance(part, LinearMap) else part


def check_batch(name: str, value: Tensor, size: Sequence[int], is_complex: bool = False) -> None:
    """Raise unless ``value`` is a real (or complex) tensor (B, *size) with one or more items."""
    kind = "complex" if is_complex else "real floating-point"
    if not isinstance(value, Tensor):
        raise DtypeError(f"{name}: got {type(value).__name__}, accepted: a {kind} torch.Tensor")
    if value.ndim != len(size) + 1 or tuple(value.shape[1:]) != tuple(size) or len(value) == 0:
        raise ShapeError(
            f"{name}: got shape {tuple(value.shape)}, accepted: "
            f"(B >= 1, {', '.join(map(str, size))})"
        )
    if value.is_complex() != is_complex or not (is_complex or value.is_floating_point()):
        raise DtypeError(f"{name}: got dtype {value.dtype}, accepted: a {kind} tensor")


def as_buffer(name: str, value: Tensor, ndim: int) -> Tensor:
    """Return a finite tensor of ``ndim`` axes; a missing batch axis is added."""
    value = torch.as_tensor(value)
    value = value[None] if value.ndim == ndim - 1 else value
    if value.ndim != ndim:
        raise ShapeError(f"{name}: got {value.ndim} axes, accepted: {ndim - 1} or {ndim} axes")
    if value.numel() == 0:
        raise ArgumentError(f"{name}: got an empty tensor, accepted: one or more values")
    return check_finite(name, value).clone()


def binary_mask(mask: Tensor, ndim: int) -> Tensor:
    """Return a mask of 0 and 1, with a 1 in every item, as a float32 buffer of ``ndim`` axes."""
    mask = as_buffer("mask", mask, ndim)
    if mask.is_complex():
        raise DtypeError(f"mask: got {mask.dtype}, accepted: a real tensor of zeros and ones")
    binary = bool(((mask == 0) | (mask == 1)).all())
    require(binary, "mask", "other values", "zeros and ones")
    empty = (~(mask != 0).flatten(1).any(1)).nonzero().flatten().tolist()
    require(not empty, "mask", f"only zeros in item {empty}", "at least one 1 in every item")
    return mask.to(torch.float32)
