"""Compressed sensing: unrolled networks (IDM) against solvers with a prior; memory of training.

    python benchmarks/unrolled.py --weights FOLDER --data kodak24/ --out bench/unrolled
    python benchmarks/unrolled.py --memory

Colour photographs at half resolution, central crops, with permutations and matrices that no
training has met. Each finished row is kept in results.json, so that a killed run goes on. With
``--memory`` it prints the bytes that a forward pass keeps for the backward pass and the seconds of
both, with invertible couplings and with plain autograd.
"""

import argparse
import json
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed import operators, priors, solvers
from wellposed.datasets import read_array
from wellposed.datasets.images.crops import central_crop
from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.priors.networks import unrolled
from wellposed.priors.networks.unrolled import Fidelity, UnrolledNetwork
from wellposed.reversible import Coupling, reversible

RATIOS = (0.1, 0.3, 0.5)
SEED = 10**6
"""Seeds of the operators: far from those of training, which are below 2^31 but drawn by it."""

SOLVERS = {
    "DDNM": solvers.DDNM(steps=50),
    "HQS": solvers.HQS(),
    "MMPS": solvers.MMPS(steps=30, spacing="karras"),
}


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--weights", type=Path, help="folder of train-unrolled, of colour images")
    parser.add_argument("--data", type=Path, help="folder of photographs")
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--out", type=Path, default=Path("bench/unrolled"))
    parser.add_argument("--memory", action="store_true")
    args = parser.parse_args()
    if args.memory:
        print(memory_table())
        return
    results = args.out / "results.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    methods = {"Unrolled": solvers.Unrolled(weights=str(args.weights)), **SOLVERS}
    prior = priors.load("natural")
    args.out.mkdir(parents=True, exist_ok=True)
    for index, path in enumerate(sorted(args.data.glob("*.png"))[: args.images]):
        image = photograph(path, args.size)
        for ratio in RATIOS:
            for name, solver in methods.items():
                key = f"{name} {ratio:g} {path.name}"
                if key not in found:
                    found[key] = row(solver, prior, image, ratio, index)
                    results.write_text(json.dumps(found, indent=1))
                    print(key, found[key], flush=True)
    print(table(found, list(methods)))


def photograph(path: Path, size: int) -> Tensor:
    """Return the central crop of a photograph at half resolution, (1, 3, size, size)."""
    image = torch.from_numpy(read_array(path)).movedim(-1, 0)[None].float()
    image = image / 255 if image.max() > 1 else image
    return central_crop(F.avg_pool2d(image, 2), size)


def row(
    solver: solvers.Solver, prior: priors.Prior, image: Tensor, ratio: float, index: int
) -> list[float]:
    """Return PSNR, SSIM and seconds of the processor."""
    size = tuple(image.shape[1:])
    operator = operators.CompressedSensing(size, ratio, 32, permuted=True, seed=SEED + index)
    started = time.process_time()
    seed = None if solver.deterministic else index
    found = solver(operator.A(image), operator, prior, seed=seed).mean
    seconds = time.process_time() - started
    return [float(psnr(found, image).mean()), float(ssim(found, image).mean()), seconds]


def table(found: dict[str, list[float]], methods: list[str]) -> str:
    """Return the means over the images."""
    rows = []
    for name in methods:
        cells = [name]
        for ratio in RATIOS:
            own = [v for key, v in found.items() if key.startswith(f"{name} {ratio:g} ")]
            means = [sum(column) / len(own) for column in zip(*own, strict=True)]
            cells.append(f"{means[0]:.2f}, {means[1]:.3f}, {means[2]:.1f} s")
        rows.append(cells)
    return format_table(["method", *(f"{ratio:.0%}" for ratio in RATIOS)], rows)


def by_autograd(
    x1: Tensor, x2: Tensor, couplings: list[Coupling], *context: object
) -> tuple[Tensor, Tensor]:
    """Do what `reversible` does, while autograd keeps everything."""
    for coupling in couplings:
        x1, x2 = coupling(x1, x2, *context)
    return x1, x2


class Held:
    """Counts the bytes that autograd holds, and their peak, beyond those of the weights."""

    def __init__(self, weights: set[int]) -> None:
        self.weights, self.now, self.peak = weights, 0, 0
        self.users: dict[int, int] = {}

    def keep(self, tensor: Tensor) -> "Kept":
        """Return the tensor with a note of its storage."""
        return Kept(self, tensor)


class Kept:
    """A tensor that autograd holds."""

    def __init__(self, held: Held, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self.held, self.tensor = held, tensor
        self.place, self.size = storage.data_ptr(), storage.nbytes()
        self.counts = self.place not in held.weights
        users = held.users.get(self.place, 0)
        held.users[self.place] = users + 1
        if self.counts and users == 0:
            held.now += self.size
            held.peak = max(held.peak, held.now)

    def __del__(self) -> None:
        self.held.users[self.place] -= 1
        if self.counts and self.held.users[self.place] == 0:
            self.held.now -= self.size


def cost(network: UnrolledNetwork, data: Fidelity, rounds: int = 3) -> tuple[float, float]:
    """Return the largest number of MiB held for the backward pass, and seconds of both passes."""
    held = Held({p.untyped_storage().data_ptr() for p in network.parameters()})
    with torch.autograd.graph.saved_tensors_hooks(held.keep, lambda kept: kept.tensor):
        network(data).square().mean().backward()
    seconds = []
    for _ in range(rounds):
        started = time.process_time()
        network(data).square().mean().backward()
        seconds.append(time.process_time() - started)
    return held.peak / 2**20, min(seconds)


def memory_table() -> str:
    """Return memory and time against steps and blocks."""
    torch.manual_seed(0)
    operator = operators.CompressedSensing((1, 64, 64), 0.1, 32, permuted=True)
    data = Fidelity.of(operator.A(torch.rand(4, 1, 64, 64)), operator)
    rows = []
    for steps, layers in ((1, 2), (3, 2), (3, 4), (6, 2)):
        network = UnrolledNetwork(1, (64, 128), layers, steps)
        unrolled.reversible = reversible
        own = cost(network, data)
        unrolled.reversible = by_autograd
        other = cost(network, data)
        saved, ratio = 1 - own[0] / other[0], own[1] / other[1]
        cells = (f"{own[0]:.1f}", f"{other[0]:.1f}", f"{saved:.1%}", f"{ratio:.2f}")
        rows.append([str(steps), str(layers), *cells])
    return format_table(["steps", "blocks", "MiB", "MiB, autograd", "saved", "time ratio"], rows)


if __name__ == "__main__":
    main()
