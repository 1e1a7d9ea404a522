"""A prior over several independent images, each with its own prior."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, ShapeError, is_positive, require
from wellposed.priors.adapters.rescheduled import Rescheduled
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import Schedule

if TYPE_CHECKING:
    from deepinv.physics import Physics


class Product(Prior):
    """``p(x_1, x_2, ...) = p_1(x_1) p_2(x_2) ...``, the images stacked on the channel axis.

    This is the prior of the components of a sum, such as tissue and haze, which an
    `operators.Superposition` measures (Stevens et al., "Removing Structured Noise using Diffusion
    Models", TMLR 2025, arXiv 2302.05290). Each block has its own network and data range. All use
    the schedule of the first block; the others are `Rescheduled`. One call counts as one
    evaluation.

    The unit of each block should be about the size of its images: solvers overestimate a block
    that is much smaller than its unit at the beginning. Blocks with unequal units (data ranges or
    step weights) need a `Superposition` or a nonlinear operator. Adapters wrap the blocks, not the
    product: ``Product([Patchwise(p), Patchwise(q)])``.

    Args:
        priors: the priors of the blocks; none latent, all real or all complex.
        channels: channels of each block; by default those of the priors.
        step_weights: relative step size of each block, 1 by default. A gradient step of any solver
            moves block k ``step_weights[k]`` times as far; a proximal step increases its variance
            by this factor. For this, the units of the block are ``sqrt(step_weights[k])`` times
            those of its prior, so that at each time it has more noise by this factor, and its
            prior is evaluated at the corresponding time. Exact solvers remain exact.

    Raises:
        ArgumentError: no priors, latent priors, or both real and complex ones; unknown channels;
            step weights that are not positive and finite.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> tissue, haze = priors.GaussianPrior(0.0, 0.09), priors.GaussianPrior(0.0, 0.04)
        >>> prior = priors.Product([tissue, haze], channels=[1, 1])
        >>> prior.denoise(torch.randn(1, 2, 16, 16), 500.0).shape
        torch.Size([1, 2, 16, 16])
    """

    has_range = False

    def __init__(
        self,
        priors: Sequence[Prior],
        channels: Sequence[int] | None = None,
        step_weights: Sequence[float] | None = None,
    ) -> None:
        _check_blocks(priors)
        blocks = list(priors)
        told = [prior.channels for prior in blocks] if channels is None else channels
        listed = isinstance(told, Sequence) and len(told) == len(blocks)
        known = listed and all(isinstance(c, int) and c >= 1 for c in told)
        require(known, "channels", told, f"the channels of each of the {len(blocks)} priors")
        weights = [1.0] * len(blocks) if step_weights is None else step_weights
        usable = (
            isinstance(weights, Sequence)
            and len(weights) == len(blocks)
            and all(map(is_positive, weights))
        )
        require(usable, "step_weights", weights, f"{len(blocks)} positive numbers")
        gains, first = [math.sqrt(weight) for weight in weights], blocks[0]
        unit = first.scale * gains[0]
        ends = (first.centre - unit, first.centre + unit)
        sizes = [int(c) for c in told if c is not None]
        super().__init__(first.schedule, sum(sizes), first.is_complex, ends)
        self.sizes, self.gains = sizes, gains
        self.priors: Any = nn.ModuleList(blocks)

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        gains = [round(gain, 4) for gain in self.gains]
        return f"{super().extra_repr()}, blocks={self.sizes}, gains={gains}"

    def with_range(self, low: float, high: float) -> Self:
        """Refuse: each block has a range of its own."""
        raise ArgumentError(
            "prior: a Product has no range, accepted: blocks with ranges of theirs"
        )

    @property
    def is_affine(self) -> bool:
        """Whether all blocks have the same scale and centre."""
        return len(set(self._scales)) == 1 and len(set(self._centres)) == 1

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Return the blocks of images (B, sum C_k, ...)."""
        return torch.split(x, self.sizes, 1)

    def to_units(self, x: Tensor) -> Tensor:
        """Return public images in units, each block in its own units."""
        return (x - self._spread(self._centres, x)) / self._spread(self._scales, x)

    def to_public(self, u: Tensor) -> Tensor:
        """Return units as public images."""
        return u * self._spread(self._scales, u) + self._spread(self._centres, u)

    def in_units(self, operator: "Physics") -> "Physics":
        """Return the linear ``operator`` for units; see `Prior.in_units`."""
        from wellposed.operators.superposition import Superposition

        if len(set(self._scales)) == 1:
            return operator
        if not isinstance(operator, Superposition) or operator.channels != self.sizes:
            raise ArgumentError(
                f"operator: got {type(operator).__name__}, accepted with blocks of unequal data "
                f"ranges or step weights: a Superposition with blocks of {self.sizes} channels"
            )
        return operator.reweighted([scale / self.scale for scale in self._scales])

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimates of the blocks; see `Prior.denoise`.

        Conditions must be fixed before, with ``prior.conditioned_on(condition)`` for each block.
        """
        require(
            condition is None, "condition", condition, "None; use conditioned_on() of the blocks"
        )
        blocks = zip(self.priors, self.gains, self.split(x_t), strict=True)
        return torch.cat([self._denoise(prior, g, part, t) for prior, g, part in blocks], 1)

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise public images, whose noise level is the same in all blocks."""
        parts = zip(self.priors, self.split(x), strict=True)
        return torch.cat([prior(part, sigma) for prior, part in parts], 1)

    def check_image(self, x: Tensor) -> None:
        """Raise unless the priors accept the blocks of ``x``."""
        if x.shape[1] != sum(self.sizes):
            raise ShapeError(
                f"prior: made for blocks of {self.sizes} channels, but the operator's images have "
                f"{x.shape[1]}"
            )
        for prior, part in zip(self.priors, self.split(x), strict=True):
            prior.check_image(part)

    def _denoise(self, prior: Prior, gain: float, x_t: Tensor, t: float | Tensor) -> Tensor:
        # The prior's u is gain times the block's: gain x_t = alpha u_0 + gain sigma eps.
        if gain != 1 or prior.schedule is not self.schedule:
            prior = Rescheduled(prior, _Louder(self.schedule, gain))
        return prior.denoise(gain * x_t, t) / gain

    @property
    def _scales(self) -> list[float]:
        return [prior.scale * g for prior, g in zip(self.priors, self.gains, strict=True)]

    @property
    def _centres(self) -> list[float]:
        return [prior.centre for prior in self.priors]

    def _spread(self, values: list[float], like: Tensor) -> Tensor:
        """Return one value per block, broadcastable to images."""
        each = torch.tensor(values, dtype=like.real.dtype, device=like.device)
        sizes = torch.tensor(self.sizes, device=like.device)
        return each.repeat_interleave(sizes).view(-1, *[1] * (like.ndim - 2))


class _Louder(Schedule):
    """A schedule with its noise multiplied."""

    def __init__(self, schedule: Schedule, gain: float) -> None:
        self.schedule, self.gain = schedule, gain
        self.T, self.terminal_std = schedule.T, schedule.terminal_std * gain

    def __call__(self, t: float | Tensor) -> tuple[Tensor, Tensor]:
        alpha, sigma = self.schedule(t)
        return alpha, self.gain * sigma

    def time_at(self, ratio: float | Tensor) -> Tensor:
        return self.schedule.time_at(torch.as_tensor(ratio, dtype=torch.float64) / self.gain)


def _check_blocks(priors: Sequence[Prior]) -> None:
    several = isinstance(priors, Sequence) and len(priors) > 0
    require(several, "priors", type(priors).__name__, "a list of one or more Priors")
    ours = all(isinstance(prior, Prior) for prior in priors)
    require(ours, "priors", [type(prior).__name__ for prior in priors], "one or more Priors")
    for prior in priors:
        accepted = "priors on images, each with one data range"
        require(prior.is_affine, "priors", type(prior).__name__, accepted)
    kinds = {prior.is_complex for prior in priors}
    require(len(kinds) == 1, "priors", "real and complex ones", "all real or all complex priors")
