"""Perceptual distances of images, by networks whose weights are files of one's own.

Nothing is downloaded. Images are (B, 3, H, W) of values in [0, 1]; those of one channel are
repeated and complex ones compared by magnitude. Values outside [0, 1] are clipped, as the
networks know no others. Networks are modules: move them with ``.to(device)``.
"""

import importlib.util
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.checks import checked
from wellposed.errors import CheckpointError, FileError, ShapeError, require

SMALLEST = 32
"""Side in pixels below which the networks' last features vanish."""

SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
"""Mean and deviation of the colours that the networks were trained on, in [-1, 1]."""

SMALLEST_SET = 1000
"""Images below which a distance of two sets says little."""

Weights = dict[str, Tensor]


class LPIPS(nn.Module):
    """Learned perceptual image patch similarity, as torchmetrics computes it.

    Zhang, Isola, Efros, Shechtman and Wang, "The unreasonable effectiveness of deep features as a
    perceptual metric", 2018, arXiv 1801.03924. 0 for equal images, about .1 for a light and .6
    for a heavy degradation.

    Args:
        weights: torchvision's file for the network: "alexnet-owt-7be5be79.pth" from
            https://download.pytorch.org/models/, or "vgg16-397923af.pth".
        network: "alex" or "vgg"; papers on diffusion mostly report "vgg" (DPS) or "alex" (DDNM).

    Raises:
        CheckpointError: the file holds other weights.
        FileError: there is no such file.

    Example:
        >>> import torch
        >>> from wellposed.perceptual import LPIPS
        >>> lpips = LPIPS("alexnet-owt-7be5be79.pth")  # weights # doctest: +SKIP
        >>> lpips(torch.rand(2, 3, 64, 64), torch.rand(2, 3, 64, 64)).shape  # doctest: +SKIP
        torch.Size([2])
    """

    @checked
    def __init__(self, weights: str | Path, network: Literal["alex", "vgg"] = "alex") -> None:
        from torchmetrics.functional.image.lpips import _NoTrainLpips

        super().__init__()
        self._network = _NoTrainLpips(net=network, pnet_rand=True)
        found = _read(Path(weights))
        # "slice2.3.weight" of torchmetrics is "features.3.weight" of torchvision.
        names = self._network.net.state_dict()
        own = {name: found.get(name.replace(name.split(".")[0], "features")) for name in names}
        try:
            self._network.net.load_state_dict(own)
        except (AttributeError, RuntimeError) as error:
            raise CheckpointError(
                f"weights: {str(weights)!r} does not hold torchvision's {network!r} network"
            ) from error

    @torch.no_grad()
    def forward(self, estimate: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of each item, (B,)."""
        distance: Tensor = self._network(*_pictures(estimate, truth))
        return distance.flatten()


class STLPIPS(nn.Module):
    """Shift-tolerant LPIPS: a shift by a pixel, which nobody sees, hardly changes it.

    Ghildyal and Liu, "Shift-tolerant perceptual similarity metric", 2022, arXiv 2207.13686, with
    the authors' AlexNet. Its values are not those of `LPIPS`: name it where it is reported.

    Args:
        weights: the authors' "alex_shift_tolerant.pth"; by default that of the installed package
            ``stlpips-pytorch`` (``pip install 'wellposed[perceptual]'``), which is not imported.

    Raises:
        CheckpointError: the file holds other weights.
        FileError: there is no such file, or the package is not installed.

    Example:
        >>> import torch
        >>> from wellposed.perceptual import STLPIPS
        >>> image = torch.rand(2, 3, 64, 64)
        >>> STLPIPS()(image, image.roll(1, -1)).shape  # weights # doctest: +SKIP
        torch.Size([2])
    """

    _shift: Tensor
    _scale: Tensor

    @checked
    def __init__(self, weights: str | Path | None = None) -> None:
        super().__init__()
        path = _shipped() if weights is None else Path(weights)
        found = _read(path)
        self._levels, self._heads = _shift_tolerant()
        heads = [name for name in found if name.startswith("lin")]
        layers = [name for name in found if name.startswith("net.") and "filt" not in name]
        own = [*self._levels.parameters(), *self._heads.parameters()]
        values = [found[name] for name in (*layers, *heads)]
        if [v.shape for v in values] != [p.shape for p in own]:
            raise CheckpointError(
                f"weights: {str(path)!r} holds other tensors than alex_shift_tolerant.pth"
            )
        for parameter, value in zip(own, values, strict=True):
            parameter.data.copy_(value)
        self.register_buffer("_shift", torch.tensor(SHIFT).view(3, 1, 1))
        self.register_buffer("_scale", torch.tensor(SCALE).view(3, 1, 1))

    @torch.no_grad()
    def forward(self, estimate: Tensor, truth: Tensor) -> Tensor:
        """Return the distance of each item, (B,)."""
        a, b = ((x - self._shift) / self._scale for x in _pictures(estimate, truth))
        distance = a.new_zeros(len(a))
        for level, head in zip(self._levels, self._heads, strict=True):
            a, b = level(a), level(b)
            squared = (F.normalize(a, eps=1e-10) - F.normalize(b, eps=1e-10)).square()
            distance = distance + head(squared).mean((1, 2, 3))
        return distance


class _BlurPool(nn.Module):
    """Every second pixel of an image smoothed by [1, 2, 1] / 4 in both directions."""

    def forward(self, x: Tensor) -> Tensor:
        line = x.new_tensor([1.0, 2.0, 1.0]) / 4
        kernel = torch.outer(line, line).expand(x.shape[1], 1, 3, 3)
        return F.conv2d(F.pad(x, (2, 2, 2, 2), "reflect"), kernel, stride=2, groups=x.shape[1])


def _shift_tolerant() -> tuple[nn.ModuleList, nn.ModuleList]:
    """Return AlexNet's five levels, blurred before each halving, and the weights of channels."""
    relu, widest, pool = nn.ReLU(), nn.MaxPool2d(3, 1), _BlurPool()
    levels = (
        nn.Sequential(nn.Conv2d(3, 64, 11, padding=2), pool, relu),
        nn.Sequential(widest, pool, nn.Conv2d(64, 192, 5, padding=2), relu),
        nn.Sequential(widest, pool, nn.Conv2d(192, 384, 3, padding=1), relu),
        nn.Sequential(nn.Conv2d(384, 256, 3, padding=1), relu),
        nn.Sequential(nn.Conv2d(256, 256, 3, padding=1), relu),
    )
    widths = (64, 192, 384, 256, 256)
    heads = (nn.Conv2d(width, 1, 1, bias=False) for width in widths)
    return nn.ModuleList(levels), nn.ModuleList(heads)


def _shipped() -> Path:
    found = importlib.util.find_spec("stlpips_pytorch")
    folders = [] if found is None else found.submodule_search_locations or []
    if not folders:
        raise FileError(
            "weights: got None, accepted: a path, or None with the package stlpips-pytorch; "
            "pip install 'wellposed[perceptual]'"
        )
    return Path(folders[0]) / "weights" / "vST0.0" / "alex_shift_tolerant.pth"


def _read(path: Path) -> Weights:
    if not path.is_file():
        raise FileError(f"weights: {str(path)!r} is not a file; accepted: a file of weights")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds
        raise CheckpointError(f"weights: {str(path)!r} cannot be read: {error}") from error
    require(isinstance(found, dict), "weights", str(path), "a file of named tensors")
    return dict(found)


def _pictures(estimate: Tensor, truth: Tensor) -> tuple[Tensor, Tensor]:
    """Return two batches of colour images in [-1, 1]."""
    if estimate.shape != truth.shape:
        raise ShapeError(
            f"estimate: got shape {tuple(estimate.shape)}, accepted: {tuple(truth.shape)} as truth"
        )
    shape = tuple(truth.shape)
    if len(shape) != 4 or shape[1] not in (1, 3) or min(shape[2:]) < SMALLEST:
        raise ShapeError(
            f"truth: got shape {shape}, accepted: (B, 1 or 3, H, W), sides of at least {SMALLEST}"
        )
    first, second = (_picture(image) for image in (estimate, truth))
    return first, second


def _picture(image: Tensor) -> Tensor:
    image = image.abs() if image.is_complex() else image
    return (2 * image.float().clamp(0, 1) - 1).expand(-1, 3, -1, -1)


@checked
def frechet_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the Frechet distance of Gaussians fitted to two sets of features, a scalar.

    With features of the Inception network it is FID: Heusel et al., "GANs trained by a two
    time-scale update rule converge to a local Nash equilibrium", 2017, arXiv 1706.08500.

    Args:
        a: features (N, d), one row for an image; more rows than d and at least `SMALLEST_SET`,
            as the estimate for fewer images is far from that for many.
        b: features (M, d).

    Example:
        >>> import torch
        >>> from wellposed.perceptual import frechet_distance
        >>> a, b = torch.randn(1000, 4), torch.randn(1000, 4) + 1.0
        >>> bool(frechet_distance(a, b) > 2)  # 4 of the means
        True
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    _check_sets(a, b, a.shape[-1] + 1)
    identity = nn.Identity()
    identity.num_features = a.shape[1]  # type: ignore[assignment]
    distance = FrechetInceptionDistance(feature=identity).set_dtype(torch.float64).to(a.device)
    distance.update(a, real=True)
    distance.update(b, real=False)
    found: Tensor = distance.compute()
    return found


@checked
def kernel_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the unbiased kernel distance of two sets of features, a scalar; it may be negative.

    With features of the Inception network it is KID, of all images at once: Binkowski et al.,
    "Demystifying MMD GANs", 2018, arXiv 1801.01401.

    Args:
        a: features (N, d), one row for an image, at least `SMALLEST_SET` rows.
        b: features (N, d).

    Example:
        >>> import torch
        >>> from wellposed.perceptual import kernel_distance
        >>> a, b = torch.randn(1000, 4), torch.randn(1000, 4) + 1.0
        >>> bool(kernel_distance(a, b) > 0.1)
        True
    """
    from torchmetrics.image.kid import poly_mmd

    _check_sets(a, b, SMALLEST_SET)
    if len(a) != len(b):
        raise ShapeError(f"b: got {len(b)} rows, accepted: {len(a)} as a")
    return poly_mmd(a.double(), b.double())


def _check_sets(a: Tensor, b: Tensor, least: int) -> None:
    least = max(least, SMALLEST_SET)
    for name, features in (("a", a), ("b", b)):
        if features.ndim != 2 or features.shape[1] != a.shape[1] or features.is_complex():
            raise ShapeError(
                f"{name}: got shape {tuple(features.shape)}, accepted: (N, d), real, d as of a"
            )
        accepted = f"at least {least}; compare fewer images one by one (psnr, ssim, LPIPS)"
        require(len(features) >= least, name, f"{len(features)} rows", accepted)
