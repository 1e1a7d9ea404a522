"""ESPIRiT on simulated and on measured k-space, and the sampling masks."""

import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from wellposed.errors import ArgumentError, DtypeError, NonFiniteError, ShapeError
from wellposed.linalg import conjugate_gradient
from wellposed.operators.mri.cartesian import MultiCoilMRI, fft2c, ifft2c
from wellposed.operators.mri.masks import (
    equispaced_lines,
    gaussian_random_2d,
    uniform_random_lines,
)
from wellposed.operators.mri.sensitivity import (
    espirit,
    find_calibration,
    simulate_sensitivity_maps,
)

BRAIN = Path(__file__).parents[1] / "examples" / "data" / "sigpy_brain_kspace.npy"


def phantom(height: int, width: int) -> Tensor:
    """Return a complex object with edges, smooth shading and a slow phase, zero outside."""
    y, x = torch.meshgrid(
        torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij"
    )
    image = ((x / 0.6) ** 2 + (y / 0.75) ** 2 < 1).float()
    image += 0.5 * ((x - 0.2) ** 2 + (y + 0.2) ** 2 < 0.05).float()
    image -= 0.6 * (((x + 0.25) / 0.12) ** 2 + (y / 0.3) ** 2 < 1).float()
    return image * (1 + 0.2 * x) * torch.exp(1j * (0.8 * y + 0.5 * x * x))


def residual(maps: Tensor, images: Tensor) -> float:
    """Return ``||(1 - S S^H) images|| / ||images||``."""
    projected = maps * (maps.conj() * images).sum(0)
    return float((images - projected).norm() / images.norm())


@pytest.fixture(scope="module")
def brain() -> Tensor:
    return torch.from_numpy(np.load(BRAIN))


@pytest.fixture(scope="module")
def brain_maps(brain: Tensor) -> Tensor:
    return espirit(brain)


@pytest.mark.parametrize(
    ("coils", "height", "width"), [(4, 64, 64), (8, 96, 80), (8, 65, 71), (27, 48, 48)]
)
def test_espirit_recovers_simulated_maps(coils: int, height: int, width: int) -> None:
    true = simulate_sensitivity_maps(coils, height, width, seed=coils)
    image = phantom(height, width)
    maps = espirit(fft2c(true * image), calibration=24)
    inside = image.abs() > 0
    overlap = (maps.conj() * true).sum(0).abs()[inside]
    assert overlap.min() > 0.99
    assert residual(maps, true * image) < 0.02


def test_espirit_phase_is_smooth_and_magnitude_is_one_or_zero() -> None:
    true = simulate_sensitivity_maps(8, 80, 80)
    image = phantom(80, 80)
    maps = espirit(fft2c(true * image))
    energy = maps.abs().square().sum(0)
    kept = energy > 0
    torch.testing.assert_close(energy[kept], torch.ones_like(energy[kept]))
    assert kept[image.abs() > 0].all() and not kept.all()
    inside = image.abs() > 0
    both = inside[:, 1:] & inside[:, :-1]
    turn = (maps[..., 1:] * maps[..., :-1].conj()).sum(0)[both]
    assert turn.abs().min() > 0.98 and turn.angle().abs().max() < 0.2


def test_espirit_reads_only_the_calibration_block() -> None:
    kspace = fft2c(simulate_sensitivity_maps(4, 64, 60) * phantom(64, 60))
    block = torch.zeros_like(kspace)
    block[:, 20:44, 18:42] = kspace[:, 20:44, 18:42]
    assert torch.equal(espirit(block), espirit(kspace))
    assert torch.equal(espirit(block, calibration=None), espirit(kspace))


def test_espirit_without_crop_keeps_every_pixel_and_any_scale() -> None:
    kspace = fft2c(simulate_sensitivity_maps(4, 48, 48) * phantom(48, 48))
    maps = espirit(kspace, crop=0)
    energy = maps.abs().square().sum(0)
    torch.testing.assert_close(energy, torch.ones_like(energy))
    torch.testing.assert_close(espirit(kspace * 2.0**-20, crop=0), maps)
    double = espirit(kspace.to(torch.complex128))
    assert double.dtype == torch.complex128


def test_espirit_item_alone_equals_item_in_batch() -> None:
    images = torch.stack([phantom(64, 64), phantom(64, 64).T.flip(0)])[:, None]
    maps = torch.stack([simulate_sensitivity_maps(5, 64, 64, seed) for seed in (1, 2)])
    kspace = fft2c(maps * images)
    kspace[1] *= uniform_random_lines(64, 2, 0.3, seed=3)
    together = espirit(kspace, calibration=None)
    assert together.shape == kspace.shape
    for item, result in zip(kspace, together, strict=True):
        assert torch.equal(espirit(item, calibration=None), result)


def test_espirit_leaves_the_number_of_threads_alone() -> None:
    before = torch.get_num_threads()
    espirit(fft2c(simulate_sensitivity_maps(2, 32, 32) * phantom(32, 32)))
    assert torch.get_num_threads() == before


def test_espirit_refuses_bad_input() -> None:
    kspace = fft2c(simulate_sensitivity_maps(4, 64, 64) * phantom(64, 64))
    with pytest.raises(DtypeError, match=r"kspace: got torch\.float32"):
        espirit(kspace.real)
    with pytest.raises(ShapeError, match="kspace: got shape"):
        espirit(kspace[0])
    with pytest.raises(ArgumentError, match="calibration: got 4"):
        espirit(kspace, calibration=4, kernel=6)
    with pytest.raises(ArgumentError, match="calibration: got 65"):
        espirit(kspace, calibration=65)
    with pytest.raises(ArgumentError, match="calibration: got"):
        espirit(kspace, calibration=(24, 24, 24))
    with pytest.raises(
        ArgumentError, match=r"samples that were not measured, accepted: \(32, 20\)"
    ):
        espirit(kspace * _center_lines(64, 20))
    for name, value in {"kernel": 0, "threshold": 1.0, "crop": 1.5}.items():
        with pytest.raises(ArgumentError, match=f"{name}: got {value}"):
            espirit(kspace, **{name: value})
    kspace[1, 30, 30] = float("nan")
    with pytest.raises(NonFiniteError, match="kspace: 1 of"):
        espirit(kspace)


def _center_lines(width: int, count: int) -> Tensor:
    mask = torch.zeros(width)
    mask[width // 2 - count // 2 : width // 2 - count // 2 + count] = 1
    return mask


def test_find_calibration() -> None:
    kspace = torch.ones(3, 50, 61, dtype=torch.complex64)
    assert find_calibration(kspace) == (32, 32)
    assert find_calibration(kspace, limit=100) == (50, 61)
    assert find_calibration(kspace * _center_lines(61, 13)) == (32, 13)
    both = torch.stack([kspace * _center_lines(61, n) for n in (13, 18)])
    assert find_calibration(both) == (32, 13)
    kspace[0, 25, 30] = 0
    assert find_calibration(kspace) == (32, 32)  # measured by the other coils
    kspace[:, 25, 30] = 0
    with pytest.raises(ArgumentError, match="kspace: the centre"):
        find_calibration(kspace)


def test_simulated_maps_are_smooth_unit_norm_and_reproducible() -> None:
    maps = simulate_sensitivity_maps(6, 40, 56, seed=5)
    assert maps.shape == (6, 40, 56) and maps.dtype == torch.complex64
    energy = maps.abs().square().sum(0)
    torch.testing.assert_close(energy, torch.ones_like(energy))
    assert maps.diff(dim=-1).abs().max() < 0.1 and maps.diff(dim=-2).abs().max() < 0.1
    assert torch.equal(maps, simulate_sensitivity_maps(6, 40, 56, seed=5))
    assert not torch.equal(maps, simulate_sensitivity_maps(6, 40, 56, seed=6))
    assert maps.abs().flatten(1).argmax(1).unique().numel() == 6
    with pytest.raises(ArgumentError, match="coils: got 0"):
        simulate_sensitivity_maps(0, 40, 56)


def test_brain_maps(brain: Tensor, brain_maps: Tensor) -> None:
    assert find_calibration(brain, limit=100) == (24, 24)
    assert torch.isfinite(torch.view_as_real(brain_maps)).all()
    energy = brain_maps.abs().square().sum(0)
    kept = energy > 0
    assert 0.6 < kept.float().mean() < 0.9
    torch.testing.assert_close(energy[kept], torch.ones_like(energy[kept]))


def test_brain_maps_explain_the_calibration_data(brain: Tensor, brain_maps: Tensor) -> None:
    # Smooth edges of the block: cut sharply, the coil images ring and no maps can explain that.
    window = torch.hann_window(26, periodic=False)[1:-1]
    low = torch.zeros_like(brain)
    low[:, 103:127, 78:102] = brain[:, 103:127, 78:102] * torch.outer(window, window)
    assert residual(brain_maps, ifft2c(low)) < 0.04


def test_brain_reconstruction_by_sense(brain: Tensor, brain_maps: Tensor) -> None:
    operator = MultiCoilMRI((brain != 0).any(0).float(), brain_maps)
    y = brain[None]
    zero_filled = operator.A_adjoint(y)
    found = conjugate_gradient(
        lambda x: operator.A_adjoint_A(x) + 1e-3 * x, zero_filled, iterations=20
    )
    image, start = found.x[0, 0], zero_filled[0, 0]
    misfit = (operator.A(found.x) - y).norm() / y.norm()
    assert misfit < 0.05 < (operator.A(zero_filled) - y).norm() / y.norm()
    # Edges are restored: more gradient in the head, none in the empty corners.
    head = (slice(20, 195), slice(30, 155))
    gradient = [float(x.abs()[head].diff(dim=0).norm()) for x in (image, start)]
    assert gradient[0] > 1.5 * gradient[1]
    assert image[:20, :20].abs().max() < 0.02 * image.abs().max()


@pytest.mark.parametrize(("width", "acceleration"), [(320, 4), (368, 8), (181, 3), (40, 1)])
def test_uniform_random_lines_take_exactly_the_stated_number(
    width: int, acceleration: float
) -> None:
    mask = uniform_random_lines(width, acceleration, 0.08, seed=1)
    assert mask.shape == (width,) and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) <= {0.0, 1.0}
    assert mask.sum() == round(width / acceleration)
    assert mask[_center_lines(width, int(0.08 * width)) == 1].all()
    assert torch.equal(mask, uniform_random_lines(width, acceleration, 0.08, seed=1))


def test_random_masks_differ_by_seed_and_touch_no_global_generator() -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002  the generator under test
    torch_state = torch.get_rng_state()
    assert not torch.equal(uniform_random_lines(320, 4), uniform_random_lines(320, 4, seed=1))
    first, second = (gaussian_random_2d(64, 48, 6, seed=seed) for seed in (0, 1))
    assert not torch.equal(first, second)
    assert torch.equal(first, gaussian_random_2d(64, 48, 6))
    assert np.array_equal(state, np.random.get_state()[1])  # noqa: NPY002
    assert torch.equal(torch_state, torch.get_rng_state())


def test_uniform_random_lines_are_uniform_outside_the_centre() -> None:
    masks = torch.stack([uniform_random_lines(40, 4, 0.1, seed=seed) for seed in range(600)])
    outside = _center_lines(40, 4) == 0
    assert (masks.mean(0)[outside] - 6 / 36).abs().max() < 0.06


def test_equispaced_lines() -> None:
    mask = equispaced_lines(96, 4, 0.125, offset=2)
    expected = _center_lines(96, 12)
    expected[2::4] = 1
    assert torch.equal(mask, expected) and mask.dtype == torch.float32
    assert mask.sum() == 96 / 4 + 12 - 3
    assert equispaced_lines(96, 4, 0).sum() == 24


def test_gaussian_random_2d() -> None:
    mask = gaussian_random_2d(96, 80, 8, 0.1, spread=0.2, seed=2)
    assert mask.shape == (96, 80) and mask.dtype == torch.float32
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    assert mask.sum() == round(96 * 80 / 8)
    block = torch.outer(_center_lines(96, 9), _center_lines(80, 8))
    assert mask[block == 1].all()
    outside = mask * (1 - block)
    assert outside[24:72, 20:60].sum() > 0.5 * outside.sum()  # 0.24 if it were uniform
    narrow = gaussian_random_2d(64, 64, 2, 0, spread=0.01)
    assert narrow.sum() == 64 * 64 / 2


@pytest.mark.parametrize(
    ("make", "arguments", "message"),
    [
        (uniform_random_lines, {"width": 0, "acceleration": 4}, "width: got 0"),
        (uniform_random_lines, {"width": 8, "acceleration": 0.5}, "acceleration: got 0.5"),
        (uniform_random_lines, {"width": 8, "acceleration": float("nan")}, "acceleration: got"),
        (
            uniform_random_lines,
            {"width": 320, "acceleration": 16},
            "acceleration: got 16, accepted: at most 12.8",
        ),
        (
            uniform_random_lines,
            {"width": 8, "acceleration": 2, "center_fraction": 1.5},
            "center_fraction: got 1.5",
        ),
        (equispaced_lines, {"width": 8, "acceleration": 2.5}, "acceleration: got 2.5"),
        (equispaced_lines, {"width": 8, "acceleration": 2, "offset": 2}, "offset: got 2"),
        (gaussian_random_2d, {"height": 0, "width": 8, "acceleration": 2}, "height: got 0"),
        (
            gaussian_random_2d,
            {"height": 8, "width": 8, "acceleration": 2, "spread": 0.0},
            "spread: got 0.0",
        ),
    ],
)
def test_masks_refuse_bad_arguments(make, arguments, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make(**arguments)


@pytest.mark.parametrize("lines", [4, 6, 8, 12])
def test_espirit_of_few_lines_keeps_the_object(lines) -> None:
    truth, image = simulate_sensitivity_maps(8, 64, 64), phantom(64, 64)
    mask = torch.zeros(64)
    mask[::4] = 1
    mask[32 - lines // 2 : 32 + lines // 2] = 1
    kspace = fft2c(truth * image) * mask
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maps = espirit(kspace, calibration=None)
    body = image.abs() > 0.3 * image.abs().max()
    likeness = (maps.conj() * truth).sum(0).abs()[body]
    assert float(likeness.min()) > (0.98 if lines > 4 else 0.9)


def test_what_espirit_sets_to_zero_is_told() -> None:
    kspace = fft2c(simulate_sensitivity_maps(8, 64, 64) * phantom(64, 64))
    with pytest.warns(UserWarning, match="maps to zero where the image has .*% of its energy"):
        espirit(kspace, calibration=(24, 6), kernel=6)


@pytest.mark.parametrize("axes", [(-2, -1), (-1,), (-2,)])
def test_k_space_that_is_not_centred_is_named(axes) -> None:
    kspace = fft2c(simulate_sensitivity_maps(2, 32, 32) * phantom(32, 32))
    with pytest.raises(ArgumentError, match=r"fftshift\(kspace, dim=\(-2, -1\)\)"):
        espirit(torch.fft.fftshift(kspace, dim=axes), calibration=None)
