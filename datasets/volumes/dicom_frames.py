"""DICOM files as frames: images with their headers, whatever they are called or packed as."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wellposed.datasets.checks import check_claim
from wellposed.errors import FileError

DICOM_SUFFIXES = (".dcm", ".ima", ".dicom")
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
FUNCTIONAL_GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
NO_IMAGES = ("SEG", "RTDOSE", "PR", "KO", "SR", "DOC")
"""Modalities of what was derived from images and is none; read where it is asked for."""

DECODERS = 'pip install "python-gdcm>=3.0.24" pylibjpeg pylibjpeg-openjpeg'


@dataclass(frozen=True, eq=False)
class Frame:
    """An image of a file.

    Attributes:
        file: where it is.
        number: which of the file's frames, from 0; ``None`` where the file is one image.
        header: what is told of this image, without pixels. Of enhanced multi-frame files the
            functional groups stand at the top, as they do in files of one image.
    """

    file: Path
    number: int | None
    header: Any


def is_dicom(file: Path) -> bool:
    """Tell whether a file is DICOM, by its preamble or its suffix."""
    if file.suffix.lower() in DICOM_SUFFIXES:
        return True
    try:
        with file.open("rb") as opened:
            opened.seek(128)
            return opened.read(4) == b"DICM"
    except OSError:
        return False


def frames_of(file: Path) -> list[Frame]:
    """Return the images in a file; none where it holds something else.

    Raises:
        FileError: it cannot be read; names it.
    """
    from pydicom.uid import UID

    header = read_header(file)
    if not header.get("Rows") or not header.get("Columns"):
        told = (header.get("SOPClassUID"), header.file_meta.get("MediaStorageSOPClassUID"))
        if any(UID(kind or "").name.endswith("Image Storage") for kind in told):
            raise _unreadable(file, ValueError("an image without Rows and Columns: truncated?"))
        return []
    per_frame = header.get(FUNCTIONAL_GROUPS[1])
    if not per_frame:
        return [Frame(file, None, header)]
    if len(per_frame) != int(header.get("NumberOfFrames") or 1):
        raise _unreadable(file, ValueError(_disagreement(header, per_frame)))
    return [Frame(file, n, _flat(header, groups)) for n, groups in enumerate(per_frame)]


def read_header(file: Path, pixels: bool = False) -> Any:
    """Return what a file holds; without its pixels unless they are asked for.

    Raises:
        FileError: it cannot be read; names it.
    """
    import pydicom

    try:
        header: Any = pydicom.dcmread(file, stop_before_pixels=not pixels, force=True)
        meta = header.file_meta
        told = "SOPClassUID" in header or "Rows" in header or len(meta) > 0
        if len(header) == 0 or not told:
            raise ValueError("it has no DICOM header")
        if "TransferSyntaxUID" not in meta:
            meta.TransferSyntaxUID = _syntax(header)
    except Exception as error:  # pydicom raises many kinds; the user needs the file's name
        raise _unreadable(file, error) from error
    return header


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


def _decoded(data: Any) -> np.ndarray:
    try:
        stored: np.ndarray = data.pixel_array
    except Exception as error:
        syntax = data.file_meta.TransferSyntaxUID
        if not syntax.is_compressed:
            raise
        # pydicom answers with the list of decoders that it would need.
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"its pixels, compressed as {syntax.name}, cannot be decoded ({reason}); install all "
            f"decoders by `{DECODERS}`, or decompress them first, e.g. with gdcmconv --raw"
        ) from error
    return stored


def physical(stored: np.ndarray, header: Any) -> np.ndarray:
    """Return stored values in the units of the modality, as HU, or of the real-world map.

    Raises:
        ValueError: a slope or an intercept is not finite.
    """
    from pydicom.pixels import apply_modality_lut

    if header.get("ModalityLUTSequence"):
        # Wide, as a lookup table may have more entries than the pixels' type has values.
        return apply_modality_lut(stored.astype(np.int64), header).astype(np.float32)
    mapping = header.get("RealWorldValueMappingSequence") if maps_real_world(header) else None
    if mapping and "RealWorldValueLUTData" in mapping[0]:
        first = int(mapping[0].RealWorldValueFirstValueMapped)
        table = np.asarray(mapping[0].RealWorldValueLUTData, np.float32)
        return table[(stored.astype(np.int64) - first).clip(0, len(table) - 1)]
    if mapping:
        slope, intercept = mapping[0].RealWorldValueSlope, mapping[0].RealWorldValueIntercept
    else:
        slope, intercept = _rescale(header)
    if not (math.isfinite(slope) and math.isfinite(intercept)):
        raise ValueError(f"a slope of {slope} and an intercept of {intercept}")
    return stored.astype(np.float32) * float(slope) + float(intercept)


def maps_real_world(header: Any) -> bool:
    """Tell whether values come from a real-world map: one is there, and no other rescale."""
    mapping = header.get("RealWorldValueMappingSequence")
    return bool(mapping) and "ModalityLUTSequence" not in header and _rescale(header) == (1, 0)


def _rescale(header: Any) -> tuple[float, float]:
    """Return slope and intercept; of what is absent or empty those that change nothing."""
    slope, intercept = header.get("RescaleSlope"), header.get("RescaleIntercept")
    return (
        1.0 if slope in (None, "") else float(slope),
        0.0 if intercept in (None, "") else float(intercept),
    )


def _flat(header: Any, groups: Any) -> Any:
    """Return the header of one frame: the file's, with the frame's functional groups on top."""
    from pydicom.dataset import Dataset

    flat = Dataset()
    flat.update({element.tag: element for element in _own(header)})
    flat.file_meta = header.file_meta
    for shared_or_own in (*(header.get(FUNCTIONAL_GROUPS[0]) or ()), groups):
        for element in _macros(shared_or_own):
            flat[element.tag] = element
    return flat


def _disagreement(header: Any, per_frame: Any) -> str:
    return f"{header.get('NumberOfFrames')} frames and the places of {len(per_frame)}"


def _own(header: Any) -> Iterator[Any]:
    dropped = (*FUNCTIONAL_GROUPS, "NumberOfFrames", "DimensionIndexSequence")
    return (element for element in header if element.keyword not in dropped)


def _macros(groups: Any, depth: int = 2) -> Iterator[Any]:
    """Yield what functional groups tell: the elements of their sequences of one item.

    What describes sources or maps is kept whole.
    """
    for element in groups:
        if element.VR != "SQ" or element.keyword == "RealWorldValueMappingSequence":
            yield element
        elif depth and element.value and "Reference" not in element.keyword:
            yield from _macros(element.value[0], depth - 1)


def _syntax(header: Any) -> str:
    """Return the transfer syntax of a file that does not tell: how pydicom has read it."""
    from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    implicit, little = header.original_encoding
    if implicit:
        return ImplicitVRLittleEndian
    return ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _unreadable(file: Path, error: Exception) -> FileError:
    reason = str(error) or type(error).__name__
    return FileError(f"path: cannot read {str(file)!r} as DICOM: {reason}")
