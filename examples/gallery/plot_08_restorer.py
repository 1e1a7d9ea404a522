"""
Photographs: a trained restorer
===============================

A restorer was trained to undo a degradation. Its diffusion ends in the degraded image instead of
noise, and it needs no operator. If the operator is known, data steps can be added.
"""

from pathlib import Path

import torch

from wellposed import metrics, operators, priors
from wellposed.datasets import read_array
from wellposed.solvers import MRSampler
from wellposed.solvers.restoration.restore import restore

ROOT = Path(__file__).resolve().parents[2]
photo = torch.from_numpy(read_array(ROOT / "tests/data/held_out/kodak_08.png"))
image = photo.permute(2, 0, 1)[None, :, 32:128, 32:128]

operator = operators.Blur(operators.gaussian_kernel(1.5, 15), (3, 96, 96), noise_sigma=0.03)
degraded = operator.measure(image, seed=0)

# %%
# Few steps suffice, because the start is close to the end.

restorer = priors.load("irsde-deblur")
blind = restore(degraded, restorer, MRSampler(steps=5), num_samples=2, seed=0)
known = restore(degraded, restorer, MRSampler(steps=5, data_steps=5), operator, 2, seed=0)

rows = {"degraded": degraded, "restorer": blind.mean, "with the operator": known.mean}
for name, found in rows.items():
    print(f"{name:18} {float(metrics.psnr(found, image)):.2f} dB")

# %%

picture = known.plot(others={"degraded": degraded, "restorer": blind.mean}, truth=image)
picture
