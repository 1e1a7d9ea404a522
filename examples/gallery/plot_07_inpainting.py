"""
Photographs: missing pixels
===========================

Three of four pixels are missing. The same problem is solved by five samplers with the same prior
and 20 network evaluations. Published settings are made for 100 to 1000 evaluations, so some of the
methods are far from their best here: :doc:`/images` has tables with tuned settings.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from wellposed import metrics, operators, priors, solvers
from wellposed.datasets import read_array
from wellposed.figures import displayable

ROOT = Path(__file__).resolve().parents[2]
photo = torch.from_numpy(read_array(ROOT / "examples/data/kodak_23.png"))
image = photo.permute(2, 0, 1)[None, :, 80:144, 96:160]

mask = operators.random_mask(64, 64, keep=0.25, seed=0)
operator = operators.Inpainting(mask, noise_sigma=0.025)
y = operator.measure(image, seed=0)

# %%
# The residual is 1 for an image that differs from the measurement by exactly the noise.

prior = priors.load("natural")
samplers = [
    solvers.MMPS(steps=20, spacing="karras"),
    solvers.DDS(steps=20, eta=1.0, spacing="karras"),
    solvers.DiffPIR(steps=20),
    solvers.DDNM(steps=20),
    solvers.REDDiff(steps=20, learning_rate=0.5),
]
found = {"measured": y}
for sampler in samplers:
    result = sampler(y, operator, prior, num_samples=1, seed=0)
    found[type(sampler).__name__] = result.mean
    score = float(metrics.psnr(result.mean, image))
    print(f"{type(sampler).__name__:8} {score:.2f} dB, residual {float(result.residual):.2f}")
found["truth"] = image

# %%

figure, axes = plt.subplots(1, len(found), figsize=(2 * len(found), 2.2))
for place, (name, picture) in zip(axes, found.items(), strict=True):
    place.imshow(displayable(picture[0]).clip(0, 1))
    place.set_title(name, fontsize=9)
    place.set_axis_off()
figure.tight_layout()
