"""Cone-beam tomography against traced rays, a mid-plane fan, and analytic ellipsoids."""

import math

import pytest
import torch

from wellposed import errors
from wellposed.operators.check import check_operator
from wellposed.operators.ct import ConeBeamCT, Detector, FanBeamCT, Panel

pytestmark = pytest.mark.usefixtures("single_thread")

F64 = torch.float64


def relative(a, b):
    return float((a - b).norm() / b.norm())


def ball(shape, radius, centre, voxel_size=1.0, oversampling=4):
    """A ball of value 1, averaged over voxels; the centre is (X, Y, Z)."""
    axes = [
        ((torch.arange(n * oversampling, dtype=F64) + 0.5) / oversampling - n / 2) * voxel_size
        for n in shape
    ]
    z, y, x = axes[0][:, None, None], -axes[1][:, None], axes[2]
    inside = (x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2 < radius**2
    return torch.nn.functional.avg_pool3d(inside.to(F64)[None, None], oversampling)


def chords(op, radius, centre):
    """Exact lengths of the rays to the panel's cells within a ball."""
    panel, out = op.panel, []
    c = torch.tensor(centre, dtype=F64)
    u = (torch.arange(panel.columns, dtype=F64) - (panel.columns - 1) / 2) * panel.cell_size
    v = (torch.arange(panel.rows, dtype=F64) - (panel.rows - 1) / 2) * panel.cell_size
    for theta in torch.deg2rad(op.angles).tolist():
        cos, sin = math.cos(theta), math.sin(theta)
        source = -op.source_distance * torch.tensor([-sin, cos, 0], dtype=F64)
        x = u * cos - op.detector_distance * sin
        y = u * sin + op.detector_distance * cos
        rays = torch.stack(
            [x.expand(len(v), -1), y.expand(len(v), -1), v[:, None].expand(-1, len(u))], -1
        )
        rays = rays / rays.norm(dim=-1, keepdim=True)
        along = ((c - source) * rays).sum(-1)
        distance2 = ((c - source) ** 2).sum() - along**2
        out.append(2 * (radius**2 - distance2).clamp(min=0).sqrt())
    return torch.stack(out)[None, None]


@pytest.mark.parametrize("voxel_size", [1.0, 0.5])
def test_a_ball_casts_its_chords(voxel_size):
    """Off the centre in all directions, from all sides: every sign counts."""
    angles = torch.tensor([0.0, 30, 60, 90, 135, 200, 290])
    op = ConeBeamCT((24, 28, 32), angles, 60 * voxel_size, 90 * voxel_size, voxel_size=voxel_size)
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
    cone = ConeBeamCT((5, 16, 16), angles, 40.0, 60.0, Panel(3, 48, 0.8))
    fan = FanBeamCT(16, angles, 40.0, 60.0, Detector(48, 0.8))
    smooth = ball((1, 16, 16), 6.0, (1.0, 2.0, 0.0), oversampling=8).clamp(0, 1)
    volume = smooth.expand(1, 1, 5, 16, 16)
    assert relative(cone.A(volume)[0, 0, :, 1], fan.A(smooth[:, :, 0])[0, 0]) < 0.03


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_operator_properties(dtype):
    op = ConeBeamCT((4, 7, 6), 5, 20.0, 30.0)
    assert check_operator(op, dtype=dtype).passes(1e-5 if dtype == torch.float32 else 1e-12)


def test_gradients_are_the_transpose():
    op = ConeBeamCT((3, 5, 6), 4, 20.0, 30.0)
    x = torch.rand(2, *op.img_size, dtype=F64, requires_grad=True)
    y = torch.rand(2, *op.measurement_size, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(op.A(x), x, y.detach())
    torch.testing.assert_close(gradient, op.A_adjoint(y.detach()))
    (gradient,) = torch.autograd.grad(op.A_adjoint(y), y, x.detach())
    torch.testing.assert_close(gradient, op.A(x.detach()))


def test_fdk_restores_values():
    op = ConeBeamCT((17, 32, 32), 120, 80.0, 120.0, voxel_size=0.5)
    image = 0.02 * ball((17, 32, 32), 6.0, (0.5, -1.0, 0.0), 0.5)
    got = op.fdk(op.A(image))
    inside = ball((17, 32, 32), 4.0, (0.5, -1.0, 0.0), 0.5) == 1
    assert float((got[inside] / 0.02 - 1).abs().mean()) < 0.03
    assert relative(got, image) < 0.2


def test_default_panels_see_the_whole_volume():
    op = ConeBeamCT((8, 16, 16), 8, 30.0, 45.0)
    total = op.A(torch.ones(1, *op.img_size, dtype=F64))[0, 0]
    edge = torch.cat([total[:, 0].flatten(), total[:, :, 0].flatten(), total[:, -1].flatten()])
    assert float(edge.max()) < 0.2 * float(total.max())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"volume_size": (8, 8)}, "volume_size: got"),
        ({"volume_size": (0, 8, 8)}, "volume_size: got"),
        ({"source_distance": 5.0}, "source_distance: got 5.0, accepted: outside"),
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


@pytest.mark.parametrize("change", [{"rows": 0}, {"columns": 2.5}, {"cell_size": 0.0}])
def test_impossible_panels_are_named(change):
    with pytest.raises(errors.ArgumentError, match=f"{next(iter(change))}: got"):
        Panel(**{"rows": 4, "columns": 4, "cell_size": 1.0, **change})
