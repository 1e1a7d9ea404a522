"""Chains of element-wise operations as one loop, by PyTorch's compiler, where it works."""

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch

logger = logging.getLogger(__name__)

Function = Callable[..., Any]
"""A function of tensors that returns tensors."""

Run = Callable[[Function], Function]
"""How a function is run: `fused` or `unfused`."""


def unfused(function: Function) -> Function:
    """Return the function, whose operations pass over their tensors one after the other."""
    return function


@cache
def fused(function: Function) -> Function:
    """Return the same function of tensors of any shape, several times as fast for large ones.

    Its results are the same up to rounding. It is compiled at the first call, in about 5 s; where
    that fails, as without a C++ compiler, the log says so and the function is used as it is.
    """
    chosen: list[Function] = []

    def call(*args: object) -> Any:
        try:
            if not chosen:
                chosen.append(torch.compile(function, dynamic=True, fullgraph=True))
            with torch.no_grad():
                return chosen[0](*args)
        except (RuntimeError, OSError, ImportError) as error:
            if chosen == [function]:
                raise
            reason = str(error).partition("\n")[0]
            logger.info("%s is not fused, and slower: %s", function.__name__, reason)
            chosen[:] = [function]
        return call(*args)

    return call
