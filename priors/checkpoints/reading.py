"""State dicts from files of weights; nothing in them is executed."""

import argparse
import pickle
import re
from collections import OrderedDict
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from wellposed.errors import CheckpointError
from wellposed.priors.checkpoints.wrappings import unwrap

MULTIARRAY = import_module("numpy._core.multiarray")
PATHS, PATH_KINDS = ("pathlib", "pathlib._local"), ("Posix", "Windows", "PurePosix", "PureWindows")
ATTRIBUTE_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
"""Dictionaries in which Lightning keeps hyper-parameters, read as plain ones."""

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
REFUSED = (".pkl", ".pickle")

PLAIN_DATA: list[Any] = [
    argparse.Namespace,
    SimpleNamespace,
    np.dtype,
    np.ndarray,
    *(getattr(np.dtypes, name) for name in np.dtypes.__all__),
    *(
        (getattr(MULTIARRAY, name), f"numpy.{place}.multiarray.{name}")
        for name in ("scalar", "_reconstruct")
        for place in ("core", "_core")
    ),
    *((PurePosixPath, f"{place}.{kind}Path") for place in PATHS for kind in PATH_KINDS),
    *((OrderedDict, place) for place in ATTRIBUTE_DICTS),
]
"""Classes of plain data that trainers save beside weights; all others are refused."""


def read_state(path: str | Path, weights: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, in their own dtype.

    The network's state dict is found in what trainers put around it: containers as
    ``{'state_dict': ...}``, ``model``, ``params``, the list ``[model, optimizer, epoch, step,
    ema]`` of DDPM's trainers, prefixes as ``module.``, ``_orig_mod.`` or Lightning's ``model.``.
    Averaged weights are preferred, wherever they lie: ``ema``, ``params_ema``, ``model_ema``,
    ``state_dict_ema``, ``shadow``, prefixes of ema_pytorch, ... Vectors beside the weights, as a
    diffusion's ``betas``, are kept.

    Args:
        path: a ``.safetensors`` file, or a ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or ``.pth.tar``
            file of torch, which is read with ``weights_only=True``, besides tensors plain data
            alone.
        weights: of a file that holds several sets of weights the one to take, as the error
            message names it.

    Raises:
        CheckpointError: no such file, another kind of file, a truncated or empty one, one that
            holds code (never executed), no tensors in it, or several sets of weights that cannot
            be told apart.
        UnknownNameError: no such set of weights.
    """
    path, where = Path(path), f"path: {str(path)!r}"
    if path.suffix in REFUSED:
        raise CheckpointError(_not_executed(where, "code (a Python pickle)"))
    if path.suffix not in SUFFIXES or not path.is_file():
        kind = "is no file of weights" if path.exists() else "does not exist"
        raise CheckpointError(f"{where} {kind}, accepted: a file in {', '.join(SUFFIXES)}")
    state = unwrap(_read(path, where), where, weights)
    if not state:
        raise CheckpointError(f"{where} holds no tensors by name, accepted: a state dict")
    return state


def _read(path: Path, where: str) -> Any:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty, accepted: a whole file of weights")
    try:
        if path.suffix in TORCH_SUFFIXES:
            with torch.serialization.safe_globals(PLAIN_DATA):
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


def _not_executed(where: str, what: str) -> str:
    return (
        f"{where} holds {what}; it was not executed. Accepted: weights alone. Where you "
        "trust the file, export its state dict with safetensors.torch.save_file"
    )
