"""ParallelBeamCT against dense matrices, analytic ellipses, scikit-image and known discs."""

import copy
import gc
import math
import warnings
import weakref

import numpy as np
import pytest
import torch
from deepinv.physics import Tomography
from skimage.transform import radon
from tests.helpers import normal, relative

from wellposed import errors
from wellposed.linalg import conjugate_gradient
from wellposed.operators import Stacked
from wellposed.operators.check import check_operator, dense_matrix
from wellposed.operators.ct import Detector, FanBeamCT, ParallelBeamCT, stored
from wellposed.operators.ct.conventions import from_package, to_package

F64 = torch.float64
GEOMETRIES = [
    pytest.param((8, 8), 7, None, id="even square"),
    pytest.param((7, 7), 6, None, id="odd square"),
    pytest.param((9, 6), 5, None, id="tall"),
    pytest.param((5, 12), torch.tensor([-30.0, 0.0, 45.0, 90.0, 211.0]), 17, id="wide"),
    pytest.param((8, 8), 7, 5, marks=pytest.mark.filterwarnings("ignore"), id="truncated"),
    pytest.param((1, 1), 1, 1, id="one of each"),
]


pytestmark = pytest.mark.usefixtures("single_thread")


# Ellipses: (X, Y) of the centre, semi-axes, angle of the first axis in degrees, value; X to the
# right, Y up, from the centre of the image, everything in units of length. None is centred or
# symmetric, so a turned sign costs 90 %, an image shifted by one column 8 %, half a bin 6 %.
ELLIPSES = [(14.0, 9.0, 22.0, 9.0, 25.0, 1.0), (-18.0, -12.5, 8.0, 15.0, -10.0, 0.6)]


def ellipse_image(shape, pixel_size, oversampling=8):
    """Fraction of each pixel inside the ellipses, times their values."""

    def fine(n):
        return ((np.arange(n * oversampling) + 0.5) / oversampling - n / 2) * pixel_size

    x, y = fine(shape[1])[None, :], -fine(shape[0])[:, None]
    image = np.zeros((y.size, x.size))
    for cx, cy, a, b, tilt, value in ELLIPSES:
        c, s = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
        u, v = (x - cx) * c + (y - cy) * s, -(x - cx) * s + (y - cy) * c
        image += value * ((u / a) ** 2 + (v / b) ** 2 <= 1)
    cells = image.reshape(shape[0], oversampling, shape[1], oversampling)
    return torch.from_numpy(cells.mean((1, 3)))[None, None]


def ellipse_sinogram(angles, bins, pixel_size):
    """Exact line integrals of the ellipses, averaged exactly over each detector bin."""
    theta = np.deg2rad(angles)[:, None]
    edges = (np.arange(bins + 1) - bins / 2)[None, :] * pixel_size
    total = np.zeros((len(angles), bins))
    for cx, cy, a, b, tilt, value in ELLIPSES:
        turn = theta - math.radians(tilt)
        half = np.sqrt((a * np.cos(turn)) ** 2 + (b * np.sin(turn)) ** 2)
        r = np.clip((edges - cx * np.cos(theta) - cy * np.sin(theta)) / half, -1, 1)
        below = value * a * b * (r * np.sqrt(1 - r**2) + np.arcsin(r))
        total += np.diff(below, axis=1) / pixel_size
    return torch.from_numpy(total)[None, None]


def disc(n, radius, centre=(0.0, 0.0)):
    c = torch.arange(n, dtype=F64) - (n - 1) / 2
    inside = (c - centre[0]) ** 2 + (c[:, None] + centre[1]) ** 2 <= radius**2
    return inside.to(F64)[None, None]


@pytest.mark.parametrize(("shape", "angles", "bins"), GEOMETRIES)
def test_adjoint_is_the_transpose_of_the_dense_matrix(shape, angles, bins):
    op = ParallelBeamCT(shape, angles, bins, pixel_size=0.7)
    matrix = dense_matrix(op.A, op.img_size, F64)
    assert torch.equal(dense_matrix(op.A_adjoint, op.measurement_size, F64), matrix.T)
    v = normal(3, *op.measurement_size)
    expected = v.flatten(1) @ matrix
    assert relative(op.A_adjoint(v).flatten(1), expected) < 1e-14
    x = normal(3, *op.img_size, seed=1)
    assert relative(op.A(x).flatten(1), x.flatten(1) @ matrix.T) < 1e-14


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_operator_properties(dtype):
    report = check_operator(ParallelBeamCT((20, 15), 12), dtype=dtype)
    assert report.passes(1e-5 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("angle", [0.0, 17.0, 45.0, 90.0, 133.0, 180.0, 359.0])
def test_weights_are_strip_areas(angle):
    """One pixel against a numerical convolution of two boxes as wide as |cos| and |sin|."""
    op = ParallelBeamCT((3, 4), torch.tensor([angle], dtype=F64), 8)
    x = torch.zeros(1, *op.img_size, dtype=F64)
    x[0, 0, 0, 3] = 1  # centre at X = 1.5, Y = 1
    cos, sin = np.cos(np.deg2rad(angle)), np.sin(np.deg2rad(angle))
    broad, narrow = max(abs(cos), abs(sin)), min(abs(cos), abs(sin))
    offsets = narrow * ((np.arange(4000) + 0.5) / 4000 - 0.5)
    u = (np.arange(9) - 4)[:, None] - (1.5 * cos + sin) - offsets
    below = np.clip(u / broad + 0.5, 0, 1).mean(1)
    np.testing.assert_allclose(op.A(x)[0, 0, 0].numpy(), np.diff(below), atol=2e-7)


@pytest.mark.parametrize(
    ("shape", "bins", "pixel_size"),
    [((128, 128), None, 1.0), ((129, 129), 150, 1.0), ((150, 121), 190, 0.8)],
)
def test_agrees_with_analytic_ellipses(shape, bins, pixel_size):
    angles = torch.tensor([0.0, 10.0, 33.0, 45.0, 71.0, 90.0, 118.0, 165.0, 180.0, 250.0])
    op = ParallelBeamCT(shape, angles, bins, pixel_size)
    exact = ellipse_sinogram(angles.numpy(), op.measurement_size[-1], pixel_size)
    sinogram = op.A(ellipse_image(shape, pixel_size))
    assert relative(sinogram, exact) < 0.015
    # Per view too: a convention wrong at one angle only would hide in the mean.
    assert max(relative(a, b) for a, b in zip(sinogram[0, 0], exact[0, 0], strict=True)) < 0.02


def test_halving_the_pixels_converges_to_the_analytic_sinogram():
    angles = np.array([20.0, 75.0, 140.0])
    gaps = []
    for n, pixel_size in ((64, 2.0), (256, 0.5)):
        op = ParallelBeamCT(n, torch.from_numpy(angles), pixel_size=pixel_size)
        exact = ellipse_sinogram(angles, op.measurement_size[-1], pixel_size)
        gaps.append(relative(op.A(ellipse_image((n, n), pixel_size)), exact))
    assert gaps[1] < gaps[0] / 3


def test_agrees_with_skimage_radon():
    """For odd N both rotate about the same point, N // 2 = (N-1)/2, and turn the same way.

    scikit-image returns (bins, views), with N bins of one pixel around the centre when
    ``circle=True``; it interpolates linearly, hence the smooth image and the tolerance.
    """
    n, angles = 65, np.array([0.0, 25.0, 60.0, 90.0, 110.0, 155.0])
    rows, columns = np.mgrid[:n, :n] - (n - 1) / 2
    image = np.exp(-((rows + 8) ** 2 / 40 + (columns - 11) ** 2 / 90))
    image += 0.5 * np.exp(-((rows - 12) ** 2 / 60 + (columns + 6) ** 2 / 30))
    image[rows**2 + columns**2 > (n // 2) ** 2] = 0
    expected = torch.from_numpy(radon(image, angles, circle=True).T.copy())
    op = ParallelBeamCT(n, torch.from_numpy(angles), n)
    sinogram = op.A(torch.from_numpy(image)[None, None])[0, 0]
    assert relative(sinogram, expected) < 0.01


@pytest.mark.parametrize("n", [31, 32, 33, 34])
@pytest.mark.parametrize("package", ["scikit-image", "deepinv"])
def test_sinograms_of_other_packages_are_converted(package, n):
    """Smooth images show half pixels, and not the kernels; all parities of N and B."""
    c = torch.arange(n, dtype=F64) - (n - 1) / 2
    image = torch.exp(-((c - 3) ** 2 + (c[:, None] + 5) ** 2) / 18)[None, None]
    angles = torch.arange(0.0, 180.0, 7.5, dtype=F64)
    if package == "deepinv":
        theirs = Tomography(angles, n, normalize=False, dtype=F64).A(image)[0, 0]
    else:
        theirs = torch.from_numpy(radon(image[0, 0].numpy(), angles.numpy(), circle=False))
    converted = from_package(package, theirs, angles, n)
    ours = ParallelBeamCT(n, angles, theirs.shape[0]).A(image)[0, 0]
    assert relative(converted, ours) < 0.015
    assert relative(to_package(package, ours, angles, n), theirs) < 0.015
    with pytest.raises(errors.ShapeError, match="angles"):
        from_package(package, theirs, angles[1:], n)


def test_unknown_packages_are_named():
    with pytest.raises(errors.UnknownNameError, match="package"):
        from_package("astra", torch.zeros(3, 2), torch.zeros(2), 2)


def test_axis_aligned_views_are_column_and_row_sums():
    op = ParallelBeamCT((6, 4), torch.tensor([0.0, 90.0, 180.0, 270.0], dtype=F64), 6)
    x = normal(1, *op.img_size)
    columns = torch.nn.functional.pad(x[0, 0].sum(0), (1, 1))
    rows_upwards = x[0, 0].sum(1).flip(0)
    expected = torch.stack([columns, rows_upwards, columns.flip(0), rows_upwards.flip(0)])
    torch.testing.assert_close(op.A(x)[0, 0], expected, rtol=0, atol=1e-12)
    # No spurious weights from cos(90 degrees).
    assert set(op._projector.weights[0]._forward._values.tolist()) == {1.0}


@pytest.mark.parametrize("pixel_size", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("shape", [(16, 16), (15, 16), (9, 20)])
def test_every_view_conserves_mass(shape, pixel_size):
    op = ParallelBeamCT(shape, 23, pixel_size=pixel_size)
    x = normal(2, *op.img_size).abs()
    mass = x.sum((1, 2, 3)) * pixel_size
    # The stored weights are rounded to single precision.
    expected = mass[:, None, None].expand(2, 1, 23)
    torch.testing.assert_close(op.A(x).sum(-1), expected, rtol=1e-6, atol=0)


def test_pixel_size_scales_the_line_integrals():
    x = normal(1, 1, 12, 12)
    unit, half = ParallelBeamCT(12, 9), ParallelBeamCT(12, 9, pixel_size=0.5)
    torch.testing.assert_close(half.A(x), 0.5 * unit.A(x), rtol=0, atol=1e-14)
    y = unit.A(x)
    torch.testing.assert_close(half.fbp(0.5 * y), unit.fbp(y), rtol=1e-12, atol=1e-12)


def test_default_detector_covers_the_diagonal_with_the_parity_of_the_width():
    for height, width in [(8, 8), (7, 7), (9, 6), (3, 4), (1, 1), (256, 256)]:
        bins = ParallelBeamCT((height, width), 1).measurement_size[-1]
        diagonal = math.hypot(height, width)
        assert diagonal <= bins < diagonal + 2
        assert (bins - width) % 2 == 0


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_batch_invariance_beyond_one_chunk(dtype):
    op = ParallelBeamCT((14, 11), 9)
    x = normal(37, *op.img_size, dtype=dtype)
    y = op.A(x)
    back, filtered = op.A_adjoint(y), op.fbp(y)
    tolerance = 1e-6 if dtype == torch.float32 else 1e-14
    for i in (0, 15, 16, 36):
        one = slice(i, i + 1)
        assert relative(op.A(x[one]), y[one]) < tolerance
        assert relative(op.A_adjoint(y[one]), back[one]) < tolerance
        assert relative(op.fbp(y[one]), filtered[one]) < 10 * tolerance


@pytest.mark.parametrize("pixel_size", [1.0, 0.4])
@pytest.mark.parametrize("n", [64, 65])
def test_fbp_restores_the_values_of_a_disc(n, pixel_size):
    image = 0.02 * disc(n, 20, (3.0, -5.0))
    op = ParallelBeamCT(n, 180, pixel_size=pixel_size)
    restored = op.fbp(op.A(image))
    inside, outside = disc(n, 17, (3.0, -5.0)) > 0, disc(n, 23, (3.0, -5.0)) == 0
    assert abs(float(restored[inside].mean()) / 0.02 - 1) < 0.01
    assert float((restored[inside] / 0.02 - 1).abs().max()) < 0.05
    assert float(restored[outside].abs().max()) < 0.06 * 0.02


def test_fbp_of_a_full_turn_equals_that_of_half_a_turn():
    image = disc(32, 9, (2.0, 3.0))
    turn = ParallelBeamCT(32, torch.arange(120, dtype=F64) * 3)
    half = ParallelBeamCT(32, 60)
    gap = relative(turn.fbp(turn.A(image)), half.fbp(half.A(image)))
    assert gap < 1e-6


def test_a_dagger_solves_the_least_squares_problem():
    op = ParallelBeamCT(10, 24)
    x = normal(2, *op.img_size)
    assert relative(op.A(op.A_dagger(op.A(x))), op.A(x)) < 1e-3


def test_gradients():
    op = ParallelBeamCT((3, 2), 2)
    x = normal(2, *op.img_size).requires_grad_()
    y = normal(2, *op.measurement_size, seed=1).requires_grad_()
    for function, value in ((op.A, x), (op.A_adjoint, y), (op.fbp, y)):
        assert torch.autograd.gradcheck(function, value, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(lambda value: op.A(value).square(), x)
    loss = 0.5 * (op.A(x) - y.detach()).square().sum()
    (gradient,) = torch.autograd.grad(loss, x)
    expected = op.A_adjoint(op.A(x) - y).detach()
    torch.testing.assert_close(gradient, expected)
    _, pull_back = torch.func.vjp(op.A, x.detach())
    torch.testing.assert_close(pull_back((op.A(x) - y).detach())[0], expected)


def test_half_precision_and_autocast_are_multiplied_in_single_precision():
    op = ParallelBeamCT(16, 10)
    x = normal(1, *op.img_size, dtype=torch.bfloat16).requires_grad_()
    y = op.A(x)
    assert y.dtype == op.fbp(y).dtype == torch.bfloat16
    assert torch.equal(y, op.A(x.float()).bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        single = op.A(x.float())
        single.sum().backward()
    assert torch.equal(single, op.A(x.float()))
    assert x.grad is not None


def test_moves_copies_and_dtypes():
    op = ParallelBeamCT(12, 8)
    x = normal(1, *op.img_size)
    expected = op.A(x)
    for other in (op.to("cpu"), copy.deepcopy(op), copy.deepcopy(op).to(F64)):
        assert torch.equal(other.A(x), expected)
    assert op.A(x.float()).dtype == torch.float32
    buffers = dict(op.named_buffers())
    assert sum(name.endswith(("_rows", "_columns", "_values")) for name in buffers) == 6
    assert not any("projection" in name for name in op.state_dict())
    with pytest.raises(errors.DeviceError, match="meta"):
        op.A(x.to("meta"))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_agrees_with_cpu():
    op = ParallelBeamCT((31, 24), 20)
    x = normal(20, *op.img_size)
    y = op.A(x)
    back, filtered = op.A_adjoint(y), op.fbp(y)
    op = op.to("cuda")
    for mine, theirs in ((op.A(x.cuda()), y), (op.A_adjoint(y.cuda()), back)):
        assert relative(mine.cpu(), theirs) < 1e-12
    assert relative(op.fbp(y.cuda()).cpu(), filtered) < 1e-12


def test_angles_are_copied_and_default_to_half_a_turn():
    angles = torch.tensor([0, 90])
    op = ParallelBeamCT(8, angles)
    angles[1] = 0
    assert op.angles.tolist() == [0.0, 90.0]
    assert ParallelBeamCT(8, 4).angles.tolist() == [0.0, 45.0, 90.0, 135.0]


def test_no_warning_unless_truncated():
    """The ellipse inscribed in the image must be seen by every view."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        op = ParallelBeamCT((12, 8), 3, 12)
        op.A_adjoint(op.A(normal(1, *op.img_size)))
        ParallelBeamCT(32, 8, Detector(offset=10.0))
    with pytest.warns(UserWarning, match=r"detector: .* projects to -5.5.* truncated") as record:
        ParallelBeamCT((12, 8), 3, 10)
    assert record[0].filename == __file__
    with pytest.warns(UserWarning, match="truncated"):
        ParallelBeamCT((10, 100), 8, 12)


def test_numbers_of_numpy_are_numbers():
    same = ParallelBeamCT(8, 4, Detector(bin_size=np.float32(0.5)), pixel_size=np.float32(0.5))
    assert same.geometry == ParallelBeamCT(8, 4, Detector(bin_size=0.5), pixel_size=0.5).geometry


def test_beyond_its_memory_an_operator_says_so_and_computes_the_same(caplog):
    whole = ParallelBeamCT(16, 12)
    with caplog.at_level("INFO"):
        computed = ParallelBeamCT(16, 12, memory=1000.0)
    assert "are computed at each product" in caplog.text
    x = normal(3, *whole.img_size)
    torch.testing.assert_close(computed.A(x), whole.A(x), rtol=1e-5, atol=1e-6)
    y = normal(3, *whole.measurement_size, seed=1)
    torch.testing.assert_close(computed.A_adjoint(y), whole.A_adjoint(y), rtol=1e-5, atol=1e-6)


def test_matrices_are_kept_in_a_folder_and_checked(tmp_path, monkeypatch):
    x = normal(1, 1, 18, 18)
    expected = ParallelBeamCT(18, 7, cache=tmp_path).A(x)
    (file,) = tmp_path.glob("ct-*.safetensors")
    with monkeypatch.context() as patch:
        gc.collect()
        patch.setattr(stored, "_pair", lambda *_: pytest.fail("it is built again"))
        assert torch.equal(ParallelBeamCT(18, 7, cache=str(tmp_path)).A(x), expected)
    gc.collect()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="is damaged"):
        assert torch.equal(ParallelBeamCT(18, 7, cache=tmp_path).A(x), expected)
    gc.collect()
    file.write_bytes(content[:50])
    with pytest.warns(UserWarning, match="is damaged"):
        ParallelBeamCT(18, 7, cache=tmp_path)
    ParallelBeamCT(18, 8, cache=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2
    with pytest.raises(errors.ArgumentError, match="cache"):
        ParallelBeamCT(18, 8, cache=3)


@pytest.mark.parametrize("size", [(16, 16), (15, 18)])
def test_the_ramp_is_a_symmetric_positive_preconditioner(size):
    op = ParallelBeamCT(size, 24)
    weight = torch.tensor([0.5, 20.0], dtype=F64).view(-1, 1, 1, 1)
    matrix = dense_matrix(op.preconditioner(weight[:1]), op.img_size, F64)
    torch.testing.assert_close(matrix, matrix.T, rtol=0, atol=1e-12)
    assert float(torch.linalg.eigvalsh(matrix).min()) > 0
    x = normal(2, *op.img_size)
    for i in (0, 1):
        alone = op.preconditioner(weight[i : i + 1])(x[i : i + 1])
        assert relative(op.preconditioner(weight)(x)[i : i + 1], alone) < 1e-13


@pytest.mark.parametrize(
    "build", [lambda: ParallelBeamCT(48, 40), lambda: FanBeamCT(48, 60, 96.0, 192.0)]
)
def test_the_ramp_saves_steps_and_keeps_the_solution(build):
    op = build()
    b = op.A_adjoint(op.A(disc(48, 14, (3.0, -5.0))))
    weight = 1e-3 * op.A_adjoint_A(torch.ones(1, *op.img_size, dtype=F64)).max().view(1, 1, 1, 1)

    def solve(preconditioner):
        return conjugate_gradient(
            lambda x: op.A_adjoint_A(x) + weight * x,
            b,
            iterations=200,
            tolerance=1e-9,
            preconditioner=preconditioner,
        )

    with_ramp, without = solve(op.preconditioner(weight)), solve(None)
    assert relative(with_ramp.x, without.x) < 1e-6
    assert int(with_ramp.iterations) < 0.55 * int(without.iterations)


def test_where_there_is_no_ramp():
    op, one = ParallelBeamCT(12, 9), torch.ones(1, 1, 1, 1)
    assert op.preconditioner(0 * one) is None
    assert op.preconditioner(torch.ones(1, 1, 12, 12)) is None
    assert ParallelBeamCT(12, torch.arange(0.0, 90, 5)).preconditioner(one) is None


def test_stacks_and_multiples_have_the_ramp_of_their_operator():
    op, weight = ParallelBeamCT(12, 9), torch.tensor([0.5, 3.0]).view(-1, 1, 1, 1, 1)
    x = normal(2, 1, 3, 12, 12, dtype=torch.float32)
    stacked = Stacked(op, 3).preconditioner(weight)(x)
    for i in (0, 1):
        expected = op.preconditioner(weight[i])(x[i].transpose(0, 1)).transpose(0, 1)
        torch.testing.assert_close(stacked[i], expected)
    one = torch.ones(1, 1, 1, 1)
    torch.testing.assert_close(
        (2 * op).preconditioner(4 * one)(x[:, :, 0]), op.preconditioner(one)(x[:, :, 0])
    )


def test_matrices_are_shared_and_live_as_long_as_their_operators():
    first, second = ParallelBeamCT(20, 9), ParallelBeamCT(20, 9)
    assert first._projector.weights[0]._shared is second._projector.weights[0]._shared
    assert (
        copy.deepcopy(first)._projector.weights[0]._shared is first._projector.weights[0]._shared
    )
    alive = weakref.ref(first._projector.weights[0]._shared)
    del first, second
    gc.collect()
    assert alive() is None


def test_views_count_by_the_gaps_between_them():
    n, half = 64, torch.arange(0.0, 90.0, 1.0)
    image = disc(n, 20)
    angles = torch.cat([half, torch.arange(90.0, 180.0, 3.0)])
    op = ParallelBeamCT(n, angles)
    fbp = op.fbp(op.A(image))[0, 0]
    assert float(fbp[24:40, 24:40].mean()) == pytest.approx(1, abs=0.01)
    weights = op.geometry.coverage.view_weights
    assert float(weights.sum()) == pytest.approx(np.pi)
    assert float(weights[100]) == pytest.approx(np.deg2rad(3))
    limited = ParallelBeamCT(n, torch.arange(60.0)).geometry.coverage.view_weights
    torch.testing.assert_close(limited, torch.full((60,), np.deg2rad(1.0), dtype=torch.float64))


def test_the_least_squares_image_starts_at_the_filtered_back_projection():
    op = ParallelBeamCT(24, 40, noise_sigma=0.1)
    y = op.measure(disc(24, 8), seed=0)
    x, b = op.A_dagger(y), op.A_adjoint(y)
    assert float((op.A_adjoint_A(x) - b).norm() / b.norm()) < 1e-3
    few = conjugate_gradient(op.A_adjoint_A, b, op.fbp(y), iterations=5).residuals[-1]
    cold = conjugate_gradient(op.A_adjoint_A, b, iterations=5).residuals[-1]
    assert float(few) < 0.5 * float(cold)


def test_bad_construction_names_the_argument():
    for changes, error, match in (
        ({"image_size": 0}, errors.ArgumentError, "image_size: got 0"),
        ({"image_size": 7.5}, errors.ArgumentError, "image_size: got 7.5"),
        ({"image_size": (8, -1)}, errors.ArgumentError, "image_size"),
        ({"image_size": (1, 8, 8)}, errors.ArgumentError, "image_size"),
        ({"angles": 0}, errors.ArgumentError, "angles: got 0"),
        ({"angles": torch.zeros(0)}, errors.ArgumentError, "angles: is empty"),
        ({"angles": torch.zeros(2, 2)}, errors.ShapeError, "angles"),
        ({"angles": torch.tensor(5.0)}, errors.ShapeError, "angles"),
        ({"angles": torch.tensor([0.0, math.nan])}, errors.NonFiniteError, "angles: 1 of 2"),
        ({"angles": torch.zeros(3, dtype=torch.complex64)}, errors.DtypeError, "angles"),
        ({"detector": 0}, errors.ArgumentError, "detector: got 0"),
        ({"detector": 9.0}, errors.ArgumentError, "detector: got 9.0"),
        ({"pixel_size": 0.0}, errors.ArgumentError, "pixel_size: got 0.0"),
        ({"pixel_size": -1}, errors.ArgumentError, "pixel_size"),
        ({"pixel_size": math.nan}, errors.ArgumentError, "pixel_size"),
        ({"pixel_size": math.inf}, errors.ArgumentError, "pixel_size"),
        ({"pixel_size": "1 mm"}, errors.ArgumentError, "pixel_size"),
        ({"noise_sigma": -0.1}, errors.ArgumentError, "noise_sigma"),
    ):
        with pytest.raises(error, match=match):
            ParallelBeamCT(**{"image_size": 8, "angles": 4} | changes)


def test_bad_data_is_refused():
    op = ParallelBeamCT(8, 4)
    x, y = normal(1, *op.img_size), normal(1, *op.measurement_size)
    for function in (op.A_adjoint, op.fbp):
        with pytest.raises(errors.ShapeError, match="y"):
            function(y[..., :-1])
        with pytest.raises(errors.DtypeError, match="y"):
            function(y.to(torch.complex128))
    with pytest.raises(errors.ShapeError, match="x"):
        op.A(x[0])
    with pytest.raises(errors.DtypeError, match="x"):
        op.A(x.long())
