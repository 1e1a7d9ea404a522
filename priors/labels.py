"""Labels of networks: times, as functions that can be pickled and compared, and classes."""

from dataclasses import dataclass
from numbers import Integral

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, require
from wellposed.priors.schedule import Schedule


@dataclass(frozen=True)
class Label:
    """``scale (t - first)``, but at least ``least`` if given."""

    first: float = 0
    scale: float = 1
    least: float | None = None

    @classmethod
    def conventions(cls, T: int) -> "dict[str, Label]":
        """Return the usual labels of tables of T noisy levels, by name.

        ``index`` counts them from 0 as DDPM does, ``step`` from 1, and ``fraction`` is t / T.
        """
        return {"index": cls(1, least=0), "step": cls(least=0), "fraction": cls(scale=1 / T)}

    def __call__(self, t: Tensor) -> Tensor:
        """Return the label of times, (B,)."""
        label = self.scale * (t - self.first)
        return label if self.least is None else label.clamp(min=self.least)


@dataclass(frozen=True)
class LogNoiseLabel:
    """The label of EDM: ``log(sigma_t / alpha_t) / 4``, kept finite."""

    schedule: Schedule

    def __call__(self, t: Tensor) -> Tensor:
        """Return the label of times, (B,)."""
        return self.schedule.ratio(t).clamp(1e-3, 1e3).log() / 4


def class_labels(
    condition: object, count: int | None, null: int | None = None, name: str = "condition"
) -> Tensor:
    """Return classes as whole numbers, (1,) or (B,).

    Args:
        condition: the classes.
        count: number of classes; None for an unconditional prior.
        null: the class that stands for none, if there is one.
        name: the argument that has the classes, for errors.

    Raises:
        ArgumentError: no classes, or unknown ones, or an unconditional prior.
    """
    if count is None:
        raise ArgumentError("prior: got an unconditional one, accepted: a class-conditional prior")
    given: list[object] = [condition]
    if isinstance(condition, Tensor) and condition.ndim < 2 and not condition.is_meta:
        given = condition.reshape(-1).tolist()
    classes = [int(c) for c in given if isinstance(c, Integral) and not isinstance(c, bool)]
    known = {*range(count), null} - {-1}
    accepted = f"classes 0 to {count - 1}; fix one for all with prior.conditioned_on(class)"
    require(
        0 < len(classes) == len(given) and known.issuperset(classes), name, condition, accepted
    )
    return torch.tensor(classes)
