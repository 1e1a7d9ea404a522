"""State dicts from files of weights; nothing in them is executed."""

import pickle
import re
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from wellposed.checks import require_path
from wellposed.errors import CheckpointError
from wellposed.integrity import check_claim

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
REFUSED = (".pkl", ".pickle")
# Where trainers keep weights; averaged ones come first, they are what is sampled with.
CONTAINERS = ("params_ema", "ema", "state_dict", "model", "params")
PREFIX = "module."


def read_state(path: str | Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, in their own dtype.

    Of the usual containers the state dict inside is taken: ``{'state_dict': ...}``, ``model``,
    ``ema``, ``params_ema``, ``params``, and the list ``[model, optimizer, epoch, step, ema]`` of
    DDPM's trainers; averaged weights are preferred. The prefix ``module.`` is dropped.

    Args:
        path: a ``.safetensors`` file, or a ``.pt``, ``.pth`` or ``.ckpt`` file of torch, which is
            read with ``weights_only=True``.

    Raises:
        CheckpointError: no such file, another kind of file, a truncated or empty one, one that
            holds code (never executed), or no tensors in it.
    """
    path, where = require_path("path", path), f"path: {str(path)!r}"
    if path.suffix in REFUSED:
        raise CheckpointError(_not_executed(where, "code (a Python pickle)"))
    if path.suffix not in SUFFIXES or not path.is_file():
        kind = "is no file of weights" if path.exists() else "does not exist"
        raise CheckpointError(f"{where} {kind}, accepted: a file in {', '.join(SUFFIXES)}")
    state = _unwrap(_read(path, where))
    if not state:
        raise CheckpointError(f"{where} holds no tensors by name, accepted: a state dict")
    wrapped = all(key.startswith(PREFIX) for key in state)
    return {key.removeprefix(PREFIX) if wrapped else key: v for key, v in state.items()}


def _read(path: Path, where: str) -> Any:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty, accepted: a whole file of weights")
    try:
        if path.suffix in TORCH_SUFFIXES:
            _check_archive(path)
            return torch.load(path, map_location="cpu", weights_only=True)
        return load_file(path)
    except pickle.UnpicklingError as error:
        found = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f"code ({found[1]})" if found else "code, or no weights at all"
        raise CheckpointError(_not_executed(where, what)) from error
    except Exception as error:  # damaged files make the readers raise many kinds
        reason = str(error).strip() or "it ends early"
        raise CheckpointError(
            f"{where} is truncated or no file of weights: {reason.splitlines()[0]}; accepted: a "
            "whole file, compare its size with the original's and copy it again"
        ) from error


def _check_archive(path: Path) -> None:
    """Raise where a zip archive, as torch writes, would be inflated beyond what it can hold."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_claim(path, "the weights", sum(each.file_size for each in archive.infolist()))


def _not_executed(where: str, what: str) -> str:
    return (
        f"{where} holds {what}; it was not executed. Accepted: weights alone. Where you "
        "trust the file, export its state dict with safetensors.torch.save_file"
    )


def _unwrap(content: Any) -> dict[str, Tensor]:
    """Return the state dict in the usual containers, averaged weights first; else an empty one."""
    if isinstance(content, (list, tuple)):
        states = (_unwrap(part) for part in reversed(content))
        return next((state for state in states if state), {})
    if not isinstance(content, Mapping):
        return {}
    inner = (content[k] for k in CONTAINERS if isinstance(content.get(k), Mapping))
    found = next((state for state in map(_unwrap, inner) if state), None)
    return found or {k: v for k, v in content.items() if isinstance(v, Tensor)}
