"""The projectors that `ct.py` compares, under one interface."""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

KINDS = ("parallel", "fan", "cone")


@dataclass(frozen=True)
class Scan:
    """What all peers are asked to project: N x N pixels of side 1, or N x N x N voxels.

    Attributes:
        size: side N.
        views: number of views, over a half turn (parallel beams) or a full one.
        kind: one of `KINDS`.
        slices: number of slices that make an image of planar scans.
    """

    size: int
    views: int
    kind: str
    slices: int = 1

    @property
    def image(self) -> tuple[int, ...]:
        """Shape of what is projected."""
        return (1, *[self.size] * (3 if self.kind == "cone" else 2))

    @property
    def data(self) -> tuple[int, ...]:
        """Shape of its projections."""
        return (1, self.views, *([self.rows] if self.kind == "cone" else []), self.bins)

    @property
    def distance(self) -> float:
        """From the source to the rotation centre, and from there to the detector."""
        return 2.0 * self.size

    @property
    def span(self) -> float:
        """Range of the views in degrees."""
        return 180.0 if self.kind == "parallel" else 360.0

    @property
    def degrees(self) -> np.ndarray:
        """Angles of the views."""
        return np.arange(self.views) * (self.span / self.views)

    @property
    def bin_size(self) -> float:
        """Width of a bin."""
        return 1.0 if self.kind == "parallel" else 2.0

    @property
    def rows(self) -> int:
        """As many rows of a panel as see the whole volume."""
        magnified = self.distance / (self.distance - self.size / math.sqrt(2))
        return 2 * math.ceil(self.size / 2 * magnified)

    @property
    def bins(self) -> int:
        """As many as see the whole image, odd or even as the image's side is."""
        radius = self.size / math.sqrt(2)
        shadow = radius
        if self.kind != "parallel":
            shadow = math.tan(math.asin(radius / self.distance)) * self.distance
        bins = math.ceil(2 * shadow)
        return bins + (bins - self.size) % 2


@dataclass(frozen=True)
class Peer:
    """A projector pair under test.

    Attributes:
        project, backproject: of images (B, *scan.image) and sinograms (B, *scan.data), of which
            a package may have another number of bins.
        setup: seconds it took to build.
        package: whose convention of parallel beams differs from ours.
    """

    project: Callable[[Tensor], Tensor]
    backproject: Callable[[Tensor], Tensor]
    setup: float
    package: str | None = None


def wellposed_peer(scan: Scan) -> Peer:
    """Return our operator."""
    from wellposed.operators import ConeBeamCT, Detector, FanBeamCT, Panel, ParallelBeamCT, Stacked

    started, distances = time.perf_counter(), (scan.distance, 2 * scan.distance)
    if scan.kind == "cone":
        panel = Panel(scan.rows, scan.bins, scan.bin_size)
        op = ConeBeamCT(scan.image[1:], scan.views, *distances, panel)
    elif scan.kind == "fan":
        op = FanBeamCT(scan.size, scan.views, *distances, Detector(scan.bins, scan.bin_size))
    else:
        op = ParallelBeamCT(scan.size, scan.views, scan.bins)
    seconds = time.perf_counter() - started
    if scan.slices == 1:
        return Peer(op.A, op.A_adjoint, seconds)
    stack = Stacked(op, scan.slices)

    def by_volume(apply: Callable[[Tensor], Tensor], slices: Tensor) -> Tensor:
        volumes = slices.unflatten(0, (-1, scan.slices)).transpose(1, 2)
        return apply(volumes).transpose(1, 2).flatten(0, 1)

    return Peer(partial(by_volume, stack.A), partial(by_volume, stack.A_adjoint), seconds)


def deepinv_peer(scan: Scan) -> Peer:
    """Return deepinv's operator, without its normalisation."""
    import deepinv

    if scan.kind == "cone":
        raise ImportError("its cone beam needs ASTRA and CUDA")
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
        fan_beam=scan.kind == "fan",
        fan_parameters=parameters if scan.kind == "fan" else None,
    )
    seconds = time.perf_counter() - started
    return Peer(
        lambda x: op.A(x).transpose(2, 3),
        lambda y: op.A_adjoint(y.transpose(2, 3)),
        seconds,
        "deepinv" if scan.kind == "parallel" else None,
    )


def skimage_peer(scan: Scan) -> Peer:
    """Return scikit-image's transform and its unfiltered back-projection, scaled as adjoint."""
    from skimage.transform import iradon, radon

    if scan.kind != "parallel":
        raise ImportError(f"it has no {scan.kind} beam")

    def project(x: Tensor) -> Tensor:
        data = [radon(i[0].numpy(), scan.degrees, circle=False).T[None] for i in x]
        return torch.from_numpy(np.stack(data))

    def backproject(y: Tensor) -> Tensor:
        options = {"filter_name": None, "circle": False, "output_size": scan.size}
        scale = 2 * scan.views / math.pi
        images = [iradon(s[0].numpy().T, scan.degrees, **options) * scale for s in y]
        return torch.from_numpy(np.stack(images))[:, None]

    return Peer(project, backproject, 0.0, "scikit-image")


def astra_peer(scan: Scan) -> Peer:
    """Return ASTRA's CPU line kernel."""
    import astra

    if scan.kind == "cone":
        raise ImportError("its cone beam needs CUDA")
    started = time.perf_counter()
    volume, angles = astra.create_vol_geom(scan.size, scan.size), np.deg2rad(scan.degrees)
    kind, distances = "parallel", ()
    if scan.kind == "fan":
        kind, distances = "fanflat", (scan.distance, scan.distance)
    geometry = astra.create_proj_geom(kind, scan.bin_size, scan.bins, angles, *distances)
    kernel = "line_fanflat" if scan.kind == "fan" else "line"
    op = astra.OpTomo(astra.create_projector(kernel, geometry, volume))
    seconds = time.perf_counter() - started

    def over_batch(apply: Callable[[np.ndarray], np.ndarray], values: Tensor) -> Tensor:
        return torch.stack([torch.from_numpy(apply(v[0].numpy()))[None] for v in values])

    return Peer(partial(over_batch, op.FP), partial(over_batch, op.BP), seconds)


def mbirjax_peer(scan: Scan) -> Peer:
    """Return mbirjax's cone beam, the separable footprints of its voxels."""
    if scan.kind != "cone":
        raise ImportError("it is compared with cone beams")
    import mbirjax

    started = time.perf_counter()
    angles, distances = np.deg2rad(scan.degrees), (2 * scan.distance, scan.distance)
    model = mbirjax.ConeBeamModel(scan.data[1:], angles, *distances)
    model.set_params(delta_det_channel=scan.bin_size, delta_det_row=scan.bin_size)
    model.set_params(delta_voxel=1.0, recon_shape=scan.image[1:], verbose=0)
    seconds = time.perf_counter() - started

    # Its volumes are (row, column, slice).
    def project(x: Tensor) -> Tensor:
        data = [np.array(model.forward_project(v[0].permute(1, 2, 0).numpy())) for v in x]
        return torch.from_numpy(np.stack(data))[:, None]

    def backproject(y: Tensor) -> Tensor:
        volumes = [np.array(model.back_project(v[0].numpy())) for v in y]
        return torch.from_numpy(np.stack(volumes)).permute(0, 3, 1, 2)[:, None]

    return Peer(project, backproject, seconds)


PEERS: dict[str, Callable[[Scan], Peer]] = {
    "wellposed": wellposed_peer,
    "deepinv": deepinv_peer,
    "scikit-image": skimage_peer,
    "ASTRA line": astra_peer,
    "mbirjax": mbirjax_peer,
}
