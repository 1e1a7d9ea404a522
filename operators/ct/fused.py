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


class _Fused:
    def __init__(self, function: Function) -> None:
        self._function = function
        self._compiled: Function | None = None
        self._works = self._fails = False

    def __call__(self, *args: object) -> Any:
        if self._fails:
            return self._function(*args)
        try:
            if self._compiled is None:
                self._compiled = torch.compile(self._function, dynamic=True)
            with torch.no_grad():
                result = self._compiled(*args)
        except (RuntimeError, OSError, ImportError) as error:
            if not self._works:
                self._fails = True
                name, reason = self._function.__name__, str(error).partition("\n")[0]
                logger.info("%s is not fused, and slower: %s", name, reason)
            return self._function(*args)
        self._works = True
        return result


@cache
def fused(function: Function) -> Function:
    """Return the same function of tensors of any shape, faster for large ones.

    Its results are the same up to rounding. It is compiled at the first call, in about 5 s for
    each kind of arguments. Where that fails, as without a C++ compiler, the log says so and the
    function is used as it is.
    """
    return _Fused(function)
