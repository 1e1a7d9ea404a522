"""Measured RF: MetaImage files, MATLAB files of channel data, and beamforming."""

import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import torch
from tests.helpers import relative

from wellposed import errors
from wellposed.datasets.ultrasound import (
    ChannelData,
    delay_and_sum,
    envelope,
    load_pymust,
    load_rf_metaimage,
    speckle_snr,
)
from wellposed.datasets.ultrasound.channels import baseband

LIVER = Path(__file__).parent / "data" / "mouse_liver_rf.mha"
VALUES = np.arange(-30, 30).reshape(3, 4, 5)  # frames, lines, depth
HEADER = """ObjectType = Image
NDims = {axes}
BinaryDataByteOrderMSB = {big}
CompressedData = {compressed}
ElementSpacing = 0.02 0.3 1
DimSize = {size}
ElementType = {kind}
ElementDataFile = {source}
"""


def write_metaimage(path, kind="MET_SHORT", dtype="<i2", compressed=False, source="LOCAL", **more):
    payload = more.get("values", VALUES).astype(dtype).tobytes()[: more.get("bytes")]
    payload = zlib.compress(payload) if compressed else payload
    header = HEADER.format(
        axes=3, kind=kind, big=">" in dtype, compressed=compressed, size="5 4 3", source=source
    )
    header = header.replace(*more.get("swap", ("", "")))
    if source == "LOCAL":
        path.write_bytes(header.encode() + payload)
    else:
        path.write_text(header)
        (path.parent / source).write_bytes(payload)
    return path


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("kind", "dtype", "source"),
    [
        ("MET_SHORT", "<i2", "LOCAL"),
        ("MET_INT", ">i4", "LOCAL"),
        ("MET_FLOAT", "<f4", "values.raw"),
        ("MET_DOUBLE", ">f8", "values.zraw"),
        ("MET_CHAR", "|i1", "LOCAL"),
    ],
)
def test_frames_of_a_metaimage(kind, dtype, source, compressed, tmp_path):
    frames = load_rf_metaimage(write_metaimage(tmp_path / "a", kind, dtype, compressed, source))
    assert frames.scale == 30 and frames.spacing_mm == (0.02, 0.3)
    assert frames.rf.shape == (3, 1, 5, 4) and frames.rf.dtype == torch.float32
    expected = torch.from_numpy(VALUES.transpose(0, 2, 1) / 30)[:, None]
    torch.testing.assert_close(frames.rf, expected.float())


def test_measured_rf_of_a_liver():
    """A transducer of about 12 MHz at 60, and speckle of many scatterers."""
    frames = load_rf_metaimage(str(LIVER))
    assert frames.rf.shape == (2, 1, 512, 64) and frames.spacing_mm == (0.0128417, 0.1)
    assert frames.rf.abs().max() == 1
    mhz = torch.fft.rfftfreq(512, 2 * frames.spacing_mm[0] / 1.54)
    power = torch.fft.rfft(frames.rf, dim=-2).abs().square().mean((0, 1, 3))
    assert float((mhz * power).sum() / power.sum()) == pytest.approx(12, abs=1.5)
    bells = envelope(frames.rf[..., 100:400, :24])
    assert speckle_snr(bells, torch.ones(1, dtype=torch.bool)).tolist() == pytest.approx(
        [1.75] * 2, abs=0.2
    )


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "MET_STRING"}, "component"),
        ({"swap": ("NDims", "ElementNumberOfChannels = 2\nNDims")}, "2 component"),
        ({"swap": ("5 4 3", "5 4 4")}, "DimSize = 5 4 4 but 60"),
        ({"swap": ("5 4 3", "60")}, "two or three axes"),
        ({"swap": ("5 4 3", "-5 -4 3")}, "DimSize = -5 -4 3"),
        ({"swap": ("5 4 3", "0 4 3"), "bytes": 0}, "DimSize = 0 4 3"),
        ({"swap": ("ObjectType = Image", "no header")}, "no MetaImage header"),
        ({"swap": ("DimSize", "Size")}, "cannot read"),
        ({"swap": ("LOCAL", "gone.raw")}, "cannot read"),
        ({"bytes": 59}, "cannot read"),
        ({"compressed": True, "swap": ("CompressedData = True", "Ignored = 1")}, "DimSize"),
        ({"kind": "MET_FLOAT", "dtype": "<f4", "values": VALUES * np.nan}, "NaN or infinite"),
        ({"values": VALUES * 0}, "only zeros"),
    ],
)
def test_metaimages_that_cannot_be_read(wrong, message, tmp_path):
    path = write_metaimage(tmp_path / "a.mha", **wrong)
    with pytest.raises(errors.FileError, match=message) as caught:
        load_rf_metaimage(path)
    assert "a.mha" in str(caught.value)


PARAM = {"fs": 20e6, "fc": 5e6, "pitch": 3e-4, "c": 1480.0, "t0": 9e-6, "TXdelay": np.zeros(8)}


def write_mat(path, rf=None, **param):
    rf = np.arange(-30, 66, dtype=np.int16).reshape(6, 8, 2) if rf is None else rf
    kept = {k: v for k, v in {**PARAM, **param}.items() if v is not None}
    scipy.io.savemat(path, {"RF": rf, "param": kept})
    return path


def test_channel_data_of_pymust(tmp_path):
    data = load_pymust(write_mat(tmp_path / "a.mat"))
    assert data.rf.shape == (2, 6, 8) and data.rf.dtype == torch.float32
    assert data.rf[1, 2, 3] == -30 + (2 * 8 + 3) * 2 + 1
    values = [data.sampling_mhz, data.centre_mhz, data.pitch_mm, data.start_us, data.speed]
    assert values == pytest.approx([20, 5, 0.3, 9, 1.48])
    one = write_mat(tmp_path / "a.mat", np.ones((6, 8), np.float32), t0=None, TXdelay=None)
    assert load_pymust(str(one)).rf.shape == (1, 6, 8)
    assert load_pymust(one).start_us == 0


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"fs": None}, "param"),
        ({"fs": "fast"}, "param.fs"),
        ({"pitch": 0.0}, "param.pitch"),
        ({"c": np.nan}, "param.c"),
        ({"t0": np.ones(3)}, "param.t0"),
        ({"rf": np.ones(5)}, "cannot|no real 'RF'"),
        ({"rf": np.ones((6, 8), complex)}, "no real 'RF'"),
        ({"rf": np.full((6, 8), np.nan)}, "NaN"),
        ({"TXdelay": np.arange(8.0)}, "plane wave"),
    ],
)
def test_channel_data_that_cannot_be_read(wrong, message, tmp_path):
    path = write_mat(tmp_path / "a.mat", **wrong)
    with pytest.raises(errors.FileError, match=message) as caught:
        load_pymust(path)
    assert "a.mat" in str(caught.value)


def echo(place, sampling_mhz, elements=64, start_us=8.0, dtype=torch.float64):
    """What elements receive of a scatterer at (x, z) mm: a pulse of 5 MHz and 15 %."""
    pitch, speed = 0.3, 1.48
    x = (torch.arange(elements, dtype=dtype) - (elements - 1) / 2) * pitch
    t = start_us + torch.arange(int(40 * sampling_mhz), dtype=dtype) / sampling_mhz
    arrival = (place[1] + torch.hypot(x - place[0], torch.tensor(place[1], dtype=dtype))) / speed
    late = t[:, None] - arrival
    rf = (-0.5 * (late / 0.5) ** 2).exp() * (2 * torch.pi * 5 * late).cos()
    return ChannelData(rf[None], sampling_mhz, 5.0, pitch, start_us, speed)


DEPTHS = torch.arange(10, 30, 0.03, dtype=torch.float64)


@pytest.mark.parametrize("sampling_mhz", [20.0, 20 / 3])
def test_a_scatterer_is_imaged_where_it_is(sampling_mhz, device):
    """With the phase of its pulse; also sampled as its band allows, below the carrier's rate."""
    data = echo((1.95, 20.2), sampling_mhz)
    data = replace(data, rf=data.rf.to(device))
    rf = delay_and_sum(data, DEPTHS).cpu()
    assert rf.shape == (1, 1, len(DEPTHS), 64) and rf.dtype == torch.float64
    bell = envelope(rf)[0, 0]
    row, column = np.unravel_index(int(bell.argmax()), bell.shape)
    assert column == 38  # (38 - 31.5) 0.3 mm = 1.95 mm
    assert float(DEPTHS[row]) == pytest.approx(20.2, abs=0.04)
    assert float(bell.max()) == pytest.approx(1, abs=0.03)
    # There and back: a pulse cos(2 pi f 2 (z - z0) / c).
    phase = 2 * torch.pi * 5 * 2 * (DEPTHS - 20.2) / 1.48
    near = (DEPTHS - 20.2).abs() < 0.3
    wave = (rf[0, 0, :, 38] / bell[:, 38])[near]
    torch.testing.assert_close(wave, phase[near].cos(), rtol=0, atol=0.12)


def test_the_peak_of_the_pulse_may_come_late():
    """Fired .8 us before its peak: 20.62 mm if that is not told."""
    data = replace(echo((0.15, 20.0), 20.0), start_us=8.8)
    for told, place in ((0.0, 20 + 0.8 * 1.48 / 2), (0.8, 20.0)):
        bell = envelope(delay_and_sum(replace(data, time_to_peak_us=told), DEPTHS))[0, 0]
        row, _ = np.unravel_index(int(bell.argmax()), bell.shape)
        assert float(DEPTHS[row]) == pytest.approx(place, abs=0.04)


def test_signals_cut_off_at_the_end_do_not_come_again_at_the_start():
    data = echo((0.15, 20.0), 20.0)
    cut = replace(data, rf=data.rf[:, : ((27 - 8) * 20)])
    found = baseband(cut).abs()
    assert float(found[:, -20:].max()) > 0.8 and float(found[:, :20].max()) < 0.01


@pytest.mark.parametrize(("true", "false"), [("true", "false"), ("TRUE", "FALSE"), ("1", "0")])
def test_flags_of_a_metaimage_in_any_spelling(true, false, tmp_path):
    for dtype in (">i2", "<i2"):
        path = write_metaimage(tmp_path / "a.mha", "MET_SHORT", dtype, True)
        content = path.read_bytes().replace(b"True", true.encode(), 2)
        path.write_bytes(content.replace(b"= False", b"= " + false.encode(), 1))
        frames = load_rf_metaimage(path)
        expected = torch.from_numpy(VALUES.transpose(0, 2, 1) / 30)[:, None]
        torch.testing.assert_close(frames.rf, expected.float())


def test_beamforming_is_a_sum_over_the_elements():
    """Against the definition, sample by sample, where nothing needs to be interpolated much."""
    data = echo((-3.0, 15.0), 160.0, elements=24)
    depths = torch.tensor([14.2, 15.0, 16.1], dtype=torch.float64)
    t = 8 + np.arange(data.rf.shape[1]) / 160
    x = (np.arange(24) - 11.5) * 0.3
    expected = np.zeros((3, 24))
    for i, z in enumerate(depths.numpy()):
        for j in range(24):
            weight = np.cos(np.pi * np.clip(np.abs(x - x[j]) * 1.5 / z, 0, 0.5)) ** 2
            late = (z + np.hypot(z, x - x[j])) / 1.48
            values = [np.interp(late[k], t, data.rf[0, :, k].numpy()) for k in range(24)]
            expected[i, j] = (weight * values).sum() / weight.sum()
    found = delay_and_sum(data, depths)[0, 0]
    assert relative(found, torch.from_numpy(expected)) < 0.01


def test_beamforming_is_linear_per_item_and_differentiable():
    a, b = echo((1.95, 20.2), 20.0).rf, echo((-4.0, 14.0), 20.0).rf
    data = echo((1.95, 20.2), 20.0)
    few = DEPTHS[::20]
    both = delay_and_sum(replace(data, rf=torch.cat([a, b, 2 * a - b])), few)
    torch.testing.assert_close(both[2], 2 * both[0] - both[1])
    torch.testing.assert_close(delay_and_sum(replace(data, rf=b), few), both[1:2])
    single = delay_and_sum(replace(data, rf=a.float()), few)
    assert single.dtype == torch.float32 and relative(single.double(), both[:1]) < 1e-4
    rf = a.clone().requires_grad_()
    delay_and_sum(replace(data, rf=rf), few).square().sum().backward()
    assert rf.grad.abs().max() > 0 and rf.grad.isfinite().all()


def test_where_nothing_was_recorded_is_silence():
    data = echo((0.0, 20.0), 20.0)
    rf = delay_and_sum(data, torch.tensor([1.0, 400.0], dtype=torch.float64))
    assert rf.abs().max() < 1e-30


@pytest.mark.parametrize(
    ("depths", "f_number", "message"),
    [
        (torch.ones(2, 2), 1.5, "depths_mm"),
        (torch.ones(0), 1.5, "depths_mm"),
        (torch.tensor([0.0, 1.0]), 1.5, "depths_mm"),
        (torch.ones(2), 0.0, "f_number"),
    ],
)
def test_bad_input(depths, f_number, message):
    with pytest.raises(errors.ArgumentError, match=message):
        delay_and_sum(echo((0.0, 20.0), 20.0), depths, f_number)
