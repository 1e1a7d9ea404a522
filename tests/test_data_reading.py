"""Files, collections of them held out in parts, and the crops drawn from them."""

import math
import os

import h5py
import nibabel
import numpy as np
import pytest
import scipy.io
import torch
from PIL import Image

from wellposed import errors
from wellposed.datasets import read_array
from wellposed.datasets.images.crops import Crops, random_phase
from wellposed.datasets.images.image_files import Collection, Stack, find_files
from wellposed.datasets.images.photograph import photograph_shape
from wellposed.datasets.images.reading import Reading
from wellposed.datasets.ultrasound import expand

pytestmark = pytest.mark.usefixtures("single_thread")


def grey(height=20, width=24, seed=0):
    """A smooth random picture in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 10
    a, b, c = rng.uniform(0.5, 2, 3)
    return ((1 + np.sin(a * x + c) * np.cos(b * y)) / 2).astype(np.float32)


def colour(seed=0):
    return np.stack([grey(seed=seed + i) for i in range(3)], -1)


def write_png(path, array):
    Image.fromarray(np.round(array * 255).astype(np.uint8)).save(path)


def volume(depth=6, height=20, width=24, channels=1, seed=0):
    return np.random.default_rng(seed).random((depth, height, width, channels), np.float32)


def write_h5(path, **data):
    with h5py.File(path, "w") as file:
        for name, value in data.items():
            file[name] = value
    return path


def stacks(folder, *arrays):
    """Arrays (D, H, W, C) as stacks of a collection."""
    for n, array in enumerate(arrays):
        np.save(folder / f"{n}.npy", array)
    found = Collection([folder], Reading(channel_axis=-1))
    return [Stack(found, n, slice(0, len(array))) for n, array in enumerate(arrays)]


# Crops


def test_crops_are_a_function_of_item_seed_and_step(tmp_path):
    data = stacks(tmp_path, volume(), volume(1, 40, 30, seed=1))
    make = lambda: Crops(data, 16, zoom=(0.8, 1.3), gain=(0.5, 1.2), complex_phase=True)  # noqa: E731
    first, second = make(), make()
    a = [first.batch(range(3), 7, step) for step in range(4)]
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    for step in (3, 1, 0, 2):
        assert torch.equal(second.batch(range(3), 7, step), a[step])
        assert torch.equal(second.batch(range(1, 3), 7, step), a[step][1:])
    every = torch.stack([crop for batch in a for crop in batch])
    assert len(every.flatten(1).unique(dim=0)) == 12
    assert not torch.equal(first.batch(range(3), 8, 0), a[0])
    assert a[0].shape == (3, 2, 16, 16)
    assert a[0].dtype == torch.float32


def test_plain_crops_are_windows_of_the_images(tmp_path):
    """Up to flips and transposition; every one of the eight poses occurs."""
    image = np.arange(20 * 24, dtype=np.float32).reshape(1, 20, 24, 1)
    poses = set()
    for crop in Crops(stacks(tmp_path, image), 16).batch(range(200), 0, 0)[:, 0].numpy():
        top, left = divmod(int(crop.min()), 24)
        window = image[0, top : top + 16, left : left + 16, 0]
        matches = [
            (turns, flip)
            for turns in range(4)
            for flip in (False, True)
            if np.array_equal(np.rot90(np.fliplr(window) if flip else window, turns), crop)
        ]
        assert len(matches) == 1
        poses.update(matches)
    assert len(poses) == 8


def test_every_place_of_the_images_is_reached(tmp_path):
    data = np.arange(3 * 20 * 18, dtype=np.float32).reshape(3, 20, 18, 1)
    crops = Crops(stacks(tmp_path, data), 16).batch(range(300), 0, 0)
    places = {divmod(int(crop.min()), 18) for crop in crops}
    assert places == {
        (20 * d + top, left) for d in range(3) for top in range(5) for left in (0, 1, 2)
    }


def test_slices_are_taken_across_the_axes(tmp_path):
    """A volume that is constant across an axis gives crops that know their axis."""
    data = np.arange(20, dtype=np.float32)[:, None, None, None] * np.ones((20, 20, 1), np.float32)
    data = stacks(tmp_path, data)
    across = Crops(data, 16, axes=(0,)).batch(range(20), 0, 0)
    assert bool((across.amax((1, 2, 3)) == across.amin((1, 2, 3))).all())
    along = Crops(data, 16, axes=(1, 2)).batch(range(20), 0, 0)
    assert bool((along.amax((1, 2, 3)) - along.amin((1, 2, 3)) == 15).all())
    both = Crops(data, 16, axes=(0, 1)).batch(range(100), 0, 0)
    flat = float((both.amax((1, 2, 3)) == both.amin((1, 2, 3))).double().mean())
    assert 0.35 < flat < 0.65


def test_stacks_count_by_the_square_root_of_their_file(tmp_path):
    """A quarter of a volume is drawn from as often as a single slice of it would be, and half."""
    big, small = np.zeros((16, 20, 20, 1), np.float32), np.ones((1, 20, 20, 1), np.float32)
    whole, single = stacks(tmp_path, big, small)
    drawn = lambda *s: float(Crops(s, 16).batch(range(600), 0, 0).mean())  # noqa: E731
    assert drawn(whole, single) == pytest.approx(1 / 5, abs=0.05)
    quarter = Stack(whole.collection, 0, slice(4, 8))
    assert drawn(quarter, single) == pytest.approx(1 / 2, abs=0.06)


def test_a_complex_phase_keeps_the_magnitude(tmp_path):
    data, gain = stacks(tmp_path, volume()), (0.5, 1.2)
    plain = Crops(data, 16, gain=gain).batch(range(4), 0, 3)
    parts = Crops(data, 16, gain=gain, complex_phase=True).batch(range(4), 0, 3)
    torch.testing.assert_close(parts.square().sum(1, keepdim=True).sqrt(), plain)
    unit = torch.view_as_complex(parts.permute(0, 2, 3, 1).contiguous()) / plain[:, 0]
    step = (unit[..., 1:] / unit[..., :-1]).angle()
    assert float(step.abs().max()) < 1  # smooth
    assert float((unit[0] / unit[1]).angle().std()) > 0.01  # another one per crop


def test_random_phases_are_per_item():
    magnitude = torch.rand(3, 2, 20, 30, generator=torch.Generator().manual_seed(0))
    images = random_phase(magnitude, seed=4)
    torch.testing.assert_close(images.abs(), magnitude)
    assert torch.equal(random_phase(magnitude[:2], seed=4), images[:2])
    angle = (images / magnitude)[:, :1]
    torch.testing.assert_close((images / magnitude)[:, 1:], angle)  # coils share it
    assert not torch.allclose(angle[0], angle[1])
    assert not torch.allclose(random_phase(magnitude, seed=5), images)


def test_gain_and_zoom_stay_in_their_ranges(tmp_path):
    (tmp_path / "flat").mkdir()
    flat = stacks(tmp_path / "flat", np.ones((1, 40, 40, 1), np.float32))
    gains = Crops(flat, 16, gain=(0.5, 1.2)).batch(range(200), 0, 0)[:, 0, 0, 0]
    assert 0.5 <= float(gains.min()) < 0.55
    assert 1.15 < float(gains.max()) <= 1.2
    ramp = np.broadcast_to(np.arange(40, dtype=np.float32)[:, None], (40, 40))[None, ..., None]
    crops = Crops(stacks(tmp_path, ramp), 16, zoom=(0.5, 2.0)).batch(range(200), 0, 0)
    extent = crops.amax((1, 2, 3)) - crops.amin((1, 2, 3))
    assert 6 <= float(extent.min()) < 9  # 8 pixels magnified
    assert 28 < float(extent.max()) <= 32  # 32 pixels made small


def test_a_smaller_size_can_be_asked_for(tmp_path):
    crops = Crops(stacks(tmp_path, volume()), 16)
    assert crops.batch(range(2), 0, 0, 8).shape == (2, 1, 8, 8)


@pytest.mark.parametrize(("flips", "poses"), [("none", 1), ("sideways", 2), ("all", 4)])
def test_tall_crops_are_windows_that_may_be_reversed(flips, poses, tmp_path):
    image = np.arange(20 * 24, dtype=np.float32).reshape(1, 20, 24, 1)
    crops = Crops(stacks(tmp_path, image), 8, aspect=2, flips=flips).batch(range(100), 0, 0)
    steps = {(int(c[0, 0, 1] - c[0, 0, 0]), int(c[0, 1, 0] - c[0, 0, 0])) for c in crops}
    assert crops.shape == (100, 1, 16, 8)
    assert len(steps) == poses
    assert steps <= {(i, j) for i in (1, -1) for j in (24, -24)}
    assert (1, 24) in steps
    assert {int(crop.min()) % 24 for crop in crops} == set(range(17))


def test_square_crops_keep_their_pose_if_asked(tmp_path):
    image = np.arange(20 * 24, dtype=np.float32).reshape(1, 20, 24, 1)
    for crop in Crops(stacks(tmp_path, image), 8, flips="none").batch(range(40), 0, 0)[:, 0]:
        assert crop[0, 1] - crop[0, 0] == 1
        assert crop[1, 0] - crop[0, 0] == 24


def test_signals_change_sign_and_are_companded_after_their_gain(tmp_path):
    (tmp_path / "wide").mkdir()
    flat = stacks(tmp_path, np.full((1, 16, 16, 1), 0.01, np.float32))
    crops = Crops(flat, 8, gain=(0.5, 2.0), polarity=True, companding=255.0)
    values = crops.batch(range(200), 0, 0)[:, 0, 0, 0]
    linear = expand(values)
    assert 0.005 <= float(linear.abs().min()) < 0.006
    assert 0.019 < float(linear.abs().max()) <= 0.02
    assert 70 < int((values < 0).sum()) < 130
    loud = stacks(tmp_path / "wide", np.full((1, 16, 16, 1), 3.0, np.float32))
    assert bool((Crops(loud, 8, companding=255.0).batch(range(2), 0, 0) == 1).all())


def test_signals_without_a_mean_are_not_empty(tmp_path):
    """What counts is their magnitude: all of two opposite signals are drawn alike."""
    data = np.full((40, 16, 16, 1), -1, np.float32)
    data[::2] = 1
    drawn = Crops(stacks(tmp_path, data), 16).batch(range(300), 0, 0)
    assert float(drawn.mean()) == pytest.approx(0, abs=0.15)


def test_empty_crops_are_mostly_redrawn(tmp_path):
    half = np.zeros((40, 16, 16, 1), np.float32)
    half[::2] = 1
    data = stacks(tmp_path, half)
    share = lambda least: float(  # noqa: E731
        Crops(data, 16, foreground=least).batch(range(300), 0, 0).mean()
    )
    assert share(0.0) == pytest.approx(0.5, abs=0.1)
    assert 0.93 < share(0.5) < 1


def test_crops_name_images_that_are_too_small(tmp_path):
    data = stacks(tmp_path, volume(), volume(1, 40, 40))
    with pytest.raises(
        errors.ShapeError, match=r"size: got crops of 32 x 32 .* 0\.npy .* of 20 x 24;"
    ):
        Crops(data, 32)
    with pytest.raises(errors.ShapeError, match=r"0\.npy has slices across axis 1 of 6 x "):
        Crops(data[:1], 16, axes=(0, 1, 2))
    with pytest.raises(errors.ShapeError, match=r"0\.npy\[1:4\] has slices across .* of 3 x "):
        Crops([Stack(data[0].collection, 0, slice(1, 4))], 16, axes=(2,))
    assert Crops(data, 20).batch(range(1), 0, 0).shape == (1, 1, 20, 20)
    magnified = Crops(data, 32, zoom=(1.0, 1.6))
    assert magnified.batch(range(9), 0, 0).shape == (9, 1, 32, 32)
    with pytest.raises(errors.ShapeError, match=r"crops of 24 x 8 .* 0\.npy .* of 20 x 24;"):
        Crops(data, 8, aspect=3)
    with pytest.raises(errors.ArgumentError, match="Did you mean 'sideways'"):
        Crops(data, 8, flips="sideway")
    with pytest.raises(errors.ArgumentError, match="at least one stack of images"):
        Crops([], 16)


def test_crops_name_channels_that_do_not_fit(tmp_path):
    (tmp_path / "other").mkdir()
    one, three = stacks(tmp_path, volume()), stacks(tmp_path / "other", volume(channels=3))
    with pytest.raises(errors.ShapeError, match=r"0\.npy has 3 channels, accepted: 1, as for"):
        Crops([*one, *three], 16)
    with pytest.raises(errors.ShapeError, match="3 channels, accepted: 1, with complex_phase"):
        Crops(three, 16, complex_phase=True)
    assert Crops(three, 16).batch(range(2), 0, 0).shape == (2, 3, 16, 16)
    assert (Crops(three, 16).channels, Crops(one, 16, complex_phase=True).channels) == (3, 2)


# Collections


def test_a_collection_reads_folders_and_volumes(tmp_path):
    photos = tmp_path / "photos" / "deep"
    photos.mkdir(parents=True)
    for i in (2, 0, 1):
        write_png(photos / f"{i}.png", grey(seed=i))
    (photos / "notes.txt").write_text("not an image")
    np.save(tmp_path / "scan.npy", 7 * volume()[..., 0])
    found = Collection([tmp_path / "photos", str(tmp_path / "scan.npy")])
    assert [f.name for f in found.files] == ["0.png", "1.png", "2.png", "scan.npy"]
    assert found.shapes == [(1, 20, 24, 1)] * 3 + [(6, 20, 24, 1)]
    arrays = [found.array(n) for n in range(4)]
    assert [a.shape for a in arrays] == found.shapes
    assert all(a.dtype == np.float32 for a in arrays)
    np.testing.assert_allclose(arrays[1][0, ..., 0], grey(seed=1), atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(arrays[3][..., 0], 7 * volume()[..., 0])


def test_what_is_found_twice_counts_once(tmp_path):
    """It could be held out and trained on otherwise."""
    for i in range(2):
        write_png(tmp_path / f"{i}.png", grey(seed=i))
    (tmp_path / "link.png").symlink_to(tmp_path / "0.png")
    paths = [tmp_path / "1.png", tmp_path, os.path.relpath(tmp_path / "1.png")]
    found = Collection(paths)
    assert len(found.files) == 2
    assert {f.resolve().name for f in found.files} == {"0.png", "1.png"}


def kinds_of_volume(folder):
    """The same volume (D, H, W) in every kind of file."""
    data = volume()[..., 0]
    np.save(folder / "a.npy", data)
    write_h5(folder / "a.h5", scan=data)
    write_h5(folder / "a.hdf5", scan=data)
    scipy.io.savemat(folder / "a.mat", {"scan": data})
    write_h5(folder / "seven.mat", scan=data.T)  # as MATLAB 7.3 has them
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(nibabel.Nifti1Image(data, np.eye(4)), folder / name)
    return data


def test_every_kind_of_file_gives_the_same_volume(tmp_path):
    data = kinds_of_volume(tmp_path)
    found = Collection([tmp_path])
    assert len(found.files) == 7
    for n, file in enumerate(found.files):
        np.testing.assert_array_equal(found.array(n), data[..., None], err_msg=file.name)


@pytest.mark.parametrize("axis", [0, 1, 2, -1, -2, -3])
def test_cubes_of_many_channels(axis, tmp_path):
    cube = volume(1, channels=11)[0]
    np.save(tmp_path / "cube.npy", np.moveaxis(cube, -1, axis))
    found = Collection([tmp_path], Reading(channel_axis=axis))
    assert found.shapes == [(1, 20, 24, 11)]
    np.testing.assert_array_equal(found.array(0)[0], cube)


@pytest.mark.parametrize("axis", [0, 1, 2, 3, -1])
def test_volumes_of_many_channels(axis, tmp_path):
    data = volume(channels=4)
    np.save(tmp_path / "scan.npy", np.moveaxis(data, -1, axis))
    found = Collection([tmp_path], Reading(channel_axis=axis))
    np.testing.assert_array_equal(found.array(0), data)


def test_photographs_have_channels_of_their_own(tmp_path):
    write_png(tmp_path / "photo.png", colour())
    assert Collection([tmp_path], Reading(channel_axis=0)).shapes == [(1, 20, 24, 3)]


def test_windows_and_percentiles_scale(tmp_path):
    data = np.linspace(-2000, 3000, 2 * 10 * 10).reshape(2, 10, 10)
    np.save(tmp_path / "scan.npy", data)
    scaled = Collection([tmp_path], Reading(window=(-1000.0, 1000.0))).array(0)[..., 0]
    np.testing.assert_allclose(scaled, ((data + 1000) / 2000).clip(0, 1), atol=1e-6)
    scaled = Collection([tmp_path], Reading(percentile=90.0)).array(0)[..., 0]
    positive = data > 0
    assert float((scaled[positive] > 1).mean()) == pytest.approx(0.1, abs=0.01)
    np.testing.assert_allclose(scaled / scaled.max(), data / data.max(), atol=1e-6)


class Reads(Reading):
    """Counts what it reads."""

    read_files = ()

    def read(self, path):
        object.__setattr__(self, "read_files", (*self.read_files, path.name))
        return super().read(path)


def test_photographs_are_read_when_they_are_needed_and_kept(tmp_path):
    for i in range(3):
        write_png(tmp_path / f"{i}.png", grey(seed=i))
    reading = Reads()
    found = Collection([tmp_path], reading)
    assert reading.read_files == ()
    for n in (1, 1, 2, 1):
        found.array(n)
    assert reading.read_files == ("1.png", "2.png")


def test_what_does_not_fit_in_memory_is_read_again(tmp_path):
    for i in range(3):
        write_png(tmp_path / f"{i}.png", grey(seed=i))
    reading, bytes_of_one = Reads(), 4 * 20 * 24
    found = Collection([tmp_path], reading, cache_bytes=2 * bytes_of_one)
    arrays = [found.array(n).copy() for n in (0, 1, 2, 2, 0, 1)]
    assert reading.read_files == ("0.png", "1.png", "2.png", "2.png")
    np.testing.assert_array_equal(arrays[2], arrays[3])


@pytest.mark.parametrize(
    ("array", "reading", "error", "message"),
    [
        (np.array([[1.0, np.nan], [0, 0]]), {}, errors.FileError, "contains NaN"),
        (np.array([[1.0, np.inf], [0, 0]]), {}, errors.FileError, "contains NaN or infinite"),
        (np.zeros((2, 2)), {"percentile": 99.8}, errors.FileError, "no positive value"),
        (np.ones((2, 2), np.complex64), {}, errors.FileError, "has complex64, accepted: real"),
        (np.full((2, 2), "a"), {}, errors.FileError, "accepted: real numbers"),
        (np.ones((2, 2, 2, 2)), {}, errors.ShapeError, "array of 4 axes"),
        (np.ones(3), {}, errors.ShapeError, "array of 1 axes"),
        (np.ones((2, 2)), {"channel_axis": -1}, errors.ShapeError, "accepted with channel_axis"),
        (np.ones((2, 2, 2)), {"channel_axis": 3}, errors.ShapeError, "channel_axis 3"),
        (np.ones((2, 2, 2)), {"channel_axis": -4}, errors.ShapeError, "channel_axis -4"),
    ],
)
def test_a_collection_names_files_it_cannot_use(array, reading, error, message, tmp_path):
    np.save(tmp_path / "scan.npy", array)
    with pytest.raises(error, match=f"scan.npy.*{message}"):
        Collection([tmp_path / "scan.npy"], Reading(**reading))


def test_a_collection_names_files_of_other_channels(tmp_path):
    """At once, and not when one of them is first drawn, or held out."""
    for i in range(3):
        write_png(tmp_path / f"{i}.png", grey(seed=i))
    write_png(tmp_path / "9.png", colour())
    with pytest.raises(errors.ShapeError, match=r"9\.png has 3 channels, accepted: 1 as for"):
        Collection([tmp_path])


def test_a_collection_of_nothing(tmp_path):
    with pytest.raises(errors.FileError, match="no image files"):
        Collection([tmp_path])
    with pytest.raises(errors.FileError, match="no image files"):
        Collection([])
    for name in ("missing", "missing.png", "missing.npy"):
        with pytest.raises(errors.FileError, match=rf"(?i)no such file .*{name}"):
            Collection([tmp_path / name])
    assert find_files(tmp_path) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": (1.0, 1.0)}, "window: got .1.0, 1.0., accepted: .low, high. with low < high"),
        ({"window": (0.0, math.nan)}, "window: got"),
        ({"window": (-math.inf, 0.0)}, "window: got"),
        ({"percentile": 0.0}, "percentile: got 0.0, accepted: None, or a number in"),
        ({"percentile": 100.1}, "percentile: got 100.1"),
        ({"window": (0.0, 1.0), "percentile": 99.0}, "window: .* None with a percentile"),
    ],
)
def test_readings_name_what_cannot_be(change, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Reading(**change)


# What is held out


def slices_of(parts):
    """The values of a collection whose every slice holds a number of its own."""
    return [int(v) for part in parts for v in part.array()[:, 0, 0, 0]]


def numbered(folder, *depths):
    """Files of as many slices, numbered through."""
    count = 0
    for n, depth in enumerate(depths):
        data = np.arange(count, count + depth, dtype=np.float32)
        np.save(folder / f"{n:03d}.npy", np.broadcast_to(data[:, None, None], (depth, 4, 4)))
        count += depth
    return Collection([folder]), count


def test_a_slab_of_a_volume_is_held_out(tmp_path):
    found, _ = numbered(tmp_path, 40)
    train, held = found.split(0.1)
    assert slices_of(held) == [13, 14, 15, 16]
    assert slices_of(train) == [*range(13), *range(17, 40)]
    assert [part.shape for part in train] == [(13, 4, 4, 1), (23, 4, 4, 1)]
    assert [part.share for part in train] == [13 / 40, 23 / 40]
    assert [part.name for part in train] == ["000.npy[0:13]", "000.npy[17:40]"]
    assert [part.name for part in found.whole()] == ["000.npy"]


@pytest.mark.parametrize(("count", "expected"), [(2, 1), (3, 1), (10, 1), (40, 2), (100, 5)])
def test_whole_images_are_held_out(count, expected, tmp_path):
    found, _ = numbered(tmp_path, *[1] * count)
    train, held = found.split(0.05)
    assert len(held) == expected
    assert sorted([*slices_of(train), *slices_of(held)]) == list(range(count))


def test_a_single_image_serves_as_both(tmp_path):
    found, _ = numbered(tmp_path, 1)
    assert found.split(0.05) == (found.whole(), found.whole())


@pytest.mark.parametrize("depths", [(2,), (3, 50), (1, 1, 1, 30), (7, 1), (20, 20, 1, 1, 1)])
@pytest.mark.parametrize("fraction", [0.01, 0.05, 0.3, 0.49])
def test_nothing_is_on_both_sides_and_nothing_lost(depths, fraction, tmp_path):
    found, count = numbered(tmp_path, *depths)
    train, held = (slices_of(part) for part in found.split(fraction))
    if len(depths) > 1 or round(fraction * depths[0]):
        assert sorted(train + held) == list(range(count))
        assert train
        assert held
    else:  # too thin to be cut
        assert train == held == list(range(count))


def test_the_split_depends_on_nothing_but_the_files(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    order = np.random.default_rng(0).permutation(30)
    for n in range(30):
        write_png(tmp_path / "one" / f"{n:02d}.png", grey(seed=n))
    for n in order:
        write_png(tmp_path / "two" / f"{n:02d}.png", grey(seed=n))
    a, b = (Collection([tmp_path / name]).split(0.1) for name in ("one", "two"))
    assert [p.name for p in a[1]] == [p.name for p in b[1]]
    assert len(a[1]) == 3


TEXT = h5py.string_dtype()
GROUPS = {
    "numbers": lambda n: np.asarray(n),
    "bytes": lambda n: np.array([f"patient {v}".encode() for v in n]),
    "text": lambda n: np.array([f"patient {v}" for v in n], dtype=TEXT),
}


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize(("fraction", "expected"), [(0.05, 1), (0.2, 2), (0.3, 4), (0.49, 6)])
def test_no_group_is_on_both_sides(kind, fraction, expected, tmp_path):
    """Slices are unordered, and a patient may be in two files."""
    rng = np.random.default_rng(0)
    patients = [rng.integers(0, 8, 40), rng.integers(4, 12, 30)]
    for n, numbers in enumerate(patients):
        pixels = np.broadcast_to(numbers[:, None, None], (len(numbers), 4, 4))
        write_h5(tmp_path / f"{n}.h5", pixels=pixels, patient=GROUPS[kind](numbers))
    found = Collection([tmp_path], Reading(group_key="patient"))
    train, held = found.split(fraction)
    assert set(slices_of(train)).isdisjoint(slices_of(held))
    assert sorted(slices_of(train) + slices_of(held)) == sorted(np.concatenate(patients).tolist())
    assert len(set(slices_of(held))) == expected


def test_patients_count_by_the_square_root_of_their_slices(tmp_path):
    """However their slices lie, and in however many files."""
    names = [np.array([b"a"] * 8 + [b"b"]), np.array([b"a", b"c"] * 4)]
    for n, patient in enumerate(names):
        pixels = np.stack([np.full((16, 16), ord(p)) for p in patient.tolist()])
        write_h5(tmp_path / f"{n}.h5", pixels=pixels, patient=patient)
    train, held = Collection([tmp_path], Reading(group_key="patient")).split(0.3)
    assert set(slices_of(held)) == {ord("c")}
    drawn = Crops(train, 16).batch(range(800), 0, 0)
    assert float((drawn == ord("b")).float().mean()) == pytest.approx(1 / (1 + 12**0.5), abs=0.04)


def test_a_file_without_keys_is_a_patient_and_a_volume(tmp_path):
    """Sliced across any axis, where unordered slices are not."""
    unordered = np.arange(20)[:, None, None] * np.ones((20, 20))
    np.save(tmp_path / "0.npy", unordered)
    write_h5(tmp_path / "1.h5", pixels=unordered, patient=np.arange(20) // 10)
    found = Collection([tmp_path], Reading(group_key="patient"))
    train, held = found.split(0.4)
    assert [part.name for part in train + held] == ["1.h5[0:10]", "1.h5[10:20]", "0.npy"]
    axes = dict(size=16, axes=(1, 2))
    for part in train + held:
        crops = Crops([part], **axes).batch(range(20), 0, 0)
        flat = crops.amax((1, 2, 3)) == crops.amin((1, 2, 3))
        assert bool((flat == (part.name != "0.npy")).all())


def test_crops_stay_inside_what_was_measured(tmp_path):
    pixels, valid = np.zeros((2, 24, 24)), np.array([[0, 24, 4, 22], [3, 23, 0, 16]])
    for image, (y0, y1, x0, x1) in zip(pixels, valid, strict=True):
        image[y0:y1, x0:x1] = 1
    np.save(tmp_path / "0.npy", pixels[:1] + 1)
    write_h5(tmp_path / "1.h5", pixels=pixels, valid=valid)
    stacks = Collection([tmp_path], Reading(valid_key="valid")).whole()
    assert bool((Crops(stacks, 16).batch(range(200), 0, 0) > 0).all())
    with pytest.raises(errors.ShapeError, match=r"1\.h5 has slices of 20 x 16"):
        Crops(stacks, 18)


@pytest.mark.parametrize("valid", [[[0, 4, 0, 4]], [[0, 4, 0, 5]] * 2, [[2, 2, 0, 4]] * 2])
def test_rectangles_that_cannot_be_are_named(valid, tmp_path):
    path = write_h5(tmp_path / "a.h5", pixels=np.ones((2, 4, 4)), valid=np.array(valid))
    stack = Collection([path], Reading(key="pixels", valid_key="valid")).whole()[0]
    with pytest.raises(errors.ShapeError, match=r"valid_key: 'valid' in a\.h5 has sha.* x1 <= 4"):
        stack.valid  # noqa: B018


def test_each_volume_has_a_percentile_of_its_own(tmp_path):
    """A file without keys is one volume."""
    pixels, volumes = np.arange(1.0, 97).reshape(6, 4, 4), np.array([b"b", b"a", b"b"] * 2)
    write_h5(tmp_path / "a.h5", pixels=pixels, volume=volumes)
    np.save(tmp_path / "b.npy", pixels)
    found = Collection([tmp_path], Reading(percentile=50.0, volume_key="volume"))
    for label in (b"a", b"b"):
        ours = volumes == label
        expected = pixels[ours] / np.median(pixels[ours])
        np.testing.assert_allclose(found.array(0)[ours, ..., 0], expected, rtol=1e-6)
    np.testing.assert_allclose(found.array(1)[..., 0], pixels / np.median(pixels), rtol=1e-6)


def test_volumes_that_cannot_be_are_named(tmp_path):
    pixels = np.ones((4, 4, 4))
    pixels[2:] = 0
    path = write_h5(tmp_path / "a.h5", pixels=pixels, short=[1, 2], volume=[0, 0, 1, 1])
    read = lambda key: Collection([path], Reading(percentile=50.0, volume_key=key))  # noqa: E731
    with pytest.raises(errors.ShapeError, match=r"volume_key: 'short' in a.h5 has shape \(2,\)"):
        read("short")
    with pytest.raises(errors.FileError, match="no positive value to scale by"):
        read("volume")


@pytest.mark.parametrize("seven", [False, True])
def test_groups_of_matlab_files(seven, tmp_path):
    """Which know no vectors."""
    numbers = np.array([[3, 1, 3, 2, 1, 2]])
    pixels = np.broadcast_to(numbers.T[..., None], (6, 4, 4)).astype(float)
    if seven:
        write_h5(tmp_path / "a.mat", pixels=pixels.T, patient=numbers)
    else:
        scipy.io.savemat(tmp_path / "a.mat", {"pixels": pixels, "patient": numbers})
    train, held = Collection([tmp_path], Reading(group_key="patient")).split(0.4)
    assert (slices_of(train), slices_of(held)) == ([3, 1, 3, 1], [2, 2])


def test_groups_that_cannot_be_are_named(tmp_path):
    pixels = np.ones((6, 4, 4))
    path = write_h5(tmp_path / "a.h5", pixels=pixels, short=[1, 2], same=[1] * 6)
    split = lambda key: Collection([path], Reading(group_key=key)).split(0.1)  # noqa: E731
    with pytest.raises(
        errors.ShapeError, match=r"group_key: 'short' in a.h5 has shape \(2,\), ac"
    ):
        split("short")
    with pytest.raises(
        errors.FileError, match="has no 'patient', it contains: pixels, same, short"
    ):
        split("patient")
    with pytest.raises(errors.ArgumentError, match="group_key: got 'one group', accepted: a key"):
        split("same")
    write_png(tmp_path / "photo.png", grey())
    with pytest.raises(
        errors.FileError, match=r"group_key: photo\.png has no keys, accepted: \.h5"
    ):
        Collection([tmp_path / "photo.png"], Reading(group_key="patient")).split(0.1)


@pytest.mark.parametrize("fraction", [0.0, -0.1, 0.5, 1.0, math.nan])
def test_fractions_that_cannot_be_are_named(fraction, tmp_path):
    found, _ = numbered(tmp_path, 10)
    with pytest.raises(errors.ArgumentError, match=r"fraction: got .*, accepted: a number in"):
        found.split(fraction)


# Files


@pytest.mark.parametrize("suffix", [".png", ".PNG", ".bmp", ".tif", ".jpg"])
@pytest.mark.parametrize("channels", [1, 3])
def test_photographs_come_in_0_to_1(suffix, channels, tmp_path):
    image = colour() if channels == 3 else grey()
    path = tmp_path / f"photo{suffix}"
    write_png(path, image)
    array = read_array(path)
    assert array.shape == image.shape
    assert array.dtype == np.float32
    assert photograph_shape(path) == (20, 24, channels)
    np.testing.assert_allclose(array, image, atol=0.1 if suffix == ".jpg" else 0.5 / 255 + 1e-6)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
def test_the_shape_of_a_photograph_is_that_of_its_pixels(mode, tmp_path):
    path = tmp_path / ("photo.tif" if mode in ("CMYK", "YCbCr") else "photo.png")
    image = Image.fromarray(np.round(grey() * 255).astype(np.uint8))
    deep = Image.fromarray(np.round(grey() * 65535).astype(np.uint16))
    (deep if mode == "I;16" else image.convert(mode)).save(path)
    pixels = read_array(path)
    assert photograph_shape(path) == (*pixels.shape, 1)[:3]
    assert 0 <= pixels.min() < pixels.max() <= 1
    assert Collection([path]).array(0).shape == Collection([path]).shapes[0]


def test_deep_pixels(tmp_path):
    deep = np.round(grey() * 65535).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_allclose(read_array(tmp_path / "deep.png"), deep / 65535, rtol=1e-6)
    # Pillow would clip 32-bit pixels to 0..255 in silence.
    Image.fromarray(grey()).save(tmp_path / "float.tif")
    for read in (read_array, photograph_shape, lambda path: Collection([path])):
        with pytest.raises(errors.FileError, match=r"float\.tif has 32-bit pixels"):
            read(tmp_path / "float.tif")


def test_arrays_come_as_they_are_stored(tmp_path):
    array = volume()[..., 0] * (1 + 2j)
    np.save(tmp_path / "a.npy", array)
    np.testing.assert_array_equal(read_array(str(tmp_path / "a.npy")), array)
    scipy.io.savemat(tmp_path / "a.mat", {"array": array})
    np.testing.assert_array_equal(read_array(tmp_path / "a.mat"), array)
    scan = nibabel.Nifti1Image(array.real.astype(np.int16), np.eye(4))
    scan.header.set_slope_inter(2.0, 1.0)
    for name in ("scan.nii", "scan.nii.gz", "SCAN.NII.GZ"):
        nibabel.save(scan, tmp_path / name)
        expected = np.asarray(nibabel.load(tmp_path / name).dataobj)
        np.testing.assert_array_equal(read_array(tmp_path / name), expected)


def write_keyed(path, **data):
    """HDF5, or MATLAB's format of old."""
    if path.suffix == ".mat":
        scipy.io.savemat(path, {**data, "note": "text", "cells": np.array(["a", [1]], object)})
    else:
        write_h5(path, **data)
    return path


@pytest.mark.parametrize("suffix", [".h5", ".hdf5", ".mat"])
def test_keys(suffix, tmp_path):
    path = write_keyed(tmp_path / f"scan{suffix}", small=np.ones((2, 2)), large=np.ones((4, 4)))
    assert read_array(path).shape == (4, 4)
    assert read_array(path, "small").shape == (2, 2)
    with pytest.raises(
        errors.FileError, match=r"scan\..* has no 'kspace', it contains: (?=.*small)"
    ):
        read_array(path, "kspace")


def test_hdf5_groups_and_lines(tmp_path):
    path = write_h5(tmp_path / "scan.h5", line=np.ones(100), **{"group/large": np.ones((4, 4))})
    assert read_array(path).shape == (4, 4)  # the largest image; lines do not count
    assert read_array(path, "group/large").shape == (4, 4)
    assert read_array(path, "line", min_axes=1).shape == (100,)
    for key in ("line", "group"):
        with pytest.raises(errors.FileError, match=f"has no '{key}', it contains: group/large"):
            read_array(path, key)
    with pytest.raises(errors.FileError, match="has no data set of 2 or more axes"):
        read_array(write_h5(tmp_path / "empty.hdf5", line=np.ones(100)))


KINDS = ["a.png", "a.jpg", "a.npy", "a.h5", "a.nii", "a.nii.gz", "a.mat", "seven.mat"]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("keep", [0.0, 0.6])
def test_truncated_files_are_named(name, keep, tmp_path):
    kinds_of_volume(tmp_path)
    write_png(tmp_path / "a.png", grey())
    write_png(tmp_path / "a.jpg", grey())
    path = tmp_path / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    with pytest.raises(errors.FileError, match=f"path: cannot read .*{name}"):
        read_array(path)
    if path.suffix in (".png", ".jpg") and keep == 0:
        with pytest.raises(errors.FileError, match=f"cannot read .*{name}' as an image"):
            photograph_shape(path)


def test_missing_and_unknown_files_are_named(tmp_path):
    with pytest.raises(errors.FileError, match=r"no such file .*missing\.png"):
        read_array(tmp_path / "missing.png")
    with pytest.raises(errors.FileError, match=r"no such file .*missing\.png"):
        photograph_shape(tmp_path / "missing.png")
    with pytest.raises(errors.FileError, match="no such file"):
        read_array(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(errors.FileError, match=r"got 'notes.txt', accepted: \.png, .*\.nii\.gz"):
        read_array(tmp_path / "notes.txt")


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / "a.npy", np.array([{"a": 1}, None], dtype=object))
    with pytest.raises(errors.FileError, match="allow_pickle=False"):
        read_array(tmp_path / "a.npy")
