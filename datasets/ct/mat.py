"""MATLAB files of all versions as plain dictionaries."""

from pathlib import Path
from typing import Any

import h5py
import scipy.io

from wellposed.datasets.checks import as_complex, reading


def read_mat(path: str | Path) -> dict[str, Any]:
    """Return the variables of a MAT file: structs as dictionaries, axes of length one removed.

    Versions up to 7.2 and 7.3, which is HDF5, give the same.

    Raises:
        FileError: missing or unreadable.
    """
    path = Path(path)
    with reading(path, "MAT"):
        if h5py.is_hdf5(path):
            with h5py.File(path, "r") as file:
                content = _from_hdf5(file)
        else:
            content = scipy.io.loadmat(path, simplify_cells=True)
    return {key: value for key, value in content.items() if not key.startswith(("__", "#"))}


def _from_hdf5(item: Any) -> Any:
    if isinstance(item, h5py.Group):
        return {key: _from_hdf5(value) for key, value in item.items()}
    values = as_complex(item[()]).T  # MATLAB's first axis is HDF5's last
    if item.attrs.get("MATLAB_class") == b"char":
        return "".join(map(chr, values.ravel()))
    return values.squeeze()[()]
