"""Standard deviations as parametric maps: values, units, places and sources."""

import builtins
from dataclasses import replace
from pathlib import Path

import numpy as np
import pydicom
import pytest
from tests.helpers import run

from wellposed import Reconstruction
from wellposed.datasets import read_dicom_series, write_dicom_series, write_std_map
from wellposed.errors import ArgumentError, FileError, NonFiniteError, ShapeError

DATA = Path(__file__).parent / "data" / "dicom"


@pytest.fixture(scope="module")
def mean(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mean")
    scan = read_dicom_series(DATA)
    write_dicom_series(folder, scan.values, scan, "DDS mean")
    return read_dicom_series(folder)


def test_values_unit_and_places_are_read_by_highdicom(mean, tmp_path):
    highdicom = pytest.importorskip("highdicom")
    std = np.random.default_rng(0).random(mean.values.shape).astype(np.float32)
    write_std_map(tmp_path / "std.dcm", std, mean, "DDS std", unit="HU")
    made = highdicom.imread(tmp_path / "std.dcm")
    assert made.SOPClassUID.name == "Parametric Map Storage"
    volume = made.get_volume()
    stored = np.asarray(made.pixel_array)
    places = [
        list(
            made.PerFrameFunctionalGroupsSequence[n].PlanePositionSequence[0].ImagePositionPatient
        )
        for n in range(len(std))
    ]
    wanted = [list(header.ImagePositionPatient) for header in mean.headers]
    for place, frame in zip(places, stored, strict=True):
        np.testing.assert_array_equal(frame, std[wanted.index(place)])
    assert sorted(volume.spacing) == pytest.approx(sorted(mean.spacing), rel=1e-3)


def test_the_header_names_study_sources_and_code(mean, tmp_path):
    pytest.importorskip("highdicom")
    write_std_map(tmp_path / "std.dcm", np.abs(mean.values), mean, "DDS std", unit="1/mm")
    header = pydicom.dcmread(tmp_path / "std.dcm")
    source = mean.headers[0]
    for name in ("StudyInstanceUID", "PatientID", "FrameOfReferenceUID"):
        assert header[name].value == source[name].value
    assert header.SeriesInstanceUID != source.SeriesInstanceUID
    assert header.SeriesDescription == "DDS std"
    shared = header.SharedFunctionalGroupsSequence[0]
    mapping = shared.RealWorldValueMappingSequence[0]
    assert mapping.MeasurementUnitsCodeSequence[0].CodeValue == "/mm"
    assert mapping.QuantityDefinitionSequence[0].ConceptCodeSequence[0].CodeValue == "386136009"
    (series,) = header.ReferencedSeriesSequence
    named = {each.ReferencedSOPInstanceUID for each in series.ReferencedInstanceSequence}
    assert named == {each.SOPInstanceUID for each in mean.headers}


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"std": -1.0}, ArgumentError, "std: got -1.0, accepted: values of at least 0"),
        ({"std": np.nan}, NonFiniteError, "volume"),
        ({"unit": "mm"}, ArgumentError, "unit: got 'mm'"),
        ({"description": "a\\b"}, ArgumentError, "description"),
        ({"description": ""}, ArgumentError, "description"),
        ({"reference": 3}, ArgumentError, "reference"),
    ],
)
def test_what_is_no_deviation_is_refused(mean, tmp_path, change, error, text):
    given = {"reference": mean, "description": "std", "unit": "", **change}
    std = np.full(mean.values.shape, given.pop("std", 1.0))
    with pytest.raises(error, match=text):
        write_std_map(tmp_path / "std.dcm", std, **given)
    with pytest.raises(ShapeError):
        write_std_map(tmp_path / "std.dcm", std[1:], mean, "std")
    assert not any(tmp_path.iterdir())


def test_frames_of_one_file_are_refused(mean, tmp_path):
    one = replace(mean, headers=[mean.headers[0]] * len(mean.headers))
    with pytest.raises(ArgumentError, match="1 files of 3 slices"):
        write_std_map(tmp_path / "std.dcm", np.ones(mean.values.shape), one, "std")


def test_a_missing_package_is_named(mean, tmp_path, monkeypatch):
    known = builtins.__import__

    def without(name, *args):
        if name.startswith("highdicom"):
            raise ImportError(name)
        return known(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FileError, match=r"pip install 'wellposed\[dicom-maps\]'"):
        write_std_map(tmp_path / "std.dcm", np.ones(mean.values.shape), mean, "std")


def reconstruct(out, *more):
    words = ("reconstruct", DATA, "--operator", "inpainting", "--simulate", "--solver", "dds")
    return run(*words, "--steps", 1, "--prior", "ct", "--out", out, "--std-map", *more)


def test_the_command_writes_a_map_beside_the_mean(tmp_path):
    highdicom = pytest.importorskip("highdicom")
    done = reconstruct(tmp_path, "--slices", "1:2", "--num-samples", 2)
    assert done.exit_code == 0, done.output
    assert "std.dcm" in done.output
    result = Reconstruction.load(tmp_path / "reconstruction.h5")
    made = highdicom.imread(tmp_path / "std.dcm")
    assert made.SeriesDescription == "DDS std"
    (series,) = made.ReferencedSeriesSequence
    named = {each.ReferencedSOPInstanceUID for each in series.ReferencedInstanceSequence}
    mean = read_dicom_series(tmp_path / "mean")
    assert named == {header.SOPInstanceUID for header in mean.headers}
    wanted = 2000 * result.std[0, 0].numpy()  # in HU
    np.testing.assert_allclose(sorted(made.pixel_array.flat), sorted(wanted.flat), rtol=1e-5)


@pytest.mark.parametrize(
    ("more", "text"),
    [
        (("--num-samples", 1), "--std-map: got '1 sample', accepted: --num-samples of 2"),
        (("--like", DATA.parent / "held_out" / "kodak_08.png"), "accepted: a DICOM input"),
    ],
)
def test_the_command_says_what_a_map_takes(tmp_path, more, text):
    done = reconstruct(tmp_path / "out", *more)
    assert done.exit_code == 2
    assert text in " ".join(done.output.split())
    assert not (tmp_path / "out").exists()
