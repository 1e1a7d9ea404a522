"""Diffusers models as priors."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from wellposed.errors import ArgumentError, CheckpointError, require, require_choice
from wellposed.priors.network_prior import NetworkPrior
from wellposed.priors.schedule import Flow, Schedule, Tabulated
from wellposed.priors.state import finite_state

PREDICTION_TYPES = {"epsilon": "noise", "sample": "sample", "v_prediction": "velocity"}

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
CONFIGS = [
    "model_index.json",
    *(f"{folder}config.json" for folder in ("", "unet/")),
    *(f"{folder}scheduler_config.json" for folder in ("", "scheduler/")),
]
WEIGHTS = [
    f"{folder}diffusion_pytorch_model{kind}"
    for folder in ("", "unet/")
    for kind in (".safetensors", "-*.safetensors", ".safetensors.index.json")
]


class _Call(nn.Module):
    """Gives a diffusers model the plain call ``network(x, label) -> tensor``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor, label: Tensor) -> Tensor:
        return self.model(x, label, return_dict=False)[0]


class DiffusersPrior(NetworkPrior):
    """An unconditional diffusers ``UNet2DModel`` with its scheduler.

    Schedulers with ``alphas_cumprod`` (DDPM, DDIM, PNDM, DPM-Solver, ...) become a tabulated
    schedule, flow-matching ones `Flow`. The network is put in evaluation mode and frozen.

    Args:
        unet: the network, e.g. ``diffusers.UNet2DModel``.
        scheduler: a diffusers scheduler or its config (a mapping).
        data_range: public values of -1 and 1 in the network; [0, 1] images by default.
        is_complex: two real channels stand for one complex one.

    Raises:
        ArgumentError: a scheduler or network of another kind.
    """

    def __init__(
        self,
        unet: nn.Module,
        scheduler: Any,
        data_range: tuple[float, float] = (0.0, 1.0),
        is_complex: bool = False,
    ) -> None:
        schedule, prediction, label = _diffusion(scheduler)
        network: Any = unet.config
        conditional = network.get("num_class_embeds") or network.get("class_embed_type")
        require(not conditional, "unet", "a class-conditional network", "an unconditional one")
        channels = int(network.in_channels)
        even = not is_complex or channels % 2 == 0
        require(even, "is_complex", f"True and {channels} channels", "an even number of them")
        super().__init__(
            _Call(unet.eval().requires_grad_(False)),
            schedule,
            prediction,
            label,
            channels=channels // 2 if is_complex else channels,
            is_complex=is_complex,
            data_range=(-1.0, 1.0) if is_complex and data_range == (0.0, 1.0) else data_range,
        )

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        data_range: tuple[float, float] = (0.0, 1.0),
        is_complex: bool = False,
    ) -> "DiffusersPrior":
        """Load a folder written by diffusers, or a repository of the Hugging Face hub.

        That is what ``DDPMPipeline(unet, scheduler).save_pretrained(folder)`` writes (``unet/``
        and ``scheduler/``), or the files of both in one folder. Weights are read from safetensors
        only, so that nothing is unpickled. Without a network hub ids are looked up in the cache.

        Args:
            path: a folder, or a hub id ``owner/name``.
            data_range: see the class.
            is_complex: see the class.

        Raises:
            CheckpointError: not found, not an unconditional ``UNet2DModel`` on pixels with a
                scheduler, or weights that are damaged or do not fit.
        """
        local = Path(path).is_dir()
        folder = Path(path) if local else _fetch(path, CONFIGS)
        unet_folder, scheduler = _inspect(folder)  # before any weights are fetched
        if not local:
            _fetch(path, WEIGHTS)
        unet = _load_unet(unet_folder)
        try:
            return cls(unet, scheduler, data_range, is_complex)
        except ArgumentError as error:
            raise CheckpointError(f"path: {str(path)!r} is no usable prior: {error}") from error


def _diffusion(scheduler: Any) -> tuple[Schedule, str, Any]:
    """Return the schedule, the kind of prediction and the label function of a scheduler."""
    config = getattr(scheduler, "config", scheduler)
    if not isinstance(config, Mapping):
        got = type(scheduler).__name__
        raise ArgumentError(f"scheduler: got {got}, accepted: a diffusers scheduler or its config")
    if "Flow" in str(config.get("_class_name", type(scheduler).__name__)):
        train_steps = float(config.get("num_train_timesteps", 1000))
        return Flow(), "flow", lambda t: train_steps * t
    kind = str(config.get("prediction_type", "epsilon"))
    require_choice("prediction_type", kind, PREDICTION_TYPES)
    return Tabulated.from_diffusers(scheduler), PREDICTION_TYPES[kind], None


def _fetch(path: str | Path, patterns: list[str]) -> Path:
    """Return the cached folder of a hub repository with the files that match ``patterns``."""
    if not isinstance(path, str) or not HUB_ID.fullmatch(path):
        raise CheckpointError(
            f"path: no such folder {str(path)!r}, accepted: a folder written by diffusers' "
            "save_pretrained, or a hub id 'owner/name'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except Exception as error:  # clients of the hub raise what their HTTP library does
        raise CheckpointError(
            f"path: {path!r} is no folder here, and the Hugging Face hub did not give it "
            f"(offline, pass a local folder): {error}"
        ) from error


def _inspect(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return the network's folder and the scheduler's config, if the folder is of our kind."""
    unet, scheduler = (
        folder / name if (folder / name).is_dir() else folder for name in ("unet", "scheduler")
    )
    if (folder / "model_index.json").is_file():
        parts = {k for k in _read_json(folder, "model_index.json") if not k.startswith("_")}
        others = sorted(parts - {"unet", "scheduler"})
        if others:
            raise CheckpointError(
                f"path: the pipeline in {str(folder)!r} also has {', '.join(others)}, accepted: "
                "an unconditional pixel diffusion, unet and scheduler only"
            )
    kind = _read_json(unet, "config.json").get("_class_name")
    if kind != "UNet2DModel":
        raise CheckpointError(f"path: {str(unet)!r} holds a {kind}, accepted: a UNet2DModel")
    return unet, _read_json(scheduler, "scheduler_config.json")


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    try:
        return dict(json.loads((folder / name).read_text()))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"path: {str(folder)!r} lacks {name}, accepted: a folder written by diffusers' "
            "DDPMPipeline(unet, scheduler).save_pretrained"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"path: cannot read {str(folder / name)!r}: {error}") from error


def _load_unet(folder: Path) -> nn.Module:
    """Load the network and insist that the file holds all of its weights and no other."""
    from diffusers import UNet2DModel

    try:
        unet, info = UNet2DModel.from_pretrained(
            str(folder),
            use_safetensors=True,
            local_files_only=True,
            low_cpu_mem_usage=False,
            output_loading_info=True,
        )
    except Exception as error:  # diffusers raises many kinds
        raise CheckpointError(
            f"path: cannot load a UNet2DModel from safetensors in {str(folder)!r}: {error}"
        ) from error
    wrong = {k: sorted(map(str, v))[:5] for k, v in info.items() if v}
    if wrong:
        raise CheckpointError(f"path: weights in {str(folder)!r} do not fit: {wrong}")
    if not finite_state(unet.state_dict()):
        raise CheckpointError(f"path: weights in {str(folder)!r} hold NaN or infinite values")
    return unet
