"""View angles in degrees, of tomography and of radial MRI."""

import math
from collections.abc import Sequence
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import DtypeError, ShapeError, check_finite, warn

MANY = 10
"""Views of one turn from which on all of them within 2 pi degrees are hardly meant.

Of two turns, 4 pi, it takes ten times as many: tomosynthesis has some views within 12 degrees.
"""


def view_angles(angles: Tensor | Sequence[float] | int, span: float) -> Tensor:
    """Return checked angles in degrees, float64 (views,).

    Args:
        angles: in degrees (views,), or a number of views spaced equally over the span.
        span: in degrees.

    Raises:
        ArgumentError, ShapeError, DtypeError, NonFiniteError: no view, or angles that are not a
            vector of finite real numbers.

    Warns:
        UserWarning: many views within 2 pi or 4 pi degrees, as angles in radians look.
    """
    if isinstance(angles, Integral):
        count = require_integer("angles", angles)
        return torch.from_numpy(np.arange(count) * (span / count))
    views = torch.as_tensor(angles)
    if views.is_complex() or views.dtype == torch.bool:
        raise DtypeError(f"angles: got dtype {views.dtype}, accepted: real degrees")
    if views.ndim != 1:
        raise ShapeError(f"angles: got shape {tuple(views.shape)}, accepted: (views,)")
    if views.numel() == 0:
        raise ShapeError("angles: is empty, accepted: at least one view")
    views = check_finite("angles", views.detach().double().cpu())
    _warn_of_radians(views)
    return views


def _warn_of_radians(views: Tensor) -> None:
    reach = float(views.abs().max())
    turns = 2 if len(views) >= 10 * MANY else 1
    if len(views) >= MANY and 1 < reach <= turns * 2 * math.pi * (1 + 1e-6):
        warn(
            f"angles: {len(views)} views within {reach:.4g} degrees look like radians; accepted: "
            "degrees, as torch.rad2deg(angles) gives them"
        )
