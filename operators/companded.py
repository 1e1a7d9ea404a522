"""Operators whose images are companded."""

from torch import Tensor

from wellposed.errors import is_positive, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.companding import compand, expand
from wellposed.operators.image.nonlinear import NonlinearOperator
from wellposed.operators.linear_map import check_batch


class Companded(NonlinearOperator):
    """``y = C(A C^-1(x)) + n``: ``A`` acts on linear values, images and data are companded by C.

    It is used for dehazing ultrasound RF data, which add up linearly and are companded for the
    networks (Stevens et al., "Dehazing Ultrasound Using Diffusion Models", IEEE TMI 2024, arXiv
    2307.11204). Solvers for nonlinear problems apply it to the denoised estimate, as most values
    of a noisy state are outside the range.

    Args:
        operator: real operator on linear values in [-1, 1] of images (C, H, W); a `Superposition`
            for sums.
        mu: strength of `companding.compand`.
        compressed_data: whether ``y`` is companded too, as published, or linear, in which
            electronic noise is Gaussian.
        noise_sigma: noise level in ``y``.

    Raises:
        ArgumentError: ``mu`` is not positive and finite, or the operator not linear and real.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.Companded(operators.Denoising((1, 16, 16)), mu=255.0)
        >>> x = 2 * torch.rand(1, 1, 16, 16) - 1  # companded RF
        >>> torch.allclose(operator.A(x), x, atol=1e-5)
        True
    """

    def __init__(
        self,
        operator: LinearOperator,
        mu: float = 255.0,
        *,
        compressed_data: bool = True,
        noise_sigma: float | Tensor = 0.0,
    ) -> None:
        real = isinstance(operator, LinearOperator)
        real = real and not (operator.complex_image or operator.complex_measurement)
        require(real, "operator", operator, "a real wellposed linear operator")
        require(is_positive(mu), "mu", mu, "a positive number")
        super().__init__(operator.img_size, operator.measurement_size, noise_sigma)
        self.operator, self.mu, self.compressed_data = operator, float(mu), compressed_data
        self.to(operator.device)

    def forward_map(self, x: Tensor) -> Tensor:
        y = self.operator.A(expand(x, self.mu))
        return compand(y, self.mu) if self.compressed_data else y

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return ``C(A^H C^-1(y))``, an image of the size of ``x``."""
        return compand(self.operator.A_adjoint(self._linear(y)), self.mu)

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the companded pseudo-inverse, which fits ``y`` if that is possible."""
        return compand(self.operator.A_dagger(self._linear(y)), self.mu)

    def restrict(self, y: Tensor) -> Tensor:
        """Return ``y`` with entries that are never measured set to zero."""
        return self.operator.restrict(y)

    def _linear(self, y: Tensor) -> Tensor:
        check_batch("y", y, self.measurement_size)
        return expand(y, self.mu) if self.compressed_data else y
