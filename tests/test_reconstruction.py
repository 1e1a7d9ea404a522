"""The result object, its files, metrics and pictures."""

from dataclasses import replace

import h5py
import numpy as np
import pytest
import torch
from PIL import Image
from torchmetrics.functional.image import (
    peak_signal_noise_ratio,
    structural_similarity_index_measure,
)

from wellposed import Reconstruction, errors
from wellposed.figures import format_table
from wellposed.metrics import band_quality, nmse, psnr, spectral_angle, ssim
from wellposed.units import Units


def result(complex_=False, count=3):
    generator = torch.Generator().manual_seed(0)
    samples = torch.rand(count, 2, 1, 16, 12, generator=generator)
    samples = torch.complex(samples, samples.flip(-1)) if complex_ else samples
    return Reconstruction(
        samples, torch.ones(count, 2), 50, 1.5, "DDS", {"eta": 0.85, "gamma": float("inf")}, 0
    )


@pytest.mark.parametrize("complex_", [False, True])
def test_mean_and_std_are_those_of_the_samples(complex_):
    r = result(complex_)
    values = r.samples.numpy()
    np.testing.assert_allclose(r.mean.numpy(), values.mean(0), rtol=1e-5)
    np.testing.assert_allclose(r.std.numpy(), values.std(0, ddof=1), rtol=1e-4)
    assert not r.std.is_complex()
    assert float(result(count=1).std.abs().max()) == 0


@pytest.mark.parametrize("complex_", [False, True])
@pytest.mark.sampled
def test_saved_and_loaded_results_are_equal(tmp_path, complex_):
    r = result(complex_)
    path = r.save(tmp_path / "new" / "folder", others={"FBP": r.mean}, truth=r.samples[0])
    again = Reconstruction.load(path)
    assert torch.equal(again.samples, r.samples)
    assert torch.equal(again.residual, r.residual)
    assert (again.nfe, again.seconds, again.solver, again.settings, again.seed) == (
        50,
        1.5,
        "DDS",
        r.settings,
        0,
    )
    with h5py.File(path) as file:
        assert set(file) == {"samples", "residual", "mean", "std", "FBP", "truth"}
    with Image.open(path.with_suffix(".png")) as panel:
        assert panel.width > 6 * 100  # six pictures
        assert np.asarray(panel.convert("L")).std() > 10


def test_colour_panels_and_a_single_sample(tmp_path):
    samples = torch.rand(1, 1, 3, 16, 12, generator=torch.Generator().manual_seed(0))
    r = Reconstruction(samples, torch.ones(1, 1), 5, 0.1, "DPS")
    path = r.save(tmp_path)
    with Image.open(path.with_suffix(".png")) as panel:
        assert panel.width > 200
    with h5py.File(path) as file:
        assert "std" not in file


def test_volumes_show_their_middle_slice(tmp_path):
    samples = torch.rand(2, 1, 1, 5, 16, 12, generator=torch.Generator().manual_seed(0))
    Reconstruction(samples, torch.ones(2, 1), 5, 0.1, "DDS").save(tmp_path)
    assert (tmp_path / "reconstruction.png").stat().st_size > 1000


def test_bad_files_and_shapes_are_named(tmp_path):
    with pytest.raises(errors.ShapeError, match="truth: got shape"):
        result().save(tmp_path, truth=torch.zeros(1, 1, 16, 12))
    with pytest.raises(errors.FileError, match="no_such"):
        Reconstruction.load(tmp_path / "no_such.h5")
    whole = result().save(tmp_path)
    broken = tmp_path / "broken.h5"
    broken.write_bytes(whole.read_bytes()[:600])
    with pytest.raises(errors.FileError, match="broken"):
        Reconstruction.load(broken)
    with h5py.File(tmp_path / "other.h5", "w") as file:
        file["kspace"] = np.zeros((3, 3))
    with pytest.raises(errors.FileError, match="other"):
        Reconstruction.load(tmp_path / "other.h5")
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FileError, match="folder"):
        result().save(tmp_path / "file" / "below")


def test_a_full_disk_leaves_the_old_result(tmp_path, monkeypatch):
    path = result().save(tmp_path)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    created = h5py.Group.create_dataset

    def full(self, name, **options):
        if name == "std":
            raise OSError(28, "No space left on device")
        return created(self, name, **options)

    monkeypatch.setattr(h5py.Group, "create_dataset", full)
    with pytest.raises(errors.FileError, match="No space left"):
        result().save(tmp_path)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before
    assert Reconstruction.load(path).nfe == 50


def test_metrics_are_per_item_and_those_of_the_field():
    generator = torch.Generator().manual_seed(1)
    truth = torch.rand(3, 1, 24, 20, generator=generator)
    estimate = truth + torch.tensor([0.01, 0.1, 0.3]).view(3, 1, 1, 1)
    for i in range(3):
        one = slice(i, i + 1)
        expected = peak_signal_noise_ratio(estimate[one], truth[one], data_range=1.0)
        assert float(psnr(estimate, truth)[i]) == pytest.approx(float(expected), abs=1e-4)
        assert float(ssim(estimate, truth)[i]) == float(ssim(estimate[one], truth[one])[0])
    assert float(psnr(estimate, truth)[1]) == pytest.approx(20.0, abs=1e-4)
    assert float(nmse(2 * truth, truth)[0]) == pytest.approx(1.0)
    assert float(ssim(truth, truth)[0]) == pytest.approx(1.0)
    turned = torch.polar(truth, torch.full_like(truth, 1.0))
    assert float(psnr(turned, truth.to(torch.complex64))[0]) > 100  # magnitudes are compared


@pytest.mark.parametrize("shape", [(2, 3, 40, 31), (1, 1, 11, 12)])
def test_ssim_is_that_of_torchmetrics(shape):
    generator = torch.Generator().manual_seed(2)
    truth = torch.rand(shape, generator=generator, dtype=torch.float64)
    estimate = truth + 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
    expected = structural_similarity_index_measure(
        estimate, truth, data_range=1.5, reduction="none"
    )
    torch.testing.assert_close(ssim(estimate, truth, 1.5), expected, rtol=1e-12, atol=1e-12)


def test_metrics_of_bands_are_means_over_bands_and_pixels():
    truth = torch.rand(2, 3, 12, 13, generator=torch.Generator().manual_seed(0))
    estimate = truth + torch.tensor([0.01, 0.1, 0.2])[:, None, None]
    decibels, structure = band_quality(estimate, truth)
    torch.testing.assert_close(decibels, torch.tensor([20.0 + 40 + 13.9794] * 2).double() / 3)
    first = ssim(estimate[:1, 1:2], truth[:1, 1:2])
    alone = band_quality(estimate[:1, 1:2], truth[:1, 1:2])[1]
    torch.testing.assert_close(alone, first)
    assert structure.shape == (2,)
    spectra = torch.tensor([[1.0, 0.0], [1.0, 1.0]])[..., None, None].expand(2, 2, 3, 3)
    angles = spectral_angle(spectra, 3 * spectra[:1].expand(2, 2, 3, 3))
    torch.testing.assert_close(angles, torch.tensor([0.0, 45.0]).double(), atol=1e-4, rtol=0)
    with pytest.raises(errors.ShapeError, match="bands"):
        spectral_angle(truth[:, :1], truth[:, :1])


def test_metrics_refuse_what_would_broadcast():
    with pytest.raises(errors.ShapeError, match="estimate"):
        psnr(torch.zeros(1, 1, 12, 12), torch.zeros(1, 3, 12, 12))
    with pytest.raises(errors.ShapeError, match="at least 11"):
        ssim(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8))
    with pytest.raises(errors.ArgumentError, match="peak"):
        psnr(torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 8), peak=0.0)


def test_tables_are_markdown():
    lines = format_table(["a", "long name"], [["1", "2"]]).splitlines()
    assert lines == ["| a | long name |", "| - | --------- |", "| 1 | 2         |"]


def titles(figure):
    return [axes.get_title() for axes in figure.axes if axes.images]


@pytest.mark.parametrize("complex_", [False, True])
def test_pictures_are_called_what_they_are(complex_):
    r = result(complex_)
    figure = r.plot(1, others={"zero-filled": r.mean}, truth=r.samples[0])
    assert titles(figure) == [
        *("zero-filled", "mean of 3", "one sample", "truth", "std of 3", "|mean - truth|"),
    ]
    scales = [image.get_clim() for axes in figure.axes for image in axes.images]
    assert len(set(scales[:4])) == len(set(scales[4:])) == 1  # one of images, one of spread
    assert titles(result(complex_, 1).plot()) == ["one sample"]
    with pytest.raises(errors.ArgumentError, match="item: got 2"):
        r.plot(2)


def test_pictures_have_units_windows_and_the_shape_of_voxels(tmp_path):
    units = Units(offset=-1000, scale=2000, name="HU", spacing=(3.0, 2.0, 1.0))
    r = replace(result(), units=units)
    shown = r.plot(truth=r.mean).axes[0]
    assert shown.images[0].get_clim() == (-160, 240)
    assert shown.get_aspect() == 2.0
    np.testing.assert_allclose(shown.images[0].get_array(), -1000 + 2000 * r.mean[0, 0].numpy())
    assert Reconstruction.load(r.save(tmp_path)).units == units
    lung = replace(r, units=replace(units, window=(-1400.0, 200.0)))
    assert lung.plot().axes[0].images[0].get_clim() == (-1400, 200)
    with pytest.raises(errors.ArgumentError, match="scale"):
        Units(scale=0.0)


def test_notebooks_show_the_result():
    html = result()._repr_html_()
    assert "data:image/png;base64," in html
    assert "<th>solver</th><td>DDS</td>" in html
    assert result().plot()._repr_png_().startswith(b"\x89PNG")
