"""Volumes slab by slab: the bits of the whole, one slab in memory, and runs that go on."""

import weakref

import h5py
import nibabel
import numpy as np
import pytest
import torch
from tests.helpers import C64, Killed, random, run, tiny_prior
from tests.test_zarr import ome

from wellposed import operators, priors, solvers
from wellposed.datasets import load_zarr, read
from wellposed.datasets.volumes.slab_folder import SlabFolder
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
    for change in ({"solver": 3}, {"slabs": 3}, {"prior": 3}, {"seed": -1}, {"num_samples": 0}):
        given = {"solver": DDS, "slabs": slabs, "prior": prior, "out": tmp_path / "no"} | change
        with pytest.raises(ArgumentError, match=f"{next(iter(change))}: got"):
            solvers.by_slabs(**given)
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


# --- the command ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors")
    tiny_prior(folder / "mri", 2, True)
    tiny_prior(folder / "grey", 1, False)
    return folder


def reconstruct(path, prior, operator, out, *more):
    words = ("reconstruct", path, "--operator", operator, "--prior", prior, "--noise-sigma", 0.05)
    return run(*words, "--solver", "dds", "--steps", 2, "--out", out, *more)


def volumes(out, *names):
    return [load_zarr(out / f"{name}.zarr").values for name in names]


def scans(folder):
    """K-space, sinograms and images in stores and files of parts."""
    maps, lines = operators.simulate_sensitivity_maps(3, H, W, seed=0), torch.ones(W)
    lines[[0, 2, 9]] = 0
    images = random(D, 1, H, W).abs().to(C64)
    kspace = operators.MultiCoilMRI(lines, maps, 0.01).measure(images).numpy()
    zarr.create_array(str(folder / "k.zarr"), data=kspace, chunks=(3, 3, H, W))
    sinograms = np.abs(random(D, 9, 16).float().numpy())
    with h5py.File(folder / "s.h5", "w") as file:
        file["sinograms"] = sinograms
    with h5py.File(folder / "fastmri.h5", "w") as file:
        file["kspace"] = kspace.astype(np.complex64)
        file["reconstruction_rss"] = np.abs(kspace[:, 0])
    with h5py.File(folder / "tomopy.h5", "w") as file:
        file["exchange/data"] = np.exp(-sinograms).swapaxes(0, 1)
        file["exchange/data_white"] = np.ones((1, D, 16), np.float32)
        file["exchange/data_dark"] = np.zeros((1, D, 16), np.float32)
        file["exchange/theta"] = np.arange(9) * 20.0


KINDS = {
    "k-space": ("k.zarr", "mri"),
    "fastMRI": ("fastmri.h5", "mri"),
    "sinograms": ("s.h5", "ct"),
    "tomopy": ("tomopy.h5", "ct"),
}


@pytest.mark.parametrize(("name", "operator"), KINDS.values(), ids=KINDS)
def test_the_command_has_the_same_bits_whatever_the_slab(tiny, tmp_path, name, operator):
    scans(tmp_path)
    prior, names = tiny / ("mri" if operator == "mri" else "grey"), ("mean", "std", "samples")
    for slab in (2, D):
        more = ("--slab", slab, "--num-samples", 2, "--slices", "1:6")
        done = reconstruct(tmp_path / name, prior, operator, tmp_path / str(slab), *more)
        assert done.exit_code == 0, done.output
    for found, whole in zip(*(volumes(tmp_path / n, *names) for n in ("2", "7")), strict=True):
        assert found.shape[-3] == 5
        np.testing.assert_array_equal(found, whole)
    row = (tmp_path / "2" / "results.csv").read_text().splitlines()
    assert "slices,residual,NFE,seconds,solver,seed,status" in row[0]
    again = reconstruct(tmp_path / name, prior, operator, tmp_path / "2", *more[2:], "--slab", 2)
    assert "finished already" in again.output


def test_an_interrupted_command_goes_on(tiny, tmp_path, monkeypatch):
    scans(tmp_path)
    words = (tmp_path / "s.h5", tiny / "grey", "ct")
    add, calls = SlabFolder.add, []

    def interrupted(folder, result):
        calls.append(folder.done)
        if len(calls) == 3:
            raise KeyboardInterrupt
        add(folder, result)

    monkeypatch.setattr(SlabFolder, "add", interrupted)
    done = reconstruct(*words, tmp_path / "out", "--slab", 2)
    assert done.exit_code == 130
    assert "slabs are kept in" in " ".join(done.output.split())
    done = reconstruct(*words, tmp_path / "out", "--slab", 2)
    assert done.exit_code == 0, done.output
    assert calls == [0, 2, 4, 4, 6]
    reconstruct(*words, tmp_path / "whole", "--slab", D)
    assert np.array_equal(*(volumes(tmp_path / n, "mean")[0] for n in ("out", "whole")))


def test_a_volume_keeps_its_place_along_any_axis(tiny, tmp_path):
    array = np.random.default_rng(0).random((D, 12, 16)).astype(np.float32)
    volume = load_zarr(ome(tmp_path / "a.zarr", array))
    more = ("--blur-sigma", 1)
    for axis in (0, 1):
        for slab in (2, 12):
            out = tmp_path / f"{axis}-{slab}"
            own = ("--axis", axis, "--slab", slab, *more)
            done = reconstruct(tmp_path / "a.zarr", tiny / "grey", "deblurring", out, *own)
            assert done.exit_code == 0, done.output
        thin, whole = (load_zarr(tmp_path / f"{axis}-{n}" / "mean.zarr") for n in (2, 12))
        np.testing.assert_array_equal(thin.values, whole.values)
        assert (thin.shape, thin.scene) == (volume.shape, whole.scene)
        assert thin.scene.spacing == volume.spacing
        assert thin.chunks[axis] == 2
    assert not np.array_equal(*(volumes(tmp_path / n, "mean")[0] for n in ("0-2", "1-2")))


def test_what_has_no_slabs_is_refused(tiny, tmp_path):
    np.save(tmp_path / "a.npy", np.ones((D, H, W), np.float32))
    nibabel.save(nibabel.Nifti1Image(np.ones((W, H, D)), np.eye(4)), tmp_path / "a.nii")

    def refused(name, *more):
        words = (tmp_path / name, tiny / "grey", "deblurring", tmp_path / "out", "--slab", 2)
        done = reconstruct(*words, *more)
        assert done.exit_code == 2
        return " ".join(done.output.split())

    assert "--solver: got 'DDS3D', accepted: a solver of images" in refused(
        "a.npy", "--solver", "dds-3d"
    )
    assert "--simulate: got 'True', accepted: none with --slab" in refused("a.npy", "--simulate")
    assert "--checkpoint: got" in refused("a.npy", "--checkpoint", tmp_path / "state")
    assert "a.nii, a file of kind nifti', accepted: OME-NGFF, zarr" in refused("a.nii")
    assert "--like: got" in refused("a.npy", "--like", tmp_path / "a.nii")
    assert "slices: got '5:9'" in refused("a.npy", "--slices", "5:9")
    assert not (tmp_path / "out").exists()
