"""Blur of measured photographs: the scene goes on outside the frame; kernels and noise."""

import warnings

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import convolve
from tests.helpers import random

from wellposed import errors, operators
from wellposed.cli.settings import InputOptions
from wellposed.cli.tasks import blur_kernel, task_of
from wellposed.operators.presets import measured_deblurring, reflected_blur
from wellposed.priors import GaussianPrior, Tabulated
from wellposed.solvers.problem import Problem

pytestmark = pytest.mark.usefixtures("single_thread")


def kernel(rows, columns):
    weights = random(rows, columns).abs()
    return weights / weights.sum()


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (4, 6), (1, 1)])
@pytest.mark.parametrize("depth", [(), (2,)])
def test_a_photograph_is_a_window_of_a_blurred_scene(rows, columns, depth):
    """Whatever lies outside: what is inside the margins is in register with the photograph."""
    scene, weights = random(1, 1, *depth, 20, 24, seed=1), kernel(rows, columns)
    whole = scene.numpy().reshape(-1, 20, 24)
    blurred = np.stack([convolve(slice_, weights.numpy(), mode="constant") for slice_ in whole])
    top, left = rows - 1 - rows // 2, columns - 1 - columns // 2
    height, width = 20 - rows + 1, 24 - columns + 1
    # scipy centres even kernels on the other of the middle pixels
    up, side = 1 - rows % 2, 1 - columns % 2
    seen = np.roll(blurred, (up, side), (1, 2))[:, top : top + height, left : left + width]
    y = torch.from_numpy(seen.copy()).view(1, 1, *depth, height, width)
    task = measured_deblurring(y, weights)
    assert task.operator.A(scene).shape == y.shape
    torch.testing.assert_close(
        task.inside(scene), scene[..., top : top + height, left : left + width]
    )
    if rows % 2 and columns % 2:
        torch.testing.assert_close(task.operator.A(scene), y)


@pytest.mark.parametrize(("rows", "columns"), [(5, 3), (4, 6)])
def test_a_scene_goes_on_mirrored(rows, columns):
    x, weights = random(1, 2, 12, 14), kernel(rows, columns)
    operator = reflected_blur(weights, (2, 12, 14))
    y = operator.A(x)
    assert y.shape == x.shape
    if rows % 2 and columns % 2:
        expected = [convolve(c, weights.numpy(), mode="mirror") for c in x[0].numpy()]
        torch.testing.assert_close(y[0], torch.from_numpy(np.stack(expected)))
    flat = torch.full_like(x, 0.7)
    torch.testing.assert_close(operator.A(flat), flat)
    operators.check_operator(operator)


def test_kernels_of_files_have_sum_1(tmp_path):
    weights = np.outer([1, 4, 1], [2, 5, 2])
    np.save(tmp_path / "k.npy", weights * 255)
    Image.fromarray((weights * 10).astype(np.uint8)).save(tmp_path / "k.png")
    for name in ("k.npy", "k.png"):
        found = blur_kernel((1, 16, 16), InputOptions(kernel_file=tmp_path / name))
        torch.testing.assert_close(
            found, torch.from_numpy(weights / weights.sum()), rtol=1e-6, atol=0
        )
    photo = random(16, 18).numpy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        task = task_of(photo, "deblurring", InputOptions(kernel_file=tmp_path / "k.png"))
    assert (task.margins, task.y.shape) == ((1, 1, 1, 1), (1, 1, 16, 18))
    np.save(tmp_path / "zero.npy", weights * 0)
    with pytest.raises(errors.ArgumentError, match="kernel_file: got 'a kernel of sum 0'"):
        blur_kernel((1, 16, 16), InputOptions(kernel_file=tmp_path / "zero.npy"))


def test_kernels_of_values_to_255_warn():
    with pytest.warns(UserWarning, match="kernel: sums to 255, .* kernel / kernel.sum"):
        operators.Blur(255 * kernel(3, 3), (1, 8, 8))


def test_noise_in_other_units_than_the_measurement_warns():
    prior = GaussianPrior(0.5, 0.05, Tabulated.linear())
    y = torch.rand(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with pytest.warns(UserWarning, match=r"noise_sigma: got 25, but .*\(25 of 255 is"):
        Problem.create(y, operators.Denoising((1, 8, 8), 25.0), prior)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Problem.create(y, operators.Denoising((1, 8, 8), 25 / 255), prior)
        Problem.create(0.5 * random(1, 1, 8, 8), operators.Denoising((1, 8, 8), 0.5), prior)
