"""Gradients through a whole sampler in the memory of one of its steps."""

from typing import Any

import torch
from torch import Tensor

from wellposed.checks import Steps, checked, require_batch
from wellposed.errors import require
from wellposed.inversion.bdia import BDIA
from wellposed.inversion.chain import Chain, Denoising
from wellposed.priors.schedule import Schedule
from wellposed.priors.transition import starting_std


class _Descent(torch.autograd.Function):
    """BDIA from its two noisiest states to ``x_m``; backwards along its exact inverse.

    Only the two last states are kept. On the way back each state is found again by the inverse
    step, from the same evaluation of the network that is differentiated.
    """

    @staticmethod
    def forward(ctx: Any, above: Tensor, z: Tensor, method: BDIA, chain: Chain) -> Tensor:
        ctx.method, ctx.chain = method, chain
        for i in range(chain.top - 1, 0, -1):
            above, z = z, method.step(above, z, chain, i)
        ctx.save_for_backward(above, z)
        return z

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None, None]:
        method, chain = ctx.method, ctx.chain
        z, below = ctx.saved_tensors
        of_below, of_z = grads[0], torch.zeros_like(grads[0])
        for i in range(1, chain.top):
            with torch.enable_grad():
                point = z.detach().requires_grad_()
                change = chain.along(chain.look(point, i), i - 1, i + 1)
            pulled = torch.autograd.grad(change, point, of_below)[0]
            # z_{i-1} = z_{i+1} - change(z_i)
            z, below = below + method.rounded(change.detach(), chain), z
            of_below, of_z = of_z - pulled, of_below
        return of_z, of_below, None, None


@checked
def generate(
    noise: Tensor, prior: Denoising, steps: Steps = 50, spacing: str = "karras"
) -> Tensor:
    """Return the clean image that a prior makes of noise, differentiable with respect to it.

    The probability flow by `BDIA` steps of second order. The gradient takes the memory of one
    network call, whatever the number of steps, and twice the time of `BDIA.decode`'s calls and one
    backward pass each. It is that of the noise, not of the weights.

    Args:
        noise: standard noise (B, C, ...); ``x_T`` is this times the schedule's deviation.
        prior: a plain prior that can be differentiated.
        steps: network calls.
        spacing: spacing of the levels, see `Schedule.times`.

    Returns:
        Clean images in units, in the dtype of the noise.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> noise = torch.randn(1, 1, 8, 8, requires_grad=True)
        >>> image = inversion.generate(noise, priors.GaussianPrior(0.5, 0.1), steps=10)
        >>> image.sum().backward()
        >>> image.shape, noise.grad.shape
        (torch.Size([1, 1, 8, 8]), torch.Size([1, 1, 8, 8]))
    """
    require_batch("noise", noise)
    require(
        isinstance(getattr(prior, "schedule", None), Schedule), "prior", prior, "a plain prior"
    )
    method = BDIA(steps=steps, spacing=spacing)
    chain = Chain(prior, method.times(prior))
    std = starting_std(prior.schedule, chain.times[-1]) / chain.scale[-1]
    exact = noise.to(torch.promote_types(noise.dtype, torch.float64))
    return _descended(std * exact, method, chain).to(noise.dtype)


def _descended(x_T: Tensor, method: BDIA, chain: Chain) -> Tensor:
    z = x_T + (method.rounded(x_T, chain) - x_T).detach()
    if chain.top == 0:
        return z / chain.alpha[0]
    first = chain.place(chain.look(z, chain.top), chain.top - 1)
    first = first + (method.rounded(first, chain) - first).detach()
    found: Tensor = _Descent.apply(z, first, method, chain)
    return found / chain.alpha[0]
