"""What a family of checkpoints is, and what building its priors takes."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import nn

from wellposed.errors import ArgumentError, CheckpointError, require, require_choice
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
"""Tables of a diffusion and counts that trainers keep beside the weights."""


@dataclass(frozen=True)
class Family:
    """One published layout of checkpoints.

    Attributes:
        name: as a user knows it.
        matches: tells from the keys whether a state dict is of this family.
        build: makes the prior; gets the state dict, the beginning of error messages (it names
            the file), and the caller's options.
    """

    name: str
    matches: Callable[[State], bool]
    build: Callable[[State, str, dict[str, Any]], Prior]


def load_network(make: Callable[[State], Network], state: State, where: str) -> Network:
    """Return the network that a state dict describes, with its weights, in float32 on the CPU.

    Args:
        make: reads the configuration off the state dict and returns the network.
        state: the state dict.
        where: how error messages begin, naming the file.

    Raises:
        CheckpointError: no configuration fits, or see `load_strictly`.
    """
    try:
        # Random initial values, and the global generator they are drawn from, are not needed.
        with torch.device("meta"):
            network = make(state)
    except ArgumentError:  # an option, not the file
        raise
    except (LookupError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: no network has these weights; missing, misnamed or of the wrong shape: "
            f"{error}"
        ) from error
    own = network.state_dict()
    kept = {k: v for k, v in state.items() if k in own or not BESIDE.fullmatch(k)}
    weights = {k: v.float() if v.is_floating_point() else v for k, v in kept.items()}
    network.to_empty(device="cpu")
    load_strictly(network, weights, where)
    return network


def check_options(options: Mapping[str, Any], *accepted: str) -> None:
    """Raise `ArgumentError` unless every option is one of the accepted ones."""
    for name in options:
        require_choice("options", name, accepted)


def schedule_option(options: Mapping[str, Any], default: Callable[[], Schedule]) -> Schedule:
    """Return the option ``schedule``, a schedule or its name, else the default."""
    return as_schedule(options["schedule"]) if "schedule" in options else default()


def schedule_beside(state: State) -> Schedule | str:
    """Return the schedule of the ``betas`` that a trainer kept beside the weights, or linear.

    Raises:
        ArgumentError: they are no schedule.
    """
    betas = state.get("betas")
    return "linear" if betas is None or betas.ndim != 1 else Tabulated.from_betas(betas)


def ddpm_prior(
    network: nn.Module,
    channels: int,
    schedule: Schedule | str = "linear",
    prediction: str = "noise",
    data_range: tuple[float, float] | None = None,
    is_complex: bool = False,
    num_classes: int | None = None,
    label: str = "index",
) -> NetworkPrior:
    """Return the prior of a network trained as DDPM's, on labels 0 to 999 of 1000 noise levels.

    Args:
        network: maps images and labels, and classes if it knows any, to its prediction.
        channels: real image channels; what it returns beyond them, a variance, is not used.
        schedule: a tabulated one, or the name of one, see `as_schedule`.
        prediction: see `to_sample`.
        data_range: public values of -1 and 1; [0, 1] images by default, [-1, 1] if complex.
        is_complex: two real channels stand for one complex one, all real parts first.
        num_classes: of a class-conditional network.
        label: what it is told of time, see `Label.conventions`.

    Raises:
        ArgumentError: an impossible value of an option.
    """
    even = not is_complex or channels % 2 == 0
    require(even, "is_complex", f"True and {channels} channels", "an even number of them")
    schedule = as_schedule(schedule)
    return NetworkPrior(
        network,
        schedule,
        prediction,
        _label(label, schedule),
        num_classes=num_classes,
        channels=channels // 2 if is_complex else channels,
        is_complex=is_complex,
        data_range=data_range or ((-1.0, 1.0) if is_complex else (0.0, 1.0)),
    )


def _label(name: str, schedule: Schedule) -> Label:
    require(isinstance(schedule, Tabulated), "schedule", schedule, "a table of noise levels")
    known = Label.conventions(int(schedule.T))
    return known[require_choice("label", name, known)]
