"""Reconstruct a measured CT scan of a plastic disc from 60 and 30 views with a body prior.

The scan is disc `ta` of the Helsinki Tomography Challenge 2022: a fan beam around an acrylic disc
with holes, 721 measured views half a degree apart. Of these, 60 and 30 equally spaced ones are
reconstructed by FBP, TV and DDS with the shipped `ct` prior. It was trained on patients and has
never seen a disc: this example shows what a prior outside its domain does. The reference is our
FBP of 720 views, as the last repeats the first; how it compares with the organisers' own
reconstruction is printed. Images are compared in the disc inscribed in them: not all views see
the corners, and the reference is wrong there.

Data: https://doi.org/10.5281/zenodo.8041800, CC BY 4.0. Give --data the folder of
`htc2022_ta_full.mat` and the files beside it (and of `htc2022_tb_full.mat` for --tune).

    python examples/ct_measured.py --data htc2022/

Units: the prior's values are Hounsfield units from -1000 to 1000 as 0 to 1, so 1 is twice the
attenuation of water. The scale is fixed by physics, not by the scan: acrylic attenuates .033 per
mm at 33 keV (NIST), as it does in the median of the challenge's solid disc (.0325), and water
.0335 there. So air is 0 and acrylic about .5, as soft tissue is. Lengths are given to the
operator in such units that the measured line integrals need no scaling.
"""

import copy
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from comparison import Case, Method, arguments, run, total_variation, variants, with_prior
from deepinv.physics import GaussianNoise
from torch import Tensor

from wellposed import Reconstruction, operators, priors
from wellposed.datasets import HTCScan, load_htc2022
from wellposed.metrics import psnr, ssim
from wellposed.operators import FanBeamCT

TEST, TUNING = "ta", "tb"
VIEWS = (60, 30)
ATTENUATION = 2 * 0.0335  # per mm, of the value 1
# Chosen on disc tb by --tune: within .2 dB of the highest PSNR.
CHOSEN = {
    "TV": {"weight": [0.003]},
    "HQS": {"noise": [0.02]},
    "MMPS": {"noise": [0.02]},
    "DDS": {"noise": [0.02]},
}
GRID = {
    "TV": {"weight": [0.001, 0.003, 0.01]},
    "HQS": {"noise": [0.01, 0.02, 0.04, 0.08]},
    "MMPS": {"noise": [0.02, 0.04]},
    "DDS": {"noise": [0.01, 0.02, 0.04]},
}


def fan_beam(scan: HTCScan, step: int) -> FanBeamCT:
    """Return the operator of every ``step``-th view on bins averaged in pairs.

    Pixels are twice as large as in the organisers' images, 512 to 560 bins, at the same place.
    """
    fan, bins = scan.geometry, scan.geometry.bins // 2
    return FanBeamCT(
        bins * 512 // 560,
        fan.angles[:-1:step],
        fan.source_distance * ATTENUATION,
        fan.detector_distance * ATTENUATION,
        operators.Detector(bins, 2 * fan.bin_size * ATTENUATION),
        2 * fan.pixel_size * ATTENUATION,
    )


def cases(folder: Path, name: str) -> Iterator[Case]:
    """Yield the problems of few views; say how our reference compares with the organisers'."""
    scan = load_htc2022(folder / f"htc2022_{name}_full.mat")
    sinogram = F.avg_pool2d(scan.sinogram[:, :, :-1], (1, 2))
    reference = fan_beam(scan, 1).fbp(sinogram)
    region = inscribed_disc(reference.shape[-1])
    reference = region * reference
    if scan.fbp is not None:
        theirs = region * F.avg_pool2d(scan.fbp, 2) / ATTENUATION
        quality = f"{float(psnr(reference, theirs)):.2f} dB, {float(ssim(reference, theirs)):.4f}"
        print(f"Our FBP of {sinogram.shape[2]} views against the organisers' image: {quality}\n")
    for views in VIEWS:
        step = sinogram.shape[2] // views
        y = sinogram[:, :, ::step].contiguous()
        operator = fan_beam(scan, step)
        yield Case(f"{name} {views} views", y, operator, reference, (0.0, 0.7), region)


def inscribed_disc(side: int) -> Tensor:
    """Return 1 inside and 0 outside the disc inscribed in an image, (1, 1, side, side)."""
    x = torch.arange(side) - (side - 1) / 2
    return (x**2 + x[:, None] ** 2 <= (side / 2) ** 2).float()[None, None]


def fbp(case: Case) -> Tensor:
    """Return the filtered back-projection."""
    return case.operator.fbp(case.y)


def at_noise(method: Method) -> Callable[[Case, float], Tensor | Reconstruction]:
    """Return a method that is told the noise level of the line integrals.

    It is not known here; what the model does not describe, such as scatter, belongs to it.
    """

    def solve(case: Case, noise: float) -> Tensor | Reconstruction:
        operator = copy.copy(case.operator)
        operator.set_noise_model(GaussianNoise(noise))
        return method(replace(case, operator=operator))

    return solve


def main() -> None:
    """Compare the methods on few views."""
    options = arguments(__doc__, "ct-measured", iterations=40)
    methods = {
        "FBP": fbp,
        "TV": partial(total_variation, iterations=options.iterations),
        **{name: at_noise(m) for name, m in with_prior(priors.load("ct"), options).items()},
    }
    data, settings = (TUNING, GRID) if options.tune else (TEST, CHOSEN)
    print(f"All settings were chosen on disc {TUNING}, by --tune.\n")
    run(cases(options.data, data), variants(methods, settings), options.out)


if __name__ == "__main__":
    main()
