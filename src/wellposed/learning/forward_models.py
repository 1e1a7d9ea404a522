r"""Diffusion with forward models: a denoiser in the space of a measurement, learnt without images.

A signal x is never seen; each example has measurements of it: a context ``y_c = A_c x``, a target
``y_1 = A_1 x`` and another, ``y_2 = A_2 x``. Noise is added to the target,

    z_t = alpha_t y_1 + sigma_t eps,

and a network f estimates the *signal*, which the known operators measure again:

    d    = A_1 g(y_c)                                       deterministic estimate
    x    = f(y_c, z_t, A_1, t, d)
    loss = mean((A_1 x - y_1)^2, (A_2 x - y_2)^2) + mean (d - y_1)^2.

The second target keeps f from being right in the range of ``A_1`` alone; the minimum is
``f = E[x | y_c, z_t]`` where the ``A_2`` of the data see all of x. Sampling diffuses z from noise
to a sample of ``A_1 x`` given ``y_c``; the signal is that of the last estimate.

Reference: "Diffusion with Forward Models", Tewari et al., NeurIPS 2023, arXiv:2306.11719.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import torch
from torch import Tensor

from wellposed.checks import Fraction, Positive, Steps, check_fields
from wellposed.errors import require
from wellposed.linalg import as_real, per_item
from wellposed.noise import NoiseSource
from wellposed.priors.prior import broadcast
from wellposed.priors.schedule import Schedule
from wellposed.priors.transition import implied_noise, levels, transition, variance

Forward = Callable[[Tensor], Tensor]
"""A forward model: signals (B, ...) to measurements (B, ...)."""


class ForwardModelNetwork(Protocol):
    """What is learnt: two estimates of the signal, of any kind of context."""

    def guess(self, context: Tensor) -> Tensor:
        """Return ``g(y_c)``, without noise."""

    def estimate(
        self, context: Tensor, z_t: Tensor, forward: Forward, t: Tensor, rendered: Tensor
    ) -> Tensor:
        """Return ``f``: the signal from the context, the noisy target and the rendered guess."""


@dataclass(frozen=True)
class Losses:
    """The two terms of the loss: of both targets, and of the deterministic estimate."""

    targets: Tensor
    deterministic: Tensor

    @property
    def sum(self) -> Tensor:
        """Their sum, which is minimised."""
        return self.targets + self.deterministic


def forward_model_losses(
    network: ForwardModelNetwork,
    context: Tensor,
    targets: Sequence[tuple[Tensor, Forward]],
    t: Tensor,
    eps: Tensor,
    schedule: Schedule,
) -> Losses:
    """Return the loss of a batch.

    Args:
        network: what is trained.
        context: ``y_c``, in any form that the network takes.
        targets: measurements and their operators; the first is the one that is diffused.
        t: times (B,).
        eps: standard noise like the first target; zero where nothing is measured.
        schedule: schedule of the diffusion.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from wellposed import priors
        >>> from wellposed.learning import forward_model_losses
        >>> network = SimpleNamespace(guess=lambda y_c: y_c, estimate=lambda y_c, *_: y_c)
        >>> context, t = torch.ones(2, 1, 8, 8), torch.full((2,), 0.5)
        >>> y, eps = torch.ones(2, 1, 8, 4), torch.randn(2, 1, 8, 4)
        >>> targets = [(y, lambda x: x[..., ::2])]
        >>> forward_model_losses(network, context, targets, t, eps, priors.Flow()).sum
        tensor(0.)
    """
    require(len(targets) > 0, "targets", len(targets), "one or more")
    y, forward = targets[0]
    alpha, sigma = (broadcast(value, y) for value in schedule(t))
    rendered = forward(network.guess(context))
    x = network.estimate(context, alpha * y + sigma * eps, forward, t, rendered)
    errors = [as_real(measure(x) - seen).square().flatten() for seen, measure in targets]
    return Losses(torch.cat(errors).mean(), as_real(rendered - y).square().mean())


@dataclass(frozen=True, kw_only=True)
class ForwardModelSampler:
    """Samples a measurement given the context by DDIM, and with it the signal.

    Args:
        steps: network evaluations.
        eta: 0 follows the probability flow, 1 samples by ancestral steps.
        temperature: standard deviation of all draws, 1 for samples of the distribution.
        threshold: quantile of ``|z_0|`` of an item to which larger values are cut, after which all
            are divided by it, if it exceeds 1; the paper has .95. None, for data without bounds.

    Example:
        >>> import torch
        >>> from types import SimpleNamespace
        >>> from wellposed import priors
        >>> from wellposed.learning import ForwardModelSampler
        >>> from wellposed.noise import ItemNoise
        >>> network = SimpleNamespace(guess=lambda y_c: y_c, estimate=lambda y_c, *_: y_c)
        >>> noise, context, schedule = ItemNoise(0, [(0,)]), torch.rand(1, 1, 8, 8), priors.Flow()
        >>> sampler = ForwardModelSampler(steps=5)
        >>> x, y = sampler(network, context, lambda x: x[..., ::2], schedule, noise)
        >>> x.shape, y.shape  # the signal, and what is measured of it
        (torch.Size([1, 1, 8, 8]), torch.Size([1, 1, 8, 4]))
    """

    steps: Steps = 10
    eta: Fraction = 0.0
    temperature: Positive = 1.0
    threshold: Fraction | None = None

    def __post_init__(self) -> None:
        check_fields(self)

    @torch.no_grad()
    def __call__(
        self,
        network: ForwardModelNetwork,
        context: Tensor,
        forward: Forward,
        schedule: Schedule,
        noise: NoiseSource,
        times: Sequence[float] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return signals and measurements, both of the last step.

        Args:
            network: a trained network.
            context: ``y_c``.
            forward: ``A_1``, in the space of which z is diffused.
            schedule: schedule of the training.
            noise: source of the noise; draws are made like the rendered guess.
            times: decreasing times that end at 0; by default evenly spaced integers, as published.
        """
        rendered = forward(network.guess(context))
        z = self.temperature * noise.draw(rendered)
        for t, s in pairwise(self.times(schedule) if times is None else times):
            now = torch.full((len(z),), t, dtype=torch.float64)
            x = network.estimate(context, z, forward, now, rendered)
            z_0 = self._cut(forward(x))
            if s > 0:
                level = levels(schedule, t, s)
                fresh = self.temperature * noise.draw(z) if self.eta > 0 else torch.zeros_like(z)
                v = variance("markov", level, self.eta)
                z = transition(z_0, implied_noise(z, z_0, level), fresh, level, v)
        return x, z_0

    def times(self, schedule: Schedule) -> list[float]:
        """Return evenly spaced times, rounded down to those of the table."""
        spaced = torch.linspace(0, schedule.T, self.steps + 1, dtype=torch.float64).flip(0)
        return spaced.floor().tolist()

    def _cut(self, z: Tensor) -> Tensor:
        """Return measurements cut and divided by their quantile; see ``threshold``."""
        if self.threshold is None:
            return z
        most = as_real(z).abs().flatten(1).quantile(self.threshold, dim=1).clamp(min=1.0)
        bound = per_item(most, z)
        return torch.clamp(z, -bound, bound) / bound
