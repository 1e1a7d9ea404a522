"""Autoencoders of restoration processes that run in latents."""

from typing import Any, Protocol

from torch import Tensor, nn

from wellposed.errors import require


class Autoencoder(Protocol):
    """What a latent restorer needs of an autoencoder of images in [-1, 1].

    Attributes:
        factor: sides of an image over those of its latents.
        latent_channels: channels of the latents.
    """

    factor: int
    latent_channels: int

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents of images."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents."""


class Codec(nn.Module):
    """A diffusers ``AutoencoderKL`` or ``VQModel`` as the `Autoencoder` of a restorer.

    Latents are ``scaling_factor (encoded - shift_factor)``: the mean where they have a spread, and
    not rounded to the codebook of a ``VQModel``, which decoding does.

    Args:
        autoencoder: the model; it is put in evaluation mode and frozen.
        scaling_factor: of the latents; 1 for ResShift.
        shift_factor: see there.
    """

    def __init__(
        self, autoencoder: nn.Module, scaling_factor: float = 1.0, shift_factor: float = 0.0
    ) -> None:
        super().__init__()
        from diffusers import AutoencoderKL, VQModel

        known, kind = isinstance(autoencoder, (AutoencoderKL, VQModel)), type(autoencoder).__name__
        require(known, "autoencoder", kind, "a diffusers AutoencoderKL or VQModel")
        require(scaling_factor > 0, "scaling_factor", scaling_factor, "above 0")
        self.autoencoder: Any = autoencoder.eval().requires_grad_(False)
        config: Any = self.autoencoder.config
        self.scaling_factor, self.shift_factor = float(scaling_factor), float(shift_factor)
        self.image_channels = int(config.in_channels)
        self.latent_channels = int(config.get("vq_embed_dim") or config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    def encode(self, x: Tensor) -> Tensor:
        """Return scaled latents of images in [-1, 1]."""
        encoded = self.autoencoder.encode(x.to(self.autoencoder.dtype))
        latents = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latents
        return (latents.to(x.dtype) - self.shift_factor) * self.scaling_factor

    def decode(self, z: Tensor) -> Tensor:
        """Return images in [-1, 1] of scaled latents."""
        latents = z / self.scaling_factor + self.shift_factor
        return self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample.to(z.dtype)
