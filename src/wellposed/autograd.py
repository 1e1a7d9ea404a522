"""Derivatives under ``torch.inference_mode``, in which PyTorch records none."""

import copy
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import wraps
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor, nn

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T")


def leaving_inference(function: Callable[P, R]) -> Callable[P, R]:
    """Return a function that runs outside ``torch.inference_mode``, without gradients by default.

    Arguments with tensors made in that mode are copied, as derivatives cannot go through them.
    """

    @wraps(function)
    def run(*args: P.args, **options: P.kwargs) -> R:
        with ExitStack() as modes:
            if torch.is_inference_mode_enabled():
                modes.enter_context(torch.inference_mode(False))
                modes.enter_context(torch.no_grad())
            plain = {name: _ordinary(value) for name, value in options.items()}
            return function(*map(_ordinary, args), **plain)  # type: ignore[arg-type]

    return run


def _ordinary(value: T) -> T:
    if isinstance(value, Tensor):
        return value.clone() if value.is_inference() else value  # type: ignore[return-value]
    inference = any(tensor.is_inference() for tensor in _tensors(value, set()))
    return copy.deepcopy(value) if inference else value


def _tensors(value: object, seen: set[int]) -> Iterator[Tensor]:
    """Yield the tensors of a module, of our objects, and of their attributes."""
    if id(value) in seen:
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        yield from (*value.parameters(), *value.buffers())
    if isinstance(value, Mapping):
        parts = list(value.values())
    elif isinstance(value, list | tuple):
        parts = list(value)
    else:
        ours = type(value).__module__.startswith("wellposed")
        parts = list(vars(value).values()) if ours and hasattr(value, "__dict__") else []
    for part in parts:
        yield from _tensors(part, seen)
