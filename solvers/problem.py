"""The inverse problem as solvers see it: measurement, operator and prior in the prior's units.

A prior has its own units ``u = (x - centre) / scale``, in which the papers state their
hyper-parameters. For a linear operator ``y = A x + n`` becomes::

    (y - A centre) / scale = A u + n / scale

Only this module converts between public values and units: solvers see only ``u``. The units of a
latent prior are the code of an autoencoder, in which no measurement is linear.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, cast

import torch
from torch import Tensor

from wellposed.checks import require_batch
from wellposed.errors import ArgumentError, ShapeError, check_finite
from wellposed.linalg import WHOLE, Space
from wellposed.operators.check import (
    is_linear_operator,
    noise_levels,
    require_adjoint,
    require_operator,
    warn_of_noise,
)
from wellposed.operators.physics import Forward
from wellposed.parallel.part import Part, part_of
from wellposed.priors.anchor import Condition, Degraded
from wellposed.priors.prediction import Components
from wellposed.priors.prior import Prior

if TYPE_CHECKING:
    from deepinv.physics import Physics

T = TypeVar("T")
Method = Callable[[Tensor, float | Tensor, Condition], T]
"""A method of a prior, as `Prior.denoise`."""


@dataclass(frozen=True, eq=False)
class Problem:
    """Measurement, operator and prior in the prior's units; a value.

    For a prior with an anchor the measurement is the degraded image, and the operator may be
    unknown.

    Attributes:
        y: measurement in units (B, ...); the degraded image itself if there is no operator.
        operator: the operator; ``None`` if the degradation is unknown. In linear problems it acts
            on ``scale * u``, the public image minus the centre; in others on public images.
        prior: the prior.
        image_shape: shape (B, C, ...) of the images in units.
        image_dtype: dtype of the images.
        is_linear: whether the measurement is linear in units.
        condition: the degraded image for a prior with an anchor; ``None`` for plain priors.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> problem = solvers.Problem.create(torch.rand(1, 1, 8, 8), operator, prior)
        >>> problem.is_linear, problem.image_shape
        (True, torch.Size([1, 1, 8, 8]))
    """

    y: Tensor
    operator: "Physics | None"
    prior: Prior
    image_shape: torch.Size
    image_dtype: torch.dtype
    is_linear: bool
    condition: Degraded | None = None

    @classmethod
    def create(cls, y: Tensor, operator: "Physics | None", prior: Prior | None) -> "Problem":
        """Return the problem; check ``y``, operator and prior before any network call.

        Raises:
            DtypeError, ShapeError, DeviceError, NonFiniteError, ArgumentError: see
                `wellposed.errors`; the message names the argument and what is accepted.
        """
        if operator is None and isinstance(prior, Prior) and prior.anchor is not None:
            return cls._blind(y, prior)
        prior = _checked_prior(prior)
        operator = require_operator(operator, y)
        y = y.detach()
        back = operator.A_adjoint(y)
        y = operator.restrict(y) if hasattr(operator, "restrict") else y
        prior.check_image(back)
        if is_linear_operator(operator):
            require_adjoint(operator, y, back)
        acting = prior.in_units(operator) if is_linear_operator(operator) else None
        warn_of_noise(y, operator)
        is_linear, shape = acting is not None, prior.unit_shape(back.shape)
        given = None if prior.anchor is None else _condition(y, prior, back.shape)
        acting = acting if is_linear else operator
        public = cls(y, acting, prior, shape, back.dtype, is_linear, given)
        centred = not is_linear or not bool(prior.to_units(public.zeros()).any())
        return replace(public, y=(y if centred else y - public.A_centre) / prior.scale)

    @classmethod
    def _blind(cls, y: Tensor, prior: Prior) -> "Problem":
        """Return the problem of restoring degraded images (B, C, h, w) of an unknown operator."""
        require_batch("y", y)
        if y.ndim != 4 or y.is_complex():
            raise ShapeError(
                f"y: got {y.dtype} of shape {tuple(y.shape)}, accepted: real degraded images "
                "(B, C, h, w)"
            )
        y = check_finite("y", y).detach()
        clean = torch.Size((*y.shape[:2], *(n * prior.upsample for n in y.shape[2:])))
        prior.check_image(y[:1, :, :1, :1].expand(clean))
        condition, shape = _condition(y, prior, clean), prior.unit_shape(clean)
        return cls(y, None, prior, shape, y.dtype, is_linear=False, condition=condition)

    def repeated(self, count: int) -> "Problem":
        """Return the problem with its one item repeated ``count`` times, however often it was."""
        given = self.condition
        if given is not None:
            given = Degraded(*(v[:1].expand(count, *v.shape[1:]) for v in given))
        y, shape = self.y[:1].expand(count, *self.y.shape[1:]), (count, *self.image_shape[1:])
        return replace(self, y=y, image_shape=torch.Size(shape), condition=given)

    def once(self, make: Callable[["Problem"], T]) -> T:
        """Return ``make(self)``, made at the first call: a run keeps its problem."""
        if make not in self._made:
            self._made[make] = make(self)
        return cast("T", self._made[make])

    @cached_property
    def _made(self) -> dict[Callable[["Problem"], object], object]:
        return {}

    @property
    def anchor(self) -> Tensor | float:
        """``m`` of the diffusion, in units: the degraded image, or 0 without an anchor."""
        return 0.0 if self.condition is None else self.condition.anchor

    def to_public(self, u: Tensor) -> Tensor:
        """Return images in public values."""
        return self.prior.to_public(u)

    def evaluate(self, network: Method[T], x_t: Tensor, t: float | Tensor) -> T:
        """Return ``network(x_t, t)`` for a method of the prior; every evaluation is made here."""
        return network(x_t, t, self.condition)

    def denoise(self, x_t: Tensor, t: float | Tensor) -> Tensor:
        """Return ``E[x_0 | x_t]``; differentiable if ``x_t`` requires a gradient."""
        wanted = x_t.requires_grad and torch.is_grad_enabled()
        with torch.set_grad_enabled(wanted):
            x0: Tensor = self.evaluate(self.prior.denoise, x_t, t)
        return x0

    def components(self, x_t: Tensor, t: float) -> Components:
        """Return the `Components` of ``x_t``, with one evaluation."""
        components: Components = self.evaluate(self.prior.components, x_t, t)
        return components

    @cached_property
    def noise_sigma(self) -> Tensor:
        """Noise level of each item in units, (B,); 0 if the operator has none.

        Raises:
            ShapeError: the operator has neither one noise level nor one per item.
        """
        like = self.y.real
        sigma = noise_levels(self.operator, len(like))
        return sigma.to(like.dtype).to(like.device).expand(len(like)) / self.prior.scale

    @property
    def part(self) -> Part:
        """The slices of the volume that this process holds."""
        return part_of(self.operator)

    @property
    def space(self) -> Space:
        """The inner product of images and of measurements, over all parts."""
        return WHOLE if self.part.processes == 1 else Space(self.part.sum)

    @property
    def known(self) -> Forward:
        """The operator, which must be known."""
        operator: Forward | None = self.operator
        assert operator is not None
        return operator

    def A(self, u: Tensor) -> Tensor:
        """Return the noise-free measurement of ``u``, in units."""
        if self.is_linear:
            return self.known.A(u)
        return self.known.A(self.to_public(u)) / self.prior.scale

    def A_adjoint(self, y: Tensor) -> Tensor:
        """Return ``A^H y``."""
        return self.known.A_adjoint(y)

    def normal(self, u: Tensor) -> Tensor:
        """Return ``A^H A u``."""
        return self.known.A_adjoint_A(u)

    def preconditioner(self, weight: Tensor) -> Callable[[Tensor], Tensor] | None:
        """Return about ``(A^H A + weight)^-1``, if the operator has such an inverse."""
        make = getattr(self.known, "preconditioner", None)
        return None if make is None else make(weight)

    def normal_function(self, f: Callable[[Tensor], Tensor], b: Tensor) -> Tensor | None:
        """Return ``f(A^H A) b``, if the operator has its eigenvectors at hand.

        Args:
            f: maps the eigenvalues, (1 or B, ...), to factors that broadcast with them.
            b: images (B, ...).
        """
        apply = getattr(self.known, "normal_function", None)
        return None if apply is None else apply(f, b)

    @cached_property
    def back_projection(self) -> Tensor:
        """``A^H y`` of the measurement."""
        return self.A_adjoint(self.y)

    @property
    def A_centre(self) -> Tensor:
        """Measurement of an image with the prior's central value, for linear problems."""
        # A centre of zero has the measurement zero.
        return -self.prior.scale * self.A(self.prior.to_units(self.zeros()))

    def zeros(self) -> Tensor:
        """Return a zero image of the problem's shape, dtype and device."""
        return torch.zeros(self.image_shape, dtype=self.image_dtype, device=self.y.device)


def _checked_prior(prior: Prior | None) -> Prior:
    """Return ``prior``; raise unless it is a prior whose condition solvers can supply."""
    if not isinstance(prior, Prior):
        raise ArgumentError(
            f"prior: got {type(prior).__name__}, accepted: a wellposed Prior; wrap a deepinv "
            "denoiser in priors.DenoiserPrior, or a diffusers model in priors.DiffusersPrior"
        )
    held = any(isinstance(part, Prior) and part.anchor is not None for part in prior.modules())
    if held and prior.anchor is None:
        raise ArgumentError(
            f"prior: got a restorer inside {type(prior).__name__}, accepted: the restorer itself, "
            "or priors.Patchwise(restorer) for large images"
        )
    return prior


def _condition(image: Tensor, prior: Prior, clean: torch.Size) -> Degraded:
    """Return the condition of degraded images; the clean ones have the shape ``clean``."""
    sides = tuple(n * prior.upsample for n in image.shape[2:])
    if image.is_complex() or image.ndim != 4 or sides != tuple(clean[2:]):
        raise ShapeError(
            f"y: got shape {tuple(image.shape)}, accepted: degraded images that have the "
            f"operator's image shape {tuple(clean)} when enlarged {prior.upsample} times"
        )
    with torch.no_grad():
        return prior.degraded(image)
