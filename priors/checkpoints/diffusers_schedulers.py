"""Schedulers of diffusers as the settings of a prior: schedule, prediction, label of time."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, require, require_choice
from wellposed.priors.checkpoints.diffusers_times import ShiftedFlow
from wellposed.priors.labels import Label, LogNoiseLabel
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated

PREDICTION_TYPES = {"epsilon": "noise", "sample": "sample", "v_prediction": "velocity"}
Config = Mapping[str, float | str]
"""Settings of a network or a scheduler, as diffusers names them."""

# Signs of the preconditioned network F of Karras et al.; both types predict F up to its sign.
EDM_SIGNS = {"epsilon": 1.0, "v_prediction": -1.0}


@dataclass(frozen=True)
class Diffusion:
    """Settings of a `NetworkPrior` from a scheduler; ``sign`` multiplies the network's output."""

    schedule: Schedule
    prediction: str
    label: Callable[[Tensor], Tensor] | None = None
    sigma_data: float | None = None
    sign: float = 1.0
    data_range: tuple[float, float] = (0.0, 1.0)


def diffusion_of(scheduler: object) -> Diffusion:
    """Return the settings of a prior from a diffusers scheduler or its config.

    Raises:
        ArgumentError: no scheduler, or one that is not supported.
    """
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        got = type(scheduler).__name__
        raise ArgumentError(f"scheduler: got {got}, accepted: a diffusers scheduler or its config")
    name = str(config.get("_class_name", type(scheduler).__name__))
    for family, read in FAMILIES.items():
        if family in name:
            return read(config)
    kind = str(config.get("prediction_type", "epsilon"))
    require_choice("prediction_type", kind, PREDICTION_TYPES)
    discrete = config.get("timestep_type", "discrete") == "discrete"
    require(discrete, "timestep_type", config.get("timestep_type"), "'discrete'")
    return Diffusion(Tabulated.from_diffusers(scheduler), PREDICTION_TYPES[kind])


def _flow(config: Config) -> Diffusion:
    train_steps = float(config.get("num_train_timesteps", 1000))
    shift = float(config.get("shift") or 1.0)
    fixed = shift != 1 and not config.get("use_dynamic_shifting")
    # Their smallest noise level is shifted once here, and again with all others.
    least = ShiftedFlow(shift).shifted(torch.tensor(1 / train_steps, dtype=torch.float64))
    schedule = ShiftedFlow(shift, float(least)) if fixed else Flow()
    return Diffusion(schedule, "flow", Label(scale=train_steps))


def _edm(config: Config) -> Diffusion:
    kind = str(config.get("prediction_type", "epsilon"))
    require_choice("prediction_type", kind, EDM_SIGNS)
    schedule = VE(float(config.get("sigma_max", 80.0)), float(config.get("sigma_min", 2e-3)))
    sigma_data = float(config.get("sigma_data", 0.5))
    return Diffusion(schedule, "edm", LogNoiseLabel(schedule), sigma_data, EDM_SIGNS[kind])


def _score_ve(config: Config) -> Diffusion:
    low, high = float(config.get("sigma_min", 0.01)), float(config.get("sigma_max", 1348.0))
    # The network divides by its label, the noise level, and takes its logarithm.
    return Diffusion(VE(high, low), "score", Label(least=low), data_range=(-1.0, 1.0))


def _score_vp(config: Config) -> Diffusion:
    low, high = float(config.get("beta_min", 0.1)), float(config.get("beta_max", 20.0))
    u = torch.linspace(0, 1, 1001, dtype=torch.float64)
    log_alpha = -0.25 * u**2 * (high - low) - 0.5 * u * low
    sigma = (-torch.expm1(2 * log_alpha)).sqrt()
    # Trained on times u in (0, 1]; the label is 999 u.
    table = Tabulated(log_alpha.exp(), sigma, terminal_std=1.0)
    return Diffusion(table, "noise", Label(scale=0.999))


FAMILIES: dict[str, Callable[[Config], Diffusion]] = {
    "Flow": _flow,
    "EDM": _edm,
    "ScoreSdeVe": _score_ve,
    "ScoreSdeVp": _score_vp,
}
