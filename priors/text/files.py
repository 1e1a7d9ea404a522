"""Files of text-conditioned pipelines: found, checked and read; nothing in them is executed."""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wellposed.errors import CheckpointError
from wellposed.priors.checkpoints.diffusers_files import (
    check_kind,
    fetch,
    load_model,
    read_settings,
)
from wellposed.priors.text.pipelines import TEXT_PIPELINES, TextPipeline

INDEX = "model_index.json"
CONFIGS = [INDEX, "README.md", "*/config.json", "*/scheduler_config.json", "tokenizer*/*"]

ENCODERS = ("CLIPTextModel", "CLIPTextModelWithProjection", "T5EncoderModel")
VOCABULARIES = ("tokenizer.json", "vocab.json", "spiece.model")
TOKENIZERS = ("CLIPTokenizer", "CLIPTokenizerFast", "T5Tokenizer", "T5TokenizerFast")


def text_pipeline(folder: Path) -> TextPipeline | None:
    """Return the class of a folder if it is a text-conditioned pipeline, else None."""
    if not (folder / INDEX).is_file():
        return None
    return TEXT_PIPELINES.get(str(read_settings(folder, INDEX).get("_class_name")))


def find(source: str | Path, pipeline: TextPipeline) -> Path:
    """Return the folder of a pipeline with all files, after its configs have been checked.

    Raises:
        CheckpointError: a part is missing, of another class, or has no safetensors.
    """
    local = Path(source).is_dir()
    folder = Path(source) if local else fetch(source, CONFIGS)
    parts = text_parts(folder, pipeline)
    _check_folders(folder, (pipeline.folder, "vae", "scheduler", *parts))
    check_kind(folder / pipeline.folder, pipeline.model)
    check_kind(folder / "vae", "AutoencoderKL")
    weighted = [pipeline.folder, "vae", *(part for part in parts if part.startswith("text"))]
    if not local:
        fetch(source, [pattern for part in weighted for pattern in _weights(part)])
    for part in weighted:
        if not any((folder / part).glob("*.safetensors")):
            raise CheckpointError(
                f"path: {str(folder / part)!r} has no weights in safetensors, accepted: a "
                "pipeline saved with safe_serialization=True"
            )
    return folder


def text_parts(folder: Path, pipeline: TextPipeline) -> dict[str, str]:
    """Return the classes of the tokenizers and text encoders by their folders.

    Raises:
        CheckpointError: a part is missing, or of a class that is not known.
    """
    index = read_settings(folder, INDEX)
    found = {part: _class_of(index.get(part)) for part in pipeline.text_parts()}
    optional = (pipeline.optional, pipeline.optional.replace("text_encoder", "tokenizer"))
    if found.get(pipeline.optional) is None:
        found = {part: kind for part, kind in found.items() if part not in optional}
    for part, kind in found.items():
        known = TOKENIZERS if part.startswith("tokenizer") else ENCODERS
        if kind not in known:
            raise CheckpointError(
                f"path: {part} of the pipeline in {str(folder)!r} is {kind}, accepted: "
                f"{' or '.join(known)}"
            )
    return {part: str(kind) for part, kind in found.items()}


def _class_of(entry: object) -> object:
    """Return the class of an entry ``[library, class]`` of the index."""
    if isinstance(entry, list) and len(entry) == 2 and entry[0] == "transformers":
        return entry[1]
    return None


def _check_folders(folder: Path, parts: tuple[str, ...]) -> None:
    missing = [part for part in parts if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(
            f"path: the pipeline in {str(folder)!r} has no {' and no '.join(missing)}, accepted: "
            "a folder with all its parts, as save_pretrained writes it"
        )


def _weights(part: str) -> list[str]:
    stem = f"{part}/model" if part.startswith("text") else f"{part}/diffusion_pytorch_model"
    return [f"{stem}.safetensors", f"{stem}-*.safetensors", f"{stem}.safetensors.index.json"]


def read_network(folder: Path, pipeline: TextPipeline, dtype: torch.dtype) -> nn.Module:
    """Return diffusers' network of a pipeline."""
    return load_model(folder / pipeline.folder, dtype)


def empty_network(folder: Path, pipeline: TextPipeline) -> nn.Module:
    """Return diffusers' network of a pipeline without its weights, which takes no memory."""
    import diffusers

    config = read_settings(folder / pipeline.folder, "config.json")
    with torch.device("meta"):
        network: nn.Module = getattr(diffusers, pipeline.model).from_config(config)
    return network


def read_vae(folder: Path, dtype: torch.dtype) -> nn.Module:
    """Return the autoencoder; in float32 if its config says that it overflows in float16."""
    precise = dtype == torch.float16 and read_settings(folder / "vae", "config.json").get(
        "force_upcast", True
    )
    return load_model(folder / "vae", torch.float32 if precise else dtype)


def read_text_part(folder: Path, kind: str, dtype: torch.dtype) -> Any:
    """Return a tokenizer or a text encoder.

    Raises:
        CheckpointError: transformers is not installed, or the files do not fit.
    """
    try:
        import transformers
    except ImportError as error:
        raise CheckpointError(
            "path: models with text need transformers: pip install 'wellposed[text]'"
        ) from error
    load = getattr(transformers, kind).from_pretrained
    words = kind not in TOKENIZERS or any((folder / name).is_file() for name in VOCABULARIES)
    if not words:  # transformers would make a tokenizer without words
        raise CheckpointError(
            f"path: {str(folder)!r} has no vocabulary, accepted: {' or '.join(VOCABULARIES)}"
        )
    try:
        if kind in TOKENIZERS:
            return load(str(folder), local_files_only=True)
        with _quiet(transformers.utils.logging):
            encoder, info = load(
                str(folder),
                dtype=dtype,
                use_safetensors=True,
                local_files_only=True,
                output_loading_info=True,
            )
    except Exception as error:  # transformers raises many kinds of errors
        raise CheckpointError(f"path: cannot load a {kind} in {str(folder)!r}: {error}") from error
    wrong = [*info["missing_keys"], *info["mismatched_keys"]]
    if wrong:
        raise CheckpointError(f"path: weights in {str(folder)!r} do not fit: {wrong[:5]}")
    return encoder.eval().requires_grad_(False)


@contextmanager
def _quiet(logging: Any) -> Iterator[None]:
    """Show no bars of progress meanwhile."""
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def scheduler_config(folder: Path) -> Mapping[str, Any]:
    """Return the config of the scheduler."""
    return read_settings(folder / "scheduler", "scheduler_config.json")


def licence(folder: Path, pipeline: TextPipeline) -> str:
    """Return the licence that the model's card states, or the usual ones of its pipeline."""
    card = folder / "README.md"
    if card.is_file():
        header = card.read_text(encoding="utf-8", errors="replace").split("\n---")[0]
        for name in ("license_name", "license"):
            found = re.search(rf"^{name}:\s*(\S.*?)\s*$", header, re.MULTILINE)
            if found and found[1] != "other":
                return f"{found[1]}, according to its card"
    return f"usually {pipeline.licence}; see the model's card"
