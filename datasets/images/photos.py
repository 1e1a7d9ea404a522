"""Folders of photographs as one batch."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked, require_integer
from wellposed.datasets.checks import located
from wellposed.datasets.files import files_below, read_array
from wellposed.datasets.images.crops import central_crop
from wellposed.datasets.images.photograph import PHOTOGRAPH_SUFFIXES
from wellposed.errors import FileError, ShapeError


@dataclass(frozen=True, eq=False)
class ImageFolder:
    """Images of equal size.

    Attributes:
        images: float32 (B, C, H, W) in [0, 1], grey or RGB.
        files: the files in the same order.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from wellposed import datasets
        >>> Path("photos").mkdir()
        >>> photo = datasets.Photograph(np.random.rand(32, 40, 3).astype("float32"))
        >>> datasets.write_photograph(photo, "photos/a.png")
        >>> [path.name for path in datasets.load_images("photos").files]
        ['a.png']
    """

    images: Tensor
    files: tuple[Path, ...]


@checked
def load_images(folder: str | Path, size: int | None = None) -> ImageFolder:
    """Load all photographs in a folder and below, in the order of their paths.

    Args:
        folder: the folder.
        size: side of the central square crop; by default images are not cropped.

    Raises:
        FileError: no such folder, no images in it, or an unreadable file; names it.
        ShapeError: images differ in size or channels, or are smaller than ``size``; names one.
        ArgumentError: ``size`` is not an integer of at least 1.

    Example:
        >>> import numpy as np
        >>> from pathlib import Path
        >>> from wellposed import datasets
        >>> Path("photos").mkdir()
        >>> photo = datasets.Photograph(np.random.rand(32, 40, 3).astype("float32"))
        >>> datasets.write_photograph(photo, "photos/a.png")
        >>> datasets.load_images("photos", size=24).images.shape
        torch.Size([1, 3, 24, 24])
    """
    if size is not None:
        require_integer("size", size)
    folder = located("folder", folder)
    if not folder.is_dir():
        raise FileError(f"folder: no such folder {str(folder)!r}")
    files = files_below(folder, PHOTOGRAPH_SUFFIXES)
    if not files:
        raise FileError(f"folder: no {', '.join(PHOTOGRAPH_SUFFIXES)} files in {str(folder)!r}")
    images = [_read(file, size) for file in files]
    for file, image in zip(files, images, strict=True):
        if image.shape != images[0].shape:
            raise ShapeError(
                f"folder: {file.name} has shape {tuple(image.shape)}, accepted: "
                f"{tuple(images[0].shape)} as for {files[0].name}; set size to crop the images"
            )
    return ImageFolder(torch.stack(images), tuple(files))


def _read(file: Path, size: int | None) -> Tensor:
    """Return an image (C, H, W)."""
    pixels = torch.from_numpy(np.atleast_3d(read_array(file))).permute(2, 0, 1)
    if size is None:
        return pixels
    if min(pixels.shape[1:]) < size:
        raise ShapeError(
            f"size: got {size}, but {file.name} has {pixels.shape[1]} x {pixels.shape[2]} pixels"
        )
    return central_crop(pixels, size)
