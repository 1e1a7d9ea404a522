"""Presentation of modules: `repr` in one line, `dir` and `help` without foreign names."""

from collections.abc import Iterable
from typing import ClassVar

from torch import nn

FOREIGN = ("builtins", "deepinv", "torch")
"""Packages whose names are not shown; they still work, and those packages document them."""


class _OwnNames(type):
    """A class whose `dir`, and thus `help`, leaves out names that foreign packages define."""

    def __dir__(cls) -> Iterable[str]:
        own = (base for base in cls.__mro__ if base.__module__.split(".")[0] not in FOREIGN)
        names = {name for base in own for name in vars(base)}
        hidden: frozenset[str] = getattr(cls, "_unlisted", frozenset())
        return sorted(name for name in names - hidden if not name.startswith("__"))


def parts_of(module: nn.Module, kind: type = nn.Module) -> list[str]:
    """Return the class names of a module's parts of a kind; lists contribute each element."""
    children = module._modules.values()
    lists = [list(c) if isinstance(c, nn.ModuleList) else [c] for c in children]
    return [type(part).__name__ for parts in lists for part in parts if isinstance(part, kind)]


class Presented(metaclass=_OwnNames):
    """Mixin of `nn.Module` with a one-line `repr`, and a `dir` of its own names and its parts."""

    _unlisted: ClassVar[frozenset[str]] = frozenset({"extra_repr", "training"})
    """Further names that `dir` leaves out: those that foreign packages require or set."""

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        return ""

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"

    def __dir__(self) -> Iterable[str]:
        own = vars(self)
        parts = {*own["_parameters"], *own["_buffers"], *own["_modules"]}
        return sorted({*dir(type(self)), *own, *parts, "to"} - self._unlisted)
