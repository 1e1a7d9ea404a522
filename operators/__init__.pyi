from .base import LinearOperator as LinearOperator
from .check import OperatorReport as OperatorReport
from .check import check_operator as check_operator
from .companded import Companded as Companded
from .ct import (
    ConeBeamCT as ConeBeamCT,
)
from .ct import (
    Detector as Detector,
)
from .ct import (
    FanBeamCT as FanBeamCT,
)
from .ct import (
    Panel as Panel,
)
from .ct import (
    ParallelBeamCT as ParallelBeamCT,
)
from .ct.counts import (
    from_hounsfield as from_hounsfield,
)
from .ct.counts import (
    line_integral_noise as line_integral_noise,
)
from .ct.counts import (
    simulate_counts as simulate_counts,
)
from .ct.counts import (
    to_hounsfield as to_hounsfield,
)
from .ct.counts import (
    to_line_integrals as to_line_integrals,
)
from .decomposable import Decomposable as Decomposable
from .decomposable import Separable as Separable
from .image.blur import Blur as Blur
from .image.blur import PaddedBlur as PaddedBlur
from .image.blur import SeparableBlur as SeparableBlur
from .image.compressed_sensing import CompressedSensing as CompressedSensing
from .image.compressed_sensing import WalshHadamard as WalshHadamard
from .image.inpainting import (
    Denoising as Denoising,
)
from .image.inpainting import (
    Inpainting as Inpainting,
)
from .image.inpainting import (
    box_mask as box_mask,
)
from .image.inpainting import (
    random_mask as random_mask,
)
from .image.jpeg import JPEG as JPEG
from .image.kernels import (
    gaussian_kernel as gaussian_kernel,
)
from .image.kernels import (
    motion_kernel as motion_kernel,
)
from .image.kernels import (
    uniform_kernel as uniform_kernel,
)
from .image.nonlinear import (
    NonlinearOperator as NonlinearOperator,
)
from .image.nonlinear import (
    PhaseRetrieval as PhaseRetrieval,
)
from .image.super_resolution import SuperResolution as SuperResolution
from .mri.cartesian import (
    DynamicMRI as DynamicMRI,
)
from .mri.cartesian import (
    MultiCoilMRI as MultiCoilMRI,
)
from .mri.cartesian import (
    MultiCoilMRI3D as MultiCoilMRI3D,
)
from .mri.cartesian import (
    SingleCoilMRI as SingleCoilMRI,
)
from .mri.coils import (
    compress_coils as compress_coils,
)
from .mri.coils import (
    mix_coils as mix_coils,
)
from .mri.coils import (
    noise_covariance as noise_covariance,
)
from .mri.coils import (
    prewhiten as prewhiten,
)
from .mri.coils import (
    root_sum_of_squares as root_sum_of_squares,
)
from .mri.fastmri_masks import fastmri_lines as fastmri_lines
from .mri.masks import (
    equispaced_lines as equispaced_lines,
)
from .mri.masks import (
    gaussian_random_2d as gaussian_random_2d,
)
from .mri.masks import (
    poisson_disc_2d as poisson_disc_2d,
)
from .mri.masks import (
    uniform_random_lines as uniform_random_lines,
)
from .mri.noncartesian import (
    NonCartesianMRI as NonCartesianMRI,
)
from .mri.noncartesian import (
    OffResonanceMRI as OffResonanceMRI,
)
from .mri.noncartesian import (
    gridded_kspace as gridded_kspace,
)
from .mri.nufft import NUFFT as NUFFT
from .mri.sensitivity import (
    espirit as espirit,
)
from .mri.sensitivity import (
    simulate_sensitivity_maps as simulate_sensitivity_maps,
)
from .mri.trajectories import (
    golden_angles as golden_angles,
)
from .mri.trajectories import (
    pipe_menon_density as pipe_menon_density,
)
from .mri.trajectories import (
    radial_trajectory as radial_trajectory,
)
from .mri.trajectories import (
    ramp_density as ramp_density,
)
from .mri.trajectories import (
    spiral_trajectory as spiral_trajectory,
)
from .stacked import Stacked as Stacked
from .superposition import Superposition as Superposition
from .whitened import Whitened as Whitened
