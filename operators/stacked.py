"""A planar operator on every slice of a volume."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, require_integer
from wellposed.errors import ArgumentError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.linear_map import Spectral
from wellposed.parallel.part import Part


class Stacked(LinearOperator):
    """Measures each slice of volumes (B, C, D, H, W) with an operator on images (B, C, H, W).

    Measurements are (B, K, D, ...), with the slice axis after the first measurement axis.

    Args:
        operator: operator on images, with one noise level, and with one set of masks or maps for
            all slices or one for each slice.
        slices: number of slices D.
        part: the part of the volume that these slices are, if other processes hold the rest; see
            `wellposed.parallel.sharding`.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> scan = operators.ParallelBeamCT(16, angles=12, noise_sigma=0.01)
        >>> operator = operators.Stacked(scan, slices=4)
        >>> operator.A(torch.rand(1, 1, 4, 16, 16)).shape
        torch.Size([1, 1, 4, 12, 24])
    """

    incidental: ClassVar[frozenset[str]] = frozenset({"part", "img_size", "measurement_size"})
    """Attributes that differ between processes; see `fingerprint`."""

    def __init__(self, operator: LinearOperator, slices: Count, part: Part | None = None) -> None:
        require_integer("slices", slices)
        require(isinstance(operator, LinearOperator), "operator", operator, "a LinearOperator")
        if operator.items not in (1, slices) or len(operator.img_size) != 3:
            raise ArgumentError(
                f"operator: got parameters for {operator.items} images of size "
                f"{tuple(operator.img_size)}, accepted: parameters for all images (C, H, W), or "
                f"for each of the {slices} slices"
            )
        levels = operator.noise_model.sigma.numel()
        accepted = "one noise level for all slices"
        require(operator.items == 1 or levels == 1, "operator", f"{levels} levels", accepted)
        channels, *image = operator.img_size
        first, *measurement = operator.measurement_size
        super().__init__(
            (channels, slices, *image),
            (first, slices, *measurement),
            operator.noise_model.sigma,
            complex_image=operator.complex_image,
            complex_measurement=operator.complex_measurement,
        )
        self.operator = operator
        self.part = part or Part()
        self.to(operator.device)

    @property
    def slices(self) -> int:
        """Number of slices."""
        return int(self.img_size[1])

    def check_measurement(self, y: Tensor) -> None:
        """Raise unless ``y`` fits, (B, K, D, ...)."""
        self._check("y", y, self.measurement_size, self.complex_measurement)

    def restricted_to(self, part: Part) -> "Stacked":
        """Return the operator of the slices that a process holds."""
        own = Stacked(self.operator, part.stop - part.start, part)
        own.noise_model = self.noise_model
        return own

    def scaled(self, factor: complex) -> LinearOperator:
        """Return ``factor * A``, on the slices of the same part."""
        return Stacked(self.operator.scaled(factor), self.img_size[1], self.part)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.by_slice(x, self.operator.A)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.by_slice(y, self.operator.A_adjoint)

    def A_adjoint_A(self, x: Tensor, **kwargs: object) -> Tensor:
        """Return ``A^H A x``, with the operator's ``A_adjoint_A``."""
        self._check("x", x, self.img_size, self.complex_image)
        return self.by_slice(x, self.operator.A_adjoint_A)

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return the slices' approximate inverses, if the operator has one for all slices."""
        alike = weight.ndim == 0 or weight.numel() == len(weight)  # one weight for each volume
        if self.operator.items > 1 or not alike:
            return None
        each = weight if weight.ndim == 0 else weight.flatten().repeat_interleave(self.slices)
        inverse = self.operator.preconditioner(each if each.ndim == 0 else each.view(-1, 1, 1, 1))
        return None if inverse is None else partial(self.by_slice, apply=inverse)

    def normal_function(self, f: Spectral, b: Tensor) -> Tensor | None:
        """Return ``f(A^H A) b``, if the operator has its eigenvectors, for all slices alike."""
        if self.operator.items > 1:
            return None

        def each(values: Tensor) -> Tensor:
            found = f(values)
            return found if len(found) == 1 else found.repeat_interleave(b.shape[2], 0)

        slices = self.operator.normal_function(each, b.transpose(1, 2).flatten(0, 1))
        return None if slices is None else slices.unflatten(0, (len(b), -1)).transpose(1, 2)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return each slice's pseudo-inverse."""
        self.check_measurement(y)
        return self.by_slice(y, self.operator.A_dagger)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        return self.by_slice(y, self.operator.restrict)

    def by_slice(self, value: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        """Return what a map makes of each slice of (B, K, D, ...)."""
        if self.operator.items > 1 and len(value) > 1:  # it has parameters for one volume
            return torch.cat([self.by_slice(volume, apply) for volume in value.split(1)])
        slices = value.transpose(1, 2).flatten(0, 1)
        return torch.unflatten(apply(slices), 0, (len(value), -1)).transpose(1, 2)
