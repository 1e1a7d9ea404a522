"""Other ways in which a network's checkpoint could have been read."""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from wellposed.priors.adapters.guided import Guided
from wellposed.priors.anchor import Degraded
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


class Remembered(nn.Module):
    """A network that computes each output once, as readings differ in what they make of it."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self._known: list[tuple[tuple[Tensor, ...], Tensor]] = []

    def forward(self, x: Tensor, label: Tensor, *told: Tensor | Degraded) -> Tensor:
        """Return the network's output."""
        given = (x, label, *(part for more in told for part in _parts(more)))
        for seen, known in self._known:
            if all(map(_same, seen, given)):
                return known
        output: Tensor = self.network(x, label, *told)
        self._known.append((given, output))
        return output


def remembered(prior: Prior) -> Prior:
    """Return a prior whose network is `Remembered`; priors without a network as they are."""
    if isinstance(prior, Guided):
        return prior.again(remembered(prior.prior))
    if isinstance(prior, NetworkPrior):
        return _changed(prior, "network", Remembered(prior.network))
    return prior


def _parts(told: Tensor | Degraded) -> tuple[Tensor, ...]:
    return (told,) if isinstance(told, Tensor) else tuple(told)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def other_readings(prior: Prior, kinds: tuple[str, ...]) -> Iterator[Reading]:
    """Yield a prior with another kind of prediction, schedule, label of time or attention heads.

    Args:
        prior: as it was read; there are other readings of networks alone.
        kinds: predictions to try.
    """
    if isinstance(prior, Guided):
        for reading in other_readings(prior.prior, kinds):
            again = prior.again(reading.prior)
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
    network, known = prior.network, heads_of(prior.network)
    if isinstance(network, Remembered):  # its outputs are those of its own heads
        network = network.network
    for name in HEADS if known else ():
        option, number = name.split("=")
        other: nn.Module | None = with_heads(network, **{option: int(number)})
        if other is not None and heads_of(other) != known:
            yield Reading("heads", name, _changed(prior, "network", Remembered(other)))
