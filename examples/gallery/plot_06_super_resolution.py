"""
Photographs: super-resolution
=============================

A photograph reduced by four. Three samples of the posterior agree with the small image equally
well and differ in what it does not contain.
"""

from pathlib import Path

import torch

from wellposed import metrics, operators, priors, solvers
from wellposed.datasets import read_array

ROOT = Path(__file__).resolve().parents[2]
photo = torch.from_numpy(read_array(ROOT / "tests/data/held_out/kodak_08.png"))
image = photo.permute(2, 0, 1)[None, :, 32:128, 32:128]

operator = operators.SuperResolution((3, 96, 96), factor=4, noise_sigma=0.01)
y = operator.measure(image, seed=0)

# %%
# `SuperResolution` is decomposable: its pseudo-inverse, which is the smoothest image that explains
# the measurement, has a closed form.

prior = priors.load("natural")
smooth = operator.A_dagger(y).clamp(0, 1)
estimate = solvers.HQS(steps=20)(y, operator, prior)
sampler = solvers.recommend(operator, prior, goal="samples", evaluations=15)
result = sampler(y, operator, prior, num_samples=3, seed=0)
print(result)

for name, found in (("pseudo-inverse", smooth), ("HQS", estimate.mean), ("mean", result.mean)):
    print(f"{name:15} {float(metrics.psnr(found, image)):.2f} dB")

# %%

samples = {f"sample {n + 1}": sample for n, sample in enumerate(result.samples[1:])}
picture = result.plot(others={"pseudo-inverse": smooth, **samples}, truth=image)
picture
