"""The settings of `wellposed train`: one dataclass, from which the command's options are made."""

import json
import math
from dataclasses import asdict, dataclass, field
from typing import Any

from wellposed.errors import require, require_choice

FLIPS = {"all": (0, 1), "sideways": (1,), "none": ()}
"""Axes of images, rows and columns, that may be reversed."""

SCHEDULES = ("linear", "cosine", "ve", "flow")
PREDICTIONS = {
    "linear": ("edm", "noise", "sample", "velocity"),
    "cosine": ("edm", "noise", "sample", "velocity"),
    "ve": ("edm", "noise", "sample"),
    "flow": ("flow", "edm", "noise", "sample"),
}
"""What may be predicted under each schedule; a velocity needs alpha^2 + sigma^2 = 1."""

PAIRS = ("window", "data_range", "zoom", "gain", "log_noise")

# These neither decide the weights nor, as far as `steps` goes, the steps taken so far.
FREE = ("data", "out", "save_every", "image_every", "workers", "compile")


def _setting(default: Any, help_: str) -> Any:
    return field(default=default, metadata={"help": help_})


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """Everything that decides a trained prior; saved beside its weights.

    Raises:
        ArgumentError: a setting that cannot be, named with what is accepted.
    """

    data: tuple[str, ...] = field(metadata={"help": "Image file, volume or folder; repeatable."})
    out: str = field(metadata={"help": "Folder for weights, checkpoint and pictures."})
    name: str = _setting("my-prior", "Name for the model card.")
    licence: str = _setting("unknown", "Licence of the data, for the model card.")

    key: str | None = _setting(None, "Data set inside HDF5 and MAT files; default: the largest.")
    group_key: str | None = _setting(None, "Vector there that names each slice's patient.")
    channel_axis: int | None = _setting(None, "Axis of the channels of arrays, e.g. -1.")
    window: tuple[float, float] | None = _setting(None, "Stored values of 0 and 1 (-1000 1000).")
    percentile: float | None = _setting(None, "Percentile of positive values scaled to 1.")
    data_range: tuple[float, float] = _setting((0.0, 1.0), "Values of -1 and 1 in the network.")
    held_out: float = _setting(0.05, "Fraction of the data kept for validation.")

    image_size: tuple[int, ...] = _setting((64,), "Widths of the crops, taken in turn: 64,128.")
    aspect: float = _setting(1.0, "Height over width of the crops.")
    axes: tuple[int, ...] = _setting((0,), "Axes of volumes that slices are taken across: 0,1,2.")
    zoom: tuple[float, float] = _setting((1.0, 1.0), "Random magnification of crops.")
    flips: str = _setting("all", "Mirror images that count: all, sideways, none.")
    gain: tuple[float, float] = _setting((1.0, 1.0), "Random intensity factor.")
    polarity: bool = _setting(False, "Signals: random sign.")
    companding: float = _setting(0.0, "Linear RF: mu of the mu-law, 255; 0 for none.")
    foreground: float = _setting(0.0, "Mean below which a crop counts as empty.")
    complex_phase: bool = _setting(False, "Complex images: magnitudes with random smooth phase.")

    schedule: str = _setting("linear", "linear or cosine (VP), ve, flow.")
    prediction: str = _setting("edm", "edm (preconditioned), noise, sample, velocity, flow.")
    noise_levels: str = _setting("lognormal", "lognormal, or uniform in the schedule's time.")
    log_noise: tuple[float, float] = _setting((-1.0, 1.6), "Mean and spread of log sigma / alpha.")
    sigma_data: float = _setting(0.5, "Standard deviation of images in [-1, 1].")

    widths: tuple[int, ...] = _setting((64, 128, 192), "Channels of each resolution level.")
    layers: int = _setting(2, "Residual blocks per level, down and up.")

    steps: int = _setting(20_000, "Optimisation steps.")
    batch_size: int = _setting(16, "Crops per step; fewer of larger sizes.")
    learning_rate: float = _setting(5e-4, "Learning rate.")
    warmup: int = _setting(200, "Steps over which it grows to that.")
    decay: float = _setting(0.3, "Last fraction of the steps, over which it falls to zero.")
    ema: float = _setting(0.999, "Averaging of the weights.")
    clip: float = _setting(1.0, "Largest gradient norm.")
    seed: int = _setting(0, "Decides initial weights, crops and noise.")
    bf16: bool = _setting(False, "Autocast to bfloat16.")
    compile: bool = _setting(False, "Compile the network (needs a C++ compiler).")
    workers: int = _setting(0, "Processes that prepare crops beside the training.")
    save_every: int = _setting(500, "Steps between checkpoints.")
    image_every: int = _setting(2000, "Steps between pictures.")

    def __post_init__(self) -> None:
        for name in PAIRS:
            pair = getattr(self, name)
            fits = pair is None or (len(pair) == 2 and all(map(math.isfinite, pair)))
            require(fits, name, pair, "two finite numbers")
        self._check_images()
        self._check_diffusion()
        self._check_network()
        for name in ("steps", "batch_size", "save_every", "image_every"):
            self._require_integer(name, 1)
        for name in ("seed", "workers", "warmup"):
            self._require_integer(name, 0)
        for name in ("learning_rate", "clip", "sigma_data"):
            value = getattr(self, name)
            require(0 < value < math.inf, name, value, "a positive number")
        require(0 <= self.ema < 1, "ema", self.ema, "0 <= ema < 1")
        require(0 <= self.decay <= 1, "decay", self.decay, "0 <= decay <= 1")

    def _require_integer(self, name: str, least: int) -> None:
        value = getattr(self, name)
        fits = isinstance(value, int) and value >= least
        require(fits, name, value, f"an integer of at least {least}")

    def _check_images(self) -> None:
        require(0 < self.held_out < 0.5, "held_out", self.held_out, "between 0 and 0.5")
        axes = len(self.axes) > 0 and set(self.axes) <= {0, 1, 2}
        require(axes, "axes", self.axes, "some of 0, 1, 2")
        grouped = self.group_key is None or self.axes == (0,)
        require(grouped, "axes", self.axes, "0 alone with a group_key, whose slices are unordered")
        for name in ("zoom", "gain"):
            low, high = getattr(self, name)
            require(0 < low <= high, name, (low, high), "0 < low <= high")
        require(math.isfinite(self.foreground), "foreground", self.foreground, "a finite number")
        low, high = self.data_range
        require(low < high, "data_range", self.data_range, "(low, high) with low < high")
        signed = self.complex_phase or self.polarity or self.companding > 0
        centred = not signed or low == -high
        require(centred, "data_range", self.data_range, "symmetric, as (-1, 1), if signed")
        require_choice("flips", self.flips, FLIPS)
        mu = self.companding
        require(0 <= mu < math.inf, "companding", mu, "0, or a positive number as 255")
        real = not (self.complex_phase and mu > 0)
        require(real, "companding", mu, "0 with complex_phase, whose magnitudes have no sign")

    def _check_diffusion(self) -> None:
        require_choice("schedule", self.schedule, SCHEDULES)
        require_choice("prediction", self.prediction, PREDICTIONS[self.schedule])
        require_choice("noise_levels", self.noise_levels, ("lognormal", "uniform"))
        require(self.log_noise[1] > 0, "log_noise", self.log_noise, "(mean, spread > 0)")

    def _check_network(self) -> None:
        self._require_integer("layers", 1)
        positive = len(self.widths) > 0 and all(w > 0 for w in self.widths)
        require(positive, "widths", self.widths, "positive integers")
        stride = 2 ** len(self.widths)
        for size in self.image_size or (0,):
            fits = size > 0 and size % stride == 0
            require(fits, "image_size", size, f"a positive multiple of the network's {stride}")
            tall = self.aspect * size
            fits = 0 < tall < math.inf and tall % stride == 0
            accepted = f"heights that are positive multiples of the network's {stride}"
            require(fits, "aspect", self.aspect, accepted)

    def decisive(self) -> dict[str, Any]:
        """Return the settings that decide the weights, as JSON has them."""
        return json.loads(json.dumps({k: v for k, v in asdict(self).items() if k not in FREE}))

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate: a ramp, a plateau, and a linear fall over the last steps.

        Until the fall begins it does not depend on ``steps``, so that a run may be made longer.
        """
        ramp = min(1.0, (step + 1) / max(1, self.warmup))
        fall = min(1.0, (self.steps - step) / max(1.0, self.decay * self.steps))
        return self.learning_rate * ramp * fall
