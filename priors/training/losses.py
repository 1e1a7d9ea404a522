"""What restorers are trained to minimise."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.errors import ArgumentError
from wellposed.priors.network import NetworkPrior
from wellposed.priors.prior import broadcast
from wellposed.priors.transition import Levels, implied_noise, transition, variance


def optimal_reverse(prior: NetworkPrior, x_t: Tensor, t: Tensor, m: Tensor, x0: Tensor) -> Tensor:
    """Return IR-SDE's loss: how far one reverse step goes from the best one, L1.

    With the decay ``F = log(alpha_s / alpha_t)`` of the step from t to ``s = t - 1`` and
    ``lambda^2 = sigma_t^2 / (1 - alpha_t^2)``, the mean of the network's Euler step is
    ``x_t + F (x_t - m) - 2 lambda^2 F / sigma_t eps``, and the best point to go to the mean of
    ``p(x_s | x_t, x_0)``. "Image Restoration with Mean-Reverting Stochastic Differential
    Equations", 2023, arXiv 2301.11699, eq. 13 to 15.

    Args:
        prior: a prior with an anchor, of IR-SDE's process.
        x_t: noisy images (B, C, H, W), in units.
        t: whole times (B,).
        m: the degraded images, in units.
        x0: the clean ones.
    """
    values = (*prior.schedule(t), *prior.schedule(t - 1))
    level = Levels(*(broadcast(v, x_t) for v in values))
    decay = (level.alpha_s / level.alpha_t).log()
    noise = 2 * level.sigma_t * decay / (1 - level.alpha_t**2)
    reached = x_t + decay * (x_t - m) - noise * prior.components(x_t, t, m).eps
    true_eps, none = implied_noise(x_t, x0, level, m), torch.zeros_like(x_t)
    best = transition(x0, true_eps, none, level, variance("markov", level), m)
    return (reached - best).abs().mean()


def load_lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """Return LPIPS of VGG, of images (B, 3, H, W) in [-1, 1]: one value per item.

    "The Unreasonable Effectiveness of Deep Features as a Perceptual Metric", 2018,
    arXiv 1801.03924; as torchmetrics has it, with the weights that torchvision downloads.

    Raises:
        ArgumentError: the weights cannot be had.
    """
    from torchmetrics.image import LearnedPerceptualImagePatchSimilarity

    try:
        metric = LearnedPerceptualImagePatchSimilarity(net_type="vgg")
    except Exception as error:  # a missing package or whatever the download raises
        raise ArgumentError(
            f"lpips: the weights of VGG cannot be had ({error}), accepted: 0, or a machine on "
            "which torchvision has downloaded them"
        ) from error
    return metric.net.to(device).eval().requires_grad_(False)
