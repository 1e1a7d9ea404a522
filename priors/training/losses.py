"""Losses of restorers, and of priors of noisy images."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.errors import ArgumentError
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import broadcast
from wellposed.priors.transition import Levels, implied_noise, transition, variance


def optimal_reverse(prior: NetworkPrior, x_t: Tensor, t: Tensor, m: Tensor, x0: Tensor) -> Tensor:
    """Return IR-SDE's loss: the L1 distance of one reverse step from the optimal step.

    Let ``F = log(alpha_s / alpha_t)`` be the decay of the step from t to ``s = t - 1`` and
    ``lambda^2 = sigma_t^2 / (1 - alpha_t^2)``. The mean of the network's Euler step is
    ``x_t + F (x_t - m) - 2 lambda^2 F / sigma_t eps``; the optimal step goes to the mean of
    ``p(x_s | x_t, x_0)``. "Image Restoration with Mean-Reverting Stochastic Differential
    Equations", 2023, arXiv 2301.11699, eq. 13 to 15.

    Args:
        prior: a prior with an anchor and IR-SDE's process.
        x_t: noisy images (B, C, H, W), in units.
        t: integer times (B,).
        m: the degraded images, in units.
        x0: the clean images, in units.
    """
    values = (*prior.schedule(t), *prior.schedule(t - 1))
    level = Levels(*(broadcast(v, x_t) for v in values))
    decay = (level.alpha_s / level.alpha_t).log()
    noise = 2 * level.sigma_t * decay / (1 - level.alpha_t**2)
    reached = x_t + decay * (x_t - m) - noise * prior.components(x_t, t, m).eps
    true_eps, none = implied_noise(x_t, x0, level, m), torch.zeros_like(x_t)
    best = transition(x0, true_eps, none, level, variance("markov", level), m)
    return (reached - best).abs().mean()


def gsure(
    prior: NetworkPrior, y: Tensor, t: Tensor, eps: Tensor, probe: Tensor, sigma_y: float
) -> Tensor:
    """Return the loss of a prior whose training images are noisy, ``y = x_0 + sigma_y n``.

    Noise is added up to the level of t, ``x_t = alpha (y + sqrt(r^2 - sigma_y^2) eps)`` with
    ``r = sigma / alpha``. By Stein's lemma::

        E |x0 - x_0|^2 = E |x0 - y|^2 + 2 alpha sigma_y^2 E div x0 + constant

    so the noisy images suffice. The divergence with respect to x_t takes one probe. Errors are
    weighed as those of the prediction are with clean images. "GSURE-Based Diffusion Model Training
    with Corrupted Data", 2023, arXiv 2305.13128; its weight ``(1 - alpha^2) Lambda`` of the
    divergence is biased.

    Args:
        prior: the prior.
        y: noisy images as real channels (B, C, H, W), in units.
        t: times (B,) of at least the noise level of the images.
        eps: standard normal noise.
        probe: standard normal noise for the divergence.
        sigma_y: noise level of the images, in units.
    """
    alpha, sigma = (broadcast(v, y) for v in prior.schedule(t))
    added = (sigma**2 - (alpha * sigma_y) ** 2).clamp(min=0).sqrt()
    x_t = (alpha * y + added * eps).requires_grad_()
    with torch.enable_grad():
        predicted = prior.predict(x_t, t)
        slope = torch.autograd.grad(
            (predicted * probe).sum(), x_t, create_graph=torch.is_grad_enabled()
        )[0]
    # Predictions are affine in x_0 at a given x_t: their error is that of x_0 times a factor.
    error = predicted - prior.target(y, added * eps / sigma, t)
    one = torch.ones_like(y)
    factor = prior.target(one, -alpha / sigma * one, t)
    return (error.square() + 2 * alpha * sigma_y**2 * factor * slope * probe).mean()


def load_lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the LPIPS with VGG of images (B, 3, H, W) in [-1, 1]: one value per item.

    "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018,
    arXiv 1801.03924; the implementation of torchmetrics, with the weights of torchvision.

    Raises:
        ArgumentError: the weights could not be downloaded.
    """
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg")
    except Exception as error:  # a missing package, or any error of the download
        raise ArgumentError(
            f"lpips: the weights of VGG could not be downloaded ({error}), accepted: 0, or "
            "weights that torchvision has downloaded before"
        ) from error
    return metric.net.to(device).eval().requires_grad_(False)
