"""Fan beams, detectors of any kind, and the symmetries that keep their matrices small."""

import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from tests.helpers import rand, relative

from wellposed import errors
from wellposed.operators.check import check_operator
from wellposed.operators.ct import Detector, FanBeamCT, ParallelBeamCT, computed
from wellposed.operators.ct.footprints import footprints
from wellposed.operators.ct.fused import fused, unfused
from wellposed.operators.ct.projectors import make_projector
from wellposed.operators.ct.symmetry import make_plan

pytestmark = pytest.mark.usefixtures("single_thread")

F64 = torch.float64


SCANS = {
    "parallel, equal views": lambda: ParallelBeamCT(12, 8),
    "parallel, odd sides": lambda: ParallelBeamCT(13, 12, pixel_size=0.7),
    "parallel, full turn": lambda: ParallelBeamCT(12, torch.arange(0.0, 360, 30)),
    "parallel, limited angles": lambda: ParallelBeamCT(12, torch.arange(10.0, 70, 7)),
    "parallel, negative angles": lambda: ParallelBeamCT(10, torch.tensor([-90.0, -30, 45, 400])),
    "parallel, not square": lambda: ParallelBeamCT((9, 14), 8),
    "parallel, offset": lambda: ParallelBeamCT(12, 8, Detector(24, 0.8, offset=0.3)),
    "fan, equal views": lambda: FanBeamCT(12, 16, 30.0, 50.0),
    "fan, curved": lambda: FanBeamCT(12, 16, 30.0, 50.0, Detector(curved=True)),
    "fan, offset": lambda: FanBeamCT(11, 8, 30.0, 50.0, Detector(40, 1.0, offset=-0.7)),
    "fan, limited angles": lambda: FanBeamCT((8, 12), torch.arange(0.0, 90, 11), 25.0, 40.0),
}


def chord(start, end, x, y, p):
    """Length of a segment's lines within unit squares of side p around (x, y), by clipping."""
    direction = end - start
    low, high = np.zeros(len(x)), np.ones(len(x))
    for s, d, centre in zip(start, direction, (x, y), strict=True):
        with np.errstate(divide="ignore", invalid="ignore"):
            a, b = (centre - p / 2 - s) / d, (centre + p / 2 - s) / d
        a, b = np.minimum(a, b), np.maximum(a, b)
        low, high = np.maximum(low, a), np.minimum(high, b)
    return np.clip(high - low, 0, None) * np.hypot(*direction)


def traced(op, rays=64):
    """The matrix of a scan, by tracing many rays through each bin."""
    g = op.geometry
    x, y = (v.numpy() for v in g.pixel_centres())
    rows = []
    for theta in np.deg2rad(g.angles):
        u, d = np.array([np.cos(theta), np.sin(theta)]), np.array([-np.sin(theta), np.cos(theta)])
        for k in range(g.bins):
            row = 0
            for part in (np.arange(rays) + 0.5) / rays - 0.5:
                t = (k + part - (g.bins - 1) / 2) * g.bin_size + g.detector.offset
                if g.is_parallel:
                    start, end = u * t - 1000 * d, u * t + 1000 * d
                elif g.detector.curved:
                    phi = t / g.detector_distance
                    start = -g.source_distance * d
                    end = start + g.detector_distance * (d * np.cos(phi) + u * np.sin(phi))
                else:
                    start = -g.source_distance * d
                    end = start + g.detector_distance * d + t * u
                row = row + chord(start, end, x, y, g.pixel_size) / rays
            rows.append(row)
    return torch.from_numpy(np.array(rows))


@pytest.mark.parametrize("name", ["parallel, offset", "fan, offset", "fan, curved"])
def test_weights_are_those_of_traced_rays(name):
    op = SCANS[name]()
    x = rand(1, *op.img_size)
    # A fan's separable footprint is no exact integral, a parallel beam's is.
    tolerance = 3e-3 if "parallel" in name else 1.5e-2
    matrix = traced(op, rays=24)
    assert relative(op.A(x).flatten(), matrix @ x.flatten()) < tolerance
    delta = torch.zeros_like(x)
    delta[0, 0, 3, 8] = 1
    assert relative(op.A(delta).flatten(), matrix @ delta.flatten()) < 0.06


def dense(found, bins):
    """The weights of all bins, (V, n, bins)."""
    out = found.weights[0].new_zeros(*found.first.shape, bins)
    for tap, weights in enumerate(found.weights):
        place = found.first.long() + tap
        values = torch.where((place >= 0) & (place < bins), weights, 0)
        out.scatter_add_(2, place.clamp(0, bins - 1)[..., None], values[..., None])
    return out


def view_by_view(geometry, x):
    """The sinograms of images (B, H, W) by the footprints of each pixel in each view."""
    found = footprints(geometry, torch.tensor(geometry.angles, dtype=F64))
    return torch.einsum("bn,vnk->bvk", x.flatten(1), dense(found, geometry.bins))


@pytest.mark.parametrize("share", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("name", SCANS)
def test_stored_and_computed_weights_say_what_the_views_say(name, share):
    """Also: what symmetry leaves out is what the views themselves say."""
    op = SCANS[name]()
    x, y = rand(3, *op.img_size)[:, 0], rand(3, *op.measurement_size, seed=1)[:, 0]
    whole = make_projector(op.geometry, math.inf)
    stored = share * 16 * sum(part._forward._values.numel() for part in whole.weights)
    projector = make_projector(op.geometry, stored)
    expected = view_by_view(op.geometry, x)
    assert relative(projector.project(x), expected) < 1e-6
    assert relative(projector.backproject(y), whole.backproject(y)) < 1e-6
    both = (projector.project(x) * y).sum() - (x * projector.backproject(y)).sum()
    assert abs(float(both)) < 1e-12 * float(expected.norm() * y.norm())


@pytest.mark.parametrize("name", SCANS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_operator_properties(name, dtype):
    report = check_operator(SCANS[name](), dtype=dtype)
    assert report.passes(1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_computed_weights_are_matched_too(dtype, monkeypatch):
    monkeypatch.setattr(computed, "CHUNK", 300)  # several parts of rows and of views
    op = FanBeamCT(11, 8, 30.0, 50.0, Detector(40, 1.0, offset=-0.7), memory=0)
    assert check_operator(op, dtype=dtype).passes(1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.slow
@pytest.mark.parametrize("name", SCANS)
def test_fused_weights_are_the_same(name):
    geometry = SCANS[name]().geometry
    degrees = torch.tensor(geometry.angles[:2], dtype=F64)
    for dtype, tolerance in ((torch.float32, 1e-5), (F64, 1e-12)):
        plain, quick = (
            dense(footprints(geometry, degrees, slice(1, 5), dtype, run), geometry.bins)
            for run in (unfused, fused)
        )
        assert quick.dtype == dtype
        assert float((quick - plain).abs().max()) < tolerance


@pytest.fixture
def compiler(monkeypatch):
    """Replace PyTorch's compiler for the footprints of all sizes."""
    monkeypatch.setattr(computed, "LARGE", 0)
    fused.cache_clear()
    yield lambda compile: monkeypatch.setattr(torch, "compile", compile)
    fused.cache_clear()


def test_without_a_compiler_products_are_as_they_are(compiler, caplog):
    def refuse(function, **options):
        raise RuntimeError("no C++ compiler")

    compiler(refuse)
    op, whole = (FanBeamCT(11, 8, 30.0, 50.0, memory=memory) for memory in (0, 1e9))
    x = rand(1, 1, 11, 11)
    with caplog.at_level("INFO"):
        for _ in range(2):
            assert relative(op.A(x), whole.A(x)) < 1e-6
    assert caplog.text.count("is not fused, and slower: no C++ compiler") == 2  # functions


def test_a_failure_of_the_function_is_raised(compiler):
    def broken(x):
        raise RuntimeError("its own error")

    compiler(lambda function, **options: function)
    with pytest.raises(RuntimeError, match="its own error"):
        fused(broken)(rand(3))


def test_many_kinds_of_scans_in_one_process(compiler):
    """PyTorch compiles eight kinds of arguments of a function; more must not fail."""
    compiler(partial(torch.compile, backend="eager"))
    x = rand(1, 1, 9, 9)
    for bin_size in (2.0, 1.0, 0.7, 0.5, 0.4, 0.3, 0.25, 0.2, 0.15, 0.12, 0.1):
        detector = Detector(200, bin_size)
        op, whole = (FanBeamCT(9, 2, 20.0, 40.0, detector, memory=memory) for memory in (0, 1e9))
        assert relative(op.A(x), whole.A(x)) < 1e-5


@pytest.mark.filterwarnings("ignore:detector")
def test_computed_weights_of_truncated_views():
    for scan in (
        lambda **k: ParallelBeamCT(12, 7, 5, **k),
        lambda **k: FanBeamCT(12, 7, 30.0, 50.0, 6, **k),
    ):
        stored, free = scan(), scan(memory=0)
        x = rand(2, *stored.img_size)
        torch.testing.assert_close(free.A(x), stored.A(x), rtol=1e-5, atol=1e-6)


def test_symmetry_leaves_an_eighth():
    plan = make_plan(ParallelBeamCT(64, 180).geometry)
    assert (len(plan.angles), len(plan.poses)) == (46, 8)
    assert plan.rows == (ParallelBeamCT(64, 180).geometry.bins + 1) // 2
    fan = make_plan(FanBeamCT(64, 360, 100.0, 150.0).geometry)
    assert (len(fan.angles), len(fan.poses)) == (46, 8)
    assert max(fan.angles) <= 45
    # Where views have no partners, no pose is projected for nothing.
    few = make_plan(ParallelBeamCT(64, torch.tensor([3.0, 20.0, 41.0])).geometry)
    assert len(few.poses) <= 2


def test_a_distant_source_gives_a_parallel_beam():
    detector = Detector(21, 1.0, offset=0.25)
    far = FanBeamCT(12, torch.tensor([0.0, 20, 130]), 1e6, 1e6, detector)
    parallel = ParallelBeamCT(12, torch.tensor([0.0, 20, 130]), detector)
    x = rand(1, *far.img_size)
    assert relative(far.A(x), parallel.A(x)) < 1e-4


def disc(n, radius, pixel_size, oversampling=8):
    """A disc of value 1, averaged over pixels."""
    c = (torch.arange(n * oversampling, dtype=F64) + 0.5) / oversampling - n / 2
    inside = (torch.hypot(c, c[:, None]) * pixel_size < radius).to(F64)
    return torch.nn.functional.avg_pool2d(inside[None, None], oversampling)


@pytest.mark.parametrize("curved", [False, True])
def test_a_disc_casts_its_chords(curved):
    op = FanBeamCT(64, 9, 60.0, 100.0, Detector(curved=curved), pixel_size=0.5)
    radius, g = 12.0, op.geometry
    parts = (torch.arange(64 * g.bins, dtype=F64) + 0.5) / 64  # averaged over each bin
    t = (parts - g.bins / 2) * g.bin_size
    angle = t / 100 if curved else (t / 100).atan()
    distance = 60 * angle.sin()
    exact = 2 * (radius**2 - distance**2).clamp(min=0).sqrt().view(-1, 64).mean(1)
    got = op.A(disc(64, radius, 0.5))[0, 0]
    assert relative(got, exact.expand_as(got)) < 0.01


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("offset", [0.0, 0.4])
def test_filtered_back_projection_restores_values(curved, offset):
    op = FanBeamCT(64, 240, 80.0, 120.0, Detector(curved=curved, offset=offset), pixel_size=0.5)
    image = 0.02 * disc(64, 12.0, 0.5)
    got = op.fbp(op.A(image))
    inside = disc(64, 10.0, 0.5) == 1
    assert float((got[inside] / 0.02 - 1).abs().mean()) < 0.01
    assert relative(got, image) < 0.12


def test_default_detectors_see_the_whole_image():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for op in (
            FanBeamCT(32, 8, 40.0, 60.0),
            FanBeamCT(32, 8, 40.0, 60.0, Detector(curved=True)),
        ):
            total = op.A(torch.ones(1, *op.img_size, dtype=F64))[0, 0]
            assert bool((total[:, 0] < 2).all())  # next to nothing reaches beyond the ends
            assert op.measurement_size[-1] < 120


def test_truncation_is_named():
    with pytest.warns(UserWarning, match=r"spans -15 to 15, .* projects to -24.*truncated"):
        FanBeamCT(32, 8, 60.0, 90.0, 20)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"source_distance": 10.0}, "source_distance: got 10.0, accepted: a distance above"),
        ({"source_distance": -1.0}, "source_distance: got -1.0"),
        (
            {"detector_distance": 30.0},
            "detector_distance: got 30.0, accepted: a distance of at least 40",
        ),
        ({"detector_distance": math.inf}, "detector_distance: got inf"),
        ({"detector": 0}, "detector: got 0"),
        ({"detector": "wide"}, "detector: got 'wide'"),
        ({"pixel_size": 0.0}, "pixel_size: got 0.0"),
    ],
)
def test_impossible_scans_are_named(change, message):
    scan = {"image_size": 32, "angles": 8, "source_distance": 40.0, "detector_distance": 60.0}
    with pytest.raises(errors.ArgumentError, match=message):
        FanBeamCT(**{**scan, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"bins": 2.5}, "bins: got 2.5"),
        ({"bin_size": -1.0}, "bin_size: got -1.0"),
        ({"offset": math.nan}, "offset: got nan"),
    ],
)
def test_impossible_detectors_are_named(change, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Detector(**change)


def test_a_parallel_beam_has_a_straight_detector():
    with pytest.raises(errors.ArgumentError, match="a straight detector"):
        ParallelBeamCT(8, 4, Detector(curved=True))
