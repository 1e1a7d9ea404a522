"""The measured fan-beam scans of the Helsinki Tomography Challenge 2022."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.checks import finite, located
from wellposed.datasets.ct.mat import read_mat
from wellposed.errors import FileError

PARAMETERS = {
    "angles": "angles",
    "distanceSourceOrigin": "source_distance",
    "distanceSourceDetector": "detector_distance",
    "pixelSizePost": "bin_size",
    "numDetectorsPost": "bins",
}
"""Names of the parameters in the files, after binning, and our names."""


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
        """Bin size at the rotation centre in mm, the pixel size of the challenge's images."""
        return self.bin_size * self.source_distance / self.detector_distance


@dataclass(frozen=True, eq=False)
class HTCScan:
    """A scan, and the organisers' reconstruction of it.

    Attributes:
        sinogram: line integrals, negative logarithm taken, float32 (1, 1, views, bins).
        geometry: geometry of the scanner, in mm and degrees.
        fbp: filtered back-projection of all views in 1/mm, float32 (1, 1, 512, 512), with pixels
            of ``geometry.pixel_size``; ``None`` if its file is missing.
        segmentation: segmentation, 0 or 1, float32 of the same shape; ``None`` if its file is
            missing.

    Example:
        >>> from wellposed import datasets, operators
        >>> scan = datasets.load_htc2022("htc2022_ta_full.mat")  # download # doctest: +SKIP
        >>> fan = scan.geometry  # doctest: +SKIP
        >>> distances = fan.source_distance, fan.detector_distance  # doctest: +SKIP
        >>> detector = operators.Detector(fan.bins, fan.bin_size)  # doctest: +SKIP
        >>> shape = (512, fan.angles, *distances, detector, fan.pixel_size)  # doctest: +SKIP
        >>> operator = operators.FanBeamCT(*shape, noise_sigma=0.01)  # doctest: +SKIP
    """

    sinogram: Tensor
    geometry: FanBeam
    fbp: Tensor | None
    segmentation: Tensor | None


@checked
def load_htc2022(path: str | Path) -> HTCScan:
    """Load a scan of the Helsinki Tomography Challenge 2022, full or limited.

    With ``htc2022_ta_full.mat``, the files ``htc2022_ta_full_recon_fbp.mat`` and
    ``htc2022_ta_full_recon_fbp_seg.mat`` in the same folder are read if they exist; for test
    scans, e.g. ``htc2022_01a_full.mat`` and ``..._limited.mat``, ``htc2022_01a_recon_fbp.mat`` and
    ``htc2022_01a_recon_fbp_seg.mat``.

    "Helsinki Tomography Challenge 2022 (HTC2022) open tomographic dataset", 2023,
    https://doi.org/10.5281/zenodo.8041800.

    Raises:
        FileError: missing or unreadable, another layout, lengths not in mm, NaN or infinite
            values, or sizes that contradict each other; names the file.

    Example:
        >>> import numpy as np, scipy.io
        >>> from wellposed import datasets
        >>> scanner = {"distanceSourceOrigin": 400.0, "distanceSourceDetector": 500.0,
        ...            "distanceUnit": "mm", "angles": np.arange(4) * 90.0,
        ...            "pixelSizePost": 0.2, "numDetectorsPost": 6}
        >>> scan = {"type": "2d", "sinogram": np.ones((4, 6)), "parameters": scanner}
        >>> scipy.io.savemat("htc2022_01a_limited.mat", {"CtDataLimited": scan})
        >>> datasets.load_htc2022("htc2022_01a_limited.mat").sinogram.shape
        torch.Size([1, 1, 4, 6])
    """
    path = located("path", path)
    content = read_mat(path)
    scan = next((content[key] for key in content if key.startswith("CtData")), None)
    if not isinstance(scan, dict) or not {"sinogram", "parameters"} <= scan.keys():
        raise FileError(
            f"path: {path.name} contains {', '.join(content) or 'nothing'}, accepted: a struct "
            "CtDataFull or CtDataLimited with a sinogram and its parameters"
        )
    geometry = _geometry(path, scan["parameters"])
    size = (len(geometry.angles), geometry.bins)
    sinogram = np.atleast_2d(scan["sinogram"])
    if sinogram.shape != size:
        raise FileError(
            f"path: the sinogram in {path.name} is {sinogram.shape}, accepted: {size} as in its "
            "parameters"
        )
    fbp = _beside(path, "recon_fbp")
    return HTCScan(
        sinogram=_tensor(path, "sinogram", sinogram),
        geometry=geometry,
        # The organisers' values are attenuation per pixel.
        fbp=None if fbp is None else fbp / geometry.pixel_size,
        segmentation=_beside(path, "recon_fbp_seg"),
    )


def _geometry(path: Path, parameters: dict[str, object]) -> FanBeam:
    missing = [name for name in (*PARAMETERS, "distanceUnit") if name not in parameters]
    if missing:
        raise FileError(f"path: the parameters in {path.name} have no {', '.join(missing)}")
    if parameters["distanceUnit"] != "mm":
        raise FileError(
            f"path: {path.name} has distances in {parameters['distanceUnit']!r}, accepted: 'mm'"
        )
    known = {ours: np.asarray(parameters[name], float) for name, ours in PARAMETERS.items()}
    angles = torch.from_numpy(finite(path, "angles", np.atleast_1d(known.pop("angles"))))
    near, far = known["source_distance"], known["detector_distance"]
    if not (0 < near <= far < np.inf and known["bin_size"] > 0):
        raise FileError(
            f"path: {path.name} has distances of {near} mm from source to rotation centre and "
            f"{far} mm to the detector, and bins of {known['bin_size']} mm, accepted: positive "
            "lengths with the detector behind the rotation centre"
        )
    return FanBeam(angles, float(near), float(far), int(known["bins"]), float(known["bin_size"]))


def _beside(path: Path, kind: str) -> Tensor | None:
    """Return the organisers' image of a kind beside a scan, or ``None`` without one."""
    stem = path.stem.removesuffix("_full").removesuffix("_limited")
    names = (path.with_name(f"{name}_{kind}.mat") for name in (path.stem, stem))
    found = next((name for name in names if name.exists()), None)
    return None if found is None else _image(found)


def _image(path: Path) -> Tensor:
    """Return the only image of a file."""
    images = [
        value
        for value in read_mat(path).values()
        if isinstance(value, np.ndarray) and value.ndim == 2
    ]
    if len(images) != 1:
        raise FileError(f"path: {path.name} contains {len(images)} images, accepted: one image")
    return _tensor(path, "image", images[0])


def _tensor(path: Path, key: str, values: np.ndarray) -> Tensor:
    return torch.from_numpy(finite(path, key, values).astype(np.float32))[None, None]
