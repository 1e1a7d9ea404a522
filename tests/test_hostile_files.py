"""Files that claim more than they hold, or hold code, are refused before memory is taken."""

import gzip
import io
import json
import pickle
import struct
import tracemalloc
import zipfile
import zlib

import h5py
import nibabel
import numpy as np
import pydicom
import pytest
import torch
from pydicom.data import get_testdata_file
from safetensors.torch import save_file

from wellposed import datasets, errors, priors
from wellposed.datasets.files import read_array
from wellposed.reconstruction import Reconstruction

MANY = 10**12
MOST_BYTES = 2**28
"""Of Python's and NumPy's memory, in refusing a file of some hundred bytes."""


class Code:
    def __reduce__(self):
        return (print, ("executed",))


def npy(path):
    header = f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({MANY},)}}".ljust(118) + "\n"
    path.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header.encode())


def pickled_npy(path):
    np.save(path, np.array([Code()], object), allow_pickle=True)


def hdf5(path, name="kspace", shape=(10**4, 10**4, 10**4)):
    with h5py.File(path, "w") as file:
        file.create_dataset(name, shape, "f8", chunks=(1, *shape[1:-1], 10))


def nifti(path, shape=(10**4, 10**4, 10**4)):
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.float64)
    header["magic"], header["vox_offset"] = b"n+1", 352
    path.write_bytes(header.binaryblock + bytes(4))


def nifti_gz(path):
    nifti(path.with_suffix(""))
    path.write_bytes(gzip.compress(path.with_suffix("").read_bytes()))


def dicom(path, **changes):
    data = pydicom.dcmread(get_testdata_file("MR_small.dcm"))
    data.Rows = data.Columns = 65535
    for name, value in changes.items():
        setattr(data, name, value)
    data.PixelData = bytes(8)
    data.save_as(path)


def many_frames(path):
    dicom(path, NumberOfFrames=10**6)


def metaimage(path, compressed=False):
    text = f"NDims = 2\nDimSize = {10**6} {10**6}\nElementType = MET_DOUBLE\n"
    payload = zlib.compress(bytes(10**6)) if compressed else bytes(8)
    text += f"CompressedData = {compressed}\nElementDataFile = LOCAL\n"
    path.write_bytes(text.encode() + payload)


def mat(path):
    shape = struct.pack("<II", 10**6, 10**6)
    body = struct.pack("<IIII", 6, 8, 6, 0) + struct.pack("<II", 5, 8) + shape
    body += struct.pack("<II", 0x10001, 0x61) + struct.pack("<II", 9, 8) + bytes(8)
    start = b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack("<HH", 0x0100, 0x4D49)
    path.write_bytes(start + struct.pack("<II", 14, len(body)) + body)


def png(path):
    def chunk(kind, content):
        both = kind + content
        return struct.pack(">I", len(content)) + both + struct.pack(">I", zlib.crc32(both))

    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    image = chunk(b"IDAT", zlib.compress(bytes(100)))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + image + chunk(b"IEND", b""))


CASES = {
    "npy": (npy, "a.npy", read_array),
    "pickle in npy": (pickled_npy, "a.npy", read_array),
    "hdf5": (hdf5, "a.h5", read_array),
    "fastmri": (hdf5, "a.h5", datasets.load_fastmri),
    "recording": (lambda p: hdf5(p, "rf"), "a.h5", datasets.load_recording),
    "reconstruction": (lambda p: hdf5(p, "samples"), "a.h5", Reconstruction.load),
    "mat 7.3": (hdf5, "a.mat", datasets.load_hyperspectral),
    "mat": (mat, "a.mat", read_array),
    "mat of a scan": (mat, "a.mat", datasets.load_htc2022),
    "nifti": (nifti, "a.nii", datasets.load_nifti),
    "nifti in gzip": (nifti_gz, "a.nii.gz", datasets.load_nifti),
    "nifti as an array": (nifti, "a.nii", read_array),
    "dicom": (dicom, "a.dcm", datasets.read_dicom_series),
    "frames of dicom": (many_frames, "a.dcm", datasets.read_dicom_series),
    "metaimage": (metaimage, "a.mha", datasets.load_rf_metaimage),
    "packed metaimage": (lambda p: metaimage(p, True), "a.mha", datasets.load_rf_metaimage),
    "png": (png, "a.png", read_array),
}


@pytest.mark.parametrize("kind", CASES)
def test_lying_files_are_refused_by_name(kind, tmp_path, capsys):
    write, name, read = CASES[kind]
    write(tmp_path / name)
    tracemalloc.start()
    try:
        with pytest.raises(errors.FileError, match=r"\ba\."):
            read(tmp_path / name)
        assert tracemalloc.get_traced_memory()[1] < MOST_BYTES
    finally:
        tracemalloc.stop()
    assert "executed" not in capsys.readouterr().out


def bomb(path):
    content = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, content)
    with zipfile.ZipFile(content, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data/1", bytes(2**27))
    path.write_bytes(content.getvalue())


def legacy(path):
    path.write_bytes(pickle.dumps(Code()))


@pytest.mark.parametrize("write", [legacy, lambda p: torch.save({"a": Code()}, p)])
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".pkl"])
def test_code_in_checkpoints_is_not_executed(write, suffix, tmp_path, capsys):
    write(tmp_path / f"a{suffix}")
    with pytest.raises(errors.CheckpointError, match=r"a\.(p|c)"):
        priors.load(tmp_path / f"a{suffix}")
    assert "executed" not in capsys.readouterr().out


def config(**network):
    return {
        "network": {"channels": 1, "widths": [8], "layers": 1, **network},
        "schedule": "linear",
        "prediction": "noise",
        "channels": 1,
        "data_range": [0, 1],
    }


CONFIGS = {
    "wide": json.dumps(config(widths=[10**9])),
    "too wide for its weights": json.dumps(config(widths=[2**16])),
    "long": json.dumps(config(layers=10**12)),
    "deep": '{"network": ' + "[" * 100_000,
    "not a number": json.dumps(config()).replace("[0, 1]", "[0, NaN]"),
    "a list": "[]",
}


@pytest.mark.parametrize("kind", CONFIGS)
def test_configs_that_ask_for_too_much_are_refused(kind, tmp_path):
    (tmp_path / "config.json").write_text(CONFIGS[kind])
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(errors.WellposedError, match="prior"):
        priors.load(tmp_path)


@pytest.mark.parametrize("path", [None, "", 3, b"a", ["a"], "a" * 5000, "a\0b"])
@pytest.mark.parametrize(
    "read",
    [
        read_array,
        priors.load,
        Reconstruction.load,
        datasets.load_nifti,
        datasets.load_fastmri,
        datasets.load_tomopy,
        datasets.load_htc2022,
        datasets.load_hyperspectral,
        datasets.load_images,
        datasets.load_recording,
        datasets.load_rf_metaimage,
        datasets.read_dicom_series,
    ],
)
def test_what_is_no_path_is_named(read, path):
    with pytest.raises(errors.WellposedError, match=r"^(path|folder|source|prior): ") as caught:
        read(path)
    assert len(str(caught.value)) < 300
