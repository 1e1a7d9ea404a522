"""The settings of `wellposed train`: one dataclass, which defines the options of the command."""

import json
import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from wellposed.checks import require_integer, setting
from wellposed.errors import require, require_choice
from wellposed.priors.training.fields import require_pair
from wellposed.priors.training.restoration_settings import (
    PROCESSES,
    DegradationSettings,
    ProcessSettings,
)

SCHEDULES = ("linear", "cosine", "ve", "flow")
PREDICTIONS = {
    "linear": ("edm", "noise", "sample", "velocity"),
    "cosine": ("edm", "noise", "sample", "velocity"),
    "ve": ("edm", "noise", "sample"),
    "flow": ("flow", "edm", "noise", "sample"),
}
"""Predictions available with each schedule; a velocity needs alpha^2 + sigma^2 = 1."""

BLOCKS = ("plain", "gated")
"""Kinds of residual blocks of the network, see `ConvUNet`."""

FREE = ("data", "out", "save_every", "image_every", "workers", "compile", "skip_broken")
"""Settings that do not determine the trained weights."""

FOLDERS = ("degraded", "autoencoder", "init_from")  # which may have moved when a run goes on


@dataclass(frozen=True, kw_only=True)
class ImageSettings:
    """The training images and their crops."""

    data: tuple[str, ...] = field(
        metadata={"help": "Image file, volume, folder, tar of images, or pattern; repeatable."}
    )
    out: str = field(metadata={"help": "Folder for weights, checkpoint and pictures."})
    name: str = setting("my-prior", "Name for the model card.")
    licence: str = setting("unknown", "Licence of the data, for the model card.")

    key: str | None = setting(None, "Data set inside HDF5 and MAT files; default: the largest.")
    group_key: str | None = setting(None, "Vector there that names each slice's patient.")
    channel_axis: int | None = setting(None, "Axis of the channels of arrays, e.g. -1.")
    channels: int | None = setting(None, "1 or 3: photographs are made grey or coloured.")
    skip_broken: bool = setting(False, "Leave out files that cannot be read, and list them.")
    window: tuple[float, float] | None = setting(None, "Stored values of 0 and 1 (-1000 1000).")
    percentile: float | None = setting(None, "Percentile of positive values scaled to 1.")
    volume_key: str | None = setting(None, "Vector there that names each slice's volume.")
    valid_key: str | None = setting(None, "Array there: y0, y1, x0, x1 measured of each slice.")
    data_range: tuple[float, float] = setting((0.0, 1.0), "Values of -1 and 1 in the network.")
    held_out: float = setting(0.05, "Fraction of the data kept for validation.")

    image_size: tuple[int, ...] = setting((64,), "Widths of the crops, taken in turn: 64,128.")
    axes: tuple[int, ...] = setting((0,), "Axes of volumes to slice across: 0,1,2.")
    zoom: tuple[float, float] = setting((1.0, 1.0), "Random magnification of crops.")
    gain: tuple[float, float] = setting((1.0, 1.0), "Random intensity factor.")
    foreground: float = setting(0.0, "Mean below which a crop counts as empty.")

    @property
    def file_range(self) -> tuple[float, float] | None:
        """The range that files are expected to have."""
        return self.data_range

    def check_images(self) -> None:
        """Raise if a setting is invalid."""
        for name in ("window", "data_range", "zoom", "gain"):
            require_pair(name, getattr(self, name))
        require(0 < self.held_out < 0.5, "held_out", self.held_out, "a number in (0, 0.5)")
        axes = len(self.axes) > 0 and set(self.axes) <= {0, 1, 2}
        require(axes, "axes", self.axes, "some of 0, 1, 2")
        for name in ("zoom", "gain"):
            low, high = getattr(self, name)
            require(0 < low <= high, name, (low, high), "(low, high) with 0 < low <= high")
        require(math.isfinite(self.foreground), "foreground", self.foreground, "a finite number")
        low, high = self.data_range
        require(low < high, "data_range", self.data_range, "(low, high) with low < high")


@dataclass(frozen=True, kw_only=True)
class SignalSettings:
    """How crops of signals, such as RF over depth and beam, differ from crops of photographs."""

    aspect: float = setting(1.0, "Height over width of the crops.")
    flips: str = setting("all", "Flips used for augmentation: all, sideways or none.")
    polarity: bool = setting(False, "Random sign, for signals.")
    companding: float = setting(0.0, "Mu of the mu-law for linear RF, e.g. 255; 0: none.")

    def check_signals(self, image_size: tuple[int, ...], stride: int) -> None:
        """Raise if a setting is invalid or crops of these widths do not fit the stride."""
        from wellposed.datasets.images.crops import FLIPS  # loads torch, which takes seconds

        require_choice("flips", self.flips, FLIPS)
        accepted = "0, or a positive number as 255"
        require(0 <= self.companding < math.inf, "companding", self.companding, accepted)
        for width in image_size:
            tall = self.aspect * width
            fits = 0 < tall < math.inf and tall % stride == 0
            accepted = f"a ratio that gives heights divisible by the network's stride, {stride}"
            require(fits, "aspect", self.aspect, accepted)


@dataclass(frozen=True, kw_only=True)
class DiffusionSettings:
    """The diffusion of a plain prior."""

    channel_ranges: tuple[float, ...] = setting(
        (), "Instead of data_range, that of each channel: -1000,1000,0,1."
    )
    complex_phase: bool = setting(
        False, "Train on complex images: magnitudes with a random smooth phase."
    )

    schedule: str = setting("linear", "linear or cosine (VP), ve or flow.")
    noise_levels: str = setting("lognormal", "lognormal, or uniform in the schedule's time.")
    log_noise: tuple[float, float] = setting(
        (-1.0, 1.6), "Mean and standard deviation of log(sigma / alpha)."
    )
    sigma_data: float = setting(0.5, "Standard deviation of the images in [-1, 1].")
    image_noise: float = setting(
        0.0, "Known noise level of the images; above 0 the clean ones are learnt (GSURE)."
    )

    def check_diffusion(self) -> None:
        """Raise if a setting is invalid."""
        accepted = "the noise's standard deviation in the images' values, or 0"
        require(0 <= self.image_noise < math.inf, "image_noise", self.image_noise, accepted)
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("noise_levels", self.noise_levels, ("lognormal", "uniform"))
        require_pair("log_noise", self.log_noise)
        require(self.log_noise[1] > 0, "log_noise", self.log_noise, "(mean, spread > 0)")
        require(0 < self.sigma_data < math.inf, "sigma_data", self.sigma_data, "a positive number")
        grow = all(-math.inf < low < high < math.inf for low, high in self.ranges)
        pairs = len(self.channel_ranges) % 2 == 0 and grow
        accepted = "pairs low,high with low < high, one for each channel"
        require(pairs, "channel_ranges", self.channel_ranges, accepted)

    @property
    def ranges(self) -> list[tuple[float, float]]:
        """The range of each channel; empty if all have ``data_range``."""
        values = self.channel_ranges
        return list(zip(values[::2], values[1::2], strict=False))


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """The network and the optimisation."""

    prediction: str | None = setting(
        None,
        "What the network predicts, e.g. noise, sample, velocity; default: edm, or the paper's "
        "choice for a restorer.",
    )
    widths: tuple[int, ...] = setting((64, 128, 192), "Channels of each resolution level.")
    layers: int = setting(2, "Residual blocks per level, down and up.")
    block: str = setting("plain", "Their kind: plain, or gated, a third as dear.")

    init_from: str | None = setting(None, "Fine-tune a prior: shipped, or a folder.")
    steps: int = setting(20_000, "Optimisation steps; more continue a finished run.")
    batch_size: int = setting(16, "Crops per step; fewer of larger sizes.")
    learning_rate: float = setting(5e-4, "Learning rate.")
    warmup: int = setting(200, "Steps over which the learning rate rises to its value.")
    decay: float = setting(0.3, "Final fraction of the steps, with the rate falling to zero.")
    ema: float = setting(0.999, "Decay of the exponential moving average of the weights.")
    clip: float = setting(1.0, "Largest gradient norm.")
    seed: int = setting(0, "Seed of initial weights, crops and noise.")
    bf16: bool = setting(False, "Use bfloat16 autocast.")
    compile: bool = setting(False, "Compile the network (needs a C++ compiler).")
    workers: int = setting(0, "Processes that prepare crops in the background.")
    save_every: int = setting(500, "Steps between checkpoints.")
    image_every: int = setting(2000, "Steps between pictures.")

    def check_run(self, image_size: tuple[int, ...]) -> None:
        """Raise if a setting is invalid; images have these sides in the network."""
        require_integer("layers", self.layers, 1, 1000)
        require_choice("block", self.block, BLOCKS)
        positive = len(self.widths) > 0 and all(w > 0 for w in self.widths)
        require(positive, "widths", self.widths, "positive integers")
        stride = 2 ** len(self.widths)
        for size in image_size or (0,):
            fits = size > 0 and size % stride == 0
            accepted = f"a positive multiple of the network's stride, {stride}"
            require(fits, "image_size", size, accepted)
        for name in ("steps", "batch_size", "save_every", "image_every"):
            require_integer(name, getattr(self, name), 1, 10**9)
        require_integer("seed", self.seed, 0)
        require_integer("warmup", self.warmup, 0, 10**9)
        require_integer("workers", self.workers, 0, 1024)
        for name in ("learning_rate", "clip"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "a positive number")
        require(0 <= self.ema < 1, "ema", self.ema, "a number in [0, 1)")
        require(0 <= self.decay <= 1, "decay", self.decay, "a number from 0 to 1")

    def decisive(self) -> dict[str, Any]:
        """Return the settings that determine the trained weights, JSON-serialisable."""
        kept = {k: v for k, v in asdict(self).items() if k not in (*FREE, *FOLDERS, *self._unused)}
        decisive: dict[str, Any] = json.loads(json.dumps(kept))
        return decisive

    @property
    def _unused(self) -> set[str]:
        """Settings that this kind of training does not have."""
        return set()

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate: a ramp, a plateau, and a linear fall over the last steps.

        It does not depend on ``steps`` until the fall begins, so that a run can be extended.
        """
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * ramp * fall


PLAIN = (DiffusionSettings, SignalSettings)
"""Settings that only plain priors have."""

ANCHORED = (DegradationSettings, ProcessSettings)
"""Settings that only restorers have; a restorer is trained if ``process`` is set."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings(
    RunSettings,
    DegradationSettings,
    ProcessSettings,
    DiffusionSettings,
    SignalSettings,
    ImageSettings,
):
    """Everything that determines a trained prior; saved beside its weights.

    With a ``process`` it is a restorer, a prior with an anchor; without one it is a plain prior.

    Raises:
        ArgumentError: an invalid setting, or a setting that this kind of prior does not have.

    Example:
        >>> from wellposed.priors.training import TrainingSettings
        >>> settings = TrainingSettings(data=("photos",), out="my-prior", steps=5000)
        >>> settings.batch_size, settings.learning_rate
        (16, 0.0005)
    """

    def __post_init__(self) -> None:
        self.check_images()
        if self.process is not None:
            require_choice("process", self.process, PROCESSES)
        self._check_kind()
        self.check_run(self.image_size)
        if self.process is None:
            self._check_plain()
        else:
            self._check_anchored()

    @property
    def predicts(self) -> str:
        """What the network predicts, see `NetworkPrior`."""
        return self.prediction or self.usual_prediction or "edm"

    def _check_kind(self) -> None:
        plain = self.process is None
        accepted = "with" if plain else "without"
        for group in ANCHORED if plain else PLAIN:
            for f in fields(group):
                value = getattr(self, f.name)
                own = f.name == "process" or value == f.default
                require(own, f.name, value, f"{f.default!r}; other values {accepted} a process")

    def _check_plain(self) -> None:
        signed = self.complex_phase or self.polarity or self.companding > 0
        ranges = self.ranges or [self.data_range]
        centred = not signed or all(low == -high for low, high in ranges)
        accepted = "a symmetric range for signed values, e.g. (-1, 1)"
        require(centred, "data_range", ranges if self.ranges else self.data_range, accepted)
        real = not (self.complex_phase and self.companding > 0)
        accepted = "0 with complex_phase, as magnitudes have no sign"
        require(real, "companding", self.companding, accepted)
        self.check_diffusion()
        if self.image_noise > 0:
            self._check_image_noise()
        require_choice("prediction", self.predicts, PREDICTIONS[self.schedule])
        self.check_signals(self.image_size, 2 ** len(self.widths))

    def _check_image_noise(self) -> None:
        """Raise if a setting changes the noise of the images."""
        for name in ("zoom", "gain", "complex_phase", "companding", "channel_ranges"):
            value, plain = getattr(self, name), DEFAULT_OF[name]
            accepted = f"{plain!r} with image_noise, which it would change"
            require(value == plain, name, value, accepted)

    def _check_anchored(self) -> None:
        self.check_degradation()
        self.check_process(self.predicts)
        for size in self.image_size:
            fits = size % self.upsample == 0
            require(fits, "image_size", size, f"a multiple of factor, {self.factor}")

    @property
    def _unused(self) -> set[str]:
        groups = ANCHORED if self.process is None else PLAIN
        return {f.name for group in groups for f in fields(group)}

    @property
    def file_range(self) -> tuple[float, float] | None:
        """The range that files are expected to have; None of several."""
        return None if self.channel_ranges else self.data_range


DEFAULT_OF = {f.name: f.default for f in fields(TrainingSettings)}
"""Default of every setting."""
