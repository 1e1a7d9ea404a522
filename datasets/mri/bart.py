"""Arrays of the Berkeley Advanced Reconstruction Toolbox: a pair of files .cfl and .hdr."""

import math
from pathlib import Path

import numpy as np

from wellposed.checks import checked
from wellposed.datasets.checks import require_file
from wellposed.errors import FileError, require
from wellposed.integrity import check_held
from wellposed.writing import replacing, write_text

AXES = ("x", "y", "z", "coils")
"""First dimensions of BART; the readout is usually x, and the lines lie along y and z."""


@checked
def read_cfl(path: str | Path) -> np.ndarray:
    """Return a complex array of BART as (coils, z, x, y), without axes of length 1 but x and y.

    K-space of one slice is (coils, H, W), an image (H, W), with H along the readout.

    Args:
        path: the file ``.cfl``; its dimensions are in the file ``.hdr`` beside it.

    Raises:
        FileError: a file is missing or damaged, or dimensions beyond the coils, such as maps or
            time, have more than one entry: take one by ``bart slice``.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> datasets.write_cfl("kspace.cfl", np.ones((4, 1, 32, 24), "complex64"))
        >>> datasets.read_cfl("kspace.cfl").shape  # coils, rows, columns
        (4, 32, 24)
    """
    path = require_file("path", path)
    dimensions = _dimensions(path.with_suffix(".hdr"), path)
    check_held(path, "the array", 8 * math.prod(dimensions))
    values = np.fromfile(path, dtype=np.complex64)
    wanted = math.prod(dimensions)
    require(values.size == wanted, path.name, f"{values.size} values", f"{wanted} of the header")
    x, y, z, coils = [*dimensions, 1, 1, 1, 1][:4]
    array = values.reshape((x, y, z, coils), order="F").transpose(3, 2, 0, 1)
    shape = [n for n in (coils, z) if n > 1] + [x, y]
    return np.ascontiguousarray(array.reshape(shape))


def _dimensions(header: Path, path: Path) -> list[int]:
    if not header.is_file():
        raise FileError(f"path: {path.name} has no header, accepted: {header.name} beside it")
    lines = header.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        found = [int(word) for word in lines[lines.index("# Dimensions") + 1].split()]
    except (ValueError, IndexError):
        raise FileError(
            f"path: {header.name} has no dimensions, accepted: a header of BART"
        ) from None
    more = {n: size for n, size in enumerate(found[len(AXES) :], len(AXES)) if size != 1}
    if more or not found or min(found) < 1:
        raise FileError(
            f"path: {path.name} has the dimensions {found}, accepted: x, y, z and coils; take one "
            f"of each other by `bart slice {' '.join(f'{n} 0' for n in more)}`"
        )
    return found


@checked
def write_cfl(path: str | Path, image: np.ndarray) -> None:
    """Write an image (H, W), a volume (z, H, W) or k-space (coils, z, H, W) for BART.

    Args:
        path: the file ``.cfl``; the header is written beside it.
        image: real or complex.

    Raises:
        ArgumentError: another number of axes.
        FileError: the file cannot be written.

    Example:
        >>> import numpy as np
        >>> from wellposed import datasets
        >>> datasets.write_cfl("image.cfl", np.random.rand(32, 24))  # for bart toimg image ...
        >>> datasets.read_cfl("image.cfl").shape
        (32, 24)
    """
    path = Path(path).with_suffix(".cfl")
    require(2 <= image.ndim <= 4, "image", image.shape, "2 to 4 axes")
    whole = image.reshape((1,) * (4 - image.ndim) + image.shape).transpose(2, 3, 1, 0)
    with replacing(path) as part:
        whole.astype(np.complex64).ravel(order="F").tofile(part)
    sizes = " ".join(map(str, (*whole.shape, *[1] * 12)))
    write_text(path.with_suffix(".hdr"), f"# Dimensions\n{sizes}\n")
