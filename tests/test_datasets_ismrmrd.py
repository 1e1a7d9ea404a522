"""ISMRMRD files, written with the format's own package."""

import sys

import h5py
import numpy as np
import pytest
import torch

from wellposed import errors
from wellposed.datasets.mri.ismrmrd import load_ismrmrd
from wellposed.datasets.mri.ismrmrd_sorting import Frame
from wellposed.operators import NonCartesianMRI, radial_trajectory, simulate_sensitivity_maps

ismrmrd = pytest.importorskip("ismrmrd")

COILS, D, H, W = 3, 4, 12, 8
N = 24
HEADER = """<ismrmrdHeader xmlns="http://www.ismrm.org/ISMRMRD"><encoding>
<encodedSpace><matrixSize><x>{x}</x><y>{y}</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>480</x><y>240</y><z>12</z></fieldOfView_mm></encodedSpace>
<reconSpace><matrixSize><x>6</x><y>8</y><z>{z}</z></matrixSize>
<fieldOfView_mm><x>240</x><y>240</y><z>12</z></fieldOfView_mm></reconSpace>
<encodingLimits>
<kspace_encoding_step_1><minimum>0</minimum><maximum>7</maximum><center>{cy}</center>
</kspace_encoding_step_1>
<kspace_encoding_step_2><minimum>0</minimum><maximum>3</maximum><center>{cz}</center>
</kspace_encoding_step_2></encodingLimits>
<trajectory>{trajectory}</trajectory></encoding></ismrmrdHeader>"""


def header(x=H, y=W, z=1, cy=W // 2, cz=0, trajectory="cartesian"):
    return HEADER.format(x=x, y=y, z=z, cy=cy, cz=cz, trajectory=trajectory)


def random(*shape, seed=0):
    rng = np.random.default_rng(seed)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def acquisition(data, flags=(), trajectory=None, head=None, **counters):
    """One acquisition of samples (coils, samples)."""
    made = ismrmrd.Acquisition.from_array(
        np.ascontiguousarray(data), trajectory, **{"center_sample": H // 2, **(head or {})}
    )
    for name, value in counters.items():
        setattr(made.idx, name, value)
    for flag in flags:
        made.set_flag(getattr(ismrmrd, flag))
    return made


def scan_lines(kspace, **counters):
    """The lines of a slice (coils, H, W)."""
    return [
        acquisition(kspace[..., y], kspace_encode_step_1=y, **counters)
        for y in range(kspace.shape[-1])
    ]


def write(path, acquisitions, text=None):
    with ismrmrd.Dataset(path, mode="w") as dataset:
        dataset.write_xml_header((text or header()).encode())
        for each in acquisitions:
            dataset.append_acquisition(each)
    return path


def shuffled(acquisitions, seed=0):
    order = np.random.default_rng(seed).permutation(len(acquisitions))
    return [acquisitions[n] for n in order]


def test_lines_in_any_order_make_slices(tmp_path):
    truth = random(2, COILS, H, W)
    made = [a for s in range(2) for a in scan_lines(truth[s], slice=s)]
    scan = load_ismrmrd(str(write(tmp_path / "raw.h5", shuffled(made))))
    np.testing.assert_array_equal(scan.kspace.numpy(), truth)
    assert torch.equal(scan.mask, torch.ones(2, H, W))
    assert scan.frames == (Frame(0, 0, 0, 0, 0), Frame(1, 0, 0, 0, 0))
    assert scan.trajectory is scan.noise is scan.calibration is None
    assert scan.encoding.encoded_size == (1, H, W)
    assert scan.encoding.voxel_mm == (12, 40, 30)


@pytest.mark.parametrize("counter", ["contrast", "phase", "repetition", "set"])
def test_every_counter_makes_frames(counter, tmp_path):
    truth = random(3, COILS, H, W)
    made = [a for n in range(3) for a in scan_lines(truth[n], slice=n % 2, **{counter: n})]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", shuffled(made)))
    assert [getattr(frame, counter) for frame in scan.frames] == [0, 2, 1]  # by slice first
    np.testing.assert_array_equal(scan.kspace.numpy(), truth[[0, 2, 1]])


def test_averages_are_averaged_and_segments_joined(tmp_path):
    truth, other = random(COILS, H, W), random(COILS, H, W, seed=1)
    made = [
        acquisition(data[..., y], kspace_encode_step_1=y, average=n, segment=y % 2)
        for y in range(W)
        for n, data in enumerate((truth + other, truth - other))
    ]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made))
    np.testing.assert_allclose(scan.kspace[0].numpy(), truth, atol=1e-6)


def test_undersampled_lines_leave_zeros(tmp_path):
    truth = random(COILS, H, W)
    scan = load_ismrmrd(write(tmp_path / "raw.h5", scan_lines(truth)[::3]))
    measured = np.arange(W) % 3 == 0
    np.testing.assert_array_equal(scan.mask[0].numpy(), np.broadcast_to(measured, (H, W)))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), truth * measured)


def test_partitions_make_volumes(tmp_path):
    truth = random(COILS, D, H, W)
    made = [a for z in range(D) for a in scan_lines(truth[:, z], kspace_encode_step_2=z)]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", shuffled(made), header(z=D, cz=D // 2)))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), truth)
    assert scan.mask.shape == (1, D, H, W)


def test_partial_fourier_is_placed_by_the_centre(tmp_path):
    """5 of 8 lines, the second of which is the centre of k-space, belong from line 3 on."""
    truth = random(COILS, H, 5)
    scan = load_ismrmrd(write(tmp_path / "raw.h5", scan_lines(truth), header(cy=1)))
    np.testing.assert_array_equal(scan.kspace[0, ..., 3:].numpy(), truth)
    assert scan.mask[0].sum(0).tolist() == [0] * 3 + [H] * 5


def test_partial_echoes_are_placed_by_their_centre(tmp_path):
    truth = random(COILS, 9, W)
    made = scan_lines(truth)
    for each in made:
        each.center_sample = 3
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made))
    np.testing.assert_array_equal(scan.kspace[0, :, 3:].numpy(), truth)
    assert scan.mask[0].sum(1).tolist() == [0] * 3 + [W] * 9


def test_complete_readouts_need_no_centre(tmp_path):
    truth = random(COILS, H, W)
    made = scan_lines(truth)
    for each in made:
        each.center_sample = 0
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made))
    np.testing.assert_array_equal(scan.kspace[0].numpy(), truth)


def test_samples_to_discard_were_not_measured(tmp_path):
    truth = random(COILS, H, W)
    made = scan_lines(truth)
    for each in made:
        each.discard_pre, each.discard_post = 2, 1
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made))
    np.testing.assert_array_equal(scan.kspace[0, :, 2:-1].numpy(), truth[:, 2:-1])
    assert scan.mask[0].sum(1).tolist() == [0, 0, *[W] * (H - 3), 0]


def test_reversed_readouts_are_turned(tmp_path):
    truth = random(COILS, H, W)
    made = []
    for y in range(W):
        back = y % 2 == 1
        data = truth[:, ::-1, y] if back else truth[..., y]
        flags = ["ACQ_IS_REVERSE"] if back else []
        head = {"discard_pre": 2}  # in the order of time
        made.append(acquisition(data, flags, head=head, kspace_encode_step_1=y))
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made, header(trajectory="epi")))
    mask = np.ones((H, W))
    mask[:2, ::2] = mask[-2:, 1::2] = 0
    np.testing.assert_array_equal(scan.mask[0].numpy(), mask)
    np.testing.assert_array_equal(scan.kspace[0].numpy(), truth * mask)


def test_reversed_partial_echoes_are_placed_by_the_sample_stored_at_the_centre(tmp_path):
    """Nine of twelve samples, of which the fourth in k is the centre; the sixth as stored."""
    truth = random(COILS, 9, W)
    made = [
        acquisition(
            truth[:, ::-1, y] if y % 2 else truth[..., y],
            ["ACQ_IS_REVERSE"] if y % 2 else [],
            head={"center_sample": 5 if y % 2 else 3, "discard_post": y % 2},
            kspace_encode_step_1=y,
        )
        for y in range(W)
    ]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made, header(trajectory="epi")))
    mask = np.ones((9, W))
    mask[0, 1::2] = 0  # what is last in time is first in k
    np.testing.assert_array_equal(scan.mask[0, 3:].numpy(), mask)
    np.testing.assert_array_equal(scan.kspace[0, :, 3:].numpy(), truth * mask)
    assert not scan.mask[0, :3].any()


def test_noise_calibration_and_navigators_are_kept_apart(tmp_path):
    truth, spare = random(COILS, H, W), random(COILS, H, seed=2)
    noise = [random(COILS, 64, seed=n) for n in (3, 4)]
    head = {"sample_time_us": 2.5}
    calibration, both = "ACQ_IS_PARALLEL_CALIBRATION", "ACQ_IS_PARALLEL_CALIBRATION_AND_IMAGING"
    made = [
        *(
            acquisition(n, ["ACQ_IS_NOISE_MEASUREMENT"], head={"sample_time_us": 10})
            for n in noise
        ),
        acquisition(spare, ["ACQ_IS_NAVIGATION_DATA"], head=head, kspace_encode_step_1=1),
        acquisition(spare, ["ACQ_IS_PHASECORR_DATA"], head=head, kspace_encode_step_1=1),
        *(
            acquisition(
                truth[..., y],
                {3: [calibration], 4: [both], 5: [calibration]}.get(y, []),
                head=head,
                kspace_encode_step_1=y,
            )
            for y in (0, 2, 3, 4, 5, 6)
        ),
    ]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made))
    image, acs = np.isin(np.arange(W), [0, 2, 4, 6]), np.isin(np.arange(W), [3, 4, 5])
    np.testing.assert_array_equal(scan.kspace[0].numpy(), truth * image)
    np.testing.assert_array_equal(scan.calibration[0].numpy(), truth * acs)
    # Four times the dwell time is a fourth of the bandwidth, and of the variance.
    expected = 2 * np.concatenate(noise, 1)
    np.testing.assert_allclose(scan.noise.numpy(), expected, rtol=1e-6)
    assert scan.noise.dtype == torch.complex64


CALIBRATION = ["ACQ_IS_PARALLEL_CALIBRATION"]


def calibration_lines(data, **counters):
    return [
        acquisition(data[..., y], CALIBRATION, kspace_encode_step_1=y, **counters)
        for y in (3, 4, 5)
    ]


@pytest.mark.parametrize("counter", ["contrast", "phase", "repetition", "set"])
@pytest.mark.parametrize("measured", [0, 1, 5])
def test_calibration_measured_once_serves_all_frames_of_its_slice(measured, counter, tmp_path):
    truth, acs = random(2, 3, COILS, H, W), random(2, COILS, H, W, seed=1)
    made = [
        *(
            a
            for s in (0, 1)
            for n in range(3)
            for a in scan_lines(truth[s, n], slice=s, **{counter: n})
        ),
        *(a for s in (0, 1) for a in calibration_lines(acs[s], slice=s, **{counter: measured})),
    ]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", shuffled(made)))
    kept = np.isin(np.arange(W), [3, 4, 5])
    for frame, found in zip(scan.frames, scan.calibration, strict=True):
        np.testing.assert_array_equal(found.numpy(), acs[frame.slice] * kept)


def test_a_frame_takes_the_calibration_nearest_to_it(tmp_path):
    """Its own where there is one; else that of its contrast, not an average over contrasts."""
    acs = random(3, COILS, H, W)
    image = [Frame(0, c, 0, r, 0) for c in (0, 1) for r in (0, 1)]
    measured = [Frame(0, 0, 0, 0, 1), Frame(0, 1, 0, 0, 1), Frame(0, 1, 0, 1, 0)]
    made = [
        *(a for f in image for a in scan_lines(random(COILS, H, W), **f._asdict())),
        *(
            a
            for f, data in zip(measured, acs, strict=True)
            for a in calibration_lines(data, **f._asdict())
        ),
    ]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", shuffled(made)))
    assert scan.frames == tuple(image)
    kept = np.isin(np.arange(W), [3, 4, 5])
    np.testing.assert_array_equal(scan.calibration.numpy(), acs[[0, 0, 1, 2]] * kept)


def test_slices_without_calibration_are_named(tmp_path):
    made = [a for s in (0, 1, 2) for a in scan_lines(random(COILS, H, W), slice=s)]
    made += calibration_lines(random(COILS, H, W), slice=2)
    with pytest.raises(
        errors.FileError, match=r"raw.h5 has calibration for slices \[2\], but none for"
    ):
        load_ismrmrd(write(tmp_path / "raw.h5", made))


def test_noise_of_unknown_bandwidth_is_as_stored(tmp_path):
    noise = random(COILS, 64)
    made = [
        acquisition(noise, ["ACQ_IS_NOISE_MEASUREMENT"]),
        *scan_lines(random(COILS, H, W)),
    ]
    np.testing.assert_array_equal(load_ismrmrd(write(tmp_path / "raw.h5", made)).noise, noise)


def test_frames_keep_their_place(tmp_path):
    directions = np.linalg.qr(np.random.default_rng(0).standard_normal((3, 3)))[0].T
    made = []
    for s in (1, 0):
        for each in scan_lines(random(COILS, H, W), slice=s):
            each.position[:] = [1.0, 2.0, 5.0 * s]
            each.read_dir[:], each.phase_dir[:], each.slice_dir[:] = directions
            made.append(each)
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made))
    assert scan.positions.tolist() == [[1, 2, 0], [1, 2, 5]]
    np.testing.assert_allclose(scan.directions[1].numpy(), directions, rtol=1e-6)


@pytest.mark.parametrize("axes", [2, 3])
def test_trajectories_are_kept(axes, tmp_path):
    data = random(2, 5, COILS, 20)
    places = np.random.default_rng(0).uniform(-0.5, 0.5, (2, 5, 20, axes)).astype(np.float32)
    made = [
        acquisition(data[s, n], trajectory=places[s, n], slice=s, kspace_encode_step_1=n)
        for n in range(5)
        for s in range(2)
    ]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made, header(trajectory="radial")))
    np.testing.assert_array_equal(scan.kspace.numpy(), data.swapaxes(1, 2))
    pixels = np.array([6, 8, 1][:axes])  # along x, y, z
    np.testing.assert_allclose(scan.trajectory.numpy(), (places * pixels)[..., ::-1], rtol=1e-6)
    assert scan.encoding.recon_size == (1, 8, 6)
    assert scan.mask is None


@pytest.mark.parametrize(
    ("unit", "factor"),
    [
        ("cycles/pixel", 1),
        ("cycles/fov", N),
        ("radians/pixel", 2 * np.pi),
        ("1/m", N / 0.2),
        ("1/mm", N / 200),
        ("radians/m", 2 * np.pi * N / 0.2),
        ("radians/mm", 2 * np.pi * N / 200),
    ],
)
def test_trajectories_in_any_unit_give_the_image(unit, factor, tmp_path):
    """Stored as (x, y): x along the rows of the image."""
    k = radial_trajectory(40, 2 * N, (N, N))
    place = (torch.arange(N) - N // 2) / N
    image = ((place[:, None] / 0.4) ** 2 + ((place - 0.1) / 0.2) ** 2 < 1)[None, None] + 0j
    maps = simulate_sensitivity_maps(2, N, N)
    data = NonCartesianMRI(k, maps).A(image.to(torch.complex64))[0].numpy()
    stored = (k.flip(-1) / N * factor).float().numpy()
    text = header(N, N, trajectory="radial").replace("<x>6</x><y>8</y>", f"<x>{N}</x><y>{N}</y>")
    text = text.replace("240", "200").replace("480", "200")
    made = [
        acquisition(data[:, v], trajectory=stored[v], kspace_encode_step_1=v)
        for v in range(len(k))
    ]
    path = write(tmp_path / "raw.h5", made, text)
    for named in (unit, None):
        scan = load_ismrmrd(path, trajectory_unit=named)
        found = NonCartesianMRI(scan.trajectory[0], maps).A_dagger(scan.kspace)
        assert float((found - image).norm() / image.norm()) < 0.2
        torch.testing.assert_close(scan.trajectory[0], k.float(), rtol=1e-4, atol=1e-4)


def test_units_that_cannot_be_told_apart_are_named(tmp_path):
    """Of pixels of 1.01 mm: ends at the edge of the band in both, 1 % apart or more."""
    places = np.linspace(-0.5, 0.5, 12)[:, None].repeat(2, 1).astype(np.float32)
    text = header(N, N, trajectory="radial").replace("<x>6</x><y>8</y>", f"<x>{N}</x><y>{N}</y>")
    path = write(
        tmp_path / "raw.h5",
        [acquisition(random(COILS, H), trajectory=places)],
        text.replace("240", f"{1.015 * N}").replace("480", f"{1.015 * N}"),
    )
    with pytest.raises(errors.FileError, match="may be in cycles/pixel or 1/mm"):
        load_ismrmrd(path)
    reach = load_ismrmrd(path, trajectory_unit="1/mm").trajectory.abs().max()
    assert float(reach) == pytest.approx(1.015 * N / 2, rel=1e-4)


def test_units_that_are_none_are_named(tmp_path):
    places = np.random.default_rng(0).uniform(-30, 30, (12, 2)).astype(np.float32)
    made = [acquisition(random(COILS, H), trajectory=places)]
    path = write(tmp_path / "raw.h5", made, header(trajectory="radial"))
    with pytest.raises(errors.FileError, match=r"raw\.h5 reaches .* trajectory_unit="):
        load_ismrmrd(path)
    with pytest.warns(UserWarning, match="trajectory: extends to 0.5 cycles .* cycles per pixel"):
        NonCartesianMRI(radial_trajectory(8, 16, (N, N)) / N, simulate_sensitivity_maps(1, N, N))


def test_discarded_samples_leave_their_places(tmp_path):
    data, places = random(COILS, 20), np.random.default_rng(0).random((20, 2), np.float32) - 0.5
    head = {"discard_pre": 3, "discard_post": 1}
    made = [acquisition(data, trajectory=places, head=head)]
    scan = load_ismrmrd(write(tmp_path / "raw.h5", made, header(trajectory="spiral")))
    np.testing.assert_array_equal(scan.kspace[0, :, 0].numpy(), data[:, 3:-1])
    expected = (places[3:-1] * [6, 8])[:, ::-1]
    np.testing.assert_allclose(scan.trajectory[0, 0].numpy(), expected, rtol=1e-5)


def test_encodings_are_chosen_by_number(tmp_path):
    truth = random(COILS, H, W)
    second = scan_lines(truth)
    for each in second:
        each.encoding_space_ref = 1
    text = header(y=6, cy=3)
    inner = header().split("</encodedSpace>")[0].split("<encoding>")[1]
    both = text.replace(
        "</encoding></ismrm",
        f"</encoding><encoding>{inner}</encodedSpace>"
        + header().split("</encodedSpace>")[1].replace("</ismrmrdHeader>", "")
        + "</ismrm",
    )
    path = write(tmp_path / "raw.h5", [*scan_lines(random(COILS, H, 6)), *second], both)
    np.testing.assert_array_equal(load_ismrmrd(path, encoding=1).kspace[0].numpy(), truth)
    assert load_ismrmrd(path).kspace.shape == (1, COILS, H, 6)
    with pytest.raises(errors.FileError, match=r"raw\.h5 has 2 encodings, but no number 2"):
        load_ismrmrd(path, encoding=2)


def spoilt():
    data = random(COILS, H, W)
    data[1, 2, 3] = np.nan
    return data


RADIAL = header(trajectory="radial")
PLACES = np.zeros((H, 2), np.float32)
BROKEN = {
    "line": ([acquisition(random(COILS, H), kspace_encode_step_1=9)], None, "line 9 .*outside"),
    "partition": ([acquisition(random(COILS, H), kspace_encode_step_2=1)], None, "partition 1"),
    "long": ([acquisition(random(COILS, H + 4))], None, "samples 0 to 15, line 0 .* 12 x 8 x 1"),
    "centre": (
        [acquisition(random(COILS, 8), head={"center_sample": 1})],
        None,
        "samples 5 to 12",
    ),
    "coils": (
        [acquisition(random(c, H)) for c in (2, 3)],
        None,
        "acquisitions with 2 and with 3 coil",
    ),
    "NaN": (scan_lines(spoilt()), None, "'data' in raw.h5 has 1 NaN or infinite values of 36"),
    "noise": ([acquisition(random(2, 9), ["ACQ_IS_NOISE_MEASUREMENT"])], None, "no image acquisi"),
    "no places": (
        [acquisition(random(COILS, H))],
        RADIAL,
        "has 0 coordinates per sample, accepted",
    ),
    "sizes": (
        [acquisition(random(COILS, n), trajectory=PLACES[:n]) for n in (5, 6)],
        RADIAL,
        "has readouts or frames of several sizes",
    ),
    "counts": (
        [acquisition(random(COILS, H), trajectory=PLACES, slice=s) for s in (0, 0, 1)],
        RADIAL,
        "has readouts or frames of several sizes",
    ),
    "header": (scan_lines(random(COILS, H, W)), "<a", "the header in raw.h5 is not XML"),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_contradictions_are_named(kind, tmp_path):
    made, text, message = BROKEN[kind]
    with pytest.raises(errors.FileError, match=message) as raised:
        load_ismrmrd(write(tmp_path / "raw.h5", made, text))
    assert "raw.h5" in str(raised.value)


def test_other_files_are_named(tmp_path):
    path = tmp_path / "raw.h5"
    with pytest.raises(errors.FileError, match=r"no such file .*raw\.h5"):
        load_ismrmrd(path)
    with h5py.File(path, "w") as file:
        file["kspace"] = np.ones(3)
    with pytest.raises(
        errors.FileError, match="has no data set 'dataset/data', it contains: kspace"
    ):
        load_ismrmrd(path)
    with h5py.File(path, "w") as file:
        file["dataset/data"] = np.ones(3)
    with pytest.raises(
        errors.FileError, match="has no data set 'dataset/xml', it contains: dataset"
    ):
        load_ismrmrd(path)
    write(path, scan_lines(random(COILS, H, W)))
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(errors.FileError, match=r"cannot read .*raw\.h5' as ISMRMRD"):
        load_ismrmrd(path)


def test_the_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "raw.h5", scan_lines(random(COILS, H, W)))
    monkeypatch.setitem(sys.modules, "ismrmrd", None)
    with pytest.raises(ImportError, match=r"pip install 'wellposed\[ismrmrd\]'"):
        load_ismrmrd(path)
