"""HTC2022 and data exchange files: measured extracts, and files of their layout written here."""

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import scipy.io
import torch

from wellposed import errors
from wellposed.datasets.ct.htc import load_htc2022
from wellposed.datasets.ct.mat import read_mat
from wellposed.datasets.ct.tomopy import load_tomopy
from wellposed.datasets.files import read_array
from wellposed.datasets.mri.fastmri import load_fastmri

DATA = Path(__file__).parent / "data"
HTC = DATA / "htc2022" / "htc2022_ta_full.mat"
TOOTH = DATA / "tomopy_tooth_row.h5"


def fan_fbp(sinogram, fan, n, pixel_size):
    """Filtered back-projection of a full turn, pixel by pixel (Kak and Slaney, section 3.4)."""
    views, bins = sinogram.shape
    scale = fan.source_distance / fan.detector_distance
    du, k = fan.bin_size * scale, np.arange(-bins + 1, bins)
    odd = np.where(k % 2, -1 / (np.pi * np.where(k == 0, 1, k)) ** 2, 0)
    ramp = np.where(k == 0, 0.25, odd) / du**2
    u = (np.arange(bins) - (bins - 1) / 2) * du
    weighted = sinogram * fan.source_distance / np.hypot(fan.source_distance, u)
    filtered = np.stack([np.convolve(row, ramp)[bins - 1 : 2 * bins - 1] for row in weighted]) * du
    x = (np.arange(n) - (n - 1) / 2) * pixel_size
    image = np.zeros((n, n))
    for row, angle in zip(filtered, np.deg2rad(fan.angles.numpy()), strict=True):
        along = x * np.cos(angle) - x[:, None] * np.sin(angle)
        depth = fan.source_distance - x * np.sin(angle) - x[:, None] * np.cos(angle)
        seen = fan.source_distance * along / depth
        image += np.interp(seen, u, row) * (fan.source_distance / depth) ** 2
    return image * np.pi / views


def test_the_measured_scan_and_its_geometry():
    """Our geometry reconstructs what the organisers' own did: values, orientation, scale."""
    scan = load_htc2022(HTC)
    fan = scan.geometry
    assert scan.sinogram.shape == (1, 1, 181, 280)
    assert scan.sinogram.dtype == scan.fbp.dtype == torch.float32
    assert (fan.source_distance, fan.detector_distance) == (410.66, 553.74)
    assert (fan.bins, fan.bin_size) == (280, 0.4)
    assert fan.pixel_size == pytest.approx(0.4 * 410.66 / 553.74)
    torch.testing.assert_close(fan.angles, torch.arange(181, dtype=torch.float64) * 2)
    theirs = scan.fbp[0, 0].reshape(64, 4, 64, 4).mean((1, 3)).numpy()
    ours = fan_fbp(scan.sinogram[0, 0].numpy(), fan, 64, 4 * fan.pixel_size)
    assert np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > 0.97
    inside = scan.segmentation[0, 0].reshape(64, 4, 64, 4).mean((1, 3)).numpy() == 1
    assert inside.sum() > 500
    # Acrylic at 45 kV; the values themselves, in 1/mm.
    assert ours[inside].mean() == pytest.approx(theirs[inside].mean(), rel=0.02)
    assert 0.02 < theirs[inside].mean() < 0.05


def parameters(**changes):
    known = {
        "distanceSourceOrigin": 400.0,
        "distanceSourceDetector": 500.0,
        "distanceUnit": "mm",
        "angles": np.arange(4) * 90.0,
        "pixelSizePost": 0.2,
        "numDetectorsPost": 6,
    }
    return {k: v for k, v in {**known, **changes}.items() if v is not None}


def write_scan(path, name="CtDataLimited", sinogram=None, **changes):
    sinogram = np.arange(24.0).reshape(4, 6) if sinogram is None else sinogram
    struct = {"type": "2d", "sinogram": sinogram, "parameters": parameters(**changes)}
    scipy.io.savemat(path, {name: struct})
    return path


def write_new_mat(path, content):
    """The layout of MATLAB 7.3: groups as structs, arrays transposed, characters as numbers."""

    def put(group, name, value):
        if isinstance(value, dict):
            inner = group.create_group(name)
            for key, each in value.items():
                put(inner, key, each)
        elif isinstance(value, str):
            group[name] = np.array([[ord(c)] for c in value], np.uint16)
            group[name].attrs["MATLAB_class"] = np.bytes_("char")
        else:
            group[name] = np.atleast_2d(value).T
            group[name].attrs["MATLAB_class"] = np.bytes_("double")

    with h5py.File(path, "w", userblock_size=512) as file:
        for name, value in content.items():
            put(file, name, value)
    return path


def test_limited_scans_without_reconstructions(tmp_path):
    scan = load_htc2022(str(write_scan(tmp_path / "a.mat")))
    np.testing.assert_array_equal(scan.sinogram[0, 0].numpy(), np.arange(24.0).reshape(4, 6))
    assert scan.fbp is scan.segmentation is None
    assert scan.geometry.pixel_size == pytest.approx(0.16)


def test_scans_of_a_single_view(tmp_path):
    path = write_scan(tmp_path / "a.mat", sinogram=np.arange(6.0)[None], angles=np.array(30.0))
    scan = load_htc2022(path)
    assert scan.sinogram.shape == (1, 1, 1, 6)
    assert scan.geometry.angles.tolist() == [30]


def test_both_versions_of_mat_files_say_the_same(tmp_path):
    content = {
        "struct": {"text": "mm", "deep": {"number": 2.5}, "row": np.arange(5.0)},
        "image": np.arange(6.0).reshape(2, 3),
        "cube": np.arange(24.0).reshape(2, 3, 4),
    }
    scipy.io.savemat(tmp_path / "old.mat", content)
    old = read_mat(tmp_path / "old.mat")
    new = read_mat(write_new_mat(tmp_path / "new.mat", content))
    np.testing.assert_equal(old, content)
    np.testing.assert_equal(new, content)
    scan = {"CtDataFull": {"sinogram": np.ones((4, 6)), "parameters": parameters()}}
    loaded = load_htc2022(write_new_mat(tmp_path / "scan.mat", scan))
    assert loaded.sinogram.shape == (1, 1, 4, 6)


@pytest.mark.parametrize("kind", ["full", "limited"])
def test_images_beside_the_test_scans_are_found(kind, tmp_path):
    path = write_scan(tmp_path / f"htc2022_01a_{kind}.mat")
    for name, value in (("recon_fbp", 0.32), ("recon_fbp_seg", 1.0)):
        scipy.io.savemat(tmp_path / f"htc2022_01a_{name}.mat", {"image": np.full((2, 2), value)})
    scan = load_htc2022(path)
    assert scan.segmentation.unique().tolist() == [1]
    assert scan.fbp.unique().tolist() == pytest.approx([0.32 / 0.16])


@pytest.mark.parametrize("names", [("real", "imag"), ("r", "i"), ("Re", "Im")])
def test_compounds_are_complex_numbers(names, tmp_path):
    values = np.arange(24.0).reshape(1, 2, 3, 4) * (1 - 2j)
    stored = np.empty(values.shape, [(name, "f8") for name in names])
    stored[names[0]], stored[names[1]] = values.real, values.imag
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["kspace"] = stored
    with h5py.File(tmp_path / "a.mat", "w", userblock_size=512) as file:
        file["kspace"] = stored.T
    np.testing.assert_array_equal(read_array(tmp_path / "a.h5"), values)
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat"), values)
    np.testing.assert_array_equal(read_mat(tmp_path / "a.mat")["kspace"], values[0])
    np.testing.assert_array_equal(load_fastmri(tmp_path / "a.h5").kspace.numpy(), values)


def test_dead_pixels_are_interpolated(tmp_path):
    whole = load_tomopy(write_exchange(tmp_path / "a.h5"))
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        file["exchange/data_white"][:, 1, 2] = 0
    with pytest.warns(UserWarning, match=r"a\.h5, 1 of 4 detector pixels .* interpolated"):
        scan = load_tomopy(tmp_path / "a.h5", row=1)
    expected = whole.transmission[1:2].clone()
    expected[..., 2] = (expected[..., 1] + expected[..., 3]) / 2
    torch.testing.assert_close(scan.transmission, expected)


BROKEN_SCANS = {
    "name": (
        dict(name="Scan"),
        "a.mat contains Scan, accepted: a struct CtDataFull or CtDataLimited",
    ),
    "lacks": (dict(angles=None, distanceUnit=None), "in a.mat have no angles, distanceUnit"),
    "unit": (dict(distanceUnit="cm"), "a.mat has distances in 'cm', accepted: 'mm'"),
    "bins": (dict(numDetectorsPost=7), r"in a.mat is \(4, 6\), accepted: \(4, 7\) as in"),
    "views": (dict(angles=np.arange(5.0)), r"in a.mat is \(4, 6\), accepted: \(5, 6\) as in"),
    "NaN": (dict(sinogram=np.full((4, 6), np.nan)), "'sinogram' in a.mat has 24 NaN or inf"),
    "angle": (dict(angles=np.array([0, 1, 2, np.nan])), "'angles' in a.mat has 1 NaN or inf"),
    "far": (dict(distanceSourceDetector=300.0), "a.mat has distances of 400.0 mm from source"),
    "bin": (dict(pixelSizePost=0.0), "and bins of 0.0 mm, accepted: positive"),
}


@pytest.mark.parametrize("kind", BROKEN_SCANS)
def test_broken_scans_are_named(kind, tmp_path):
    changes, message = BROKEN_SCANS[kind]
    with pytest.raises(errors.FileError, match=message):
        load_htc2022(write_scan(tmp_path / "a.mat", **changes))


def test_truncated_scans_and_reconstructions_are_named(tmp_path):
    for file in HTC.parent.iterdir():
        shutil.copy(file, tmp_path)
    for name in ("htc2022_ta_full_recon_fbp_seg.mat", HTC.name):  # the scan is read first
        content = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content[: len(content) // 2])
        with pytest.raises(errors.FileError, match=f"cannot read .*{name}' as MAT"):
            load_htc2022(tmp_path / HTC.name)
    with pytest.raises(errors.FileError, match=r"no such file .*missing\.mat"):
        load_htc2022(tmp_path / "missing.mat")
    write_scan(tmp_path / "a.mat")
    scipy.io.savemat(tmp_path / "a_recon_fbp.mat", {"a": np.ones((2, 2)), "b": np.ones((2, 2))})
    with pytest.raises(
        errors.FileError, match=r"a_recon_fbp\.mat contains 2 images, accepted: one image"
    ):
        load_htc2022(tmp_path / "a.mat")


# Data exchange

VIEWS, ROWS, BINS = 5, 3, 4


def attenuation():
    return np.random.default_rng(0).uniform(0.1, 2, (VIEWS, ROWS, BINS))


def write_exchange(path, unit="degrees", **changes):
    """Counts of beams and dark currents that differ by pixel, frame by frame about their mean."""
    rng = np.random.default_rng(1)
    dark = rng.uniform(10, 20, (ROWS, BINS))
    white = dark + rng.uniform(900, 1100, (ROWS, BINS))
    content = {
        "data": dark + (white - dark) * np.exp(-attenuation()),
        "data_white": np.stack([white - 5, white + 5]),
        "data_dark": np.stack([dark - 2, dark, dark + 2]),
        "theta": np.arange(VIEWS) * 36.0,
        **changes,
    }
    with h5py.File(path, "w") as file:
        for name, value in content.items():
            if value is not None:
                file[f"exchange/{name}"] = value
        if unit is not None and "exchange/theta" in file:
            file["exchange/theta"].attrs["units"] = unit
    return path


def test_line_integrals_come_corrected_by_row(tmp_path):
    scan = load_tomopy(str(write_exchange(tmp_path / "a.h5")))
    truth = attenuation().swapaxes(0, 1)[:, None]
    assert scan.sinogram.dtype == torch.float32
    np.testing.assert_allclose(scan.sinogram.numpy(), truth, rtol=1e-5)
    np.testing.assert_allclose(scan.transmission.numpy(), np.exp(-truth), rtol=1e-5)
    assert scan.angles.tolist() == [0, 36, 72, 108, 144]


def test_one_row_is_that_of_all(tmp_path):
    path = write_exchange(tmp_path / "a.h5")
    assert torch.equal(load_tomopy(path, row=2).sinogram, load_tomopy(path).sinogram[2:])
    with pytest.raises(errors.ArgumentError, match="row: got 3, accepted: an integer from 0 to 2"):
        load_tomopy(path, row=3)


@pytest.mark.parametrize(
    "unit", ["radians", "rad", b"radian", np.array([b"radians"]), np.array(["rad"], object)]
)
def test_radians_become_degrees(unit, tmp_path):
    path = write_exchange(tmp_path / "a.h5", unit, theta=np.arange(VIEWS) * np.pi / 5)
    torch.testing.assert_close(
        load_tomopy(path).angles, torch.arange(VIEWS, dtype=torch.float64) * 36
    )


@pytest.mark.parametrize("unit", [None, "deg", b"Degree", "degrees ", np.array([b"degrees"])])
def test_other_angles_are_degrees(unit, tmp_path):
    assert load_tomopy(write_exchange(tmp_path / "a.h5", unit)).angles[1] == 36


@pytest.mark.parametrize("unit", ["", "gradians", "radius", np.array([b"turns"]), 3])
def test_other_units_are_refused(unit, tmp_path):
    message = "'theta' in a.h5 has the unit '.*', accepted: deg, degree, degrees, rad, radian, rad"
    with pytest.raises(errors.FileError, match=message):
        load_tomopy(write_exchange(tmp_path / "a.h5", unit))


def test_the_measured_tooth_turns_about_its_axis():
    """Parallel projections keep the mass; their centre of mass is a sinusoid about the axis."""
    scan = load_tomopy(TOOTH)
    assert scan.sinogram.shape == (1, 1, 91, 640)
    views = scan.sinogram[0, 0].double().numpy()
    mass = views.sum(1)
    assert mass.std() < 0.01 * mass.mean()
    theta = np.deg2rad(scan.angles.numpy())
    waves = np.stack([np.ones_like(theta), np.cos(theta), np.sin(theta)], 1)
    (axis, *_), *_ = np.linalg.lstsq(waves, views @ np.arange(640) / mass)
    assert axis == pytest.approx(296, abs=0.5)  # as tomopy's documentation has it


def test_opaque_pixels_are_counted_and_clipped_if_asked(tmp_path):
    data = np.full((VIEWS, ROWS, BINS), 500.0)
    data[0, 0, 0], data[1, 2, 3] = 10, 0
    frames = np.ones((1, ROWS, BINS))
    path = write_exchange(
        tmp_path / "a.h5", data=data, data_white=1000 * frames, data_dark=10 * frames
    )
    with pytest.raises(
        errors.FileError, match=r"2 of 60 transmissions in a\.h5 are not positive, .* set a floor"
    ):
        load_tomopy(path)
    scan = load_tomopy(path, floor=1e-3)
    assert scan.transmission.min() == pytest.approx(1e-3)
    assert scan.sinogram.max() == pytest.approx(np.log(1000), rel=1e-5)
    assert load_tomopy(path, row=1).sinogram.isfinite().all()
    for floor in (-0.1, 1.0, np.nan):
        with pytest.raises(errors.ArgumentError, match=r"floor: got .*, accepted: a"):
            load_tomopy(path, floor=floor)


SHAPE = (2, ROWS, BINS)
SPOILT = np.full((VIEWS, ROWS, BINS), np.inf)
BROKEN_EXCHANGES = {
    "data": (dict(data=None), "a.h5 has no data set 'exchange/data', it contains: exchange"),
    "white": (dict(data_white=None), "no data set 'exchange/data_white'"),
    "theta": (dict(theta=None), "no data set 'exchange/theta'"),
    "axes": (dict(data=np.ones((VIEWS, BINS))), r"has shape \(5, 4\), accepted: 3 axes"),
    "views": (dict(theta=np.arange(4.0)), "a.h5 has 5 views in 'data' but 4 in 'theta'"),
    "bins": (dict(data_dark=np.ones((2, ROWS, 5))), r"dark' in a.h5 has shape \(2, 3, 5\), acc"),
    "frames": (dict(data_white=np.ones((0, ROWS, BINS))), r"white' in a.h5 has shape \(0, 3, 4\)"),
    "NaN": (dict(data=SPOILT), "'/exchange/data' in a.h5 has 60 NaN or infinite values of 60"),
    "angle": (dict(theta=np.full(VIEWS, np.nan)), "'theta' in a.h5 has 5 NaN"),
    "no beam": (
        dict(data_white=np.zeros(SHAPE), data_dark=np.zeros(SHAPE)),
        "in a.h5, 12 of 12 detector pixels have 'data_white' not above 'data_dark'",
    ),
}


@pytest.mark.parametrize("kind", BROKEN_EXCHANGES)
def test_broken_exchanges_are_named(kind, tmp_path):
    changes, message = BROKEN_EXCHANGES[kind]
    with pytest.raises(errors.FileError, match=message):
        load_tomopy(write_exchange(tmp_path / "a.h5", **changes))


def test_truncated_exchanges_are_named(tmp_path):
    content = TOOTH.read_bytes()
    (tmp_path / "a.h5").write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.FileError, match=r"cannot read .*a\.h5' as HDF5"):
        load_tomopy(tmp_path / "a.h5")
