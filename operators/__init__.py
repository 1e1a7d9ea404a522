"""Forward operators, on deepinv's ``LinearPhysics``; loaded on first use."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wellposed.operators.base import LinearOperator as LinearOperator
    from wellposed.operators.check import OperatorReport as OperatorReport
    from wellposed.operators.check import check_operator as check_operator
    from wellposed.operators.coils import espirit as espirit
    from wellposed.operators.coils import simulate_sensitivity_maps as simulate_sensitivity_maps
    from wellposed.operators.ct import ParallelBeamCT as ParallelBeamCT
    from wellposed.operators.image import Blur as Blur
    from wellposed.operators.image import Inpainting as Inpainting
    from wellposed.operators.image import SuperResolution as SuperResolution
    from wellposed.operators.image import box_mask as box_mask
    from wellposed.operators.image import gaussian_kernel as gaussian_kernel
    from wellposed.operators.image import motion_kernel as motion_kernel
    from wellposed.operators.image import random_mask as random_mask
    from wellposed.operators.linalg import CGResult as CGResult
    from wellposed.operators.linalg import conjugate_gradient as conjugate_gradient
    from wellposed.operators.masks import equispaced_lines as equispaced_lines
    from wellposed.operators.masks import gaussian_random_2d as gaussian_random_2d
    from wellposed.operators.masks import uniform_random_lines as uniform_random_lines
    from wellposed.operators.mri import MultiCoilMRI as MultiCoilMRI
    from wellposed.operators.mri import SingleCoilMRI as SingleCoilMRI

_HOME = {
    "base": ("LinearOperator",),
    "check": ("OperatorReport", "check_operator"),
    "coils": ("espirit", "simulate_sensitivity_maps"),
    "ct": ("ParallelBeamCT",),
    "image": (
        "Blur",
        "Inpainting",
        "SuperResolution",
        "box_mask",
        "gaussian_kernel",
        "motion_kernel",
        "random_mask",
    ),
    "linalg": ("CGResult", "conjugate_gradient"),
    "masks": ("equispaced_lines", "gaussian_random_2d", "uniform_random_lines"),
    "mri": ("MultiCoilMRI", "SingleCoilMRI"),
}
_MODULE = {name: module for module, names in _HOME.items() for name in names}

__all__ = sorted(_MODULE)


def __getattr__(name: str) -> Any:
    if name not in _MODULE:
        raise AttributeError(f"module 'wellposed.operators' has no attribute {name!r}")
    return getattr(import_module(f"wellposed.operators.{_MODULE[name]}"), name)
