"""Hyperspectral images: SpatioSpectral (DDS2M) against truncated singular value decompositions.

    python benchmarks/hyperspectral.py jasperRidge2_R198.mat --out bench/hyperspectral
    python benchmarks/hyperspectral.py CUBE --problems denoising-0.2 --rank 3 5 --steps 300

Each finished row is kept in results.json, so that a killed run goes on with the next. The image is
divided by its 99.9 % quantile. "smoothed SVD" takes the width of the Gaussian that is best by the
truth; Stein's estimate, by which SpatioSpectral starts, needs no truth. SpatioSpectral's numbers
are of the last estimate of one sample.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed import datasets, metrics, operators, priors, solvers
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.priors.spatio_spectral.start import completed

matplotlib.use("Agg")
COLOURS = (29, 19, 9)
"""Bands shown as red, green and blue."""

WIDTHS = (0.5, 0.75, 1.0, 1.25, 1.5, 2.0)
"""Widths of the Gaussians that smooth maps, in pixels."""


@dataclass(frozen=True)
class Case:
    """A cube (1, bands, H, W), its measurement and its operator."""

    x: Tensor
    y: Tensor
    operator: operators.Decomposable


def load(path: Path) -> Tensor:
    """Return a cube divided by its 99.9 % quantile."""
    image = datasets.load_hyperspectral(path).image
    values = image.flatten().sort().values
    return image / values[int(0.999 * (len(values) - 1))]


def denoising(x: Tensor, sigma: float) -> Case:
    """White noise."""
    return measured(x, operators.Denoising(tuple(x.shape[1:]), sigma))


def completion(x: Tensor, keep: float) -> Case:
    """Random values of all bands kept, with noise of 0.1."""
    generator = torch.Generator().manual_seed(0)
    mask = (torch.rand(x.shape[1:], generator=generator) < keep).float()
    return measured(x, operators.Inpainting(mask, noise_sigma=0.1))


def reduction(x: Tensor, factor: float) -> Case:
    """Images reduced by a factor, with noise of 0.1 as in the paper."""
    return measured(x, operators.SuperResolution(tuple(x.shape[1:]), int(factor), noise_sigma=0.1))


def measured(x: Tensor, operator: operators.Decomposable) -> Case:
    """Return the case of a simulated measurement."""
    y = operator.A(x)
    sigma = float(operator.noise_model.sigma)
    return Case(x, y + sigma * ItemNoise(0, [(0,)], MEASUREMENT).draw(y), operator)


PROBLEMS = {"denoising": denoising, "completion": completion, "super-resolution": reduction}
ALL = ("denoising-0.1", "denoising-0.2", "denoising-0.3", "completion-0.1", "completion-0.3")
ALL = (*ALL, "super-resolution-2")


def case_of(name: str, x: Tensor) -> Case:
    """Return a case by name, e.g. ``denoising-0.2``."""
    kind, _, value = name.rpartition("-")
    return PROBLEMS[kind](x, float(value))


def truncated(image: Tensor, rank: int) -> Tensor:
    """Return the best approximation of a rank."""
    U, s, Vh = torch.linalg.svd(image[0].flatten(1), full_matrices=False)
    return ((U[:, :rank] * s[:rank]) @ Vh[:rank]).reshape(image.shape)


def smoothed(image: Tensor, rank: int, width: float) -> Tensor:
    """Return a truncated SVD with maps smoothed by a Gaussian."""
    U, s, Vh = torch.linalg.svd(image[0].flatten(1), full_matrices=False)
    maps = (s[:rank, None] * Vh[:rank]).reshape(rank, 1, *image.shape[-2:])
    kernel = operators.gaussian_kernel(width).to(image)
    reach = [n // 2 for n in kernel.shape[-2:]]
    padded = F.pad(maps, (reach[1], reach[1], reach[0], reach[0]), mode="replicate")
    maps = F.conv2d(padded, kernel.reshape(1, 1, *kernel.shape[-2:]))
    return torch.einsum("cr,rhw->chw", U[:, :rank], maps[:, 0])[None]


def best_smoothed(case: Case, rank: int) -> Tensor:
    """Return the best of `smoothed` by the truth: an oracle."""
    start = case.operator.A_dagger(case.y)
    found = [smoothed(start, rank, width) for width in WIDTHS]
    return max(found, key=lambda image: float(metrics.psnr(image, case.x)))


def iterated(case: Case, rank: int, steps: int = 300) -> Tensor:
    """Return the fixed point of the projections on the data and on the rank."""
    x = case.operator.A_dagger(case.y)
    for _ in range(steps):
        x = truncated(x + case.operator.A_dagger(case.y - case.operator.A(x)), rank)
    return x


def stein(case: Case, rank: int) -> Tensor:
    """Return where SpatioSpectral starts: low rank, and maps smoothed by Stein's estimate."""
    A = case.operator
    return completed(lambda x: x + A.A_dagger(case.y - A.A(x)), case.x, rank)


def spatio_spectral(case: Case, rank: int, steps: int, eta: float) -> Tensor:
    """Return the last estimate of SpatioSpectral with DDRM."""
    solver = solvers.DDRM(steps=steps, eta=eta)
    return solver(case.y, case.operator, priors.SpatioSpectral(rank), seed=0).samples[0]


def methods(o: argparse.Namespace, kind: str) -> dict[str, Callable[[Case], Tensor]]:
    """Return the methods of a kind of problem, by name."""
    found: dict[str, Callable[[Case], Tensor]] = {
        "pseudo-inverse": lambda case: case.operator.A_dagger(case.y)
    }
    for rank in o.rank:
        if kind == "denoising":
            found[f"SVD rank {rank}"] = lambda case, r=rank: truncated(case.y, r)
            found[f"smoothed SVD rank {rank}"] = lambda case, r=rank: best_smoothed(case, r)
        else:
            found[f"iterated SVD rank {rank}"] = lambda case, r=rank: iterated(case, r)
        found[f"SVD rank {rank}, maps smoothed by Stein"] = lambda case, r=rank: stein(case, r)
        name = f"SpatioSpectral rank {rank}, {o.steps} steps, eta {o.eta:g}"
        found[name] = lambda case, r=rank: spatio_spectral(case, r, o.steps, o.eta)
    return found


def row_of(found: Tensor, case: Case, seconds: float) -> dict[str, float]:
    """Return the scores of an estimate."""
    psnr, ssim = metrics.band_quality(found, case.x)
    angle = metrics.spectral_angle(found, case.x)
    return {"MPSNR": float(psnr), "MSSIM": float(ssim), "SAM": float(angle), "seconds": seconds}


def draw(path: Path, case: Case, found: Tensor, name: str) -> None:
    """Draw colour pictures of truth, input and result, and the spectra of three pixels."""
    import matplotlib.pyplot as plt

    images = {"truth": case.x, "input": case.operator.A_dagger(case.y), name: found}
    figure, axes = plt.subplots(1, 4, figsize=(16, 4))
    height, width = case.x.shape[-2:]
    places = [(height // 4, width // 4), (height // 2, width // 2), (3 * height // 4, width // 3)]
    bands = [min(band, case.x.shape[1] - 1) for band in COLOURS]
    for axis, (title, image) in zip(axes, images.items(), strict=False):
        axis.imshow((2 * image[0, bands]).clamp(0, 1).movedim(0, -1).numpy())
        axis.set_title(title)
        axis.axis("off")
    for number, (row, column) in enumerate(places):
        for title, style in (("truth", "-"), (name, "--")):
            line = images[title][0, :, row, column].numpy()
            axes[3].plot(line, style, color=f"C{number}", label=title if number == 0 else None)
    axes[3].legend()
    axes[3].set_xlabel("band")
    figure.tight_layout()
    figure.savefig(path, dpi=80)
    plt.close(figure)


def write_report(out: Path, results: dict[str, dict[str, dict[str, float]]]) -> None:
    """Write the tables of all finished rows."""
    lines = []
    for problem, rows in results.items():
        lines += [f"\n### {problem}\n", "| method | MPSNR | MSSIM | SAM | seconds |"]
        lines += ["| --- | --- | --- | --- | --- |"]
        for name, r in rows.items():
            scores = f"{r['MPSNR']:.2f} | {r['MSSIM']:.4f} | {r['SAM']:.2f} | {r['seconds']:.0f}"
            lines.append(f"| {name} | {scores} |")
    (out / "hyperspectral.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def run(o: argparse.Namespace) -> None:
    """Compute the rows that are missing and write the report."""
    o.out.mkdir(parents=True, exist_ok=True)
    file, x = o.out / "results.json", load(o.cube)
    results = json.loads(file.read_text()) if file.exists() else {}
    for problem in o.problems:
        case, rows = case_of(problem, x), results.setdefault(problem, {})
        for name, method in methods(o, problem.rpartition("-")[0]).items():
            if name in rows:
                continue
            start = time.perf_counter()
            found = method(case)
            rows[name] = row_of(found, case, time.perf_counter() - start)
            print(problem, name, rows[name], flush=True)
            file.write_text(json.dumps(results, indent=1))
            write_report(o.out, results)
            if name.startswith("SpatioSpectral"):
                draw(o.out / f"{problem}-rank{name.split()[2].strip(',')}.png", case, found, name)


def options(words: list[str] | None = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("cube", type=Path, help="MAT file of the cube")
    parser.add_argument("--out", type=Path, default=Path("bench/hyperspectral"))
    parser.add_argument("--problems", nargs="+", default=list(ALL))
    parser.add_argument("--rank", nargs="+", type=int, default=[3, 5])
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--eta", type=float, default=0.5)
    return parser.parse_args(words)


if __name__ == "__main__":
    run(options())
