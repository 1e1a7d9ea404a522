"""Overhead of solvers: total time over time spent in the network, ours and deepinv's.

Multi-coil MRI, 8 coils, 256 x 256, one sample, the same network for all methods in one run:

    python benchmarks/overhead.py [--steps 20] [--repeats 3]

An overhead of 1.10 means that 10 % are added to the bare network evaluations.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import deepinv
import torch
from torch import Tensor, nn

from wellposed import operators, priors, solvers
from wellposed.report import format_table


class Stopwatch(nn.Module):
    """Adds up the time and the calls of a network's forward passes, and of their gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.seconds, self.calls = 0.0, 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Call the network; a gradient's share is measured from the output's to the input's."""
        started = time.perf_counter()
        if x.requires_grad:
            x.register_hook(self._stop)
        out = self.network(x, label)
        self.seconds += time.perf_counter() - started
        self.calls += 1
        if out.requires_grad:
            out.register_hook(self._start)
        return out

    def _start(self, gradient: Tensor) -> None:
        self._started = time.perf_counter()

    def _stop(self, gradient: Tensor) -> None:
        self.seconds += time.perf_counter() - self._started


class RealPairs(deepinv.models.Denoiser):
    """Our complex prior as deepinv's denoiser on real and imaginary channels in [0, 1]."""

    def __init__(self, prior: priors.Prior) -> None:
        super().__init__()
        self.prior = prior

    def forward(self, x: Tensor, sigma: float | Tensor, **kwargs: object) -> Tensor:
        """Denoise; pixel values v stand for 2 v - 1."""
        largest = float(self.prior.schedule.ratio(self.prior.schedule.T))
        level = (2 * torch.as_tensor(sigma)).clamp(max=largest)
        out = self.prior((2 * x - 1).float(), level)
        return ((out + 1) / 2).to(x.dtype)


def problem(size: int, coils: int) -> tuple[Tensor, operators.MultiCoilMRI]:
    """Return k-space of a smooth random image, and the operator."""
    maps = operators.simulate_sensitivity_maps(coils, size, size)
    mask = operators.uniform_random_lines(size, 4, seed=0)
    operator = operators.MultiCoilMRI(mask, maps, noise_sigma=0.01)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, 1, 16, 16, generator=generator)
    image = nn.functional.interpolate(coarse, (size, size), mode="bicubic").abs() / 3
    return operator.measure(image.to(torch.complex64)), operator


def deepinv_physics(operator: operators.MultiCoilMRI) -> deepinv.physics.MultiCoilMRI:
    """Return deepinv's operator for the same mask and maps."""
    noise = deepinv.physics.GaussianNoise(0.01)
    size = operator.mask.shape[-2:]
    return deepinv.physics.MultiCoilMRI(
        mask=operator.mask[0, 0],
        coil_maps=operator.sensitivity_maps,
        img_size=(2, *size),
        noise_model=noise,
    )


def main() -> None:
    """Run all methods and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--coils", type=int, default=8)
    args = parser.parse_args()

    prior = priors.load("brain-mri")
    watch = Stopwatch(prior.network)
    prior.network = watch
    y, operator = problem(args.size, args.coils)
    physics, pairs = deepinv_physics(operator), RealPairs(prior)
    y_pairs = torch.view_as_real(y).permute(0, 4, 1, 2, 3).contiguous()
    fidelity = deepinv.optim.data_fidelity.L2()
    steps = args.steps
    diffpir = deepinv.sampling.DiffPIR(pairs, fidelity, sigma=0.01, max_iter=steps, verbose=False)
    dps = deepinv.sampling.DPS(pairs, num_steps=steps, verbose=False)
    runs: dict[str, Callable[[], object]] = {
        "wellposed DDS, 5 CG": lambda: solvers.DDS(steps=steps)(y, operator, prior, seed=0),
        "wellposed RED-diff": lambda: solvers.REDDiff(steps=steps)(y, operator, prior, seed=0),
        "wellposed DPS": lambda: solvers.DPS(steps=steps)(y, operator, prior, seed=0),
        "deepinv DiffPIR": lambda: diffpir(y_pairs, physics),
        "deepinv DPS": lambda: dps(y_pairs, physics),
    }
    rows = []
    for name, run in runs.items():
        measured = [measure(run, watch) for _ in range(args.repeats)]
        total, network, calls = min(measured, key=lambda m: m[0])
        overhead = statistics.median(m[0] / m[1] for m in measured)
        rows.append([name, str(calls), f"{total:.2f}", f"{network:.2f}", f"{overhead:.3f}"])
    print(format_table(["method", "NFE", "total s", "network s", "overhead"], rows))


def measure(run: Callable[[], object], watch: Stopwatch) -> tuple[float, float, int]:
    """Return (total seconds, seconds in the network, network calls) of one run."""
    watch.reset()
    started = time.perf_counter()
    run()
    return time.perf_counter() - started, watch.seconds, watch.calls


if __name__ == "__main__":
    main()
