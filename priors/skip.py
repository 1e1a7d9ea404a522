"""The first steps of a sampler, taken at once by a Gaussian."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import Positive, Seed, check_fields, checked, require_batch
from wellposed.errors import ArgumentError, require
from wellposed.linalg import norm, per_item
from wellposed.noise import ItemNoise
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior, broadcast
from wellposed.priors.schedule import Schedule

RATIOS = tuple(float(v) for v in torch.logspace(2, -1.5, 22))


@dataclass(frozen=True, eq=False)
class Skip:
    """A jump from pure noise to the level ``ratio`` along a Gaussian's exact flow.

    At high noise a denoiser knows little more than mean and covariance of its images, and steps
    of their Gaussian have a closed form: they need no network call. Wang and Vastola, "The
    Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its
    Applications", 2024, arXiv 2412.09726. Where to land is measured by `Skip.fit`.

    Args:
        gaussian: the Gaussian, in the units of the prior, see `GaussianPrior.fit`.
        ratio: noise-to-signal ratio at which the network takes over.

    Raises:
        ArgumentError: another argument.

    Example:
        >>> from wellposed import priors
        >>> from wellposed.priors.sampling import sample
        >>> skip = priors.Skip(priors.GaussianPrior(0.0, 0.3), ratio=2.0)
        >>> sample(priors.load("natural"), 1, (16, 16), steps=8, skip=skip).shape
        torch.Size([1, 3, 16, 16])
    """

    gaussian: GaussianPrior
    ratio: Positive

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def fit(
        cls,
        prior: Prior,
        images: Tensor,
        tolerance: Positive = 0.05,
        gaussian: GaussianPrior | None = None,
    ) -> "Skip":
        """Return the jump to the lowest level down to which a Gaussian explains a prior.

        Args:
            prior: a plain prior.
            images: (N, C, ...), in public values, as the prior makes them.
            tolerance: largest `unexplained` share at that level and all above it.
            gaussian: by default that of the images.

        Raises:
            ArgumentError: the Gaussian does not explain it at any level.
        """
        gaussian = gaussian or GaussianPrior.fit(images, prior=prior)
        top = float(prior.schedule.ratio(prior.schedule.T))
        ratios = [ratio for ratio in RATIOS if ratio < top]
        shares = unexplained(prior, gaussian, images, ratios).mean(1).tolist()
        above = next((n for n, share in enumerate(shares) if share > tolerance), len(shares))
        if above == 0:
            raise ArgumentError(
                f"tolerance: got {tolerance:g}, accepted: above {shares[0]:.3g}, the share that "
                f"the Gaussian leaves at the level {ratios[0]:.3g}; or another Gaussian"
            )
        return cls(gaussian, ratios[above - 1])

    @classmethod
    @checked
    def near(
        cls, image: Tensor, spread: Positive, prior: Prior, ratio: Positive | None = None
    ) -> "Skip":
        """Return the jump along a Gaussian about a known image: a warm start.

        A neighbouring slice, the frame before or a registered scan tells more than noise does, and
        `applied` saves the network calls above the level in every solver. It is a start, no
        constraint: below the level only the prior and the measurement count, so that samples keep
        the spread that arises there. ``benchmarks/neighbours.py`` measures the gain.

        Args:
            image: (B, C, ...), in public values; one image, or one for each item.
            spread: root-mean-square difference of the images that is expected, in public values.
            prior: the prior.
            ratio: noise-to-signal ratio at which the network takes over; by default twice the
                spread, in units.

        Raises:
            ShapeError: an image without a batch axis.
            ArgumentError: a latent prior, or a spread that is not positive.
        """
        kind = type(prior).__name__
        require(prior.is_affine, "prior", kind, "a prior on images with one data range")
        require_batch("image", image)
        level = spread / prior.scale
        gaussian = GaussianPrior(
            prior.to_units(image), level**2, prior.schedule, is_complex=prior.is_complex
        )
        return cls(gaussian, 2 * level if ratio is None else ratio)

    def applied(self, prior: Prior) -> "Skipping":
        """Return the prior with the Gaussian's estimates above the level, for any solver."""
        return Skipping(prior, self)

    def times(self, schedule: Schedule, times: Sequence[float]) -> list[float]:
        """Return the times of a run that remain: those at the level and below it."""
        kept = [t for t in times if float(schedule.ratio(t)) <= self.ratio]
        lowest = float(schedule.ratio(times[-2]))
        require(len(kept) > 1, "skip", self.ratio, f"at least {lowest:.3g}, the lowest level")
        return kept

    def jump(self, x_t: Tensor, schedule: Schedule, t: float, s: float) -> Tensor:
        """Return the image at s on the Gaussian's flow through ``x_t``."""
        return self.on(schedule).flow(x_t, t, s)

    def on(self, schedule: Schedule) -> GaussianPrior:
        """Return the Gaussian with another schedule."""
        own = self.gaussian
        return GaussianPrior(own.mean, own.covariance, schedule, own.is_complex)


class Skipping(Adapter):
    """A prior whose estimates above a noise level are those of a Gaussian, made by `Skip.applied`.

    Solvers take all their steps, data included, but the early ones cost no network call; their
    number of evaluations counts them still.

    Args:
        prior: the prior below the level.
        skip: the Gaussian, in units of the prior, and the level.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.load("natural")
        >>> skip = priors.Skip.near(torch.rand(1, 3, 16, 16), spread=0.1, prior=prior)
        >>> warm = skip.applied(prior)  # a warm start for any solver
        >>> warm.denoise(torch.randn(1, 3, 16, 16), warm.schedule.T).shape
        torch.Size([1, 3, 16, 16])
    """

    def __init__(self, prior: Prior, skip: Skip) -> None:
        super().__init__(prior)
        self.skip, self.gaussian = skip, skip.on(prior.schedule)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimate of the Gaussian above the level, otherwise that of the prior."""
        early = self.schedule.ratio(t) > self.skip.ratio
        if bool(early.all()):
            return self.gaussian.denoise(x_t, t)
        found = self.prior.denoise(x_t, t, condition)
        if not bool(early.any()):
            return found
        return torch.where(
            per_item(early.to(x_t.device), x_t), self.gaussian.denoise(x_t, t), found
        )


@torch.no_grad()
@checked
def unexplained(
    prior: Prior,
    gaussian: GaussianPrior,
    images: Tensor,
    ratios: Sequence[Positive],
    seed: Seed = 0,
) -> Tensor:
    """Return ``|D - D_gauss| / |x_0 - m|`` of noised images at noise levels, (levels, N).

    A share of the images' own deviation from the mean. Of ``|D - m|``, which vanishes at high
    noise, even a good network's error is a large share there, of no consequence for the image.

    Args:
        prior: a plain prior.
        gaussian: a Gaussian in its units.
        images: (N, C, ...), in public values.
        ratios: noise-to-signal ratios.
        seed: seed of the noise.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> images = torch.rand(2, 1, 8, 8)
        >>> priors.unexplained(prior, priors.GaussianPrior(0.5, 0.1), images, ratios=[10.0, 1.0])
        tensor([[0., 0.],
                [0., 0.]])
    """
    require_batch("images", images)
    u = prior.to_units(images)
    z = ItemNoise(seed, [(n,) for n in range(len(u))]).draw(u)
    twin, found = GaussianPrior(gaussian.mean, gaussian.covariance, prior.schedule), []
    for ratio in ratios:
        t = float(prior.schedule.time_at(ratio))
        alpha, sigma = (broadcast(v, u) for v in prior.schedule(t))
        x_t = alpha * u + sigma * z
        x0 = prior.denoise(x_t, t)
        gaps = (x0 - twin.denoise(x_t, t), u - gaussian.mean.to(u))
        found.append(norm(gaps[0]) / norm(gaps[1]).clamp(min=1e-30))
    return torch.stack(found)
