"""Files of diffusers pipelines: found, checked and read; nothing in them is executed."""

import re
from pathlib import Path

import torch
from torch import nn

from wellposed.errors import CheckpointError
from wellposed.integrity import all_finite, read_json

AUTOENCODERS = ("vqvae", "vae")

HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
NETWORK_FOLDERS = ("", "unet/", *(f"{name}/" for name in AUTOENCODERS))
CONFIGS = [
    "model_index.json",
    *(f"{folder}config.json" for folder in NETWORK_FOLDERS),
    *(f"{folder}scheduler_config.json" for folder in ("", "scheduler/")),
]
WEIGHTS, BIN_WEIGHTS = (
    [
        f"{folder}diffusion_pytorch_model{kind}"
        for folder in NETWORK_FOLDERS
        for kind in (suffix, f"-*{suffix}", f"{suffix}.index.json")
    ]
    for suffix in (".safetensors", ".bin")
)


def read_pipeline(
    path: str | Path, autoencoders: tuple[str, ...]
) -> tuple[nn.Module, dict[str, object], nn.Module | None]:
    """Return network, scheduler config and autoencoder; ``None`` for a missing part."""
    local = Path(path).is_dir()
    folder = Path(path) if local else fetch(path, CONFIGS)
    unet, scheduler = (
        folder / name if (folder / name).is_dir() else folder for name in ("unet", "scheduler")
    )
    # The configs are checked before any weights are downloaded.
    latent = next((folder / name for name in _other_parts(folder, autoencoders)), None)
    check_kind(unet, "UNet2DModel")
    if latent is not None:
        check_kind(latent, "AutoencoderKL", "VQModel")
    config = read_settings(scheduler, "scheduler_config.json")
    if not local:
        fetch(path, WEIGHTS)
        if not any(unet.glob("*.safetensors")):
            fetch(path, BIN_WEIGHTS)
    return load_model(unet), config, None if latent is None else load_model(latent)


def load_autoencoder(folder: Path) -> nn.Module:
    """Return the ``AutoencoderKL`` or ``VQModel`` in a folder.

    Raises:
        CheckpointError: no such folder, another kind of model, or weights that do not fit.
    """
    check_kind(folder, "AutoencoderKL", "VQModel")
    return load_model(folder)


def _other_parts(folder: Path, accepted: tuple[str, ...]) -> list[str]:
    """Return the parts of a pipeline besides network and scheduler, if all are accepted."""
    parts = {name for name in AUTOENCODERS if (folder / name).is_dir()}
    if (folder / "model_index.json").is_file():
        parts |= {k for k in read_settings(folder, "model_index.json") if not k.startswith("_")}
    others = sorted(parts - {"unet", "scheduler"})
    refused = [name for name in others if name not in accepted]
    if refused:
        also = f", and {' or '.join(accepted)}" if accepted else " only, a pixel diffusion"
        raise CheckpointError(
            f"path: the pipeline in {str(folder)!r} also has {', '.join(refused)}, accepted: a "
            f"pipeline without text or image input: unet and scheduler{also}; or one of the "
            "text-conditioned pipelines that the docs name"
        )
    return others


def fetch(path: str | Path, patterns: list[str]) -> Path:
    """Return the cached folder of a hub repository with the files that match ``patterns``."""
    if not isinstance(path, str) or not HUB_ID.fullmatch(path):
        raise CheckpointError(
            f"path: no such folder {str(path)!r}, accepted: a folder written by diffusers' "
            "save_pretrained, or a hub id 'owner/name'"
        )
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(path, allow_patterns=patterns))
    except Exception as error:  # clients of the hub raise errors of their HTTP library
        raise CheckpointError(
            f"path: {path!r} is not a local folder, and could not be downloaded from the Hugging "
            f"Face hub (offline, use a local folder): {error}"
        ) from error


def check_kind(folder: Path, *accepted: str) -> None:
    """Raise unless the config in a folder is that of one of the accepted classes."""
    kind = read_settings(folder, "config.json").get("_class_name")
    if kind not in accepted:
        raise CheckpointError(
            f"path: {str(folder)!r} contains {kind}, accepted: {' or '.join(accepted)}"
        )


def read_settings(folder: Path, name: str) -> dict[str, object]:
    """Return the content of a JSON file, or raise a `CheckpointError` that names it."""
    try:
        return dict(read_json(folder / name))
    except FileNotFoundError as error:
        raise CheckpointError(
            f"path: {str(folder)!r} has no {name}, accepted: a folder written by diffusers' "
            "DDPMPipeline(unet, scheduler).save_pretrained"
        ) from error
    except (OSError, ValueError, TypeError) as error:
        raise CheckpointError(f"path: cannot read {str(folder / name)!r}: {error}") from error


def load_model(folder: Path, dtype: torch.dtype | None = None) -> nn.Module:
    """Return the network in a folder, or raise unless the file holds exactly its weights.

    Args:
        folder: a folder with ``config.json`` and weights.
        dtype: dtype of the weights, which are then read without a second copy in memory.
    """
    import diffusers

    kind = str(read_settings(folder, "config.json")["_class_name"])
    safe = any(folder.glob("*.safetensors")) or not any(folder.glob("*.bin"))
    try:
        network: nn.Module
        network, info = getattr(diffusers, kind).from_pretrained(
            str(folder),
            use_safetensors=safe,  # else .bin, which diffusers reads with weights_only
            local_files_only=True,
            low_cpu_mem_usage=dtype is not None,
            output_loading_info=True,
            torch_dtype=dtype,
        )
    except Exception as error:  # diffusers raises many kinds of errors
        raise CheckpointError(
            f"path: cannot load a {kind} from {'safetensors' if safe else '.bin'} in "
            f"{str(folder)!r}: {error}"
        ) from error
    wrong = {k: sorted(map(str, v))[:5] for k, v in info.items() if v}
    if wrong:
        raise CheckpointError(f"path: weights in {str(folder)!r} do not fit: {wrong}")
    if not all_finite(network.state_dict()):
        raise CheckpointError(f"path: weights in {str(folder)!r} contain NaN or infinite values")
    return network
