"""
Hyperspectral: a prior fitted to one image
==========================================

An image of many bands is few maps times few spectra. `SpatioSpectral` (DDS2M) fits both to the one
noisy image while it is sampled; nothing is trained before. The cube is simulated from the colours
of a photograph; compare with the truncated singular value decomposition, which most published
tables lack.
"""

from pathlib import Path

import matplotlib.pyplot as plt
import torch

from wellposed import metrics, operators, priors, solvers
from wellposed.datasets import read_array

ROOT = Path(__file__).resolve().parents[2]
photo = torch.from_numpy(read_array(ROOT / "examples/data/kodak_23.png")).permute(2, 0, 1)
maps = photo[:, 80:128, 96:144]

# %%
# Three maps and three smooth spectra make 31 bands in [0, 1].

bands = torch.linspace(0, 1, 31)
spectra = torch.exp(-((bands[:, None] - torch.tensor([0.2, 0.5, 0.8])) ** 2) / 0.04)
cube = torch.einsum("br,rhw->bhw", spectra, maps)[None]
cube = cube / cube.max()

operator = operators.Denoising(tuple(cube.shape[1:]), noise_sigma=0.15)
y = operator.measure(cube, seed=0)

# %%
# The truncated decomposition of the noisy cube, of the same rank.

U, S, V = torch.linalg.svd(y[0].flatten(1), full_matrices=False)
truncated = (U[:, :3] * S[:3] @ V[:3]).reshape(cube.shape)

result = solvers.DDRM(steps=60, eta=0.5)(y, operator, priors.SpatioSpectral(rank=3), seed=0)
found = {"noisy": y, "SVD": truncated, "SpatioSpectral": result.mean}
for name, each in found.items():
    quality, _ = metrics.band_quality(each, cube)
    angle = metrics.spectral_angle(each, cube)
    print(f"{name:15} {float(quality):.2f} dB per band, {float(angle):.1f} degrees")

# %%

figure, axes = plt.subplots(1, 5, figsize=(12, 2.6), width_ratios=(1, 1, 1, 1, 1.4))
for place, (name, each) in zip(axes, {**found, "truth": cube}.items(), strict=False):
    place.imshow(each[0, 15], cmap="gray", vmin=0, vmax=float(cube[0, 15].max()))
    place.set_title(f"{name}, band 16", fontsize=9)
    place.set_axis_off()
for name, each in {**found, "truth": cube}.items():
    axes[4].plot(each[0, :, 24, 24], label=name, lw=1)
axes[4].set(xlabel="band", title="spectrum of a pixel")
axes[4].legend(fontsize=7)
figure.tight_layout()
