"""Rays measured once, twice or unevenly: filtered back-projections have the right values."""

import warnings

import pytest
import torch

from wellposed.operators import ConeBeamCT, Detector, FanBeamCT, Panel, ParallelBeamCT
from wellposed.operators.ct.coverage import Coverage
from wellposed.operators.mri.trajectories import radial_trajectory

N, MU = 32, 0.02
RANDOM = torch.rand(200, generator=torch.Generator().manual_seed(0))
VIEWS = {
    "full": torch.arange(0.0, 360.0, 2.0),
    "short": torch.arange(0.0, 200.0, 2.0),
    "short, backwards from 77 degrees": 77 - torch.arange(0.0, 204.0, 2.0),
    "longer than short": torch.arange(0.0, 270.0, 2.0),
    "nearly full": torch.arange(0.0, 340.0, 2.0),
    "more than full": torch.arange(0.0, 400.0, 2.0),
    "uneven short": torch.cat([torch.arange(0.0, 100.0), torch.arange(100.0, 210.0, 2.0)]),
    "random full": 360 * RANDOM,
    "random short": 205 * RANDOM,
    "coarse half": torch.cat([torch.arange(0.0, 180.0, 0.5), torch.arange(180.0, 360.0, 3.0)]),
}
HALF_FANS = {"right": 15.0, "left": -15.0, "wide overlap": 10.0, "narrow overlap": 17.0}


def disc() -> torch.Tensor:
    return MU * (radius() < 12).float()[None, None]


def radius() -> torch.Tensor:
    place = torch.arange(N) - (N - 1) / 2
    return torch.hypot(place[:, None], place)


def assert_right(image: torch.Tensor) -> None:
    """The mean within 1 %, and so in each half of the disc: left, right, top, bottom."""
    inside = radius() < 9
    for half in (slice(None), (..., slice(16)), (..., slice(16, 32)), slice(16), slice(16, 32)):
        assert float(image[half][inside[half]].mean()) == pytest.approx(MU, rel=0.01)
    assert float(image[inside].std()) < 0.05 * MU


def quietly(make, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return make(*arguments)


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("views", VIEWS)
def test_views_of_a_fan_count_as_often_as_their_rays_are_seen(views, curved):
    op = quietly(FanBeamCT, N, VIEWS[views], 75.0, 112.5, Detector(curved=curved))
    assert_right(op.fbp(op.A(disc()))[0, 0])


@pytest.mark.parametrize("curved", [False, True])
@pytest.mark.parametrize("shift", HALF_FANS)
def test_a_shifted_detector_sees_all_in_a_full_turn(shift, curved):
    detector = Detector(30, 1.5, HALF_FANS[shift], curved)
    op = quietly(FanBeamCT, N, VIEWS["full"], 75.0, 112.5, detector)
    sinogram = op.A(disc())
    assert_right(op.fbp(sinogram)[0, 0])
    assert_right(op.A_dagger(sinogram)[0, 0])


@pytest.mark.parametrize("offset", [10.0, -10.0, 0.3])
@pytest.mark.parametrize("views", ["full", "more than full", "random full"])
def test_so_does_one_of_parallel_beams(views, offset):
    op = quietly(
        ParallelBeamCT, N, VIEWS[views], Detector(34 if abs(offset) > 1 else 40, 1, offset)
    )
    assert_right(op.fbp(op.A(disc()))[0, 0])


@pytest.mark.parametrize(
    ("views", "offset"),
    [("short", 0.0), ("uneven short", 0.0), ("coarse half", 0.0), ("full", 15.0), ("full", -15.0)],
)
def test_cone_beams_likewise(views, offset):
    panel = Panel(6, 30 if offset else 44, 1.5, offset)
    op = quietly(ConeBeamCT, (3, N, N), VIEWS[views], 75.0, 112.5, panel)
    volume = disc()[:, :, None].expand(1, 1, 3, N, N)
    assert_right(op.fdk(op.A(volume))[0, 0, 1])


def test_the_two_data_of_a_ray_share_its_weight():
    """``w(theta, gamma) + w(theta + 180 - 2 gamma, -gamma) = 2``, and 2 of a ray seen once."""
    views, degrees = 210, torch.arange(-20, 21) / 2
    edges = float(torch.deg2rad(torch.tensor(10.3))), float(torch.deg2rad(torch.tensor(12.1)))
    scan = Coverage(tuple(map(float, range(views))), (-edges[0], edges[1]))
    weights = scan.redundancy(torch.deg2rad(degrees.double()))
    theta, place = torch.meshgrid(torch.arange(views), torch.arange(41), indexing="ij")
    beyond = (theta + 180 - (place - 20)) % 360
    twice = beyond < views
    there = weights[beyond.clamp(max=views - 1), 40 - place]
    torch.testing.assert_close(
        (weights + there)[twice], torch.full((int(twice.sum()),), 2.0).double()
    )
    assert bool((weights[~twice] == 2).all())


def test_a_full_turn_of_a_centred_detector_is_not_weighted():
    op = FanBeamCT(16, 90, 60.0, 90.0)
    places = op.geometry.ray_places(op.geometry.bin_centres())
    assert torch.equal(op.geometry.coverage.redundancy(places), torch.ones(90, op.geometry.bins))


def test_only_rays_that_no_view_sees_are_truncated():
    short = VIEWS["short"]
    with pytest.warns(UserWarning, match="truncated"):
        FanBeamCT(N, short, 75.0, 112.5, Detector(30, 1.5, 15.0))
    with pytest.warns(UserWarning, match="truncated"):
        FanBeamCT(N, 90, 75.0, 112.5, Detector(20, 1.5, 0.0))
    with pytest.warns(UserWarning, match="truncated"):
        ParallelBeamCT(N, 90, Detector(34, 1, 10.0))
    with pytest.warns(UserWarning, match="columns"):
        ConeBeamCT((3, N, N), short, 75.0, 112.5, Panel(6, 30, 1.5, 15.0))


@pytest.mark.parametrize("turn", [torch.pi, 2 * torch.pi])
def test_angles_in_radians_are_suspected(turn):
    angles = torch.linspace(0, turn, 61)[:-1]
    with pytest.warns(UserWarning, match="look like radians"):
        FanBeamCT(8, angles, 40.0, 60.0)
    with pytest.warns(UserWarning, match="look like radians"):
        radial_trajectory(angles, 8, (8, 8))
    quietly(FanBeamCT, 8, torch.rad2deg(angles), 40.0, 60.0)


def test_two_turns_in_radians_are_suspected_but_not_tomosynthesis():
    with pytest.warns(UserWarning, match="look like radians"):
        ParallelBeamCT(8, torch.linspace(0, 4 * torch.pi, 200))
    quietly(ParallelBeamCT, 8, torch.linspace(-7.5, 7.5, 15))
