"""The samplers of zea (Apache-2.0) with our priors, for the tables of `dehazing.py`.

zea's own weights are for B-mode images and a download; here its algorithms run on companded RF.
"""

import os
from functools import partial

import torch
from torch import Tensor

from wellposed.datasets.ultrasound import compand, expand
from wellposed.priors import Prior, Product

os.environ.setdefault("KERAS_BACKEND", "torch")
import keras
from zea.func.ultrasound import dehaze_nuclear_diffusion
from zea.internal.operators import Operator
from zea.models.diffusion import DiffusionModel


class Sum(Operator):
    """The sum of two channels, (..., 2) -> (..., 1)."""

    def forward(self, data: Tensor) -> Tensor:
        """Return the sum."""
        return data.sum(-1, keepdim=True)

    def transpose(self, data: Tensor) -> Tensor:
        """Return both channels; a measurement has a copy of itself, as zea asks for two."""
        return data[..., :1].expand(*data.shape[:-1], 2)

    def __str__(self) -> str:
        return "y = x + h"


class Wrapped(DiffusionModel):
    """A prior as a model of zea, whose own network is the smallest and is never called."""

    def __init__(self, prior: Prior, shape: tuple[int, int, int], **options: object) -> None:
        smallest = {"widths": [8], "block_depth": 1}
        super().__init__(shape, (-1, 1), network_kwargs=smallest, **options)
        object.__setattr__(self, "wrapped", prior)

    def denoise(
        self,
        noisy_images: Tensor,
        noise_rates: Tensor,
        signal_rates: Tensor,
        training: bool,
        network: object = None,
    ) -> tuple[Tensor, Tensor]:
        """Return noise and clean images (n, H, W, C)."""
        prior = self.wrapped
        ratio = (noise_rates / signal_rates).flatten().double().cpu()
        t = prior.schedule.time_at(ratio)
        alpha = prior.schedule(t)[0].to(noisy_images).view(-1, 1, 1, 1)
        noisy = (noisy_images / signal_rates).movedim(-1, 1)
        clean = prior.denoise(alpha * noisy, t).movedim(1, -1)
        return (noisy_images - signal_rates * clean) / noise_rates, clean


def eager(guidance: str) -> dict[str, object]:
    """Return the guidance without compilation, which our priors do not need."""
    return {"name": guidance, "params": {"disable_jit": True}}


def by_nuclear_diffusion(
    rf: Tensor, tissue: Prior, frames: int, weight: float, steps: int = 1000, first: int = 900
) -> Tensor:
    """Return the tissue of beats by `dehaze_nuclear_diffusion`: haze is of low rank.

    Published: 5000 steps from 4500 on. ``weight`` multiplies both of its terms.
    """
    model = Wrapped(
        tissue, (*rf.shape[2:], 1), guidance=eager("nuclear-dps"), operator="linear_interp"
    )
    settings = {"omega": weight, "gamma": weight, "initial_step": first, "hard_project": False}
    run = partial(dehaze_nuclear_diffusion, diffusion_model=model, n_steps=steps, **settings)
    found = [
        run(beat.movedim(1, -1), window_size=frames, seed=0, verbose=False)[0]
        for beat in compand(rf).split(frames)
    ]
    tissues = torch.cat([torch.as_tensor(keras.ops.convert_to_numpy(one)) for one in found])
    return expand(tissues.movedim(-1, 1).to(rf).clamp(-1, 1))


def by_dds(rf: Tensor, tissue: Prior, haze: Prior, steps: int) -> Tensor:
    """Return the tissue by zea's DDS with both priors: companded values are added."""
    both = Product([tissue, haze], (1, 1))
    model = Wrapped(both, (*rf.shape[2:], 2), guidance=eager("dds"), operator=Sum())
    found = []
    with torch.no_grad():
        for y in compand(rf).movedim(1, -1):
            twice = y.expand(1, *y.shape[:-1], 2)
            found.append(model.posterior_sample(twice, 1, steps, seed=0)[0])
    return expand(torch.stack(found)[..., :1].movedim(-1, 1).clamp(-1, 1))
