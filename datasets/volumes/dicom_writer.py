"""Results as DICOM series, derived from the measured series."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

from wellposed.datasets.checks import as_stored
from wellposed.datasets.volumes.dicom import DICOM_SUFFIX, DicomSeries
from wellposed.errors import FileError, require

if TYPE_CHECKING:
    from pydicom import FileDataset

PIXEL_DEPENDENT = (
    "SmallestImagePixelValue",
    "LargestImagePixelValue",
    "PixelPaddingValue",
    "PixelPaddingRangeLimit",
    "ModalityLUTSequence",
    "VOILUTSequence",
    "VOILUTFunction",
    "WindowCenterWidthExplanation",
    "IconImageSequence",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
)
"""Attributes that describe the pixels of a slice and are wrong for other pixels."""
LEVELS = 2**16 - 1


def write_dicom_series(
    folder: str | Path, volume: Tensor | np.ndarray, reference: DicomSeries, description: str
) -> list[Path]:
    r"""Write a volume as a new series of the study that the reference belongs to.

    Patient, study, geometry and acquisition are those of the reference, slice by slice; series
    and images have new identifiers, the image type DERIVED\SECONDARY, and name their sources.
    Values are stored in 16 bits with a slope and an intercept common to all slices, so that they
    are read back to (max - min) / 131070.

    Args:
        folder: created if missing; without DICOM files, as a folder is one series.
        volume: real values (D, H, W) or (1, 1, D, H, W) in the units of the reference.
        reference: the series that was reconstructed or restored.
        description: of the series, e.g. "DDS mean", 1 to 64 ASCII characters.

    Returns:
        The files in the order of the slices.

    Raises:
        DtypeError, ShapeError, NonFiniteError: the volume is not real, finite and of the shape
            of the reference.
        ArgumentError: the description is empty, too long or has other characters.
        FileError: the folder contains DICOM files or cannot be written.
    """
    from pydicom.uid import generate_uid

    values = as_stored(volume, reference.values.shape)
    plain = description.isascii() and description.isprintable() and "\\" not in description
    fits = plain and 1 <= len(description) <= 64
    require(fits, "description", description, "1 to 64 ASCII characters, without backslashes")
    folder = Path(folder)
    low, high = float(values.min()), float(values.max())
    series = generate_uid()
    files = [folder / f"{number:04d}{DICOM_SUFFIX}" for number in range(1, len(values) + 1)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(p.suffix.lower() == DICOM_SUFFIX for p in folder.iterdir()):
            raise FileError(
                f"folder: {str(folder)!r} contains DICOM files, accepted: a new folder"
            )
        for number, (file, pixels) in enumerate(zip(files, values, strict=True)):
            header = _derived(reference.headers[number], description, series, number + 1)
            _set_pixels(header, pixels, low, high)
            header.save_as(file, enforce_file_format=True)
    except FileError:
        raise
    except OSError as error:
        raise FileError(f"folder: cannot write {str(folder)!r}: {error}") from error
    return files


def _decimal(value: float) -> str:
    """Return a number in the 16 characters that DICOM stores."""
    from pydicom.valuerep import format_number_as_ds

    return format_number_as_ds(value)


def _derived(source: "FileDataset", description: str, series: str, number: int) -> "FileDataset":
    """Return a header for an image made from another."""
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    header = deepcopy(source)
    header.remove_private_tags()  # they may describe the old pixels
    origin = Dataset()
    origin.ReferencedSOPClassUID = source.SOPClassUID
    origin.ReferencedSOPInstanceUID = source.SOPInstanceUID
    header.SourceImageSequence = [origin]
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


def _set_pixels(header: "FileDataset", values: np.ndarray, low: float, high: float) -> None:
    """Store values between ``low`` and ``high`` in 16 bits."""
    for name in PIXEL_DEPENDENT:
        if name in header:
            del header[name]
    header.Rows, header.Columns = values.shape
    header.SamplesPerPixel, header.PhotometricInterpretation = 1, "MONOCHROME2"
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 16, 15
    header.PixelRepresentation = 0
    slope, intercept = _decimal((high - low) / LEVELS or 1.0), _decimal(low)
    header.RescaleSlope, header.RescaleIntercept = slope, intercept
    header.WindowCenter, header.WindowWidth = (
        _decimal((low + high) / 2),
        _decimal(high - low or 1.0),
    )
    stored = np.rint((values - float(intercept)) / float(slope)).clip(0, LEVELS)
    header.PixelData = stored.astype("<u2").tobytes()
