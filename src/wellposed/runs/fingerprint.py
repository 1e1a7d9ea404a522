"""A hash of everything that determines what a module computes."""

import hashlib
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import PurePath
from types import FunctionType

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.integrity import bytes_of
from wellposed.parallel.part import Part

PLAIN = (str, bytes, int, float, complex, type(None), torch.dtype, np.generic, Enum, PurePath)


def fingerprint(module: nn.Module | None) -> str:
    """Return a module's class name and a hash of weights, buffers and public attributes.

    Submodules and other objects that it holds, such as a schedule or a geometry, are included.
    Functions are included by name only. Attributes that a class lists in ``incidental`` are left
    out: they do not affect the result.
    """
    digest = hashlib.sha256()
    for fact in _facts(module, "", ()):
        digest.update(fact)
    return f"{type(module).__name__} {digest.hexdigest()[:16]}"


def _facts(value: object, place: str, above: tuple[int, ...]) -> Iterator[bytes | memoryview]:
    """Yield the type and the content of a value; ``above`` are the objects that hold it."""
    if id(value) in above:
        return
    if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
        value = torch.tensor(value)
    if isinstance(value, Tensor) and value.layout == torch.strided:
        yield f"{place} {value.dtype} {tuple(value.shape)}".encode()
        yield bytes_of(value)
        return
    yield f"{place} {_name(value)}".encode()
    for name, part in _parts(value).items():
        yield from _facts(part, f"{place}.{name}", (*above, id(value)))


def _name(value: object) -> str:
    if isinstance(value, set | frozenset):
        return repr(sorted(map(repr, value)))
    kind = value if isinstance(value, type | FunctionType) else type(value)
    return repr(value) if isinstance(value, PLAIN) else kind.__qualname__


def _parts(value: object) -> dict[str, object]:
    """Return the parts of a value by name."""
    if isinstance(value, list | tuple):
        return {str(index): part for index, part in enumerate(value)}
    if isinstance(value, Mapping):
        return {str(key): part for key, part in value.items()}
    if isinstance(value, (*PLAIN, type, FunctionType)):
        return {}
    hidden = {"training", *getattr(type(value), "incidental", ())}
    own = getattr(value, "__dict__", {})
    parts = {n: v for n, v in own.items() if not n.startswith("_") and n not in hidden}
    if isinstance(value, nn.Module):
        # Private buffers too: registered tensors are not caches.
        parts |= {**value._parameters, **value._buffers, **value._modules}
    return parts


def digest(y: Tensor, part: Part) -> dict[str, object]:
    """Return shape, dtype and a hash of a measurement that processes may share along axis 2."""
    slices = y.unbind(2) if y.ndim > 2 else (y,)
    hashes = [hashlib.sha256(b"%d " % k) for k in range(part.start, part.start + len(slices))]
    for one, values in zip(hashes, slices, strict=True):
        one.update(bytes_of(values))
    # Sums of 40 bits are exact in a float64.
    own = sum(int.from_bytes(one.digest()[:5], "big") for one in hashes)
    depth, total = part.sum(torch.tensor([len(slices), own], device=y.device)).tolist()
    shape = [*y.shape[:2], *([depth] if y.ndim > 2 else []), *y.shape[3:]]
    return {"y.shape": shape, "y.dtype": str(y.dtype), "y": f"{total:x}"}
