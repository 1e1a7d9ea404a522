"""Results as DICOM series, derived from the measured series."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wellposed.checks import checked, require_path
from wellposed.datasets.checks import as_stored
from wellposed.datasets.volumes.dicom import DicomSeries
from wellposed.datasets.volumes.dicom_frames import PIXELS, is_dicom, maps_real_world
from wellposed.errors import FileError, require
from wellposed.remote import is_folder, uploading, url_of
from wellposed.writing import flush

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIX = ".dcm"

PIXEL_DEPENDENT = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "RealWorldValueMappingSequence",
    "VOILUTSequence",
    "IconImageSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    "NumberOfFrames",
    "PlanarConfiguration",
    *PIXELS,
)
"""Attributes that describe the pixels of a slice and are wrong for other pixels."""

SHAPES = {"MONOCHROME1": "INVERSE", "MONOCHROME2": "IDENTITY"}
"""Photometric interpretations and the equivalent presentation shapes."""

WINDOW = ("WindowCenter", "WindowWidth", "VOILUTFunction", "WindowCenterWidthExplanation")

SINGLE_FRAME = {
    "EnhancedCTImageStorage": "CTImageStorage",
    "LegacyConvertedEnhancedCTImageStorage": "CTImageStorage",
    "EnhancedMRImageStorage": "MRImageStorage",
    "LegacyConvertedEnhancedMRImageStorage": "MRImageStorage",
    "EnhancedPETImageStorage": "PositronEmissionTomographyImageStorage",
    "LegacyConvertedEnhancedPETImageStorage": "PositronEmissionTomographyImageStorage",
}
"""Classes of multi-frame files, and the corresponding classes of single images."""

LEVELS = 2**16 - 1


@checked
def write_dicom_series(
    folder: str | Path,
    volume: Tensor | np.ndarray,
    reference: DicomSeries,
    description: str,
    *,
    window: tuple[float, float] | None = None,
) -> list[Path]:
    r"""Write a volume as a new series of the study that the reference belongs to.

    Patient, study, geometry, acquisition and the sense of grey levels are those of the reference,
    slice by slice; series and images have new identifiers, the image type DERIVED\SECONDARY, and
    name their sources. Values are stored in 16 bits with a slope and an intercept common to all
    slices, so that they are read back to (max - min) / 131070. Files appear once all are written.

    Args:
        folder: created if missing; without DICOM files, as a folder is one series.
        volume: real values (D, H, W) or (1, 1, D, H, W) in the units of the reference.
        reference: the series that was reconstructed or restored.
        description: of the series, e.g. "DDS mean", 1 to 64 ASCII characters.
        window: lowest and highest displayed value; by default those of the reference, or the
            extremes if it has none.

    Returns:
        The files in the order of the slices.

    Raises:
        DtypeError, ShapeError, NonFiniteError: the volume is not real, finite and of the shape
            of the reference.
        ArgumentError: the description is empty, too long or has other characters; the reference
            is not a series, or the window not a pair of numbers.
        FileError: the folder contains DICOM files or cannot be written.

    Example:
        >>> from pydicom.data import get_testdata_file
        >>> from wellposed import datasets
        >>> series = datasets.read_dicom_series(get_testdata_file("CT_small.dcm"))
        >>> files = datasets.write_dicom_series("out", series.values, series, "denoised")
        >>> datasets.read_dicom_series("out").values.shape
        (1, 128, 128)
    """
    from pydicom.uid import generate_uid

    require(isinstance(reference, DicomSeries), "reference", reference, "a DicomSeries")
    values = as_stored(volume, reference.values.shape)
    plain = isinstance(description, str) and description.isascii() and description.isprintable()
    fits = plain and "\\" not in description and 1 <= len(description) <= 64
    require(fits, "description", description, "1 to 64 ASCII characters, without backslashes")
    if window is not None:
        low_to_high = _is_window(window)
        require(low_to_high, "window", window, "None or (low, high), low < high")
    folder = require_path("folder", folder)
    low, high = float(values.min()), float(values.max())
    series = generate_uid()
    with _appearing(folder) as part:
        for number, pixels in enumerate(values, 1):
            header = _derived(reference.headers[number - 1], description, series, number)
            _set_pixels(header, pixels, low, high)
            _set_window(header, reference.headers[number - 1], window, (low, high))
            header.save_as(part / f"{number:04d}{SUFFIX}", enforce_file_format=True)
    return [folder / f"{number:04d}{SUFFIX}" for number in range(1, len(values) + 1)]


@contextmanager
def _appearing(folder: Path) -> Iterator[Path]:
    """Yield a folder to write to; its files then move to ``folder``.

    Raises:
        FileError: the folder contains DICOM files or cannot be written; nothing was written.
    """
    if url_of(folder) is not None:
        if is_folder("folder", folder):
            raise FileError(f"folder: {url_of(folder)!r} exists, accepted: a new folder")
        with uploading("folder", folder) as part:
            part.mkdir()
            yield part
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(p.is_file() and is_dicom(p) for p in folder.iterdir()):
            raise FileError(
                f"folder: {str(folder)!r} contains DICOM files, accepted: a new folder"
            )
        with TemporaryDirectory(prefix=".part-", dir=folder) as name:
            yield Path(name)
            for file in sorted(Path(name).iterdir()):
                flush(file)
            for file in sorted(Path(name).iterdir()):
                file.replace(folder / file.name)
    except OSError as error:
        if isinstance(error, FileError):
            raise
        raise FileError(f"folder: cannot write {str(folder)!r}: {error}") from error


def without_window(series: DicomSeries) -> DicomSeries:
    """Return a series whose headers have no window, for values in other units."""
    headers = [deepcopy(header) for header in series.headers]
    for header in headers:
        for name in WINDOW:
            header.pop(name, None)
    return replace(series, headers=headers)


def _is_window(window: object) -> bool:
    numbers = isinstance(window, Sequence) and len(window) == 2 and np.isfinite(window).all()
    return bool(numbers) and window[0] < window[1]  # type: ignore[index]


def _decimal(value: float) -> str:
    """Return a number in the 16 characters that DICOM stores."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(value)


def _derived(source: "Dataset", description: str, series: str, number: int) -> "Dataset":
    """Return a header for an image made from another."""
    from pydicom.dataset import Dataset as Header
    from pydicom.dataset import FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    header = Header()  # without the encoding of the source
    header.update({element.tag: deepcopy(element) for element in source})
    header.remove_private_tags()  # they may describe the old pixels
    origin = Header()
    origin.ReferencedSOPClassUID = source.SOPClassUID
    origin.ReferencedSOPInstanceUID = source.SOPInstanceUID
    header.SourceImageSequence = [origin]
    header.SOPClassUID = _single_frame(source.SOPClassUID)
    header.ImageType = ["DERIVED", "SECONDARY", *list(source.get("ImageType") or [])[2:]]
    header.SOPInstanceUID = generate_uid()
    header.SeriesInstanceUID = series
    header.SeriesDescription = description
    header.SeriesNumber = None
    header.InstanceNumber = number
    header.file_meta = FileMetaDataset()
    header.file_meta.MediaStorageSOPClassUID = header.SOPClassUID
    header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
    header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    return header


def _single_frame(sop_class: str) -> str:
    from pydicom import uid

    name = SINGLE_FRAME.get(uid.UID(sop_class).keyword)
    return sop_class if name is None else getattr(uid, name)


def _set_pixels(header: "Dataset", values: np.ndarray, low: float, high: float) -> None:
    """Store values between ``low`` and ``high`` in 16 bits."""
    for name in PIXEL_DEPENDENT:
        if name in header:
            del header[name]
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel = 1
    if header.get("PhotometricInterpretation") not in SHAPES:
        header.PhotometricInterpretation = "MONOCHROME2"
    if "PresentationLUTShape" in header:
        header.PresentationLUTShape = SHAPES[header.PhotometricInterpretation]
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 0
    slope, intercept = _decimal((high - low) / LEVELS or 1.0), _decimal(low)
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    stored = np.rint((values - float(intercept)) / float(slope)).clip(0, LEVELS)
    header.add_new("PixelData", "OW", stored.astype("<u2").tobytes())


def _set_window(
    header: "Dataset",
    source: "Dataset",
    window: tuple[float, float] | None,
    extremes: tuple[float, float],
) -> None:
    """Set the window: the given one, that of the source if in its units, or the extremes."""
    if window is None and source.get("WindowWidth") and not maps_real_world(source):
        return
    for name in WINDOW:
        if name in header:
            del header[name]
    low, high = map(float, window or extremes)
    header.WindowCenter = _decimal((low + high) / 2)
    header.WindowWidth = _decimal(high - low or 1.0)
