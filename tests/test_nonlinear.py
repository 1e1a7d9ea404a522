"""JPEG against Pillow, phase retrieval against NumPy, and solvers on both."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image

from wellposed import errors
from wellposed.operators.image.jpeg import JPEG
from wellposed.operators.image.nonlinear import PhaseRetrieval
from wellposed.priors import GaussianPrior, Stationary
from wellposed.solvers import DDS, DPS, REDDiff

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64 = torch.float32, torch.float64

BUILD = {
    "jpeg": lambda: JPEG((3, 20, 27), 30),
    "jpeg, whole colours": lambda: JPEG((3, 16, 9), 60, subsampling=False),
    "jpeg, grey": lambda: JPEG((1, 7, 12), 80),
    "phase": lambda: PhaseRetrieval((2, 9, 12)),
    "phase, not padded": lambda: PhaseRetrieval((1, 8, 7), 0),
}


def uniform(*shape, dtype=F64, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).random(shape)).to(dtype)


def photograph(height, width, seed=0):
    """Return uint8 colours (H, W, 3): a smooth field, an edge, texture."""
    rng = np.random.default_rng(seed)
    spectrum = rng.standard_normal((3, height, width)) + 1j * rng.standard_normal(
        (3, height, width)
    )
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.fftfreq(width)) + 0.02
    field = np.fft.ifft2(spectrum / frequency**1.5).real
    field[:, height // 3 :, width // 4 : width // 2] += field.std()
    return (127 + 50 * field / field.std()).clip(0, 255).astype(np.uint8).transpose(1, 2, 0)


def by_pillow(pixels, **options):
    """Return decoded values 0..255 (1, C, H, W), and the file's quantisation tables."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", **options)
    image = Image.open(file)
    values = np.asarray(image, dtype=float)
    values = values[..., None] if values.ndim == 2 else values
    return torch.from_numpy(values.transpose(2, 0, 1)[None]), image.quantization


def as_images(pixels):
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None] / 255)


# --- of both --------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("name", BUILD)
def test_shapes_dtypes_and_items(name, dtype):
    op = BUILD[name]()
    x = uniform(3, *op.img_size, dtype=dtype)
    kept = x.clone()
    y = op.A(x)
    assert y.shape == (3, *op.measurement_size)
    assert y.dtype == dtype
    assert torch.equal(x, kept)
    for image in (op.A_adjoint(y), op.A_dagger(y)):
        assert image.shape == x.shape
        assert image.dtype == dtype
    tolerance = 1e-5 if dtype == F32 else 1e-12
    for i in range(3):
        torch.testing.assert_close(op.A(x[i : i + 1])[0], y[i], rtol=0, atol=tolerance)
    alone, together = op.A_dagger(y[1:2], iterations=3), op.A_dagger(y, iterations=3)
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=100 * tolerance)


@pytest.mark.parametrize("name", BUILD)
def test_every_device_gives_the_same(name, device):
    op, there = BUILD[name](), BUILD[name]().to(device)
    x = uniform(2, *op.img_size)
    y = op.A(x)
    torch.testing.assert_close(there.A(x.to(device)).cpu(), y)
    dagger = there.A_dagger(y.to(device), iterations=3)
    torch.testing.assert_close(dagger.cpu(), op.A_dagger(y, iterations=3))


@pytest.mark.parametrize("name", BUILD)
def test_noise_is_that_of_the_item_and_of_its_level(name):
    op = BUILD[name]()
    noisy = BUILD[name]()
    noisy.noise_model.sigma = torch.tensor([0.1, 0.3, 0.0])
    x = uniform(1, *op.img_size).expand(3, -1, -1, -1)
    noise = noisy.measure(x, seed=5) - op.measure(x, seed=5)
    assert torch.equal(op.measure(x), op.A(x))
    assert torch.equal(noise[2], torch.zeros_like(noise[2]))
    count = noise[0].numel()
    for i, sigma in enumerate((0.1, 0.3)):
        assert abs(float(noise[i].std()) / sigma - 1) < 4 / math.sqrt(2 * count)
    noisy.noise_model.sigma = torch.tensor(0.1)
    torch.testing.assert_close(noisy.measure(x[:1], seed=5)[0], op.A(x)[0] + noise[0])


@pytest.mark.parametrize("name", BUILD)
def test_bad_data_are_refused(name):
    op = BUILD[name]()
    x, y = uniform(2, *op.img_size), uniform(2, *op.measurement_size)
    calls = [("x", op.A, x), ("y", op.A_adjoint, y), ("y", op.A_dagger, y)]
    for argument, function, good in calls:
        for bad in (good[0], good[..., :-1], good[None]):
            with pytest.raises(errors.ShapeError, match=f"{argument}: got shape"):
                function(bad)
        for bad in (good.long(), good.to(torch.complex64), good.numpy()):
            with pytest.raises(errors.DtypeError, match=f"{argument}: got .*, accepted: a real"):
                function(bad)


def test_bad_construction_names_the_argument():
    for make, changes, error, match in (
        (JPEG, {"quality": 0}, errors.ArgumentError, "quality: got 0"),
        (JPEG, {"quality": 101}, errors.ArgumentError, "quality: got 101"),
        (JPEG, {"quality": 50.0}, errors.ArgumentError, "quality: got 50.0"),
        (JPEG, {"image_size": (2, 8, 8)}, errors.ShapeError, r"\(2, 8, 8\), accepted: 1 or 3"),
        (JPEG, {"image_size": (8, 8)}, errors.ShapeError, "image_size"),
        (JPEG, {"noise_sigma": -1}, errors.ArgumentError, "noise_sigma: got -1"),
        (PhaseRetrieval, {"oversampling": -1}, errors.ArgumentError, "oversampling: got -1"),
        (PhaseRetrieval, {"oversampling": math.nan}, errors.ArgumentError, "oversampling"),
        (PhaseRetrieval, {"oversampling": "2"}, errors.ArgumentError, "oversampling: got '2'"),
        (PhaseRetrieval, {"image_size": (1, 0, 8)}, errors.ArgumentError, "image_size: got 0"),
        (PhaseRetrieval, {"noise_sigma": math.inf}, errors.ArgumentError, "noise_sigma"),
    ):
        make(image_size=(1, 8, 8))
        with pytest.raises(error, match=match):
            make(**{"image_size": (1, 8, 8)} | changes)


# --- JPEG -----------------------------------------------------------------------------------


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 75, 93, 100])
def test_quantisation_tables_are_those_of_pillow(quality):
    _, tables = by_pillow(photograph(16, 16), quality=quality)
    op = JPEG((3, 16, 16), quality)
    assert op.luminance.flatten().tolist() == tables[0]
    assert op.chrominance.flatten().tolist() == tables[1]


def codes(values, table):
    """Return quantised coefficients by the definition of the transform, and how exact they are.

    ``C(u, v) = 1/4 c(u) c(v) sum f(x, y) cos((2x + 1) u pi / 16) cos((2y + 1) v pi / 16)``
    """
    u, x = np.meshgrid(np.arange(8), np.arange(8), indexing="ij")
    waves = np.cos((2 * x + 1) * u * np.pi / 16) / 2
    waves[0] /= math.sqrt(2)
    height, width = values.shape
    blocks = (values - 128).reshape(height // 8, 8, width // 8, 8)
    return np.einsum("ux,ixjy,vy->ijuv", waves, blocks, waves) / table


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("quality", [10, 30, 50, 75])
def test_quantised_coefficients_are_those_of_pillow(quality, dtype):
    """But for a few that lie on the border of two, where libjpeg's integers round otherwise."""
    pixels = photograph(128, 96)[..., 0] // 2 + 64  # no value is clipped in decoding
    theirs, _ = by_pillow(pixels, quality=quality)
    op = JPEG((1, 128, 96), quality)
    ours = 255 * op.A(as_images(pixels).to(dtype))
    table = op.luminance.numpy()
    exact = codes(pixels.astype(float), table)
    found, expected = (codes(v[0, 0].double().numpy(), table).round() for v in (ours, theirs))
    differ = found != expected
    assert differ.mean() < 1e-3
    assert np.abs(np.abs(exact[differ]) % 1 - 0.5).max(initial=0) < 0.1
    assert (found != 0).mean() > 0.02
    same = (~differ).all((2, 3)).repeat(8, 0).repeat(8, 1)
    gap = (ours - theirs)[0, 0].abs().numpy()
    assert gap[same].max() < 1.01


@pytest.mark.parametrize("subsampling", [False, True])
@pytest.mark.parametrize("size", [(64, 96), (61, 83), (50, 33), (9, 7), (4, 33), (33, 4), (9, 1)])
@pytest.mark.parametrize("quality", [20, 60, 90])
def test_decoded_colours_are_those_of_pillow(quality, size, subsampling):
    pixels = photograph(*size)
    theirs, _ = by_pillow(pixels, quality=quality, subsampling=2 if subsampling else 0)
    ours = 255 * JPEG((3, *size), quality, subsampling).A(as_images(pixels))
    gap = (ours - theirs).abs()
    # A coefficient rounded otherwise, rarely, changes a whole block slightly.
    assert float((gap > 0.5).double().mean()) < 0.1
    assert float(gap.mean()) < 0.2


@pytest.mark.parametrize("dtype", [F32, F64])
@pytest.mark.parametrize("subsampling", [False, True])
@pytest.mark.parametrize("size", [(64, 64), (61, 83), (33, 4)])
@pytest.mark.parametrize("quality", [20, 75, 95])
def test_smooth_colours_are_those_of_pillow(quality, size, subsampling, dtype):
    """Values near the border of two, as slowly varying colours have them, round the same way."""
    y, x = (np.linspace(0, 1, n) for n in size)
    waves = [np.sin(a * x + b * y[:, None] + c) for a, b, c in ((2, 1, 0), (1, 2, 2), (3, 1, 4))]
    pixels = (127.5 + 100 * np.stack(waves, -1)).round().astype(np.uint8)
    theirs, _ = by_pillow(pixels, quality=quality, subsampling=2 if subsampling else 0)
    ours = 255 * JPEG((3, *size), quality, subsampling).A(as_images(pixels).to(dtype))
    gap = (ours - theirs).abs()
    assert float((gap > 0.5).double().mean()) < 0.02
    assert float(gap.max()) < 2.01


def test_edges_of_images_that_are_no_whole_blocks():
    """A flat image stays flat, whatever its size; a border of zeros would ring."""
    for size in ((1, 13, 9), (3, 13, 9), (3, 17, 33)):
        flat = torch.full((1, *size), 100 / 255, dtype=F64)
        torch.testing.assert_close(JPEG(size, 60).A(flat), flat, rtol=0, atol=1.01 / 255)


def test_grey_images_are_the_luminance_of_colour_ones():
    x = as_images(photograph(24, 32)[..., 0])
    grey = JPEG((1, 24, 32), 40).A(x)
    torch.testing.assert_close(JPEG((3, 24, 32), 40).A(x.expand(1, 3, -1, -1)).mean(1), grey[:, 0])


def test_compressing_again_changes_little_and_quality_helps():
    x = as_images(photograph(40, 56))
    losses = []
    for quality in (5, 25, 75, 95):
        op = JPEG((3, 40, 56), quality)
        y = op.A(x)
        torch.testing.assert_close(255 * y, (255 * y).round(), rtol=0, atol=1e-9)
        assert float(y.min()) >= 0
        assert float(y.max()) <= 1
        losses.append(float((y - x).norm()))
        assert float((op.A(y) - y).norm()) < 0.5 * losses[-1]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("subsampling", [False, True])
def test_gradients_pass_straight_through_the_rounding(subsampling):
    op = JPEG((3, 16, 32), 10, subsampling)
    x, v = uniform(1, 3, 16, 32), uniform(1, 1, 16, 32, seed=1).expand(1, 3, -1, -1)
    wave = torch.tensor([1.0, -1.0], dtype=F64).repeat(16).expand(1, 3, 16, 32)
    chroma = wave * torch.tensor([1.402, -0.299 / 0.587 * 1.402, 0]).view(3, 1, 1)

    def derivative(direction):
        return torch.autograd.functional.jvp(op.A, x, direction)[1]

    torch.testing.assert_close(derivative(v), v)  # luminance
    flat = torch.ones_like(x) * torch.tensor([0.5, -1.0, 2.0]).view(3, 1, 1)
    torch.testing.assert_close(derivative(flat), flat)
    expected = torch.zeros_like(x) if subsampling else chroma
    torch.testing.assert_close(derivative(chroma), expected, rtol=0, atol=2e-5)  # 16 bits


# --- phase retrieval ------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(2, 9, 12), (1, 16, 16), (1, 8, 7)])
@pytest.mark.parametrize("oversampling", [0, 1.5, 2.0, 8])
def test_phase_retrieval_equals_the_formula(size, oversampling):
    op, x = PhaseRetrieval(size, oversampling), uniform(2, *size)
    rows, columns = (int(oversampling / 8 * n) for n in size[1:])
    padded = np.pad(x.numpy(), ((0, 0), (0, 0), (rows, rows), (columns, columns)))
    spectrum = np.fft.fftshift(np.fft.fft2(padded, norm="ortho"), axes=(-2, -1))
    np.testing.assert_allclose(op.A(x).numpy(), np.abs(spectrum), atol=1e-13)
    y = uniform(2, *op.measurement_size, seed=1)
    image = np.fft.ifft2(np.fft.ifftshift(y.numpy(), axes=(-2, -1)), norm="ortho").real
    image = np.fft.fftshift(image, axes=(-2, -1))
    image = image[..., rows : rows + size[1], columns : columns + size[2]]
    np.testing.assert_allclose(op.A_adjoint(y).numpy(), image, atol=1e-13)


def test_the_oversampling_of_dps():
    assert PhaseRetrieval((3, 256, 256), 2.0).measurement_size == (3, 384, 384)


def test_sign_and_rotation_cannot_be_seen():
    op, x = PhaseRetrieval((1, 8, 11)), uniform(1, 1, 8, 11)
    for other in (-x, x.flip(-1, -2), -x.flip(-1, -2)):
        torch.testing.assert_close(op.A(other), op.A(x))
    assert float((op.A(x.flip(-1)) - op.A(x)).norm()) > 0.1


def test_the_gradient_is_right_and_finite_where_the_magnitude_vanishes():
    op = PhaseRetrieval((1, 4, 5), 2.0)
    assert torch.autograd.gradcheck(op.A, uniform(1, 1, 4, 5).requires_grad_())
    zero = torch.zeros(1, 1, 4, 5, dtype=F64, requires_grad=True)
    (gradient,) = torch.autograd.grad(op.A(zero).sum(), zero)
    assert bool(gradient.isfinite().all())


def test_the_start_of_phase_retrieval_fits_the_magnitudes():
    """Better than zero phase and a flat image; and it is the image where the support is small."""
    x = as_images(photograph(48, 40)[..., :1])
    op = PhaseRetrieval((1, 48, 40), 4.0)
    y = op.A(x)

    def misfit(image):
        return float((op.A(image) - y).norm() / y.norm())

    start = op.A_dagger(y)
    assert float(start.min()) >= 0
    assert misfit(start) < 0.5 * min(misfit(op.A_adjoint(y)), misfit(torch.full_like(x, x.mean())))
    assert misfit(start) < misfit(op.A_dagger(y, iterations=1))


def test_the_start_takes_steps():
    op = PhaseRetrieval((1, 8, 7))
    for iterations in (0, -1, 2.0, True, None):
        with pytest.raises(errors.ArgumentError, match="iterations: got"):
            op.A_dagger(op.A(uniform(1, 1, 8, 7)), iterations=iterations)


# --- solvers --------------------------------------------------------------------------------


def smooth_prior(size):
    frequency = torch.hypot(torch.fft.fftfreq(size)[:, None], torch.fft.fftfreq(size)).double()
    return GaussianPrior(0.5, Stationary(0.002 / (0.02 + frequency**2)))


@pytest.mark.parametrize(
    "make",
    [
        lambda: JPEG((3, 16, 16), 10),
        lambda: PhaseRetrieval((3, 16, 16), 2.0, noise_sigma=0.05),
    ],
    ids=["jpeg", "phase"],
)
@pytest.mark.parametrize(
    "solver",
    [DPS(steps=100, zeta=0.5), REDDiff(steps=100, learning_rate=0.02)],
    ids=["dps", "red"],
)
def test_solvers_lower_the_misfit(solver, make):
    op, prior = make(), smooth_prior(16)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((2, 3, 16, 16)))
    x = prior.draw(z).clamp(0, 1)
    y = op.measure(x, seed=1)
    found = solver(y, op, prior, seed=0).mean

    def misfit(image):
        return float((op.A(image) - y).norm())

    # Squares, as noise adds to them what no image can lower.
    found, guess, floor = (
        misfit(image) ** 2 for image in (found, prior.draw(z.flip(0)).clamp(0, 1), x)
    )
    assert found - floor < 0.5 * (guess - floor)


def test_linear_solvers_refuse_nonlinear_operators():
    op = JPEG((3, 16, 16), 10)
    with pytest.raises(errors.ArgumentError, match="JPEG is not linear, accepted by DDS"):
        DDS(steps=2)(uniform(1, 3, 16, 16), op, smooth_prior(16), seed=0)
