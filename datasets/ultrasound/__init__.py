"""Ultrasound radio-frequency (RF) data: processing, metrics, simulated hearts, measured files."""

from typing import TYPE_CHECKING

from wellposed.lazy import attributes

if TYPE_CHECKING:
    from wellposed.datasets.ultrasound.channels import ChannelData as ChannelData
    from wellposed.datasets.ultrasound.channels import delay_and_sum as delay_and_sum
    from wellposed.datasets.ultrasound.channels import load_pymust as load_pymust
    from wellposed.datasets.ultrasound.metaimage import RFFrames as RFFrames
    from wellposed.datasets.ultrasound.metaimage import load_rf_metaimage as load_rf_metaimage
    from wellposed.datasets.ultrasound.metrics import (
        autocorrelation_width as autocorrelation_width,
    )
    from wellposed.datasets.ultrasound.metrics import cnr as cnr
    from wellposed.datasets.ultrasound.metrics import contrast as contrast
    from wellposed.datasets.ultrasound.metrics import gcnr as gcnr
    from wellposed.datasets.ultrasound.metrics import ks_statistic as ks_statistic
    from wellposed.datasets.ultrasound.metrics import speckle_snr as speckle_snr
    from wellposed.datasets.ultrasound.processing import b_mode as b_mode
    from wellposed.datasets.ultrasound.processing import compand as compand
    from wellposed.datasets.ultrasound.processing import envelope as envelope
    from wellposed.datasets.ultrasound.processing import expand as expand
    from wellposed.datasets.ultrasound.processing import log_compress as log_compress
    from wellposed.datasets.ultrasound.processing import scan_convert as scan_convert
    from wellposed.datasets.ultrasound.recordings import Recording as Recording
    from wellposed.datasets.ultrasound.recordings import load_recording as load_recording
    from wellposed.datasets.ultrasound.recordings import write_hazy_frames as write_hazy_frames
    from wellposed.datasets.ultrasound.scores import dehazing_scores as dehazing_scores
    from wellposed.datasets.ultrasound.sector import Sector as Sector
    from wellposed.datasets.ultrasound.simulator import EchoFrames as EchoFrames
    from wellposed.datasets.ultrasound.simulator import simulate_echoes as simulate_echoes
    from wellposed.datasets.ultrasound.training_frames import (
        write_training_frames as write_training_frames,
    )

_HOME = {
    "channels": (
        "ChannelData",
        "delay_and_sum",
        "load_pymust",
    ),
    "metaimage": (
        "RFFrames",
        "load_rf_metaimage",
    ),
    "metrics": (
        "autocorrelation_width",
        "cnr",
        "contrast",
        "gcnr",
        "ks_statistic",
        "speckle_snr",
    ),
    "processing": (
        "b_mode",
        "compand",
        "envelope",
        "expand",
        "log_compress",
        "scan_convert",
    ),
    "recordings": (
        "Recording",
        "load_recording",
        "write_hazy_frames",
    ),
    "scores": ("dehazing_scores",),
    "sector": ("Sector",),
    "simulator": (
        "EchoFrames",
        "simulate_echoes",
    ),
    "training_frames": ("write_training_frames",),
}

__all__ = sorted(name for names in _HOME.values() for name in names)
__getattr__ = attributes(__name__, _HOME)
