"""State dicts from files of weights; no code in the files is executed."""

import pickle
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from wellposed.errors import CheckpointError

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
REFUSED = (".pkl", ".pickle")
# Where trainers store weights; averaged weights come first, as they are used for sampling.
CONTAINERS = ("params_ema", "ema", "state_dict", "model", "params")
PREFIX = "module."


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, in their own dtype.

    The state dict may be inside one of the usual containers: ``{'state_dict': ...}``, ``model``,
    ``ema``, ``params_ema``, ``params``, and the list ``[model, optimizer, epoch, step, ema]`` of
    DDPM's trainers; averaged weights are preferred. The prefix ``module.`` is removed.

    Args:
        path: a ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.ckpt`` file of torch, which is
            read with ``weights_only=True``.

    Raises:
        CheckpointError: no such file, another kind of file, a truncated or empty file, a file
            with code (never executed), or a file without tensors.
    """
    path, where = Path(path), f"path: {str(path)!r}"
    if path.suffix in REFUSED:
        raise CheckpointError(_not_executed(where, "code (a Python pickle)"))
    if path.suffix not in SUFFIXES or not path.is_file():
        kind = "is not a file of weights" if path.exists() else "does not exist"
        raise CheckpointError(f"{where} {kind}, accepted: a file in {', '.join(SUFFIXES)}")
    state = _unwrap(_read(path, where))
    if not state:
        raise CheckpointError(f"{where} contains no named tensors, accepted: a state dict")
    wrapped = all(key.startswith(PREFIX) for key in state)
    return {key.removeprefix(PREFIX) if wrapped else key: v for key, v in state.items()}


def _read(path: Path, where: str) -> object:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty, accepted: a whole file of weights")
    try:
        if path.suffix in TORCH_SUFFIXES:
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_file(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"code ({found[1]})" if found else "code, or no weights"
        raise CheckpointError(_not_executed(where, what)) from error
    except Exception as error:  # damaged files cause many kinds of errors
        reason = str(error).strip() or "it ends early"
        raise CheckpointError(
            f"{where} is truncated or not a file of weights: {reason.splitlines()[0]}; accepted: "
            "a complete file; compare its size with the original and copy it again"
        ) from error


def _not_executed(where: str, what: str) -> str:
    return (
        f"{where} contains {what}, which was not executed, accepted: only weights. If you trust "
        "the file, export its state dict with safetensors.torch.save_file"
    )


def _unwrap(content: object) -> dict[str, Tensor]:
    """Return the state dict in the usual containers, averaged weights first; empty if none."""
    if isinstance(content, (list, tuple)):
        states = (_unwrap(part) for part in reversed(content))
        return next((state for state in states if state), {})
    if not isinstance(content, Mapping):
        return {}
    inner = (content[k] for k in CONTAINERS if isinstance(content.get(k), Mapping))
    found = next((state for state in map(_unwrap, inner) if state), None)
    return found or {k: v for k, v in content.items() if isinstance(v, Tensor)}
