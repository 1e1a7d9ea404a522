"""The HDF5 files of fastMRI: k-space of the slices of a volume."""

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import (
    as_complex,
    chosen_rows,
    finite,
    located,
    reading,
    stored_array,
)
from wellposed.datasets.mri.encoding import Encoding, parse_header
from wellposed.errors import FileError

REFERENCES = {4: "reconstruction_rss", 3: "reconstruction_esc"}
"""Keys of the dataset's own images by the axes of k-space: the root-sum-of-squares image of
several coils, that of the emulated single coil."""


@dataclass(frozen=True, eq=False)
class FastMRI:
    """Slices of a fastMRI volume, batched.

    The files have no coil maps; ``operators.espirit(scan.kspace, calibration=None)`` estimates
    them. ``center_crop(image, scan.recon_size)`` crops a reconstruction to the reference.

    Attributes:
        kspace: (B, coils, H, W) complex, of the centred orthonormal transform
            `operators.mri.cartesian.fft2c`; H is the readout, W the phase encoding. Zero where
            not measured.
        mask: (B, H, W) float32, 1 where measured.
        reference: magnitude images of the file (B, 1, h, w), those of `REFERENCES` that belong
            to the task, or ``None``.
        recon_size: (h, w) of the images after cropping.
        encoding: matrix sizes and fields of view in mm from the file's header, or ``None``.

    Example:
        >>> import h5py, torch
        >>> from wellposed import datasets, operators
        >>> maps = operators.simulate_sensitivity_maps(4, 32, 32)
        >>> kspace = operators.MultiCoilMRI(torch.ones(32), maps).A(maps[None, :1])
        >>> with h5py.File("file.h5", "w") as file:
        ...     file["kspace"] = kspace.numpy()
        >>> scan = datasets.load_fastmri("file.h5")
        >>> operator = operators.MultiCoilMRI(scan.mask, operators.espirit(scan.kspace), 0.01)
    """

    kspace: Tensor
    mask: Tensor
    reference: Tensor | None
    recon_size: tuple[int, int]
    encoding: Encoding | None


@checked
def load_fastmri(path: str | Path, slice: int | tuple[int, int] | None = None) -> FastMRI:
    """Load a multi-coil or single-coil file in the layout of fastMRI.

    ``kspace`` is (slices, coils, H, W) or (slices, H, W); ``mask`` (W,), one of `REFERENCES` and
    ``ismrmrd_header`` are optional. Without a mask in the file, nonzero values are measured.

    Zbontar et al., "fastMRI: An Open Dataset and Benchmarks for Accelerated MRI", 2018,
    arXiv:1811.08839.

    Args:
        path: an HDF5 file.
        slice: a single slice to read, from 0, or the slices (first, end) without the last; by
            default all.

    Raises:
        FileError: the file is missing or unreadable or has another layout, NaN or infinite values,
            or sizes or a mask inconsistent with the k-space; names the file.
        ArgumentError: no such slices.

    Example:
        >>> import h5py, numpy as np
        >>> from wellposed import datasets, operators
        >>> with h5py.File("file.h5", "w") as file:
        ...     file["kspace"] = np.ones((2, 4, 32, 24), "complex64")
        >>> scan = datasets.load_fastmri("file.h5", slice=0)
        >>> scan.kspace.shape, scan.mask.shape
        (torch.Size([1, 4, 32, 24]), torch.Size([1, 32, 24]))
    """
    path = located("path", path)
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        stored = stored_array(path, file, "kspace", (3, 4))
        chosen = chosen_rows("slice", slice, len(stored))
        values = as_complex(stored[chosen])
        if values.dtype.kind != "c":
            raise FileError(f"path: 'kspace' in {path.name} is {stored.dtype}, accepted: complex")
        kspace = torch.from_numpy(finite(path, "kspace", values))
        reference = _read_reference(path, file, stored, chosen)
        columns = stored_array(path, file, "mask", (1,))[()] if "mask" in file else None
        header = file["ismrmrd_header"][()] if "ismrmrd_header" in file else None
    kspace = kspace[:, None] if kspace.ndim == 3 else kspace
    encoding = None if header is None else _encoding(path, header, kspace)
    mask = (kspace != 0).any(1) if columns is None else _line_mask(path, columns, kspace)
    size = _recon_size(kspace, encoding, reference)
    return FastMRI(kspace, mask.float(), reference, size, encoding)


def is_fastmri(path: str | Path) -> bool:
    """Return whether a file has complex ``kspace`` of slices and coils, or slices and a reference.

    Without reference or header, three axes may be the coils of one slice.
    """
    if not h5py.is_hdf5(path):
        return False
    with h5py.File(path, "r") as file:
        found = file.get("kspace")
        if not hasattr(found, "shape") or as_complex(np.empty(0, found.dtype)).dtype.kind != "c":
            return False
        slices = any(key in file for key in ("ismrmrd_header", *REFERENCES.values()))
        return len(found.shape) == 4 or (len(found.shape) == 3 and slices)


def count_slices(path: str | Path) -> int:
    """Return the number of slices in a file of this kind."""
    path = Path(path)
    with reading(path, "HDF5"), h5py.File(path, "r") as file:
        return len(stored_array(path, file, "kspace", (3, 4)))


def _read_reference(
    path: Path, file: h5py.File, kspace: h5py.Dataset, chosen: slice
) -> Tensor | None:
    key, count = REFERENCES[len(kspace.shape)], len(kspace)
    if key not in file:
        return None
    stored = stored_array(path, file, key, (3,))
    if len(stored) != count:
        raise FileError(
            f"path: {path.name} has {len(stored)} slices in {key!r} but {count} in 'kspace'"
        )
    images = finite(path, key, stored[chosen]).astype(np.float32)
    return torch.from_numpy(images)[:, None]


def _encoding(path: Path, header: bytes | str, kspace: Tensor) -> Encoding:
    encoding = parse_header(path, header)
    stored, size = tuple(kspace.shape[-2:]), encoding.encoded_size[1:]
    if stored != size:
        raise FileError(
            f"path: 'kspace' in {path.name} is {stored[0]} x {stored[1]}, accepted: "
            f"{size[0]} x {size[1]} as in its header"
        )
    return encoding


def _line_mask(path: Path, columns: np.ndarray, kspace: Tensor) -> Tensor:
    """Return the file's mask of columns for every pixel, checked against the k-space."""
    if columns.shape != kspace.shape[-1:]:
        raise FileError(
            f"path: 'mask' in {path.name} has {len(columns)} entries for the "
            f"{kspace.shape[-1]} columns of 'kspace'"
        )
    measured = (kspace != 0).any(1)
    filled = measured.any(0).any(0)
    sampled = torch.from_numpy(columns != 0)
    stray = int((filled & ~sampled).sum())
    if stray:
        raise FileError(
            f"path: 'kspace' in {path.name} has data in {stray} columns where 'mask' is 0"
        )
    # fastMRI's masks continue into the zeros that pad a partial acquisition.
    return (sampled & filled).expand_as(measured)


def _recon_size(
    kspace: Tensor, encoding: Encoding | None, reference: Tensor | None
) -> tuple[int, int]:
    """Return the size of the reference, of the header, or of the whole image."""
    height, width = kspace.shape[-2:]
    if reference is not None:
        height, width = reference.shape[-2:]
    elif encoding is not None:  # some images are wider than their k-space
        height, width = map(min, zip((height, width), encoding.recon_size[1:], strict=True))
    return height, width
