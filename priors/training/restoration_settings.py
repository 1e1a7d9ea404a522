"""Settings of restorers: how images are degraded, and the process that is learnt."""

import math
from dataclasses import dataclass

from wellposed.checks import setting
from wellposed.errors import require, require_choice
from wellposed.priors.training.fields import require_integer, require_pair

PROCESSES = {
    "resshift": ("sample", "mse"),
    "ir-sde": ("noise", "optimal"),
    "rddm": ("residual+noise", "l1"),
}
"""Processes, and what their papers' networks predict under which loss."""

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
"""Degradations that make an image smaller by the factor."""


@dataclass(frozen=True, kw_only=True)
class DegradationSettings:
    """How clean images are degraded for a restorer."""

    degradation: str = setting(
        "deblurring", f"Restorers: one of {', '.join(OPERATORS)}, real-world (Real-ESRGAN), pairs."
    )
    degraded: str | None = setting(None, "Folder of degraded images of the same names, for pairs.")
    noise: tuple[float, float] = setting((0.0, 0.0), "Range of the measurement's noise level.")
    blur: tuple[float, float] = setting((0.5, 2.5), "Deblurring: range of the blur, pixels.")
    factor: int = setting(4, "Super-resolution, real-world: factor of the sides.")
    kernel: str = setting("bicubic", "Super-resolution: bicubic or average.")
    keep: float = setting(0.5, "Inpainting: fraction of pixels kept.")
    acceleration: float = setting(4.0, "MRI undersampling.")
    views: int = setting(60, "CT views.")
    margin: int = setting(0, "Pixels around crops that are degraded with them and cut off.")

    @property
    def upsample(self) -> int:
        """Sides of a clean image over those of a degraded one; of pairs told by the files."""
        return self.factor if self.degradation in SHRINKING else 1

    def check_degradation(self) -> None:
        """Raise unless the degradation can be."""
        require_choice("degradation", self.degradation, DEGRADATIONS)
        wanted = "a folder" if self.degradation == PAIRS else "None, but for pairs"
        fits = (self.degraded is None) == (self.degradation != PAIRS)
        require(fits, "degraded", self.degraded, f"{wanted}, with {self.degradation}")
        for name in ("noise", "blur"):
            require_pair(name, getattr(self, name))
            low, high = getattr(self, name)
            require(0 <= low <= high, name, (low, high), "0 <= low <= high")
        require(self.blur[0] > 0, "blur", self.blur, "widths above 0")
        require_choice("kernel", self.kernel, ("bicubic", "average"))
        require_integer("factor", self.factor, 1 if self.degradation == REAL_WORLD else 2)
        require_integer("margin", self.margin, 0)
        require(self.margin % self.upsample == 0, "margin", self.margin, "a multiple of factor")


@dataclass(frozen=True, kw_only=True)
class ProcessSettings:
    """The restoration process of a restorer, and its loss."""

    process: str | None = setting(
        None, "Train a restorer of this process: resshift, ir-sde or rddm; none: a plain prior."
    )
    process_steps: int | None = setting(None, "Its steps T; default: 15, 100 and 1000.")
    kappa: float = setting(2.0, "ResShift: noise at the end, in the network's units.")
    min_noise: float = setting(0.04, "ResShift: smallest noise; .2 for T 4.")
    max_sigma: float = setting(10.0, "IR-SDE: noise at the end, in levels of 255 of the images.")
    sum_scale: float = setting(1.0, "RDDM: variance at the end, in the network's units.")
    loss: str | None = setting(None, "mse, l1 or optimal (IR-SDE's); default: the paper's.")
    lpips: float = setting(0.0, "Weight of LPIPS of the estimated clean image beside the loss.")
    networks: int = setting(1, "RDDM's two predictions by one network or by 2.")
    autoencoder: str | None = setting(None, "Folder of a diffusers one, to learn its latents.")

    @property
    def usual_prediction(self) -> str | None:
        """What the networks of the process's paper predict."""
        return None if self.process is None else PROCESSES[self.process][0]

    @property
    def criterion(self) -> str:
        """The loss, one of `LOSSES`: the mean squared error of a plain prior."""
        return self.loss or ("mse" if self.process is None else PROCESSES[self.process][1])

    def check_process(self, predicts: str) -> None:
        """Raise unless the process can be, learnt by a network that predicts so."""
        require_choice("prediction", predicts, PREDICTIONS[self.process or ""])
        require_choice("loss", self.criterion, LOSSES)
        fits = self.process == "ir-sde" or self.criterion != "optimal"
        require(fits, "loss", self.criterion, "mse or l1, but for ir-sde")
        if self.process_steps is not None:
            require_integer("process_steps", self.process_steps, 2)
        for name in ("kappa", "max_sigma", "sum_scale"):
            require(0 < getattr(self, name) < math.inf, name, getattr(self, name), "above 0")
        require(0 <= self.lpips < math.inf, "lpips", self.lpips, "at least 0")
        clean = self.lpips == 0 or predicts in ("sample", "residual")
        require(clean, "lpips", self.lpips, "0, but for the predictions sample or residual")
        two = 2 if predicts == "residual+noise" else 1
        require(1 <= self.networks <= two, "networks", self.networks, "1, or 2 for residual+noise")
