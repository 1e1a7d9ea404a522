"""
MRI: a slice measured with eight coils
======================================

Every fourth line of k-space is measured by eight coils. An estimate of the posterior mean (`HQS`)
is compared with CG-SENSE, and four samples of `MMPS` show what the data leave open.
"""

from pathlib import Path

import h5py
import torch

from wellposed import metrics, operators, priors, solvers

ROOT = Path(__file__).resolve().parents[2]

# %%
# The image is complex. Its magnitude is about 1 in the brightest tissue, as the prior expects.

with h5py.File(ROOT / "examples/data/studyforrest_slice.h5") as file:
    image = torch.from_numpy(file["magnitude"][112:208, 80:176].astype("complex64"))[None, None]

# %%
# The operator is ``y_c = M F (S_c x)``: coil maps, Fourier transform, mask of the lines. The noise
# level applies to the real and to the imaginary part of k-space.

height, width = image.shape[-2:]
maps = operators.simulate_sensitivity_maps(8, height, width, seed=0)
mask = operators.uniform_random_lines(width, acceleration=4, seed=0)
operator = operators.MultiCoilMRI(mask, maps, noise_sigma=0.01)
kspace = operator.measure(image, seed=0)

# %%
# The same call serves estimates and samplers.

prior = priors.load("brain-mri")
sense = solvers.Tikhonov()(kspace, operator)
estimate = solvers.HQS(steps=20)(kspace, operator, prior)
sampler = solvers.recommend(operator, prior, goal="samples", evaluations=10)
result = sampler(kspace, operator, prior, num_samples=4, seed=0)

for name, found in (("CG-SENSE", sense), ("HQS", estimate), ("mean of 4 samples", result)):
    print(f"{name:18} {float(metrics.psnr(found.mean, image)):.2f} dB")

# %%
# The standard deviation of the samples is large where the error is large, but smaller than the
# error: see the example on calibration.

picture = result.plot(others={"CG-SENSE": sense.mean, "HQS": estimate.mean}, truth=image)
picture
