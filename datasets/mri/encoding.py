"""Matrix sizes and fields of view in the headers of MRI raw data."""

from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from torch import Tensor

from wellposed.checks import checked
from wellposed.errors import FileError
from wellposed.operators.mri.cartesian import fftc, ifftc

CARTESIAN = ("cartesian", "epi")

LINES, PLACES = ("z", "x", "y"), ("z", "y", "x")
"""Header axes in our order, (D, H, W): of lines partitions, readout, phase encoding; of
samples at any place x runs along the rows."""


@dataclass(frozen=True)
class Encoding:
    """Sizes of k-space and of the image from an ISMRMRD header.

    Inati et al., "ISMRM Raw data format: A proposed standard for MRI raw datasets", Magnetic
    Resonance in Medicine 77, 2017, https://doi.org/10.1002/mrm.26089. All triples are
    (D, H, W): partitions (1 in 2-D), readout, phase-encoding lines; of trajectories that are
    not `CARTESIAN` z, y and x.

    Attributes:
        encoded_size: size of k-space, including the readout oversampling.
        recon_size: size of the image after cropping.
        encoded_fov_mm: field of view of the encoded matrix.
        recon_fov_mm: field of view of the image.
        centre: indices (partition, line) of the centre of k-space, in acquisition counters.
        trajectory: "cartesian", "radial", "spiral", ...
    """

    encoded_size: tuple[int, int, int]
    recon_size: tuple[int, int, int]
    encoded_fov_mm: tuple[float, float, float]
    recon_fov_mm: tuple[float, float, float]
    centre: tuple[int, int]
    trajectory: str

    @property
    def voxel_mm(self) -> tuple[float, float, float]:
        """Size of a voxel of the image, (D, H, W) in mm."""
        d, h, w = (f / n for f, n in zip(self.recon_fov_mm, self.recon_size, strict=True))
        return d, h, w


def parse_header(path: Path, header: bytes | str, index: int = 0) -> Encoding:
    """Return the encoding number ``index`` of an ISMRMRD header in XML.

    Raises:
        FileError: invalid XML, no such encoding, or missing sizes; names ``path``.
    """
    try:
        found = ElementTree.fromstring(header).findall("{*}encoding")
    except ElementTree.ParseError as error:
        raise FileError(f"path: the header in {path.name} is not XML: {error}") from error
    if not 0 <= index < len(found):
        raise FileError(f"path: {path.name} has {len(found)} encodings, but no number {index}")
    trajectory = found[index].findtext("{*}trajectory", "cartesian")
    axes = LINES if trajectory in CARTESIAN else PLACES
    read = _Reader(path, found[index], axes)
    sizes = [read.triple(f"{space}Space/matrixSize") for space in ("encoded", "recon")]
    fovs = [read.triple(f"{space}Space/fieldOfView_mm") for space in ("encoded", "recon")]
    (depth, height, width), (d, h, w) = ([round(n) for n in size] for size in sizes)
    centre = [
        round(read.number(f"encodingLimits/kspace_encoding_step_{step}/center", size // 2))
        for step, size in ((2, depth), (1, width))
    ]
    return Encoding(
        (depth, height, width), (d, h, w), fovs[0], fovs[1], (centre[0], centre[1]), trajectory
    )


@dataclass(frozen=True)
class _Reader:
    """Numbers of an XML element, in any namespace."""

    path: Path
    element: ElementTree.Element
    axes: tuple[str, ...]

    def triple(self, name: str) -> tuple[float, float, float]:
        d, h, w = (self.number(f"{name}/{axis}") for axis in self.axes)
        if not min(d, h, w) > 0:
            raise FileError(f"path: the header in {self.path.name} has a {name} of {(h, w, d)}")
        return d, h, w

    def number(self, name: str, default: float | None = None) -> float:
        text = self.element.findtext("/".join(f"{{*}}{part}" for part in name.split("/")))
        if text is None and default is not None:
            return default
        try:
            return float(text or "")
        except ValueError as error:
            raise FileError(
                f"path: the header in {self.path.name} has {text!r} for {name}, accepted: a number"
            ) from error


@checked
def center_crop(image: Tensor, size: tuple[int, ...]) -> Tensor:
    """Return the centre of an image, cropped as in fastMRI; smaller axes are kept.

    Args:
        image: (..., H, W), or (..., D, H, W) for three sizes.
        size: lengths of the last axes, e.g. a scan's ``recon_size``.

    Example:
        >>> import torch
        >>> from wellposed import datasets
        >>> datasets.center_crop(torch.rand(1, 1, 64, 48), (32, 32)).shape
        torch.Size([1, 1, 32, 32])
    """
    for axis, length in enumerate(size, start=-len(size)):
        whole = image.shape[axis]
        kept = min(length, whole)
        image = image.narrow(axis, (whole - kept) // 2, kept)
    return image


def crop_readout(kspace: Tensor, rows: int) -> Tensor:
    """Return k-space (..., H, W) without the oversampling of its readout H.

    The image is cropped to ``rows`` and transformed back: values of images and noise stay.

    Example:
        >>> import torch
        >>> from wellposed import datasets
        >>> kspace = torch.randn(1, 4, 64, 32, dtype=torch.complex64)
        >>> datasets.crop_readout(kspace, rows=32).shape
        torch.Size([1, 4, 32, 32])
    """
    if rows >= kspace.shape[-2]:
        return kspace
    image = ifftc(kspace, (-2,))
    return fftc(center_crop(image, (rows, kspace.shape[-1])), (-2,))
