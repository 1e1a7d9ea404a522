"""Operators with an unknown parameter: image and parameter are measured together."""

from abc import abstractmethod
from collections.abc import Sequence

import torch
from torch import Tensor

from wellposed.checks import Count
from wellposed.operators.base import LinearOperator
from wellposed.operators.image.nonlinear import NonlinearOperator


class Bilinear(NonlinearOperator):
    """``y = A(theta) x + n`` with unknown x and theta, linear in each of them.

    The unknown of blind problems is one tensor, image and parameter stacked on the channel axis.
    Its prior is a `priors.Product`. Solvers for nonlinear operators take it; `DPS` is then
    BlindDPS (Chung et al., "Parallel Diffusion Models of Operator and Image for Blind Inverse
    Problems", CVPR 2023, arXiv 2211.10656). With one of both fixed the operator is linear in the
    other, see `given_parameter` and `given_image`, and proximal solutions are exact. What the data
    cannot tell, such as the share of brightness of image and parameter, is fixed by `normalised`.

    Args:
        image_size: (C, H, W).
        parameter_channels: channels of the parameter, whose sides are those of the image.
        measurement_size: shape of one measurement.
        noise_sigma: noise level in ``y``.
        complex_image: image and parameter are complex.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> operator = operators.BlindBlur((3, 16, 16), kernel_size=5)  # a Bilinear operator
        >>> kernel = operator.canvas(operators.gaussian_kernel(1.0, size=5)).float()
        >>> blur = operator.given_parameter(kernel)  # linear in the image
        >>> blur.A(torch.rand(1, 3, 16, 16)).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        image_size: Sequence[Count],
        parameter_channels: Count,
        measurement_size: Sequence[Count],
        noise_sigma: float | Tensor = 0.0,
        complex_image: bool = False,
    ) -> None:
        channels, *sides = image_size
        joint = (channels + parameter_channels, *sides)
        super().__init__(joint, measurement_size, noise_sigma, complex_image)
        self.channels = [channels, parameter_channels]

    @abstractmethod
    def given_parameter(self, parameter: Tensor) -> LinearOperator:
        """Return the operator of images, for the parameters (B, P, H, W) of the items."""

    @abstractmethod
    def given_image(self, image: Tensor) -> LinearOperator:
        """Return the operator of parameters, for the images (B, C, H, W) of the items."""

    def normalised(self, parameter: Tensor) -> Tensor:
        """Return parameters (B, P, H, W) with what the data cannot tell set; unchanged here."""
        return parameter

    def centred(self, image: Tensor, parameter: Tensor) -> tuple[Tensor, Tensor]:
        """Return both without the shift against each other that the data cannot tell, if any."""
        return image, parameter

    def prefiltered(self, values: Tensor) -> Tensor:
        """Return images or measurements as they are compared to fit a parameter; unchanged here.

        A filter must commute with A. It should make errors of images about white.
        """
        return values

    def A_dagger(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return a start for solvers, that of ``A_adjoint``."""
        return self.A_adjoint(y)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return image (B, C, H, W) and parameter (B, P, H, W) of an unknown."""
        image, parameter = torch.split(x, self.channels, 1)
        return image, parameter

    def join(self, image: Tensor, parameter: Tensor) -> Tensor:
        """Return the unknown of an image and a parameter."""
        return torch.cat([image, parameter.expand(len(image), *parameter.shape[1:])], 1)
