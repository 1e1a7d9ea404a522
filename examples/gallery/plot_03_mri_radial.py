"""
MRI: radial k-space
===================

Spokes through the centre of k-space, on the trajectory of a real scan. `NonCartesianMRI` takes any
trajectory, in cycles per field of view.
"""

from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch

from wellposed import metrics, operators, priors, solvers

ROOT = Path(__file__).resolve().parents[2]
with h5py.File(ROOT / "examples/data/studyforrest_slice.h5") as file:
    image = torch.from_numpy(file["magnitude"][112:208, 80:176].astype("complex64"))[None, None]

# %%
# Frequencies run from -N / 2 to N / 2 along an axis of N pixels, in the order of the image's axes.
# The file has them for 256 pixels; they are scaled to 96. Every second of its 48 spokes is taken.

trajectory = torch.from_numpy(np.load(ROOT / "tests/data/sigpy_radial_trajectory.npy"))
trajectory = trajectory[::2, ::4] * (96 / 256)
print(f"{len(trajectory)} spokes of {trajectory.shape[1]} samples")

figure, axes = plt.subplots(figsize=(4, 4))
axes.plot(trajectory[..., 1].T, trajectory[..., 0].T, lw=0.7)
axes.set(xlabel="cycles along the columns", ylabel="cycles along the rows", aspect="equal")
figure.tight_layout()

# %%
# The density compensates the sampling in the gridding reconstruction, which other methods do not
# need.

maps = operators.simulate_sensitivity_maps(4, 96, 96, seed=0)
density = operators.ramp_density(trajectory, (96, 96))
operator = operators.NonCartesianMRI(trajectory, maps, noise_sigma=0.01, density=density)
kspace = operator.measure(image, seed=0)

gridding = operator.gridding(kspace)
sense = solvers.Tikhonov()(kspace, operator)
estimate = solvers.HQS(steps=12)(kspace, operator, priors.load("brain-mri"))
for name, found in (("gridding", gridding), ("CG-SENSE", sense.mean), ("HQS", estimate.mean)):
    print(f"{name:10} {float(metrics.psnr(found, image)):.2f} dB")

# %%

picture = estimate.plot(others={"gridding": gridding, "CG-SENSE": sense.mean}, truth=image)
picture
