"""
An operator of your own
=======================

A function is enough: `FunctionOperator` finds its adjoint by automatic differentiation. The check
measures adjoint, linearity and gradients.
"""

from pathlib import Path

import torch

from wellposed import metrics, operators, priors, solvers
from wellposed.datasets import read_array

ROOT = Path(__file__).resolve().parents[2]
photo = torch.from_numpy(read_array(ROOT / "tests/data/held_out/kodak_08.png"))
image = photo.permute(2, 0, 1)[None, :, 32:96, 64:128]

# %%
# A colour filter array: every pixel measures one of three colours (RGGB).


def mosaic(x: torch.Tensor) -> torch.Tensor:
    """Return (B, 1, H, W): red, green, green, blue in squares of two pixels."""
    y = x[:, 1:2].clone()
    y[..., ::2, ::2] = x[:, 0:1, ::2, ::2]
    y[..., 1::2, 1::2] = x[:, 2:3, 1::2, 1::2]
    return y


operator = operators.FunctionOperator(mosaic, (3, 64, 64), noise_sigma=0.02)
print(operator)
print(operators.check_operator(operator))

# %%
# Every solver for linear operators takes it.

y = operator.measure(image, seed=0)
estimate = solvers.HQS(steps=20)(y, operator, priors.load("natural"))
plain = solvers.Tikhonov()(y, operator)
for name, found in (("Tikhonov", plain), ("HQS", estimate)):
    print(f"{name:9} {float(metrics.psnr(found.mean, image)):.2f} dB")

# %%

measured = y.expand(-1, 3, -1, -1)
picture = estimate.plot(others={"measured": measured, "Tikhonov": plain.mean}, truth=image)
picture
