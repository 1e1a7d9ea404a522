from .ct.htc import HTCScan as HTCScan
from .ct.htc import load_htc2022 as load_htc2022
from .ct.tomopy import ParallelScan as ParallelScan
from .ct.tomopy import load_tomopy as load_tomopy
from .files import read_array as read_array
from .images.degradations import RealWorld as RealWorld
from .images.hyperspectral import (
    HyperspectralCube as HyperspectralCube,
)
from .images.hyperspectral import (
    load_hyperspectral as load_hyperspectral,
)
from .images.photograph import Photograph as Photograph
from .images.photograph import read_photograph as read_photograph
from .images.photograph import write_photograph as write_photograph
from .images.photos import ImageFolder as ImageFolder
from .images.photos import load_images as load_images
from .mri.bart import read_cfl as read_cfl
from .mri.bart import write_cfl as write_cfl
from .mri.encoding import center_crop as center_crop
from .mri.encoding import crop_readout as crop_readout
from .mri.fastmri import FastMRI as FastMRI
from .mri.fastmri import load_fastmri as load_fastmri
from .mri.ismrmrd import RawScan as RawScan
from .mri.ismrmrd import load_ismrmrd as load_ismrmrd
from .mri.mrpro import from_mrpro as from_mrpro
from .reading import Image as Image
from .reading import Measured as Measured
from .reading import read as read
from .ultrasound import (
    ChannelData as ChannelData,
)
from .ultrasound import (
    EchoFrames as EchoFrames,
)
from .ultrasound import (
    Recording as Recording,
)
from .ultrasound import (
    RFFrames as RFFrames,
)
from .ultrasound import (
    Sector as Sector,
)
from .ultrasound import (
    delay_and_sum as delay_and_sum,
)
from .ultrasound import (
    load_pymust as load_pymust,
)
from .ultrasound import (
    load_recording as load_recording,
)
from .ultrasound import (
    load_rf_metaimage as load_rf_metaimage,
)
from .ultrasound import (
    simulate_echoes as simulate_echoes,
)
from .ultrasound import (
    write_hazy_frames as write_hazy_frames,
)
from .ultrasound import (
    write_training_frames as write_training_frames,
)
from .volumes.dicom import DicomSeries as DicomSeries
from .volumes.dicom import read_dicom_series as read_dicom_series
from .volumes.dicom_writer import write_dicom_series as write_dicom_series
from .volumes.meta_tensor import from_monai as from_monai
from .volumes.nifti import (
    NiftiVolume as NiftiVolume,
)
from .volumes.nifti import (
    load_nifti as load_nifti,
)
from .volumes.nifti import (
    write_nifti as write_nifti,
)
from .volumes.parametric_map import write_std_map as write_std_map
from .volumes.results import write_result as write_result
from .volumes.zarr_stores import (
    ZarrVolume as ZarrVolume,
)
from .volumes.zarr_stores import (
    load_zarr as load_zarr,
)
from .volumes.zarr_stores import (
    write_zarr as write_zarr,
)
from .writing import write_like as write_like
