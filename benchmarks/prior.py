"""Time of a prior's evaluation, and what the prior adds to the bare network.

    python benchmarks/prior.py [--repeats 5] [--device cuda] [--compile]

Networks: the shipped ``natural`` prior's, and a diffusers UNet2DModel of similar cost with random
weights. "bare" is the network's own call, "prior" the same through `Prior.denoise`, taken in turn;
medians in milliseconds per image. "adapter" is the share of `Prior.denoise` spent outside the
network's call, measured within each call.
"""

import argparse
import copy
import itertools
import statistics
import time
from collections.abc import Callable

import torch
from diffusers import DDPMScheduler, UNet2DModel
from torch import nn

from wellposed import priors
from wellposed.figures import format_table

SIZES, BATCHES = (64, 256, 512), (1, 8)
LARGEST = 8 * 256 * 256
"""Pixels per call above which a case is left out, for time."""


def diffusers_prior() -> priors.DiffusersPrior:
    """Return a diffusers network without attention, random weights."""
    unet = UNet2DModel(
        in_channels=3,
        out_channels=3,
        block_out_channels=(32, 64, 96),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 3,
        up_block_types=("UpBlock2D",) * 3,
        norm_num_groups=16,
        add_attention=False,
    )
    return priors.DiffusersPrior(unet, DDPMScheduler())


def clock(device: torch.device) -> float:
    """Return the time, after all queued work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def in_turn(
    calls: dict[str, Callable[[], object]], repeats: int, device: torch.device
) -> dict[str, float]:
    """Return the median seconds of each call, all taken in turn after two warm-up rounds."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 2):
        for name, call in calls.items():
            started = clock(device)
            call()
            if repeat >= 2:
                seconds[name].append(clock(device) - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


class Stopwatch(nn.Module):
    """A network that remembers how long its last call took."""

    def __init__(self, network: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.network, self.device, self.seconds = network, device, 0.0

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """Call the network."""
        started = clock(self.device)
        output = self.network(*inputs)
        self.seconds = clock(self.device) - started
        return output


def adapter_share(prior: priors.NetworkPrior, x: torch.Tensor, t: torch.Tensor) -> float:
    """Return the median of (denoise - network) / network within a call."""
    watch = Stopwatch(prior.network, x.device)
    watched, shares = copy.copy(prior), []
    watched.__dict__["_modules"] = {**prior._modules, "network": watch}
    for _ in range(9):
        started = clock(x.device)
        watched.denoise(x, t)
        shares.append((clock(x.device) - started) / watch.seconds - 1)
    return statistics.median(shares)


def measure(
    prior: priors.NetworkPrior, size: int, batch: int, repeats: int, variants: list[str]
) -> list[str]:
    """Return a row: the bare network, the prior, and the prior's variants."""
    device = next(prior.parameters()).device
    x = torch.randn(batch, 3, size, size, device=device)
    t = torch.tensor(300.0, dtype=torch.float64)
    label = prior.label(t).float().expand(batch).to(device)
    calls: dict[str, Callable[[], object]] = {
        "bare": lambda: prior.network(x, label),
        "prior": lambda: prior.denoise(x, t),
    }
    if "channels-last" in variants:
        last = x.contiguous(memory_format=torch.channels_last)
        calls["channels-last"] = lambda: prior.denoise(last, t)
    if "bf16" in variants:
        calls["bf16"] = lambda: autocast(prior, x, t)
    if "compile" in variants:
        compiled: nn.Module = torch.compile(prior.network)
        calls["compile"] = lambda: compiled(x, label)
    with torch.no_grad():
        seconds, share = in_turn(calls, repeats, device), adapter_share(prior, x, t)
    times = [f"{1e3 * v / batch:.1f}" for v in seconds.values()]
    return [str(size), str(batch), *times, f"{100 * share:.2f} %"]


def autocast(prior: priors.NetworkPrior, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Evaluate the prior with bfloat16 convolutions."""
    with torch.autocast(x.device.type, torch.bfloat16):
        return prior.denoise(x, t)


def main() -> None:
    """Run all cases and print a table per network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    variants = ["channels-last", "bf16", *(["compile"] if args.compile else [])]
    networks = {"natural (ConvUNet)": priors.load("natural"), "UNet2DModel": diffusers_prior()}
    for name, prior in networks.items():
        prior.to(args.device)
        rows = [
            measure(prior, size, batch, args.repeats, variants)
            for size, batch in itertools.product(SIZES, BATCHES)
            if size**2 * batch <= LARGEST
        ]
        header = ["size", "batch", "bare", "prior", *variants, "adapter"]
        print(f"{name}, ms per image\n{format_table(header, rows)}\n", flush=True)


if __name__ == "__main__":
    main()
