"""Measurements in any units: the prior is taken to them, and what cannot be right is told."""

import warnings

import h5py
import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from wellposed import operators, priors, solvers
from wellposed.cli.app import app
from wellposed.datasets import load_fastmri
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.reading import Reading
from wellposed.errors import ArgumentError, FileError
from wellposed.operators.mri.cartesian import fft2c
from wellposed.reconstruction import Reconstruction

N = 32


class Flat(priors.Prior):
    """A denoiser that knows nothing but its range."""

    def __init__(self, is_complex=False, data_range=(0.0, 1.0)):
        schedule = priors.Tabulated.linear()
        super().__init__(schedule, 1, is_complex, data_range)

    def denoise(self, x_t, t, condition=None):
        return x_t / (1 + self.schedule(t)[1].to(x_t.real.dtype))


def head() -> torch.Tensor:
    place = (torch.arange(N) - N / 2 + 0.5) / N
    inside = (place[:, None] / 0.4) ** 2 + (place / 0.3) ** 2 < 1
    return (inside * (0.8 + 0.2 * torch.cos(9 * place)))[None, None]


def mri(scale: float = 1.0, noise: float = 0.0):
    maps = operators.simulate_sensitivity_maps(4, N, N)
    operator = operators.MultiCoilMRI(operators.equispaced_lines(N, 2, 0.3), maps, scale * noise)
    return scale * operator.A(head() + 0j), operator


@pytest.mark.parametrize("scale", [1.0, 1e-6, 3e5])
@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_results_are_in_the_units_of_the_measurement(scale, noise):
    (y, operator), (known, unit) = mri(scale, noise), mri(1.0, noise)
    prior = priors.fit_range(Flat(True, (-1, 1)), y, operator)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        solver = solvers.DDS(steps=10)
        found = solver(y, operator, prior, seed=0)
        expected = solver(known, unit, priors.fit_range(Flat(True, (-1, 1)), known, unit), seed=0)
    torch.testing.assert_close(found.mean / scale, expected.mean, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(found.residual, expected.residual, rtol=1e-2, atol=1e-4)


def test_images_keep_their_zero():
    operator = operators.FanBeamCT(N, 60, 100.0, 150.0, pixel_size=0.3)
    y = operator.A(0.02 * head())
    prior = priors.fit_range(Flat(), y, operator)
    assert prior.data_range == pytest.approx((0, 0.02), rel=0.2)
    assert priors.Slicewise(Flat()).with_range(0, 5).prior.data_range == (0, 5)


def test_ranges_share_weights_and_leave_the_prior_alone():
    inner = torch.nn.Conv2d(1, 1, 1)
    prior = priors.DenoiserPrior(lambda x, sigma: inner(x), channels=1)
    other = prior.with_range(-3.0, 5.0)
    assert prior.data_range == (0.0, 1.0) and other.scale == 4.0 and other.centre == 1.0
    u = torch.randn(1, 1, 4, 4)
    torch.testing.assert_close(other.denoise(u, 5.0), prior.denoise(u, 5.0))
    with pytest.raises(ArgumentError, match="data_range"):
        prior.with_range(1.0, 1.0)
    with pytest.raises(ArgumentError, match="symmetric"):
        Flat(True, (-1, 1)).with_range(0.0, 1.0)
    with pytest.raises(ArgumentError, match="zeros"):
        y, operator = mri(0.0)
        priors.fit_range(prior, y, operator)


@pytest.mark.parametrize("scale", [1e-5, 1e3])
@pytest.mark.parametrize("noise", [0.0, 1e-3])
def test_data_far_from_the_range_are_told(scale, noise):
    y, operator = mri(scale, noise / scale)
    with pytest.warns(
        UserWarning, match=r"y: the image of item 0 .* made for -1 to 1; priors.fit"
    ):
        solvers.DDS(steps=4)(y, operator, Flat(True, (-1, 1)), seed=0)


def test_images_that_explain_nothing_are_told():
    y, operator = mri()
    prior = Flat(True, (-1, 1))
    with pytest.warns(UserWarning, match="explains nothing of y"):
        solvers.DPS(steps=4, zeta=0.0)(y, operator, prior, seed=1)
    noisy = operators.MultiCoilMRI(operator.mask[0], operator.sensitivity_maps, 1e-9)
    with pytest.warns(UserWarning, match="noise of this level does not explain the misfit"):
        solvers.DDS(steps=4)(y, noisy, prior, seed=0)


def test_attenuation_under_hounsfield_units_is_told():
    operator = operators.FanBeamCT(N, 60, 100.0, 150.0, pixel_size=0.3)
    y = operator.A(0.02 * head())
    with pytest.warns(UserWarning, match="y: the image of item 0 has values about 0.01"):
        solvers.DDS(steps=2)(y, operator, Flat(), seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior = Flat().with_range(0, 2 * operators.MU_WATER)
        solvers.DDS(steps=2, gamma=1.0)(y, operator, prior, seed=0)


def reconstruct(path, out, *options) -> tuple[Reconstruction, str]:
    given = ["reconstruct", str(path), "--operator", "mri", "--steps", "4", "--num-samples", "1"]
    found = CliRunner().invoke(app, [*given, "--out", str(out), *options])
    assert found.exit_code == 0, found.output
    return Reconstruction.load(out / "reconstruction.h5"), found.output


@pytest.mark.slow
def test_noise_on_the_command_line_is_in_the_units_of_the_measurement(tmp_path):
    y, _ = mri()
    np.save(tmp_path / "k.npy", y[0].numpy())
    np.save(tmp_path / "small.npy", 1e-6 * y[0].numpy())
    one, _ = reconstruct(tmp_path / "k.npy", tmp_path / "a", "--noise-sigma", "0.005")
    two, _ = reconstruct(tmp_path / "small.npy", tmp_path / "b", "--noise-sigma", "5e-9")
    torch.testing.assert_close(two.residual, one.residual, rtol=1e-2, atol=0)
    torch.testing.assert_close(1e6 * two.mean, one.mean, rtol=1e-2, atol=1e-3)


def write_fastmri(path, single: bool = False, scale: float = 1e-5):
    """Two fully sampled slices whose readout is twice oversampled, and both references."""
    wide = torch.nn.functional.pad(head()[0], (0, 0, N // 2, N // 2))
    maps = operators.simulate_sensitivity_maps(4, 2 * N, N)[None]
    coils = scale * wide * (1 if single else maps)
    reference = scale * head()[0].expand(2, N, N)
    with h5py.File(path, "w") as file:
        file["kspace"] = fft2c(coils + 0j).expand(2, *coils.shape[1:]).numpy()
        file["reconstruction_rss"] = (2 if single else 1) * reference.numpy()
        if single:
            file["reconstruction_esc"] = reference.numpy()
    return reference


@pytest.mark.parametrize("single", [True, False])
def test_the_reference_is_that_of_the_task(single, tmp_path):
    reference = write_fastmri(tmp_path / "scan.h5", single)
    torch.testing.assert_close(load_fastmri(tmp_path / "scan.h5").reference[:, 0], reference)


@pytest.mark.parametrize("options", [("--acceleration", "2"), ("--simulate",), ()])
def test_fastmri_on_the_command_line(options, tmp_path):
    """Undersampled afterwards, without oversampling, against the reference of the file."""
    reference = write_fastmri(tmp_path / "scan.h5")
    path, out = tmp_path / "scan.h5", tmp_path / "out"
    found, printed = reconstruct(path, out, "--solver", "dds", "--set", "gamma=20", *options)
    assert found.mean.shape == (1, 1, N, N)
    table = [line for line in printed.splitlines() if line.startswith("|")]
    assert "PSNR" in table[0]
    least_squares = float(table[2].split("|")[2])
    assert (least_squares > 30) == (options == ())
    with h5py.File(out / "reconstruction.h5") as file:
        np.testing.assert_allclose(file["truth"][0, 0], reference[0], rtol=1e-6)


def test_lines_are_not_left_out_twice(tmp_path):
    y, _ = mri()
    np.save(tmp_path / "k.npy", y[0].numpy())
    given = ["reconstruct", str(tmp_path / "k.npy"), "--operator", "mri", "--out", str(tmp_path)]
    found = CliRunner().invoke(app, [*given, "--acceleration", "3"])
    assert "acceleration: got 3.0, accepted: None for k-space" in found.output


def test_degraded_images_in_another_unit_are_told():
    restorer = priors.load("irsde-deblur")
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    solver = solvers.MRSampler(steps=1)
    with pytest.warns(
        UserWarning, match=r"values about .* made for 0 to 1; give prior.with_range"
    ):
        solver(255 * image, None, restorer, seed=0)


@pytest.mark.parametrize(("scale", "message"), [(4095.0, "FileError"), (1e-4, "UserWarning")])
def test_training_images_in_another_unit_are_told(scale, message, tmp_path):
    for n in range(2):
        values = np.random.default_rng(n).random((16, 16))
        np.save(tmp_path / f"{n}.npy", (scale * values).astype(np.float32))
    reading = Reading(data_range=(0.0, 1.0))
    if message == "UserWarning":
        with pytest.warns(UserWarning, match=r"training expects 0 to 1; set window or percentile"):
            Collection([tmp_path], reading)
    else:
        with pytest.raises(FileError, match=r"0\.npy.*has values to 40.*set window or percentile"):
            Collection([tmp_path], reading)
        Collection([tmp_path], Reading(window=(0.0, 4095.0), data_range=(0.0, 1.0)))
