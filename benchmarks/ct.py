"""CT projectors side by side: time, memory, accuracy and adjoint mismatch.

    python benchmarks/ct.py [--size 256] [--views 180] [--batches 1 8] [--repeats 5]
                            [--fan | --cone] [--slices 64]

wellposed, deepinv's Tomography (its default, exact adjoint), scikit-image's radon (parallel beams
only) and, where it is installed, ASTRA's CPU line kernel project the same images in one run, in
turn; medians of wall time. ``pip install astra-toolbox nvidia-cuda-runtime-cu12`` brings ASTRA
(GPL, therefore no extra of ours). The fan has its source two image sides from the rotation centre
and a flat detector as far behind it, as wide as the image's shadow. The error is relative,
against the analytic sinograms of two ellipses, averaged over each bin. The mismatch is
``||B v - A^T v|| / ||A^T v||`` of the back-projector B for white noise v, where A^T comes from
a dense matrix. Memory is what building and using a projector at
batch 1 adds to the peak of a fresh process.

With ``--slices`` each image is a stack of slices, which is `Stacked` here and a batch to the
peers. With ``--cone`` it is a volume of N^3 voxels (64 in 60 views by default) that holds two
balls; of the peers only mbirjax, if it is installed, has a cone beam on a CPU.

Conventions of other packages' parallel beams are converted (`wellposed.operators.ct.conventions`);
of fans and cones the best of all flips and quarter turns is taken.
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from ct_peers import KINDS, PEERS, Peer, Scan
from torch import Tensor

from wellposed.figures import format_table
from wellposed.operators.ct.conventions import from_package

Key = tuple[str, str, int]

BALLS = ((0.2, 0.1, -0.15, 0.4, 1.0), (-0.4, -0.3, 0.3, 0.2, 0.6))
"""Centre and radius (of half the field of view) and value."""

ELLIPSES = ((0.11, 0.07, 0.34, 0.14, 25.0, 1.0), (-0.28, -0.2, 0.12, 0.23, -10.0, 0.6))
"""Centre, semi-axes (of half the field of view), tilt in degrees and value."""


def phantom(size: int, oversampling: int = 8) -> Tensor:
    """Return the ellipses as an image (1, 1, N, N), averaged over pixels."""
    half = size / 2
    fine = ((np.arange(size * oversampling) + 0.5) / oversampling - half) / half
    x, y = fine[None, :], -fine[:, None]
    image = np.zeros((y.size, x.size))
    for cx, cy, a, b, tilt, value in ELLIPSES:
        c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        u, v = (x - cx) * c + (y - cy) * s, -(x - cx) * s + (y - cy) * c
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    cells = image.reshape(size, oversampling, size, oversampling).mean((1, 3))
    return torch.from_numpy(cells).float()[None, None]


def exact_sinogram(scan: Scan, bins: int, oversampling: int = 16) -> Tensor:
    """Return the ellipses' line integrals, averaged over each bin, (1, 1, views, bins)."""
    fine = (np.arange(bins * oversampling) + 0.5) / oversampling - bins / 2
    offset, tilt = fine[None] * scan.bin_size, np.deg2rad(scan.degrees)[:, None]
    if scan.kind == "fan":  # as rays of parallel views
        gamma = np.arctan(offset / (2 * scan.distance))
        offset, tilt = scan.distance * np.sin(gamma), tilt - gamma
    total, half = np.zeros((scan.views, fine.size)), scan.size / 2
    for cx, cy, a, b, turn, value in ELLIPSES:
        centre = half * (cx * np.cos(tilt) + cy * np.sin(tilt))
        turned = tilt - math.radians(turn)
        width = half * np.hypot(a * np.cos(turned), b * np.sin(turned))
        r = np.clip((offset - centre) / width, -1, 1)
        total += 2 * value * a * b * half**2 * np.sqrt(1 - r**2) / width
    averaged = total.reshape(scan.views, bins, oversampling).mean(-1)
    return torch.from_numpy(averaged).float()[None, None]


def balls(size: int, oversampling: int = 4) -> Tensor:
    """Return two balls as a volume (1, 1, N, N, N), averaged over voxels."""
    half = size / 2
    fine = ((np.arange(size * oversampling) + 0.5) / oversampling - half) / half
    z, y, x = fine[:, None, None], -fine[:, None], fine
    volume = np.zeros((fine.size,) * 3, np.float32)
    for cx, cy, cz, radius, value in BALLS:
        volume += value * ((x - cx) ** 2 + (y - cy) ** 2 + (z - cz) ** 2 <= radius**2)
    return torch.nn.functional.avg_pool3d(torch.from_numpy(volume)[None, None], oversampling)


def exact_cone(scan: Scan, oversampling: int = 3) -> Tensor:
    """Return the balls' line integrals, averaged over each cell, (1, 1, views, rows, bins)."""
    u, v = (
        ((np.arange(n * oversampling) + 0.5) / oversampling - n / 2) * scan.bin_size
        for n in (scan.bins, scan.rows)
    )
    half, views = scan.size / 2, []
    for theta in np.deg2rad(scan.degrees):
        cos, sin = math.cos(theta), math.sin(theta)
        # Along u, along the central ray and up; the source is at the origin.
        rays = np.stack(np.broadcast_arrays(u, 2 * scan.distance, v[:, None]), -1)
        rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
        total = np.zeros(rays.shape[:2])
        for x, y, z, radius, value in BALLS:
            centre = half * np.array([x * cos + y * sin, y * cos - x * sin, z])
            centre[1] += scan.distance
            outside = (centre**2).sum() - (rays @ centre) ** 2
            total += 2 * value * np.sqrt(np.clip((half * radius) ** 2 - outside, 0, None))
        views.append(total.reshape(scan.rows, oversampling, -1, oversampling).mean((1, 3)))
    return torch.from_numpy(np.stack(views)).float()[None, None]


def accuracy(peer: Peer, scan: Scan) -> float:
    """Return the relative error of a projection; of fans and cones in the best convention."""
    if scan.kind == "cone":
        exact, found = exact_cone(scan), peer.project(balls(scan.size))
    else:
        found = peer.project(phantom(scan.size).expand(scan.slices, -1, -1, -1))[:1]
        if peer.package:
            angles = torch.from_numpy(scan.degrees)
            found = from_package(peer.package, found.transpose(2, 3), angles, scan.size)
        exact = exact_sinogram(scan, found.shape[-1])
    forms = [found]
    if scan.kind != "parallel":
        mirrored = [found, found.flip(-1), found.flip(2), found.flip((2, -1))]
        quarter = scan.views // 4
        # Views in reverse order begin with the last one.
        shifts = [k * quarter + extra for k in range(4) for extra in (0, 1)]
        forms = [form.roll(shift, 2) for form in mirrored for shift in shifts]
    return min(float((form - exact).norm() / exact.norm()) for form in forms)


def mismatch(make: Callable[[Scan], Peer], scan: Scan) -> float:
    """Return ``||B v - A^T v|| / ||A^T v||`` of a small scan, by a dense matrix."""
    size = 10 if scan.kind == "cone" else 32
    scan = replace(scan, size=size, views=12, slices=1)
    peer = make(scan)
    basis = torch.eye(math.prod(scan.image)).view(-1, *scan.image)
    rows = torch.cat([peer.project(part) for part in basis.split(64)])
    v = torch.randn(1, *rows.shape[1:], generator=torch.Generator().manual_seed(0))
    exact = (rows.flatten(1) @ v.flatten()).view(1, *scan.image)
    return float((peer.backproject(v) - exact).norm() / exact.norm())


def timed(calls: dict[Key, Callable[[], object]], repeats: int) -> dict[Key, float]:
    """Return the median milliseconds of each call, all taken in turn."""
    seconds: dict[Key, list[float]] = {name: [] for name in calls}
    for repeat in range(repeats + 1):
        for name, call in calls.items():
            started = time.perf_counter()
            call()
            if repeat:
                seconds[name].append(time.perf_counter() - started)
    return {name: 1e3 * statistics.median(values) for name, values in seconds.items()}


def peak_megabytes(name: str, scan: Scan) -> float:
    """Return what building and using a peer adds to a fresh process's peak memory."""
    code = [sys.executable, __file__, "--peak", name]
    code += ["--size", str(scan.size), "--views", str(scan.views), "--slices", str(scan.slices)]
    code += [] if scan.kind == "parallel" else [f"--{scan.kind}"]
    return float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, scan: Scan) -> None:
    """Print the growth of peak memory, in MB; run in a process of its own."""
    PEERS[name](replace(scan, size=16, views=4))  # imports
    before = _peak_kilobytes()
    peer = PEERS[name](scan)
    peer.backproject(peer.project(torch.zeros(scan.slices, *scan.image)))
    print((_peak_kilobytes() - before) / 1024)


def _peak_kilobytes() -> int:
    """Return the peak memory of this program (Linux; getrusage would count its parent's)."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0])


def available(scan: Scan) -> dict[str, Peer]:
    """Return the peers that are installed and can do the scan."""
    peers = {}
    for name, make in PEERS.items():
        try:
            peers[name] = make(scan)
        except ImportError as error:
            print(f"{name} is left out: {error}")
    return peers


def run(scan: Scan, batches: list[int], repeats: int) -> None:
    """Print the table of one scan."""
    peers, calls = available(scan), {}
    for batch in batches:
        x = torch.rand(batch * scan.slices, *scan.image)
        for name, peer in peers.items():
            y = peer.project(x)
            calls[name, "A", batch] = partial(peer.project, x)
            calls[name, "A^T", batch] = partial(peer.backproject, y)
    times = timed(calls, repeats)
    both = {(n, b): times[n, "A", b] + times[n, "A^T", b] for n in peers for b in batches}
    rows = []
    for name, peer in peers.items():
        cells = [f"{times[name, kind, b]:.1f}" for b in batches for kind in ("A", "A^T")]
        cells += [f"{both[name, b] / both['wellposed', b]:.1f}" for b in batches]
        cells += [f"{peak_megabytes(name, scan):.0f}", f"{accuracy(peer, scan):.4f}"]
        row = [name, f"{peer.setup:.2f}", *cells, f"{mismatch(PEERS[name], scan):.1e}"]
        rows.append(row)
    header = ["", "set-up s", *(f"{k} ms, B={b}" for b in batches for k in ("A", "A^T"))]
    header += [*(f"time / ours, B={b}" for b in batches), "peak MB", "error", "mismatch"]
    print(format_table(header, rows))


def main() -> None:
    """Run the peers that are installed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, help="256, of a cone 64")
    parser.add_argument("--views", type=int, help="180, of a cone 60")
    parser.add_argument("--slices", type=int, default=1)
    kind = parser.add_mutually_exclusive_group()
    for name in KINDS[1:]:
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name)
    parser.set_defaults(kind=KINDS[0])
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    size, views = (64, 60) if args.kind == "cone" else (256, 180)
    scan = Scan(args.size or size, args.views or views, args.kind, args.slices)
    if args.peak:
        print_peak(args.peak, scan)
    else:
        run(scan, args.batches, args.repeats)


if __name__ == "__main__":
    main()
