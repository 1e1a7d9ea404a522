"""What Linux takes for large arrays, by settings of the environment.

    python benchmarks/pages.py [--side 256] [--slices 16] [--steps 3]

Arrays of more than 32 MB come page by page and go back after use. Processor time of one thread, of
users and of the system: the `natural` prior's network on eight photographs, and DDS3D of slices
from 8 views, per slice and step. Every setting has a process of its own.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
from collections.abc import Callable

import torch

from wellposed import operators, priors, solvers
from wellposed.figures import format_table

SETTINGS = {
    "as it is": {},
    "large pages": {"THP_MEM_ALLOC_ENABLE": "1"},
    "memory kept": {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TOP_PAD_": "500000000",
        "MALLOC_TRIM_THRESHOLD_": "100000000000",
    },
}
"""What is set, by its name in the table."""


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    call()
    after = resource.getrusage(resource.RUSAGE_SELF)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure(args: argparse.Namespace) -> tuple[float, float, float]:
    """Return seconds of the network, and of a step for a slice, and the peak in GB."""
    torch.set_num_threads(1)
    natural, photographs = priors.load("natural"), torch.rand(8, 3, args.side, args.side)
    with torch.no_grad():
        natural.denoise(photographs, 0.5)
        network = min(seconds(lambda: natural.denoise(photographs, 0.5)) for _ in range(3))
    planar = operators.ParallelBeamCT(args.side, 8)
    operator = operators.Stacked(planar, args.slices)
    y = operator.A(torch.rand(1, 1, args.slices, args.side, args.side))
    prior = priors.Slicewise(priors.load("ct"), chunk=args.slices)
    solver = solvers.DDS3D(steps=args.steps, cg_steps=20, lam=1e-4)
    run = seconds(lambda: solver(y, operator, prior, seed=0))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return network, run / args.slices / args.steps, peak


def in_process(setting: dict[str, str], args: argparse.Namespace) -> tuple[float, float, float]:
    """Return what `measure` finds with a setting of the environment."""
    ours = {name for given in SETTINGS.values() for name in given}
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    command = [sys.executable, __file__, "--one"]
    for name in ("side", "slices", "steps"):
        command += [f"--{name}", str(getattr(args, name))]
    environment |= {"OMP_NUM_THREADS": "1", **setting}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    network, step, peak = json.loads(run.stdout.splitlines()[-1])
    return network, step, peak


def main() -> None:
    """Measure all settings and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", type=int, default=256)
    parser.add_argument("--slices", type=int, default=16)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        print(json.dumps(measure(args)))
        return
    rows = []
    for name, setting in SETTINGS.items():
        network, step, peak = in_process(setting, args)
        rows.append([name, f"{network:.2f} s", f"{1e3 * step:.0f} ms", f"{peak:.2f} GB"])
    print(format_table(["", "network", "DDS3D", "peak memory"], rows))


if __name__ == "__main__":
    main()
