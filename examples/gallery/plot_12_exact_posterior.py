"""
How far is a sampler from the exact posterior?
==============================================

With a Gaussian prior and a linear operator, mean and spread of the posterior are known exactly.
Each sampler is compared with them: an error of the mean of 0 and a spread of 1 would be perfect.
:doc:`/posterior` does this for all solvers on many problems.
"""

import matplotlib.pyplot as plt
import torch

from wellposed import operators, priors, solvers
from wellposed.noise import ItemNoise

# %%
# A random field with the power spectrum of smooth images, blurred and noisy, in double precision.

side = 16
frequency = torch.fft.fftfreq(side, dtype=torch.float64) * side
power = 1 / (1 + frequency[:, None] ** 2 + frequency**2) ** 1.5
prior = priors.GaussianPrior(0.0, priors.Stationary(power[None]))
truth = prior.draw(ItemNoise(0, [(0,)]).draw(torch.zeros(1, 1, side, side, dtype=torch.float64)))
operator = operators.Blur(operators.gaussian_kernel(1.0, 7), (1, side, side), noise_sigma=0.05)
y = operator.measure(truth, seed=1)

# %%
# The closed form, and samples of three methods.

posterior = prior.posterior(y, operator)
exact = posterior.sample(500, seed=0).std(0)
samplers = {
    "MMPS": solvers.MMPS(steps=40, spacing="karras"),
    "DDS": solvers.DDS(steps=40, spacing="karras", eta=1.0),
    "DDS, gamma 1": solvers.DDS(steps=40, spacing="karras", eta=1.0, gamma=1.0),
    "DPS": solvers.DPS(steps=100),
}
spreads = {}
for name, sampler in samplers.items():
    result = sampler(y, operator, prior, num_samples=60, seed=0)
    off = float((result.mean - posterior.mean).norm() / exact.norm())
    spreads[name] = float(result.std.square().sum() / exact.square().sum())
    print(f"{name:13} error of the mean {off:.2f} deviations, spread {spreads[name]:.2f}")

# %%

figure, axes = plt.subplots(figsize=(5, 2.6))
axes.bar(list(spreads), list(spreads.values()), color="tab:blue")
axes.axhline(1, color="k", lw=1)
axes.set_ylabel("variance / exact variance")
figure.tight_layout()
