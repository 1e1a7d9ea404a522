"""The inverse problem as solvers see it: measurement, operator and prior in the prior's units."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, ShapeError, check_finite
from wellposed.linalg import conjugate_gradient, per_item
from wellposed.parallel.part import Slab, slab_of
from wellposed.priors.anchor import Degraded
from wellposed.priors.prediction import Components
from wellposed.priors.prior import Prior
from wellposed.solvers.problem_checks import (
    Unknown,
    check_adjoint,
    check_measurement,
    check_prior,
    check_tensor,
    degraded_condition,
    is_decomposable,
    is_linear_operator,
)

if TYPE_CHECKING:
    from deepinv.physics import Physics

PROXIMAL_STEPS = 100
"""Conjugate-gradient steps of a data term at most."""


@dataclass
class Problem:
    """``y = A(x) + n`` rewritten for ``u = (x - centre) / scale``, the prior's units.

    This is the one place where public values meet the prior's units: for a linear operator
    ``(y - A centre) / scale = A u + n / scale``. Solvers see only ``u``. The units of a latent
    prior are an autoencoder's code, so that no measurement is linear in them.

    With a prior about an anchor the measurement is the degraded image, whose operator need not be
    known.

    Attributes:
        y: measurement in units (B, ...); of an `Unknown` operator the degraded image itself.
        operator: the operator, acting on public images; of linear problems on units times the
            prior's ``scale``, which differ only by the prior's centre and, of a `Product`, by the
            units of its blocks.
        prior: the prior.
        image_shape: shape (B, C, ...) of the images.
        evaluations: calls of the prior so far.
        condition: the degraded image of a prior with an anchor; None for plain priors.
    """

    y: Tensor
    operator: "Physics"
    prior: Prior
    image_shape: torch.Size
    image_dtype: torch.dtype
    is_linear: bool
    evaluations: int = field(default=0)
    condition: Degraded | None = None

    @classmethod
    def create(cls, y: Tensor, operator: "Physics | None", prior: Prior) -> "Problem":
        """Check ``y``, operator and prior against each other; raise before any network call.

        Raises:
            DtypeError, ShapeError, DeviceError, NonFiniteError, ArgumentError: see
                `wellposed.errors`; the message names the argument and what is accepted.
        """
        if operator is None and isinstance(prior, Prior) and prior.anchor is not None:
            return cls._blind(y, prior)
        check_prior(prior)
        check_measurement(y, operator)
        assert operator is not None
        y = y.detach()
        back = operator.A_adjoint(y)
        y = operator.restrict(y) if hasattr(operator, "restrict") else y
        prior.check_image(back)
        if is_linear_operator(operator):
            check_adjoint(operator, y, back)
        acting = prior.in_units(operator) if is_linear_operator(operator) else None
        is_linear, shape = acting is not None, prior.unit_shape(back.shape)
        problem = cls(y, acting if is_linear else operator, prior, shape, back.dtype, is_linear)
        if prior.anchor is not None:
            problem.condition = degraded_condition(y, prior, back.shape)
        centred = not is_linear or not bool(prior.to_units(problem.zeros()).any())
        problem.y = (y if centred else y - problem.A_centre) / prior.scale
        return problem

    @classmethod
    def _blind(cls, y: Tensor, prior: Prior) -> "Problem":
        """Return the problem of restoring degraded images (B, C, h, w) by an unknown operator."""
        check_tensor(y)
        if y.ndim != 4 or y.is_complex():
            raise ShapeError(
                f"y: got {y.dtype} of shape {tuple(y.shape)}, accepted: real degraded images "
                "(B, C, h, w)"
            )
        y = check_finite("y", y).detach()
        sides = (n * prior.upsample for n in y.shape[2:])
        clean = torch.Size((*y.shape[:2], *sides))
        prior.check_image(y[:1, :, :1, :1].expand(clean))
        condition, shape = degraded_condition(y, prior, clean), prior.unit_shape(clean)
        return cls(y, Unknown(), prior, shape, y.dtype, is_linear=False, condition=condition)

    @property
    def anchor(self) -> Tensor | float:
        """``m`` of the diffusion, in units: the degraded image, 0 without an anchor."""
        return 0.0 if self.condition is None else self.condition.anchor

    def repeated(self, count: int) -> "Problem":
        """Return the problem of ``count`` samples of its one item, none evaluated so far."""
        given = self.condition
        if given is not None:
            given = Degraded(*(v.expand(count, *v.shape[1:]) for v in given))
        y, shape = self.y.expand(count, *self.y.shape[1:]), (count, *self.image_shape[1:])
        return replace(self, y=y, image_shape=torch.Size(shape), evaluations=0, condition=given)

    def to_public(self, u: Tensor) -> Tensor:
        """Return images in public values."""
        return self.prior.to_public(u)

    def denoise(self, x_t: Tensor, t: float) -> Tensor:
        """Return ``E[x_0 | x_t]``, counting the evaluation; differentiable if ``x_t`` asks."""
        self.evaluations += 1
        wanted = x_t.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted):
            x0 = self.prior.denoise(x_t, t, self.condition)
        if wanted and not x0.requires_grad:
            raise ArgumentError(
                f"prior: {type(self.prior).__name__} cannot be differentiated, accepted by such "
                "solvers: one whose denoise keeps the graph"
            )
        return x0

    def components(self, x_t: Tensor, t: float) -> Components:
        """Return what ``x_t`` is made of, see `Components`, counting the evaluation."""
        self.evaluations += 1
        return self.prior.components(x_t, t, self.condition)

    def denoise_with_vjp(self, x_t: Tensor, t: float) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return ``E[x_0 | x_t]`` and the map ``v -> J^T v`` with its Jacobian ``J`` in ``x_t``.

        Complex images count as pairs of real numbers, so that ``J^T`` is the adjoint for
        ``Re <a, b>``.
        """
        with torch.enable_grad():
            x = x_t.detach().requires_grad_()
            x0 = self.denoise(x, t)

        def vjp(v: Tensor) -> Tensor:
            return torch.autograd.grad(x0, x, v, retain_graph=True)[0]

        return x0.detach(), vjp

    @cached_property
    def noise_sigma(self) -> Tensor:
        """Noise level of each item in units, shape (B,); 0 where the operator knows of none.

        Raises:
            ShapeError: the operator holds neither one level nor one for each item.
        """
        sigma = getattr(getattr(self.operator, "noise_model", None), "sigma", None)
        like = self.y.real
        sigma = torch.zeros(1) if sigma is None else torch.as_tensor(sigma).flatten()
        if len(sigma) not in (1, len(like)):
            raise ShapeError(
                f"operator: holds {len(sigma)} noise levels, accepted: 1 or one for each of the "
                f"{len(like)} items"
            )
        return sigma.to(like.dtype).to(like.device).expand(len(like)) / self.prior.scale

    @property
    def slab(self) -> Slab:
        """The slices of the volume that this process holds: all, unless others share it."""
        return slab_of(self.operator)

    def A(self, u: Tensor) -> Tensor:
        """Return the noise-free measurement of ``u``, in units."""
        if self.is_linear:
            return self.operator.A(u)
        return self.operator.A(self.to_public(u)) / self.prior.scale

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return ``A^H y``."""
        return self.operator.A_adjoint(y)

    @property
    def A_centre(self) -> Tensor:
        """Measurement of an image of the prior's central value, for linear problems."""
        # Of the public zero, which measures nothing.
        return -self.prior.scale * self.A(self.prior.to_units(self.zeros()))

    @cached_property
    def back_projection(self) -> Tensor:
        """``A^H y`` of the measurement."""
        return self.A_adjoint(self.y)

    def normal(self, u: Tensor) -> Tensor:
        """Return ``A^H A u``."""
        return self.operator.A_adjoint_A(u)

    def project(self, x0: Tensor, iterations: int) -> Tensor:
        """Return ``x0 + A^+ (y - A x0)``: CG on the normal equations started at ``x0``."""
        b, total = self.back_projection, self.slab.sum
        return conjugate_gradient(self.normal, b, x0, iterations=iterations, total=total).x

    def proximal(self, x0: Tensor, weight: Tensor) -> Tensor:
        """Return ``argmin_x ||A x - y||^2 + weight ||x - x0||^2``, for linear problems.

        With ``weight = sigma_y^2 / v`` the posterior mean of ``x ~ N(x0, v I)``; with 0 the
        projection ``x0 + A^+ (y - A x0)``. In closed form where the operator is ``Decomposable``;
        else by conjugate gradients to a relative residual of 1e-6, with a warning where
        `PROXIMAL_STEPS` leave more than 1e-3. A projection ends there without one: more steps
        would only fit what the operator hardly sees.

        Args:
            x0: images (B, ...), in units.
            weight: of each item, shape (B,), at least 0.
        """
        if is_decomposable(self.operator):
            gap = self.operator.U_adjoint(self.y - self.A(x0))
            s, _, kept = self.spectrum(gap)
            return x0 + self.operator.V(kept * s / (s.square() + per_item(weight, gap)) * gap)
        return x0 + self.damped_inverse(self.back_projection - self.normal(x0), weight)

    def damped_inverse(self, b: Tensor, weight: Tensor) -> Tensor:
        """Return ``(A^H A + weight)^-1 b`` by conjugate gradients; see `proximal`."""
        w = per_item(weight, b)
        found = conjugate_gradient(
            lambda d: self.normal(d) + w * d, b, iterations=PROXIMAL_STEPS, tolerance=1e-6
        )
        if bool(((found.residuals[-1] > 1e-3) & (weight > 0)).any()):
            warnings.warn(
                f"{PROXIMAL_STEPS} conjugate-gradient steps left more than 1e-3 of the residual: "
                "the noise level is small for this operator",
                stacklevel=2,
            )
        return found.x

    def spectrum(self, coordinates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return what a ``Decomposable`` operator measures, broadcast over its coordinates.

        Singular values, 1 where they do not count; the noise level of ``y`` in units; and whether
        a coordinate counts as measured: without noise, where `A_dagger` takes it for one.
        """
        operator = self.operator
        s = operator.singular_values.to(coordinates.real.dtype)
        sigma = per_item(self.noise_sigma, coordinates)
        kept = (s > operator.cutoff * s.max()) | ((s > 0) & (sigma > 0))
        return torch.where(kept, s, 1), sigma, kept

    def A_dagger(self) -> Tensor:
        """Return the pseudo-inverse image of the measurement, in units, as a start."""
        if not self.is_linear:
            return self.prior.to_units(_pseudo_inverse(self.operator, self.y * self.prior.scale))
        return _pseudo_inverse(self.operator, self.y)

    def require_linear(self, solver: str) -> None:
        """Raise unless the measurement is linear in units."""
        if isinstance(self.operator, Unknown):
            raise ArgumentError(f"operator: got None, accepted by {solver}: a linear operator")
        if not is_linear_operator(self.operator):
            raise ArgumentError(
                f"operator: {type(self.operator).__name__} is not linear, accepted by {solver}: "
                "a linear operator"
            )
        if not self.is_linear:
            raise ArgumentError(
                f"prior: {type(self.prior).__name__} decodes its units by a network, accepted by "
                f"{solver}: a prior on images; DPS and REDDiff take latent ones"
            )

    def zeros(self) -> Tensor:
        """Return a zero image of the problem's shape, dtype and device."""
        return torch.zeros(self.image_shape, dtype=self.image_dtype, device=self.y.device)


def _is_ours(operator: "Physics") -> bool:
    return type(operator).__module__.startswith("wellposed.")


def _pseudo_inverse(operator: "Physics", y: Tensor) -> Tensor:
    if _is_ours(operator) or not is_linear_operator(operator):
        return operator.A_dagger(y)
    # A foreign physics' own pseudo-inverse may change its settings; ours does not.
    b = operator.A_adjoint(y)
    return conjugate_gradient(operator.A_adjoint_A, b, iterations=100, tolerance=1e-5).x
