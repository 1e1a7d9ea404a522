"""The image that comes of a measurement without any prior, by the name it has in its field."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.nn.functional as F
from torch import Tensor

from wellposed.operators.mri.cartesian import CartesianMRI
from wellposed.operators.mri.noncartesian import NonCartesianMRI
from wellposed.operators.stacked import Stacked

if TYPE_CHECKING:
    from deepinv.physics import Physics

Map = Callable[[Tensor], Tensor]


def plain_image(y: Tensor, operator: "Physics") -> tuple[str, Tensor]:
    """Return the name and the image (B, C, ...) of a plain reconstruction, for comparison.

    "zero-filled" of Cartesian k-space, "gridding" of other k-space, "FBP" and "FDK" of sinograms;
    "input" is the measurement itself, where it is an image, enlarged where it is smaller. Of all
    others the least-squares image, "least squares".

    Args:
        y: measurement (B, ...).
        operator: what measured it.
    """
    if isinstance(operator, Stacked):
        name, make = _plain(operator.operator)
        return name, operator.by_slice(y, make)
    name, make = _plain(operator)
    return name, make(y)


def _plain(operator: "Physics") -> tuple[str, Map]:
    if isinstance(operator, CartesianMRI):
        return "zero-filled", operator.A_adjoint
    if isinstance(operator, NonCartesianMRI):
        return "gridding", operator.gridding
    for name in ("fbp", "fdk"):
        if hasattr(operator, name):
            return name.upper(), getattr(operator, name)
    image: tuple[int, ...] = getattr(operator, "img_size", None) or ()
    measured: tuple[int, ...] = getattr(operator, "measurement_size", None) or ()
    kinds = (getattr(operator, f"complex_{w}", False) for w in ("image", "measurement"))
    alike = len(image) == len(measured) == 3 and image[0] == measured[0] and len(set(kinds)) == 1
    if not alike or any(m > n for m, n in zip(measured, image, strict=True)):
        return "least squares", operator.A_dagger
    size = tuple(image[-2:])
    return "input", lambda y: y if y.shape[-2:] == size else F.interpolate(y, size)
