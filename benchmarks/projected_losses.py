"""Baselines of `measured_priors.py`: losses of networks that see k-space under a mask only."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.learning import Measurement
from wellposed.linalg import as_channels, from_channels
from wellposed.operators import SingleCoilMRI
from wellposed.priors import DenoiserPrior
from wellposed.priors.networks.conv_unet import ConvUNet

SIGMA_DATA, BATCH, RATE, EMA, SAVED_EVERY = 0.3, 8, 1e-3, 0.99, 200
LOG_NOISE = (-1.0, 1.6)
"""Mean and standard deviation of log sigma, as in the other trainings."""

FURTHER = 0.9
"""Share of the measured lines that ambient diffusion shows to the network."""


class Preconditioned(nn.Module):
    """A U-Net that denoises complex images at noise level sigma (EDM), with further channels."""

    def __init__(self, further: int = 0) -> None:
        super().__init__()
        self.network = ConvUNet(2 + further, (32, 64), 2, block="gated")

    def forward(self, x: Tensor, sigma: Tensor, *further: Tensor) -> Tensor:
        """Return the estimate of images (B, 1, H, W)."""
        s = sigma.reshape(-1, 1, 1, 1).to(x.real)
        total = s**2 + SIGMA_DATA**2
        seen = torch.cat([as_channels(x / total.sqrt()), *further], 1)
        out = self.network(seen, s.flatten().log() / 4)[:, :2]
        return x * SIGMA_DATA**2 / total + s * SIGMA_DATA / total.sqrt() * from_channels(out)


@dataclass(frozen=True)
class Batch:
    """K-space under masks, noise levels and a generator of noise."""

    y: Tensor
    masks: SingleCoilMRI
    sigma_y: float
    sigma: Tensor
    rng: np.random.Generator

    def noise(self) -> Tensor:
        """Return complex noise of standard deviation 1 in both parts, (B, 1, H, W)."""
        drawn = self.rng.standard_normal((*self.y.shape, 2), np.float32)
        return torch.view_as_complex(torch.from_numpy(drawn))

    @property
    def weight(self) -> Tensor:
        """Weight of the squared error at each noise level (EDM)."""
        weight = 1 / self.sigma**2 + 1 / SIGMA_DATA**2
        return weight.reshape(-1, 1, 1, 1)


@dataclass(frozen=True)
class Projected:
    """A loss, and the denoiser of its network.

    Attributes:
        name: of the method.
        further: channels that the network sees beside the image.
        loss: of the network on a batch.
        denoiser: of the network, ``D(x, sigma)``.
    """

    name: str
    further: int
    loss: Callable[[Preconditioned, Batch], Tensor]
    denoiser: Callable[[Preconditioned], Callable[[Tensor, Tensor], Tensor]]


def gsure(network: Preconditioned, batch: Batch) -> Tensor:
    """Return GSURE of the measured part; nothing is known of the missing one (arXiv 2305.13128).

    Measured frequencies get noise up to sigma, missing ones are noise alone. The divergence along
    measured directions has the weight ``2 sigma_y^2``.
    """
    sigma = batch.sigma.clamp(min=batch.sigma_y).reshape(-1, 1, 1, 1)
    mask, eps = batch.masks.mask, batch.noise()
    added = (sigma**2 - mask * batch.sigma_y**2).sqrt() * eps
    x_t = batch.masks.A_adjoint(batch.y) + full_adjoint(batch.masks, added)
    probe = batch.masks.A_adjoint(batch.noise())
    x_t.requires_grad_()
    x0 = network(x_t, sigma)
    inner = (as_channels(x0) * as_channels(probe)).sum()
    slope = torch.autograd.grad(inner, x_t, create_graph=True)[0]
    divergence = (as_channels(slope) * as_channels(probe)).sum((1, 2, 3))
    error = (batch.masks.A(x0) - batch.y).abs().square().sum((1, 2, 3))
    both = error + 2 * batch.sigma_y**2 * divergence
    return (batch.weight.flatten() * both).mean() / x_t[0].numel()


def ambient(network: Preconditioned, batch: Batch) -> Tensor:
    """Return the error of what was measured, from fewer lines (arXiv 2305.19256)."""
    kept = torch.from_numpy(batch.rng.random((len(batch.y), 1, 1, batch.y.shape[-1])) < FURTHER)
    sigma = batch.sigma.reshape(-1, 1, 1, 1)
    fewer = SingleCoilMRI((batch.masks.mask * kept)[:, 0])
    x_t = fewer.A_adjoint(batch.y + sigma * batch.noise())
    x0 = network(x_t, sigma, fewer.mask.expand(*x_t.shape).float())
    error = (batch.masks.A(x0) - batch.y).abs().square()
    return (batch.weight * error).mean()


def full_adjoint(masks: SingleCoilMRI, k_space: Tensor) -> Tensor:
    """Return the image of k-space without a mask."""
    return SingleCoilMRI(torch.ones_like(masks.mask[:, 0])).A_adjoint(k_space)


def with_all_lines(network: Preconditioned) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the denoiser of complete noisy images: as if all lines were measured."""
    return lambda x, sigma: network(x, sigma, torch.ones_like(x.real))


PROJECTED_GSURE = Projected("GSURE", 0, gsure, lambda network: network)
AMBIENT = Projected("ambient", 1, ambient, with_all_lines)


def train_projected(
    loss: Projected, measurements: Sequence[Measurement], steps: int, path: Path
) -> DenoiserPrior:
    """Return the prior of a network that is trained now, or whose training goes on."""
    torch.manual_seed(0)
    network, averaged = Preconditioned(loss.further), Preconditioned(loss.further)
    averaged.load_state_dict(network.state_dict())
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    parts = {"network": network, "averaged": averaged, "optimizer": optimizer}
    state = torch.load(path, weights_only=True) if path.exists() else {"step": 0}
    for name in parts.keys() & state.keys():
        parts[name].load_state_dict(state[name])
    for step in range(state["step"], steps):
        optimizer.param_groups[0]["lr"] = RATE * min(1.0, (steps - step) / (0.3 * steps))
        optimizer.zero_grad()
        loss.loss(network, drawn(measurements, step)).backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        for own, new in zip(averaged.parameters(), network.parameters(), strict=True):
            own.data.lerp_(new.data, 1 - EMA)
        if (step + 1) % SAVED_EVERY == 0 or step + 1 == steps:
            states = {name: part.state_dict() for name, part in parts.items()}
            torch.save({**states, "step": step + 1}, path)
    denoiser = loss.denoiser(averaged.eval().requires_grad_(False))
    return DenoiserPrior(denoiser, data_range=(-1.0, 1.0), channels=1, is_complex=True)


def drawn(measurements: Sequence[Measurement], step: int) -> Batch:
    """Return the batch of a step."""
    rng = np.random.default_rng((0, step))
    chosen = [measurements[k] for k in rng.choice(len(measurements), BATCH)]
    masks = SingleCoilMRI(torch.cat([m.operator.mask[:, 0] for m in chosen]))
    sigma = np.exp(rng.normal(*LOG_NOISE, BATCH)).astype(np.float32)
    sigma_y = float(chosen[0].operator.noise_model.sigma)
    return Batch(torch.cat([m.y for m in chosen]), masks, sigma_y, torch.from_numpy(sigma), rng)
