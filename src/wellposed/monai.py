"""Reconstruction as a transform of MONAI: ``from wellposed.monai import Reconstructd``.

The module needs the package monai: ``pip install 'wellposed[monai]'``.
"""

from collections.abc import Callable, Hashable, Mapping
from copy import deepcopy
from typing import Any, TypeAlias

import torch
from deepinv.physics import Physics
from torch import Tensor

from wellposed.checks import require_integer, require_samples
from wellposed.datasets.volumes.meta_tensor import lacks_channel
from wellposed.errors import MissingPackageError, ShapeError, require
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction

try:
    from monai.config import KeysCollection
    from monai.data import MetaTensor
    from monai.transforms import MapTransform
    from monai.utils import TransformBackends
except ImportError:
    raise MissingPackageError(
        "wellposed.monai: needs monai; pip install 'wellposed[monai]'"
    ) from None

Operator: TypeAlias = Physics | Callable[[Tensor], Physics]
Method = Callable[..., Reconstruction]


class Reconstructd(MapTransform):
    """Replaces measurements of a dictionary by their reconstructions.

    A ``MetaTensor`` is an image of MONAI, with the axes (C, x, y) or (C, x, y, z): the operator
    measures it as (1, C, H, W) = (1, C, y, x) or (1, C, D, H, W) = (1, C, z, y, x), like
    `wellposed.datasets.from_monai`. Its reconstruction is a MetaTensor with its metadata; where
    the grid is another, as after super-resolution, the affine is that of the new voxels. Any other
    tensor or array is a measurement (K, ...) as the operator has it, e.g. k-space (coils, H, W),
    and becomes a tensor.

    The transform is deterministic, so that MONAI's data sets may cache its results; with
    ``seed=None`` draws differ from call to call, and must not be cached.

    Args:
        keys: of the measurements.
        operator: the operator, or a function of the measurement (1, ...) that returns it.
        solver: any solver.
        prior: the prior; None for solvers that use none.
        num_samples: posterior samples. The mean is written; with two or more also the standard
            deviation, with the key ``f"{key}_{std_postfix}"``.
        seed: seed of all draws, the same for each item; ``None`` draws one per call.
        std_postfix: see ``num_samples``.
        allow_missing_keys: do not raise for keys that a dictionary lacks.

    Raises:
        ArgumentError: an invalid argument; also the errors of the solver, when it is called.
        ShapeError: a batch in place of one image.
    """

    backend = [TransformBackends.TORCH]  # noqa: RUF012 - as MONAI declares it

    def __init__(
        self,
        keys: KeysCollection,
        operator: Operator,
        solver: Method,
        prior: Prior | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = 0,
        std_postfix: str = "std",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        require(callable(operator), "operator", operator, "an operator, or a function")
        require(callable(solver), "solver", solver, "a solver")
        if seed is not None:
            require_integer("seed", seed, 0)
        self.operator, self.solver, self.prior = operator, solver, prior
        self.num_samples, self.seed = require_samples(num_samples), seed
        self.std_postfix = std_postfix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Return the dictionary with reconstructions in place of measurements."""
        found = dict(data)
        for key in self.key_iterator(found):
            mean, std = self._solved(data[key])
            found[key] = mean
            if self.num_samples > 1:
                found[f"{key!s}_{self.std_postfix}"] = std
        return found

    def _solved(self, measured: Any) -> tuple[Tensor, Tensor]:
        """Return mean and standard deviation, like the measurement."""
        meta = measured if isinstance(measured, MetaTensor) else None
        if meta is not None and lacks_channel(meta.ndim, meta.meta):
            accepted = "(C, x, y) or (C, x, y, z); EnsureChannelFirstd before this transform"
            raise ShapeError(f"image: got {tuple(meta.shape)}, accepted: {accepted}")
        plain = torch.as_tensor(measured).as_subclass(Tensor)
        y = (plain if meta is None else _turned(plain))[None]
        known = isinstance(self.operator, Physics)
        operator = self.operator if known else self.operator(y)
        draws = {"num_samples": self.num_samples, "seed": self.seed}
        result = self.solver(y, operator, self.prior, **draws)
        mean, std = result.mean[0], result.std[0]
        return (mean, std) if meta is None else (_like(mean, meta), _like(std, meta))


def _turned(image: Tensor) -> Tensor:
    """Return (C, x, y, z) as (C, z, y, x), and back."""
    if image.ndim not in (3, 4):
        raise ShapeError(
            f"image: got {tuple(image.shape)}, accepted: (C, x, y) or (C, x, y, z), one image"
        )
    return image.permute(0, *range(image.ndim - 1, 0, -1)).contiguous()


def _like(image: Tensor, measured: MetaTensor) -> MetaTensor:
    """Return an image, as operators have it, with the metadata of its field of view."""
    image = _turned(image)
    found = MetaTensor(
        image,
        meta=deepcopy(measured.meta),
        applied_operations=deepcopy(measured.applied_operations),
    )
    axes = range(image.ndim - 1)
    ratios = [measured.shape[1 + axis] / image.shape[1 + axis] for axis in axes]
    if any(ratio != 1 for ratio in ratios):
        # The outer faces of both grids are the same, half a voxel outside the first centres.
        scale = torch.eye(len(measured.affine), dtype=measured.affine.dtype)
        for axis, ratio in zip(axes, ratios, strict=True):
            scale[axis, axis], scale[axis, -1] = ratio, (ratio - 1) / 2
        found.affine = measured.affine @ scale
    return found
