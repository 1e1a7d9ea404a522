"""Image quality of ultrasound, by regions: contrast, speckle statistics and resolution.

Images are (B, C, H, W); regions are boolean masks that broadcast to them. Results are per item,
(B,). Each metric states whether it takes envelopes or grey values.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.checks import checked, require_integer
from wellposed.errors import DtypeError, ShapeError, require
from wellposed.operators.companding import require_real


@checked
def gcnr(image: Tensor, first: Tensor, second: Tensor, bins: int = 256) -> Tensor:
    """Return the generalised contrast-to-noise ratio of two regions: 1 minus their overlap.

    ``1 - sum_k min(f_k, g_k)`` of the two histograms with common bins, from the smallest to the
    largest value of both: 0 if the regions are indistinguishable, 1 if a threshold separates them.
    Rodriguez-Molares et al., "The generalized contrast-to-noise ratio: a formal definition for
    lesion detectability", 2020, doi 10.1109/TUFFC.2019.2956855. It depends on the bins and on
    clipping, so compare only grey values of the same dynamic range and reference. In regions of
    few pixels noise alone increases it.

    Args:
        image: grey values.
        first: a region, e.g. a cavity.
        second: another region, e.g. its wall.
        bins: number of bins of the histograms.

    Raises:
        ShapeError, DtypeError: a region is empty, not a mask, or does not fit.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> left = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        >>> left[..., :8] = True
        >>> image = 0.4 * torch.rand(1, 1, 16, 16) + 0.5 * left
        >>> ultrasound.gcnr(image, left, ~left)  # a threshold separates them
        tensor([1.])
    """
    require_integer("bins", bins, 2)
    return _by_regions(lambda a, b: 1 - _overlap(a, b, bins), image, first=first, second=second)


def _overlap(a: Tensor, b: Tensor, bins: int) -> Tensor:
    low = torch.minimum(a.min(), b.min())
    span = (torch.maximum(a.max(), b.max()) - low).clamp(min=torch.finfo(a.dtype).tiny)

    def share(values: Tensor) -> Tensor:
        place = ((values - low) / span * bins).long().clamp(max=bins - 1)
        return torch.bincount(place, minlength=bins).double() / len(values)

    return torch.minimum(share(a), share(b)).sum().to(a.dtype)


@checked
def contrast(envelope: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return ``20 log10(mean of first / mean of second)`` of envelopes, in dB.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> envelope = torch.ones(1, 1, 8, 8)
        >>> envelope[..., :4] = 0.1
        >>> dark = envelope < 0.5
        >>> ultrasound.contrast(envelope, dark, ~dark).round()  # dB
        tensor([-20.])
    """
    return _by_regions(
        lambda a, b: 20 * torch.log10(a.mean() / b.mean()), envelope, first=first, second=second
    )


@checked
def cnr(image: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """Return the contrast-to-noise ratio in dB.

    ``20 log10(|m_a - m_b| / sqrt((v_a + v_b) / 2))`` with means m and variances v of the regions.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> image = torch.rand(1, 1, 16, 16)
        >>> left = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
        >>> left[..., :8] = True
        >>> ultrasound.cnr(image + left, left, ~left).shape
        torch.Size([1])
    """

    def ratio(a: Tensor, b: Tensor) -> Tensor:
        noise = ((a.var(correction=0) + b.var(correction=0)) / 2).sqrt()
        return 20 * torch.log10((a.mean() - b.mean()).abs() / noise)

    return _by_regions(ratio, image, first=first, second=second)


@checked
def speckle_snr(envelope: Tensor, region: Tensor) -> Tensor:
    """Return mean over standard deviation of envelopes in a region of one tissue.

    It is 1.91 for fully developed speckle, whose envelope is Rayleigh distributed, and smaller for
    few scatterers per resolution cell. Wagner et al., "Statistics of speckle in ultrasound
    B-scans", 1983, doi 10.1109/T-SU.1983.31404.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> envelope = torch.randn(1, 1, 64, 64, dtype=torch.complex64).abs()
        >>> region = torch.ones(1, 1, 64, 64, dtype=torch.bool)
        >>> 1.8 < float(ultrasound.speckle_snr(envelope, region)) < 2.0
        True
    """
    return _by_regions(lambda a: a.mean() / a.std(correction=0), envelope, region=region)


@checked
def ks_statistic(image: Tensor, reference: Tensor, region: Tensor) -> Tensor:
    """Return the Kolmogorov-Smirnov distance between two images' values in a region.

    It is the largest difference of the two distribution functions, 0 to 1; small if the speckle
    statistics are preserved.

    Args:
        image: envelopes or grey values.
        reference: values of the image to compare with, of the same kind and shape.
        region: the region.

    Raises:
        ShapeError, DtypeError: shapes differ, or the region is empty, not a mask, or does not fit.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> image, region = torch.rand(1, 1, 16, 16), torch.ones(1, 1, 16, 16, dtype=torch.bool)
        >>> ultrasound.ks_statistic(image, image + 2, region)
        tensor([1.])
    """
    if image.shape != reference.shape:
        raise ShapeError(
            f"reference: got {tuple(reference.shape)}, accepted: {tuple(image.shape)} as image"
        )
    pairs = torch.stack([image, reference.to(image)], -1)
    mask = _mask("region", region, image)
    values = [_ks(*item[where].T) for item, where in zip(pairs, mask, strict=True)]
    return torch.stack(values).to(image.dtype)


def _ks(a: Tensor, b: Tensor) -> Tensor:
    a, b = a.sort().values.contiguous(), b.sort().values.contiguous()
    places = torch.cat([a, b])
    below = [torch.searchsorted(v, places, right=True).double() / len(v) for v in (a, b)]
    return (below[0] - below[1]).abs().max()


@checked
def autocorrelation_width(envelope: Tensor) -> Tensor:
    """Return the speckle size: full widths at half maximum of the autocorrelation.

    The autocorrelation is that of the mean-free envelope, normalised, along both axes through its
    peak, with linear interpolation between lags.

    Args:
        envelope: (B, C, H, W), a patch of one tissue; the mean over the channels is used.

    Returns:
        (B, 2) in pixels, along H and along W; infinite if it does not fall to one half.

    Raises:
        ShapeError: not four axes.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> ultrasound.autocorrelation_width(torch.rand(2, 1, 32, 32)).shape
        torch.Size([2, 2])
    """
    require_real("envelope", envelope)
    if envelope.ndim != 4:
        raise ShapeError(f"envelope: got {tuple(envelope.shape)}, accepted: (B, C, H, W)")
    mean_free = envelope - envelope.mean((-2, -1), keepdim=True)
    height, width = envelope.shape[-2:]
    spectrum = torch.fft.rfft2(mean_free, (2 * height, 2 * width)).abs().square()
    correlation = torch.fft.irfft2(spectrum, (2 * height, 2 * width)).mean(1)
    profiles = correlation[:, :height, 0], correlation[:, 0, :width]
    return torch.stack([2 * _half_maximum(profile) for profile in profiles], 1)


def _half_maximum(profile: Tensor) -> Tensor:
    """Return the lag at which profiles (B, N) first fall to half their value at lag 0."""
    relative = profile / profile[:, :1]
    under = relative < 0.5
    after = under.int().argmax(1, keepdim=True)
    high, low = relative.gather(1, (after - 1).clamp(min=0)), relative.gather(1, after)
    lag = (after - 1 + (high - 0.5) / (high - low)).squeeze(1)
    return torch.where(under.any(1), lag, torch.inf)


def _by_regions(value: Callable[..., Tensor], image: Tensor, **regions: Tensor) -> Tensor:
    """Return ``value`` of each item's pixels in the regions."""
    masks = [_mask(name, region, image) for name, region in regions.items()]
    items = zip(image, *masks, strict=True)
    return torch.stack([value(*(item[mask] for mask in those)) for item, *those in items])


def _mask(name: str, region: Tensor, image: Tensor) -> Tensor:
    """Return a region as a mask of the image's shape, with pixels in every item."""
    require_real("image", image)
    if region.dtype != torch.bool:
        raise DtypeError(f"{name}: got {region.dtype}, accepted: torch.bool")
    try:
        mask = region.expand(image.shape)
    except RuntimeError:
        raise ShapeError(
            f"{name}: got {tuple(region.shape)}, accepted: a shape that broadcasts to "
            f"{tuple(image.shape)}, the shape of the image"
        ) from None
    filled = bool(mask.flatten(1).any(1).all())
    require(filled, name, "an empty region", "at least one pixel of every item")
    return mask
