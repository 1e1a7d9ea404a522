"""Diffusers models as priors."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wellposed.errors import CheckpointError, ShapeError, require
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder, Latent
from wellposed.priors.checkpoints.diffusers_files import AUTOENCODERS, read_pipeline
from wellposed.priors.checkpoints.diffusers_schedulers import Config, diffusion_of
from wellposed.priors.network import NetworkPrior


class _Call(nn.Module):
    """Gives a diffusers model the plain call ``network(x, label[, class]) -> tensor``."""

    def __init__(self, model: nn.Module, sign: float) -> None:
        super().__init__()
        self.model, self.sign = model, sign

    def forward(self, x: Tensor, label: Tensor, *classes: Tensor) -> Tensor:
        out: Tensor = self.model(x, label, *classes, return_dict=False)[0]
        return self.sign * out


class DiffusersPrior(NetworkPrior):
    """A diffusers ``UNet2DModel`` on pixels with its scheduler.

    Schedulers with ``alphas_cumprod`` (DDPM, DDIM, PNDM, DPM-Solver, ...) become a tabulated
    schedule, flow-matching ones `Flow`, ``EDMEuler`` and ``EDMDPMSolverMultistep`` (Karras et al.,
    "Elucidating the Design Space", 2022, arXiv 2206.00364) `VE` with their preconditioning, and
    ``ScoreSdeVe`` and ``ScoreSdeVp`` (Song et al., "Score-Based Generative Modeling through SDEs",
    2021, arXiv 2011.13456) `VE` and a table of the continuous VP at 1000 times. A network with
    ``num_class_embeds`` is conditional: fix its class with ``prior.conditioned_on(class)``. The
    network is put in evaluation mode and frozen.

    Args:
        unet: the network, e.g. ``diffusers.UNet2DModel``.
        scheduler: a diffusers scheduler or its config (a mapping).
        data_range: public values of -1 and 1 in the network. By default public images are in
            [0, 1], or [-1, 1] if complex; ``ScoreSdeVe`` networks work on [0, 1] directly.
        is_complex: two real channels represent one complex channel.

    Raises:
        ArgumentError: a scheduler or network that is not supported.

    Example:
        >>> import torch
        >>> from diffusers import DDPMScheduler, UNet2DModel
        >>> from wellposed import priors
        >>> blocks = {"down_block_types": ["DownBlock2D"], "up_block_types": ["UpBlock2D"]}
        >>> unet = UNet2DModel(16, block_out_channels=[32], **blocks)  # with random weights
        >>> prior = priors.DiffusersPrior(unet, DDPMScheduler())
        >>> prior.denoise(torch.randn(1, 3, 16, 16), 500.0).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: object,
        data_range: tuple[float, float] | None = None,
        is_complex: bool = False,
    ) -> None:
        diffusion = diffusion_of(scheduler)
        network: Any = unet.config
        _check_network(network)
        channels = int(network.in_channels)
        even = not is_complex or channels % 2 == 0
        require(even, "is_complex", f"True and {channels} channels", "an even number of channels")
        super().__init__(
            _Call(unet.eval().requires_grad_(False), diffusion.sign),
            diffusion.schedule,
            diffusion.prediction,
            diffusion.label,
            diffusion.sigma_data,
            network.get("num_class_embeds"),
            channels=channels // 2 if is_complex else channels,
            is_complex=is_complex,
            data_range=data_range or ((-1.0, 1.0) if is_complex else diffusion.data_range),
        )
        self.multiple = 2 ** (len(network.block_out_channels) - 1)

    def check_image(self, x: Tensor) -> None:
        """Raise unless the prior accepts images like ``x``; see `Prior.check_image`."""
        super().check_image(x)
        if any(side % self.multiple for side in x.shape[-2:]):
            raise ShapeError(
                f"prior: made for images with sides in multiples of {self.multiple}, but the "
                f"operator's images are {' x '.join(map(str, x.shape[-2:]))}"
            )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        data_range: tuple[float, float] | None = None,
        is_complex: bool = False,
    ) -> "DiffusersPrior":
        """Load a pixel diffusion as `load_diffusers` does; a latent diffusion raises an error.

        Raises:
            CheckpointError: see `load_diffusers`.
        """
        unet, scheduler, _ = read_pipeline(path, ())
        with blamed_on(path):
            return cls(unet, scheduler, data_range, is_complex)


def load_diffusers(
    path: str | Path, data_range: tuple[float, float] | None = None, is_complex: bool = False
) -> DiffusersPrior | Latent:
    """Load a folder written by diffusers, or a repository of the Hugging Face hub.

    The folder has the layout of ``DDPMPipeline(unet, scheduler).save_pretrained(folder)`` (folders
    ``unet/`` and ``scheduler/``), or all files of both in one folder, or the layout of
    ``LDMPipeline``, with an autoencoder in ``vqvae/`` or ``vae/``. Weights are read from
    safetensors or else from ``.bin`` files, which are read as tensors only. Offline, hub ids are
    looked up in the cache.

    Args:
        path: a folder, or a hub id ``owner/name``.
        data_range: public values of -1 and 1, see `DiffusersPrior` and `Latent`.
        is_complex: see `DiffusersPrior`; latent priors are never complex.

    Returns:
        A `DiffusersPrior`, or a `Latent` with one if there is an autoencoder.

    Raises:
        CheckpointError: nothing found; not a ``UNet2DModel`` with a scheduler and optionally an
            ``AutoencoderKL`` or ``VQModel``; or damaged or unsuitable weights.
    """
    unet, scheduler, autoencoder = read_pipeline(path, AUTOENCODERS)
    with blamed_on(path):
        if autoencoder is None:
            return DiffusersPrior(unet, scheduler, data_range, is_complex)
        require(not is_complex, "is_complex", is_complex, "False for a latent prior")
        latents = DiffusersPrior(unet, scheduler, (-1.0, 1.0))
        coded = DiffusersAutoencoder.from_config(autoencoder)
        return Latent(latents, coded, data_range or (0.0, 1.0))


@contextmanager
def blamed_on(path: str | Path) -> Iterator[None]:
    """Turn errors of building a prior into a `CheckpointError` that names its path."""
    try:
        yield
    except (TypeError, ValueError) as error:  # our errors, or those of a corrupt config
        raise CheckpointError(f"path: {str(path)!r} is not a usable prior: {error}") from error


def _check_network(config: Config) -> None:
    taken, returned = int(config["in_channels"]), int(config["out_channels"])
    known = returned in (taken, 2 * taken)
    got = f"{taken} channels in and {returned} out"
    accepted = "as many channels out as in, or twice as many (learned variance)"
    require(known, "unet", got, accepted)
    classes, times = config.get("class_embed_type"), config.get("time_embedding_type")
    by_number = "classes given by number (num_class_embeds), or no classes"
    require(classes is None, "unet", f"class_embed_type {classes!r}", by_number)
    accepted = "sinusoidal or Fourier embeddings of time"
    require(times != "learned", "unet", "learned embeddings of time", accepted)
