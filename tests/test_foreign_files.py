"""The test files of pydicom and nibabel: each is read as they read it, or refused by name."""

import warnings
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest

from wellposed import errors
from wellposed.datasets.volumes.dicom import read_dicom_series
from wellposed.datasets.volumes.nifti import load_nifti, write_nifti

DICOM = Path(pydicom.__file__).parent / "data" / "test_files"
VOLUMES = Path(nibabel.__file__).parent / "tests" / "data"
FORMS = (".nii", ".gz", ".mnc", ".PAR", ".mgz", ".HEAD", ".hdr")

READ = """693_J2KI CT_small J2K_pixelrep_mismatch MR_small MR_small_RLE MR_small_bigendian
MR_small_expb MR_small_implicit MR_small_jp2klossless MR_small_jpeg_ls_lossless MR_small_padded
examples_overlay rtdose_1frame rtdose_expb_1frame rtdose_rle_1frame"""
"""DICOM files that must be read; the others have no place in space, are in colour or damaged."""


def files(folder, suffixes):
    found = sorted(p for p in folder.rglob("*") if p.is_file() and p.suffix in suffixes)
    return [pytest.param(p, id=p.name) for p in found if "TINY_ALPHA" not in p.parts]


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("path", files(DICOM, (".dcm", "")))
def test_dicom_files_are_read_as_pydicom_reads_them_or_refused(path):
    try:
        series = read_dicom_series(path)
    except errors.FileError as error:
        assert path.name in str(error)
        assert path.stem not in READ.split()
        return
    header = pydicom.dcmread(path, force=True)
    slope, shift = float(header.get("RescaleSlope", 1)), float(header.get("RescaleIntercept", 0))
    expected = header.pixel_array * slope + shift
    np.testing.assert_allclose(series.values.squeeze(), expected, rtol=1e-6)


def test_a_directory_of_files_is_skipped(tmp_path):
    for name in ("CT_small.dcm", "dicomdirtests/DICOMDIR"):
        (tmp_path / Path(name).name).write_bytes((DICOM / name).read_bytes())
    assert read_dicom_series(tmp_path).values.shape == (1, 128, 128)


@pytest.mark.parametrize("path", files(VOLUMES, FORMS))
def test_volumes_are_read_as_nibabel_reads_them_or_refused(path, tmp_path):
    try:
        found = load_nifti(path, nan=0.0)
    except errors.FileError as error:
        assert path.name in str(error)
        assert path.suffix in (".PAR", ".hdr") or path.stem.startswith(("bad_", "row_major"))
        return
    image = nibabel.load(path)
    values = np.nan_to_num(image.get_fdata()).squeeze()
    if path.suffix == ".mnc" and values.ndim == 4:
        values = np.moveaxis(values, 0, -1)
    np.testing.assert_allclose(found.volume[0].numpy().T.squeeze(), values, rtol=1e-6)
    np.testing.assert_array_equal(found.affine, image.affine)
    write_nifti(tmp_path / "a.nii.gz", found.volume, found)
    again = load_nifti(tmp_path / "a.nii.gz")
    np.testing.assert_array_equal(again.volume, found.volume)
    np.testing.assert_allclose(again.affine, found.affine, atol=1e-5)
    if isinstance(image.header, nibabel.Nifti1Header):
        for name in ("sform_code", "qform_code", "xyzt_units"):
            assert again.header[name] == image.header[name]
