"""NIfTI volumes with their affine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.checks import as_stored, finite, reading, writing
from wellposed.datasets.files import NIFTI_SUFFIXES, open_nifti, suffix_of
from wellposed.errors import FileError, require


@dataclass(frozen=True, eq=False)
class NiftiVolume:
    """A volume as stored, without reorientation.

    Attributes:
        volume: (1, C, D, H, W), float32 or complex64, after the file's scaling. W is the file's
            first axis, H its second, D its third, C its fourth (time); missing axes have
            length 1.
        affine: maps (w, h, d, 1) to millimetres right, anterior and superior, (4, 4).
        spacing: size of a voxel along D, H and W in mm.
        header: the file's header.
    """

    volume: Tensor
    affine: np.ndarray
    spacing: tuple[float, float, float]
    header: Any

    def cut(self, axis: int, first: int, end: int) -> "NiftiVolume":
        """Return the slices ``first`` to ``end`` along an axis of (D, H, W), with their affine."""
        affine = self.affine.copy()
        affine[:3, 3] += first * affine[:3, 2 - axis]
        volume = self.volume.narrow(2 + axis, first, end - first)
        return replace(self, volume=volume, affine=affine)


def load_nifti(path: str | Path) -> NiftiVolume:
    """Load a NIfTI file of 2 to 4 axes.

    Raises:
        FileError: the file is missing, truncated or of another kind, or has NaN or infinite values
            or a singular affine; names the file.
    """
    path = Path(path)
    with reading(path, "NIfTI"):
        image, stored = open_nifti(path)
        affine = np.asarray(image.affine, float)
    if stored.dtype.kind not in "biufc" or not 2 <= stored.ndim <= 4:
        raise FileError(
            f"path: {path.name} has {stored.dtype} with {stored.ndim} axes, accepted: numbers "
            "with 2 to 4 axes"
        )
    if not abs(np.linalg.det(affine[:3, :3])) > 0:  # NaN included
        raise FileError(f"path: the affine of {path.name} cannot be inverted")
    values = finite(path, "image", stored).reshape(*stored.shape, *[1] * (4 - stored.ndim))
    kind = np.complex64 if stored.dtype.kind == "c" else np.float32
    volume = torch.from_numpy(np.ascontiguousarray(values.T, kind))[None]
    w, h, d = (float(size) for size in nibabel.affines.voxel_sizes(affine))
    return NiftiVolume(volume, affine, (d, h, w), image.header)


def write_nifti(path: str | Path, volume: Tensor | np.ndarray, reference: NiftiVolume) -> None:
    """Write a volume with the affine of the reference, in float32.

    Args:
        path: ``.nii`` or ``.nii.gz``; an existing file is replaced.
        volume: real values of the shape of the reference, (1, C, D, H, W); axes of length one
            may be missing.
        reference: the loaded volume, for affine, units and codes.

    Raises:
        DtypeError, ShapeError, NonFiniteError: the volume is not real, finite and of the shape
            of the reference.
        ArgumentError: another suffix.
        FileError: the file cannot be written.
    """
    require(suffix_of(path) in NIFTI_SUFFIXES, "path", str(path), " or ".join(NIFTI_SUFFIXES))
    _, channels, *size = reference.volume.shape
    values = as_stored(volume, (channels, *size)).astype(np.float32).T
    header = reference.header.copy()
    header.set_data_dtype(np.float32)
    header["cal_min"] = header["cal_max"] = 0  # display levels of the reference do not apply
    image = nibabel.Nifti1Image(
        values[..., 0] if channels == 1 else values, reference.affine, header
    )
    with writing(path):
        nibabel.save(image, path)
