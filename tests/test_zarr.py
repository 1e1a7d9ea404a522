"""Zarr stores: both versions, OME-NGFF, parts that are read alone, and stores that are refused."""

import builtins
import json
import shutil

import nibabel
import numpy as np
import pytest
import torch
from tests.helpers import run

from wellposed import Reconstruction
from wellposed.datasets import load_zarr, read, read_array, write_zarr
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.reading import inputs_of
from wellposed.datasets.writing import write_like
from wellposed.errors import (
    ArgumentError,
    DtypeError,
    FileError,
    NonFiniteError,
    ShapeError,
)

zarr = pytest.importorskip("zarr")
pytestmark = pytest.mark.usefixtures("single_thread")

D, H, W = 6, 16, 12
SCALE = (3.0, 1.5, 0.5)


def values(*shape, dtype=np.float32):
    return (1000 * np.random.default_rng(0).random(shape)).astype(dtype)


def ome(path, array, axes="zyx", version=3, unit="millimeter", scale=SCALE, factor=1.0):
    """Write a multiscale image as other programs do, with a small level beside the full one."""
    group = zarr.create_group(str(path), zarr_format=version)
    for name, level in (("full", array), ("half", array[..., ::2, ::2])):
        chunks = (*[1] * (array.ndim - 3), 2, 8, 8)[-array.ndim :]
        group.create_array(name, data=level, chunks=chunks)
    kinds = {"t": "time", "c": "channel"}
    listed = [{"name": n, "type": kinds.get(n, "space")} for n in axes]
    for each in listed:
        each |= {"unit": unit} if each["type"] == "space" and unit else {}
    full = [1.0] * (len(axes) - len(scale)) + list(scale)
    step = {"type": "scale", "scale": full}
    image = {
        "axes": listed,
        "datasets": [
            {"path": "full", "coordinateTransformations": [step]},
            {"path": "half", "coordinateTransformations": [{**step, "scale": [9.0] * len(axes)}]},
        ],
        "coordinateTransformations": [{"type": "scale", "scale": [factor] * len(axes)}],
    }
    held = {"multiscales": [{"version": "0.4", **image}]}
    group.attrs.update(held if version == 2 else {"ome": {"version": "0.5", **held}})
    return path


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize(("axes", "lead"), [("zyx", ()), ("czyx", (1,)), ("tczyx", (1, 1))])
def test_the_full_resolution_is_read_with_its_voxels(tmp_path, version, axes, lead):
    array = values(D, H, W)
    found = read(ome(tmp_path / "a.zarr", array.reshape(*lead, D, H, W), axes, version))
    assert found.kind == "ome-zarr"
    assert found.spacing == SCALE
    np.testing.assert_array_equal(found.values, array)
    np.testing.assert_array_equal(read_array(tmp_path / "a.zarr"), array)
    np.testing.assert_array_equal(
        read_array(tmp_path / "a.zarr", "half").squeeze()[0, 1, 2], array[0, 2, 4]
    )


@pytest.mark.parametrize(
    ("unit", "factor", "size"), [("micrometer", 1, 1e-3), ("meter", 2, 2e3), ("", 1, 1)]
)
def test_lengths_are_in_mm(tmp_path, unit, factor, size):
    path = ome(tmp_path / "a.zarr", values(D, H, W), unit=unit, factor=factor)
    assert load_zarr(path).spacing == pytest.approx([size * n for n in SCALE])


def test_images_before_version_03_do_not_name_their_axes(tmp_path):
    path = ome(tmp_path / "a.zarr", values(1, 1, D, H, W), "tczyx", 2)
    held = json.loads((path / ".zattrs").read_text())
    for key in ("axes", "coordinateTransformations"):
        held["multiscales"][0].pop(key)
    (path / ".zattrs").write_text(json.dumps(held))
    assert load_zarr(path).shape == (D, H, W)


def test_a_channel_is_chosen(tmp_path):
    array = values(2, 3, D, H, W)
    path = ome(tmp_path / "a.zarr", array, "tczyx")
    with pytest.raises(ArgumentError, match="time: got None, accepted: 0 to 1"):
        load_zarr(path)
    np.testing.assert_array_equal(load_zarr(path, time=1, channel=2).values, array[1, 2])
    with pytest.raises(ArgumentError, match="channel: got 3, accepted: 0 to 2"):
        load_zarr(path, time=1, channel=3)


def test_only_the_chunks_of_a_part_are_read(tmp_path):
    array = values(D, H, W)
    path = ome(tmp_path / "a.zarr", array)
    for chunk in ("0", "2"):
        for file in (path / "full" / "c" / chunk).rglob("*"):
            if file.is_file():
                file.write_bytes(b"damaged")
    np.testing.assert_array_equal(load_zarr(path).cut(0, 2, 4).values, array[2:4])
    np.testing.assert_array_equal(read(path).rows(0, 3, 4), array[3:4])
    with pytest.raises(FileError, match=r"cannot read '.*a\.zarr' as zarr"):
        _ = load_zarr(path).values


@pytest.mark.parametrize("version", [2, 3])
def test_what_is_written_slab_by_slab_is_the_whole(tmp_path, version):
    array = values(D, H, W)
    volume = load_zarr(ome(tmp_path / "a.zarr", array, version=version))
    write_zarr(tmp_path / "whole.zarr", array, volume)
    write_zarr(tmp_path / "slabs.zarr", (slab.values for slab in volume.slabs()), volume)
    for name in ("whole", "slabs"):
        found = load_zarr(tmp_path / f"{name}.zarr")
        np.testing.assert_array_equal(found.values, array)
        assert (found.spacing, found.scene.space) == (SCALE, "zyx")
        assert found.chunks == volume.chunks
        assert found.array.metadata.zarr_format == version


def test_a_slab_lies_where_it_was_cut(tmp_path):
    volume = load_zarr(ome(tmp_path / "a.zarr", values(D, H, W))).cut(0, 2, 5).cut(2, 4, 10)
    write_zarr(tmp_path / "b.zarr", volume.values, volume)
    found = load_zarr(tmp_path / "b.zarr")
    assert found.scene.origin == (6.0, 0.0, 2.0)
    np.testing.assert_array_equal(found.values, values(D, H, W)[2:5, :, 4:10])


def reconstruct(path, out, *more):
    words = ("reconstruct", path, "--operator", "inpainting", "--simulate", "--volume")
    done = run(*words, "--solver", "tikhonov", "--set", "weight=0.1", "--out", out, *more)
    assert done.exit_code == 0, done.output
    return Reconstruction.load(out / "reconstruction.h5")


@pytest.mark.parametrize("more", [(), ("--slices", "1:4"), ("--axis", 1)])
def test_results_are_those_of_nifti_and_npy_bit_by_bit(tmp_path, more):
    array = values(D, H, W)
    np.save(tmp_path / "a.npy", array)
    nibabel.save(nibabel.Nifti1Image(array.T, np.diag([*SCALE[::-1], 1])), tmp_path / "a.nii")
    ome(tmp_path / "a.ome.zarr", array)
    zarr.create_array(str(tmp_path / "plain.zarr"), data=array, chunks=(2, 8, 8))
    names = ("a.npy", "a.nii", "a.ome.zarr", "plain.zarr")
    found = [reconstruct(tmp_path / n, tmp_path / f"out {n}", *more).samples for n in names]
    assert all(torch.equal(found[0], each) for each in found[1:])
    stored = read_array(tmp_path / "out a.nii" / "mean.nii.gz").T
    written = load_zarr(tmp_path / "out a.ome.zarr" / "mean.zarr")
    np.testing.assert_array_equal(written.values, stored)
    assert written.spacing == SCALE
    plain = read_array(tmp_path / "out plain.zarr" / "mean.zarr")
    np.testing.assert_array_equal(plain, np.load(tmp_path / "out a.npy" / "mean.npy"))


def test_a_finished_store_is_skipped_until_a_chunk_changes(tmp_path):
    path = ome(tmp_path / "a.zarr", values(D, H, W))
    words = ("reconstruct", path, "--operator", "inpainting", "--simulate", "--slice", 1)
    words = (*words, "--solver", "tikhonov", "--set", "weight=0.1", "--out", tmp_path / "out")
    assert "finished already" not in run(*words).output
    assert "finished already" in run(*words).output
    zarr.open_group(str(path))["full"][1] = 0.5
    assert "finished already" not in run(*words).output


def test_images_and_their_samples_keep_their_kind(tmp_path):
    array = values(H, W)
    image = read(ome(tmp_path / "a.zarr", array, "yx", scale=SCALE[1:]))
    assert image.values.shape == (H, W)
    samples = torch.from_numpy(array).expand(2, 1, 1, H, W)
    result = Reconstruction(samples, torch.ones(2, 1), 1, 0.0, "exact")
    mean, std = write_like(result, tmp_path / "out", image.source)
    np.testing.assert_array_equal(read(mean).values, array)
    assert not read(std).values.any()


def test_folders_hold_stores_as_they_hold_files(tmp_path):
    np.save(tmp_path / "b.npy", values(H, W))
    ome(tmp_path / "a.zarr", values(D, H, W), version=2)
    assert inputs_of([tmp_path]) == [tmp_path / "a.zarr", tmp_path / "b.npy"]
    assert inputs_of([tmp_path / "*.zarr"]) == [tmp_path / "a.zarr"]
    shapes = Collection([tmp_path / "a.zarr"]).shapes
    assert shapes == [(D, H, W, 1)]


def test_kspace_may_lie_in_a_store(tmp_path):
    kspace = values(2, H, W) * (1 + 1j)
    kspace[:, :, [0, 10]] = 0
    zarr.create_array(str(tmp_path / "k.zarr"), data=kspace.astype(np.complex64))
    words = ("reconstruct", tmp_path / "k.zarr", "--operator", "mri", "--noise-sigma", 0.1)
    done = run(*words, "--solver", "tikhonov", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert read_array(tmp_path / "out" / "mean.zarr").shape == (H, W)


def damaged(path, change):
    held = json.loads((path / "zarr.json").read_text())
    change(held["attributes"]["ome"]["multiscales"][0])
    (path / "zarr.json").write_text(json.dumps(held))


def level(image):
    return image["datasets"][0]["coordinateTransformations"][0]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda image: image.pop("datasets"), "multiscales of a.zarr are damaged"),
        (lambda image: image["datasets"][0].update(path="no"), "are damaged"),
        (lambda image: level(image).update(scale=[1]), "are damaged"),
        (lambda image: level(image).update(type="rotation"), "a transformation 'rotation'"),
        (lambda image: level(image).update(scale=[0, 1, 1]), r"voxels of \[0.0"),
        (lambda image: level(image).update(scale=[float("nan")] * 3), "voxels of"),
        (lambda image: image["axes"][0].update(unit="parsec"), "accepted: positive sizes in"),
        (lambda image: image["axes"].reverse(), "has the axes 'xyz'"),
        (lambda image: image["axes"].pop(), "are damaged"),
    ],
)
def test_damaged_metadata_are_named(tmp_path, change, error):
    path = ome(tmp_path / "a.zarr", values(D, H, W))
    damaged(path, change)
    with pytest.raises(FileError, match=error):
        load_zarr(path)


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(FileError, match="is not a zarr store"):
        load_zarr(tmp_path)
    path = ome(tmp_path / "a.zarr", values(D, H, W))
    with pytest.raises(FileError, match="no array 'no', it contains: full, half"):
        load_zarr(path, key="no")
    del zarr.open_group(str(path)).attrs["ome"]
    with pytest.raises(FileError, match="several arrays, it contains: full, half"):
        read(path)
    (path / "zarr.json").write_text("{")
    with pytest.raises(FileError, match="cannot read"):
        load_zarr(path)
    huge = zarr.create_array(
        str(tmp_path / "huge.zarr"), shape=(10**6,) * 3, chunks=(1, 99, 99), dtype="f4"
    )
    assert huge.ndim == 3
    with pytest.raises(FileError, match="GB are free"):
        read_array(tmp_path / "huge.zarr")


def test_what_cannot_be_written_leaves_the_old_store(tmp_path):
    volume = load_zarr(ome(tmp_path / "a.zarr", values(D, H, W)))
    out, array = tmp_path / "out.zarr", values(D, H, W)
    write_zarr(out, array, volume)
    bad = array.copy()
    bad[-1, 0, 0] = np.nan
    for wrong, error in (
        (bad, NonFiniteError),
        (array[1:], ShapeError),
        (array * 1j, DtypeError),
        (iter([array[:4]]), ArgumentError),
        (iter([array, array[:1]]), ArgumentError),
        (iter([array[:4, 1:]]), ShapeError),
        ([array], ArgumentError),
    ):
        with pytest.raises(error, match="volume"):
            write_zarr(out, wrong, volume)
    with pytest.raises(ArgumentError, match="reference: got None"):
        write_zarr(out, iter([array]))
    np.testing.assert_array_equal(read_array(out), array)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.zarr", "out.zarr"]
    (tmp_path / "file.zarr").write_text("")
    with pytest.raises(ArgumentError, match="a new folder, or a store"):
        write_zarr(tmp_path / "file.zarr", array, volume)
    shutil.rmtree(out)


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = ome(tmp_path / "a.zarr", values(D, H, W))
    known = builtins.__import__

    def without(name, *args):
        if name == "zarr":
            raise ImportError(name)
        return known(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(FileError, match=r"pip install 'wellposed\[zarr\]'"):
        read(path)
