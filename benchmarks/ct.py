"""CT projectors side by side: time, memory, accuracy and adjoint mismatch.

    python benchmarks/ct.py [--size 256] [--views 180] [--batches 1 8] [--fan] [--repeats 5]

wellposed, deepinv's Tomography (its default, exact adjoint), scikit-image's radon (parallel beams
only) and, where it is installed, ASTRA's CPU line kernel project the same images in one run, in
turn; medians of wall time. ``pip install astra-toolbox nvidia-cuda-runtime-cu12`` brings ASTRA
(GPL, therefore no extra of ours). The fan has its source two image sides from the rotation centre
and a flat detector as far behind it, as wide as the image's shadow. The error is relative,
against the analytic sinograms of two ellipses, averaged over each bin. The mismatch is
``||B v - A^T v|| / ||A^T v||`` of the back-projector B for white noise v, where A^T comes from
a dense matrix. Memory is what building and using a projector at
batch 1 adds to the peak of a fresh process.

Conventions of the packages, in which their sinograms of parallel beams are compared (of fans, the
best of all flips and quarter turns is taken):

| package | view angle | rotation centre | order of bins |
|---|---|---|---|
| wellposed | counter-clockwise | pixel (N-1)/2 | along (cos, sin), X right, Y up |
| deepinv | counter-clockwise | pixel (N-1)/2 | the same |
| scikit-image | counter-clockwise | pixel N // 2 | the same |
| ASTRA | counter-clockwise | pixel (N-1)/2 | the same |
"""

import argparse
import math
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from wellposed.report import format_table

Key = tuple[str, str, int]

ELLIPSES = ((0.11, 0.07, 0.34, 0.14, 25.0, 1.0), (-0.28, -0.2, 0.12, 0.23, -10.0, 0.6))
"""Centre, semi-axes (of half the field of view), tilt in degrees and value."""


@dataclass(frozen=True)
class Scan:
    """What all peers are asked to project: N x N pixels of side 1.

    Attributes:
        size: side N.
        views: number of views, over a half turn or, of a fan, over a full one.
        fan: a fan beam instead of a parallel one.
    """

    size: int
    views: int
    fan: bool

    @property
    def distance(self) -> float:
        """From the source to the rotation centre, and from there to the detector."""
        return 2.0 * self.size

    @property
    def span(self) -> float:
        """Range of the views in degrees."""
        return 360.0 if self.fan else 180.0

    @property
    def degrees(self) -> np.ndarray:
        """Angles of the views."""
        return np.arange(self.views) * (self.span / self.views)

    @property
    def bin_size(self) -> float:
        """Width of a bin."""
        return 2.0 if self.fan else 1.0

    @property
    def bins(self) -> int:
        """As many as see the whole image, odd or even as the image's side is."""
        radius = self.size / math.sqrt(2)
        shadow = radius
        if self.fan:
            shadow = math.tan(math.asin(radius / self.distance)) * self.distance
        bins = math.ceil(2 * shadow)
        return bins + (bins - self.size) % 2


@dataclass(frozen=True)
class Peer:
    """A projector pair under test.

    Attributes:
        project, backproject: of images (B, 1, N, N) and sinograms (B, 1, views, bins).
        setup: seconds it took to build.
        shift: distance of its rotation centre from pixel (N-1)/2, in pixels, right and up.
    """

    project: Callable[[Tensor], Tensor]
    backproject: Callable[[Tensor], Tensor]
    setup: float
    shift: tuple[float, float] = (0.0, 0.0)


def wellposed_peer(scan: Scan) -> Peer:
    """Return our operator."""
    from wellposed.operators import Detector, FanBeamCT, ParallelBeamCT

    started = time.perf_counter()
    if scan.fan:
        detector = Detector(scan.bins, scan.bin_size)
        op = FanBeamCT(scan.size, scan.views, scan.distance, 2 * scan.distance, detector)
    else:
        op = ParallelBeamCT(scan.size, scan.views, scan.bins)
    return Peer(op.A, op.A_adjoint, time.perf_counter() - started)


def deepinv_peer(scan: Scan) -> Peer:
    """Return deepinv's operator, without its normalisation."""
    import deepinv

    started = time.perf_counter()
    parameters = {
        "pixel_spacing": 1.0,
        "source_radius": scan.distance,
        "detector_radius": scan.distance,
        "n_detector_pixels": scan.bins,
        "detector_spacing": scan.bin_size,
    }
    op = deepinv.physics.Tomography(
        torch.from_numpy(scan.degrees).float(),
        scan.size,
        normalize=False,
        fan_beam=scan.fan,
        fan_parameters=parameters if scan.fan else None,
    )
    seconds = time.perf_counter() - started
    bins = op.A(torch.zeros(1, 1, scan.size, scan.size)).shape[2]
    # Its detector of parallel beams is a few bins longer or shorter, about the same centre.
    left = (scan.bins - bins) // 2
    right = scan.bins - bins - left
    return Peer(
        lambda x: pad(op.A(x).transpose(2, 3), (left, right)),
        lambda y: op.A_adjoint(pad(y, (-left, -right)).transpose(2, 3)),
        seconds,
    )


def skimage_peer(scan: Scan) -> Peer:
    """Return scikit-image's transform and its unfiltered back-projection, scaled as adjoint."""
    from skimage.transform import iradon, radon

    if scan.fan:
        raise ImportError("scikit-image has no fan beam")
    size, even = scan.size, 1 - scan.size % 2
    bins = radon(np.zeros((size, size)), [0.0], circle=False).shape[0]
    left = (scan.bins - bins) // 2
    right = scan.bins - bins - left

    def project(x: Tensor) -> Tensor:
        data = [radon(i[0].numpy(), scan.degrees, circle=False).T[None] for i in x]
        return pad(torch.from_numpy(np.stack(data)), (left, right))

    def backproject(y: Tensor) -> Tensor:
        options = {"filter_name": None, "circle": False, "output_size": size}
        scale = 2 * scan.views / math.pi
        y = pad(y, (-left, -right))
        images = [iradon(s[0].numpy().T, scan.degrees, **options) * scale for s in y]
        return torch.from_numpy(np.stack(images))[:, None]

    return Peer(project, backproject, 0.0, (0.5 * even, -0.5 * even))


def astra_peer(scan: Scan) -> Peer:
    """Return ASTRA's CPU line kernel."""
    import astra

    started = time.perf_counter()
    volume, angles = astra.create_vol_geom(scan.size, scan.size), np.deg2rad(scan.degrees)
    kind, distances = "parallel", ()
    if scan.fan:
        kind, distances = "fanflat", (scan.distance, scan.distance)
    geometry = astra.create_proj_geom(kind, scan.bin_size, scan.bins, angles, *distances)
    kernel = "line_fanflat" if scan.fan else "line"
    op = astra.OpTomo(astra.create_projector(kernel, geometry, volume))
    seconds = time.perf_counter() - started

    def over_batch(apply: Callable[[np.ndarray], np.ndarray], values: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(apply(v[0].numpy()))[None] for v in values])

    return Peer(partial(over_batch, op.FP), partial(over_batch, op.BP), seconds)


PEERS: dict[str, Callable[[Scan], Peer]] = {
    "wellposed": wellposed_peer,
    "deepinv": deepinv_peer,
    "scikit-image": skimage_peer,
    "ASTRA line": astra_peer,
}


def phantom(size: int, shift: tuple[float, float], oversampling: int = 8) -> Tensor:
    """Return the ellipses as an image (1, 1, N, N), averaged over pixels, centre shifted."""
    half = size / 2
    fine = ((np.arange(size * oversampling) + 0.5) / oversampling - half) / half
    x, y = fine[None, :] - shift[0] / half, -fine[:, None] - shift[1] / half
    image = np.zeros((y.size, x.size))
    for cx, cy, a, b, tilt, value in ELLIPSES:
        c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        u, v = (x - cx) * c + (y - cy) * s, -(x - cx) * s + (y - cy) * c
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    cells = image.reshape(size, oversampling, size, oversampling).mean((1, 3))
    return torch.from_numpy(cells).float()[None, None]


def exact_sinogram(scan: Scan, oversampling: int = 16) -> Tensor:
    """Return the ellipses' line integrals, averaged over each bin, (1, 1, views, bins)."""
    fine = (np.arange(scan.bins * oversampling) + 0.5) / oversampling - scan.bins / 2
    offset, tilt = fine[None] * scan.bin_size, np.deg2rad(scan.degrees)[:, None]
    if scan.fan:  # as rays of parallel views
        gamma = np.arctan(offset / (2 * scan.distance))
        offset, tilt = scan.distance * np.sin(gamma), tilt - gamma
    total, half = np.zeros((scan.views, fine.size)), scan.size / 2
    for cx, cy, a, b, turn, value in ELLIPSES:
        centre = half * (cx * np.cos(tilt) + cy * np.sin(tilt))
        turned = tilt - math.radians(turn)
        width = half * np.hypot(a * np.cos(turned), b * np.sin(turned))
        r = np.clip((offset - centre) / width, -1, 1)
        total += 2 * value * a * b * half**2 * np.sqrt(1 - r**2) / width
    averaged = total.reshape(scan.views, scan.bins, oversampling).mean(-1)
    return torch.from_numpy(averaged).float()[None, None]


def accuracy(peer: Peer, scan: Scan) -> float:
    """Return the relative error of a projection; of a fan in the convention that fits best."""
    exact = exact_sinogram(scan)
    found = peer.project(phantom(scan.size, peer.shift))
    forms = [found]
    if scan.fan:
        mirrored = [found, found.flip(3), found.flip(2), found.flip((2, 3))]
        quarter = scan.views // 4
        # Views in reverse order begin with the last one.
        shifts = [k * quarter + extra for k in range(4) for extra in (0, 1)]
        forms = [form.roll(shift, 2) for form in mirrored for shift in shifts]
    return min(float((form - exact).norm() / exact.norm()) for form in forms)


def mismatch(peer: Peer, scan: Scan) -> float:
    """Return ``||B v - A^T v|| / ||A^T v||``, by a dense matrix."""
    v = torch.randn(1, 1, scan.views, scan.bins, generator=torch.Generator().manual_seed(0))
    basis = torch.eye(scan.size**2).view(-1, 1, scan.size, scan.size)
    rows = torch.cat([peer.project(part) for part in basis.split(64)])
    exact = (rows.flatten(1) @ v.flatten()).view(1, 1, scan.size, scan.size)
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
    code += ["--size", str(scan.size), "--views", str(scan.views), *["--fan"] * scan.fan]
    return float(subprocess.run(code, capture_output=True, text=True, check=True).stdout)


def print_peak(name: str, scan: Scan) -> None:
    """Print the growth of peak memory, in MB; run in a process of its own."""
    PEERS[name](Scan(16, 4, scan.fan))  # imports
    before = _peak_kilobytes()
    peer = PEERS[name](scan)
    peer.backproject(peer.project(torch.zeros(1, 1, scan.size, scan.size)))
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
        x = torch.rand(batch, 1, scan.size, scan.size)
        for name, peer in peers.items():
            y = peer.project(x)
            calls[name, "A", batch] = partial(peer.project, x)
            calls[name, "A^T", batch] = partial(peer.backproject, y)
    times = timed(calls, repeats)
    both = {(n, b): times[n, "A", b] + times[n, "A^T", b] for n in peers for b in batches}
    small, rows = Scan(32, 12, scan.fan), []
    for name, peer in peers.items():
        cells = [f"{times[name, kind, b]:.1f}" for b in batches for kind in ("A", "A^T")]
        cells += [f"{both[name, b] / both['wellposed', b]:.1f}" for b in batches]
        cells += [f"{peak_megabytes(name, scan):.0f}", f"{accuracy(peer, scan):.4f}"]
        row = [name, f"{peer.setup:.2f}", *cells, f"{mismatch(PEERS[name](small), small):.1e}"]
        rows.append(row)
    header = ["", "set-up s", *(f"{k} ms, B={b}" for b in batches for k in ("A", "A^T"))]
    header += [*(f"time / ours, B={b}" for b in batches), "peak MB", "error", "mismatch"]
    print(format_table(header, rows))


def main() -> None:
    """Run the peers that are installed and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", type=int, default=180)
    parser.add_argument("--fan", action="store_true")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--peak", choices=PEERS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    scan = Scan(args.size, args.views, args.fan)
    if args.peak:
        print_peak(args.peak, scan)
    else:
        run(scan, args.batches, args.repeats)


if __name__ == "__main__":
    main()
