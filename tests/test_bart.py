"""Arrays of BART: layout, round trips, the command line, and files that are refused."""

import numpy as np
import pytest
from typer.testing import CliRunner

from wellposed.cli.app import app
from wellposed.datasets import read, read_array, read_cfl, write_cfl
from wellposed.errors import FileError, WellposedError


def random(*shape):
    rng = np.random.default_rng(0)
    return (rng.standard_normal(shape) + 1j * rng.standard_normal(shape)).astype(np.complex64)


def write(path, array, sizes):
    """Write as BART does: the first dimension is the fastest."""
    path.with_suffix(".hdr").write_text(
        "# Dimensions\n" + " ".join(map(str, sizes)) + "\n# Command\nphantom -k\n"
    )
    array.astype(np.complex64).ravel(order="F").tofile(path)


def test_the_readout_is_the_first_axis_after_the_coils(tmp_path):
    values = random(4, 5, 1, 3)  # x, y, z, coils
    write(tmp_path / "k.cfl", values, (4, 5, 1, 3, *[1] * 12))
    found = read_cfl(tmp_path / "k.cfl")
    assert found.shape == (3, 4, 5)
    assert found[2, 1, 4] == values[1, 4, 0, 2]
    write(tmp_path / "i.cfl", values[:, :, 0, :1], (4, 5))
    assert np.array_equal(read_array(tmp_path / "i.cfl"), values[:, :, 0, 0])


@pytest.mark.parametrize("shape", [(6, 7), (3, 6, 7), (2, 3, 6, 7)])
def test_what_is_written_is_read_again(shape, tmp_path):
    image = random(*shape)
    write_cfl(tmp_path / "a.cfl", image)
    assert np.array_equal(read_cfl(tmp_path / "a.cfl"), image)
    assert read(tmp_path / "a.cfl").kind == "array"


def test_a_scan_is_reconstructed_and_written_for_bart(tmp_path):
    kspace = random(2, 16, 16)
    kspace[:, :, [0, 2, 4, 11, 13, 15]] = 0
    write(tmp_path / "k.cfl", kspace.transpose(1, 2, 0)[:, :, None], (16, 16, 1, 2))
    words = ("reconstruct", tmp_path / "k.cfl", "--operator", "mri", "--noise-sigma", 0.1)
    more = ("--solver", "tikhonov", "--out", tmp_path / "out")
    result = CliRunner().invoke(app, [str(word) for word in (*words, *more)])
    assert result.exit_code == 0, result.output
    assert read_cfl(tmp_path / "out" / "mean.cfl").shape == (16, 16)


def test_folders_do_not_count_headers(tmp_path, caplog):
    from wellposed.datasets.reading import inputs_of

    write_cfl(tmp_path / "a.cfl", random(4, 4))
    assert inputs_of([tmp_path]) == [tmp_path / "a.cfl"]
    assert not caplog.records


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (None, "a.hdr beside it"),
        ("4 4", "no dimensions"),
        ("# Dimensions\nfour 4", "no dimensions"),
        ("# Dimensions\n4 4 1 1 2", "bart slice 4 0"),
        ("# Dimensions\n4 0", "accepted: x, y, z and coils"),
        ("# Dimensions\n40 40", "a.cfl"),
        ("# Dimensions\n4 3", "a.cfl"),
    ],
)
def test_damaged_files_are_named(header, message, tmp_path):
    path = tmp_path / "a.cfl"
    random(4, 4).tofile(path)
    if header is not None:
        path.with_suffix(".hdr").write_text(header)
    with pytest.raises(WellposedError, match=message):
        read_cfl(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        read_cfl(tmp_path / "a.cfl")
