"""What the comparing examples of volumes share: total variation, the table, pictures, NIfTI."""

import argparse
import logging
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from comparison import Case, Method, residual
from torch import Tensor

from wellposed import Reconstruction
from wellposed.datasets import NiftiVolume, write_nifti
from wellposed.errors import require
from wellposed.figures import format_table, write_planes
from wellposed.metrics import plane_quality
from wellposed.noise import NoiseSource
from wellposed.priors import Prior, Slicewise
from wellposed.solvers import DDS, DDS3D, DiffusionMBIR, Problem, Solver, State
from wellposed.solvers.volumes.tv import VolumeSolver, VolumeState

PLANES = {"axial": 2, "coronal": 3, "sagittal": 4}


@dataclass(frozen=True, kw_only=True)
class TotalVariation(VolumeSolver):
    """``min ||A x - y||^2 / 2 + lambda ||D x||_1`` by the ADMM of `VolumeSolver` alone.

    ``steps`` are its iterations; the prior tells units and is never called.
    """

    tv_axes: str = "zyx"

    def init(self, problem: Problem, noise: NoiseSource) -> VolumeState:
        """Start from zeros."""
        start = super().init(problem, noise)
        return replace(start, x=torch.zeros_like(start.x), x0=torch.zeros_like(start.x))

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> VolumeState:
        """Take one sweep from the last."""
        assert isinstance(state, VolumeState)
        x, d, u = self.sweep(state.x, state, problem)
        return VolumeState(x, x, d, u, state.norm2)


def arguments(
    description: str | None, out: str, slices: str, side: int, steps: int
) -> argparse.Namespace:
    """Return the command line that the examples of volumes have."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="NIfTI file, see above")
    parser.add_argument("--out", type=Path, default=Path("out") / out)
    parser.add_argument("--slices", default=slices, help="A:B, slices A to B - 1")
    parser.add_argument("--side", type=int, default=side, help="least side of a slice, or 2 x it")
    parser.add_argument("--steps", type=int, default=steps, help="steps of DDS")
    parser.add_argument(
        "--mbir-steps",
        type=int,
        default=0,
        help="of DiffusionMBIR, 2 calls each; 0: without it",
    )
    parser.add_argument("--iterations", type=int, default=100, help="of ADMM for TV")
    parser.add_argument(
        "--tune", action="store_true", help="compare settings on the tuning slices instead"
    )
    logging.basicConfig(format="%(asctime)s %(message)s")
    logging.getLogger("wellposed").setLevel(logging.INFO)
    return parser.parse_args()


def slab(volume: NiftiVolume, slices: str, side: int) -> NiftiVolume:
    """Return the slices A:B, averaged over squares of pixels to the side wanted, in place."""
    first, end = map(int, slices.split(":"))
    depth = volume.volume.shape[2]
    require(0 <= first < end <= depth, "slices", slices, f"A:B, 0 <= A < B <= {depth}")
    part = volume.cut(0, first, end)
    factor = max(1, min(part.volume.shape[-2:]) // side)
    affine = part.affine.copy()
    affine[:3, 3] += affine[:3, :2].sum(1) * (factor - 1) / 2
    affine[:3, :2] *= factor
    d, h, w = part.spacing
    pooled = F.avg_pool2d(part.volume[0, 0][:, None], factor)[:, 0][None, None]
    return replace(part, volume=pooled, affine=affine, spacing=(d, factor * h, factor * w))


def sampler(make: Callable[..., Solver], prior: Prior) -> Callable[..., Reconstruction]:
    """Return a solver with a prior, as a method of the solver's settings."""

    def solve(case: Case, **settings: float) -> Reconstruction:
        return make(**settings)(case.y, case.operator, prior, seed=0)

    return solve


def volume_methods(
    prior: Prior, options: argparse.Namespace
) -> dict[str, Callable[..., Reconstruction]]:
    """Return what both examples compare, each a method of its settings."""
    slicewise = Slicewise(prior)
    solvers: dict[str, Callable[..., Solver]] = {
        "3-D TV": partial(TotalVariation, steps=options.iterations),
        "DDS, slices": partial(DDS, steps=options.steps),
        "DDS3D": partial(DDS3D, steps=options.steps, gamma=math.inf),
    }
    if options.mbir_steps > 0:
        solvers["DiffusionMBIR"] = partial(DiffusionMBIR, steps=options.mbir_steps)
    return {name: sampler(make, slicewise) for name, make in solvers.items()}


def run(
    problems: Iterable[tuple[Case, Mapping[str, Method]]],
    place: NiftiVolume,
    out: Path,
    units: tuple[float, float],
    upside_down: Sequence[int] = (),
) -> None:
    """Run methods on cases; print a table and write it, pictures and NIfTI files to ``out``.

    Args:
        problems: cases and the methods to run on each.
        place: where the volumes lie.
        out: folder, made if missing.
        units: values of the file that 0 and 1 stand for.
        upside_down: axes of (1, 1, D, H, W) that pictures show the other way round.
    """
    out.mkdir(parents=True, exist_ok=True)
    header = ["case", "method", *PLANES, "residual", "calls", "seconds", "s / call"]
    rows = []
    for case, methods in problems:
        volumes = {f"reference\n{case.name}": case.reference}
        for name, method in methods.items():
            image, cost = _timed(method, case)
            quality = _quality(image, case)
            rows.append([case.name, name, *quality, *cost])
            print(*rows[-1], sep=" | ", file=sys.stderr, flush=True)
            volumes[f"{name}\n{quality[0]}"] = image
            real = image.abs() if image.is_complex() else image
            stored = units[0] + (units[1] - units[0]) * real
            write_nifti(out / f"{_slug(case.name, name)}.nii.gz", stored, place)
        pictures = {title: volume.flip(tuple(upside_down)) for title, volume in volumes.items()}
        write_planes(out / f"{_slug(case.name)}.png", pictures, case.window, place.spacing)
    table = format_table(header, rows)
    (out / "table.md").write_text(table + "\n")
    print(table)


def _timed(method: Method, case: Case) -> tuple[Tensor, list[str]]:
    """Return a method's volume, and its network calls, seconds, and seconds per call."""
    started = time.perf_counter()
    found = method(case)
    seconds = time.perf_counter() - started
    if not isinstance(found, Reconstruction):
        return found, ["0", f"{seconds:.1f}", "-"]
    pace = f"{seconds / found.nfe:.3g}" if found.nfe else "-"
    return found.mean, [str(found.nfe), f"{seconds:.1f}", pace]


def _quality(image: Tensor, case: Case) -> list[str]:
    """Return PSNR and SSIM, if a plane holds its window, in each plane, and the residual."""
    planes = (plane_quality(image, case.reference, axis) for axis in PLANES.values())
    told = [f"{p:.2f}, {'-' if math.isnan(s) else f'{s:.3f}'}" for p, s in planes]
    return [*told, f"{residual(case, image):.3g}"]


def _slug(*words: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", " ".join(words).lower())
