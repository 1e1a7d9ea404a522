"""Matrices of scans in a folder, so that they are built once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from scipy.sparse import csr_array
from torch import Tensor, from_numpy

from wellposed.errors import warn
from wellposed.integrity import checksum
from wellposed.writing import make_folder, replacing

FORMAT = 1
"""Increased when the weights or the layout of the files change."""

Pair = tuple[csr_array, csr_array]
PARTS = ("data", "indices", "indptr")


def kept(folder: Path | None, key: object, make: Callable[[], Pair]) -> Pair:
    """Return two matrices from a folder, which has them if they were made before, or make them.

    Args:
        folder: the folder; None makes the matrices and writes nothing.
        key: what determines the matrices; its `repr` names the file.
        make: makes them.

    Raises:
        FileError: the folder cannot be written.

    Warns:
        UserWarning: a file is damaged; the matrices are made again and replace it.
    """
    if folder is None:
        return make()
    path = folder / f"ct-{checksum([FORMAT, key])[:32]}.safetensors"
    if path.exists():
        try:
            return _read(path)
        except (OSError, SafetensorError, ValueError, KeyError) as error:
            warn(f"cache: {path.name} is damaged ({error}); the matrix is made again")
    make_folder(folder, "cache")
    pair = make()
    _write(path, pair)
    return pair


def _write(path: Path, pair: Pair) -> None:
    arrays = {
        f"{place}.{name}": from_numpy(getattr(matrix, name))
        for place, matrix in enumerate(pair)
        for name in PARTS
    }
    with replacing(path, "cache") as temporary:
        shape = "x".join(map(str, pair[0].shape))
        save_file(arrays, temporary, metadata={"sha256": checksum(arrays), "shape": shape})


def _read(path: Path) -> Pair:
    """Return the matrices of a file.

    Raises:
        OSError, SafetensorError, KeyError, ValueError: the file cannot be read, or its content is
            not what was written.
    """
    with safe_open(path, "pt") as file:
        arrays: dict[str, Tensor] = {name: file.get_tensor(name) for name in file.keys()}
        facts = file.metadata() or {}
    if facts["sha256"] != checksum(arrays):
        raise ValueError("its checksum differs")
    rows, columns = map(int, facts["shape"].split("x"))
    forward, transpose = (
        csr_array(tuple(_array(arrays[f"{place}.{name}"]) for name in PARTS), shape=shape)
        for place, shape in enumerate([(rows, columns), (columns, rows)])
    )
    return forward, transpose


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.numpy()
