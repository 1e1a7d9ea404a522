"""Cone-beam tomography against traced rays, a mid-plane fan, and analytic balls."""

import math
import warnings

import numpy as np
import pytest
import torch
from tests.helpers import relative

from wellposed import errors
from wellposed.operators.check import check_operator, dense_matrix
from wellposed.operators.ct import ConeBeamCT, Detector, FanBeamCT, Panel, joseph

pytestmark = pytest.mark.usefixtures("single_thread")

F64 = torch.float64


def ball(shape, radius, centre, voxel_size=1.0, oversampling=4):
    """A ball of value 1, averaged over voxels; the centre is (X, Y, Z)."""
    axes = [
        ((torch.arange(n * oversampling, dtype=F64) + 0.5) / oversampling - n / 2) * voxel_size
        for n in shape
    ]
    z, y, x = axes[0][:, None, None], -axes[1][:, None], axes[2]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
    return torch.nn.functional.avg_pool3d(inside.to(F64)[None, None], oversampling)


def ray_directions(op, theta):
    """Unit vectors (X, Y, Z) from the source to the cells, (rows, columns, 3), and the source."""
    scan, panel = op.geometry, op.geometry.panel
    cos, sin = math.cos(theta), math.sin(theta)
    u = (torch.arange(panel.columns) - (panel.columns - 1) / 2).to(F64) * panel.cell_size
    v = (torch.arange(panel.rows) - (panel.rows - 1) / 2).to(F64) * panel.cell_size
    u, v = u + panel.offset, (v + panel.elevation)[:, None].expand(-1, len(u))
    x, y = u * cos - scan.detector_distance * sin, u * sin + scan.detector_distance * cos
    rays = torch.stack([x.expand_as(v), y.expand_as(v), v], -1)
    source = -scan.source_distance * torch.tensor([-sin, cos, 0], dtype=F64)
    return rays / rays.norm(dim=-1, keepdim=True), source


def chords(op, radius, centre):
    """Exact lengths of the rays to the panel's cells within a ball."""
    out, c = [], torch.tensor(centre, dtype=F64)
    for theta in torch.deg2rad(op.angles).tolist():
        rays, source = ray_directions(op, theta)
        along = ((c - source) * rays).sum(-1)
        distance2 = ((c - source) ** 2).sum() - along**2
        out.append(2 * (radius**2 - distance2).clamp(min=0).sqrt())
    return torch.stack(out)[None, None]


def traced(op, volume):
    """Joseph's sums, voxel by voxel in numpy: every ray through the slabs it crosses most."""
    scan, sides = op.geometry, np.array(op.geometry.volume_size)
    out = np.zeros(op.measurement_size[1:])
    for view, theta in enumerate(np.deg2rad(op.angles.numpy())):
        rays, source = (t.numpy() for t in ray_directions(op, theta))
        for cell in np.ndindex(rays.shape[:2]):
            # In voxels, in the order of the axes (slice, row, column); rows count down.
            step = rays[cell][[2, 1, 0]] * [1, -1, 1]
            start = source[[2, 1, 0]] * [1, -1, 1] / scan.voxel_size + (sides - 1) / 2
            axis = 1 if abs(step[1]) >= abs(step[2]) else 2
            for slab in range(sides[axis]):
                place = start + (slab - start[axis]) / step[axis] * step
                place[axis] = slab
                out[view][cell] += interpolated(volume, place) / abs(step[axis])
    return torch.from_numpy(out * scan.voxel_size)[None, None]


def interpolated(volume, place):
    low, value = np.floor(place).astype(int), 0.0
    for corner in np.ndindex(2, 2, 2):
        voxel = low + corner
        if (voxel >= 0).all() and (voxel < volume.shape).all():
            value += volume[tuple(voxel)] * np.prod(1 - abs(place - voxel))
    return value


SCANS = {
    "odd panel": lambda: ConeBeamCT((5, 6, 7), [0.0, 33, 120], 20.0, 30.0, Panel(13, 15, 1.1)),
    "one row": lambda: ConeBeamCT((1, 6, 5), 5, 20.0, 30.0, Panel(1, 15, 1.8)),
    "one slab": lambda: ConeBeamCT((4, 1, 6), [0.0, 80, 170], 20.0, 25.0, voxel_size=0.7),
    "diagonal": lambda: ConeBeamCT((4, 6, 6), [45.0, 135, 225, 315], 20.0, 30.0),
    "wide": lambda: ConeBeamCT((1, 8, 8), [45.0, 80], 10.0, 10.0, Panel(1, 41, 1.7)),
    "shifted": lambda: ConeBeamCT(
        (4, 6, 7), [10.0, 45, 200], 20.0, 30.0, Panel(12, 20, 1.1, 0.9, -1.3)
    ),
}
FANS = {
    "fan": lambda: FanBeamCT((7, 6), [0.0, 45, 100], 20.0, 30.0, Detector(15, 1.4)),
    "shifted fan": lambda: FanBeamCT(6, [45.0, 225, 300], 20.0, 30.0, Detector(16, 1.2, 0.7)),
    "curved fan": lambda: FanBeamCT(6, 5, 20.0, 30.0, Detector(17, 1.2, -0.4, curved=True)),
    "one pixel": lambda: FanBeamCT(1, [0.0, 45, 90], 20.0, 30.0, Detector(3, 1.0)),
}


@pytest.mark.parametrize("scan", SCANS)
def test_sums_along_rays_are_josephs(scan):
    op = SCANS[scan]()
    x = torch.rand(1, *op.img_size, dtype=F64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(op.A(x), traced(op, x[0, 0].numpy()), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (F64, 1e-13)])
@pytest.mark.parametrize("scan", [*SCANS, *FANS])
def test_adjoint_is_the_transpose_of_the_dense_matrix(scan, dtype, tolerance, device):
    op = (SCANS | FANS)[scan]().to(device)
    matrix = dense_matrix(lambda x: op.A(x.to(device)), op.img_size, dtype)
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(3, *op.measurement_size, dtype=dtype, generator=generator).to(device)
    exact = (y.flatten(1) @ matrix).view(3, *op.img_size)
    assert relative(op.A_adjoint(y), exact) < tolerance


def test_slabs_at_a_time_decide_memory_alone(monkeypatch):
    op = SCANS["shifted"]()
    x, y = torch.rand(2, *op.img_size), torch.rand(2, *op.measurement_size)
    expected = op.A(x), op.A_adjoint(y)
    monkeypatch.setattr(joseph, "SLABS", 2)
    torch.testing.assert_close((op.A(x), op.A_adjoint(y)), expected)


@pytest.mark.parametrize(
    ("voxel_size", "panel"), [(1.0, None), (0.5, None), (1.0, Panel(50, 70, 1.5, 5.3, -3.1))]
)
def test_a_ball_casts_its_chords(voxel_size, panel):
    """Off the centre in all directions, from all sides: every sign counts."""
    angles = torch.tensor([0.0, 30, 60, 90, 135, 200, 290])
    distances = 60 * voxel_size, 90 * voxel_size
    op = ConeBeamCT((24, 28, 32), angles, *distances, panel, voxel_size)
    centre = tuple(voxel_size * c for c in (5.0, -3.0, 2.5))
    x = ball((24, 28, 32), 7 * voxel_size, centre, voxel_size)
    exact = chords(op, 7 * voxel_size, centre)
    for view in range(len(angles)):
        assert relative(op.A(x)[:, :, view], exact[:, :, view]) < 0.07
        for axis in (-1, -2):  # half a cell would show
            shifted = exact[:, :, view].roll(1, axis)
            halfway = (exact[:, :, view] + shifted) / 2
            assert relative(op.A(x)[:, :, view], halfway) > 0.09


def test_the_middle_row_is_a_fan():
    angles = torch.tensor([0.0, 25, 70, 160])
    op = ConeBeamCT((5, 16, 16), angles, 40.0, 60.0, Panel(15, 48, 0.8))
    fan = FanBeamCT(16, angles, 40.0, 60.0, Detector(48, 0.8))
    smooth = ball((1, 16, 16), 6.0, (1.0, 2.0, 0.0), oversampling=8).clamp(0, 1)
    volume = smooth.expand(1, 1, 5, 16, 16)
    assert relative(op.A(volume)[0, 0, :, 7], fan.A(smooth[:, :, 0])[0, 0]) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.sampled
def test_operator_properties(dtype, device):
    op = ConeBeamCT((4, 7, 6), 5, 20.0, 30.0).to(device)
    assert check_operator(op, dtype=dtype).passes(1e-5 if dtype == torch.float32 else 1e-12)


def test_an_item_is_the_same_alone_and_in_a_batch():
    op = SCANS["odd panel"]()
    x, y = torch.rand(3, *op.img_size), torch.rand(3, *op.measurement_size)
    torch.testing.assert_close(op.A(x)[1:2], op.A(x[1:2]))
    torch.testing.assert_close(op.A_adjoint(y)[1:2], op.A_adjoint(y[1:2]))


def test_gradients_are_the_transpose():
    op = SCANS["shifted"]()
    x = torch.rand(2, *op.img_size, dtype=F64, requires_grad=True)
    y = torch.rand(2, *op.measurement_size, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(op.A(x), x, y.detach())
    torch.testing.assert_close(gradient, op.A_adjoint(y.detach()))
    (gradient,) = torch.autograd.grad(op.A_adjoint(y), y, x.detach())
    torch.testing.assert_close(gradient, op.A(x.detach()))


@pytest.mark.parametrize("name", ["A", "A_adjoint"])
def test_gradients_keep_nothing(name):
    """What autograd stores of each view and slab would exhaust memory."""
    op = SCANS["odd panel"]()
    size = op.img_size if name == "A" else op.measurement_size
    value, kept = torch.rand(1, *size, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(kept.append, lambda _: None):
        getattr(op, name)(value)
    assert not kept


def test_maps_run_without_autograd_and_under_torch_func():
    op = SCANS["shifted"]()
    x, y = (torch.rand(1, *s, dtype=F64) for s in (op.img_size, op.measurement_size))
    data, images = op.A(x), op.A_adjoint(y)
    with torch.inference_mode():
        torch.testing.assert_close(op.A_adjoint(y), images)
    for apply, at, other, value, back in (
        (op.A, x, y, data, images),
        (op.A_adjoint, y, x, images, data),
    ):
        got, pullback = torch.func.vjp(apply, at)
        torch.testing.assert_close((got, *pullback(other)), (value, back))
        _, tangent = torch.func.jvp(apply, (at,), (2 * at,))
        torch.testing.assert_close(tangent, 2 * value)


def test_fdk_restores_values():
    op = ConeBeamCT((17, 32, 32), 120, 80.0, 120.0, voxel_size=0.5)
    image = 0.02 * ball((17, 32, 32), 6.0, (0.5, -1.0, 0.0), 0.5)
    got = op.fdk(op.A(image))
    inside = ball((17, 32, 32), 4.0, (0.5, -1.0, 0.0), 0.5) == 1
    assert float((got[inside] / 0.02 - 1).abs().mean()) < 0.03
    assert relative(got, image) < 0.2


def test_shifted_panels_are_cut_out_of_a_large_one():
    whole = ConeBeamCT((6, 8, 8), [0.0, 40, 45], 30.0, 45.0, Panel(21, 30, 1.5))
    part = Panel(14, 22, 1.5, 1.5 * (3 + 21 / 2 - 29 / 2), 1.5 * (5 + 13 / 2 - 20 / 2))
    op = ConeBeamCT((6, 8, 8), [0.0, 40, 45], 30.0, 45.0, part)
    x = torch.rand(1, *op.img_size, dtype=F64)
    torch.testing.assert_close(op.A(x), whole.A(x)[..., 5:19, 3:25])


def test_fdk_knows_of_a_shifted_panel():
    image = 0.02 * ball((9, 24, 24), 7.0, (1.5, -2.0, 0.5))
    centred, shifted = (
        ConeBeamCT((9, 24, 24), 60, 60.0, 90.0, Panel(30, 66, 1.5, *shift))
        for shift in ((0.0, 0.0), (6.3, -4.1))
    )
    expected = centred.fdk(centred.A(image))
    assert relative(shifted.fdk(shifted.A(image)), expected) < 0.05
    # A centre that is wrong by a cell would show.
    beside = ConeBeamCT((9, 24, 24), 60, 60.0, 90.0, Panel(30, 66, 1.5, 7.8, -4.1))
    assert relative(beside.fdk(shifted.A(image)), expected) > 0.15


@pytest.mark.parametrize(
    ("panel", "truncated"),
    [
        (Panel(10, 30, 2.0), ""),
        (None, ""),
        (Panel(10, 12, 2.0), "columns"),
        (Panel(10, 24, 2.0, offset=13.0), ""),
        (Panel(10, 12, 2.0, offset=13.0), "columns"),
        (Panel(5, 30, 2.0), "rows"),
        (Panel(10, 30, 2.0, elevation=-6.0), "rows"),
    ],
)
def test_truncation_is_named(panel, truncated):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ConeBeamCT((8, 16, 16), 8, 40.0, 60.0, panel)
    assert len(caught) == bool(truncated)
    for warning in caught:
        assert f"panel: its {truncated} span" in str(warning.message)
        assert warning.filename == __file__


def test_default_panels_see_the_whole_volume():
    op = ConeBeamCT((8, 16, 16), 8, 30.0, 45.0)
    total = op.A(torch.ones(1, *op.img_size, dtype=F64))[0, 0]
    edge = torch.cat([total[:, 0].flatten(), total[:, :, 0].flatten(), total[:, -1].flatten()])
    assert float(edge.max()) < 0.2 * float(total.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume_size": (8, 8)}, "volume_size: got"),
        ({"volume_size": 8}, "volume_size: got 8, accepted: "),
        ({"volume_size": (0, 8, 8)}, "volume_size: got"),
        ({"volume_size": (8, 8, 2.5)}, "volume_size: got"),
        ({"source_distance": 5.0}, "source_distance: got 5.0, accepted: a distance"),
        ({"detector_distance": 20.0}, "detector_distance: got 20.0"),
        ({"voxel_size": -1.0}, "voxel_size: got -1.0"),
        ({"angles": 0}, "angles: got 0"),
    ],
)
def test_impossible_scans_are_named(change, message):
    scan = {"volume_size": (8, 8, 8), "angles": 4}
    scan |= {"source_distance": 30.0, "detector_distance": 40.0}
    with pytest.raises(errors.ArgumentError, match=message):
        ConeBeamCT(**{**scan, **change})


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 0},
        {"columns": 2.5},
        {"cell_size": 0.0},
        {"offset": math.inf},
        {"elevation": "high"},
    ],
)
def test_impossible_panels_are_named(change):
    with pytest.raises(errors.ArgumentError, match=f"{next(iter(change))}: got"):
        Panel(**{"rows": 4, "columns": 4, "cell_size": 1.0, **change})
