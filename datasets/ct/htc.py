"""The measured fan-beam scans of the Helsinki Tomography Challenge 2022."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.checks import finite
from wellposed.datasets.ct.mat import read_mat
from wellposed.errors import FileError

PARAMETERS = {
    "angles": "angles",
    "distanceSourceOrigin": "source_distance",
    "distanceSourceDetector": "detector_distance",
    "pixelSizePost": "bin_size",
    "numDetectorsPost": "bins",
}
"""The file's names, after binning, and ours."""


@dataclass(frozen=True, eq=False)
class FanBeam:
    """A fan-beam scan with a flat detector centred on the ray through the rotation centre.

    Angles and distances are those of `wellposed.operators.FanBeamCT`.

    Attributes:
        angles: view angles in degrees, counter-clockwise, float64 (views,).
        source_distance: source to rotation centre in mm.
        detector_distance: source to detector in mm.
        bins: number of detector bins.
        bin_size: width of a bin at the detector in mm.
    """

    angles: Tensor
    source_distance: float
    detector_distance: float
    bins: int
    bin_size: float

    @property
    def pixel_size(self) -> float:
        """A bin seen at the rotation centre in mm: the pixel size of the challenge's images."""
        return self.bin_size * self.source_distance / self.detector_distance


@dataclass(frozen=True, eq=False)
class HTCScan:
    """A scan, and the organisers' reconstruction of it.

    Attributes:
        sinogram: line integrals, negative logarithm taken, float32 (1, 1, views, bins).
        geometry: the scanner's, in mm and degrees.
        fbp: filtered back-projection of all views in 1/mm, float32 (1, 1, 512, 512) of pixels
            of ``geometry.pixel_size``; None where its file is missing.
        segmentation: its material, 0 or 1, float32 of the same shape, or None likewise.
    """

    sinogram: Tensor
    geometry: FanBeam
    fbp: Tensor | None
    segmentation: Tensor | None


def load_htc2022(path: str | Path) -> HTCScan:
    """Load a scan of the Helsinki Tomography Challenge 2022, full or limited.

    Of ``htc2022_ta_full.mat``, the files ``htc2022_ta_full_recon_fbp.mat`` and
    ``htc2022_ta_full_recon_fbp_seg.mat`` beside it are read where they exist; of the test scans,
    as ``htc2022_01a_full.mat`` and ``..._limited.mat``, ``htc2022_01a_recon_fbp.mat`` and
    ``htc2022_01a_recon_fbp_seg.mat``.

    "Helsinki Tomography Challenge 2022 (HTC2022) open tomographic dataset", 2023,
    https://doi.org/10.5281/zenodo.8041800.

    Raises:
        FileError: missing or unreadable, another layout, lengths not in mm, NaN or infinite
            values, or sizes that contradict each other; names the file.
    """
    path = Path(path)
    content = read_mat(path)
    scan = next((content[key] for key in content if key.startswith("CtData")), None)
    if not isinstance(scan, dict) or not {"sinogram", "parameters"} <= scan.keys():
        raise FileError(
            f"path: {path.name} holds {', '.join(content) or 'nothing'}, accepted: a struct "
            "CtDataFull or CtDataLimited of a sinogram and its parameters"
        )
    geometry = _geometry(path, scan["parameters"])
    size = (len(geometry.angles), geometry.bins)
    sinogram = np.atleast_2d(scan["sinogram"])
    if sinogram.shape != size:
        raise FileError(
            f"path: the sinogram in {path.name} is {sinogram.shape}, its parameters say {size}"
        )
    fbp = _beside(path, "recon_fbp")
    return HTCScan(
        sinogram=_tensor(path, "sinogram", sinogram),
        geometry=geometry,
        # The organisers give attenuation per pixel.
        fbp=None if fbp is None else fbp / geometry.pixel_size,
        segmentation=_beside(path, "recon_fbp_seg"),
    )


def _geometry(path: Path, parameters: dict[str, Any]) -> FanBeam:
    missing = [name for name in (*PARAMETERS, "distanceUnit") if name not in parameters]
    if missing:
        raise FileError(f"path: the parameters in {path.name} lack {', '.join(missing)}")
    if parameters["distanceUnit"] != "mm":
        raise FileError(
            f"path: {path.name} gives distances in {parameters['distanceUnit']!r}, accepted: 'mm'"
        )
    known = {ours: np.asarray(parameters[name], float) for name, ours in PARAMETERS.items()}
    angles = torch.from_numpy(finite(path, "angles", np.atleast_1d(known.pop("angles"))))
    near, far = known["source_distance"], known["detector_distance"]
    if not (0 < near <= far < np.inf and known["bin_size"] > 0):
        raise FileError(
            f"path: {path.name} has the source {near} mm from the rotation centre, {far} mm from "
            f"the detector, of bins of {known['bin_size']} mm: no such scanner"
        )
    return FanBeam(angles, float(near), float(far), int(known["bins"]), float(known["bin_size"]))


def _beside(path: Path, kind: str) -> Tensor | None:
    """Return the organisers' image of a kind beside a scan, or None without one."""
    stem = path.stem.removesuffix("_full").removesuffix("_limited")
    names = (path.with_name(f"{name}_{kind}.mat") for name in (path.stem, stem))
    found = next((name for name in names if name.exists()), None)
    return None if found is None else _image(found)


def _image(path: Path) -> Tensor:
    """Return the only image of a file."""
    images = [value for value in read_mat(path).values() if np.ndim(value) == 2]
    if len(images) != 1:
        raise FileError(f"path: {path.name} holds {len(images)} images, accepted: one")
    return _tensor(path, "image", images[0])


def _tensor(path: Path, key: str, values: np.ndarray) -> Tensor:
    return torch.from_numpy(finite(path, key, values).astype(np.float32))[None, None]
