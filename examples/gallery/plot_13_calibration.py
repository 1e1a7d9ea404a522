"""
Uncertainty that holds: calibrated intervals
============================================

The standard deviation of samples is rarely the size of the error. On a few images whose truth is
known, `Conformal` finds one factor with which intervals contain the stated share of the truth, for
any sampler, prior and noise.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from wellposed import operators, priors, solvers
from wellposed.datasets import read_array
from wellposed.uncertainty import Conformal, gaussian_factor

ROOT = Path(__file__).resolve().parents[2]
photo = torch.from_numpy(read_array(ROOT / "examples/data/kodak_23.png")).permute(2, 0, 1)
tiles = photo.unfold(1, 32, 32).unfold(2, 32, 32).permute(1, 2, 0, 3, 4).flatten(0, 1)

# %%
# Tiles of a photograph, for the calibration and to test it. Few images give a cautious factor:
# with n of them, about 1 / n more of the truth is inside than asked for.

order = torch.randperm(len(tiles), generator=torch.Generator().manual_seed(0))
known, new = tiles[order[:28]], tiles[order[28:40]]
operator = operators.SuperResolution((3, 32, 32), factor=2, kernel="average", noise_sigma=0.02)
prior = priors.load("natural")
sampler = solvers.DDS(steps=8, eta=1.0, spacing="karras")

results = [
    sampler(operator.measure(images, seed=n), operator, prior, num_samples=3, seed=n)
    for n, images in enumerate((known, new))
]
gaussian = gaussian_factor(0.9)
calibration = Conformal.fit(results[:1], [known], level=0.9)
print(f"factor {float(calibration.factor):.2f}; {gaussian:.3f} for a Gaussian")

# %%
# Share of pixels whose truth lies in the interval, for each new image.

lower, upper = calibration.interval(results[1])
inside = ((new >= lower) & (new <= upper)).float().mean((1, 2, 3))
reach = gaussian * results[1].std
naive = ((new - results[1].mean).abs() <= reach).float().mean((1, 2, 3))
print(f"mean +- 1.645 std: {float(naive.mean()):.0%}; calibrated: {float(inside.mean()):.0%}")

# %%

figure, axes = plt.subplots(figsize=(6, 2.8))
axes.plot(naive, "o", label="mean ± 1.645 std")
axes.plot(inside, "o", label="calibrated")
axes.axhline(0.9, color="k", lw=1)
axes.set(xlabel="new image", ylabel="share inside", ylim=(0, 1.03))
axes.legend(loc="lower right")
figure.tight_layout()
