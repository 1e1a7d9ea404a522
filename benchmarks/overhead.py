"""Overhead of solvers: total time over the time of network calls and their gradients.

All solvers and deepinv's, batched over samples, with the same network in one run:

    python benchmarks/overhead.py [--steps 20] [--repeats 3] [--samples 2]

"photo" is 4 x super-resolution of a random image with 3 channels, "mri" 4 x undersampled k-space
of 8 coils. An overhead of 1.10 means that 10 % are added to the bare network evaluations and,
where a method needs them, vector-Jacobian products (VJP). Both are counted for one sample.
Seconds are the processor's; settings are the published ones.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import deepinv
import torch
from image_methods import METHODS
from image_problems import TASKS, Case, measured
from torch import Tensor, nn

from wellposed import operators, priors
from wellposed.errors import ArgumentError
from wellposed.figures import format_table

HEADER = ["problem", "method", "NFE", "VJP", "total s", "network s", "overhead"]


class Stopwatch(nn.Module):
    """Adds up time and number of a network's forward passes, and of their gradients."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.reset()

    def reset(self) -> None:
        """Forget what was measured."""
        self.seconds, self.calls, self.gradients = 0.0, 0, 0

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        """Call the network; a gradient's share is measured from the output's to the input's."""
        started = time.process_time()
        if x.requires_grad:
            x.register_hook(self._stop)
        out = self.network(x, label)
        self.seconds += time.process_time() - started
        self.calls += 1
        if out.requires_grad:
            out.register_hook(self._start)
        return out

    def _start(self, gradient: Tensor) -> None:
        self._started = time.process_time()

    def _stop(self, gradient: Tensor) -> None:
        self.seconds += time.process_time() - self._started
        self.gradients += 1


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


def random_image(channels: int, size: int) -> Tensor:
    """Return a smooth random image (1, C, size, size) in [0, 1]."""
    coarse = torch.rand(1, channels, 16, 16, generator=torch.Generator().manual_seed(0))
    return nn.functional.interpolate(coarse, (size, size), mode="bicubic").clamp(0, 1)


def deepinv_physics(operator: operators.MultiCoilMRI) -> deepinv.physics.MultiCoilMRI:
    """Return deepinv's operator for the same mask and maps."""
    return deepinv.physics.MultiCoilMRI(
        mask=operator.mask[0, 0],
        coil_maps=operator.sensitivity_maps,
        img_size=(2, *operator.mask.shape[-2:]),
        noise_model=deepinv.physics.GaussianNoise(float(operator.noise_model.sigma)),
    )


def solver_runs(case: Case, steps: int, samples: int) -> dict[str, Callable[[], object]]:
    """Return a call of every method for some samples of one item.

    Ours carry them in one batch; deepinv's get as many copies of the measurement instead.
    """
    copies = case.repeated(samples)
    return {
        name: (lambda method=method: method.run(copies, {}, steps))
        if name.startswith("deepinv")
        else (lambda method=method: method.run(case, {}, steps, samples))
        for name, method in METHODS.items()
    }


def deepinv_mri_runs(case: Case, steps: int, samples: int) -> dict[str, Callable[[], object]]:
    """Return deepinv's samplers on their own MRI operator."""
    physics, pairs = deepinv_physics(case.operator), RealPairs(case.prior)
    y = torch.view_as_real(case.repeated(samples).y).permute(0, 4, 1, 2, 3).contiguous()
    fidelity = deepinv.optim.data_fidelity.L2()
    diffpir = deepinv.sampling.DiffPIR(pairs, fidelity, max_iter=steps)
    dps = deepinv.sampling.DPS(pairs, num_steps=steps)
    return {
        "deepinv DiffPIR": lambda: diffpir(y, physics),
        "deepinv DPS": lambda: dps(y, physics),
    }


def main() -> None:
    """Run all methods and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--size", type=int, default=128, help="side of the images")
    args = parser.parse_args()
    photo = measured(TASKS["sr4"], random_image(3, args.size), seed=0)
    image = random_image(1, args.size).to(torch.complex64)
    mri = measured(TASKS["mri4"], image, seed=0)
    runs = {
        "photo": (photo, solver_runs(photo, args.steps, args.samples)),
        "mri": (
            mri,
            solver_runs(mri, args.steps, args.samples)
            | deepinv_mri_runs(mri, args.steps, args.samples),
        ),
    }
    rows = [
        [problem, *row]
        for problem, (case, calls) in runs.items()
        for row in measure_all(case, calls, args.repeats)
    ]
    print(format_table(HEADER, rows))


def measure_all(
    case: Case, runs: dict[str, Callable[[], object]], repeats: int
) -> list[list[str]]:
    """Return the rows of the methods that take a case."""
    watch, rows = Stopwatch(case.prior.network), []
    case.prior.network = watch
    for name, run in runs.items():
        try:
            measurements = [measure(run, watch) for _ in range(repeats)]
        except ArgumentError:
            continue
        total, network = min(measurements)
        overhead = statistics.median(t / n for t, n in measurements)
        counts = [str(watch.calls), str(watch.gradients)]
        rows.append([name, *counts, f"{total:.2f}", f"{network:.2f}", f"{overhead:.3f}"])
    return rows


def measure(run: Callable[[], object], watch: Stopwatch) -> tuple[float, float]:
    """Return the seconds of a run and those in the network, of the processor."""
    watch.reset()
    started = time.process_time()
    run()
    return time.process_time() - started, watch.seconds


if __name__ == "__main__":
    main()
