"""Volumes slab by slab: the bits of the whole, one slab in memory, and runs that go on."""

import weakref

import h5py
import numpy as np
import pytest
import torch
from tests.helpers import C64, Killed, random

from wellposed import operators, priors, solvers
from wellposed.datasets import load_zarr, read
from wellposed.errors import ArgumentError, ShapeError
from wellposed.parallel.slabs import Slabs
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.runs.allocation import LivePeak

zarr = pytest.importorskip("zarr")
pytestmark = pytest.mark.usefixtures("single_thread")

D, H, W = 7, 16, 12
DDS = solvers.DDS(steps=3, cg_steps=2)


@pytest.fixture(scope="module")
def prior():
    torch.manual_seed(0)
    network = ConvUNet(2, (8, 16), 1)
    schedule = priors.Tabulated.linear()
    return priors.Itemwise(
        priors.NetworkPrior(network, schedule, "sample", channels=1, is_complex=True)
    )


def scan(depth):
    """K-space of slices, and the operator of some of them, each with maps and a mask."""
    maps = torch.stack(
        [operators.simulate_sensitivity_maps(3, H, W, seed=d) for d in range(depth)]
    )
    masks = torch.stack([operators.uniform_random_lines(W, 2, seed=d) for d in range(depth)])
    masks = masks[:, None].expand(-1, H, -1)

    def operator(first, end):
        return operators.MultiCoilMRI(masks[first:end], maps[first:end], 0.05)

    image = 0.3 * random(depth, 1, H, W, dtype=C64)
    return operator(0, depth).measure(image, 0), operator


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """K-space in a zarr store, of which a slab is read at a time."""
    path = tmp_path_factory.mktemp("scan") / "kspace.zarr"
    y, operator = scan(D)
    zarr.create_array(str(path), data=y.numpy(), chunks=(2, 3, H, W))
    volume = load_zarr(path)

    def part(first, end):
        return torch.from_numpy(volume.rows(0, first, end)), operator(first, end)

    return y, operator, part


@pytest.fixture(scope="module")
def whole(store, prior):
    y, operator, _ = store
    return DDS(y, operator(0, D), prior, num_samples=2, seed=5)


@pytest.mark.parametrize("thickness", [1, 2, 3, 7, 9])
def test_the_slabs_have_the_bits_of_the_whole(store, prior, whole, tmp_path, thickness):
    slabs = Slabs(D, thickness, store[2])
    paths = solvers.by_slabs(DDS, slabs, prior, tmp_path, num_samples=2, seed=5)
    assert [path.name for path in paths] == ["mean.zarr", "std.zarr", "samples.zarr"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    mean, std, samples = map(load_zarr, paths)
    assert mean.chunks == (min(thickness, D), H, W)
    assert samples.chunks == (1, min(thickness, D), H, W)
    np.testing.assert_array_equal(mean.values, whole.mean[:, 0].abs())
    np.testing.assert_array_equal(std.values, whole.std[:, 0])
    np.testing.assert_array_equal(samples.values, whole.samples[:, :, 0])


def test_a_killed_run_goes_on_at_the_first_missing_slab(store, prior, whole, tmp_path):
    part, begun = store[2], []

    def dying(first, end):
        begun.append(first)
        if first == 4:
            raise Killed
        return part(first, end)

    def run(read, **changes):
        given = {"num_samples": 2, "seed": 5, **changes}
        return solvers.by_slabs(DDS, Slabs(D, 2, read), prior, tmp_path, **given)

    with pytest.raises(Killed):
        run(dying)
    assert [path.name for path in tmp_path.iterdir()] == ["slabs"]  # none that seem complete
    begun.clear()
    with pytest.raises(Killed):
        run(dying)
    assert begun == [0, 4]  # the first for the identity of the data
    _, _, samples = run(part)
    np.testing.assert_array_equal(load_zarr(samples).values, whole.samples[:, :, 0])
    with pytest.raises(Killed):
        run(dying)
    (mean,) = run(part, num_samples=1)  # another run does not go on from it
    np.testing.assert_array_equal(load_zarr(mean).values, whole.samples[0, :, 0].abs())


def test_one_slab_is_alive_at_a_time(store, prior, tmp_path):
    part, alive, most = store[2], weakref.WeakSet(), []

    def counted(first, end):
        most.append(sum(len(y) for y in alive))
        y, operator = part(first, end)
        alive.add(y)
        return y, operator

    solvers.by_slabs(DDS, Slabs(D, 2, counted), prior, tmp_path)
    assert most == [0] * 5  # what was read before is gone


def test_the_peak_does_not_grow_with_the_depth(prior, tmp_path):
    def peak(depth):
        y, operator = scan(depth)
        slabs = Slabs(depth, 2, lambda a, b: (y[a:b].clone(), operator(a, b)))
        with LivePeak() as count:
            solvers.by_slabs(DDS, slabs, prior, tmp_path / str(depth))
        return count.peak

    peak(2)  # tables that are made once
    assert peak(12) == peak(4)


def test_one_scale_is_that_of_the_whole(store, prior):
    y, operator, part = store
    inner = prior.prior
    found = priors.fit_range(inner, y, operator(0, D)).data_range
    for thickness in (1, 3, 7, 9):
        assert priors.fit_range_by_slabs(inner, Slabs(D, thickness, part)).data_range == found


def test_rows_of_hdf5_and_npy_are_read_alone(tmp_path):
    array = random(D, 4, 5, dtype=C64).numpy()
    np.save(tmp_path / "a.npy", array)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["values"] = array
    for name in ("a.npy", "a.h5"):
        image = read(tmp_path / name)
        assert (image.stored.shape, image.stored.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(image.rows(0, 2, 4), array[2:4])
        np.testing.assert_array_equal(image.rows(2, 1, 2), array[:, :, 1:2])
        np.testing.assert_array_equal(image.values, array)


def test_what_cannot_be_solved_by_slices_is_refused(store, prior, tmp_path):
    part = store[2]
    slabs = Slabs(D, 2, part)
    with pytest.raises(ArgumentError, match="solver: got 'DDS3D', accepted: a solver of images"):
        solvers.by_slabs(solvers.DDS3D(), slabs, prior, tmp_path)
    with pytest.raises(ArgumentError, match="read: got 3"):
        Slabs(D, 2, 3)
    with pytest.raises(ArgumentError, match="thickness: got 0"):
        Slabs(D, 0, part)
    with pytest.raises(ShapeError, match="slabs: got 1 measurements"):
        solvers.by_slabs(DDS, Slabs(D, 2, lambda a, b: part(a, a + 1)), prior, tmp_path)
    plain = load_zarr(zarr_of(tmp_path / "other.zarr"))
    with pytest.raises(ShapeError, match="like: got 3 slices, accepted: 7"):
        solvers.by_slabs(DDS, slabs, prior, tmp_path, like=plain)


def zarr_of(path):
    zarr.create_array(str(path), data=np.zeros((3, H, W), np.float32), chunks=(1, H, W))
    return path
