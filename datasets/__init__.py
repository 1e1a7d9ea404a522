"""Reading real data and writing results; imported as ``wellposed.datasets``."""

from typing import TYPE_CHECKING

from wellposed.lazy import attributes

if __name__ == "datasets":
    # In the repository's root ``import datasets`` would find this folder instead of another
    # package of that name.
    raise ImportError("this is wellposed.datasets; import it under that name")

if TYPE_CHECKING:
    from wellposed.datasets.degradations import RealWorld as RealWorld
    from wellposed.datasets.dicom import DicomSeries as DicomSeries
    from wellposed.datasets.dicom import read_dicom_series as read_dicom_series
    from wellposed.datasets.dicom_writer import write_dicom_series as write_dicom_series
    from wellposed.datasets.encoding import center_crop as center_crop
    from wellposed.datasets.fastmri import FastMRI as FastMRI
    from wellposed.datasets.fastmri import load_fastmri as load_fastmri
    from wellposed.datasets.files import read_array as read_array
    from wellposed.datasets.htc import HTCScan as HTCScan
    from wellposed.datasets.htc import load_htc2022 as load_htc2022
    from wellposed.datasets.hyperspectral import HyperspectralCube as HyperspectralCube
    from wellposed.datasets.hyperspectral import load_hyperspectral as load_hyperspectral
    from wellposed.datasets.images import ImageFolder as ImageFolder
    from wellposed.datasets.images import load_images as load_images
    from wellposed.datasets.ismrmrd import RawScan as RawScan
    from wellposed.datasets.ismrmrd import load_ismrmrd as load_ismrmrd
    from wellposed.datasets.nifti import NiftiVolume as NiftiVolume
    from wellposed.datasets.nifti import load_nifti as load_nifti
    from wellposed.datasets.nifti import write_nifti as write_nifti
    from wellposed.datasets.results import write_result as write_result
    from wellposed.datasets.tomopy import ParallelScan as ParallelScan
    from wellposed.datasets.tomopy import load_tomopy as load_tomopy
    from wellposed.datasets.ultrasound import ChannelData as ChannelData
    from wellposed.datasets.ultrasound import EchoFrames as EchoFrames
    from wellposed.datasets.ultrasound import Recording as Recording
    from wellposed.datasets.ultrasound import RFFrames as RFFrames
    from wellposed.datasets.ultrasound import Sector as Sector
    from wellposed.datasets.ultrasound import delay_and_sum as delay_and_sum
    from wellposed.datasets.ultrasound import load_pymust as load_pymust
    from wellposed.datasets.ultrasound import load_recording as load_recording
    from wellposed.datasets.ultrasound import load_rf_metaimage as load_rf_metaimage
    from wellposed.datasets.ultrasound import simulate_echoes as simulate_echoes
    from wellposed.datasets.ultrasound import write_hazy_frames as write_hazy_frames
    from wellposed.datasets.ultrasound import write_training_frames as write_training_frames

_HOME = {
    "degradations": ("RealWorld",),
    "dicom": ("DicomSeries", "read_dicom_series"),
    "dicom_writer": ("write_dicom_series",),
    "encoding": ("center_crop",),
    "fastmri": ("FastMRI", "load_fastmri"),
    "files": ("read_array",),
    "htc": ("HTCScan", "load_htc2022"),
    "hyperspectral": ("HyperspectralCube", "load_hyperspectral"),
    "images": ("ImageFolder", "load_images"),
    "ismrmrd": ("RawScan", "load_ismrmrd"),
    "nifti": ("NiftiVolume", "load_nifti", "write_nifti"),
    "results": ("write_result",),
    "tomopy": ("ParallelScan", "load_tomopy"),
    "ultrasound": (
        "ChannelData",
        "EchoFrames",
        "RFFrames",
        "Recording",
        "Sector",
        "delay_and_sum",
        "load_pymust",
        "load_recording",
        "load_rf_metaimage",
        "simulate_echoes",
        "write_hazy_frames",
        "write_training_frames",
    ),
}

__all__ = sorted(name for names in _HOME.values() for name in names)
__getattr__ = attributes("wellposed.datasets", _HOME)
