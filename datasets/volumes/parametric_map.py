"""Standard deviations as DICOM parametric maps, which keep floating-point values and units."""

from copy import deepcopy
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from wellposed.checks import checked, require_path
from wellposed.datasets.checks import as_stored, translating
from wellposed.datasets.volumes.dicom import DicomSeries
from wellposed.errors import FileError, require
from wellposed.units import HOUNSFIELD
from wellposed.writing import replacing

if TYPE_CHECKING:
    from pydicom import Dataset

UCUM = {
    "": ("1", "no units"),
    HOUNSFIELD: ("[hnsf'U]", "Hounsfield unit"),
    "1/mm": ("/mm", "per millimeter"),
}
"""Codes of units in UCUM, with their meanings."""


@checked
def write_std_map(
    path: str | Path,
    std: Tensor | np.ndarray,
    reference: DicomSeries,
    description: str,
    *,
    unit: str = "",
) -> None:
    """Write a standard deviation as one DICOM Parametric Map that refers to a series.

    The values are stored as float32, unlike those of a series of images, with the code of the
    standard deviation (SNOMED CT 386136009) and of their unit. Patient, study, frame of reference
    and the places of the slices are those of the series, whose images the map names as its
    sources. Takes the package highdicom, which ``wellposed[dicom-maps]`` installs.

    Bridge et al., "Highdicom: a Python library for standardized encoding of image annotations and
    machine learning model outputs in pathology and radiology", Journal of Digital Imaging 35,
    2022, https://doi.org/10.1007/s10278-022-00683-y.

    Args:
        path: the file; an existing one is replaced.
        std: values of at least 0, (D, H, W) or (1, 1, D, H, W).
        reference: the series that the values belong to, of single images: for a result, the
            series of the mean, read by `read_dicom_series`.
        description: of the series, e.g. "DDS std", 1 to 64 ASCII characters.
        unit: of the values, one of `UCUM`: "HU", "1/mm", or "" for none.

    Raises:
        DtypeError, ShapeError, NonFiniteError: the values are not real, finite and of the shape
            of the series.
        ArgumentError: negative values, another unit or description, or a series whose images are
            frames of one file.
        FileError: the file cannot be written, the headers of the series are incomplete, or
            highdicom is not installed.

    Example:
        >>> import numpy as np
        >>> from pydicom.data import get_testdata_file
        >>> from wellposed import datasets
        >>> series = datasets.read_dicom_series(get_testdata_file("CT_small.dcm"))
        >>> std = np.full((1, 128, 128), 5.0)
        >>> datasets.write_std_map("std.dcm", std, series, "DDS std", unit="HU")
    """
    path = require_path("path", path)
    require(isinstance(reference, DicomSeries), "reference", reference, "a DicomSeries")
    values = as_stored(std, reference.values.shape).astype(np.float32)
    require(bool((values >= 0).all()), "std", float(values.min()), "values of at least 0")
    require(unit in UCUM, "unit", unit, ", ".join(map(repr, UCUM)))
    plain = isinstance(description, str) and description.isascii() and description.isprintable()
    fits = plain and "\\" not in description and 1 <= len(description) <= 64
    require(fits, "description", description, "1 to 64 ASCII characters, without backslashes")
    names = {header.SOPInstanceUID for header in reference.headers}
    accepted = "a file for each: write the mean by write_dicom_series, and read it"
    single = len(names) == len(values)
    require(single, "reference", f"{len(names)} files of {len(values)} slices", accepted)
    with translating(path, "a parametric map", "write"):
        made = _made(values, reference, description, unit)
        with replacing(path) as part:
            made.save_as(part)


def _made(values: np.ndarray, reference: DicomSeries, description: str, unit: str) -> Any:
    """Return the map as highdicom makes it."""
    highdicom = _package()
    from pydicom.sr.coding import Code
    from pydicom.uid import generate_uid

    from wellposed import __version__

    code, meaning = UCUM[unit]
    mapping = highdicom.pm.RealWorldValueMapping(
        lut_label="STD",
        lut_explanation="Standard deviation",
        unit=Code(code, "UCUM", meaning),
        value_range=(float(values.min()), float(values.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=Code("386136009", "SCT", "Standard Deviation"),
    )
    low, high = float(values.min()), float(values.max())
    window = highdicom.VOILUTTransformation((low + high) / 2, max(high - low, 1e-6))
    made = highdicom.pm.ParametricMap(
        source_images=_sources(reference),
        pixel_array=values,
        series_instance_uid=generate_uid(),
        series_number=1,
        sop_instance_uid=generate_uid(),
        instance_number=1,
        manufacturer="wellposed",
        manufacturer_model_name="wellposed",
        software_versions=__version__,
        device_serial_number="0",
        contains_recognizable_visual_features=False,
        real_world_value_mappings=[mapping],
        voi_lut_transformations=[window],
        content_label="STD",
        content_description=description,
    )
    made.SeriesDescription = description
    return made


def _sources(reference: DicomSeries) -> "list[Dataset]":
    """Return the headers in one frame of reference: anonymised files may each have another."""
    headers = [deepcopy(header) for header in reference.headers]
    for header in headers:
        header.FrameOfReferenceUID = headers[0].get("FrameOfReferenceUID")
    return headers


def _package() -> Any:
    try:
        import highdicom
        import highdicom.pm
    except ImportError:
        raise FileError(
            "path: parametric maps need the package highdicom: pip install 'wellposed[dicom-maps]'"
        ) from None
    return highdicom
