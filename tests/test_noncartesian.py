"""Non-Cartesian MRI: operators against direct sums, trajectories, densities, measured data."""

import math
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from tests import helpers
from tests.helpers import relative
from torch import Tensor

from wellposed.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from wellposed.linalg import conjugate_gradient
from wellposed.operators.check import check_operator, dense_matrix
from wellposed.operators.mri.cartesian import MultiCoilMRI, fft2c, ifft2c
from wellposed.operators.mri.noncartesian import NonCartesianMRI, OffResonanceMRI, gridded_kspace
from wellposed.operators.mri.nufft import NUFFT
from wellposed.operators.mri.sensitivity import espirit, simulate_sensitivity_maps
from wellposed.operators.mri.trajectories import (
    golden_angles,
    pipe_menon_density,
    radial_trajectory,
    ramp_density,
    spiral_trajectory,
)

pytestmark = pytest.mark.usefixtures("single_thread")

C64, C128 = torch.complex64, torch.complex128
BRAIN = Path(__file__).parents[1] / "examples" / "data" / "sigpy_brain_kspace.npy"
SPOKES = Path(__file__).parent / "data" / "sigpy_radial_trajectory.npy"
random = partial(helpers.random, dtype=C128)


def scattered(samples: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    k = np.random.default_rng(1).uniform(-0.5, 0.5, (*samples, len(size)))
    return torch.from_numpy(k) * torch.tensor(size)


FIELD = 90 * random(6, 7, dtype=torch.float64)
TIMES = torch.linspace(0.001, 0.009, 5, dtype=torch.float64)

BUILD = {
    "few samples": lambda: NonCartesianMRI(scattered((8,), (6, 7)), random(3, 6, 7)),
    "many samples": lambda: NonCartesianMRI(scattered((4, 9), (6, 7)), random(2, 6, 7)),
    "odd, double": lambda: NonCartesianMRI(scattered((11,), (5, 9)), random(2, 5, 9)),
    "maps per item": lambda: NonCartesianMRI(scattered((8,), (5, 4)), random(3, 2, 5, 4)),
    "volume": lambda: NonCartesianMRI(scattered((3, 2), (5, 4, 6)), random(2, 5, 4, 6)),
    "volume, many samples": lambda: NonCartesianMRI(
        scattered((60,), (5, 4, 6)), random(2, 5, 4, 6)
    ),
    "off resonance": lambda: OffResonanceMRI(
        scattered((3, 5), (6, 7)), random(2, 6, 7), FIELD, TIMES
    ),
}
SHARED = [name for name in BUILD if name != "maps per item"]
TOEPLITZ = {name: BUILD[name]()._normal is not None for name in BUILD}


def sample_matrix(k: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the transform's matrix (M, prod(size)) from its definition."""
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in size]
    places = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).view(-1, len(size))
    cycles = (k.reshape(-1, 1, len(size)) * places / torch.tensor(size)).sum(-1)
    return torch.exp(-2j * math.pi * cycles) / math.sqrt(math.prod(size))


def multi_coil_matrix(F: Tensor, maps: Tensor) -> Tensor:
    return torch.cat([F * s.flatten() for s in maps])


# --- operators ------------------------------------------------------------------------------


def test_both_normal_operators_are_covered():
    assert set(TOEPLITZ.values()) == {True, False}
    assert not TOEPLITZ["few samples"] and TOEPLITZ["many samples"]


@pytest.mark.parametrize(
    "name", ["few samples", "many samples", "odd, double", "volume", "volume, many samples"]
)
def test_data_are_the_direct_sum_of_coil_images(name):
    op = BUILD[name]()
    k, size = op.nufft.trajectory, op.img_size[1:]
    A = multi_coil_matrix(sample_matrix(k, size), op.sensitivity_maps[0])
    assert relative(dense_matrix(op.A, op.img_size, C128), A) < 2e-6
    assert relative(dense_matrix(op.A_adjoint_A, op.img_size, C128), A.mH @ A) < 4e-6


@pytest.mark.parametrize("times", [TIMES, scattered((3, 5), (1,))[..., 0].abs() / 50])
@pytest.mark.parametrize("field", [FIELD, torch.full((6, 7), 40.0), torch.zeros(6, 7)])
def test_off_resonance_is_the_direct_sum_over_time(field, times):
    k, maps = scattered((3, 5), (6, 7)), random(2, 6, 7)
    op = OffResonanceMRI(k, maps, field, times)
    turns = times.expand(3, 5).flatten()[:, None] * field.flatten()
    F = sample_matrix(k, (6, 7)) * torch.exp(-2j * math.pi * turns)
    assert relative(dense_matrix(op.A, op.img_size, C128), multi_coil_matrix(F, maps)) < 1e-3
    plain = dense_matrix(NonCartesianMRI(k, maps).A, op.img_size, C128)
    same = relative(dense_matrix(op.A, op.img_size, C128), plain) < 1e-5
    assert same == (not field.any())


@pytest.mark.parametrize(("dtype", "tolerance"), [(C64, 2e-6), (C128, 1e-14)])
@pytest.mark.parametrize("name", SHARED)
def test_the_adjoint_is_exact_for_each_element(name, dtype, tolerance):
    op = BUILD[name]()
    A = dense_matrix(op.A, op.img_size, dtype)
    assert A.dtype == dtype
    adjoint = dense_matrix(op.A_adjoint, op.measurement_size, dtype)
    assert (adjoint - A.mH).abs().max() < tolerance * A.abs().max()
    normal = dense_matrix(op.A_adjoint_A, op.img_size, dtype)
    assert relative(normal, A.mH @ A) < 5e-6


@pytest.mark.parametrize("dtype", [C64, C128])
@pytest.mark.parametrize("name", BUILD)
def test_every_operator_passes_the_check(name, dtype):
    report = check_operator(BUILD[name](), dtype=dtype)
    exact = 3e-6 if dtype == C64 else 1e-13
    assert max(report.adjoint, report.linearity) < exact
    assert report.normal < (5e-6 if TOEPLITZ[name] else exact)


@pytest.mark.parametrize(("size", "samples"), [((96, 110), 16_000), ((20, 22, 24), 3000)])
def test_images_of_usual_sizes_pass_the_check(size, samples):
    """The transform's error grows with the image, to some two times that of the smallest."""
    op = NonCartesianMRI(scattered((samples,), size), random(1, *size, dtype=C64))
    assert op._normal is not None
    assert check_operator(op, pairs=2).passes()


def test_narrow_kernels_are_less_exact():
    errors = []
    for width in (4, 6, 8):
        op = NonCartesianMRI(scattered((60,), (5, 4, 6)), random(2, 5, 4, 6), width=width)
        A = multi_coil_matrix(
            sample_matrix(op.nufft.trajectory, (5, 4, 6)), op.sensitivity_maps[0]
        )
        errors.append(relative(dense_matrix(op.A, op.img_size, C128), A))
    assert errors[0] > 20 * errors[1] > 400 * errors[2]


@pytest.mark.parametrize("method", ["A", "A_adjoint", "A_adjoint_A", "A_dagger", "gridding"])
@pytest.mark.parametrize("name", BUILD)
def test_a_batch_equals_its_items(name, method):
    op = BUILD[name]()
    size = op.img_size if method in ("A", "A_adjoint_A") else op.measurement_size
    values = random(3, *size)
    together = getattr(op, method)(values)
    for i in range(3):
        alone = op
        if name == "maps per item":
            alone = NonCartesianMRI(scattered((8,), (5, 4)), random(3, 2, 5, 4)[i])
        item = getattr(alone, method)(values[i : i + 1])
        # Conjugate gradients magnify rounding, which differs with the number of columns.
        tolerance = 1e-5 if method == "A_dagger" else 1e-10
        torch.testing.assert_close(item[0], together[i], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("name", SHARED)
def test_the_gradient_of_the_misfit_is_the_adjoint(name):
    op = BUILD[name]()
    x, y = random(2, *op.img_size).requires_grad_(), random(2, *op.measurement_size, seed=1)
    (0.5 * (op.A(x) - y).abs().square().sum()).backward()
    torch.testing.assert_close(x.grad, op.A_adjoint(op.A(x.detach()) - y))


@pytest.mark.parametrize("size", [(6, 8), (5, 7)])
def test_at_whole_frequencies_it_is_cartesian_mri(size):
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in size]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    maps, x = random(3, *size), random(2, 1, *size)
    expected = MultiCoilMRI(torch.ones(size), maps).A(x)
    assert relative(NonCartesianMRI(k, maps).A(x), expected) < 1.2e-5


@pytest.mark.parametrize("name", BUILD)
def test_moving_to_another_precision_and_device_keeps_the_operator(name, device):
    op = BUILD[name]()
    x = random(3, *op.img_size, dtype=C64)
    y, back = op.A(x), op.A_adjoint(op.A(x))
    moved = op.to(torch.float64).to(torch.float32).to(device)
    torch.testing.assert_close(moved.A(x.to(device)).cpu(), y, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(moved.A_adjoint(y.to(device)).cpu(), back, rtol=1e-4, atol=1e-4)


# --- trajectories ---------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(32, 32), (33, 40)])
def test_spokes_see_the_projections_of_their_angle(size):
    """A blob at (X right, Y up) has the phase of its shadow at X cos + Y sin on each spoke."""
    angles = torch.tensor([0.0, 20, 90, 135, 301])
    k = radial_trajectory(angles, 41, size)
    right, up, spread = 5.0, -3.0, 1.5
    row = torch.arange(size[0])[:, None] - size[0] // 2
    column = torch.arange(size[1]) - size[1] // 2
    blob = torch.exp(-((column - right) ** 2 + (-row - up) ** 2) / (2 * spread**2))
    data = NUFFT(k, size)(blob.to(C128)).view(5, 41) * math.sqrt(math.prod(size))
    kappa = (torch.arange(41) - 20) / 41
    shadow = right * torch.deg2rad(angles).cos() + up * torch.deg2rad(angles).sin()
    envelope = 2 * math.pi * spread**2 * torch.exp(-2 * (math.pi * spread * kappa) ** 2)
    expected = envelope * torch.exp(-2j * math.pi * kappa * shadow[:, None])
    torch.testing.assert_close(data, expected.to(C128), rtol=0, atol=2e-3)


def test_equal_and_golden_angles():
    torch.testing.assert_close(
        radial_trajectory(6, 8, (16, 16)),
        radial_trajectory(torch.arange(6) * 30.0, 8, (16, 16)),
    )
    angles = golden_angles(55)
    assert float(angles[1]) == pytest.approx(111.246, abs=1e-3)
    # A Fibonacci number of golden angles leaves gaps of two sizes only, near the equal one.
    gaps = (angles % 180).sort().values.diff()
    assert len(gaps.mul(1e6).round().unique()) == 2
    assert gaps.max() < 1.5 * 180 / 55 and gaps.min() > 0.5 * 180 / 55


def test_spirals_are_dense_and_of_constant_speed():
    k = spiral_trajectory(5, 800, (40, 40))
    assert k.shape == (5, 800, 2) and not k[:, 0].any()
    torch.testing.assert_close(k[:, -1].norm(dim=-1), torch.full((5,), 20.0).double())
    steps = k.diff(dim=1).norm(dim=-1)
    assert steps.std() < 2e-3 * steps.mean()
    grid = torch.cartesian_prod(*[torch.arange(-13.0, 14.0, dtype=torch.float64)] * 2)
    # Arms one cycle apart: no frequency inside is further than half of it from a sample.
    nearest = torch.cdist(grid, k.view(-1, 2)).amin(1)
    assert nearest.max() < 0.51 + 0.5 * float(steps.max())
    wide = spiral_trajectory(5, 800, (40, 60), turns=4)
    torch.testing.assert_close(
        wide / torch.tensor([40, 60]), spiral_trajectory(5, 800, (40, 40), turns=4) / 40
    )


# --- density --------------------------------------------------------------------------------


def smooth_object(size: tuple[int, int]) -> Tensor:
    row, column = (torch.linspace(-1, 1, n, dtype=torch.float64) for n in size)
    return torch.exp(-12 * ((row[:, None] - 0.1) ** 2 + (column + 0.15) ** 2)).to(C128)


@pytest.mark.parametrize("shift", [0.0, 0.5, 0.2])
@pytest.mark.parametrize("size", [(32, 32), (30, 41)])
def test_ramp_weights_integrate_k_space(size, shift):
    k = radial_trajectory(80, 96, size)
    k = k[:, :-1] + shift * k.diff(dim=1)  # with or without a sample at the centre
    x = smooth_object(size)
    F = NUFFT(k, size)
    found = F.adjoint(ramp_density(k, size).flatten() * F(x))
    assert relative(found, x) < 3e-3


def test_pipe_menon_weights_of_a_grid_are_one():
    axes = [torch.arange(n, dtype=torch.float64) - n // 2 for n in (24, 30)]
    k = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
    weights = pipe_menon_density(k, (24, 30))
    assert weights.shape == (24, 30) and weights.dtype == torch.float64
    torch.testing.assert_close(weights, torch.ones_like(weights), rtol=0.02, atol=0)


def test_pipe_menon_weights_of_dense_spokes_are_the_ramp():
    size = (32, 32)
    k = radial_trajectory(100, 64, size)
    ratio = pipe_menon_density(k, size) / ramp_density(k, size)
    inside = (k.norm(dim=-1) > 3) & (k.norm(dim=-1) < 13)
    assert (ratio[inside] - 1).abs().max() < 0.05
    x, F = smooth_object(size), NUFFT(k, size)
    assert relative(F.adjoint(pipe_menon_density(k, size).flatten() * F(x)), x) < 0.05


def test_pipe_menon_weights_of_repeated_samples_are_shared():
    k = spiral_trajectory(4, 300, (24, 24))
    twice = torch.cat([k, k])
    expected = pipe_menon_density(k, (24, 24)) / 2
    torch.testing.assert_close(pipe_menon_density(twice, (24, 24))[:4], expected)


def test_gridding_starts_the_pseudo_inverse():
    size = (24, 24)
    k = radial_trajectory(30, 48, size)
    maps = simulate_sensitivity_maps(4, *size).to(C128)
    plain = NonCartesianMRI(k, maps)
    weighted = NonCartesianMRI(k, maps, density=ramp_density(k, size))
    x = smooth_object(size)[None, None]
    y = plain.A(x)
    assert relative(weighted.gridding(y), x) < 0.02
    assert torch.equal(plain.gridding(y), plain.A_adjoint(y))
    assert relative(weighted.A_dagger(y), x) < 1e-3
    assert relative(plain.A_dagger(y), x) < 1e-3
    b, start = plain.A_adjoint(y), weighted.gridding(y)
    slow = conjugate_gradient(plain.A_adjoint_A, b, iterations=5).residuals[-1]
    fast = conjugate_gradient(plain.A_adjoint_A, b, start, iterations=5).residuals[-1]
    assert fast < 0.2 * slow
    with pytest.raises(ArgumentError, match="density: got 'negative values'"):
        NonCartesianMRI(k, maps, density=-ramp_density(k, size))


# --- measured k-space and trajectory --------------------------------------------------------


@pytest.fixture(scope="module")
def brain() -> tuple[Tensor, Tensor]:
    """Return image (1, 1, 96, 80) and maps of the measured k-space, at half its resolution."""
    kspace = torch.from_numpy(np.load(BRAIN))[:, 67:163, 50:130]
    maps = espirit(kspace, crop=0)
    mask = (kspace != 0).any(0).float()
    image = MultiCoilMRI(mask, maps).A_dagger(kspace[None])
    return image / image.abs().max(), maps


@pytest.fixture(scope="module")
def spokes() -> Tensor:
    """Return the scanner's trajectory, made for 256 x 256, for that image."""
    k = torch.from_numpy(np.load(SPOKES)).double()
    return k * torch.tensor([96 / 256, 80 / 256])


def test_the_measured_trajectory_is_radial(spokes):
    direction = spokes[:, -1] / torch.tensor([96, 80])
    assert (direction.norm(dim=-1) - 0.5).abs().max() < 1e-6
    along = (spokes / torch.tensor([96, 80]) * direction[:, None]).sum(-1) / 0.5
    torch.testing.assert_close(
        along, torch.linspace(-0.5, 0.5, 512).double().expand(48, -1), rtol=0, atol=1e-3
    )


def test_the_brain_is_recovered_from_the_measured_trajectory(brain, spokes):
    image, maps = brain
    op = NonCartesianMRI(spokes, maps, 0.002, ramp_density(spokes, image.shape[-2:]))
    y = op.measure(image)
    gridded, solved = op.gridding(y), op.A_dagger(y)
    # Neither finds the corners of the band, which spokes do not reach.
    assert relative(gridded, image) < 0.16
    assert relative(solved, image) < 0.8 * relative(gridded, image)
    misfit = (op.A(solved) - y).abs().square().mean().sqrt() / (0.002 * math.sqrt(2))
    assert 0.8 < float(misfit) < 1.1


def test_maps_come_from_the_gridded_centre_of_spokes(brain, spokes):
    image, maps = brain
    y = NonCartesianMRI(spokes, maps).A(image)
    cartesian = gridded_kspace(y, spokes, image.shape[-2:])
    assert cartesian.shape == (1, 8, 96, 80) and cartesian.dtype == C64
    centre = (slice(36, 60), slice(28, 52))
    exact = fft2c(maps * image)
    assert relative(cartesian[..., *centre], exact[..., *centre]) < 0.05
    estimated = espirit(cartesian[0], crop=0)
    bright = image[0, 0].abs() > 0.15
    overlap = (estimated.conj() * maps).sum(0).abs()[bright]
    assert overlap.mean() > 0.99 and overlap.quantile(0.02) > 0.95
    batched = gridded_kspace(torch.cat([y, 2 * y]), spokes, image.shape[-2:])
    torch.testing.assert_close(batched[1], 2 * cartesian[0], rtol=1e-4, atol=1e-5)
    assert relative(ifft2c(cartesian), maps * image) < 0.25


# --- bad arguments --------------------------------------------------------------------------

OPERATOR = {"trajectory": scattered((3, 5), (6, 7)), "sensitivity_maps": random(2, 6, 7)}
OFF = OPERATOR | {"field_map": FIELD, "times": TIMES}
KSPACE = {"kspace": random(2, 3, 5), "trajectory": scattered((3, 5), (6, 7)), "image_size": (6, 7)}
SPIRAL = {"interleaves": 3, "samples": 9, "image_size": (6, 7)}


def test_bad_arguments_are_refused():
    for make, good, changes, error, match in (
        (NonCartesianMRI, OPERATOR, {"trajectory": torch.zeros(5, 4)}, ShapeError, "trajectory"),
        (NonCartesianMRI, OPERATOR, {"trajectory": torch.zeros(5, 1)}, ShapeError, "2 or 3"),
        (NonCartesianMRI, OPERATOR, {"trajectory": torch.zeros(2)}, ShapeError, "trajectory"),
        (NonCartesianMRI, OPERATOR, {"trajectory": None}, DtypeError, "got NoneType"),
        (NonCartesianMRI, OPERATOR, {"trajectory": 9 * torch.ones(5, 2)}, ArgumentError, "band"),
        (NonCartesianMRI, OPERATOR, {"trajectory": torch.zeros(5, 3)}, ShapeError, "maps: got 3"),
        (NonCartesianMRI, OPERATOR, {"sensitivity_maps": random(6, 7)}, ShapeError, "maps: got 2"),
        (
            NonCartesianMRI,
            OPERATOR,
            {"sensitivity_maps": random(2, 6, 7).real},
            DtypeError,
            "sensitivity_maps",
        ),
        (NonCartesianMRI, OPERATOR, {"density": torch.ones(5, 3)}, ShapeError, "density: got"),
        (NonCartesianMRI, OPERATOR, {"density": random(3, 5)}, DtypeError, "density"),
        (NonCartesianMRI, OPERATOR, {"density": torch.ones(1, 3, 5)}, ShapeError, "density"),
        (NonCartesianMRI, OPERATOR, {"noise_sigma": -1.0}, ArgumentError, "noise_sigma"),
        (NonCartesianMRI, OPERATOR, {"width": 2}, ArgumentError, "width: got 2"),
        (OffResonanceMRI, OFF, {"width": 17}, ArgumentError, "width: got 17"),
        (OffResonanceMRI, OFF, {"field_map": FIELD.T}, ShapeError, r"field_map: got shape \(7, 6"),
        (OffResonanceMRI, OFF, {"field_map": FIELD / 0}, NonFiniteError, "field_map"),
        (OffResonanceMRI, OFF, {"field_map": 1j * FIELD}, DtypeError, "field_map"),
        (OffResonanceMRI, OFF, {"times": TIMES[:4]}, ShapeError, r"times: got shape \(4,\)"),
        (gridded_kspace, KSPACE, {"kspace": random(2, 5, 3)}, ShapeError, "kspace: got shape"),
        (gridded_kspace, KSPACE, {"kspace": random(3, 5)}, ShapeError, "kspace"),
        (gridded_kspace, KSPACE, {"kspace": random(2, 3, 5).real}, DtypeError, "kspace"),
        (gridded_kspace, KSPACE, {"density": torch.ones(7)}, ShapeError, "density"),
        (golden_angles, {"views": 3}, {"views": 0}, ArgumentError, "views: got 0"),
        (spiral_trajectory, SPIRAL, {"interleaves": 0}, ArgumentError, "interleaves: got 0"),
        (spiral_trajectory, SPIRAL, {"samples": 1}, ArgumentError, "samples: got 1"),
        (spiral_trajectory, SPIRAL, {"turns": 0.0}, ArgumentError, "turns: got 0.0"),
        (spiral_trajectory, SPIRAL, {"turns": math.nan}, ArgumentError, "turns"),
        (spiral_trajectory, SPIRAL, {"image_size": (6,)}, ArgumentError, "image_size"),
        (spiral_trajectory, SPIRAL, {"image_size": (6, 0)}, ArgumentError, "image_size: got 0"),
    ):
        make(**good)
        with pytest.raises(error, match=match):
            make(**good | changes)


@pytest.mark.parametrize(
    ("angles", "samples", "error", "match"),
    [
        (0, 8, ArgumentError, "angles: got 0"),
        (torch.zeros(0), 8, ShapeError, "angles"),
        (torch.zeros(2, 2), 8, ShapeError, "angles"),
        (torch.tensor([math.nan]), 8, NonFiniteError, "angles"),
        (4, 0, ArgumentError, "samples: got 0"),
        (4, 8.0, ArgumentError, "samples: got 8.0"),
    ],
)
def test_bad_spokes_are_refused(angles, samples, error, match):
    with pytest.raises(error, match=match):
        radial_trajectory(angles, samples, (6, 7))


def test_bad_densities_are_refused():
    k = radial_trajectory(4, 8, (6, 7))
    with pytest.raises(ShapeError, match=r"trajectory: got \(4, 1, 2\)"):
        ramp_density(k[:, :1], (6, 7))
    with pytest.raises(ShapeError, match="trajectory"):
        ramp_density(k[0], (6, 7))
    with pytest.raises(DtypeError, match="trajectory"):
        ramp_density(None, (6, 7))
    with pytest.raises(ArgumentError, match="trajectory: got 'coinciding samples'"):
        ramp_density(0 * k, (6, 7))
    with pytest.raises(DtypeError, match="trajectory: got NoneType"):
        pipe_menon_density(None, (6, 7))
    with pytest.raises(ArgumentError, match="iterations: got 0"):
        pipe_menon_density(k, (6, 7), iterations=0)
    with pytest.raises(ArgumentError, match=r"trajectory: got '3\.5"):
        pipe_menon_density(k, (6, 6))


def test_measurements_that_do_not_fit_are_refused():
    op = BUILD["many samples"]()
    y = random(2, *op.measurement_size)
    for method in (op.A_adjoint, op.A_dagger, op.gridding):
        with pytest.raises(ShapeError, match="y: got shape"):
            method(y[..., :-1])
        with pytest.raises(DtypeError, match="y: got dtype"):
            method(y.real)
    for method in (op.A, op.A_adjoint_A):
        with pytest.raises(ShapeError, match="x: got shape"):
            method(y)
