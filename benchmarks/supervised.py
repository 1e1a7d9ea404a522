"""Train the networks of `full_size.py` that know the operator, a reference in its tables.

    python benchmarks/supervised.py --data FOLDER --out FOLDER [--tasks sr4] [--steps 400]

Four steps of half-quadratic splitting (`HQS`), which share the shipped prior's network, are
trained end to end for the operator of each task, by least squares, on the images of
`natural/free_photos`, `mri/brain_mri_256.h5` and `ct/train_slices_256.h5`. Those of MRI and CT
see whole images, as masks and rays are of one size. Runs in bfloat16. Resumable: what is trained
is left.
"""

import argparse
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np
import torch
from image_problems import TASKS
from PIL import Image
from torch import Tensor, nn

from wellposed import priors
from wellposed.datasets.images.crops import random_phase
from wellposed.linalg import squares
from wellposed.noise import ItemNoise
from wellposed.operators.base import LinearOperator
from wellposed.solvers import HQS, Problem
from wellposed.writing import replacing

EVERY, WARM_UP = 50, 20
CROP, BATCH, RATE = 64, 8, 1e-4
"""Of photographs; whole images come one at a time."""

STEPS = 400
"""Of training."""

UNROLLED = HQS(steps=4)

WHOLE, SIDE = ("deblur-motion", "inpaint-box", "inpaint-random"), 256
"""Problems of photographs whose operator is of one size."""

Draw = Callable[[np.random.Generator], Tensor]


def main() -> None:
    """Train what is not trained yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--steps", type=int, default=STEPS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    for task in args.tasks:
        train(task, args.data, args.out / f"{task}.pt", args.steps)


def train(task: str, data: Path, path: Path, steps: int) -> None:
    """Train the network of one task, or go on with it."""
    draw, side, batch = draws(task, data)
    operator = TASKS[task].measure(side)
    prior = priors.load(TASKS[task].prior).train()
    network = prior.network.requires_grad_(True)
    optimizer = torch.optim.AdamW(network.parameters(), RATE)
    state = torch.load(path, weights_only=True) if path.exists() else {"step": 0}
    if state["step"]:
        network.load_state_dict(state["network"])
        optimizer.load_state_dict(state["optimizer"])
    for step in range(state["step"], steps):
        rng = np.random.default_rng([0, step])
        truth = torch.cat([draw(rng) for _ in range(batch)])
        y = operator.measure(truth, seed=step)
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1, (step + 1) / WARM_UP) * min(1, 2 * (1 - step / steps))
        loss = squares(restored(prior, y, operator) - truth).mean() / truth[0].numel()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % EVERY == 0 or step + 1 == steps:
            kept = {"network": network.state_dict(), "optimizer": optimizer.state_dict()}
            with replacing(path) as part:
                torch.save({"step": step + 1, **kept}, part)
            print(f"{task} step {step + 1} loss {float(loss.detach()):.5f}", flush=True)


def restore(path: Path, task: str, y: Tensor, operator: LinearOperator) -> Tensor:
    """Return the images that a trained network makes of a measurement."""
    prior = priors.load(TASKS[task].prior)
    prior.network.load_state_dict(torch.load(path, weights_only=True)["network"])
    with torch.no_grad():
        return restored(prior, y, operator)


def restored(prior: priors.Prior, y: Tensor, operator: LinearOperator) -> Tensor:
    """Return the images of the unrolled solver, differentiable by the network's weights."""
    problem = Problem.create(y, operator, priors.Tuned(prior, "bfloat16"))
    noise = ItemNoise(0, [(item,) for item in range(len(y))])
    state = UNROLLED.init(problem, noise)
    state.x.requires_grad_()  # a problem derives the network only if its image asks for it
    for t, s in pairwise(UNROLLED.times(problem)):
        state = UNROLLED.step(state, t, s, problem, noise)
    return problem.to_public(state.x)


def draws(task: str, data: Path) -> tuple[Draw, int, int]:
    """Return a source of random training images (1, C, side, side), the side, and the batch."""
    prior = TASKS[task].prior
    if prior == "natural":
        files = sorted((data / "natural" / "free_photos").glob("*.jp*g"))
        side, batch = (SIDE, 1) if task in WHOLE else (CROP, BATCH)
        return lambda rng: _photograph(files[rng.integers(len(files))], side, rng), side, batch
    name, key = {"brain-mri": ("mri/brain_mri_256.h5", "magnitude")}.get(
        prior, ("ct/train_slices_256.h5", "hu")
    )
    with h5py.File(data / name) as file:
        stored = file[key][()]

    def draw(rng: np.random.Generator) -> Tensor:
        image = torch.from_numpy(stored[rng.integers(len(stored))].astype(np.float32))[None, None]
        image = image.flip(-1) if rng.random() < 0.5 else image
        if prior == "ct":
            return ((image + 1000) / 2000).clamp(0, 1)
        return random_phase(image / 1000, seed=int(rng.integers(2**31)))

    return draw, stored.shape[-1], 1


def _photograph(file: Path, size: int, rng: np.random.Generator) -> Tensor:
    """Return a crop of a photograph reduced by a random factor."""
    image = Image.open(file).convert("RGB")
    factor = max(rng.uniform(1, 2.5) ** -1, 1.01 * size / min(image.size))
    image = image.resize([round(side * factor) for side in image.size], Image.Resampling.BOX)
    left, top = (int(rng.integers(side - size + 1)) for side in image.size)
    pixels = np.asarray(image.crop((left, top, left + size, top + size)), np.float32) / 255
    pixels = pixels[:, ::-1] if rng.random() < 0.5 else pixels
    return torch.from_numpy(pixels.copy()).movedim(-1, 0)[None]


if __name__ == "__main__":
    main()
