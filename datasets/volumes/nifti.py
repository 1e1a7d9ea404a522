"""NIfTI volumes with their affine."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Range, checked, require_path
from wellposed.datasets.checks import as_stored, finite, located, reading
from wellposed.datasets.files import NIFTI_SUFFIXES, open_nifti, suffix_of
from wellposed.errors import FileError, require
from wellposed.writing import replacing

if TYPE_CHECKING:
    import nibabel
    from nibabel.spatialimages import SpatialHeader, SpatialImage


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

    Example:
        >>> import nibabel, numpy as np
        >>> from wellposed import datasets
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((40, 32, 10)), np.eye(4)), "brain.nii.gz")
        >>> volume = datasets.load_nifti("brain.nii.gz")
        >>> volume.volume.shape, volume.spacing
        (torch.Size([1, 1, 10, 32, 40]), (1.0, 1.0, 1.0))
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


@checked
def load_nifti(path: str | Path, *, nan: float | None = None) -> NiftiVolume:
    """Load a NIfTI file of 2 to 4 axes, or another volume of nibabel, e.g. MINC or PAR/REC.

    Lengths are converted to mm; a file without a unit is assumed to be in mm. An sform of zeros
    counts as missing.

    Args:
        path: the file.
        nan: value that replaces NaN, e.g. outside a mask; by default NaN is an error.

    Raises:
        FileError: the file is missing, truncated or of another kind, or has NaN or infinite values
            or a singular affine; names the file.
        ArgumentError: ``nan`` is not a finite number.
        MissingPackageError: nibabel is not installed.

    Example:
        >>> import nibabel, numpy as np
        >>> from wellposed import datasets
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((40, 32, 10)), np.eye(4)), "brain.nii.gz")
        >>> datasets.load_nifti("brain.nii.gz").volume.shape  # (1, C, D, H, W)
        torch.Size([1, 1, 10, 32, 40])
    """
    path = located("path", path)
    number = nan is None or (Range().admits(nan) and np.isfinite(nan))
    require(number, "nan", nan, "None or a finite number")
    with reading(path, "NIfTI"):
        image, stored = open_nifti(path)
        header = image.header.copy()
        affine = _affine(path, header, image.affine)
        if _is_minc(image) and stored.ndim == 4:
            stored = np.moveaxis(stored, 0, -1)  # MINC has time first
    stored = stored.reshape(stored.shape[:4]) if set(stored.shape[4:]) == {1} else stored
    if stored.dtype.kind not in "biufc" or not 2 <= stored.ndim <= 4:
        raise FileError(
            f"path: {path.name} has {stored.dtype} with {stored.ndim} axes, accepted: numbers "
            "with 2 to 4 axes"
        )
    if nan is not None:
        stored = np.where(np.isnan(stored), nan, stored)
    values = finite(path, "image", stored).reshape(*stored.shape, *[1] * (4 - stored.ndim))
    kind = np.complex64 if stored.dtype.kind == "c" else np.float32
    volume = torch.from_numpy(np.ascontiguousarray(values.T, kind))[None]
    affine[:3] *= _millimetres(header)
    w, h, d = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return NiftiVolume(volume, affine, (d, h, w), header)


def _is_minc(image: "SpatialImage") -> bool:
    import nibabel

    return isinstance(image, nibabel.Minc1Image)


def _affine(path: Path, header: "SpatialHeader", affine: np.ndarray | None) -> np.ndarray:
    """Return the affine of a file in its units; an sform of zeros is removed from its header."""
    import nibabel

    if isinstance(header, nibabel.Nifti1Header):
        if not header.get_sform()[:3, :3].any():
            header.set_sform(None, 0)
        affine = header.get_best_affine()
    size = 0.0 if affine is None else abs(np.linalg.det(affine[:3, :3]))
    if not 0 < size < np.inf:  # NaN included
        raise FileError(f"path: the affine of {path.name} cannot be inverted")
    return np.array(affine, float)


def _millimetres(header: "SpatialHeader") -> float:
    """Return the unit of a file's lengths in mm."""
    import nibabel

    unit = header.get_xyzt_units()[0] if isinstance(header, nibabel.Nifti1Header) else "mm"
    return {"meter": 1e3, "micron": 1e-3}.get(unit, 1.0)


@checked
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
        ArgumentError: another suffix, or the reference is not a `NiftiVolume`.
        FileError: the file cannot be written.

    Example:
        >>> import nibabel, numpy as np
        >>> from wellposed import datasets
        >>> nibabel.save(nibabel.Nifti1Image(np.ones((40, 32, 10)), np.eye(4)), "brain.nii.gz")
        >>> brain = datasets.load_nifti("brain.nii.gz")
        >>> datasets.write_nifti("brighter.nii.gz", 2 * brain.volume, brain)
    """
    path = require_path("path", path)
    require(suffix_of(path) in NIFTI_SUFFIXES, "path", str(path), " or ".join(NIFTI_SUFFIXES))
    require(isinstance(reference, NiftiVolume), "reference", reference, "a NiftiVolume")
    _, channels, *size = reference.volume.shape
    values = as_stored(volume, (channels, *size)).astype(np.float32).T
    image = _image(values[..., 0] if channels == 1 else values, reference)
    with replacing(path) as part:
        image.to_filename(part)


def _image(values: np.ndarray, reference: NiftiVolume) -> "nibabel.Nifti1Image":
    """Return a nibabel image with both forms of the reference, and their codes."""
    import nibabel

    kind: type[nibabel.Nifti1Image] = nibabel.Nifti1Image
    if isinstance(reference.header, nibabel.Nifti2Header):
        kind = nibabel.Nifti2Image
    header = _nifti_header(reference.header, kind.header_class)
    affine = reference.affine.copy()
    affine[:3] /= _millimetres(header)
    codes = int(header["sform_code"]), int(header["qform_code"])
    # If slices were cut, both forms move alike.
    moved = np.linalg.inv(header.get_best_affine()) @ affine
    qform = header.get_qform() @ moved
    header.set_data_dtype(np.float32)
    header["cal_min"] = header["cal_max"] = 0  # display levels of the reference do not apply
    image = kind(values, affine, header)
    if any(codes):
        image.set_sform(affine if codes[0] else None, codes[0])
        image.set_qform(qform if codes[1] else None, codes[1], update_affine=not codes[0])
    return image


def _nifti_header(
    header: "SpatialHeader", kind: "type[nibabel.Nifti1Header]"
) -> "nibabel.Nifti1Header":
    """Return the header of a file of any format as a NIfTI header, in mm if it was another."""
    import nibabel

    if isinstance(header, nibabel.Nifti1Header):
        copied: nibabel.Nifti1Header = kind.from_header(header, check=False)
        return copied
    fresh = kind()
    fresh.set_data_shape(header.get_data_shape())
    fresh.set_xyzt_units("mm")
    return fresh
