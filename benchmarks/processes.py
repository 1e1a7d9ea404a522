"""Efficiency of several processes on one volume: how much of an ideal speed-up remains.

    python benchmarks/processes.py [--processes 1 2] [--depth 32] [--side 128] [--steps 10]

DDS3D and HQS of a volume of CT slices with the shipped prior, shared by torchrun as in
docs/cluster.md. Every process has one thread. Seconds are wall times of the solver, the least of
``--repeats`` runs, on processors that nothing else uses. The efficiency is the time of one process
over the time of n, divided by n.
"""

import argparse
import json
import os
import subprocess
import sys
import time

import torch

from wellposed import operators, priors, solvers
from wellposed.figures import format_table
from wellposed.parallel import sharding

SOLVERS = {"DDS3D": solvers.DDS3D, "HQS": solvers.HQS}


def measure(args: argparse.Namespace) -> None:
    """Run the solvers on this process's slices; process 0 prints the seconds."""
    torch.set_num_threads(1)
    angles = torch.arange(30, dtype=torch.float64) * 6
    planar = operators.ParallelBeamCT((args.side, args.side), angles, noise_sigma=0.5)
    operator = operators.Stacked(planar, args.depth)
    truth = torch.rand(1, 1, args.depth, args.side, args.side, generator=torch.manual_seed(0))
    y, operator = sharding.shard(operator.measure(truth, seed=0), operator)
    prior, seconds = priors.Slicewise(priors.load("ct"), chunk=1), {}
    for name, make in SOLVERS.items():
        solver = make(steps=args.steps)
        make(steps=1)(y, operator, prior, seed=0)  # set-up
        times = []
        for _ in range(args.repeats):
            started = time.perf_counter()
            whole = sharding.gather(solver(y, operator, prior, seed=0), operator)
            times.append(time.perf_counter() - started)
        seconds[name] = min(times)
    if whole is not None:
        print(json.dumps(seconds))


def in_processes(count: int, args: argparse.Namespace) -> dict[str, float]:
    """Return the seconds of the solvers with so many processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), __file__, "--worker"]
    for name in ("depth", "side", "steps", "repeats"):
        command += [f"--{name}", str(getattr(args, name))]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return dict(json.loads(run.stdout.splitlines()[-1]))


def main() -> None:
    """Measure all numbers of processes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--depth", type=int, default=32)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        measure(args)
        return
    found = {count: in_processes(count, args) for count in args.processes}
    rows = []
    for name in SOLVERS:
        for count, seconds in found.items():
            least = min(found)
            share = found[least][name] * least / (seconds[name] * count)
            rows.append([name, str(count), f"{seconds[name]:.1f}", f"{share:.0%}"])
    print(format_table(["solver", "processes", "seconds", "efficiency"], rows))


if __name__ == "__main__":
    main()
