"""MRI learnt from undersampled k-space alone: diffusion with forward models, under two masks.

    python examples/forward_models.py --data brain_mri_256.h5 --out out/forward-models

Each slice is measured under masks of random lines; complete k-space is never seen in training. A
small network gets the k-space of one mask and the noisy k-space of another, and estimates the
image. Then held-out slices of another subject are reconstructed from one mask: zero-filled, by the
network's deterministic estimate, and by samples and their mean. Stopped, it goes on with the same
command.

Data: HDF5 with ``magnitude`` (slices, H, W) and ``subject`` (slices,), e.g. the slices that
`brain-mri` was trained on; the last subject is held out. Images are reduced to 64 x 64 pixels.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.figures import format_table, write_png
from wellposed.learning import ForwardModelSampler, forward_model_losses
from wellposed.learning.forward_models import Forward
from wellposed.linalg import as_channels, from_channels
from wellposed.metrics import psnr, ssim
from wellposed.noise import ItemNoise
from wellposed.operators import SingleCoilMRI, uniform_random_lines
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.priors.schedule import Tabulated

SIDE, BATCH, SAVED_EVERY = 64, 8, 100
SCHEDULE = Tabulated.linear()


class Network(nn.Module):
    """Two U-Nets: of the context alone, and of context, noisy target, rendered guess and time."""

    def __init__(self) -> None:
        super().__init__()
        self.plain = ConvUNet(2, (32, 64), 1, block="gated")
        self.noisy = ConvUNet(6, (32, 64), 1, block="gated")

    def guess(self, context: Tensor) -> Tensor:
        """Return an image (B, 1, H, W) from the zero-filled context."""
        channels = self.plain(as_channels(context), context.real.new_zeros(len(context)))
        return context + from_channels(channels)

    def estimate(
        self, context: Tensor, z_t: Tensor, forward: "Whitened", t: Tensor, rendered: Tensor
    ) -> Tensor:
        """Return the image from the context and the noisy k-space of another mask."""
        seen = torch.cat(
            [as_channels(v) for v in (context, forward.back(z_t), forward.back(rendered))], 1
        )
        label = SCHEDULE.ratio(t).log().to(seen.dtype) / 4
        return context + from_channels(self.noisy(seen, label)[:, :2])


@dataclass(frozen=True)
class Whitened:
    """K-space under a mask, divided by its usual size at each frequency: about as noise of 1."""

    operator: SingleCoilMRI
    size: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return self.operator.A(x) / self.size

    def back(self, z: Tensor) -> Tensor:
        """Return the zero-filled image of whitened k-space."""
        return self.operator.A_adjoint(z * self.size)


def slices(path: Path) -> tuple[Tensor, Tensor]:
    """Return images for training and of the last subject, complex (N, 1, SIDE, SIDE)."""
    with h5py.File(path) as file:
        images = torch.from_numpy(np.asarray(file["magnitude"][:], np.float32))[:, None]
        subjects = np.asarray(file["subject"][:])
    top = images.flatten(1).quantile(0.998, dim=1).clamp(min=1e-6)
    small = F.interpolate(images / top[:, None, None, None], (SIDE, SIDE), mode="area")
    full = small.flatten(1).mean(1) > 0.05
    held = torch.from_numpy(subjects == subjects[-1]) & full
    rest = full & ~held
    return (with_phase(small[rest]), with_phase(small[held]))


def with_phase(x: Tensor) -> Tensor:
    """Return images with a random smooth phase each."""
    rng = np.random.default_rng(0)
    rows, columns = torch.meshgrid(*[torch.linspace(-1, 1, SIDE)] * 2, indexing="ij")
    slopes = torch.from_numpy(rng.normal(size=(len(x), 3)).astype(np.float32))[:, :, None, None]
    phase = slopes[:, :1] + slopes[:, 1:2] * rows + slopes[:, 2:] * columns
    return torch.polar(x, phase.expand_as(x))


def operator(seeds: list[int], acceleration: float = 4.0) -> SingleCoilMRI:
    """Return the measurement under a mask of lines for each item."""
    masks = [
        uniform_random_lines(SIDE, acceleration, seed=seed).expand(SIDE, -1) for seed in seeds
    ]
    return SingleCoilMRI(torch.stack(masks))


def usual_size(x: Tensor, masks: SingleCoilMRI) -> Tensor:
    """Return the root mean square of measured k-space at each distance from the centre."""
    rows, columns = torch.meshgrid(*[torch.arange(SIDE) - SIDE // 2] * 2, indexing="ij")
    ring = torch.hypot(rows.float(), columns.float()).round().long().flatten()
    power = masks.A(x).abs().square().flatten(1).sum(0)
    count = masks.mask.expand(len(x), 1, SIDE, SIDE).flatten(1).sum(0)
    sums, counts = (torch.zeros(ring.max() + 1).index_add(0, ring, v) for v in (power, count))
    return (sums / counts.clamp(min=1)).sqrt()[ring].clamp(min=1e-3).reshape(SIDE, SIDE)


def train(network: Network, images: Tensor, size: Tensor, steps: int, path: Path) -> None:
    """Train, or go on from a checkpoint."""
    optimizer = torch.optim.AdamW(network.parameters(), 5e-4)
    first = 0
    if path.exists():
        state = torch.load(path, weights_only=True)
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    for step in range(first, steps):
        rng = np.random.default_rng((0, step))
        x = images[rng.choice(len(images), BATCH)]
        seeds = rng.integers(2**31, size=(3, BATCH)).tolist()
        context, *targets = (Whitened(operator(own), size) for own in seeds)
        back = context.operator.A_adjoint(context.operator.A(x))
        t = torch.from_numpy(rng.integers(1, SCHEDULE.T + 1, BATCH)).double()
        eps = torch.view_as_complex(
            torch.from_numpy(rng.standard_normal((*x.shape, 2), np.float32))
        )
        measured: list[tuple[Tensor, Forward]] = [(forward(x), forward) for forward in targets]
        loss = forward_model_losses(network, back, measured, t, eps, SCHEDULE).sum
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if (step + 1) % SAVED_EVERY == 0:
            print(f"step {step + 1} loss {float(loss.detach()):.4f}", flush=True)
            states = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**states, "step": step + 1}, path)


@torch.no_grad()
def evaluate(network: Network, images: Tensor, size: Tensor, samples: int, out: Path) -> str:
    """Return the table of held-out slices, and write a picture."""
    count = len(images)
    seeds = [10**6 + number for number in range(count)]
    context, target = (operator([s + shift for s in seeds]) for shift in (0, 10**5))
    back = context.A_adjoint(context.A(images))
    forward, sampler = Whitened(target, size), ForwardModelSampler(steps=20)
    drawn = [
        sampler(network, back, forward, SCHEDULE, ItemNoise(n, [(k,) for k in range(count)]))[0]
        for n in range(samples)
    ]
    found = {
        "zero-filled": back,
        "deterministic": network.guess(back),
        "one sample": drawn[0],
        f"mean of {samples}": torch.stack(drawn).mean(0),
    }
    rows = []
    for name, x in found.items():
        values = [float(measure(x.abs(), images.abs()).mean()) for measure in (psnr, ssim)]
        rows.append([name, f"{values[0]:.2f}", f"{values[1]:.3f}"])
    shown = torch.cat([images[:4], *(x[:4] for x in found.values())], -1).abs()
    write_png(torch.cat(list(shown), -2)[None], out / "forward-models.png")
    return format_table(["method", "PSNR", "SSIM"], rows)


def main() -> None:
    """Train, then print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("out/forward-models"))
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--samples", type=int, default=8)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    images, held = slices(args.data)
    torch.manual_seed(0)
    network, seeds = Network(), list(range(len(images)))
    size = usual_size(images, operator(seeds))
    train(network, images, size, args.steps, args.out / "checkpoint.pt")
    print(evaluate(network, held[:16], size, args.samples, args.out))


if __name__ == "__main__":
    main()
