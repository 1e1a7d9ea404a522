"""MATLAB files of all versions as plain dictionaries."""

from pathlib import Path

import h5py

from wellposed.datasets.checks import as_complex, located, reading
from wellposed.datasets.files import load_mat
from wellposed.integrity import check_claim


def read_mat(path: str | Path) -> dict[str, object]:
    """Return the variables of a MAT file: structs as dictionaries, axes of length one removed.

    Versions up to 7.2, and 7.3, which is HDF5, give the same result.

    Raises:
        FileError: the file is missing or unreadable.
    """
    path = located("path", path)
    with reading(path, "MAT"):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                content = {key: _from_hdf5(path, item) for key, item in file.items()}
        else:
            content = load_mat(path, simplify_cells=True)
    return {key: value for key, value in content.items() if not key.startswith(("__", "#"))}


def _from_hdf5(path: Path, item: h5py.Group | h5py.Dataset) -> object:
    if isinstance(item, h5py.Group):
        return {key: _from_hdf5(path, value) for key, value in item.items()}
    check_claim(path, repr(item.name), item.nbytes)
    values = as_complex(item[()]).T  # MATLAB's first axis is HDF5's last
    if item.attrs.get("MATLAB_class") == b"char":
        return "".join(map(chr, values.ravel()))
    return values.squeeze()[()]
