"""Folders of images, and results written with the geometry of what was loaded."""

import dataclasses
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image

from wellposed import datasets, errors
from wellposed.datasets.images.photos import load_images
from wellposed.datasets.volumes.dicom import read_dicom_series
from wellposed.datasets.volumes.nifti import load_nifti
from wellposed.datasets.volumes.results import write_result
from wellposed.reconstruction import Reconstruction

MEASURED = Path(__file__).parent / "data" / "dicom"
AFFINE = np.array([[0, 0.1, 2.5, -10], [0.8, 0, 0, 20], [0, -1.2, 0.2, 5], [0, 0, 0, 1.0]])


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


# Image folders


def test_folders_of_images_are_batches_in_the_order_of_their_paths(tmp_path):
    (tmp_path / "sub").mkdir()
    stored = {
        "b.png": pixels(6, 8, 3),
        "a.PNG": pixels(6, 8, 3, seed=1),
        "sub/c.bmp": pixels(6, 8, 3),
    }
    for name, values in stored.items():
        Image.fromarray(values).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    found = load_images(str(tmp_path))
    assert [str(f.relative_to(tmp_path)) for f in found.files] == ["a.PNG", "b.png", "sub/c.bmp"]
    assert found.images.dtype == torch.float32
    expected = np.stack([stored[n] for n in ("a.PNG", "b.png", "sub/c.bmp")]) / 255
    np.testing.assert_allclose(found.images.numpy(), expected.transpose(0, 3, 1, 2), rtol=1e-6)


def test_grey_images_have_one_channel_and_sizes_crop(tmp_path):
    first, second = pixels(6, 9), pixels(8, 5, seed=1)
    Image.fromarray(first).save(tmp_path / "a.png")
    Image.fromarray(second).save(tmp_path / "b.png")
    images = load_images(tmp_path, size=4).images.numpy()
    assert images.shape == (2, 1, 4, 4)
    np.testing.assert_allclose(images[0, 0], first[1:5, 2:6] / 255, rtol=1e-6)
    np.testing.assert_allclose(images[1, 0], second[2:6, 0:4] / 255, rtol=1e-6)


def test_folders_that_are_no_batch_are_named(tmp_path):
    with pytest.raises(errors.FileError, match=r"folder: no such folder .*missing'"):
        load_images(tmp_path / "missing")
    with pytest.raises(errors.FileError, match=r"folder: no \.png, .* files in"):
        load_images(tmp_path)
    Image.fromarray(pixels(6, 9)).save(tmp_path / "a.png")
    with pytest.raises(errors.ShapeError, match=r"size: got 7, but a.png has 6 x 9 pixels"):
        load_images(tmp_path, size=7)
    with pytest.raises(errors.ArgumentError, match="size: got 0"):
        load_images(tmp_path, size=0)
    for other in (pixels(6, 8), pixels(6, 9, 3)):
        Image.fromarray(other).save(tmp_path / "b.png")
        with pytest.raises(
            errors.ShapeError, match=r"b.png has .*, accepted: .* as for a.png; set size"
        ):
            load_images(tmp_path)
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:40])
    with pytest.raises(errors.FileError, match=r"cannot read .*b\.png'"):
        load_images(tmp_path)


# Results


def result(*shape, dtype=torch.float32):
    parts = torch.from_numpy(np.random.default_rng(0).standard_normal((*shape, 2)))
    samples = (torch.view_as_complex(parts) if dtype.is_complex else parts[..., 0]).to(dtype)
    return Reconstruction(samples, torch.ones(shape[:2]), nfe=1, seconds=0.0, solver="DDS")


@pytest.fixture
def scan(tmp_path):
    path = tmp_path / "scan.nii"
    nibabel.save(nibabel.Nifti1Image(pixels(5, 4, 3).astype(np.float32), AFFINE), path)
    return load_nifti(path)


@pytest.mark.parametrize("shape", [(4, 1, 1, 3, 4, 5), (4, 3, 1, 4, 5)], ids=["volume", "slices"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_mean_and_std_lie_where_the_nifti_volume_does(shape, dtype, scan, tmp_path):
    made = result(*shape, dtype=dtype)
    files = write_result(made, tmp_path / "new", scan)
    assert files == (tmp_path / "new" / "mean.nii.gz", tmp_path / "new" / "std.nii.gz")
    for file, expected in zip(
        files, (made.mean.abs() if dtype.is_complex else made.mean, made.std), strict=True
    ):
        written = load_nifti(file)
        np.testing.assert_allclose(written.affine, AFFINE, atol=1e-6)
        torch.testing.assert_close(written.volume.flatten(), expected.flatten())


def test_mean_and_std_are_two_series_of_the_study(tmp_path):
    reference = read_dicom_series(MEASURED)
    made = result(3, 1, 1, 3, 96, 96)
    made = dataclasses.replace(made, samples=1000 * made.samples)
    folders = write_result(made, tmp_path, reference)
    written = [read_dicom_series(folder) for folder in folders]
    for series, expected in zip(written, (made.mean, made.std), strict=True):
        np.testing.assert_allclose(series.values, expected[0, 0], atol=0.1)
        assert series.spacing == reference.spacing
        header, source = series.headers[0], reference.headers[0]
        assert header.StudyInstanceUID == source.StudyInstanceUID
        assert header.ImagePositionPatient == source.ImagePositionPatient
    assert [s.headers[0].SeriesDescription for s in written] == ["DDS mean", "DDS std"]
    assert len({s.headers[0].SeriesInstanceUID for s in [*written, reference]}) == 3


def test_results_that_do_not_fit_are_named(scan, tmp_path):
    with pytest.raises(errors.ShapeError, match=r"volume: got shape .*, accepted: \(1, 3, 4, 5\)"):
        write_result(result(2, 2, 1, 3, 4, 5), tmp_path, scan)
    with pytest.raises(
        errors.ArgumentError, match=r"reference: got ndarray .*, accepted: an instance of DicomSer"
    ):
        write_result(result(2, 1, 1, 3, 4, 5), tmp_path, AFFINE)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FileError, match=r"folder: cannot write .*file'"):
        write_result(result(2, 1, 1, 3, 4, 5), tmp_path / "file", scan)
    reference = read_dicom_series(MEASURED)
    made = result(2, 1, 1, 3, 96, 96)
    write_result(made, tmp_path, reference)
    with pytest.raises(errors.FileError, match="contains DICOM files, accepted: a new folder"):
        write_result(made, tmp_path, reference)


def test_both_are_public():
    assert datasets.load_images is load_images
    assert datasets.write_result is write_result
