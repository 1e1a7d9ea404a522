"""Tar files of images in training: all images are found and drawn as those of a folder."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from wellposed.datasets.images.crops import Crops
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.patterns import matched
from wellposed.errors import FileError

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("WELLPOSED_CACHE", str(tmp_path / "cache"))


def png(seed):
    content = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (20, 24 + seed % 3), np.uint8)
    Image.fromarray(pixels).save(content, "png")
    return content.getvalue()


def shard(path, numbers, **more):
    with tarfile.open(path, "w") as file:
        members = {f"{n:04d}.png": png(n) for n in numbers} | {
            f"{n:04d}.cls": b"1" for n in numbers
        }
        for name, content in (members | more).items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return path


def batch(paths, step):
    return Crops(Collection(paths).whole(), 16).batch(range(4), 0, step, 16)


def test_images_of_shards_are_those_of_a_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    for n in range(6):
        (tmp_path / "folder" / f"{n:04d}.png").write_bytes(png(n))
    (tmp_path / "shards").mkdir()
    for k in range(2):
        shard(tmp_path / "shards" / f"{k}.tar", range(3 * k, 3 * k + 3))
    for paths in ([tmp_path / "shards" / "*.tar"], [tmp_path / "shards"]):
        found = Collection(paths)
        assert sorted(file.name for file in found.files) == [f"{n:04d}.png" for n in range(6)]
    one = shard(tmp_path / "all.tar", range(6))
    for step in (0, 5):  # in any order, as a function of the step
        assert torch.equal(batch([one], step), batch([tmp_path / "folder"], step))


def test_ranges_of_shards_are_expanded(tmp_path):
    for k in range(8, 12):
        shard(tmp_path / f"a-{k:03d}.tar", range(2 * k, 2 * k + 2))
    assert len(Collection([tmp_path / "a-{008..011}.tar"]).files) == 8
    assert [p.name for p in matched("data", [tmp_path / "{1..2}-{09..10}.tar"])] == [
        *("1-09.tar", "1-10.tar", "2-09.tar", "2-10.tar")
    ]
    assert matched("data", ["s3://a/{0..1}.tar"]) == [Path("s3://a/0.tar"), Path("s3://a/1.tar")]
    (tmp_path / "{1..2}.tar").touch()
    assert matched("data", [tmp_path / "{1..2}.tar"]) == [tmp_path / "{1..2}.tar"]
    with pytest.raises(FileError, match=r"a-012\.tar"):
        Collection([tmp_path / "a-{011..012}.tar"])


def test_a_changed_shard_is_unpacked_again(tmp_path):
    path = shard(tmp_path / "a.tar", range(2))
    first = Collection([path]).files
    assert Collection([path]).files == first
    shard(path, range(4))
    assert len(Collection([path]).files) == 4


def test_files_that_would_lie_outside_and_damaged_shards_are_refused(tmp_path):
    outside = shard(tmp_path / "a.tar", range(2), **{"../evil.png": png(1)})
    with pytest.raises(FileError, match=r"cannot read '.*a\.tar' as tar"):
        Collection([outside])
    assert not list(tmp_path.rglob("evil.png"))
    (tmp_path / "b.tar").write_bytes(b"no tar")
    with pytest.raises(FileError, match=r"cannot read '.*b\.tar' as tar"):
        Collection([tmp_path / "b.tar"])
    with pytest.raises(FileError, match="data: no file matches"):
        Collection([tmp_path / "no*.tar"])
    with pytest.raises(FileError, match="no image files"):
        Collection([shard(tmp_path / "c.tar", [])])
