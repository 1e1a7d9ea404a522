"""Files at URLs: what is read is a fresh copy, what is written is uploaded, and errors say why."""

import builtins

import nibabel
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import run

from wellposed import Reconstruction, remote
from wellposed.datasets import (
    load_nifti,
    read,
    read_array,
    read_cfl,
    write_cfl,
    write_dicom_series,
    write_nifti,
)
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.reading import inputs_of
from wellposed.errors import FileError
from wellposed.writing import write_array, write_text

fsspec = pytest.importorskip("fsspec")
pytestmark = pytest.mark.usefixtures("single_thread", "cache")


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WELLPOSED_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    store = fsspec.filesystem("memory")
    yield store
    store.rm("/", recursive=True)


def values(*shape):
    return np.random.default_rng(0).random(shape).astype(np.float32)


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("s3://bucket/a b.h5", "s3://bucket/a b.h5"),
        ("s3:/bucket/a.h5", "s3://bucket/a.h5"),
        ("file:///tmp/a.h5", "file:///tmp/a.h5"),
        ("file:/tmp/a.h5", "file:///tmp/a.h5"),
        ("https://host/a.h5?x=1", "https://host/a.h5?x=1"),
        ("/tmp/a:/b.h5", None),
        ("a.h5", None),
        ("c:/a.h5", None),
        ("module:Class", None),
    ],
)
def test_urls_are_told_from_paths(path, url):
    assert remote.url_of(path) == url


def test_a_file_that_is_named_like_a_url_is_a_file(tmp_path):
    (tmp_path / "s3:").mkdir()
    (tmp_path / "s3:" / "a").write_text("")
    assert remote.url_of("s3:/a") is None


def test_a_copy_is_renewed_only_if_the_file_has_changed(cache, tmp_path):
    write_array("memory://data/a.npy", values(4, 5))
    np.testing.assert_array_equal(read_array("memory://data/a.npy"), values(4, 5))
    (copy,) = (tmp_path / "cache").rglob("a.npy")
    first = copy.stat().st_mtime_ns
    read_array("memory://data/a.npy")
    assert copy.stat().st_mtime_ns == first
    write_array("memory://data/a.npy", values(2, 3))
    assert read_array("memory://data/a.npy").shape == (2, 3)


def test_equal_names_of_different_folders_are_not_mixed_up(cache):
    for n in range(2):
        write_array(f"memory://{n}/a.npy", np.full((2, 2), n))
    assert [int(read_array(f"memory://{n}/a.npy")[0, 0]) for n in (0, 1, 0)] == [0, 1, 0]


@pytest.mark.parametrize("protocol", ["memory://data", "file://"])
def test_formats_are_read_and_written(cache, tmp_path, protocol):
    at = protocol if protocol.startswith("memory") else f"file://{tmp_path}/far"
    (tmp_path / "far").mkdir()
    write_cfl(f"{at}/a.cfl", values(4, 5) * 1j)
    np.testing.assert_array_equal(read_cfl(f"{at}/a.cfl"), values(4, 5) * 1j)
    volume = values(6, 5, 4)
    nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([1, 2, 3, 1])), tmp_path / "a.nii.gz")
    fsspec.filesystem(at.split(":")[0]).put_file(str(tmp_path / "a.nii.gz"), f"{at}/a.nii.gz")
    found = load_nifti(f"{at}/a.nii.gz")
    write_nifti(f"{at}/b.nii", found.volume, found)
    np.testing.assert_array_equal(load_nifti(f"{at}/b.nii").volume[0, 0], volume)
    assert read(f"{at}/b.nii").spacing == (3, 2, 1)


def test_results_go_to_urls_and_come_back(cache):
    samples = torch.rand(2, 1, 1, 8, 8)
    result = Reconstruction(samples, torch.ones(2, 1), 1, 0.0, "exact")
    result.save("memory://out/deep")
    assert torch.equal(Reconstruction.load("memory://out/deep/reconstruction.h5").samples, samples)
    assert cache.exists("/out/deep/reconstruction.png")


def test_dicom_folders_are_read_and_written(cache, tmp_path):
    from pathlib import Path

    data = Path(__file__).parent / "data" / "dicom"
    cache.put(str(data), "/scan", recursive=True)
    series = read("memory://scan").source
    np.testing.assert_array_equal(series.values, read(data).values)
    write_dicom_series("memory://out/mean", series.values, series, "a mean")
    assert read("memory://out/mean").values.shape == series.values.shape
    with pytest.raises(FileError, match="exists, accepted: a new folder"):
        write_dicom_series("memory://out/mean", series.values, series, "a mean")
    cache.rm(sorted(cache.ls("/scan", detail=False))[-1])  # the copy forgets it too
    assert len(read("memory://scan").values) == len(series.values) - 1


def test_stores_of_zarr_are_read_and_written(cache):
    zarr = pytest.importorskip("zarr")
    from wellposed.datasets import write_zarr

    write_zarr("memory://data/a.zarr", values(4, 5, 6))
    np.testing.assert_array_equal(read("memory://data/a.zarr").values, values(4, 5, 6))
    write_zarr("memory://data/a.zarr", values(2, 5, 6))
    assert read_array("memory://data/a.zarr").shape == (2, 5, 6)
    assert zarr.__version__


def test_a_command_reads_and_writes_urls(cache):
    for n in range(2):
        write_array(f"memory://data/{n}.npy", values(16, 16) + n)
    words = ("reconstruct", "memory://data/*.npy", "--operator", "inpainting", "--simulate")
    words = (*words, "--solver", "tikhonov", "--set", "weight=0.1", "--out", "memory://out")
    done = run(*words)
    assert done.exit_code == 0, done.output
    assert cache.exists("/out/results.csv")
    assert read_array("memory://out/0/mean.npy").shape == (16, 16)
    assert run(*words).output.count("finished already") == 2


def test_training_reads_folders_at_urls(cache, tmp_path):
    Image.fromarray((255 * values(8, 9)).astype(np.uint8)).save(tmp_path / "a.png")
    for name in ("photos/a.png", "photos/below/b.png"):
        cache.put_file(str(tmp_path / "a.png"), name)
    assert Collection(["memory://photos"]).shapes == [(1, 8, 9, 1)] * 2
    assert [p.name for p in inputs_of(["memory://photos"])] == ["a.png", "b.png"]


def test_what_fails_writes_nothing(cache):
    write_text("memory://data/a.txt", "old")
    with pytest.raises(ZeroDivisionError):
        from wellposed.writing import replacing

        with replacing("memory://data/a.txt") as part:
            part.write_text(str(1 / 0))
    assert cache.cat("/data/a.txt") == b"old"


def test_errors_name_the_url_and_the_remedy(cache, monkeypatch, tmp_path):
    with pytest.raises(FileError, match=r"path: no such file 'memory://data/no.npy'"):
        read_array("memory://data/no.npy")
    with pytest.raises(FileError, match=r"cannot open 'nothing://a/b.npy': Protocol not known"):
        read_array("nothing://a/b.npy")
    with pytest.raises(FileError, match="INPUT: no file matches"):
        inputs_of(["memory://data/*.npy"])
    cache.pipe_file("/data/broken.h5", b"no")
    with pytest.raises(FileError, match=r"cannot read .*broken\.h5"):
        read("memory://data/broken.h5")

    def fail(*args):
        raise OSError("no credentials")

    monkeypatch.setattr(type(cache), "put_file", fail)
    with pytest.raises(FileError, match=r"cannot write 'memory://data/a.txt': no credentials"):
        write_text("memory://data/a.txt", "new")
    words = ("reconstruct", "a.npy", "--operator", "mri", "--out", "nothing://b")
    write_array(tmp_path / "a.npy", values(4, 4))
    assert "--out: cannot open 'nothing://b'" in " ".join(run(*words).output.split())


def test_a_run_keeps_its_state_on_this_machine(cache):
    write_array("a.npy", values(16, 16))
    words = ("reconstruct", "a.npy", "--operator", "inpainting", "--simulate", "--out", "out")
    done = run(*words, "--checkpoint", "memory://state", "--solver", "dds", "--steps", 2)
    assert "accepted: a folder on this machine" in " ".join(done.output.split())
    assert not cache.exists("/state")


def test_a_missing_package_is_named(monkeypatch):
    known = builtins.__import__

    def without(name, *args):
        if name == "fsspec":
            raise ImportError(name)
        return known(name, *args)

    monkeypatch.setattr(builtins, "__import__", without)
    for call in (lambda: read_array("s3://a/b.npy"), lambda: write_text("s3://a/b.txt", "")):
        with pytest.raises(FileError, match=r"needs the package fsspec: pip install 'wellposed\["):
            call()
