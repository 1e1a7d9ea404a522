"""Ultrasound radio-frequency (RF) data: processing, metrics, simulated hearts, measured files."""

from wellposed.datasets.ultrasound.channels import ChannelData, delay_and_sum, load_pymust
from wellposed.datasets.ultrasound.metaimage import RFFrames, load_rf_metaimage
from wellposed.datasets.ultrasound.metrics import (
    autocorrelation_width,
    cnr,
    contrast,
    gcnr,
    ks_statistic,
    speckle_snr,
)
from wellposed.datasets.ultrasound.processing import (
    b_mode,
    compand,
    envelope,
    expand,
    log_compress,
    scan_convert,
)
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulator import EchoFrames, simulate_echoes
from wellposed.datasets.ultrasound.training_frames import write_training_frames

__all__ = [
    "ChannelData",
    "EchoFrames",
    "RFFrames",
    "Sector",
    "autocorrelation_width",
    "b_mode",
    "cnr",
    "compand",
    "contrast",
    "delay_and_sum",
    "envelope",
    "expand",
    "gcnr",
    "ks_statistic",
    "load_pymust",
    "load_rf_metaimage",
    "log_compress",
    "scan_convert",
    "simulate_echoes",
    "speckle_snr",
    "write_training_frames",
]
