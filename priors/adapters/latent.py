"""Diffusions in the latent space of an autoencoder."""

from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.priors.prior import Prior


class Latent(Prior):
    """A prior on the latents of an autoencoder, as a prior on images.

    Its units are scaled latents ``z``, and the diffusion ``x_t = alpha_t z + sigma_t eps`` runs
    there; `to_public` decodes and `to_units` encodes. Decoding is differentiable; a ``VQModel``
    rounds latents to its codebook, through which the gradient passes unchanged. Rombach et al.,
    "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv 2112.10752.

    Args:
        prior: the prior on scaled latents; its ``data_range`` is not used.
        autoencoder: a diffusers ``AutoencoderKL`` or ``VQModel``; it is put in evaluation mode
            and frozen.
        scaling_factor: of the latents, ``z = scaling_factor (encoded - shift_factor)``.
        shift_factor: see there.
        data_range: public values of -1 and 1 in the autoencoder's images.

    Raises:
        ArgumentError: another kind of autoencoder, or a prior that does not fit its latents.
    """

    def __init__(
        self,
        prior: Prior,
        autoencoder: nn.Module,
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        data_range: tuple[float, float] = (0.0, 1.0),
    ) -> None:
        from diffusers import AutoencoderKL, VQModel

        known, kind = isinstance(autoencoder, (AutoencoderKL, VQModel)), type(autoencoder).__name__
        require(known, "autoencoder", kind, "a diffusers AutoencoderKL or VQModel")
        config: Any = autoencoder.config
        latents = int(config.get("vq_embed_dim") or config.latent_channels)
        fits = prior.is_affine and not prior.is_complex and prior.channels in (None, latents)
        got = f"{type(prior).__name__} of {prior.channels} channels"
        require(fits, "prior", got, f"a real one of the autoencoder's {latents} latent channels")
        require(scaling_factor > 0, "scaling_factor", scaling_factor, "above 0")
        super().__init__(prior.schedule, int(config.in_channels), data_range=data_range)
        self.prior = prior
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        self.scaling_factor, self.shift_factor = float(scaling_factor), float(shift_factor)
        self.latent_channels = latents
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    @classmethod
    def from_config(
        cls, prior: Prior, autoencoder: Any, data_range: tuple[float, float] = (0.0, 1.0)
    ) -> "Latent":
        """Return a latent prior with the factors that the autoencoder's config names.

        Raises:
            ArgumentError: see the class; also a config with a mean and deviation per channel.
        """
        config = autoencoder.config
        plain = config.get("latents_mean") is None and config.get("latents_std") is None
        require(plain, "autoencoder", "latents_mean or latents_std", "one factor for all channels")
        shift = config.get("shift_factor") or 0.0
        return cls(prior, autoencoder, config.scaling_factor, shift, data_range)

    @property
    def is_affine(self) -> bool:
        """False: units are a network's code of public values."""
        return False

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return ``E[z | x_t]`` of scaled latents (B, c, h, w); see `Prior.denoise`."""
        return self.prior.denoise(x_t, t, condition)

    def to_units(self, x: Tensor) -> Tensor:
        """Encode public images (B, C, H, W): scaled latents, the mean where they have a spread."""
        encoded = self.autoencoder.encode(super().to_units(x).to(self.autoencoder.dtype))
        latents = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latents
        return (latents.to(x.dtype) - self.shift_factor) * self.scaling_factor

    def to_public(self, u: Tensor) -> Tensor:
        """Decode scaled latents (B, c, h, w): public images."""
        latents = u / self.scaling_factor + self.shift_factor
        image = self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample
        return super().to_public(image.to(u.dtype))

    def unit_shape(self, image_shape: torch.Size) -> torch.Size:
        """Return the shape (B, c, h, w) of the latents of images (B, C, H, W).

        Raises:
            ShapeError: another number of axes, or sides that the autoencoder does not divide.
        """
        if len(image_shape) != 4 or any(side % self.factor for side in image_shape[2:]):
            raise ShapeError(
                f"prior: made for images (B, C, H, W) with sides in multiples of {self.factor}, "
                f"but the operator's images have shape {tuple(image_shape)}"
            )
        sides = [side // self.factor for side in image_shape[2:]]
        return torch.Size((image_shape[0], self.latent_channels, *sides))

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Refuse: noise on pixels is no noise on latents, of which this prior knows.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(
            "prior: a latent prior removes noise from latents, not from images, accepted as a "
            "denoiser of images: a prior on images; to solve with this one, use a solver"
        )

    def given(self, condition: Any) -> "Latent":
        """Return this prior with the condition of its latent prior fixed; see `Prior.given`."""
        inner = self.prior.given(condition)
        factors = self.scaling_factor, self.shift_factor
        return Latent(inner, self.autoencoder, *factors, self.data_range)

    def check_image(self, x: Tensor) -> None:
        """Raise unless images like ``x``, and their latents, suit; see `Prior.check_image`."""
        super().check_image(x)
        self.prior.check_image(x.new_empty(self.unit_shape(x.shape)))
