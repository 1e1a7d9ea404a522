"""Trained restorers on photographs: quality against network evaluations, for all their samplers.

    python benchmarks/restoration.py KODAK [--images 6] [--size 256] [--restorers FOLDER]

KODAK is a folder of photographs. Writes `docs/restoration.md` and `docs/restoration.png` from
`benchmarks/restoration.json`; what is there already is not run again. Zero-shot DDS with the prior
`natural`, which is told the operator, solves the same problems. Weights of the data, where a
method has one, are the best of a few on other photographs there. Seconds are of one thread, with
networks in bfloat16.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from image_methods import METHODS, Log, Method
from image_problems import Case
from images import DOCS, figures
from restoration_report import BASELINE, DATA, ZERO_SHOT, write
from torch import Tensor
from tune import add, read, search

from wellposed import operators, priors, solvers
from wellposed.datasets import load_images
from wellposed.errors import ArgumentError
from wellposed.operators import LinearOperator
from wellposed.priors.training.losses import load_lpips
from wellposed.reconstruction import Reconstruction

BUDGETS = (1, 2, 4, 5, 10, 15, 20, 50, 100)
SAMPLES, TRIALS, TRIAL_NFE = 2, 4, 20
_data_weight = METHODS["DDS"].space["gamma"]
assert isinstance(_data_weight, Log)
SAMPLERS = {
    BASELINE: Method(solvers.IRSDE, {}),
    "IR-SDE Euler SDE": Method(partial(solvers.IRSDE, method="sde"), {}),
    "IR-SDE Euler ODE": Method(partial(solvers.IRSDE, method="ode"), {}),
    **{
        f"MR Sampler-{order} {method.upper()}": Method(
            partial(solvers.MRSampler, order=order, method=method), {}
        )
        for method in ("ode", "sde")
        for order in (1, 2)
    },
    "ResShift": Method(solvers.ResShift, {}),
    DATA: Method(partial(solvers.MRSampler, data_steps=5), {"gamma": _data_weight}),
    ZERO_SHOT: METHODS["DDS"],
}


@dataclass(frozen=True)
class Task:
    """A degradation, and the restorer trained for it and others like it.

    Attributes:
        line: what is done to the photographs.
        restorer: its name.
        measure: the operator for images of a side.
        norm2: about ``||A||^2``.
    """

    line: str
    restorer: str
    measure: Callable[[int], LinearOperator]
    norm2: float

    def case(self, images: Tensor, prior: priors.Prior, seed: int) -> Case:
        """Return the problems of images (B, 3, size, size)."""
        operator = self.measure(images.shape[-1])
        y = operator.measure(images, seed=seed)
        return Case(y, operator, images, prior, self.norm2, invertible=False)


TASKS = {
    "deblur": Task(
        "Gaussian blur of 1.5 pixels and noise .03",
        "irsde-deblur",
        lambda n: operators.Blur(operators.gaussian_kernel(1.5, 15), (3, n, n), 0.03),
        1.0,
    ),
    "x4": Task(
        "bicubic reduction by 4 and noise .01",
        "resshift-x4",
        lambda n: operators.SuperResolution((3, n, n), 4, "bicubic", 0.01),
        1 / 16,
    ),
}


def main() -> None:
    """Run what is missing, write the tables and draw the curves."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kodak", type=Path)
    parser.add_argument("--restorers", type=Path, help="folder of them; default: those shipped")
    parser.add_argument("--images", type=int, default=6)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--nfe", type=int, nargs="*", default=list(BUDGETS))
    parser.add_argument("--tasks", nargs="*", default=list(TASKS), choices=TASKS)
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--table", type=Path, default=DOCS / "restoration.md")
    args = parser.parse_args()
    photographs = load_images(args.kodak, args.size).images
    step = max(1, len(photographs) // args.images)
    test, tuning = photographs[::step][: args.images], photographs[step // 2 :: step][:2]
    protocol: dict[str, int | str] = {
        "images": len(test),
        "size": args.size,
        "samples": SAMPLES,
        "trials": TRIALS,
        "arithmetic": "bfloat16",
    }
    distance = perceptual()
    for name in args.tasks:
        source = TASKS[name].restorer
        restorer = priors.load(args.restorers / source if args.restorers else source)
        prior = priors.Tuned(restorer, "bfloat16")
        run(name, prior, test, tuning, args.nfe, distance, args.out, protocol)
    lines = {name: f"restorer `{task.restorer}`: {task.line}" for name, task in TASKS.items()}
    write(read(args.out, protocol), lines, args.table)


def perceptual() -> Callable[[Tensor, Tensor], Tensor] | None:
    """Return LPIPS, or None where its weights cannot be had."""
    try:
        return load_lpips(torch.device("cpu"))
    except ArgumentError as error:
        print(f"LPIPS left out: {error}")
        return None


def run(
    name: str,
    restorer: priors.Prior,
    test: Tensor,
    tuning: Tensor,
    budgets: list[int],
    distance: Callable[[Tensor, Tensor], Tensor] | None,
    out: Path,
    protocol: dict[str, int | str],
) -> None:
    """Add the figures of all methods on one task to a record."""
    case, other = (TASKS[name].case(x, restorer, seed) for seed, x in enumerate((test, tuning)))
    natural = priors.Tuned(priors.load("natural"), "bfloat16")
    for method, how in SAMPLERS.items():
        found = case if method != ZERO_SHOT else replace(case, prior=natural)
        tuned = other if method != ZERO_SHOT else replace(other, prior=natural)
        place = f"{name}: {method}"
        settings: dict[str, Any] = {}
        if how.space:
            settings = weights(how, tuned, place, out, protocol)
        for nfe in budgets_of(found.prior, budgets):
            if str(nfe) in read(out, protocol)["results"].get(place, {}):
                continue
            more = partial(sampling, distance=distance)
            row, _ = figures(found, how, settings, nfe, SAMPLES, more)
            add(out, protocol, (place, str(nfe)), row)
            print(place, nfe, row, flush=True)


def weights(
    method: Method, case: Case, place: str, out: Path, protocol: dict[str, int | str]
) -> dict[str, Any]:
    """Return the best hyper-parameters of a few, which the record keeps."""
    known = read(out, protocol)["results"].get(place, {}).get("settings")
    if known is not None:
        return dict(known)
    best = search(method, case, TRIAL_NFE, TRIALS)
    assert best is not None
    add(out, protocol, (place, "settings"), best["settings"])
    return dict(best["settings"])


def budgets_of(prior: priors.Prior, budgets: list[int]) -> list[int]:
    """Return the numbers of steps that a process has."""
    T = prior.schedule.T
    return [n for n in budgets if n <= T] if isinstance(T, int) else budgets


def sampling(
    result: Reconstruction,
    truth: Tensor,
    distance: Callable[[Tensor, Tensor], Tensor] | None = None,
) -> dict[str, Tensor]:
    """Return figures that tell samples from the posterior mean; see `restoration_report`."""
    one, two = result.samples[:2]
    error = (one - truth).square().flatten(1).mean(1)
    values = {
        "detail": laplacian_energy(one) / laplacian_energy(truth),
        "spread": (one - two).square().flatten(1).mean(1) / error,
    }
    if distance is None:
        return values
    return {**values, "lpips_one": distance(2 * one.clamp(0, 1) - 1, 2 * truth - 1)}


def laplacian_energy(images: Tensor) -> Tensor:
    """Return the mean square of the Laplacian of each image, (B,)."""
    kernel = images.new_tensor([[0, 1, 0], [1, -4, 1], [0, 1, 0]])[None, None]
    flat = images.flatten(0, 1)[:, None]
    return F.conv2d(flat, kernel).square().unflatten(0, images.shape[:2]).flatten(1).mean(1)


if __name__ == "__main__":
    main()
