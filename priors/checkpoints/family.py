"""Families of checkpoints, and the common steps of building their priors."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, TypeVar

import torch
from torch import nn

from wellposed.errors import ArgumentError, CheckpointError, require, require_choice
from wellposed.priors.adapters.autoencoder import Autoencoder
from wellposed.priors.checkpoints.state import load_strictly
from wellposed.priors.labels import Label
from wellposed.priors.named_schedules import as_schedule
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.keys import State
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import Schedule, Tabulated

Network = TypeVar("Network", bound=nn.Module)

DDPM_OPTIONS = ("schedule", "prediction", "label", "data_range", "is_complex")
BESIDE = re.compile(
    r"(one_minus_|sqrt_|log_|posterior_)*(recip|recipm1)?_?(betas|alphas)\w*|\w*loss_weight|step"
    r"|posterior_\w+|sqrt_\w+|log_\w+|logvar|initted|n_averaged|num_updates|decay|sigmas|snr"
)
"""Tables of a diffusion and counts that trainers store beside the weights."""


class Options(TypedDict, total=False):
    """What the weights do not tell; each family accepts some, see its ``build``."""

    autoencoder: Autoencoder | str | Path
    data_range: tuple[float, float]
    device: str
    dtype: torch.dtype | str
    guidance: float
    image_size: tuple[int, int]
    is_complex: bool
    label: str
    lora: str | Path
    negative_prompt: str | Sequence[str]
    num_head_channels: int
    num_heads: int
    offload: str
    prediction: str
    prompt: str | Sequence[str]
    schedule: Schedule | str | None
    sigma_data: float
    slicing: bool
    steps: int
    tiling: bool
    upsample: int
    weights: str | None


@dataclass(frozen=True)
class Family:
    """One published layout of checkpoints.

    Attributes:
        name: name of the family, for users.
        matches: returns whether a state dict belongs to the family, judging from its keys.
        build: makes the prior from the state dict, the beginning of error messages (it names the
            file) and the caller's options.
    """

    name: str
    matches: Callable[[State], bool]
    build: Callable[[State, str, Options], Prior]


def load_network(make: Callable[[State], Network], state: State, where: str) -> Network:
    """Return the network that a state dict describes, with its weights, in float32 on the CPU.

    Args:
        make: infers the configuration from the state dict and returns the network.
        state: the state dict.
        where: beginning of error messages, which names the file.

    Raises:
        CheckpointError: no configuration fits, or see `load_strictly`.
    """
    try:
        # No random initial values, so that the global generator is not used.
        with torch.device("meta"):
            network = make(state)
    except ArgumentError:  # caused by an option, not by the file
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: the weights fit no network; missing, misnamed or of the wrong shape: "
            f"{error}"
        ) from error
    own = network.state_dict()
    kept = {k: v for k, v in state.items() if k in own or not BESIDE.fullmatch(k)}
    weights = {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}
    network.to_empty(device="cpu")
    load_strictly(network, weights, where)
    return network


def check_options(options: Options, *accepted: str) -> None:
    """Raise `ArgumentError` for options that are not accepted."""
    for name in options:
        require_choice("options", name, accepted)


def schedule_option(options: Options, default: Callable[[], Schedule]) -> Schedule:
    """Return the option ``schedule``, a schedule or its name, or the default."""
    schedule = options.get("schedule")
    return default() if schedule is None else as_schedule(schedule)


def schedule_beside(state: State) -> Schedule | str:
    """Return the schedule of the ``betas`` that a trainer stored beside the weights, or linear.

    Raises:
        ArgumentError: they are not a schedule.
    """
    betas = state.get("betas")
    return "linear" if betas is None or betas.ndim != 1 else Tabulated.from_betas(betas)


def ddpm_prior(
    network: nn.Module,
    channels: int,
    options: Options,
    num_classes: int | None = None,
    schedule: Schedule | str = "linear",
) -> NetworkPrior:
    """Return the prior of a network trained as in DDPM, with labels 0 to 999 of 1000 noise levels.

    Args:
        network: maps images and labels, and classes if conditional, to its prediction.
        channels: real image channels; further outputs (a variance) are not used.
        options: ``schedule``, a tabulated schedule or its name, see `as_schedule`;
            ``prediction``, see `to_sample`; ``label``, how time is given to the network, see
            `Label.conventions`; ``is_complex``, two real channels represent one complex channel,
            all real parts first; ``data_range``, public values of -1 and 1, [0, 1] by default,
            [-1, 1] if complex.
        num_classes: number of classes of a class-conditional network.
        schedule: default of the option.

    Raises:
        ArgumentError: an invalid value of an option.
    """
    is_complex = options.get("is_complex", False)
    even = not is_complex or channels % 2 == 0
    require(even, "is_complex", f"True and {channels} channels", "an even number of channels")
    schedule = as_schedule(options.get("schedule") or schedule)
    return NetworkPrior(
        network,
        schedule,
        options.get("prediction", "noise"),
        _label(options.get("label", "index"), schedule),
        num_classes=num_classes,
        channels=channels // 2 if is_complex else channels,
        is_complex=is_complex,
        data_range=options.get("data_range") or ((-1.0, 1.0) if is_complex else (0.0, 1.0)),
    )


def _label(name: str, schedule: Schedule) -> Label:
    require(isinstance(schedule, Tabulated), "schedule", schedule, "a table of noise levels")
    known = Label.conventions(int(schedule.T))
    return known[require_choice("label", name, known)]
