"""Labels of networks: times, as functions that can be pickled and compared, and classes."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.errors import require
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


def class_labels(condition: object, count: int, null: int | None = None) -> Tensor:
    """Return classes as whole numbers, one or (B,).

    Args:
        condition: the classes, or ``None``.
        count: number of classes.
        null: the class that stands for none, if there is one.

    Raises:
        ArgumentError: no classes, or unknown ones.
    """
    classes = torch.as_tensor(-1 if condition is None else condition)
    inside = (classes >= 0) & (classes < count)
    if null is not None:
        inside = inside | ((classes == null) & (null >= 0))
    known = not classes.is_floating_point() and bool(inside.all())
    accepted = f"classes 0 to {count - 1}; fix one for all with prior.conditioned_on(class)"
    require(known, "condition", condition, accepted)
    return classes.long()
