"""
CT: a measured fan beam
=======================

Disc A of the Helsinki Tomography Challenge 2022, reduced to 180 views and 280 bins. The geometry
comes from the file. The prior was trained on patients and has never seen a disc of acrylic: total
variation, which assumes piecewise constant objects, is the better model here.
"""

from pathlib import Path

import torch

from wellposed import operators, priors, solvers
from wellposed.datasets import load_htc2022

ROOT = Path(__file__).resolve().parents[2]
scan = load_htc2022(ROOT / "tests/data/htc2022/htc2022_ta_full.mat")
fan = scan.geometry
print(f"sinogram {tuple(scan.sinogram.shape)}, source at {fan.source_distance:.1f} mm,")
print(f"detector at {fan.detector_distance:.1f} mm from the source, bins of {fan.bin_size:.3f} mm")

# %%
# A quarter of the bins and every sixth view are enough for a picture of 64 pixels.

bins = fan.bins // 4
sinogram = torch.nn.functional.avg_pool2d(scan.sinogram[:, :, ::6, : 4 * bins], (1, 4))
operator = operators.FanBeamCT(
    64,
    fan.angles[::6],
    fan.source_distance,
    fan.detector_distance,
    operators.Detector(bins, 4 * fan.bin_size),
    4 * fan.pixel_size,
    noise_sigma=0.01,
)
print(operator)

# %%
# Acrylic attenuates .033 per mm at this energy, about as much as water: the range of the prior is
# twice that.

prior = priors.load("ct").with_range(0, 2 * 0.0335)
fbp = operator.fbp(sinogram)
variation = solvers.TotalVariation()(sinogram, operator)
estimate = solvers.HQS(steps=20)(sinogram, operator, prior)
print("residual:", float(variation.residual), "of TV,", float(estimate.residual), "of HQS")

# %%

picture = estimate.plot(others={"FBP": fbp, "TV": variation.mean})
picture
