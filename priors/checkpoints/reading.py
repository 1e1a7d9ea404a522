"""State dicts from files of weights; no code in the files is executed."""

import argparse
import datetime
import pickle
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from importlib import import_module
from pathlib import Path, PurePosixPath
from types import SimpleNamespace

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor

from wellposed.checks import require_path
from wellposed.errors import CheckpointError
from wellposed.integrity import check_claim
from wellposed.priors.checkpoints.wrappings import unwrap

MULTIARRAY = import_module("numpy._core.multiarray")
PATHS, PATH_KINDS = ("pathlib", "pathlib._local"), ("Posix", "Windows", "PurePosix", "PureWindows")
ATTRIBUTE_DICTS = (
    "lightning.fabric.utilities.data.AttributeDict",
    "lightning_fabric.utilities.data.AttributeDict",
    "pytorch_lightning.utilities.parsing.AttributeDict",
)
"""Dictionaries of hyper-parameters in Lightning, read as plain dictionaries."""

TORCH_SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".tar")
SUFFIXES = (".safetensors", *TORCH_SUFFIXES)
REFUSED = (".pkl", ".pickle")


def _as_list(items: Iterable[object] = (), _most: int | None = None) -> list[object]:
    return list(items)


def _as_dict(*_factory: object) -> dict[object, object]:
    return {}


PLAIN_DATA: list[Callable[..., object] | tuple[Callable[..., object], str]] = [
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
    (_as_list, "collections.deque"),
    (_as_dict, "collections.defaultdict"),
    *((kind, f"builtins.{kind.__name__}") for kind in (int, float, str, list, dict)),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone),
]
"""Classes of plain data that trainers save beside weights; others are refused."""


def read_state(path: str | Path, weights: str | None = None) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name, on the CPU, in their own dtype.

    The state dict of the network is found inside containers of trainers: ``{'state_dict': ...}``,
    ``model``, ``params``, the list ``[model, optimizer, epoch, step, ema]`` of DDPM trainers, and
    behind prefixes, e.g. ``module.``, ``_orig_mod.`` or Lightning's ``model.``. Averaged weights
    are preferred: ``ema``, ``params_ema``, ``model_ema``, ``state_dict_ema``, ``shadow``, prefixes
    of ema_pytorch, ... Vectors beside the weights, e.g. the ``betas`` of a diffusion, are kept.

    Args:
        path: a ``.safetensors`` file, or a ``.pt``, ``.pth``, ``.ckpt``, ``.bin`` or ``.pth.tar``
            file of torch, which is read with ``weights_only=True``: only tensors and plain data.
        weights: name of one of several sets of weights in a file, as in the error message.

    Raises:
        CheckpointError: no such file, another kind of file, a truncated or empty file, a file
            with code (never executed), without tensors, or with several sets of weights that
            cannot be distinguished.
        UnknownNameError: no such set of weights.
    """
    path, where = require_path("path", path), f"path: {str(path)!r}"
    if path.suffix in REFUSED:
        raise CheckpointError(_not_executed(where, "code (a Python pickle)"))
    if path.suffix not in SUFFIXES or not path.is_file():
        kind = "is not a file of weights" if path.exists() else "does not exist"
        raise CheckpointError(f"{where} {kind}, accepted: a file in {', '.join(SUFFIXES)}")
    state = unwrap(_read(path, where), where, weights)
    if not state:
        raise CheckpointError(f"{where} contains no named tensors, accepted: a state dict")
    return state


def _read(path: Path, where: str) -> object:
    if path.stat().st_size == 0:
        raise CheckpointError(f"{where} is empty, accepted: a whole file of weights")
    try:
        if path.suffix in TORCH_SUFFIXES:
            _check_archive(path)
            with torch.serialization.safe_globals(PLAIN_DATA):
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


def _check_archive(path: Path) -> None:
    """Raise if the content of a zip archive of torch is too large for the file or the memory."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            check_claim(path, "the weights", sum(each.file_size for each in archive.infolist()))


def _not_executed(where: str, what: str) -> str:
    return (
        f"{where} contains {what}, which was not executed, accepted: only weights. If you trust "
        "the file, export its state dict with safetensors.torch.save_file"
    )
