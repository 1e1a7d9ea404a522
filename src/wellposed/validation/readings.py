"""Other ways in which a network's checkpoint could have been read."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

from torch import nn

from wellposed.priors.adapters.guided import Guided
from wellposed.priors.labels import Label
from wellposed.priors.named_schedules import SCHEDULES
from wellposed.priors.network import NetworkPrior
from wellposed.priors.networks.adm import heads_of, with_heads
from wellposed.priors.prediction import TWO_HEADS
from wellposed.priors.prior import Prior
from wellposed.priors.processes import DenoisingProcess, MeanReverting
from wellposed.priors.schedule import Tabulated

MAX_SIGMAS = (10.0, 30.0, 50.0, 70.0)
"""Noise of the published IR-SDE and Refusion."""

DENOISING = ((75.0, 100), (70.0, 1000))
"""Noise and steps of their published processes for denoising."""

TABLES, LEAST_STEPS = ("linear", "cosine", "scaled-linear", "sigmoid"), 100
"""Schedules that networks of counted times are trained with, and the fewest steps they are for."""

HEADS = (
    "num_head_channels=64",
    "num_head_channels=32",
    "num_heads=1",
    "num_heads=4",
    "num_heads=8",
)


@dataclass(frozen=True)
class Reading:
    """A prior read in another way.

    Attributes:
        axis: what is read otherwise.
        name: how; an option of `load` and of ``--load``.
        prior: the same network, read so.
    """

    axis: str
    name: str
    prior: Prior


def other_readings(prior: Prior, kinds: tuple[str, ...]) -> Iterator[Reading]:
    """Yield a prior with another kind of prediction, schedule, label of time or attention heads.

    Args:
        prior: as it was read; there are other readings of networks alone.
        kinds: predictions to try.
    """
    if isinstance(prior, Guided):
        for reading in other_readings(prior.prior, kinds):
            again = Guided(reading.prior, prior.condition, prior.guidance, prior.null)
            yield replace(reading, prior=again)
    if not isinstance(prior, NetworkPrior):
        return
    yield from _predictions(prior, kinds)
    yield from _schedules(prior)
    yield from _labels(prior)
    yield from _heads(prior)


def _changed(prior: NetworkPrior, name: str, value: object) -> NetworkPrior:
    other = copy.copy(prior)
    other._modules = dict(prior._modules)  # a network of its own, if that is what changes
    setattr(other, name, value)
    return other


def _predictions(prior: NetworkPrior, kinds: tuple[str, ...]) -> Iterator[Reading]:
    for kind in kinds:
        possible = kind != "edm" or prior.sigma_data is not None
        if kind != prior.prediction and possible and prior.prediction not in TWO_HEADS:
            name = f"prediction={kind!r}"
            yield Reading("prediction", name, _changed(prior, "prediction", kind))


def _schedules(prior: NetworkPrior) -> Iterator[Reading]:
    """Yield schedules of as many steps, which matter where labels count them."""
    schedule, counted = prior.schedule, isinstance(prior.label, Label)
    if isinstance(schedule, DenoisingProcess):
        for sigma, T in DENOISING:
            name = f"schedule='ir-sde-denoising({sigma:g}, {T})'"
            yield Reading(
                "schedule", name, _changed(prior, "schedule", DenoisingProcess(sigma, T))
            )
    elif isinstance(schedule, MeanReverting):
        for sigma in MAX_SIGMAS:
            name, other = f"schedule='ir-sde({sigma:g})'", MeanReverting(max_sigma=sigma)
            yield Reading("schedule", name, _changed(prior, "schedule", other))
    elif isinstance(schedule, Tabulated) and prior.anchor is None and counted:
        for name in TABLES if schedule.T >= LEAST_STEPS else ():
            table = SCHEDULES[name](int(schedule.T))
            yield Reading("schedule", f"schedule={name!r}", _changed(prior, "schedule", table))


def _labels(prior: NetworkPrior) -> Iterator[Reading]:
    if isinstance(prior.schedule, Tabulated) and isinstance(prior.label, Label):
        for name, label in Label.conventions(int(prior.schedule.T)).items():
            if label != prior.label:
                yield Reading("label", f"label={name!r}", _changed(prior, "label", label))


def _heads(prior: NetworkPrior) -> Iterator[Reading]:
    known = heads_of(prior.network)
    for name in HEADS if known else ():
        option, number = name.split("=")
        network: nn.Module | None = with_heads(prior.network, **{option: int(number)})
        if network is not None and heads_of(network) != known:
            yield Reading("heads", name, _changed(prior, "network", network))
