"""Settings of restorers: the degradation of the images and the process that is learnt."""

import math
from dataclasses import dataclass

from wellposed.checks import require_integer, setting
from wellposed.errors import require, require_choice
from wellposed.priors.training.fields import require_pair

PROCESSES = {
    "resshift": ("sample", "mse"),
    "ir-sde": ("noise", "optimal"),
    "rddm": ("residual+noise", "l1"),
}
"""Processes, with the prediction and the loss of their papers."""

PREDICTIONS = {
    "resshift": ("sample", "residual"),
    "ir-sde": ("noise", "sample", "residual", "velocity"),
    "rddm": ("residual", "noise", "residual+noise"),
}

LOSSES = ("mse", "l1", "optimal")

REAL_WORLD, PAIRS = "real-world", "pairs"
OPERATORS = ("inpainting", "super-resolution", "deblurring", "mri", "ct")
DEGRADATIONS = (*OPERATORS, REAL_WORLD, PAIRS)
SHRINKING = ("super-resolution", REAL_WORLD)
"""Degradations that reduce an image by the factor."""


@dataclass(frozen=True, kw_only=True)
class DegradationSettings:
    """How clean images are degraded for a restorer."""

    degradation: str = setting(
        "deblurring", f"Restorers: {', '.join(OPERATORS)}, real-world (Real-ESRGAN) or pairs."
    )
    degraded: str | None = setting(
        None, "Pairs: folder of degraded images with the names of the clean ones."
    )
    noise: tuple[float, float] = setting((0.0, 0.0), "Range of the measurement's noise level.")
    blur: tuple[float, float] = setting(
        (0.5, 2.5), "Deblurring: range of the standard deviation of the blur in pixels."
    )
    factor: int = setting(4, "Super-resolution, real-world: reduction factor.")
    kernel: str = setting("bicubic", "Super-resolution: bicubic or average.")
    keep: float = setting(0.5, "Inpainting: fraction of pixels kept.")
    acceleration: float = setting(4.0, "MRI: undersampling factor.")
    views: int = setting(60, "CT: number of views.")
    margin: int = setting(0, "Margin of the crops in pixels, degraded with them and cut off.")

    @property
    def upsample(self) -> int:
        """Sides of a clean image over those of a degraded one; for pairs see the files."""
        return self.factor if self.degradation in SHRINKING else 1

    def check_degradation(self) -> None:
        """Raise if a setting is invalid."""
        require_choice("degradation", self.degradation, DEGRADATIONS)
        wanted = "a folder" if self.degradation == PAIRS else "None"
        fits = (self.degraded is None) == (self.degradation != PAIRS)
        require(fits, "degraded", self.degraded, f"{wanted} with degradation {self.degradation}")
        for name in ("noise", "blur"):
            require_pair(name, getattr(self, name))
            low, high = getattr(self, name)
            require(0 <= low <= high, name, (low, high), "(low, high) with 0 <= low <= high")
        require(self.blur[0] > 0, "blur", self.blur, "positive widths")
        require_choice("kernel", self.kernel, ("bicubic", "average"))
        require_integer("factor", self.factor, 1 if self.degradation == REAL_WORLD else 2)
        require_integer("margin", self.margin, 0)
        require(self.margin % self.upsample == 0, "margin", self.margin, "a multiple of factor")


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The restoration process of a restorer, and its loss."""

    process: str | None = setting(
        None, "Train a restorer with resshift, ir-sde or rddm; default: train a plain prior."
    )
    process_steps: int | None = setting(
        None, "Steps T of the process; default: 15 (resshift), 100 (ir-sde), 1000 (rddm)."
    )
    kappa: float = setting(2.0, "ResShift: final noise level, in the network's units.")
    min_noise: float = setting(0.04, "ResShift: smallest noise level; 0.2 in the paper for T = 4.")
    max_sigma: float = setting(10.0, "IR-SDE: final noise level, in grey levels of 255.")
    sum_scale: float = setting(1.0, "RDDM: final variance, in the network's units.")
    loss: str | None = setting(None, "mse, l1 or optimal (IR-SDE's); default: the paper's.")
    lpips: float = setting(0.0, "Weight of the LPIPS of the estimated clean image in the loss.")
    networks: int = setting(1, "RDDM: 1 network for both predictions, or 2.")
    autoencoder: str | None = setting(
        None, "Folder of a diffusers autoencoder, to train on its latents."
    )

    @property
    def usual_prediction(self) -> str | None:
        """What the network predicts in the paper of the process."""
        return None if self.process is None else PROCESSES[self.process][0]

    @property
    def criterion(self) -> str:
        """The loss, one of `LOSSES`; a plain prior has the mean squared error."""
        return self.loss or ("mse" if self.process is None else PROCESSES[self.process][1])

    def check_process(self, predicts: str) -> None:
        """Raise if a setting is invalid or does not fit the network's prediction."""
        require_choice("prediction", predicts, PREDICTIONS[self.process or ""])
        require_choice("loss", self.criterion, LOSSES)
        fits = self.process == "ir-sde" or self.criterion != "optimal"
        require(fits, "loss", self.criterion, "mse or l1; optimal only for ir-sde")
        if self.process_steps is not None:
            require_integer("process_steps", self.process_steps, 2, 10**6)
        for name in ("kappa", "max_sigma", "sum_scale"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "a positive number")
        require(0 <= self.lpips < math.inf, "lpips", self.lpips, "a number of at least 0")
        clean = self.lpips == 0 or predicts in ("sample", "residual")
        require(clean, "lpips", self.lpips, f"0 with the prediction {predicts}")
        two = 2 if predicts == "residual+noise" else 1
        require(1 <= self.networks <= two, "networks", self.networks, "1, or 2 for residual+noise")
