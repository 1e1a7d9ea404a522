"""Files are written beside their place, and a folder is one run's."""

import json
import os

import numpy as np
import pytest
import torch

from wellposed import errors
from wellposed.integrity import all_finite, checksum, locked, read_json
from wellposed.writing import (
    replacing,
    require_writable,
    write_array,
    write_csv,
    write_text,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.txt"
    write_text(path, "old")
    path.chmod(0o640)
    with pytest.raises(KeyboardInterrupt), replacing(path) as part:
        part.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    with pytest.raises(errors.FileError, match=r"out: cannot write .*a\.txt.*full"):
        with replacing(path, "out") as part:
            raise OSError(28, "full")
    write_text(path, "neu: ä")
    assert path.read_bytes() == "neu: ä".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.skipif(os.name == "nt", reason="limits of files")
def test_arrays_on_a_full_disk(tmp_path):
    import resource
    import signal

    write_array(tmp_path / "a.npy", old := np.arange(500.0))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(errors.FileError, match="path: cannot write"):
            write_array(tmp_path / "a.npy", np.zeros(500))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert np.array_equal(np.load(tmp_path / "a.npy"), old)


def test_links_stay_links_and_missing_folders_are_named(tmp_path):
    (tmp_path / "link.csv").symlink_to(tmp_path / "real.csv")
    write_csv(tmp_path / "link.csv", [["a", 1]])
    assert (tmp_path / "link.csv").is_symlink()
    assert (tmp_path / "real.csv").read_text().split() == ["a,1"]
    with pytest.raises(errors.FileError, match="path: cannot write"):
        write_text(tmp_path / "no" / "a.txt", "")


def test_folders_that_cannot_be_written_are_named_before(tmp_path):
    (tmp_path / "file").write_text("")
    require_writable(tmp_path / "new" / "deeper")
    assert not (tmp_path / "new").exists()
    for folder in (tmp_path / "file", tmp_path / "file" / "deeper"):
        with pytest.raises(errors.FileError, match=r"--out: cannot write .*file' is not"):
            require_writable(folder, "--out")


def test_checksums_tell_values_dtypes_shapes_and_names():
    base = {"a": torch.zeros(2, 3), "b": [1, {"c": "d"}]}
    others = [
        {**base, "a": torch.zeros(3, 2)},
        {**base, "a": torch.zeros(2, 3).double()},
        {**base, "a": -torch.zeros(2, 3)},
        {**base, "b": [1, {"c": "e"}]},
        {"A": base["a"], "b": base["b"]},
    ]
    assert checksum(base) == checksum({"b": base["b"], "a": base["a"].clone()})
    assert len({checksum(value) for value in (base, *others)}) == 6


def test_finite_tensors_in_mappings():
    assert all_finite({"a": torch.ones(2), "b": {"c": torch.tensor([1, 2]), "d": "text"}})
    assert not all_finite({"b": {"c": torch.tensor([1.0, float("inf")])}})
    assert not all_finite({"b": torch.tensor([complex(0, float("nan"))])})


def test_a_folder_is_held_by_one(tmp_path):
    with locked(tmp_path / "run", "out"):
        with pytest.raises(errors.CheckpointError, match=rf"out: another run .*{os.getpid()}"):
            with locked(tmp_path / "run", "out"):
                pass
    with locked(tmp_path / "run", "out"):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(errors.FileError, match="out: cannot write"):
        with locked(tmp_path / "file", "out"):
            pass


def test_json_nested_too_deeply_is_told(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(100_000 * "[" + 100_000 * "]")
    with pytest.raises(ValueError, match="nested too deeply"):
        read_json(path)
    path.write_text(json.dumps({"a": 1}))
    assert read_json(path) == {"a": 1}
