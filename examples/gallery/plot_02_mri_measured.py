"""
MRI: measured k-space
=====================

Real k-space of a brain, eight coils, of which 12 % of the samples were taken. There is no truth.
The coil maps are estimated from the data (`espirit`), and the prior is taken to the units of the
scanner (`fit_range`).
"""

from pathlib import Path

import numpy as np
import torch

from wellposed import operators, priors, solvers

ROOT = Path(__file__).resolve().parents[2]
kspace = torch.from_numpy(np.load(ROOT / "examples/data/sigpy_brain_kspace.npy"))[None]
mask = (kspace[0] != 0).any(0).float()
print(f"k-space {tuple(kspace.shape)}, {float(mask.mean()):.1%} measured")

# %%
# The central part of k-space is enough here, and makes the example fast: half the resolution.

rows, columns = (slice(n // 4, n // 4 + n // 2 // 2 * 2) for n in kspace.shape[-2:])
kspace, mask = kspace[..., rows, columns].contiguous(), mask[rows, columns]

maps = operators.espirit(kspace[0], calibration=None, crop=0)
prior = priors.load("brain-mri")
free = operators.MultiCoilMRI(mask, maps)
fitted = priors.fit_range(prior, kspace, free)
print("range of the prior", prior.data_range, "->", fitted.data_range)

# %%
# The noise level is not recorded. With .8 % of the brightest tissue the residual, the misfit over
# the norm of the noise, is about 1.

operator = operators.MultiCoilMRI(mask, maps, noise_sigma=0.008 * fitted.data_range[1])
zero_filled = solvers.BackProjection()(kspace, operator)
variation = solvers.TotalVariation()(kspace, operator)
estimate = solvers.HQS(steps=20)(kspace, operator, fitted)
print(estimate)

# %%

picture = estimate.plot(others={"zero-filled": zero_filled.mean, "TV": variation.mean})
picture
