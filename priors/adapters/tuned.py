"""A network evaluated in another arithmetic or compiled, in the way that a probe finds fastest."""

import copy
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, NonNegative, checked
from wellposed.errors import ArgumentError, require
from wellposed.noise import ItemNoise
from wellposed.priors.anchor import Condition, Degraded
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prediction import Components
from wellposed.priors.prior import Adapter, Prior

WAYS = ("single", "bfloat16", "compiled", "compiled-bfloat16")
"""Single precision, bfloat16 in convolutions and matrix products, and both compiled."""

LEVELS = (0.05, 0.3, 2.0)
"""Noise levels, ``sigma / alpha``, at which the ways are compared."""

GAIN = 0.95
"""A way is preferred to single precision if it takes less than this share of its time."""

Way = Annotated[str, Choice(*WAYS)]


class Tuned(Adapter):
    """Evaluates a network in one of several ways; `tuned` finds the fastest.

    Images and the formulas of the prior keep their precision; only the network is affected.
    Gradients pass through. A compiled network is compiled at its first call, anew for each shape.

    Args:
        prior: a prior or restorer of one network, such as `load` gives.
        way: "single", "bfloat16", "compiled" or "compiled-bfloat16".

    Raises:
        ArgumentError: an unknown way, or a prior that is not a `NetworkPrior`.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior, x = priors.load("natural"), torch.rand(1, 3, 16, 16)
        >>> half = priors.Tuned(prior, "bfloat16")
        >>> error = half.denoise(x, 0.5) - prior.denoise(x, 0.5)
        >>> bool(0 < error.abs().max() < 0.05)
        True
    """

    incidental: ClassVar[tuple[str, ...]] = ("trials",)

    def __init__(self, prior: Prior, way: Way) -> None:
        network_prior = isinstance(prior, NetworkPrior)
        accepted = "a NetworkPrior, as priors.load gives; adapters go around it"
        require(network_prior, "prior", type(prior).__name__, accepted)
        super().__init__(_compiled(prior) if way.startswith("compiled") else prior)
        self.way, self.anchor, self.prediction = way, prior.anchor, prior.prediction
        self.trials: tuple[Trial, ...] = ()

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        return f"way={self.way}"

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimate; see `Prior.denoise`."""
        with self._arithmetic(x_t):
            return self.prior.denoise(x_t, t, condition)

    def components(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Components:
        """Return clean image, residual and noise; see `Prior.components`."""
        with self._arithmetic(x_t):
            return self.prior.components(x_t, t, condition)

    def degraded(self, image: Tensor) -> Degraded:
        """Return the condition made of degraded images; see `Prior.degraded`."""
        return self.prior.degraded(image)

    def _arithmetic(self, x: Tensor) -> AbstractContextManager[object]:
        if not self.way.endswith("bfloat16"):
            return nullcontext()
        return torch.autocast(x.device.type, torch.bfloat16)


@dataclass(frozen=True)
class Trial:
    """What the probe measured of a way.

    Attributes:
        way: one of those of `Tuned`.
        seconds: the least time of an evaluation; infinite if it failed.
        error: largest root mean square difference from single precision over that of what the
            denoiser removes, at three noise levels.
        failure: the error message, if it failed.
    """

    way: str
    seconds: float
    error: float
    failure: str = ""


@checked
def tuned(
    prior: Prior,
    image_size: Sequence[Count],
    batch: Count = 1,
    tolerance: NonNegative = 0.02,
    ways: Sequence[Way] = ("single", "bfloat16"),
    repeats: Count = 3,
) -> Tuned:
    """Return the prior in the fastest way whose error is within a tolerance, by a measured probe.

    Run it once for a prior, a device and an image size. An error of 0.02 in what the denoiser
    removes costs about 0.02 dB where the denoiser gains 10 dB. Compiling takes a minute, so it
    must be asked for: ``ways=("single", "bfloat16", "compiled", "compiled-bfloat16")``. Timings
    vary; to repeat a run bit for bit use ``Tuned(prior, found.way)``.

    Args:
        prior: a `NetworkPrior`, on the device of the runs. A restorer is given grey images.
        image_size: (C, H, W) of the images, or (H, W); of a restorer, of the restored ones.
        batch: images in an evaluation.
        tolerance: largest error, relative to what the denoiser removes.
        ways: what is tried; "single" always is.
        repeats: evaluations of each way after a first one, of which the fastest counts.

    Returns:
        The prior; ``trials`` has what was measured.

    Raises:
        ArgumentError: see `Tuned`, or an image size of other than 2 or 3 numbers.

    Example:
        >>> from wellposed import priors
        >>> found = priors.tuned(priors.load("natural"), (32, 32), tolerance=0.0)
        >>> found.way, [trial.way for trial in found.trials]
        ('single', ['single', 'bfloat16'])
    """
    size = tuple(image_size)
    require(len(size) in (2, 3), "image_size", size, "(H, W) or (C, H, W)")
    whole = all(side % prior.upsample == 0 for side in size[-2:])
    require(whole, "image_size", size, f"sides that {prior.upsample} divides")
    channels = prior.channels or 1
    shape = (batch, *(size if len(size) == 3 else (channels, *size)))
    dtype = torch.complex64 if prior.is_complex else torch.float32
    x = torch.zeros(shape, dtype=dtype, device=prior.computes_on)
    x = x + ItemNoise(0, [(k,) for k in range(batch)]).draw(x)
    plain = Tuned(prior, "single")
    others = [way for way in WAYS if way in ways and way != "single"]
    found = [plain, *(Tuned(prior, way) for way in others)]
    trials = tuple(_tried(way, plain, x, repeats) for way in found)
    allowed = [t for t in trials[1:] if t.error <= tolerance]
    best = min(allowed, key=lambda trial: trial.seconds, default=trials[0])
    better = best.seconds < GAIN * trials[0].seconds
    chosen = found[trials.index(best)] if better else plain
    chosen.trials = trials
    return chosen


@torch.no_grad()
def _tried(candidate: Tuned, plain: Tuned, x: Tensor, repeats: int) -> Trial:
    """Return what a way costs, in time and in error, on noise of several levels."""
    errors, given = [], _grey(plain, x) if plain.anchor is not None else None
    try:
        for level in LEVELS:
            t = plain.schedule.time_at(level)
            alpha = plain.schedule(t)[0].to(x.real)
            x_t = alpha * (1 + level**2) ** 0.5 * x  # as large as a noisy image of unit variance
            expected = plain.denoise(x_t, t, given)
            removed = (x_t / alpha - expected).abs().square().mean()
            difference = (candidate.denoise(x_t, t, given) - expected).abs().square().mean()
            errors.append(float((difference / removed).sqrt()))
        evaluate = partial(candidate.denoise, x_t, t, given)
        seconds = min(_clocked(evaluate, x) for _ in range(repeats))
    except Exception as error:  # of compilers, of devices without the arithmetic
        if candidate.way == "single":
            raise
        return Trial(candidate.way, float("inf"), float("inf"), str(error).split("\n")[0])
    return Trial(candidate.way, seconds, max(errors))


def _grey(prior: Prior, x: Tensor) -> Degraded:
    """Return grey degraded images for a restorer's clean images."""
    height, width = (side // prior.upsample for side in x.shape[2:])
    return prior.degraded(prior.to_public(torch.zeros_like(x[..., :height, :width])))


def _clocked(call: Callable[[], object], x: Tensor) -> float:
    """Return the seconds of a call, with all work that it queues."""
    _synchronise(x)
    started = time.perf_counter()
    call()
    _synchronise(x)
    return time.perf_counter() - started


def _synchronise(x: Tensor) -> None:
    """Wait for the queued work of a GPU."""
    if x.is_cuda:
        torch.cuda.synchronize(x.device)


def _compiled(prior: Prior) -> Prior:
    """Return a copy of a prior that shares its weights and whose network is compiled."""
    network = copy.copy(prior._modules["network"])
    if network is None:
        raise ArgumentError("prior: got no network, accepted: a NetworkPrior")
    network.compile()
    twin = copy.copy(prior)
    twin.__dict__["_modules"] = {**prior._modules, "network": network}
    return twin
