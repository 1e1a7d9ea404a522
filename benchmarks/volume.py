"""Peak memory and time of a run over a volume against its depth.

    python benchmarks/volume.py [--depths 16 64 256] [--side 128] [--steps 3] [--prior ct]

DDS with a Slicewise prior (a small untrained network by default) on stacked inpainting, each depth
in a process of its own. The peak is the kernel's, on top of what the process holds before the run,
with an allocator that gives freed memory back at once; "beyond" is what it exceeds the solver's
arrays of the volume's size by (`Solver.volume_arrays`), which must not grow with the depth: it is
the prior on a chunk, or less where that peak is not the largest. The plan is
`wellposed.runs.memory`'s. The time is the processor's, the lesser of two runs.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import pairwise

import psutil
import torch

from wellposed import operators, priors, solvers
from wellposed.figures import format_table
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.solvers.problem import Problem

MB = 1e6


def peak_bytes() -> int:
    """Return the largest size this process ever had."""
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmHWM"].split()[0]) * 1024


def reset_peak() -> None:
    """Make the present size the largest one."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def load(name: str) -> priors.Prior:
    """Return a prior by name, or a small network that was never trained."""
    if name != "untrained":
        return priors.load(name)
    network = ConvUNet(1, (16, 32), 1)
    return priors.NetworkPrior(
        network,
        priors.Tabulated.linear(),
        "edm",
        lambda t: t / 1000,
        0.5,
        channels=1,
        data_range=(-1.0, 1.0),
    )


def measure(args: argparse.Namespace) -> dict[str, float]:
    """Return bytes and seconds of one run over (1, 1, depth, side, side) in float32."""
    depth, side = args.depths[0], args.side
    mask = operators.random_mask(side, side, 0.5, 0)
    operator = operators.Stacked(operators.Inpainting(mask, 1, 0.05), depth)
    y = operator.measure(torch.full((1, 1, depth, side, side), 0.5))
    prior = Slicewise(load(args.prior), chunk=args.chunk)
    solver = solvers.DDS(steps=args.steps)
    solver(y[:, :, :1], operators.Stacked(operator.operator, 1), prior, seed=0)  # set-up
    plan = solver.memory_plan(Problem.create(y, operator, prior))
    reset_peak()
    before, seconds = psutil.Process().memory_info().rss, []
    for _ in range(2):
        started = time.process_time()
        solver(y, operator, plan.prior, seed=0)
        seconds.append(time.process_time() - started)
    planned = plan.needed[y.device]
    return {"peak": peak_bytes() - before, "planned": planned, "seconds": min(seconds)}


def in_process(depth: int, args: argparse.Namespace) -> dict[str, float]:
    """Return what `measure` finds in a process of its own."""
    options = ["--depths", str(depth), "--side", str(args.side), "--steps", str(args.steps)]
    options += ["--prior", args.prior]
    options += ["--chunk", str(args.chunk)] if args.chunk else []
    command = [sys.executable, __file__, "--one", *options]
    # Else glibc keeps freed blocks for later, more or less of them by chance.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    """Measure all depths and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--depths", type=int, nargs="+", default=[16, 64, 256])
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--prior", default="untrained")
    parser.add_argument("--chunk", type=int, default=None)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    found = {depth: in_process(depth, args) for depth in args.depths}
    rows = []
    for depth, one in found.items():
        volume = 4 * depth * args.side**2
        beyond = one["peak"] - solvers.DDS().volume_arrays * volume
        pace = 1000 * one["seconds"] / depth / args.steps
        sizes = (volume, one["peak"], one["planned"], beyond)
        rows.append([str(depth), *(f"{size / MB:.1f}" for size in sizes), f"{pace:.1f}"])
    header = ["depth", "volume MB", "peak MB", "planned MB", "beyond MB", "ms / slice / step"]
    print(format_table(header, rows))
    paces = [one["seconds"] / depth for depth, one in found.items()]
    steps = [f"{b / a - 1:+.1%}" for a, b in pairwise(paces)]
    print(f"time per slice from depth to depth: {', '.join(steps)}")


if __name__ == "__main__":
    main()
