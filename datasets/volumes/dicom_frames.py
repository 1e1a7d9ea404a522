"""DICOM files as frames: images with their headers, whatever their names and encodings."""

import math
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from wellposed.errors import FileError, require_package
from wellposed.integrity import check_claim

if TYPE_CHECKING:
    from pydicom import DataElement, Dataset

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
NO_IMAGES = ("SEG", "RTDOSE", "PR", "KO", "SR", "DOC")
"""Modalities of objects derived from images, which are read only on request."""

DECODERS = 'pip install "python-gdcm>=3.0.24" pylibjpeg pylibjpeg-openjpeg'


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of a file.

    Attributes:
        file: its path.
        number: of the frame in the file, from 0; ``None`` if the file is one image.
        header: header of this image, without pixels. The functional groups of enhanced
            multi-frame files are at the top, as in files of one image.
    """

    file: Path
    number: int | None
    header: "Dataset"


def is_dicom(file: Path) -> bool:
    """Return whether a file is DICOM, by its preamble or its suffix."""
    if file.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            opened.seek(128)
            return opened.read(4) == b"DICM"
    except OSError:
        return False


def frames_of(file: Path) -> list[Frame]:
    """Return the images in a file; none if it has other content.

    Raises:
        FileError: it cannot be read; names it.
    """
    header = read_header(file)
    from pydicom.uid import UID

    if not header.get("Rows") or not header.get("Columns"):
        kinds = (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID"))
        if any(UID(kind or "").name.endswith("Image Storage") for kind in kinds):
            raise _unreadable(file, ValueError("an image without Rows and Columns: truncated?"))
        return []
    per_frame = header.get(FUNCTIONAL_GROUPS[1])
    if not per_frame:
        return [Frame(file, None, header)]
    if len(per_frame) != int(header.get("NumberOfFrames") or 1):
        raise _unreadable(file, ValueError(_disagreement(header, per_frame)))
    return [Frame(file, n, _flat(header, groups)) for n, groups in enumerate(per_frame)]


def read_header(file: Path, pixels: bool = False) -> "Dataset":
    """Return the header of a file, on request with its pixels.

    Raises:
        FileError: it cannot be read; names it.
        MissingPackageError: pydicom is not installed.
    """
    require_package("pydicom", "dicom", f"path: {file.name}")
    import pydicom
    from pydicom.uid import UID

    try:
        _check_deflated(file)
        header: Dataset = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
        meta = header.file_meta
        told = "SOPClassUID" in header or "Rows" in header or len(meta) > 0
        if len(header) == 0 or not told:
            raise ValueError("it has no DICOM header")
        if "TransferSyntaxUID" not in meta:
            meta.TransferSyntaxUID = UID(_syntax(header))
    except Exception as error:  # pydicom raises many kinds of errors, without the file's name
        raise _unreadable(file, error) from error
    return header


def _check_deflated(file: Path) -> None:
    """Raise if a deflated file is larger than the memory, as pydicom inflates it as a whole.

    The group of meta information, which gives its own length, is followed by a deflated stream.
    """
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    with file.open("rb") as opened:
        start = opened.read(2048)
        if str(DeflatedExplicitVRLittleEndian).encode() not in start[128:]:
            return
        opened.seek(144 + int.from_bytes(start[140:144], "little"))
        inflated, stream = 0, zlib.decompressobj(-zlib.MAX_WBITS)
        while chunk := opened.read(2**16):
            inflated += len(stream.decompress(chunk))
            check_claim(file, "the content", inflated)


def read_pixels(file: Path) -> np.ndarray:
    """Return the stored pixels of a file, (H, W) or (frames, H, W).

    Raises:
        FileError: they are missing, truncated, in colour, or cannot be decoded; names the file.
    """
    data = read_header(file, pixels=True)
    if data.get("SamplesPerPixel", 1) != 1:
        got = data.get("PhotometricInterpretation")
        raise FileError(f"path: {str(file)!r} is in colour ({got}), accepted: one value per pixel")
    try:
        sides = (int(data.get("NumberOfFrames") or 1), int(data.Rows), int(data.Columns))
        check_claim(file, "pixels", math.prod(sides) * max(int(data.BitsAllocated) // 8, 1))
        return np.asarray(_decoded(data))
    except FileError:
        raise
    except Exception as error:  # as above
        raise _unreadable(file, error) from error


def _decoded(data: "Dataset") -> np.ndarray:
    try:
        stored: np.ndarray = data.pixel_array
    except Exception as error:
        syntax = data.file_meta.TransferSyntaxUID
        if not syntax.is_compressed:
            raise
        # pydicom's message is the list of decoders that it would need.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"its pixels, compressed as {syntax.name}, cannot be decoded ({reason}); install all "
            f"decoders by `{DECODERS}`, or decompress the file first, e.g. with gdcmconv --raw"
        ) from error
    return stored


def physical(stored: np.ndarray, header: "Dataset") -> np.ndarray:
    """Return stored values in the units of the modality, as HU, or of the real-world map.

    Raises:
        ValueError: a slope or an intercept is not finite.
    """
    from pydicom.pixels.processing import apply_modality_lut

    if header.get("ModalityLUTSequence"):
        # Wide, as a lookup table may have more entries than the pixels' type has values.
        return apply_modality_lut(stored.astype(np.int64), header).astype(np.float32)
    mapping = header.get("RealWorldValueMappingSequence") if maps_real_world(header) else None
    if mapping and "RealWorldValueLUTData" in mapping[0]:
        first = int(mapping[0].RealWorldValueFirstValueMapped)
        table = np.asarray(mapping[0].RealWorldValueLUTData, np.float32)
        values: np.ndarray = table[(stored.astype(np.int64) - first).clip(0, len(table) - 1)]
        return values
    if mapping:
        slope, intercept = mapping[0].RealWorldValueSlope, mapping[0].RealWorldValueIntercept
    else:
        slope, intercept = _rescale(header)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"a slope of {slope} and an intercept of {intercept}")
    return stored.astype(np.float32) * float(slope) + float(intercept)


def maps_real_world(header: "Dataset") -> bool:
    """Return whether values come from a real-world map: there is one, and no other rescale."""
    mapping = header.get("RealWorldValueMappingSequence")
    return bool(mapping) and "ModalityLUTSequence" not in header and _rescale(header) == (1, 0)


def _rescale(header: "Dataset") -> tuple[float, float]:
    """Return slope and intercept, 1 and 0 if they are missing or empty."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return (
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
    )


def _flat(header: "Dataset", groups: "Dataset") -> "Dataset":
    """Return the header of one frame: the file's, with the frame's functional groups on top."""
    from pydicom.dataset import Dataset

    flat = Dataset()
    flat.update({element.tag: element for element in _own(header)})
    flat.file_meta = header.file_meta
    for shared_or_own in (*(header.get(FUNCTIONAL_GROUPS[0]) or ()), groups):
        for element in _macros(shared_or_own):
            flat[element.tag] = element
    return flat


def _disagreement(header: "Dataset", per_frame: "Sequence[Dataset]") -> str:
    return f"{header.get('NumberOfFrames')} frames, but positions of {len(per_frame)}"


def _own(header: "Dataset") -> "Iterator[DataElement]":
    dropped = (*FUNCTIONAL_GROUPS, "NumberOfFrames", "DimensionIndexSequence")
    return (element for element in header if element.keyword not in dropped)


def _macros(groups: "Dataset", depth: int = 2) -> "Iterator[DataElement]":
    """Yield the elements in the sequences of one item of functional groups.

    Descriptions of sources and maps are kept whole.
    """
    for element in groups:
        if element.VR != "SQ" or element.keyword == "RealWorldValueMappingSequence":
            yield element
        elif depth and element.value and "Reference" not in element.keyword:
            yield from _macros(element.value[0], depth - 1)


def _syntax(header: "Dataset") -> str:
    """Return the transfer syntax by which pydicom has read a file that names none."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _unreadable(file: Path, error: Exception) -> FileError:
    reason = str(error) or type(error).__name__
    return FileError(f"path: cannot read {str(file)!r} as DICOM: {reason}")
