"""Diffusions in the latent space of an autoencoder."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from wellposed.checks import Count
from wellposed.errors import ShapeError, require
from wellposed.priors.anchor import Condition
from wellposed.priors.prediction import Components
from wellposed.priors.prior import Prior


class Autoencoder(Protocol):
    """Interface of an autoencoder of images in [-1, 1], for `Latent`.

    Attributes:
        factor: sides of an image over those of its latents.
        image_channels: channels of the images.
        latent_channels: channels of the latents.
    """

    factor: int
    image_channels: int
    latent_channels: int

    def encode(self, x: Tensor) -> Tensor:
        """Return the latents of images."""

    def decode(self, z: Tensor) -> Tensor:
        """Return the images of latents."""


class DiffusersAutoencoder(nn.Module):
    """A diffusers ``AutoencoderKL`` or ``VQModel`` as an `Autoencoder`.

    Latents are ``scaling_factor (encoded - shift_factor)``. If the encoder is stochastic, its mean
    is used. Only decoding rounds latents to the codebook of a ``VQModel``. Decoding is
    differentiable; gradients pass a codebook unchanged.

    Args:
        model: the model; it is put in evaluation mode and frozen.
        scaling_factor: factor of the latents, see above; 1 for ResShift.
        shift_factor: shift of the latents, see above.

    Raises:
        ArgumentError: another kind of model, or a scaling factor that is not positive.

    Example:
        >>> import torch
        >>> from diffusers import AutoencoderKL
        >>> from wellposed import priors
        >>> vae = priors.DiffusersAutoencoder(AutoencoderKL(), scaling_factor=0.18215)
        >>> z = vae.encode(torch.rand(1, 3, 16, 16) * 2 - 1)
        >>> z.shape, vae.decode(z).shape
        (torch.Size([1, 4, 16, 16]), torch.Size([1, 3, 16, 16]))
    """

    def __init__(
        self, model: nn.Module, scaling_factor: float = 1.0, shift_factor: float = 0.0
    ) -> None:
        super().__init__()
        from diffusers import AutoencoderKL, VQModel

        known, kind = isinstance(model, (AutoencoderKL, VQModel)), type(model).__name__
        require(known, "autoencoder", kind, "a diffusers AutoencoderKL or VQModel")
        require(scaling_factor > 0, "scaling_factor", scaling_factor, "a positive number")
        self.model: Any = model.eval().requires_grad_(False)
        config: Any = self.model.config
        self.scaling_factor, self.shift_factor = float(scaling_factor), float(shift_factor)
        self.image_channels = int(config.in_channels)
        self.latent_channels = int(config.get("vq_embed_dim") or config.latent_channels)
        self.factor = 2 ** (len(config.block_out_channels) - 1)

    @classmethod
    def from_config(cls, model: nn.Module) -> "DiffusersAutoencoder":
        """Return an autoencoder with the factors of its model's config.

        Raises:
            ArgumentError: see the class; also a config with a mean and deviation per channel.
        """
        config: Any = model.config
        plain = config.get("latents_mean") is None and config.get("latents_std") is None
        require(plain, "autoencoder", "latents_mean or latents_std", "one factor for all channels")
        return cls(model, config.scaling_factor, config.get("shift_factor") or 0.0)

    def encode(self, x: Tensor) -> Tensor:
        """Return scaled latents of images in [-1, 1]."""
        encoded = self.model.encode(x.to(self.model.dtype))
        latents = encoded.latent_dist.mode() if "latent_dist" in encoded else encoded.latents
        z: Tensor = (latents.to(x.dtype) - self.shift_factor) * self.scaling_factor
        return z

    def decode(self, z: Tensor) -> Tensor:
        """Return images in [-1, 1] of scaled latents."""
        latents = z / self.scaling_factor + self.shift_factor
        images: Tensor = self.model.decode(latents.to(self.model.dtype)).sample
        return images.to(z.dtype)


class Latent(Prior):
    """A prior on the latents of an autoencoder, as a prior on images.

    Its units are scaled latents ``z``, in which the diffusion runs; `to_public` decodes and
    `to_units` encodes. For a prior with an anchor the degraded image is encoded too. Rombach et
    al., "High-Resolution Image Synthesis with Latent Diffusion Models", 2022, arXiv 2112.10752.

    Args:
        prior: the prior on scaled latents; its ``data_range`` is not used.
        autoencoder: the autoencoder, e.g. a `DiffusersAutoencoder`.
        data_range: public values of the autoencoder's -1 and 1.
        chunk: images that the autoencoder takes together; None: all. With several chunks only the
            activations of one are stored, as each is evaluated again in the backward pass. It does
            not change the result, up to rounding.

    Raises:
        ArgumentError: not an autoencoder, or a prior that does not fit its latents.

    Example:
        >>> import torch
        >>> from diffusers import AutoencoderKL
        >>> from wellposed import priors
        >>> vae = priors.DiffusersAutoencoder(AutoencoderKL(), scaling_factor=0.18215)
        >>> prior = priors.Latent(priors.GaussianPrior(0.0, 1.0), vae, data_range=(0.0, 1.0))
        >>> z = prior.to_units(torch.rand(1, 3, 16, 16))
        >>> z.shape, prior.to_public(z).shape
        (torch.Size([1, 4, 16, 16]), torch.Size([1, 3, 16, 16]))
    """

    is_latent = True
    incidental: ClassVar[frozenset[str]] = frozenset({"chunk"})

    def __init__(
        self,
        prior: Prior,
        autoencoder: Autoencoder,
        data_range: tuple[float, float] = (0.0, 1.0),
        chunk: Count | None = None,
    ) -> None:
        known = callable(getattr(autoencoder, "decode", None)) and hasattr(autoencoder, "factor")
        accepted = "an Autoencoder, e.g. a diffusers model in DiffusersAutoencoder(...)"
        require(known, "autoencoder", type(autoencoder).__name__, accepted)
        latents = autoencoder.latent_channels
        fits = prior.is_affine and not prior.is_complex and prior.channels in (None, latents)
        got = f"{type(prior).__name__} of {prior.channels} channels"
        accepted = f"a real prior with the autoencoder's {latents} latent channels"
        require(fits, "prior", got, accepted)
        super().__init__(prior.schedule, autoencoder.image_channels, data_range=data_range)
        self.prior, self.autoencoder = prior, autoencoder
        self.anchor, self.prediction = prior.anchor, prior.prediction
        self.factor, self.chunk = autoencoder.factor, chunk
        self.has_encoder = callable(getattr(autoencoder, "encode", None))

    def in_chunks(self, chunk: int | None) -> "Latent":
        """Return this prior with another chunk."""
        return Latent(self.prior, self.autoencoder, self.data_range, chunk)

    @property
    def is_affine(self) -> bool:
        """False: units are the code of a network."""
        return False

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return ``E[z | x_t]`` of scaled latents (B, c, h, w); see `Prior.denoise`."""
        return self.prior.denoise(x_t, t, condition)

    def components(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Components:
        """Return the components of scaled latents; see `Prior.components`."""
        return self.prior.components(x_t, t, condition)

    def to_units(self, x: Tensor) -> Tensor:
        """Encode public images (B, C, H, W) to scaled latents (B, c, h, w)."""
        return self._chunked(self.autoencoder.encode, super().to_units(x))

    def to_public(self, u: Tensor) -> Tensor:
        """Decode scaled latents (B, c, h, w) to public images."""
        return super().to_public(self._chunked(self.autoencoder.decode, u))

    def _chunked(self, coder: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
        """Return ``coder(x)``, computed chunk by chunk."""
        if self.chunk is None or len(x) <= self.chunk:
            return coder(x)
        if torch.is_grad_enabled():
            coder = partial(checkpoint, coder, use_reentrant=False, preserve_rng_state=False)
        return torch.cat([coder(part) for part in x.split(self.chunk)])

    def unit_shape(self, image_shape: torch.Size) -> torch.Size:
        """Return the shape (B, c, h, w) of the latents of images (B, C, H, W).

        Raises:
            ShapeError: another number of axes, or sides that the factor does not divide.
        """
        if len(image_shape) != 4 or any(side % self.factor for side in image_shape[2:]):
            raise ShapeError(
                f"prior: made for images (B, C, H, W) with sides in multiples of {self.factor}, "
                f"but the operator's images have shape {tuple(image_shape)}"
            )
        sides = [side // self.factor for side in image_shape[2:]]
        return torch.Size((image_shape[0], self.autoencoder.latent_channels, *sides))

    def check_image(self, x: Tensor) -> None:
        """Raise unless the prior accepts the latents of ``x``; see `Prior.check_image`."""
        super().check_image(x)
        self.prior.check_image(x.new_empty(self.unit_shape(x.shape)))
