"""Plain reconstructions without a prior, with their usual names."""

from collections.abc import Callable
from functools import partial
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

    The names are "zero-filled" for Cartesian k-space, "gridding" for other k-space, "FBP" and
    "FDK" for sinograms, "input" for measurements that are images, enlarged if they are smaller,
    and "least squares" for all others.

    Args:
        y: measurement (B, ...).
        operator: its operator.
    """
    if isinstance(operator, Stacked):
        name, make = _plain(operator.operator)
        return name, operator.by_slice(y, make)
    name, make = _plain(operator)
    return name, make(y)


def filtered_back_projection(operator: "Physics") -> Map | None:
    """Return FBP or FDK of a CT operator, slice by slice of a stacked one; None of others."""
    if isinstance(operator, Stacked):
        planar = filtered_back_projection(operator.operator)
        return None if planar is None else partial(operator.by_slice, apply=planar)
    found = _filtered(operator)
    return None if found is None else found[1]


def _filtered(operator: "Physics") -> tuple[str, Map] | None:
    """Return the name and the map of FBP or FDK, if the operator itself has one."""
    found = ((name.upper(), getattr(operator, name, None)) for name in ("fbp", "fdk"))
    return next(((name, make) for name, make in found if callable(make)), None)


def _plain(operator: "Physics") -> tuple[str, Map]:
    if isinstance(operator, CartesianMRI):
        return "zero-filled", operator.A_adjoint
    if isinstance(operator, NonCartesianMRI):
        return "gridding", operator.gridding
    filtered = _filtered(operator)
    if filtered is not None:
        return filtered
    image: tuple[int, ...] = getattr(operator, "img_size", None) or ()
    measured: tuple[int, ...] = getattr(operator, "measurement_size", None) or ()
    kinds = (getattr(operator, f"complex_{w}", False) for w in ("image", "measurement"))
    alike = len(image) == len(measured) == 3 and image[0] == measured[0] and len(set(kinds)) == 1
    if not alike or any(m > n for m, n in zip(measured, image, strict=True)):
        return "least squares", operator.A_dagger
    size = image[-2:]
    return "input", lambda y: y if y.shape[-2:] == size else F.interpolate(y, size)
