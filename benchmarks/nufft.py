"""Non-uniform Fourier transforms side by side: time and error for multi-coil non-Cartesian MRI.

    python benchmarks/nufft.py [--size 256] [--coils 8] [--spokes 64] [--repeats 10]

wellposed's gridding NUFFT at three settings and, where they are installed, finufft and mri-nufft
(``pip install finufft mri-nufft``) transform the same coil images to the same radial trajectory in
one run, in turn, on as many threads as torch uses. Times are the first quartile over the repeats,
since other programs can only lengthen them; errors are relative, of 64 spread samples against the
direct sum, after the best scale (packages scale differently). The last rows are the normal
operator of 8 coils, by both of its forms.
"""

import argparse
import math
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec

import torch
from torch import Tensor

from wellposed.figures import format_table
from wellposed.operators.mri.nufft import NUFFT, ToeplitzNormal
from wellposed.operators.mri.trajectories import radial_trajectory


@dataclass(frozen=True)
class Peer:
    """A transform under test: of complex64 images (coils, N, N) to samples (coils, M)."""

    forward: Callable[[Tensor], Tensor]
    adjoint: Callable[[Tensor], Tensor]
    setup: float


def wellposed_peer(k: Tensor, size: int, width: int, oversampling: float) -> Peer:
    """Return our transform."""
    started = time.perf_counter()
    nufft = NUFFT(k, (size, size), width, oversampling)
    return Peer(nufft, nufft.adjoint, time.perf_counter() - started)


def finufft_peer(k: Tensor, size: int, coils: int, **options: float) -> Peer:
    """Return finufft's, with plans made once."""
    import finufft

    started, plans = time.perf_counter(), []
    rows, columns = (2 * math.pi / size * k).float().numpy().T.copy()
    settings = {"n_trans": coils, "dtype": "complex64", "nthreads": torch.get_num_threads()}
    for kind, sign in ((2, -1), (1, 1)):
        plan = finufft.Plan(kind, (size, size), isign=sign, **settings, **options)
        plan.setpts(rows, columns)
        plans.append(plan)
    setup = time.perf_counter() - started
    forward, adjoint = (
        lambda x, plan=plan: torch.from_numpy(plan.execute(x.numpy())) for plan in plans
    )
    return Peer(forward, adjoint, setup)


def mri_nufft_peer(k: Tensor, size: int, coils: int) -> Peer:
    """Return mri-nufft's over finufft, at its defaults."""
    from mrinufft import get_operator

    started = time.perf_counter()
    operator = get_operator("finufft")((k / size).float().numpy(), (size, size), n_coils=coils)
    setup = time.perf_counter() - started
    return Peer(
        lambda x: torch.from_numpy(operator.op(x.numpy())),
        lambda y: torch.from_numpy(operator.adj_op(y.numpy())),
        setup,
    )


def direct_sum(k: Tensor, images: Tensor) -> Tensor:
    """Return the samples at few frequencies from the definition, double precision, unscaled."""
    n = torch.arange(images.shape[-1], dtype=torch.float64) - images.shape[-1] // 2
    rows, columns = (torch.exp(-2j * math.pi / len(n) * q[:, None] * n) for q in k.T)
    return torch.einsum("mi,mj,cij->cm", rows, columns, images.to(torch.complex128))


def error(found: Tensor, exact: Tensor) -> float:
    """Return the relative error after the best scale."""
    found = found.to(exact.dtype).flatten()
    scale = torch.vdot(found, exact.flatten()) / found.norm().square()
    return float((scale * found - exact.flatten()).norm() / exact.norm())


def timed(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the first quartile of each run's milliseconds; the runs take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            times[name].append(1e3 * (time.perf_counter() - started))
    return {name: statistics.quantiles(values[1:], n=4)[0] for name, values in times.items()}


def peers(k: Tensor, size: int, coils: int) -> dict[str, Peer]:
    """Return ours and those of the packages that are installed."""
    found = {
        f"wellposed, width {width}, oversampling {oversampling}": wellposed_peer(
            k, size, width, oversampling
        )
        for width, oversampling in ((7, 1.5), (8, 1.25), (6, 2))
    }
    if find_spec("finufft"):
        for eps, upsampling in ((1e-5, 1.25), (1e-6, 1.25), (1e-5, 2.0)):
            name = f"finufft, eps {eps:g}, upsampfac {upsampling}"
            found[name] = finufft_peer(k, size, coils, eps=eps, upsampfac=upsampling)
    if find_spec("mrinufft"):
        found["mri-nufft (finufft)"] = mri_nufft_peer(k, size, coils)
    return found


def main() -> None:
    """Run all transforms and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name, default in (("size", 256), ("coils", 8), ("spokes", 64), ("repeats", 10)):
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    k = radial_trajectory(args.spokes, 2 * args.size, (args.size, args.size)).flatten(0, 1)
    generator = torch.Generator().manual_seed(0)
    shape = (args.coils, args.size, args.size)
    x = torch.randn(shape, dtype=torch.complex64, generator=generator)
    some = torch.linspace(0, len(k) - 1, 64).long()
    exact = direct_sum(k[some], x)
    candidates = peers(k, args.size, args.coils)
    runs: dict[str, Callable[[], object]] = {}
    for name, peer in candidates.items():
        runs[name] = partial(peer.forward, x)
        runs[f"{name} adjoint"] = partial(peer.adjoint, peer.forward(x))
    nufft = NUFFT(k, (args.size, args.size))
    toeplitz = ToeplitzNormal(nufft)
    runs["normal, two transforms"] = lambda: nufft.adjoint(nufft(x))
    runs["normal, Toeplitz"] = lambda: toeplitz(x)
    spent = timed(runs, args.repeats)
    rows = [
        [
            name,
            f"{1e3 * peer.setup:.0f}",
            f"{spent[name]:.1f}",
            f"{spent[f'{name} adjoint']:.1f}",
            f"{error(peer.forward(x)[:, some], exact):.1e}",
        ]
        for name, peer in candidates.items()
    ]
    for name in ("normal, two transforms", "normal, Toeplitz"):
        rows.append([name, "-", f"{spent[name]:.1f}", "-", "-"])
    print(format_table(["transform", "set-up ms", "forward ms", "adjoint ms", "error"], rows))


if __name__ == "__main__":
    main()
