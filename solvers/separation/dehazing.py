"""Haze taken out of ultrasound: tissue and haze sampled together, each with a prior of its own."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from wellposed.checks import Count, Positive, Whole, check_fields, checked, require_integer
from wellposed.errors import DtypeError, ShapeError, check_finite, require
from wellposed.noise import ItemNoise
from wellposed.operators.companding import LOUDEST, compand, expand
from wellposed.priors.adapters.patchwise import Patchwise
from wellposed.priors.adapters.product import Product
from wellposed.priors.prior import Prior
from wellposed.solvers.base import Solver
from wellposed.solvers.separation.variance_sharing import VarianceSharing

if TYPE_CHECKING:
    from wellposed.operators.companded import Companded


@dataclass(frozen=True, kw_only=True)
class Dehazing:
    """How `dehaze` goes about it.

    The defaults of start, zeta and rms had the highest PSNR of RF on six simulated hearts of the
    validation split at four levels of haze, of those that gained at each, in 50 steps.

    Args:
        steps: of the whole schedule; those above ``start`` are left out.
        start: noise level over signal above which the run does not start, with the measurement
            shared among tissue and haze by the pseudo-inverse: equally if gamma is 1.
        zeta: share of fresh noise in each step's, 0 to 1.
        solver: another one in place of `VarianceSharing`, of those that take nonlinear operators;
            then the above does not count. As published:
            ``NoisyProjection(noise="shared", start=1.0)``.
        gamma: ``y = x + gamma h``; more takes out more.
        mu: strength of the companding that the priors were trained with.
        rms: root mean squares of companded tissue and haze, which decide how the misfit is shared
            at first. A gradient step of another solver moves the haze ``(rms[1] / rms[0])^2``
            times as far as the tissue; a `VarianceSharing` has its own.
        tile: side of the overlapping tiles in which frames pass the networks, for large frames
            or little memory; ``None`` for whole ones.
        batch_size: frames that are worked on at once.

    Raises:
        ArgumentError: invalid setting.
    """

    steps: int = 50
    start: float = 1.4
    zeta: float = 1.0
    solver: Solver | None = None
    gamma: Positive = 1.0
    mu: Positive = 255.0
    rms: tuple[Positive, Positive] = (0.29, 0.26)
    tile: Annotated[int, Whole(8)] | None = None
    batch_size: Count = 8

    def __post_init__(self) -> None:
        check_fields(self)
        self.method()

    def method(self) -> Solver:
        """Return the solver."""
        if self.solver is not None:
            return self.solver
        return VarianceSharing(steps=self.steps, start=self.start, rms=self.rms, zeta=self.zeta)


@dataclass(frozen=True, eq=False)
class Dehazed:
    """What `dehaze` found.

    Attributes:
        tissue: linear RF (B, 1, depths, beams), the mean over the samples.
        haze: likewise, as it lies in the measurement: times gamma.
        spread: standard deviation of the samples of the tissue; ``None`` of a single one.
        nfe: evaluations of each network, for each sample of each frame.
        seconds: wall time.
    """

    tissue: Tensor
    haze: Tensor
    spread: Tensor | None
    nfe: int
    seconds: float

    def cpu(self) -> "Dehazed":
        """Return the same on the CPU."""
        spread = None if self.spread is None else self.spread.cpu()
        return replace(self, tissue=self.tissue.cpu(), haze=self.haze.cpu(), spread=spread)

    @property
    def frames_per_second(self) -> float:
        """Speed."""
        return len(self.tissue) / self.seconds


@checked
def dehaze(
    rf: Tensor,
    tissue: Prior,
    haze: Prior,
    settings: Dehazing | None = None,
    *,
    num_samples: int = 1,
    seed: int = 0,
) -> Dehazed:
    """Separate RF frames into tissue and haze, ``y = x + gamma h``, by a posterior sample.

    Stevens et al., "Dehazing Ultrasound Using Diffusion Models", IEEE TMI 2024, arXiv 2307.11204.
    The sum is of linear RF, the priors are on companded RF: see `operators.Companded`. The data
    act on the denoised estimates, as published, but by `VarianceSharing`. Every frame is by
    itself: frame n is the same alone or in any batch.

    Args:
        rf: linear RF (B, 1, depths, beams), frames of one recording or of several, divided by
            their largest magnitude: about [-1, 1], zero staying zero.
        tissue: a prior on companded RF of tissue, one channel.
        haze: likewise of haze; `priors.Proximal` ones and exact ones do too.
        settings: how.
        num_samples: posterior samples of each frame. One has speckle as tissue has; the mean of
            several is nearer to the truth, and smoother where they differ.
        seed: decides every draw.

    Raises:
        ShapeError, ArgumentError, NonFiniteError: ``rf`` of another shape or range, priors that
            do not go together, no samples.
    """
    how = settings or Dehazing()
    _check_rf(rf)
    num_samples = require_integer("num_samples", num_samples)
    operator = _sum(rf.shape[1:], how).to(rf.device)
    prior, method = _product(tissue, haze, how), how.method()
    started, parts, nfe = time.perf_counter(), [], 0
    for first in range(0, len(rf), how.batch_size):
        frames, samples = compand(rf[first : first + how.batch_size], how.mu), []
        for sample in range(num_samples):
            noise = ItemNoise(seed, [(sample, first + n) for n in range(len(frames))])
            found = method(frames, operator, prior, noise=noise)
            samples.append(expand(found.samples[0], how.mu))
            nfe = found.nfe
        parts.append(torch.stack(samples))
    both = torch.cat(parts, 1)
    x, h = both.mean(0).split(1, 1)
    spread = both[:, :, :1].std(0) if num_samples > 1 else None
    return Dehazed(x, how.gamma * h, spread, nfe, time.perf_counter() - started)


def _sum(size: torch.Size, how: Dehazing) -> "Companded":
    """Return the measurement of companded tissue and haze (2, depths, beams)."""
    # Loading these loads deepinv, which takes seconds.
    from wellposed.operators.companded import Companded
    from wellposed.operators.image.inpainting import Denoising
    from wellposed.operators.superposition import Superposition

    whole = Denoising(tuple(size))
    return Companded(Superposition([whole, whole], (1.0, how.gamma)), how.mu)


def _product(tissue: Prior, haze: Prior, how: Dehazing) -> Product:
    """Return the prior of both, in tiles if asked."""
    blocks = []
    for name, prior in (("tissue", tissue), ("haze", haze)):
        ours = isinstance(prior, Prior) and prior.is_affine and not prior.is_complex
        require(ours, name, type(prior).__name__, "a real prior on images")
        accepted = "a prior on companded RF: one channel in [-1, 1]"
        fits = prior.channels in (None, 1) and prior.data_range == (-1.0, 1.0)
        require(fits, name, f"{prior.channels} channels in {prior.data_range}", accepted)
        blocks.append(Patchwise(prior, how.tile, how.tile // 4) if how.tile else prior)
    sharing = isinstance(how.method(), VarianceSharing)
    weights = None if sharing else (1.0, (how.rms[1] / how.rms[0]) ** 2)
    return Product(blocks, (1, 1), weights)


def _check_rf(rf: Tensor) -> None:
    if not (isinstance(rf, Tensor) and rf.is_floating_point()):
        got = rf.dtype if isinstance(rf, Tensor) else type(rf).__name__
        raise DtypeError(f"rf: got {got}, accepted: a real floating-point torch.Tensor")
    if rf.ndim != 4 or rf.shape[1] != 1 or rf.numel() == 0:
        raise ShapeError(f"rf: got {tuple(rf.shape)}, accepted: (B, 1, depths, beams)")
    check_finite("rf", rf)
    peak = float(rf.abs().max())
    require(0 < peak <= LOUDEST, "rf", f"magnitudes up to {peak:.3g}", "about [-1, 1], not all 0")
