"""
A solver of your own
====================

Most samplers differ in three choices only: how the clean estimate is corrected by the data, which
noise is kept, and how much fresh noise is added. A correction and a variance rule make a solver.
The loop, seeds, batches, memory and results are shared.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor

from wellposed import metrics, operators, priors, solvers
from wellposed.checks import Count, Fraction
from wellposed.datasets import read_array
from wellposed.noise import NoiseSource
from wellposed.priors.transition import Levels, variance
from wellposed.solvers import Problem
from wellposed.solvers.corrected import Corrected, Correction, Estimate

ROOT = Path(__file__).resolve().parents[2]

# %%
# The correction: plain gradient steps of the misfit, whose length is that of a unit operator.


@dataclass(frozen=True, kw_only=True)
class GradientSteps(Correction):
    """``x0 <- x0 - A^H (A x0 - y)``, some times."""

    count: Count = 3
    linear_only: ClassVar[bool] = True

    def correct(
        self, found: Estimate, level: Levels, problem: Problem, noise: NoiseSource
    ) -> Tensor:
        """Return the corrected estimate, in units."""
        x0 = found.x0
        for _ in range(self.count):
            x0 = x0 - (problem.normal(x0) - problem.back_projection)
        return x0


@dataclass(frozen=True, kw_only=True)
class Gradients(Corrected):
    """Denoise, some gradient steps, DDIM with fresh noise."""

    eta: Fraction = 1.0
    count: Count = 3
    name: ClassVar[str] = "gradients"
    linear_only: ClassVar[bool] = True

    @property
    def correction(self) -> GradientSteps:
        """The gradient steps."""
        return GradientSteps(count=self.count)

    def fresh(self, level: Levels) -> Tensor:
        """The variance of DDIM."""
        return variance("markov", level, self.eta)


# %%
# Settings are checked: ``Gradients(eta=2.0)`` is an error that names the accepted range.

photo = torch.from_numpy(read_array(ROOT / "examples/data/kodak_23.png"))
image = photo.permute(2, 0, 1)[None, :, 80:144, 96:160]
operator = operators.Inpainting(operators.random_mask(64, 64, 0.4, seed=0), noise_sigma=0.02)
y = operator.measure(image, seed=0)
prior = priors.load("natural")

mine = Gradients(steps=25)(y, operator, prior, num_samples=2, seed=0)
theirs = solvers.DDNM(steps=25)(y, operator, prior, num_samples=2, seed=0)
for found in (mine, theirs):
    print(f"{found.solver:10} {float(metrics.psnr(found.mean, image)):.2f} dB")

# %%
# Other integrators accept the correction, such as second-order steps along the probability flow.
# Without fresh noise errors remain: the result is worse here.

second = solvers.MRSampler(order=2, steps=15, correction=GradientSteps())
faster = second(y, operator, prior, num_samples=2, seed=0)
print(f"second order, 15 steps: {float(metrics.psnr(faster.mean, image)):.2f} dB")

picture = mine.plot(others={"measured": y, "second order": faster.mean}, truth=image)
picture
