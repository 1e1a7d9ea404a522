"""
CT: few views and photon noise
==============================

An abdomen from 40 views of a parallel beam, with the noise of photon counts. Attenuation is in
1/mm and the prior is taken to this unit; results are converted to Hounsfield units.
"""

from pathlib import Path

import numpy as np
import torch

from wellposed import metrics, operators, priors, solvers

ROOT = Path(__file__).resolve().parents[2]
hounsfield = torch.from_numpy(np.load(ROOT / "tests/data/held_out/andrei_abdomen.npy"))
hounsfield = hounsfield[32:160, 32:160].float().clamp(-1000, 1000)[None, None]
image = operators.from_hounsfield(hounsfield)  # 1/mm

# %%
# Photons are counted; line integrals are minus the logarithm of their share. The noise of each
# line integral follows from its count, and `Whitened` divides by it, so that it is 1 everywhere.

PIXEL = 2.0  # mm
scan = operators.ParallelBeamCT(128, angles=40, pixel_size=PIXEL)
counts = operators.simulate_counts(scan.A(image), photons=1e4, seed=0)
sinogram = operators.to_line_integrals(counts, photons=1e4)
operator = operators.Whitened(scan, operators.line_integral_noise(counts))
y = operator.whiten(sinogram)

# %%
# The shipped prior knows images from -1000 to 1000 HU, which is attenuation from 0 to twice that
# of water.

prior = priors.load("ct").with_range(0, 2 * operators.MU_WATER)
fbp = scan.fbp(sinogram)
variation = solvers.TotalVariation()(y, operator)
estimate = solvers.HQS(steps=20)(y, operator, prior)
print(estimate)

# %%
# PSNR for a peak of 2000 HU.

truth = operators.to_hounsfield(image)
found = {"FBP": fbp, "TV": variation.mean, "HQS": estimate.mean}
for name, each in found.items():
    score = metrics.psnr(operators.to_hounsfield(each), truth, peak=2000.0)
    print(f"{name:4} {float(score):.2f} dB")

# %%

picture = estimate.plot(others={"FBP": fbp, "TV": variation.mean}, truth=image)
picture
