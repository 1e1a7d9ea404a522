"""fastMRI files, written in the tests in the layout of the dataset."""

import h5py
import numpy as np
import pytest
import torch

from wellposed import errors
from wellposed.datasets.mri.encoding import center_crop, parse_header
from wellposed.datasets.mri.fastmri import load_fastmri
from wellposed.operators.mri.cartesian import MultiCoilMRI, fft2c, ifft2c
from wellposed.operators.mri.sensitivity import espirit, simulate_sensitivity_maps

SLICES, COILS, H, W = 3, 4, 40, 28
SPACE = """
    <{name}Space>
      <matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
      <fieldOfView_mm><x>{fx}</x><y>{fy}</y><z>{fz}</z></fieldOfView_mm>
    </{name}Space>"""
HEADER = """<?xml version="1.0" encoding="utf-8"?>
<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD">
  <encoding>{encoded}{recon}
    <encodingLimits><kspace_encoding_step_1>
      <minimum>0</minimum><maximum>27</maximum><center>14</center>
    </kspace_encoding_step_1></encodingLimits>
    <trajectory>cartesian</trajectory>
  </encoding>
</ismrmrdHeader>"""


def header(x=H, y=W, rx=20, ry=20):
    encoded = SPACE.format(name="encoded", x=x, y=y, z=1, fx=280, fy=196, fz=4.5)
    recon = SPACE.format(name="recon", x=rx, y=ry, z=1, fx=140, fy=140, fz=4.5)
    return HEADER.format(encoded=encoded, recon=recon)


def images(shape=(SLICES, COILS, H, W)):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def kspace(shape=(SLICES, COILS, H, W)):
    return fft2c(torch.from_numpy(images(shape))).numpy()


def lines(*columns):
    mask = np.zeros(W, np.float32)
    mask[list(columns)] = 1
    return mask


def write(path, **content):
    with h5py.File(path, "w") as file:
        for name, value in {"kspace": kspace(), "ismrmrd_header": header(), **content}.items():
            if value is not None:
                file[name] = value
    return path


def test_slices_come_as_batch_in_our_transform(tmp_path):
    scan = load_fastmri(write(tmp_path / "scan.h5"))
    assert scan.kspace.dtype == torch.complex64
    torch.testing.assert_close(
        ifft2c(scan.kspace), torch.from_numpy(images()), atol=1e-5, rtol=1e-5
    )
    assert scan.mask.dtype == torch.float32
    assert torch.equal(scan.mask, torch.ones(SLICES, H, W))
    assert scan.reference is None
    assert scan.recon_size == (20, 20)
    assert scan.encoding.encoded_size == (1, H, W)
    assert scan.encoding.recon_size == (1, 20, 20)
    assert scan.encoding.recon_fov_mm == (4.5, 140, 140)
    assert scan.encoding.voxel_mm == (4.5, 7, 7)
    assert scan.encoding.centre == (0, 14)


@pytest.mark.parametrize("index", [0, 2, np.int64(1)])
def test_one_slice_is_that_of_all(index, tmp_path):
    path = write(tmp_path / "scan.h5", reconstruction_rss=abs(images((SLICES, 20, 20))))
    one, every = load_fastmri(str(path), slice=index), load_fastmri(path)
    for name in ("kspace", "mask", "reference"):
        assert torch.equal(getattr(one, name), getattr(every, name)[index : index + 1])
    assert every.reference.shape == (SLICES, 1, 20, 20)
    assert every.reference.dtype == torch.float32


def test_single_coil_files_have_one_coil(tmp_path):
    stored = kspace((SLICES, H, W))
    path = write(tmp_path / "a.h5", kspace=stored, reconstruction_esc=np.ones((SLICES, 18, 16)))
    scan = load_fastmri(path)
    np.testing.assert_array_equal(scan.kspace[:, 0].numpy(), stored)
    assert scan.kspace.shape == (SLICES, 1, H, W)
    assert scan.recon_size == (18, 16)  # the reference counts for more than the header


@pytest.mark.parametrize("dtype", [np.float32, bool, np.uint8])
def test_masks_of_the_file(dtype, tmp_path):
    mask = lines(1, 5, 13, 14, 15, 20)
    path = write(tmp_path / "a.h5", kspace=kspace() * mask, mask=mask.astype(dtype))
    scan = load_fastmri(path)
    assert torch.equal(scan.mask, torch.from_numpy(mask).expand(SLICES, H, W))


def test_masks_run_over_padding_which_was_not_measured(tmp_path):
    measured = lines(*range(3, 25))
    path = write(tmp_path / "a.h5", kspace=kspace() * measured, mask=lines(0, 2, 4, 6, 24, 26))
    with pytest.raises(errors.FileError, match="has data in 19 columns where 'mask' is 0"):
        load_fastmri(path)
    sampled = lines(0, 2, 4, 6, 24, 26)
    write(path, kspace=kspace() * measured * sampled, mask=sampled)
    assert torch.equal(load_fastmri(path).mask[0, 0], torch.from_numpy(lines(4, 6, 24)))


def test_without_a_mask_what_is_not_zero_was_measured(tmp_path):
    """Per slice, and not by columns alone."""
    measured = np.random.default_rng(1).random((SLICES, H, W)) < 0.4
    scan = load_fastmri(write(tmp_path / "a.h5", kspace=kspace() * measured[:, None]))
    assert torch.equal(scan.mask, torch.from_numpy(measured).float())


def test_what_is_loaded_goes_into_the_operator(tmp_path):
    maps = simulate_sensitivity_maps(COILS, H, W)
    image = torch.zeros(1, 1, H, W, dtype=torch.complex64)
    image[..., 8:32, 6:22] = torch.from_numpy(images((24, 16)))
    operator = MultiCoilMRI(torch.from_numpy(lines(*range(0, W, 2), 11, 13, 15)), maps)
    measured = operator.A(image)
    scan = load_fastmri(write(tmp_path / "a.h5", kspace=measured.numpy()), slice=0)
    again = MultiCoilMRI(scan.mask, maps)
    torch.testing.assert_close(again.A(image), scan.kspace)
    assert espirit(scan.kspace, calibration=None, kernel=3).shape == scan.kspace.shape


def test_files_without_a_header_are_whole(tmp_path):
    scan = load_fastmri(write(tmp_path / "a.h5", ismrmrd_header=None))
    assert scan.encoding is None
    assert scan.recon_size == (H, W)


def test_images_wider_than_their_kspace_keep_its_width(tmp_path):
    path = write(tmp_path / "a.h5", ismrmrd_header=header(rx=20, ry=64))
    assert load_fastmri(path).recon_size == (20, W)


@pytest.mark.parametrize("shape", [(6, 8), (7, 9), (6, 9)])
@pytest.mark.parametrize("size", [(4, 4), (3, 5), (6, 100), (1, 1)])
def test_crops_are_centred(shape, size):
    """To half a pixel, which fastMRI gives to the far side."""
    image = torch.arange(np.prod(shape)).reshape(1, *shape)
    cropped = center_crop(image, size)
    assert cropped.shape[1:] == tuple(map(min, zip(shape, size, strict=True)))
    first = divmod(int(cropped.min()), shape[1])
    for start, whole, kept in zip(first, shape, cropped.shape[1:], strict=True):
        assert 0 <= whole - kept - 2 * start <= 1


def test_crops_of_volumes():
    volume = torch.randn(2, 1, 8, 9, 10, generator=torch.Generator().manual_seed(0))
    assert torch.equal(center_crop(volume, (4, 9, 6)), volume[:, :, 2:6, :, 2:8])


def spoilt(value):
    bad = kspace()
    bad[1, 2, 3, 4] = value
    return bad


BROKEN = {
    "no k-space": (
        dict(kspace=None, other=1.0),
        "has no data set 'kspace', it contains: ismrmrd_",
    ),
    "a group": ({"kspace": None, "kspace/0": 1.0}, "has no data set 'kspace'"),
    "real": (dict(kspace=np.ones((2, 2, H, W))), "'kspace' in scan.h5 is float64, accepted: comp"),
    "axes": (dict(kspace=kspace((H, W))), r"has shape \(40, 28\), accepted: 3 or 4 axes"),
    "NaN": (
        dict(kspace=spoilt(np.nan)),
        "'kspace' in scan.h5 has 1 NaN or infinite values of 13440",
    ),
    "infinite": (dict(kspace=spoilt(1j * np.inf)), "'kspace' in scan.h5 has 1 NaN or infinite"),
    "mask": (dict(mask=np.ones(W + 1)), "'mask' in scan.h5 has 29 entries for the 28 columns"),
    "2-D mask": (
        dict(mask=np.ones((H, W))),
        r"'mask' in scan.h5 has shape \(40, 28\), acc.* 1 ax",
    ),
    "header": (dict(ismrmrd_header=header(y=30)), "scan.h5 is 40 x 28, accepted: 40 x 30"),
    "no XML": (dict(ismrmrd_header="<encoding>"), "the header in scan.h5 is not XML"),
    "no encoding": (dict(ismrmrd_header="<a/>"), "scan.h5 has 0 encodings, but no number 0"),
    "no number": (dict(ismrmrd_header=header(y="?")), "has '[?]' for encodedSpace/matrixSize/y"),
    "no size": (dict(ismrmrd_header=header(rx=0)), "has a reconSpace/matrixSize of .0.0, 20.0, "),
    "slices": (dict(reconstruction_rss=np.ones((2, 9, 9))), "has 2 slices in 'reco.* but 3 in 'k"),
    "reference": (dict(reconstruction_rss=np.full((3, 9, 9), np.nan)), "has 243 NaN or infinit"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_broken_files_are_named(kind, tmp_path):
    content, message = BROKEN[kind]
    path = write(tmp_path / "scan.h5", **content)
    with pytest.raises(errors.FileError, match=message) as raised:
        load_fastmri(path)
    assert "scan.h5" in str(raised.value)


@pytest.mark.parametrize("keep", [0.0, 0.1, 0.9])
def test_truncated_and_missing_files_are_named(keep, tmp_path):
    path = write(tmp_path / "scan.h5")
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(errors.FileError, match=r"cannot read .*scan\.h5' as HDF5"):
        load_fastmri(path)
    with pytest.raises(errors.FileError, match=r"no such file .*missing\.h5"):
        load_fastmri(tmp_path / "missing.h5")


@pytest.mark.parametrize("index", [-1, SLICES, 1.0])
def test_slices_that_are_not_there_are_named(index, tmp_path):
    path = write(tmp_path / "scan.h5")
    with pytest.raises(errors.ArgumentError, match=f"slice: got {index}, accepted: "):
        load_fastmri(path, slice=index)


def test_headers_without_limits_are_centred(tmp_path):
    text = header().replace("encodingLimits", "other")
    assert parse_header(tmp_path / "a.h5", text).centre == (0, W // 2)
