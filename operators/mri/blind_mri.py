"""Multi-coil MRI whose coil maps are unknown."""

import torch
from torch import Tensor

from wellposed.checks import Count, require_integer
from wellposed.errors import ShapeError
from wellposed.operators.base import LinearOperator
from wellposed.operators.bilinear import Bilinear
from wellposed.operators.linear_map import binary_mask, check_batch
from wellposed.operators.mri.cartesian import MultiCoilMRI, fft2c, ifft2c
from wellposed.operators.mri.coils import root_sum_of_squares


class BlindMRI(Bilinear):
    """``y_c = M F (S_c x) + n``: multi-coil Cartesian MRI with unknown coil maps ``S_c``.

    The maps are further channels of the unknown, (B, 1 + coils, H, W), complex. Only products of
    image and maps are measured; their priors decide the rest. That of maps is smooth, such as
    ``GaussianPrior(rough_maps, Matern((H, W), length=H / 4, std=0.3), is_complex=True)``. This is
    the joint problem of JSENSE (Ying and Sheng, 2007, doi 10.1002/mrm.21245) and of regularised
    nonlinear inversion (Uecker et al., 2008, doi 10.1002/mrm.21691).

    Args:
        mask: sampling mask (H, W) or (B, H, W), 0 or 1; lines are ``line.expand(H, W)``.
        coils: number of coils.
        noise_sigma: noise in the real and in the imaginary part of k-space.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> mask = operators.uniform_random_lines(16, acceleration=2, center_fraction=0.25, seed=0)
        >>> operator = operators.BlindMRI(mask.expand(16, 16), coils=4, noise_sigma=0.01)
        >>> maps = operators.simulate_sensitivity_maps(4, 16, 16, seed=0)
        >>> image = torch.rand(1, 1, 16, 16) + 0j
        >>> operator.A(torch.cat([image, maps[None]], 1)).shape  # the unknown is image and maps
        torch.Size([1, 4, 16, 16])
    """

    mask: Tensor

    def __init__(self, mask: Tensor, coils: Count, noise_sigma: float | Tensor = 0.0) -> None:
        mask = binary_mask(mask, 3)
        size = (require_integer("coils", coils), *mask.shape[1:])
        super().__init__((1, *mask.shape[1:]), coils, size, noise_sigma, complex_image=True)
        self.register_buffer("mask", mask[:, None])

    def normalised(self, parameter: Tensor) -> Tensor:
        """Return maps whose squared magnitudes sum to 1 in each pixel, if they are not all 0."""
        size = root_sum_of_squares(parameter)
        return torch.where(size > 0, parameter / torch.where(size > 0, size, 1), parameter)

    def given_parameter(self, parameter: Tensor) -> LinearOperator:
        """Return `MultiCoilMRI` with maps (B, coils, H, W)."""
        return MultiCoilMRI(self.mask[:, 0], parameter, self.noise_model.sigma)

    def given_image(self, image: Tensor) -> LinearOperator:
        """Return the map from coil maps to the k-space of an ``image`` (B, 1, H, W)."""
        return CoilMapMRI(self.mask, image, self.measurement_size[0], self.noise_model.sigma)

    def restrict(self, y: Tensor) -> Tensor:
        """Return k-space with zeros where the mask is zero."""
        if len(self.mask) not in (1, len(y)):
            raise ShapeError(
                f"mask: got one for each of {len(self.mask)} items, accepted: 1, or one for each "
                f"of {len(y)} items"
            )
        return self.mask.to(y.real.dtype) * y

    def forward_map(self, x: Tensor) -> Tensor:
        image, maps = self.split(x)
        return self.restrict(fft2c(maps * image))

    def A_adjoint(self, y: Tensor, **kwargs: object) -> Tensor:
        """Return the magnitude of the zero-filled coil images, and their shares of it as maps."""
        check_batch("y", y, self.measurement_size, is_complex=True)
        coil_images = ifft2c(self.restrict(y))
        magnitude = root_sum_of_squares(coil_images)
        least = torch.finfo(magnitude.dtype).tiny
        return self.join(magnitude.to(y.dtype), coil_images / magnitude.clamp(min=least))


class CoilMapMRI(LinearOperator):
    """``S_c -> M F (S_c x)``: the k-space of known images as a map of the coil maps.

    Args:
        mask: (1 or B, 1, H, W).
        image: (B, 1, H, W), complex, one for each item or one for all.
        coils: number of coils.
        noise_sigma: noise in the real and in the imaginary part of k-space.
    """

    _of_items = ("image", "mask")
    image: Tensor
    mask: Tensor

    def __init__(
        self, mask: Tensor, image: Tensor, coils: int, noise_sigma: float | Tensor = 0.0
    ) -> None:
        size = (coils, *image.shape[2:])
        super().__init__(
            *(size, size, noise_sigma),
            complex_image=True,
            complex_measurement=True,
            items=max(len(image), len(mask)),
        )
        self.register_buffer("image", image)
        self.register_buffer("mask", mask)
        self.to(image.device)

    def forward_map(self, x: Tensor) -> Tensor:
        return self.restrict(fft2c(self.image.to(x.dtype) * x))

    def adjoint_map(self, y: Tensor) -> Tensor:
        return self.image.to(y.dtype).conj() * ifft2c(self.restrict(y))

    def restrict(self, y: Tensor) -> Tensor:
        """Return k-space with zeros where the mask is zero."""
        return self.mask.to(y.real.dtype) * y
