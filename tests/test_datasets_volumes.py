"""Volumes written back where they came from, and hyperspectral cubes."""

import copy
from pathlib import Path

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import scipy.io
import torch
from pydicom import uid

from wellposed import errors
from wellposed.datasets.images.hyperspectral import load_hyperspectral
from wellposed.datasets.volumes.dicom import DicomSeries, read_dicom_series
from wellposed.datasets.volumes.dicom_writer import write_dicom_series
from wellposed.datasets.volumes.nifti import load_nifti, write_nifti

MEASURED = Path(__file__).parent / "data" / "dicom"


@pytest.fixture(scope="module")
def measured():
    """Three slices of a CT, in Hounsfield units."""
    return read_dicom_series(MEASURED)


def random(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


# DICOM


def test_the_measured_series(measured):
    assert measured.volume.shape == (1, 1, 3, 96, 96)
    assert measured.spacing == pytest.approx((1, 0.78125, 0.78125))
    assert -1000 == measured.values.min() < measured.values.max() < 2000


@pytest.mark.parametrize("scale", [1e-6, 1.0, 3e4])
@pytest.mark.parametrize("offset", [0.0, -1000.3, 12345.678])
def test_values_survive_to_their_quantisation(scale, offset, measured, tmp_path):
    volume = scale * random(1, 1, 3, 96, 96) + offset
    write_dicom_series(tmp_path / "new", torch.from_numpy(volume), measured, "a mean")
    again = read_dicom_series(tmp_path / "new")
    steps = np.ptp(volume) / 65535
    single = np.finfo(np.float32).eps * abs(volume).max()
    np.testing.assert_allclose(again.values, volume[0, 0], atol=0.51 * steps + 2 * single)
    assert again.spacing == measured.spacing


def test_turned_arrays_are_written_turned(measured, tmp_path):
    write_dicom_series(tmp_path, measured.values[:, ::-1], measured, "turned")
    written = read_dicom_series(tmp_path).values
    np.testing.assert_allclose(written, measured.values[:, ::-1], atol=0.03)


def test_constant_volumes_survive(measured, tmp_path):
    write_dicom_series(tmp_path, np.full((3, 96, 96), 0.25), measured, "std")
    np.testing.assert_array_equal(read_dicom_series(tmp_path).values, 0.25)


def test_derived_series_belong_to_patient_and_study_but_are_new(measured, tmp_path):
    written = {
        name: write_dicom_series(tmp_path / name, measured.values + n, measured, f"DDS {name}")
        for n, name in enumerate(("mean", "std"))
    }
    mean, std = ([pydicom.dcmread(file) for file in written[name]] for name in ("mean", "std"))
    for n, (new, old) in enumerate(zip(mean, measured.headers, strict=True)):
        kept = ["PatientID", "StudyInstanceUID", "FrameOfReferenceUID", "Modality", "PixelSpacing"]
        kept += ["ImagePositionPatient", "ImageOrientationPatient", "SliceThickness", "KVP"]
        for name in kept:
            assert new[name].value == old[name].value
        assert new.ImageType == ["DERIVED", "SECONDARY", "AXIAL", "HELIX"]
        assert new.SeriesDescription == "DDS mean"
        assert new.InstanceNumber == n + 1
        source = new.SourceImageSequence[0]
        assert source.ReferencedSOPInstanceUID == old.SOPInstanceUID
        assert source.ReferencedSOPClassUID == old.SOPClassUID == new.SOPClassUID
        assert new.file_meta.MediaStorageSOPInstanceUID == new.SOPInstanceUID
        assert not any(element.tag.is_private for element in new)
    every = [*mean, *std, *measured.headers]
    assert len({h.SOPInstanceUID for h in every}) == 9
    assert len({h.SeriesInstanceUID for h in every}) == 3
    assert all(uid.UID(h.SOPInstanceUID).is_valid for h in every)


def test_numbers_fit_their_sixteen_characters(measured, tmp_path):
    """The standard's limit, which readers other than pydicom may insist on."""
    (file, *_) = write_dicom_series(tmp_path, 1e3 * random(3, 96, 96) / 7, measured, "mean")
    content = file.read_bytes()
    header = pydicom.dcmread(file)
    for name in ("RescaleSlope", "RescaleIntercept"):
        text = str(header[name].value)
        assert len(text) <= 16
        assert text.encode() in content


def test_what_the_pixels_said_is_not_kept(measured, tmp_path):
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in MEASURED.iterdir()]
    headers.sort(key=lambda header: header.ImagePositionPatient[2])
    for header in headers:
        header.SmallestImagePixelValue, header.PixelPaddingValue = 0, 63536
        header.add_new(0x00091001, "LO", "private")
        header.file_meta.TransferSyntaxUID = uid.JPEGLosslessSV1
    reference = DicomSeries(measured.values, measured.spacing, headers)
    files = write_dicom_series(tmp_path, random(3, 96, 96), reference, "mean")
    new = pydicom.dcmread(files[0])
    assert "SmallestImagePixelValue" not in new
    assert "PixelPaddingValue" not in new
    assert 0x00091001 not in new
    assert new.file_meta.TransferSyntaxUID == uid.ExplicitVRLittleEndian
    pixels = np.stack([pydicom.dcmread(file).pixel_array for file in files])
    assert (pixels.min(), pixels.max()) == (0, 65535)
    assert headers[0].SmallestImagePixelValue == 0  # the reference is left alone


def test_volumes_that_are_not_the_series_are_named(measured, tmp_path):
    def write(volume, description="mean"):
        write_dicom_series(tmp_path / "new", volume, measured, description)

    with pytest.raises(errors.ShapeError, match=r"got shape \(3, 96, 95\), accepted: \(3, 96, 96"):
        write(random(3, 96, 95))
    with pytest.raises(errors.DtypeError, match=r"got torch\.complex128, accepted: real values"):
        write(random(3, 96, 96) + 0j)
    with pytest.raises(errors.NonFiniteError, match=r"volume: 27648 of 27648 values are NaN"):
        write(np.full((3, 96, 96), np.nan))
    for text in ("", "x" * 65, "a\\b", "ä", "a\nb"):
        with pytest.raises(errors.ArgumentError, match=r"description: got .*, accepted: 1 to 64"):
            write(measured.values, text)
    assert not (tmp_path / "new").exists()
    write(measured.values)
    with pytest.raises(
        errors.FileError, match=r"folder: .*new' contains DICOM files, accepted: a new"
    ):
        write(measured.values)
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FileError, match=r"folder: cannot write .*file'"):
        write_dicom_series(tmp_path / "file", measured.values, measured, "mean")


@pytest.mark.parametrize("degrees", [-20.0, 5.0])
def test_a_tilted_gantry_is_refused(degrees, tmp_path):
    """Slices turned about the row, but stacked along the table: a sheared volume."""
    angle = np.deg2rad(degrees)
    for n, file in enumerate(sorted(MEASURED.iterdir())):
        header = pydicom.dcmread(file)
        header.ImageOrientationPatient = [1, 0, 0, 0, np.cos(angle), np.sin(angle)]
        header.ImagePositionPatient = [0, 0, 10 * n]
        header.save_as(tmp_path / file.name)
    message = f"sheared by {abs(degrees):.3g} degrees .a tilted gantry.*stacked along their normal"
    with pytest.raises(errors.FileError, match=message):
        read_dicom_series(tmp_path)


# NIfTI

AFFINE = np.array([[0, 0.1, 2.5, -10], [0.8, 0, 0, 20], [0, -1.2, 0.2, 5], [0, 0, 0, 1.0]])


def write_scan(path, shape=(5, 4, 3), dtype=np.int16, affine=AFFINE):
    stored = (100 * random(*shape)).astype(dtype)
    image = nibabel.Nifti1Image(stored, affine)
    image.header.set_xyzt_units("mm", "sec")
    image.header["descrip"] = b"a scan"
    image.header["cal_min"], image.header["cal_max"] = -50, 200
    nibabel.save(image, path)
    return stored


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
@pytest.mark.parametrize("shape", [(5, 4, 3), (5, 4, 3, 2), (5, 4), (5, 4, 1)])
def test_nifti_round_trips_with_its_geometry(name, shape, tmp_path):
    stored = write_scan(tmp_path / name, shape)
    scan = load_nifti(str(tmp_path / name))
    assert scan.volume.dtype == torch.float32
    assert scan.volume.shape == (1, *(*shape, 1, 1)[:4][::-1])
    result = scan.volume * 0.37 - 2
    write_nifti(tmp_path / f"new_{name}", result, scan)
    again = nibabel.load(tmp_path / f"new_{name}")
    values = np.asarray(again.dataobj)
    assert values.dtype == np.float32
    np.testing.assert_allclose(values.squeeze(), 0.37 * stored.squeeze() - 2, rtol=1e-5)
    np.testing.assert_allclose(again.affine, AFFINE, atol=1e-6)
    assert again.header.get_xyzt_units() == ("mm", "sec")
    assert bytes(again.header["descrip"]).startswith(b"a scan")
    # Viewers would show the result by the reference's grey levels.
    assert again.header["cal_min"] == again.header["cal_max"] == 0
    assert scan.header["cal_max"] == 200
    torch.testing.assert_close(load_nifti(tmp_path / f"new_{name}").volume, result)


def test_axes_and_spacing(tmp_path):
    stored = write_scan(tmp_path / "a.nii")
    scan = load_nifti(tmp_path / "a.nii")
    assert scan.volume[0, 0, 2, 1, 4] == stored[4, 1, 2]
    lengths = np.linalg.norm(AFFINE[:3, :3], axis=0)
    assert scan.spacing == pytest.approx(tuple(lengths[::-1]))


def test_scaled_values_are_read_scaled_and_written_plain(tmp_path):
    scan = nibabel.Nifti1Image(np.arange(24, dtype=np.int16).reshape(2, 3, 4), AFFINE)
    scan.header.set_slope_inter(2.0, 1.0)
    nibabel.save(scan, tmp_path / "a.nii")
    expected = np.asarray(nibabel.load(tmp_path / "a.nii").dataobj)
    loaded = load_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(loaded.volume[0, 0].numpy(), expected.T)
    write_nifti(tmp_path / "b.nii", loaded.volume[0, 0].numpy(), loaded)
    np.testing.assert_array_equal(load_nifti(tmp_path / "b.nii").volume, loaded.volume)


def test_complex_volumes_stay_complex_and_are_written_as_magnitudes(tmp_path):
    stored = (random(5, 4, 3) + 1j * random(5, 4, 3, seed=1)).astype(np.complex64)
    nibabel.save(nibabel.Nifti1Image(stored, AFFINE), tmp_path / "a.nii")
    scan = load_nifti(tmp_path / "a.nii")
    np.testing.assert_array_equal(scan.volume[0, 0].numpy(), stored.T)
    with pytest.raises(errors.DtypeError, match=r"volume: got torch\.complex64, accepted: real"):
        write_nifti(tmp_path / "b.nii", scan.volume, scan)
    write_nifti(tmp_path / "b.nii", scan.volume.abs(), scan)
    written = load_nifti(tmp_path / "b.nii").volume[0, 0].numpy()
    np.testing.assert_allclose(written, abs(stored.T), rtol=1e-6)


def test_broken_nifti_files_are_named(tmp_path):
    write_scan(tmp_path / "a.nii", dtype=np.float32)
    content = (tmp_path / "a.nii").read_bytes()
    for keep in (0.0, 0.6, 0.95):
        (tmp_path / "cut.nii").write_bytes(content[: int(keep * len(content))])
        with pytest.raises(errors.FileError, match=r"cannot read .*cut\.nii' as NIfTI"):
            load_nifti(tmp_path / "cut.nii")
    with pytest.raises(errors.FileError, match=r"no such file .*missing\.nii"):
        load_nifti(tmp_path / "missing.nii")
    bad = np.array(content)
    (tmp_path / "nan.nii").write_bytes(bad.tobytes()[:-4] + np.float32(np.nan).tobytes())
    with pytest.raises(errors.FileError, match=r"nan\.nii has 1 NaN or infinite values of 60"):
        load_nifti(tmp_path / "nan.nii")
    write_scan(tmp_path / "five.nii", (2, 2, 2, 2, 2))
    with pytest.raises(errors.FileError, match=r"five\.nii has int16 with 5 axes, accepted: num"):
        load_nifti(tmp_path / "five.nii")
    flat = nibabel.load(tmp_path / "a.nii")
    flat.header["srow_y"] = 0
    flat.header.structarr["qform_code"] = 0
    header = flat.header.binaryblock
    (tmp_path / "flat.nii").write_bytes(header + content[len(header) :])
    with pytest.raises(errors.FileError, match=r"the affine of flat\.nii cannot be inverted"):
        load_nifti(tmp_path / "flat.nii")


def test_nifti_results_that_do_not_fit_are_named(tmp_path):
    write_scan(tmp_path / "a.nii")
    scan = load_nifti(tmp_path / "a.nii")
    with pytest.raises(errors.ShapeError, match=r"got shape \(3, 4\), accepted: \(1, 3, 4, 5\)"):
        write_nifti(tmp_path / "b.nii", random(3, 4), scan)
    with pytest.raises(errors.ArgumentError, match=r"path: got '.*b.img', accepted: .nii or .nii"):
        write_nifti(tmp_path / "b.img", scan.volume, scan)
    with pytest.raises(errors.FileError, match=r"path: cannot write .*no/b.nii"):
        write_nifti(tmp_path / "no" / "b.nii", scan.volume, scan)


# Hyperspectral


def cube(height=4, width=6, bands=5):
    return np.random.default_rng(0).integers(0, 5000, (height, width, bands)).astype(np.uint16)


def write_cube(path, **content):
    scipy.io.savemat(path, content)
    return path


def check(loaded, stored):
    assert loaded.image.dtype == torch.float32
    assert loaded.image.min() >= 0
    assert loaded.image.max() == 1
    values = loaded.image[0].permute(1, 2, 0).numpy() * loaded.scale + loaded.offset
    np.testing.assert_allclose(values, stored, rtol=1e-5, atol=1e-3)


def test_cubes_and_matrices_say_the_same(tmp_path):
    """Pixels of the matrix run down the columns, as MATLAB's reshape has it."""
    stored = cube()
    matrix = stored.reshape(-1, 5, order="F").T
    check(load_hyperspectral(str(write_cube(tmp_path / "cube.mat", X=stored))), stored)
    path = write_cube(tmp_path / "matrix.mat", Y=matrix, nRow=4, nCol=6, A=np.ones((3, 24)))
    check(load_hyperspectral(path), stored)
    path = write_cube(tmp_path / "bare.mat", Y=matrix)
    check(load_hyperspectral(path, size=(4, 6)), stored)
    square = cube(5, 5, 7)
    path = write_cube(tmp_path / "square.mat", V=square.reshape(-1, 7, order="F").T)
    check(load_hyperspectral(path), square)


def test_cubes_of_new_mat_files(tmp_path):
    stored = cube()
    with h5py.File(tmp_path / "a.mat", "w") as file:
        file["X"] = stored.T
    check(load_hyperspectral(tmp_path / "a.mat"), stored)


@pytest.mark.parametrize("scale", [1e-300, 1.0, 1e300])
def test_values_beyond_single_precision_are_scaled(scale, tmp_path):
    stored = scale * (cube() - 100.0)
    loaded = load_hyperspectral(write_cube(tmp_path / "a.mat", X=stored))
    expected = (stored - stored.min()) / np.ptp(stored)
    np.testing.assert_allclose(loaded.image[0].permute(1, 2, 0), expected, atol=1e-6)
    assert (loaded.scale, loaded.offset) == (np.ptp(stored), stored.min())


def test_constant_cubes_are_one(tmp_path):
    loaded = load_hyperspectral(write_cube(tmp_path / "a.mat", X=np.full((2, 3, 4), 7)))
    assert loaded.scale == 7 and bool((loaded.image == 1).all())


def test_keys_choose_and_the_scale_is_one_for_all_bands(tmp_path):
    path = write_cube(tmp_path / "a.mat", small=cube(2, 3, 4), large=cube())
    check(load_hyperspectral(path, "small"), cube(2, 3, 4))
    check(load_hyperspectral(path), cube())
    assert load_hyperspectral(path).scale == cube().max()
    below = cube() - 100.0
    check(load_hyperspectral(write_cube(tmp_path / "b.mat", X=below)), below)


def test_cubes_that_do_not_fit_are_named(tmp_path):
    matrix = write_cube(tmp_path / "a.mat", Y=np.ones((5, 24)))
    with pytest.raises(errors.ShapeError, match=r"size: got 4 x 4, but a\.mat has 24 pixels"):
        load_hyperspectral(matrix)
    with pytest.raises(errors.ShapeError, match=r"size: got 5 x 5, but a\.mat has 24 pixels"):
        load_hyperspectral(matrix, size=(5, 5))
    for value in (0.0, -3.0):
        stored = write_cube(tmp_path / "flat.mat", X=np.full((2, 3, 4), value))
        message = f"flat.mat has values from {value:g} to {value:g}, accepted: values that"
        with pytest.raises(errors.FileError, match=message):
            load_hyperspectral(stored)
    path = write_cube(tmp_path / "b.mat", X=cube(), line=np.ones(9), text="a")
    with pytest.raises(errors.ShapeError, match=r"size: got \(6, 4\), but b\.mat has \(4, 6\)"):
        load_hyperspectral(path, size=(6, 4))
    for key in ("line", "text", "Y"):
        with pytest.raises(errors.FileError, match=f"key: b.mat has no '{key}', .*: X"):
            load_hyperspectral(path, key)
    with pytest.raises(errors.FileError, match=r"has no None, .*: none"):
        load_hyperspectral(write_cube(tmp_path / "c.mat", text="a"))
    spoilt = cube().astype(float)
    spoilt[1, 2, 3] = np.inf
    with pytest.raises(
        errors.FileError, match=r"'X' in d\.mat has 1 NaN or infinite values of 120"
    ):
        load_hyperspectral(write_cube(tmp_path / "d.mat", X=spoilt))
    (tmp_path / "e.mat").write_bytes(path.read_bytes()[:300])
    with pytest.raises(errors.FileError, match=r"cannot read .*e\.mat' as MAT"):
        load_hyperspectral(tmp_path / "e.mat")


@pytest.mark.parametrize(("unit", "size"), [("micron", 0.05), ("meter", 5e4), ("mm", 50.0)])
def test_lengths_are_in_millimetres_whatever_the_unit(unit, size, tmp_path):
    image = nibabel.Nifti1Image(np.ones((5, 4, 3), np.float32), np.diag([50, 50, 50, 1]))
    image.header.set_xyzt_units(unit, "sec")
    nibabel.save(image, tmp_path / "a.nii")
    scan = load_nifti(tmp_path / "a.nii")
    assert scan.spacing == pytest.approx((size,) * 3)
    write_nifti(tmp_path / "b.nii", scan.volume, scan)
    again = load_nifti(tmp_path / "b.nii")
    assert again.header.get_xyzt_units() == (unit, "sec")
    np.testing.assert_allclose(again.affine, scan.affine, rtol=1e-6)


@pytest.mark.parametrize("codes", [(1, 1), (4, 1), (0, 1), (2, 0)])
def test_a_slab_keeps_both_forms_and_their_codes(codes, tmp_path):
    sform = np.array([[-2.0, 0, 0, 7], [0, 0, 3, -4], [0, 1, 0, 5], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.ones((5, 4, 3), np.float32), sform)
    image.set_sform(sform, codes[0])
    image.set_qform(sform + np.eye(4, k=3), codes[1])
    nibabel.save(image, tmp_path / "a.nii")
    scan = load_nifti(tmp_path / "a.nii").cut(0, 1, 3)
    write_nifti(tmp_path / "b.nii", scan.volume, scan)
    again = nibabel.load(tmp_path / "b.nii").header
    assert (int(again["sform_code"]), int(again["qform_code"])) == codes
    wholes = sform, sform + np.eye(4, k=3)
    forms = zip(codes, (again.get_sform, again.get_qform), wholes, strict=True)
    for code, form, whole in forms:
        if code:
            expected = whole.copy()
            expected[:3, 3] += whole[:3, 2]
            np.testing.assert_allclose(form(), expected, atol=1e-5)


def test_an_sform_of_zeros_counts_as_absent(tmp_path):
    write_scan(tmp_path / "a.nii")
    image = nibabel.load(tmp_path / "a.nii")
    content = bytearray((tmp_path / "a.nii").read_bytes())
    content[280:328] = bytes(48)
    (tmp_path / "b.nii").write_bytes(content)
    scan = load_nifti(tmp_path / "b.nii")
    header = image.header
    expected = header.get_qform() if header["qform_code"] else header.get_base_affine()
    np.testing.assert_allclose(scan.affine, expected)
    write_nifti(tmp_path / "c.nii", scan.volume, scan)
    np.testing.assert_allclose(load_nifti(tmp_path / "c.nii").affine, expected, atol=1e-5)


def test_nan_becomes_what_is_asked_for(tmp_path):
    values = np.ones((3, 3, 3), np.float32)
    values[1, 1, 1] = np.nan
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4)), tmp_path / "a.nii")
    assert load_nifti(tmp_path / "a.nii", nan=-5).volume[0, 0, 1, 1, 1] == -5
    with pytest.raises(errors.ArgumentError, match="nan: got inf"):
        load_nifti(tmp_path / "a.nii", nan=np.inf)


def test_the_sense_of_grey_levels_and_the_window_are_kept(measured, tmp_path):
    headers = [copy.deepcopy(header) for header in measured.headers]
    for header in headers:
        header.PhotometricInterpretation, header.PresentationLUTShape = "MONOCHROME1", "INVERSE"
        header.WindowCenter, header.WindowWidth, header.VOILUTFunction = 40, 400, "SIGMOID"
    reference = DicomSeries(measured.values, measured.spacing, headers)
    files = write_dicom_series(tmp_path / "mean", measured.values, reference, "mean")
    new = pydicom.dcmread(files[0])
    assert (new.PhotometricInterpretation, new.PresentationLUTShape) == ("MONOCHROME1", "INVERSE")
    assert (new.WindowCenter, new.WindowWidth, new.VOILUTFunction) == (40, 400, "SIGMOID")
    np.testing.assert_allclose(
        read_dicom_series(tmp_path / "mean").values, measured.values, atol=0.03
    )
    files = write_dicom_series(tmp_path / "std", measured.values, reference, "std", window=(0, 8))
    new = pydicom.dcmread(files[0])
    assert (new.WindowCenter, new.WindowWidth, "VOILUTFunction" in new) == (4, 8, False)


def test_a_series_that_cannot_be_written_leaves_nothing(measured, tmp_path, monkeypatch):
    saved = pydicom.dataset.Dataset.save_as

    def full(self, file, **options):
        if Path(file).name == "0003.dcm":
            raise OSError(28, "No space left on device")
        saved(self, file, **options)

    monkeypatch.setattr(pydicom.dataset.Dataset, "save_as", full)
    with pytest.raises(errors.FileError, match="No space left"):
        write_dicom_series(tmp_path / "new", measured.values, measured, "mean")
    assert not list((tmp_path / "new").iterdir())
