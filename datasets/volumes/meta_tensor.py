"""Images of MONAI, which are tensors with an affine."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.volumes.nifti import NiftiVolume
from wellposed.errors import ArgumentError, ShapeError, check_finite, require, require_package

TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
"""From millimetres left, posterior and superior to right, anterior and superior."""


@checked
def from_monai(image: Any) -> NiftiVolume:
    """Return an image of MONAI as `load_nifti` returns that of a file.

    MONAI orders the axes as NIfTI does, (C, x, y) or (C, x, y, z); here they become
    (1, C, D, H, W) = (1, C, z, y, x). Nothing is turned or resampled. An image without an axis of
    channels, as its metadata tell, gets one.

    Args:
        image: a ``MetaTensor`` of one image, whose affine maps voxels to mm in the space "RAS" or
            "LPS" of its metadata.

    Raises:
        ArgumentError: another object, another space, or an affine that cannot be inverted.
        ShapeError: another number of axes, as of a batch.
        NonFiniteError: NaN or infinite values.
        MissingPackageError: nibabel is not installed.

    Example:
        >>> import torch
        >>> from monai.data import MetaTensor  # monai # doctest: +SKIP
        >>> from wellposed import datasets
        >>> image = MetaTensor(torch.rand(1, 24, 32, 8), affine=torch.eye(4))  # doctest: +SKIP
        >>> datasets.from_monai(image).volume.shape  # doctest: +SKIP
        torch.Size([1, 1, 8, 32, 24])
    """
    require_package("nibabel", "nifti", "image")
    if not isinstance(image, Tensor) or not hasattr(image, "affine"):
        got = type(image).__name__
        raise ArgumentError(f"image: got {got}, accepted: a MetaTensor of MONAI, with an affine")
    meta = getattr(image, "meta", {})
    plain = check_finite("image", image.as_subclass(Tensor).detach())
    plain = plain[None] if lacks_channel(plain.ndim, meta) else plain
    if plain.ndim not in (3, 4):
        raise ShapeError(
            f"image: got {tuple(image.shape)}, accepted: (C, x, y) or (C, x, y, z), one image"
        )
    affine = _in_ras(image.affine, str(meta.get("space", "RAS")))
    plain = plain[..., None] if plain.ndim == 3 else plain
    kind = torch.complex64 if plain.is_complex() else torch.float32
    volume = plain.permute(0, 3, 2, 1)[None].to(kind).contiguous()
    w, h, d = (float(size) for size in np.linalg.norm(affine[:3, :3], axis=0))
    return NiftiVolume(volume, affine, (d, h, w), _header(plain.shape[1:], affine))


def lacks_channel(axes: int, meta: Any) -> bool:
    """Tell whether an image of so many axes has none of channels, by its metadata."""
    spatial = meta.get("spatial_shape")
    return spatial is not None and axes == len(spatial)


def _in_ras(stored: Any, space: str) -> np.ndarray:
    """Return an affine (4, 4) to millimetres right, anterior and superior."""
    affine, found = np.eye(4), np.asarray(torch.as_tensor(stored).cpu(), float)
    require(found.shape in ((3, 3), (4, 4)), "image", f"an affine {found.shape}", "(4, 4)")
    axes = len(found) - 1
    affine[:axes, :axes], affine[:axes, 3] = found[:axes, :axes], found[:axes, axes]
    require(space in ("RAS", "LPS"), "image", f"the space {space!r}", "'RAS' or 'LPS'")
    usable = bool(np.isfinite(affine).all()) and abs(np.linalg.det(affine[:3, :3])) > 0
    require(usable, "image", "an affine that cannot be inverted", "one of voxels with a size")
    return affine if space == "RAS" else TO_RAS @ affine


def _header(size: torch.Size, affine: np.ndarray) -> Any:
    """Return a header of NIfTI, with the affine as its sform."""
    import nibabel

    header = nibabel.Nifti1Header()
    header.set_data_shape(tuple(size))
    header.set_sform(affine, "scanner")
    header.set_xyzt_units("mm")
    return header
