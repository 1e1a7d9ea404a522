"""Forward operators, on deepinv's ``LinearPhysics``; loaded on first use."""

from typing import TYPE_CHECKING

from wellposed.lazy import attributes

if TYPE_CHECKING:
    from wellposed.operators.base import LinearOperator as LinearOperator
    from wellposed.operators.blur import Blur as Blur
    from wellposed.operators.blur import PaddedBlur as PaddedBlur
    from wellposed.operators.blur import SeparableBlur as SeparableBlur
    from wellposed.operators.check import OperatorReport as OperatorReport
    from wellposed.operators.check import check_operator as check_operator
    from wellposed.operators.coil_processing import compress_coils as compress_coils
    from wellposed.operators.coil_processing import mix_coils as mix_coils
    from wellposed.operators.coil_processing import noise_covariance as noise_covariance
    from wellposed.operators.coil_processing import prewhiten as prewhiten
    from wellposed.operators.coil_processing import root_sum_of_squares as root_sum_of_squares
    from wellposed.operators.coils import espirit as espirit
    from wellposed.operators.coils import simulate_sensitivity_maps as simulate_sensitivity_maps
    from wellposed.operators.companding import Companded as Companded
    from wellposed.operators.compressed_sensing import CompressedSensing as CompressedSensing
    from wellposed.operators.compressed_sensing import WalshHadamard as WalshHadamard
    from wellposed.operators.ct import ConeBeamCT as ConeBeamCT
    from wellposed.operators.ct import Detector as Detector
    from wellposed.operators.ct import FanBeamCT as FanBeamCT
    from wellposed.operators.ct import Panel as Panel
    from wellposed.operators.ct import ParallelBeamCT as ParallelBeamCT
    from wellposed.operators.ct.counts import from_hounsfield as from_hounsfield
    from wellposed.operators.ct.counts import line_integral_noise as line_integral_noise
    from wellposed.operators.ct.counts import simulate_counts as simulate_counts
    from wellposed.operators.ct.counts import to_hounsfield as to_hounsfield
    from wellposed.operators.ct.counts import to_line_integrals as to_line_integrals
    from wellposed.operators.decomposable import Decomposable as Decomposable
    from wellposed.operators.decomposable import Separable as Separable
    from wellposed.operators.fastmri_masks import fastmri_lines as fastmri_lines
    from wellposed.operators.inpainting import Denoising as Denoising
    from wellposed.operators.inpainting import Inpainting as Inpainting
    from wellposed.operators.inpainting import box_mask as box_mask
    from wellposed.operators.inpainting import random_mask as random_mask
    from wellposed.operators.jpeg import JPEG as JPEG
    from wellposed.operators.kernels import gaussian_kernel as gaussian_kernel
    from wellposed.operators.kernels import motion_kernel as motion_kernel
    from wellposed.operators.kernels import uniform_kernel as uniform_kernel
    from wellposed.operators.linalg import CGResult as CGResult
    from wellposed.operators.linalg import conjugate_gradient as conjugate_gradient
    from wellposed.operators.masks import equispaced_lines as equispaced_lines
    from wellposed.operators.masks import gaussian_random_2d as gaussian_random_2d
    from wellposed.operators.masks import poisson_disc_2d as poisson_disc_2d
    from wellposed.operators.masks import uniform_random_lines as uniform_random_lines
    from wellposed.operators.mri import DynamicMRI as DynamicMRI
    from wellposed.operators.mri import MultiCoilMRI as MultiCoilMRI
    from wellposed.operators.mri import MultiCoilMRI3D as MultiCoilMRI3D
    from wellposed.operators.mri import SingleCoilMRI as SingleCoilMRI
    from wellposed.operators.noncartesian import NonCartesianMRI as NonCartesianMRI
    from wellposed.operators.noncartesian import OffResonanceMRI as OffResonanceMRI
    from wellposed.operators.noncartesian import gridded_kspace as gridded_kspace
    from wellposed.operators.nonlinear import NonlinearOperator as NonlinearOperator
    from wellposed.operators.nonlinear import PhaseRetrieval as PhaseRetrieval
    from wellposed.operators.nufft import NUFFT as NUFFT
    from wellposed.operators.stacked import Stacked as Stacked
    from wellposed.operators.super_resolution import SuperResolution as SuperResolution
    from wellposed.operators.superposition import Superposition as Superposition
    from wellposed.operators.trajectories import golden_angles as golden_angles
    from wellposed.operators.trajectories import pipe_menon_density as pipe_menon_density
    from wellposed.operators.trajectories import radial_trajectory as radial_trajectory
    from wellposed.operators.trajectories import ramp_density as ramp_density
    from wellposed.operators.trajectories import spiral_trajectory as spiral_trajectory
    from wellposed.operators.whitened import Whitened as Whitened

_HOME = {
    "base": ("LinearOperator",),
    "blur": ("Blur", "PaddedBlur", "SeparableBlur"),
    "check": ("OperatorReport", "check_operator"),
    "coil_processing": (
        "compress_coils",
        "mix_coils",
        "noise_covariance",
        "prewhiten",
        "root_sum_of_squares",
    ),
    "coils": ("espirit", "simulate_sensitivity_maps"),
    "companding": ("Companded",),
    "compressed_sensing": ("CompressedSensing", "WalshHadamard"),
    "ct": ("ConeBeamCT", "Detector", "FanBeamCT", "Panel", "ParallelBeamCT"),
    "ct.counts": (
        "from_hounsfield",
        "line_integral_noise",
        "simulate_counts",
        "to_hounsfield",
        "to_line_integrals",
    ),
    "decomposable": ("Decomposable", "Separable"),
    "fastmri_masks": ("fastmri_lines",),
    "inpainting": ("Denoising", "Inpainting", "box_mask", "random_mask"),
    "jpeg": ("JPEG",),
    "kernels": ("gaussian_kernel", "motion_kernel", "uniform_kernel"),
    "linalg": ("CGResult", "conjugate_gradient"),
    "masks": ("equispaced_lines", "gaussian_random_2d", "poisson_disc_2d", "uniform_random_lines"),
    "mri": ("DynamicMRI", "MultiCoilMRI", "MultiCoilMRI3D", "SingleCoilMRI"),
    "noncartesian": ("NonCartesianMRI", "OffResonanceMRI", "gridded_kspace"),
    "nonlinear": ("NonlinearOperator", "PhaseRetrieval"),
    "nufft": ("NUFFT",),
    "stacked": ("Stacked",),
    "super_resolution": ("SuperResolution",),
    "superposition": ("Superposition",),
    "trajectories": (
        "golden_angles",
        "pipe_menon_density",
        "radial_trajectory",
        "ramp_density",
        "spiral_trajectory",
    ),
    "whitened": ("Whitened",),
}

__all__ = sorted(name for names in _HOME.values() for name in names)
__getattr__ = attributes("wellposed.operators", _HOME)
