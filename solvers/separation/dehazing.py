"""Dehazing of ultrasound: tissue and haze are found jointly, each with its own prior."""

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated

import torch
from torch import Tensor

from wellposed.checks import Count, Positive, Steps, Whole, check_fields, checked, require_samples
from wellposed.errors import DtypeError, ShapeError, check_finite, require
from wellposed.noise import ItemNoise
from wellposed.operators.companding import LOUDEST, compand, expand
from wellposed.priors.adapters.patchwise import Patchwise
from wellposed.priors.adapters.product import Product
from wellposed.priors.prior import Prior
from wellposed.solvers.base import Solver
from wellposed.solvers.separation.separated_mode import SeparatedMode
from wellposed.solvers.separation.variance_sharing import RMS, VarianceSharing

if TYPE_CHECKING:
    from wellposed.operators.companded import Companded


@dataclass(frozen=True, kw_only=True)
class Dehazing:
    """Settings of `dehaze`.

    Args:
        steps: evaluations of each network by the default solver, `SeparatedMode`.
        solver: another solver for nonlinear operators. `VarianceSharing` gives posterior samples;
            published: ``NoisyProjection(noise="shared", start=1.0)``.
        gamma: haze weight, ``y = x + gamma h``; larger values remove more haze.
        mu: strength of the companding that the priors were trained with.
        rms: root mean squares of companded tissue and haze, which determine how the default
            solver shares the misfit at high noise. A gradient step of another solver moves the
            haze ``(rms[1] / rms[0])^2`` times as far as the tissue; `SeparatedMode` and
            `VarianceSharing` given as ``solver`` use their own ``rms``.
        tile: side of the overlapping tiles in which the networks process frames, for large frames
            or little memory; ``None``: whole frames.
        batch_size: frames that are processed at once.

    Raises:
        ArgumentError: an invalid setting.

    Example:
        >>> from wellposed import solvers
        >>> solvers.Dehazing(steps=16, gamma=1.5).gamma  # removes more haze
        1.5
        >>> solvers.Dehazing(solver=solvers.VarianceSharing()).method().name  # samples
        'variance-sharing'
    """

    steps: Steps = 8
    solver: Solver | None = None
    gamma: Positive = 1.0
    mu: Positive = 255.0
    rms: tuple[Positive, Positive] = RMS
    tile: Annotated[int, Whole(8)] | None = None
    batch_size: Count = 8

    def __post_init__(self) -> None:
        check_fields(self)
        self.method()

    def method(self) -> Solver:
        """Return the solver."""
        if self.solver is not None:
            return self.solver
        return SeparatedMode(steps=self.steps, rms=self.rms)


@dataclass(frozen=True, eq=False)
class Dehazed:
    """Result of `dehaze`.

    Attributes:
        tissue: linear RF (B, 1, depths, beams), the mean over the samples.
        haze: mean of gamma times the haze, its contribution to the measurement.
        spread: standard deviation of the tissue over the samples; ``None`` for a single sample.
        nfe: evaluations of each network per sample and frame.
        seconds: wall time.

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> tissue, haze = priors.GaussianPrior(0.0, 0.09), priors.GaussianPrior(0.0, 0.07)
        >>> rf = torch.rand(1, 1, 32, 16) - 0.5
        >>> sampling = solvers.Dehazing(solver=solvers.VarianceSharing(steps=5))
        >>> found = solvers.dehaze(rf, tissue, haze, sampling, num_samples=2)
        >>> found.tissue.shape, found.spread.shape
        (torch.Size([1, 1, 32, 16]), torch.Size([1, 1, 32, 16]))
    """

    tissue: Tensor
    haze: Tensor
    spread: Tensor | None
    nfe: int
    seconds: float

    def cpu(self) -> "Dehazed":
        """Return a copy on the CPU."""
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
    """Separate RF frames into tissue and haze, ``y = x + gamma h``.

    Stevens et al., "Dehazing Ultrasound Using Diffusion Models", IEEE TMI 2024, arXiv 2307.11204.
    Linear RF adds up, but the priors are for companded RF: see `operators.Companded`. By default
    `SeparatedMode` estimates probable tissue and haze. `VarianceSharing` in the settings draws
    posterior samples; the published sampler is `NoisyProjection`. Results do not depend on the
    other frames of a batch.

    Args:
        rf: linear RF (B, 1, depths, beams) of one or more recordings, divided by its largest
            magnitude: about [-1, 1], without an offset.
        tissue: a prior on companded RF of tissue, one channel.
        haze: a prior on companded RF of haze; `priors.Proximal` and exact priors are accepted too.
        settings: the settings; by default those of `Dehazing`.
        num_samples: posterior samples per frame, for solvers that draw. A single sample has
            realistic speckle; the mean of several is closer to the truth, and smoother where they
            differ.
        seed: seed of all random draws.

    Raises:
        ShapeError, ArgumentError, NonFiniteError: ``rf`` has another shape or range, the priors
            do not fit together, or the solver does not draw several samples.

    Example:
        >>> import torch
        >>> from wellposed import priors, solvers
        >>> rf = torch.rand(1, 1, 32, 16) - 0.5
        >>> tissue, haze = priors.GaussianPrior(0.0, 0.09), priors.GaussianPrior(0.0, 0.07)
        >>> found = solvers.dehaze(rf, tissue, haze)
        >>> torch.allclose(found.tissue + found.haze, rf, atol=1e-3)  # both sum to the measurement
        True
    """
    how = settings or Dehazing()
    check_rf(rf)
    num_samples = require_samples(num_samples)
    draws = num_samples == 1 or not how.method().deterministic
    accepted = (
        "1, or settings with a solver that draws: Dehazing(solver=VarianceSharing()), "
        "--solver variance-sharing"
    )
    require(draws, "num_samples", num_samples, accepted)
    operator = superposition(rf.shape[1:], how).to(rf.device)
    prior, method = both_priors(tissue, haze, how), how.method()
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


def superposition(size: torch.Size, how: Dehazing) -> "Companded":
    """Return the measurement of companded tissue and haze (2, depths, beams)."""
    # Importing these imports deepinv, which takes seconds.
    from wellposed.operators.companded import Companded
    from wellposed.operators.image.inpainting import Denoising
    from wellposed.operators.superposition import Superposition

    whole = Denoising(tuple(size))
    return Companded(Superposition([whole, whole], (1.0, how.gamma)), how.mu)


def both_priors(tissue: Prior, haze: Prior, how: Dehazing) -> Product:
    """Return the prior of both, in tiles if requested."""
    blocks = []
    for name, prior in (("tissue", tissue), ("haze", haze)):
        ours = isinstance(prior, Prior) and prior.is_affine and not prior.is_complex
        require(ours, name, type(prior).__name__, "a real prior on images")
        accepted = "a prior on companded RF: one channel in [-1, 1]"
        fits = prior.channels in (None, 1) and prior.data_range == (-1.0, 1.0)
        require(fits, name, f"{prior.channels} channels in {prior.data_range}", accepted)
        blocks.append(Patchwise(prior, how.tile, how.tile // 4) if how.tile else prior)
    sharing = isinstance(how.method(), (SeparatedMode, VarianceSharing))
    weights = None if sharing else (1.0, (how.rms[1] / how.rms[0]) ** 2)
    return Product(blocks, (1, 1), weights)


def check_rf(rf: Tensor) -> None:
    """Raise unless these are RF frames of the right range."""
    if not (isinstance(rf, Tensor) and rf.is_floating_point()):
        got = rf.dtype if isinstance(rf, Tensor) else type(rf).__name__
        raise DtypeError(f"rf: got {got}, accepted: a real floating-point torch.Tensor")
    if rf.ndim != 4 or rf.shape[1] != 1 or rf.numel() == 0:
        raise ShapeError(f"rf: got {tuple(rf.shape)}, accepted: (B, 1, depths, beams)")
    check_finite("rf", rf)
    peak = float(rf.abs().max())
    accepted = "values in about [-1, 1], not all 0"
    require(0 < peak <= LOUDEST, "rf", f"magnitudes up to {peak:.3g}", accepted)
