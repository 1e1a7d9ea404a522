"""Volumes with a 2-D prior on the slices and total variation between them, by ADMM."""

from dataclasses import dataclass
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Kind, NonNegative, Positive
from wellposed.linalg import conjugate_gradient, largest_eigenvalue, per_item
from wellposed.noise import NoiseSource
from wellposed.parallel.part import Part
from wellposed.solvers.base import Solver, State
from wellposed.solvers.problem import Problem

DATA_RANGE = 2.0
"""Width of the prior's ``data_range`` in its units, -1 to 1."""

AXES = {"z": -3, "y": -2, "x": -1}
"""Axes of volumes (B, C, D, H, W) by name."""


class Axes(Kind):
    """One or more of the names of `AXES`, without repetition."""

    def __init__(self) -> None:
        super().__init__('one or more of "zyx", without repetition')

    def admits(self, value: object) -> bool:
        """Return whether a value is such a string."""
        if not isinstance(value, str) or value == "":
            return False
        return all(name in AXES and value.count(name) == 1 for name in value)


@dataclass(frozen=True, eq=False)
class VolumeState(State):
    """State of a solver of volumes.

    Attributes:
        d: split variable for ``D x``, (B, axes, C, D, H, W), in units; kept between steps.
        u: scaled dual variable of ``d``, of the same shape.
        norm2: ``||A||^2`` of each item, (B,); rho and lambda are relative to it.
    """

    d: Tensor
    u: Tensor
    norm2: Tensor


@dataclass(frozen=True, kw_only=True)
class VolumeSolver(Solver):
    r"""Base of the solvers for volumes: one ADMM sweep per step, for total variation.

    The sweep decreases ``||A x - y||^2 / 2 + lambda ||D x||_1``, where D takes differences along
    z. ``d`` and ``u`` are kept between steps, starting from 0::

        x <- CG_M( A^H A + rho D^H D,  A^H y + rho D^H (d - u);  start x )
        d <- soft(D x + u, lambda / rho)
        u <- u + D x - d

    rho and lambda are relative to ``||A||^2``, estimated once by power iterations, and lambda
    also to the prior's ``data_range``, so the result does not depend on the units of the data and
    the images. The published numbers are absolute, for images in [0, 1] and the published CT
    operator, whose ``||A||^2`` is 390 at 256 x 256 pixels: rho 10 and lambda .04 for 8 views are
    10 / 390 and .04 / 390 here, and lambda .4 for views from 0 to 119 degrees is .4 / 390. For
    MRI, with ``||A||^2 = 1`` and magnitudes up to 1, DiffusionMBIR has rho .01 and lambda .005;
    this is .0025 here, since the data range of complex images is -1 to 1.

    Args:
        rho: penalty of ADMM over ``||A||^2``.
        lam: lambda, weight of the total variation, over ``||A||^2`` and the data range.
        cg_steps: conjugate-gradient steps M.
        tv_axes: axes of the differences, one or more of "z", "y" and "x"; anisotropic, with the
            same rho and lambda.
        circular: also take the difference between the last slice and the first, as in the
            published code.
    """

    rho: Positive = 10 / 390
    lam: NonNegative = 0.04 / 390
    cg_steps: Count = 5
    tv_axes: Annotated[str, Axes()] = "z"
    circular: bool = False

    linear_only: ClassVar[bool] = True
    volumes_only: ClassVar[bool] = True

    @property
    def volume_arrays(self) -> int:
        """Measured number of arrays of a volume's size; d, u and D x need one per axis."""
        return 12 + 4 * len(self.tv_axes)

    @property
    def inner_steps(self) -> int:
        """Conjugate-gradient steps of a sweep."""
        return self.cg_steps

    def init(self, problem: Problem, noise: NoiseSource) -> VolumeState:
        """Start from pure noise, with ``d`` and ``u`` zero."""
        start, part = super().init(problem, noise), problem.part
        norm2 = largest_eigenvalue(problem.normal, problem.back_projection, space=problem.space)
        zeros = torch.zeros_like(self._D(start.x, part))
        return VolumeState(start.x, start.x0, zeros, zeros, torch.where(norm2 > 0, norm2, 1))

    def sweep(
        self, x: Tensor, state: VolumeState, problem: Problem, pull: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return ``x, d, u`` after one ADMM sweep started at ``x``, an image in units.

        ``pull`` is the weight of ``||x' - x||^2`` in its minimisation, (B,).
        """
        part, rho = problem.part, per_item(self.rho * state.norm2, x)
        kept = None if pull is None else per_item(pull, x)

        def apply(v: Tensor) -> Tensor:
            applied = problem.normal(v) + rho * self._D_adjoint(self._D(v, part), part)
            return applied if kept is None else applied + kept * v

        b = problem.back_projection + rho * self._D_adjoint(state.d - state.u, part)
        b = b if kept is None else b + kept * x
        x = conjugate_gradient(apply, b, x, iterations=self.inner_steps, space=problem.space).x
        jump = self._D(x, part) + state.u
        d = soft_threshold(jump, DATA_RANGE * self.lam / self.rho)
        return x, d, jump - d

    def _D(self, x: Tensor, part: Part) -> Tensor:
        return torch.stack([part.difference(x, AXES[n], self.circular) for n in self.tv_axes], 1)

    def _D_adjoint(self, d: Tensor, part: Part) -> Tensor:
        split = zip(d.unbind(1), self.tv_axes, strict=True)
        back = [part.difference_adjoint(v, AXES[n], self.circular) for v, n in split]
        return sum(back[1:], start=back[0])


def soft_threshold(v: Tensor, threshold: float) -> Tensor:
    """Return ``v``, real or complex, with magnitudes reduced by ``threshold``, but at least 0."""
    return torch.sgn(v) * (v.abs() - threshold).clamp(min=0)
