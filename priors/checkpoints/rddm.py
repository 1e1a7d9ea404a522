"""Checkpoints of RDDM: one U-Net, two, or two heads on one encoder."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ArgumentError, CheckpointError, require_choice
from wellposed.priors.anchor import Anchor
from wellposed.priors.checkpoints.family import (
    Family,
    Options,
    check_options,
    load_network,
    schedule_option,
)
from wellposed.priors.labels import Label
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.keys import State, image_pair
from wellposed.priors.networks.layers import Conditioned
from wellposed.priors.networks.restoration_unet import (
    ResidualUNet,
    SharedUNet,
    UNetConfig,
    read_config,
)
from wellposed.priors.prediction import TWO_HEADS
from wellposed.priors.processes import rddm
from wellposed.priors.schedule import Schedule, Tabulated

OPTIONS = ("schedule", "prediction", "data_range")
ONE_HEAD = ("residual", "noise")
FLOOR = 1e-6
"""The published code's smallest divisor if only the noise is predicted."""
NETS = ("unet0.", "unet1.")


class RDDMNetwork(nn.Module):
    """RDDM's network: returns its heads (B, C, H, W) or (B, 2 C, H, W) from ``x_t`` and labels.

    Args:
        nets: one network, or one for the residual and one for the noise.
        labels: maps times (B,) to the labels of both networks (2, B), or of one (1, B).
    """

    def __init__(self, nets: list[ResidualUNet], labels: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.nets, self.labels = nn.ModuleList(nets), labels

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the heads for images (B, C, H, W) at times (B,), stacked along the channels."""
        pairs = zip(self.nets, self.labels(t), strict=False)
        return torch.cat([net(x, label) for net, label in pairs], 1)


def index_labels(t: Tensor) -> Tensor:
    """Return the labels of a trained process: the index of the time, for both heads."""
    return (t - 1).clamp(min=0).expand(2, -1)


def independent_labels(schedule: Schedule, prediction: str) -> Callable[[Tensor], Tensor]:
    """Return the labels of the partially path-independent process: the progress times T.

    The label of the residual's network is the share of the residual in ``x_t``; that of the
    noise's network is the share of the noise.
    """

    def labels(t: Tensor) -> Tensor:
        alpha, sigma = schedule(t)
        both = (schedule.T * torch.stack([1 - alpha, sigma])).to(t.dtype)
        return both[1:] if prediction == "noise" else both

    return labels


def matches(state: State) -> bool:
    """Return whether a state dict has the modules of RDDM's networks."""
    nets = ("", NETS[0])
    return any(
        f"{net}mid_block1.block1.norm.weight" in state and f"{net}downs.0.3.weight" in state
        for net in nets
    )


def schedule_of(state: State, where: str) -> Tabulated:
    """Return the schedule that RDDM's trainer saves with its networks, or else `rddm`.

    Args:
        state: the trainer's state dict.
        where: beginning of error messages, which names the file.

    Raises:
        CheckpointError: tables whose noise-to-signal ratio does not increase at every step.
    """
    if not {"alphas_cumsum", "betas_cumsum"} <= state.keys():
        return rddm()
    residual, noise = (F.pad(state[k].double(), (1, 0)) for k in ("alphas_cumsum", "betas_cumsum"))
    try:
        return Tabulated((1 - residual).clamp(min=0), noise)
    except ArgumentError as error:
        raise CheckpointError(
            f"{where}: its tables alphas_cumsum and betas_cumsum are not a schedule ({error}), "
            "accepted: the option schedule"
        ) from error


def build(state: State, where: str, options: Options) -> NetworkPrior:
    """Return RDDM's networks as a restorer of images in [0, 1].

    The schedule is that of the checkpoint, or ``rddm()`` if it has only weights. A process
    converted from DDIM, ``alpha^2 + sigma^2 = 1``, has the labels of the partially
    path-independent process. A noise alone does not determine the image where alpha is 0, at T;
    there the published code divides by 1e-6 and leaves alpha as it is, and so does this prior.
    With ``schedule="rddm(floor=1e-6)"`` alpha itself is at least 1e-6.

    Args:
        state: state dict of the networks, and perhaps the tables of RDDM's trainer.
        where: beginning of error messages, which names the file.
        options: settings that the weights do not determine: ``prediction``, for one network
            "residual" (default) or "noise", for two heads "residual+noise" (default) or another
            of `TWO_HEADS`; ``schedule``; ``data_range``.

    Raises:
        CheckpointError: weights do not fit or are not finite.
        ArgumentError: an unknown option, or an invalid value.
    """
    check_options(options, *OPTIONS)
    nets = _networks(state, where)
    two = len(nets) == 2 or isinstance(nets[0], SharedUNet)
    known = TWO_HEADS if two else ONE_HEAD
    prediction = require_choice("prediction", options.get("prediction", known[0]), known)
    schedule = schedule_option(options, lambda: schedule_of(state, where))
    labels = independent_labels(schedule, prediction) if _is_converted(schedule) else index_labels
    config = nets[0].config
    return NetworkPrior(
        Conditioned(RDDMNetwork(nets, labels), 2 ** (len(config.widths) - 2)),
        schedule,
        prediction,
        label=Label(),
        anchor=Anchor(),
        floor=FLOOR if prediction == "noise" else 0.0,
        channels=image_pair(config.channels),
        data_range=options.get("data_range", (0.0, 1.0)),
    )


def _networks(state: State, where: str) -> list[ResidualUNet]:
    parts: list[State] = [
        {k.removeprefix(net): v for k, v in state.items() if k.startswith(net)} for net in NETS
    ]
    nets = [part for part in parts if part] or [state]
    return [load_network(_network, part, where) for part in nets]


def _network(state: State) -> ResidualUNet:
    shared = "final_conv_2.weight" in state
    config: UNetConfig = read_config(state, "final_conv_2" if shared else "final_conv")
    image_pair(config.channels)
    return (SharedUNet if shared else ResidualUNet)(config)


def _is_converted(schedule: Schedule) -> bool:
    alpha, sigma = schedule(torch.linspace(0, 1, 5, dtype=torch.float64) * schedule.T)
    return bool((alpha**2 + sigma**2 - 1).abs().max() < 1e-4)


FAMILY = Family("RDDM", matches, build)
