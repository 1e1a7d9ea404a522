"""DICOM series: synthesised, shuffled, damaged."""

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate

from wellposed import errors
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.reading import Reading
from wellposed.datasets.volumes.dicom import read_dicom_series
from wellposed.datasets.volumes.dicom_writer import write_dicom_series

DEPTH, ROWS, COLUMNS = 7, 5, 6
SPACING = (2.5, 0.7, 0.9)
SLOPE, INTERCEPT = 2.0, -1024.0
AXIAL = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))


def oblique():
    """Directions along a row and along a column, turned about no axis of the patient."""
    rotation = np.linalg.qr(np.random.default_rng(3).standard_normal((3, 3)))[0]
    return tuple(map(tuple, rotation[:, :2].T))


def stored(depth=DEPTH):
    return np.random.default_rng(0).integers(-500, 1500, (depth, ROWS, COLUMNS), np.int16)


def write_slice(path, pixels, number, directions=AXIAL, **changes):
    """Write one CT slice; ``number`` is its place along the normal, ``None`` deletes a tag."""
    normal = np.cross(*np.array(directions))
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = uid.CTImageStorage
    meta.MediaStorageSOPInstanceUID = uid.generate_uid()
    meta.TransferSyntaxUID = changes.pop("syntax", uid.ExplicitVRLittleEndian)
    header = Dataset()
    header.file_meta = meta
    tags = {
        "SOPClassUID": meta.MediaStorageSOPClassUID,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": "1.2.3",
        "InstanceNumber": 0,  # not to be relied on
        "ImagePositionPatient": [*(np.array([-10.0, 20.0, 5.0]) + number * SPACING[0] * normal)],
        "ImageOrientationPatient": [*directions[0], *directions[1]],
        "PixelSpacing": [*SPACING[1:]],
        "SliceThickness": 4.0,
        "RescaleSlope": SLOPE,
        "RescaleIntercept": INTERCEPT,
        **dict(Rows=pixels.shape[-2], Columns=pixels.shape[-1], SamplesPerPixel=1),
        **dict(BitsAllocated=16, BitsStored=16, HighBit=15, PixelRepresentation=1),
        "PhotometricInterpretation": "MONOCHROME2",
        **changes,
    }
    for name, value in tags.items():
        if value is not None:
            setattr(header, name, value)
    content = pixels.astype("<i2").tobytes()
    compressed = meta.TransferSyntaxUID.is_compressed
    header.PixelData = encapsulate([content]) if compressed else content
    header["PixelData"].is_undefined_length = compressed
    header.save_as(path, enforce_file_format=True)


def write_series(folder, numbers=range(DEPTH), **changes):
    """Write slices under random names in random order; return the names in the order of space."""
    rng = np.random.default_rng(1)
    names = [f"{value:08x}.dcm" for value in rng.integers(0, 2**32, len(numbers))]
    order = rng.permutation(len(numbers))
    for n in order:
        write_slice(folder / names[n], stored()[n], numbers[n], **changes)
    return names


@pytest.mark.parametrize("directions", [AXIAL, oblique()], ids=["axial", "oblique"])
@pytest.mark.parametrize(
    "syntax",
    [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian],
    ids=["explicit", "implicit"],
)
def test_a_shuffled_series_comes_sorted_in_hounsfield_units(directions, syntax, tmp_path):
    names = write_series(tmp_path, directions=directions, syntax=syntax)
    assert names != sorted(names)
    series = read_dicom_series(str(tmp_path))
    assert series.values.dtype == np.float32
    np.testing.assert_array_equal(series.values, SLOPE * stored() + INTERCEPT)
    assert series.spacing == pytest.approx(SPACING)
    ids = [pydicom.dcmread(tmp_path / name).SOPInstanceUID for name in names]
    assert [h.SOPInstanceUID for h in series.headers] == ids
    assert not any("PixelData" in h for h in series.headers)


def test_slices_keep_their_own_rescale_and_need_none(tmp_path):
    """PET rescales every slice otherwise; MRI has no rescale."""
    for n in range(3):
        slope = n + 1 if n < 2 else None
        intercept = None if slope is None else -n
        write_slice(
            tmp_path / f"{n}.DCM", stored()[n], n, RescaleSlope=slope, RescaleIntercept=intercept
        )
    values = read_dicom_series(tmp_path).values
    np.testing.assert_array_equal(values[0], stored()[0])
    np.testing.assert_array_equal(values[1], 2.0 * stored()[1] - 1)
    np.testing.assert_array_equal(values[2], stored()[2])


@pytest.mark.parametrize(("thickness", "expected"), [(4.0, 4.0), (None, 1.0)])
def test_a_single_slice_is_a_series(thickness, expected, tmp_path):
    write_slice(tmp_path / "a.dcm", stored()[0], 0, SliceThickness=thickness)
    series = read_dicom_series(tmp_path)
    assert series.values.shape == (1, ROWS, COLUMNS)
    assert series.spacing == pytest.approx((expected, *SPACING[1:]))


@pytest.mark.parametrize(
    ("numbers", "gap", "between"),
    [
        ([0, 1, 2, 4, 5, 6], 5, (2, 3)),  # missing
        ([0, 1, 2, 2, 3, 4], 0, (2, 3)),  # doubled
        ([0, 0], 0, (0, 1)),  # nothing but doubled
        ([0, 1, 2, 3.2, 4.2, 5.2], 3, (2, 3)),  # not uniform
        ([0, 1, 2, 3, 4, 4.9], 2.25, (4, 5)),
    ],
)
def test_gaps_are_named(numbers, gap, between, tmp_path):
    names = write_series(tmp_path, numbers)
    before, after = (names[n] for n in between)
    either = f"({before} and {after}|{after} and {before})"
    with pytest.raises(errors.FileError, match=rf"path: {either} are {gap:.3g} mm apart"):
        read_dicom_series(tmp_path)


def test_rounded_positions_are_no_gaps(tmp_path):
    rng = np.random.default_rng(0)
    write_series(tmp_path, [n + rng.uniform(-0.004, 0.004) for n in range(DEPTH)])
    assert read_dicom_series(tmp_path).spacing[0] == pytest.approx(SPACING[0], abs=0.02)


OTHERS = {
    "scout": dict(SeriesInstanceUID="1.2.4", ImageOrientationPatient=[0, 1, 0, 0, 0, -1]),
    "orientation": dict(ImageOrientationPatient=[0, 1, 0, 1, 0, 0]),
    "spacing": dict(PixelSpacing=[0.7, 0.95]),
    "size": dict(pixels=stored()[0, :, 1:]),
    "report": dict(SOPClassUID=uid.BasicTextSRStorage, Rows=None, Columns=None),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_what_lies_beside_a_volume_is_skipped_with_one_line(kind, tmp_path, caplog):
    write_series(tmp_path)
    change = {"pixels": stored()[0], **OTHERS[kind]}
    write_slice(tmp_path / "zz.dcm", change.pop("pixels"), DEPTH, **change)
    (tmp_path / "notes.txt").write_text("of the visit")
    np.testing.assert_array_equal(read_dicom_series(tmp_path).values, SLOPE * stored() + INTERCEPT)
    assert len(caplog.records) == 1
    assert "skipped" in caplog.text and "zz.dcm" in caplog.text


def write_diffusion(folder, b_values=(0, 800), **changes):
    """A series of several volumes, their slices in turn; files without a suffix."""
    for n in range(3):
        for m, b in enumerate(b_values):
            path = folder / f"IM{n}{m}"
            write_slice(path, stored()[n] + m, n, DiffusionBValue=float(b), **changes)


def test_one_of_several_volumes_is_chosen_by_its_tags(tmp_path, caplog):
    write_diffusion(tmp_path, ImageType=["ORIGINAL", "PRIMARY", "M"])
    with pytest.raises(
        errors.FileError, match=r"has 2 volumes; choose one by .*where={'Diff"
    ) as e:
        read_dicom_series(tmp_path)
    assert "where={'DiffusionBValue': 800}" in str(e.value)
    for m, b in enumerate((0, 800)):
        found = read_dicom_series(tmp_path, where={"DiffusionBValue": b, "ImageType": "M"})
        np.testing.assert_array_equal(found.values, SLOPE * (stored()[:3] + m) + INTERCEPT)
    with pytest.raises(errors.FileError, match=r"no image in .* where .*400"):
        read_dicom_series(tmp_path, where={"DiffusionBValue": 400})


def test_one_of_several_series_is_chosen_by_its_name(tmp_path):
    for n, name in enumerate(("T1", "T2")):
        (tmp_path / name).mkdir()
        write_series(tmp_path / name, SeriesInstanceUID=f"1.{n}", SeriesDescription=name)
        for file in (tmp_path / name).iterdir():
            file.rename(tmp_path / f"{name}{file.stem}.IMA")
    with pytest.raises(errors.FileError, match=r"series='1\.0' \(T1, 7 of 5 x 6\); series='1\.1'"):
        read_dicom_series(tmp_path)
    for name in ("T2", "1.1"):
        assert {h.SeriesDescription for h in read_dicom_series(tmp_path, series=name).headers} == {
            "T2"
        }


@pytest.mark.parametrize(("step", "digits"), [(0.625, 1), (1.25, 1), (0.7, 1), (3.3, 0)])
def test_rounded_positions_give_the_mean_distance(step, digits, tmp_path):
    count = 33
    for n in range(count):
        place = [0, 0, round(n * step + 1e-9, digits)]
        write_slice(tmp_path / f"{n}", stored()[0], n, ImagePositionPatient=place)
    spacing = read_dicom_series(tmp_path).spacing[0]
    assert spacing == pytest.approx(round((count - 1) * step, digits) / (count - 1))


def test_values_go_through_the_lookup_table_of_the_modality(tmp_path):
    table = Dataset()
    table.LUTDescriptor, table.ModalityLUTType = [4, 0, 16], "US"
    table.add_new("LUTData", "OW", np.array([10, 20, 40, 80], "<u2").tobytes())
    pixels = np.arange(ROWS * COLUMNS, dtype=np.int16).reshape(ROWS, COLUMNS) % 5
    unscaled = dict(RescaleSlope=None, RescaleIntercept=None, PixelRepresentation=0)
    write_slice(tmp_path / "a", pixels, 0, ModalityLUTSequence=[table], **unscaled)
    expected = np.array([10, 20, 40, 80, 80])[pixels]
    np.testing.assert_array_equal(read_dicom_series(tmp_path).values[0], expected)


def test_values_go_through_the_real_world_map(tmp_path):
    mapping = Dataset()
    mapping.RealWorldValueSlope, mapping.RealWorldValueIntercept = 0.5, 3.0
    mapping.RealWorldValueFirstValueMapped, mapping.RealWorldValueLastValueMapped = -500, 1500
    for name, rescale in {"absent": None, "identity": 1}.items():
        folder = tmp_path / name
        folder.mkdir()
        write_slice(
            folder / "a",
            stored()[0],
            0,
            RealWorldValueMappingSequence=[mapping],
            RescaleSlope=rescale,
            RescaleIntercept=rescale and 0,
        )
        np.testing.assert_array_equal(read_dicom_series(folder).values[0], 0.5 * stored()[0] + 3)


@pytest.mark.parametrize("slope", ["", None])
def test_an_empty_slope_is_none(slope, tmp_path):
    write_slice(tmp_path / "a", stored()[0], 0, RescaleSlope=slope)
    np.testing.assert_array_equal(read_dicom_series(tmp_path).values[0], stored()[0] + INTERCEPT)


def item(**tags):
    made = Dataset()
    for name, value in tags.items():
        setattr(made, name, value)
    return made


def test_frames_of_enhanced_files_have_places_and_slopes_of_their_own(tmp_path):
    frames = []
    for n, b in ((1, 0), (0, 0), (0, 800), (1, 800)):
        frames.append(
            item(
                PlanePositionSequence=[item(ImagePositionPatient=[0, 0, 2.0 * n])],
                PixelValueTransformationSequence=[item(RescaleSlope=n + 1, RescaleIntercept=0)],
                MRDiffusionSequence=[item(DiffusionBValue=float(b))],
            )
        )
    shared = item(
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
        PixelMeasuresSequence=[item(PixelSpacing=[0.5, 0.5], SliceThickness=2)],
    )
    absent = dict.fromkeys(
        ("ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing", "RescaleSlope")
    )
    write_slice(
        tmp_path / "a",
        stored()[:4],
        0,
        **absent,
        RescaleIntercept=None,
        SOPClassUID=uid.EnhancedMRImageStorage,
        NumberOfFrames=4,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=frames,
    )
    found = read_dicom_series(tmp_path / "a", where={"DiffusionBValue": 800})
    assert found.spacing == (2.0, 0.5, 0.5)
    np.testing.assert_array_equal(found.values, stored()[2:4] * np.reshape([1, 2], (2, 1, 1)))
    files = write_dicom_series(tmp_path / "new", found.values, found, "same")
    again = read_dicom_series(tmp_path / "new")
    np.testing.assert_allclose(again.values, found.values, atol=0.03)
    assert again.spacing == found.spacing
    assert pydicom.dcmread(files[0]).SOPClassUID == uid.MRImageStorage


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.25, 0.5, 0.9, 0.995])
def test_a_truncated_file_is_named(keep, tmp_path):
    names = write_series(tmp_path)
    path = tmp_path / names[3]
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(errors.FileError, match=f"path: cannot read .*{names[3]}"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize(
    "tag", ["ImagePositionPatient", "ImageOrientationPatient", "PixelSpacing"]
)
@pytest.mark.parametrize("value", [None, [], [1.0]], ids=["absent", "empty", "short"])
def test_a_slice_without_geometry_is_named(tag, value, tmp_path):
    write_slice(tmp_path / "a.dcm", stored()[0], 0, **{tag: value})
    with pytest.raises(errors.FileError, match=rf"a.dcm' has no {tag}, accepted: one slice"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize("spacing", [[0.0, 0.0], [0.7, 0.0], [-0.7, 0.7]])
def test_pixels_without_a_size_are_named(spacing, tmp_path):
    write_slice(tmp_path / "a.dcm", stored()[0], 0, PixelSpacing=spacing)
    with pytest.raises(errors.FileError, match=r"a.dcm' has pixels of .* mm, accepted: positive"):
        read_dicom_series(tmp_path)


def test_frames_and_other_files_are_named(tmp_path):
    write_slice(tmp_path / "a.dcm", stored()[:2], 0, NumberOfFrames=2)
    with pytest.raises(errors.FileError, match=r"a.dcm' has 3 axes, accepted: one slice"):
        read_dicom_series(tmp_path)
    (tmp_path / "a.dcm").write_bytes(b"not of the kind" * 50)
    with pytest.raises(errors.FileError, match=r"cannot read .*a.dcm' as DICOM"):
        read_dicom_series(tmp_path)


@pytest.mark.parametrize(
    "syntax", [uid.JPEGLSLossless, uid.JPEG2000Lossless, uid.JPEGBaseline8Bit, uid.RLELossless]
)
def test_pixels_that_cannot_be_decompressed_are_named(syntax, tmp_path):
    write_slice(tmp_path / "a.dcm", stored()[0], 0, syntax=syntax)
    with pytest.raises(errors.FileError, match=r"a.dcm' as DICOM: its pixels, compressed as") as e:
        read_dicom_series(tmp_path)
    assert syntax.name in str(e.value)
    assert "decompress the file first" in str(e.value)


def test_folders_without_a_series_are_named(tmp_path):
    with pytest.raises(errors.FileError, match=r"path: no DICOM files in"):
        read_dicom_series(tmp_path)
    with pytest.raises(errors.FileError, match=r"path: no such folder .*missing"):
        read_dicom_series(tmp_path / "missing")


def test_series_are_volumes_of_a_collection(tmp_path):
    """One volume per folder, wherever it lies, beside files of other kinds."""
    for patient in ("a/ct", "b"):
        (tmp_path / patient).mkdir(parents=True)
        write_series(tmp_path / patient)
    np.save(tmp_path / "c.npy", np.zeros((2, ROWS, COLUMNS)))
    found = Collection([tmp_path], Reading(window=(-1000.0, 1000.0)))
    assert [str(f.relative_to(tmp_path)) for f in found.files] == ["a/ct", "b", "c.npy"]
    assert found.shapes == [(DEPTH, ROWS, COLUMNS, 1)] * 2 + [(2, ROWS, COLUMNS, 1)]
    hounsfield = SLOPE * stored() + INTERCEPT
    expected = (hounsfield.clip(-1000, 1000) + 1000) / 2000
    np.testing.assert_allclose(found.array(0)[..., 0], expected, atol=1e-6)
    assert 0 < expected.mean() < 1


@pytest.mark.parametrize("tag", ["PixelSpacing", "ImageOrientationPatient"])
def test_a_place_that_all_slices_lack_is_named(tag, tmp_path):
    write_series(tmp_path, **{tag: None})
    with pytest.raises(errors.FileError, match=f"has no {tag}"):
        read_dicom_series(tmp_path)


def test_a_series_is_chosen_by_its_number(tmp_path):
    for number in (1, 2):
        for place in range(2):
            pixels = np.full((ROWS, COLUMNS), number, np.int16)
            changes = {"SeriesInstanceUID": f"1.2.{number}", "SeriesNumber": number}
            write_slice(tmp_path / f"{number}-{place}.dcm", pixels, place, **changes)
    for wanted in (2, "2"):
        values = read_dicom_series(tmp_path, series=wanted).values
        np.testing.assert_array_equal(values, 2 * SLOPE + INTERCEPT)
