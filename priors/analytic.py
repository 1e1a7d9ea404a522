"""Priors whose posteriors are known exactly: Gaussians and Gaussian mixtures.

Solvers are validated with them: ``E[x_0 | x_t]`` and the posterior for a linear operator with
Gaussian noise have closed forms.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Positive, RealTensor, Seed, Steps, checked
from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.linalg import conjugate_gradient
from wellposed.noise import ItemNoise, NoiseSource
from wellposed.operators.check import is_linear_operator, require_operator
from wellposed.operators.physics import Forward
from wellposed.priors.anchor import Condition
from wellposed.priors.covariance import Covariance, Diagonal, Full
from wellposed.priors.measured_gaussian import checked_noise, fit_moments, information
from wellposed.priors.moments import moments_of_images, moments_of_prior
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.schedule import Schedule, Tabulated


@runtime_checkable
class SupportsNoisyDraws(Protocol):
    """A prior that can draw noisy images exactly."""

    def draw_noisy(self, like: Tensor, t: float, noise: NoiseSource) -> Tensor:
        """Return exact draws of ``x_t``, of the shape, dtype and device of ``like``."""


def _noise_level(operator: Forward, sigma: float | None) -> float:
    level = torch.as_tensor(operator.noise_model.sigma if sigma is None else sigma)
    one = level.numel() == 1 and float(level) > 0
    require(one, "sigma", level.tolist(), "one positive noise level")
    return float(level)


@dataclass(frozen=True)
class GaussianPosterior:
    """Posterior ``p(x | y)`` of a Gaussian prior under a linear operator.

    Attributes:
        mean: (B, C, ...).
    """

    mean: Tensor
    _prior: "GaussianPrior"
    _operator: Forward
    _sigma: float

    def covariance(self) -> Tensor:
        """Return the dense covariance (n, n) over the flattened image; for small images.

        For complex images it is the complex covariance of each of the two parts.
        """
        size, dtype, device = tuple(self.mean.shape[1:]), self.mean.dtype, self.mean.device
        basis = torch.eye(int(np.prod(size)), dtype=dtype, device=device).reshape(-1, *size)
        C = (self._prior.covariance @ basis).flatten(1).T
        ACt = self._operator.A(self._prior.covariance @ basis).flatten(1).T  # A C, by columns
        A = self._operator.A(basis).flatten(1).T
        S = ACt @ A.conj().T + self._sigma**2 * torch.eye(len(A), dtype=dtype, device=device)
        gain: Tensor = torch.linalg.solve(S, ACt)
        return C - ACt.conj().T @ gain

    def sample(self, count: int, seed: Seed = 0) -> Tensor:
        """Return exact samples (count, B, C, ...) by Matheron's rule: perturb, then condition."""
        draws = []
        for n in range(count):
            noise = ItemNoise(seed, [(n, b) for b in range(len(self.mean))])
            x = self._prior.draw(noise.draw(self.mean))
            y = self._operator.A(x)
            y = y + self._sigma * noise.draw(y)
            draws.append(x - self._prior._condition(y, self._operator, self._sigma) + self.mean)
        return torch.stack(draws)


class GaussianPrior(Prior):
    """``x_0 ~ N(mean, C)``: ``E[x_0 | x_t] = m + a C (a^2 C + s^2)^-1 (x_t - a m)``.

    For complex images ``C`` is the covariance of the real part and of the imaginary part.

    Args:
        mean: broadcastable to (1, C, H, W), or a number.
        covariance: `Diagonal`, `Full`, `Stationary`, `Matern` or `LowRank`; a number means equal
            variances.
        schedule: DDPM's linear schedule by default.
        is_complex: images are complex tensors.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors
        >>> prior = priors.GaussianPrior(0.5, 0.04)
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> posterior = prior.posterior(torch.ones(1, 1, 8, 8), operator)
        >>> posterior.mean[0, 0, 0, 0]  # 0.5 + 0.04 / (0.04 + 0.01) * 0.5
        tensor(0.9000)
    """

    has_range = False

    def __init__(
        self,
        mean: Tensor | float,
        covariance: Covariance | Positive,
        schedule: Schedule | None = None,
        is_complex: bool = False,
    ) -> None:
        super().__init__(schedule or Tabulated.linear(), is_complex=is_complex)
        self.mean = torch.as_tensor(mean, dtype=torch.float64 if isinstance(mean, float) else None)
        self.covariance = (
            covariance if isinstance(covariance, Covariance) else Diagonal(covariance)
        )

    @classmethod
    @checked
    def fit(
        cls,
        source: Tensor | Prior,
        rank: Count | None = None,
        *,
        prior: Prior | None = None,
        image_size: Sequence[int] | None = None,
        ratio: Positive = 2.0,
    ) -> "GaussianPrior":
        """Return the Gaussian with the moments of images, or of what a prior has learned.

        Args:
            source: images (N, C, ...) in public values, or a prior of real images. From a prior it
                takes no images but ``rank + 10`` products with its Jacobian, thrice; see
                `priors.moments`.
            rank: components of the `LowRank` covariance; by default all of the images, or 20.
            prior: of images: a prior whose units, range and schedule the Gaussian shares.
            image_size: (C, H, W) of a prior's images, or (H, W) if their channels are known.
            ratio: noise-to-signal ratio at which a prior is differentiated.

        Raises:
            ArgumentError: fewer than two images, or a prior whose images have no known size.
        """
        if isinstance(source, Prior):
            shape = tuple(image_size or ())
            if len(shape) == 2 and source.channels is not None:
                shape = (source.channels, *shape)
            accepted = "(C, H, W), or (H, W) if the prior's channels are known"
            require(len(shape) == 3 and min(shape) > 0, "image_size", image_size, accepted)
            weight = next(source.parameters(), torch.zeros(()))
            mean, covariance = moments_of_prior(source, shape, rank or 20, ratio, weight.device)
        else:
            units = source if prior is None else prior.to_units(source)
            mean, covariance = moments_of_images(units, rank)
        owner = source if isinstance(source, Prior) else prior
        found = cls(mean, covariance, owner.schedule if owner else None, mean.is_complex())
        return found if owner is None else found.with_range(*owner.data_range)

    @classmethod
    @checked
    def fit_measured(
        cls,
        y: Tensor,
        operator: Forward,
        rounds: Steps = 64,
        rank: Count | None = None,
        schedule: Schedule | None = None,
        callback: Callable[[int, float], None] | None = None,
    ) -> "GaussianPrior":
        """Return the prior that explains measurements best; clean images are never seen.

        Rounds of expectation maximisation in closed form, from mean 0 and variance 1; the
        likelihood never falls. The operators of the items must differ, or what all of them miss
        stays as it started. For images of up to some hundred values, such as patches; the
        noise level is that of the operator.

        Args:
            y: measurements (N, ...) of N different images.
            operator: a linear operator, e.g. with one mask for each item.
            rounds: number of rounds; further ones improve the fit slowly.
            rank: directions with variances of their own, the others share one; None: all.
            schedule: see `GaussianPrior`.
            callback: called as ``callback(round, log-likelihood per item before it)``.

        Raises:
            ArgumentError and subclasses: an operator that is not linear or has no noise level,
                measurements that are not finite or do not fit, images too large.
        """
        require(is_linear_operator(operator), "operator", type(operator).__name__, "a linear one")
        operator = require_operator(operator, y)
        known = information(y, operator, checked_noise(operator, y))
        mu, C = fit_moments(known, rounds, rank, callback)
        shape = operator.A_adjoint(y[:1] if len(known.P) == 1 else y).shape[1:]
        return cls(mu.reshape(1, *shape), Full(C), schedule, is_complex=mu.is_complex())

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        mean = tuple(self.mean.shape) or f"{float(self.mean):.4g}"
        return f"mean={mean}, {type(self.covariance).__name__}, {super().extra_repr()}"

    def _mean_like(self, x: Tensor) -> Tensor:
        return self.mean.to(x.dtype).to(x.device)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the exact ``E[x_0 | x_t]``; see `Prior.denoise`."""
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        m = self._mean_like(x_t)
        return m + self.covariance.spectral(
            x_t - alpha * m, lambda c: alpha * c / (alpha**2 * c + sigma**2)
        )

    def flow(self, x_t: Tensor, t: float | Tensor, s: float | Tensor) -> Tensor:
        """Return ``x_s`` on the exact probability flow through ``x_t``, upwards or downwards.

        ``x_s = a_s m + sqrt((a_s^2 C + s_s^2) / (a_t^2 C + s_t^2)) (x_t - a_t m)``, the function
        applied to the eigenvalues of C. The sampler's limit of many steps; Wang and Vastola, "The
        Unreasonable Effectiveness of Gaussian Score Approximation for Diffusion Models and its
        Applications", 2024, arXiv 2412.09726.

        Args:
            x_t: noisy images (B, C, ...), in units.
            t: their time, a number or one per item (B,).
            s: the time to go to; at 0 and at t where C is singular directions of no variance stay.
        """
        alpha_t, sigma_t, alpha_s, sigma_s = (
            broadcast(v, x_t) for time in (t, s) for v in self.schedule(time)
        )
        m = self._mean_like(x_t)

        def stretch(c: Tensor) -> Tensor:
            before = alpha_t**2 * c + sigma_t**2
            after = alpha_s**2 * c + sigma_s**2
            return torch.where(before > 0, after / before, 1).sqrt()

        return alpha_s * m + self.covariance.spectral(x_t - alpha_t * m, stretch)

    def draw(self, z: Tensor) -> Tensor:
        """Return samples ``mean + C^(1/2) z`` of the prior for standard normal ``z``."""
        return self._mean_like(z) + self.covariance.spectral(z, torch.sqrt)

    def draw_noisy(self, like: Tensor, t: float, noise: NoiseSource) -> Tensor:
        """Return exact draws of ``x_t``, of the shape, dtype and device of ``like``."""
        alpha, sigma = (broadcast(v, like) for v in self.schedule(t))
        return alpha * self.draw(noise.draw(like)) + sigma * noise.draw(like)

    def posterior(
        self, y: Tensor, operator: Forward, sigma: float | None = None
    ) -> GaussianPosterior:
        """Return the exact posterior for ``y = A x + n``.

        Args:
            y: measurements (B, ...).
            operator: a linear operator.
            sigma: noise level, positive; the operator's by default.
        """
        sigma = _noise_level(operator, sigma)
        return GaussianPosterior(self._condition(y, operator, sigma), self, operator, sigma)

    def _condition(self, y: Tensor, operator: Forward, sigma: float) -> Tensor:
        """Return ``m + C A^H (A C A^H + sigma^2)^-1 (y - A m)``."""
        m = self._mean_like(operator.A_adjoint(y)).expand_as(operator.A_adjoint(y))

        def apply(v: Tensor) -> Tensor:
            return operator.A(self.covariance @ operator.A_adjoint(v)) + sigma**2 * v

        tolerance = 1e-12 if y.real.dtype == torch.float64 else 1e-6
        v = conjugate_gradient(apply, y - operator.A(m), iterations=2000, tolerance=tolerance).x
        return m + self.covariance @ operator.A_adjoint(v)


def draw_components(weights: Tensor, like: Tensor, noise: NoiseSource) -> Tensor:
    """Return random numbers of components of a mixture, one for each item of ``like``, (B,)."""
    u = torch.special.ndtr(noise.draw(like.real.flatten(1)[:, :1])[:, 0])
    ends = weights.to(u).cumsum(0)
    return torch.searchsorted(ends / ends[-1], u).clamp(max=len(weights) - 1)


@dataclass(frozen=True)
class MixturePosterior:
    """Posterior of a Gaussian mixture under a linear operator: again a mixture.

    Attributes:
        weights: (B, K).
        means: (B, K, n) over the flattened image.
        covariances: (K, n, n).
        shape: image shape (C, ...).
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    shape: tuple[int, ...]

    @property
    def mean(self) -> Tensor:
        """Posterior mean (B, C, ...)."""
        return torch.einsum("bk,bkn->bn", self.weights, self.means).reshape(-1, *self.shape)

    def sample(self, count: int, seed: Seed = 0) -> Tensor:
        """Return exact samples (count, B, C, ...)."""
        factors = torch.linalg.cholesky(self.covariances)
        batch, _, size = self.means.shape
        out = self.means.new_empty(count, batch, size)
        for b in range(batch):
            rng = np.random.default_rng((seed, 7, b))
            weights = self.weights[b].double().cpu().numpy()
            k = torch.from_numpy(rng.choice(len(weights), count, p=weights / weights.sum()))
            z = torch.from_numpy(rng.standard_normal((count, size))).to(out)
            out[:, b] = self.means[b, k] + torch.einsum("inm,im->in", factors[k], z)
        return out.reshape(count, batch, *self.shape)


class GaussianMixturePrior(Prior):
    """``x_0 ~ sum_k w_k N(m_k, C_k)`` over small real images.

    Args:
        weights: (K,), positive; normalised here.
        means: (K, C, H, W).
        covariances: (K, n, n) over the flattened image, or (K,) variances.
        schedule: DDPM's linear schedule by default.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors
        >>> means = torch.stack([torch.zeros(1, 2, 2), torch.ones(1, 2, 2)])
        >>> prior = priors.GaussianMixturePrior(torch.ones(2), means, torch.full((2,), 0.01))
        >>> operator = operators.Denoising((1, 2, 2), noise_sigma=0.1)
        >>> prior.posterior(torch.ones(1, 1, 2, 2), operator).weights.round(decimals=3)
        tensor([[0., 1.]])
    """

    has_range = False

    def __init__(
        self,
        weights: RealTensor,
        means: Tensor,
        covariances: Tensor,
        schedule: Schedule | None = None,
    ) -> None:
        super().__init__(schedule or Tabulated.linear())
        positive = weights.ndim == 1 and bool((weights > 0).all())
        require(positive, "weights", "other values", "positive values (K,)")
        if means.ndim < 2 or len(means) != len(weights):
            raise ShapeError(
                f"means: got {tuple(means.shape)}, accepted: ({len(weights)}, C, ...) for "
                f"{len(weights)} weights"
            )
        self.shape = tuple(means.shape[1:])
        self.weights = weights / weights.sum()
        self.means = means.flatten(1)
        size = self.means.shape[1]
        if covariances.ndim == 1:
            covariances = covariances[:, None, None] * torch.eye(size, dtype=means.dtype)
        if covariances.shape != (len(weights), size, size) or len(means) != len(weights):
            raise ArgumentError(
                f"covariances: got {tuple(covariances.shape)}, accepted: ({len(weights)},) or "
                f"({len(weights)}, {size}, {size}) for {len(weights)} weights"
            )
        self.covariances = covariances
        self._values, self._vectors = torch.linalg.eigh(covariances)
        definite = bool((self._values > 0).all())
        require(definite, "covariances", "indefinite matrices", "positive definite matrices")

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the exact ``E[x_0 | x_t]``; see `Prior.denoise`."""
        x = x_t.flatten(1)
        alpha, sigma = (broadcast(v, x[:, None]) for v in self.schedule(t))
        values, V = self._values.to(x), self._vectors.to(x)
        means = self.means.to(x)
        spread = alpha**2 * values + sigma**2  # (K, n) or (B, K, n), eigenvalues of cov[x_t]
        gap = torch.einsum("knm,bkn->bkm", V, x[:, None] - alpha * means)
        log_weight = self.weights.to(x).log() - 0.5 * (
            (gap**2 / spread).sum(-1) + spread.log().sum(-1)
        )
        weight = torch.softmax(log_weight, 1)
        each = means + torch.einsum("knm,bkm->bkn", V, alpha * values / spread * gap)
        return torch.einsum("bk,bkn->bn", weight, each).reshape(x_t.shape)

    def draw_noisy(self, like: Tensor, t: float, noise: NoiseSource) -> Tensor:
        """Return exact draws of ``x_t``, of the shape, dtype and device of ``like``."""
        alpha, sigma = (broadcast(v, like) for v in self.schedule(t))
        z, k = noise.draw(like).flatten(1), draw_components(self.weights, like, noise)
        values, V = self._values.to(z)[k], self._vectors.to(z)[k]
        x0 = self.means.to(z)[k] + torch.einsum("bnm,bm->bn", V, values.sqrt() * z)
        return alpha * x0.reshape(like.shape) + sigma * noise.draw(like)

    def posterior(
        self, y: Tensor, operator: Forward, sigma: float | None = None
    ) -> MixturePosterior:
        """Return the exact posterior for ``y = A x + n``, a mixture."""
        sigma = _noise_level(operator, sigma)
        size = self.means.shape[1]
        A = (
            operator.A(torch.eye(size, dtype=y.dtype, device=y.device).reshape(-1, *self.shape))
            .flatten(1)
            .T
        )
        C, m = self.covariances.to(y), self.means.to(y)
        S = A @ C @ A.T + sigma**2 * torch.eye(len(A), dtype=y.dtype, device=y.device)  # (K, m, m)
        gain = torch.linalg.solve(S, A @ C).mT  # C A^T S^-1
        gap = y.flatten(1)[:, None] - m @ A.T  # (B, K, m)
        factor = torch.linalg.cholesky(S)
        white = torch.linalg.solve_triangular(factor, gap.permute(1, 2, 0), upper=False)
        log_weight = self.weights.to(y).log() - 0.5 * (white**2).sum(1).T
        log_weight = log_weight - factor.diagonal(dim1=1, dim2=2).log().sum(1)
        means = m + torch.einsum("knm,bkm->bkn", gain, gap)
        return MixturePosterior(torch.softmax(log_weight, 1), means, C - gain @ A @ C, self.shape)
