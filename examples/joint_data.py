"""Contrasts of one subject on one grid: an HDF5 file for `wellposed train` and the example.

    python examples/joint_data.py brain_mri_256.h5 joint.h5
    wellposed train --out joint --name joint --data joint.h5 --key images --channel-axis -1 \
        --group-key subject --licence "Lesjak et al. 2016, CC BY" --block gated \
        --widths 32,64,96,128 --learning-rate 1e-3 --batch-size 4 --decay 0.4 \
        --image-size 64 --held-out 0.25 --zoom 0.85 1.2 --gain 0.7 1.2 \
        --foreground 0.08 --sigma-data 0.3 --steps 4000

T1, T2 and FLAIR of a study have fields, pixels and slices of their own. The first two are moved
to the slices of FLAIR, .9 mm pixels, by the rigid motion of largest normalised mutual
information (Studholme et al., "An overlap invariant entropy measure of 3D medical image
alignment", 1999). About a minute for each study.

The file that is read has `magnitude` (N, H, W), 1000 for bright tissue, `volume` and `slice` of
each image, and `volumes/` with `name`, `subject`, `contrast`, `pixel_mm` and `slice_mm`: the 7
heads of Lesjak et al. 2016, CC BY, of which 4 have all three contrasts. Volumes of one study have
names that differ in the last word only. Written: `images` (N, 256, 256, 3), about [0, 1], and
`subject`.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
from scipy import ndimage, optimize
from scipy.spatial.transform import Rotation

CONTRASTS = ("T1", "T2", "FLAIR")
PIXEL, SIDE = 0.9, 256
TURN, SHIFT = 0.02, 4.0
"""Units of the search: radians and millimetres."""


@dataclass(frozen=True)
class Scan:
    """A volume (D, H, W), its steps in mm and the number of its first slice."""

    values: np.ndarray
    step: np.ndarray
    first: int

    @classmethod
    def read(cls, file: h5py.File, volume: int) -> "Scan":
        """Return a volume of the file."""
        rows = file["volume"][:] == volume
        about = file["volumes"]
        step = np.array([about["slice_mm"][volume], *about["pixel_mm"][volume]], float)
        return cls(file["magnitude"][rows] / np.float32(1000), step, int(file["slice"][rows][0]))

    def at(self, places: np.ndarray) -> np.ndarray:
        """Return values at places (3, N) in mm about the middle of the slices; 0 outside."""
        found = places / self.step[:, None]
        found[0] -= self.first
        found[1:] += (np.array(self.values.shape[1:])[:, None] - 1) / 2
        return ndimage.map_coordinates(self.values, found, order=1)

    def grid(self, every: int, pixel: float, side: int) -> np.ndarray:
        """Return the places (3, N) of some of the slices."""
        z = (self.first + np.arange(0, len(self.values), every)) * self.step[0]
        y = (np.arange(side) - (side - 1) / 2) * pixel
        return np.stack(np.meshgrid(z, y, y, indexing="ij")).reshape(3, -1)


def shared_information(a: np.ndarray, b: np.ndarray) -> float:
    """Return the normalised mutual information of two images of about [0, 1]."""
    joint = np.histogram2d(a.clip(0, 1.2), b.clip(0, 1.2), 32)[0] / len(a)

    def entropy(p: np.ndarray) -> float:
        return float(-(p[p > 0] * np.log(p[p > 0])).sum())

    return (entropy(joint.sum(0)) + entropy(joint.sum(1))) / entropy(joint)


def moved(places: np.ndarray, motion: np.ndarray) -> np.ndarray:
    """Return places turned about their middle and shifted."""
    middle = places.mean(1, keepdims=True)
    turn = Rotation.from_rotvec(TURN * motion[:3]).as_matrix()
    return turn @ (places - middle) + middle + SHIFT * motion[3:, None]


def registration(fixed: Scan, moving: Scan) -> np.ndarray:
    """Return the motion at which two scans tell most about each other."""
    places = fixed.grid(2, 4.0, 56)
    seen = fixed.at(places)

    def cost(motion: np.ndarray) -> float:
        return -shared_information(seen, moving.at(moved(places, motion)))

    shifts = [(z, y) for z in np.linspace(-5, 5, 9) for y in (-3, 0, 3)]
    start = min((np.array([0, 0, 0, z, y, 0.0]) for z, y in shifts), key=cost)
    options = {"maxiter": 4, "xtol": 0.02, "ftol": 1e-4}
    return optimize.minimize(cost, start, method="Powell", options=options).x


def aligned(file: h5py.File, volumes: dict[str, int]) -> np.ndarray:
    """Return the slices of a study, (N, side, side, 3), which all contrasts show."""
    scans = {name: Scan.read(file, volumes[name]) for name in CONTRASTS}
    fixed = scans["FLAIR"]
    places, channels = fixed.grid(1, PIXEL, SIDE), []
    for name, scan in scans.items():
        motion = np.zeros(6) if name == "FLAIR" else registration(fixed, scan)
        channels.append(scan.at(moved(places, motion)).reshape(-1, SIDE, SIDE))
    images = np.stack(channels, -1)
    shown = (images > 0.02).mean((1, 2)).min(-1) > 0.15
    return images[shown].astype(np.float16)


def studies(file: h5py.File) -> dict[str, dict[str, int]]:
    """Return the volumes of each study that has all contrasts, by contrast."""
    found: dict[str, dict[str, int]] = {}
    names, contrasts = (file["volumes"][key].asstr()[:] for key in ("name", "contrast"))
    for volume, (name, contrast) in enumerate(zip(names, contrasts, strict=True)):
        found.setdefault(name.rpartition("_")[0], {})[contrast] = volume
    return {name: volumes for name, volumes in found.items() if set(CONTRASTS) <= set(volumes)}


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scans", type=Path)
    parser.add_argument("out", type=Path)
    options = parser.parse_args()
    images, subjects = [], []
    with h5py.File(options.scans) as file:
        whose = file["volumes"]["subject"].asstr()[:]
        for name, volumes in studies(file).items():
            images.append(aligned(file, volumes))
            subjects += [whose[volumes["FLAIR"]]] * len(images[-1])
            print(f"{name}: {len(images[-1])} slices", flush=True)
    with h5py.File(options.out, "w") as file:
        file["images"], file["subject"] = np.concatenate(images), subjects


if __name__ == "__main__":
    main()
