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
from wellposed.datasets.ultrasound.recordings import (
    Recording,
    load_recording,
    write_hazy_frames,
)
from wellposed.datasets.ultrasound.scores import dehazing_scores
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulator import EchoFrames, simulate_echoes
from wellposed.datasets.ultrasound.training_frames import write_training_frames

__all__ = [
    "ChannelData",
    "EchoFrames",
    "RFFrames",
    "Recording",
    "Sector",
    "autocorrelation_width",
    "b_mode",
    "cnr",
    "compand",
    "contrast",
    "dehazing_scores",
    "delay_and_sum",
    "envelope",
    "expand",
    "gcnr",
    "ks_statistic",
    "load_pymust",
    "load_recording",
    "load_rf_metaimage",
    "log_compress",
    "scan_convert",
    "simulate_echoes",
    "speckle_snr",
    "write_hazy_frames",
    "write_training_frames",
]
