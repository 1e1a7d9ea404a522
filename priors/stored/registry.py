"""Loading of priors by a shipped name, from a folder, a checkpoint file or a hub id."""

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Unpack

from wellposed.checks import checked, require_path
from wellposed.errors import FileError, UnknownNameError, require, unknown_name
from wellposed.integrity import read_json
from wellposed.priors.checkpoints import identify
from wellposed.priors.checkpoints.diffusers import load_diffusers
from wellposed.priors.checkpoints.diffusers_files import HUB_ID, fetch
from wellposed.priors.checkpoints.family import Options, check_options
from wellposed.priors.checkpoints.reading import REFUSED, SUFFIXES, read_state
from wellposed.priors.prior import Prior
from wellposed.priors.stored.config import Config, read_config
from wellposed.priors.stored.store import load_prior
from wellposed.priors.text.files import text_pipeline
from wellposed.priors.text.loading import load_text

WEIGHTS = Path(__file__).parents[1] / "weights"

OTHERS = "wellposed_priors"
"""Package of more weights, which a distribution of its own installs."""

APART = ("haze-rf", "tissue-rf", "irsde-deblur", "resshift-x4")
"""The priors in it."""


@dataclass(frozen=True)
class Checkpoint:
    """A prior and the family of its checkpoint."""

    family: str
    prior: Prior


def shipped() -> dict[str, Path]:
    """Return the folders of the installed priors by name; restorers have their own folder."""
    patterns, found = ("*/config.json", "restorers/*/config.json"), find_spec(OTHERS)
    places = [WEIGHTS, *map(Path, (found.submodule_search_locations or ()) if found else ())]
    configs = [p for place in places for pattern in patterns for p in sorted(place.glob(pattern))]
    return {path.parent.name: path.parent for path in configs}


def available() -> dict[str, str]:
    """Return the shipped priors, including restorers, with one line about each.

    Example:
        >>> from wellposed import priors
        >>> sorted(priors.available())[:2]  # names; the values describe them
        ['brain-mri', 'ct']
    """
    return {name: _line(read_config(folder)) for name, folder in shipped().items()}


def _line(config: Config) -> str:
    if "process" not in config:
        kind = "complex" if config["complex"] else "real"
        steps = config["training"]["steps_done"]
        return f"{config['channels']} {kind} channel(s), trained {steps} steps"
    larger = f", {config['upsample']} times larger" if config["upsample"] > 1 else ""
    kind = config["process"]["name"]
    return f"restorer, {config['channels']} channel(s){larger}, trained as {kind}"


@checked
def load(source: str | Path, /, **options: Unpack[Options]) -> Prior:
    """Load a prior, plain or with an anchor: a restorer.

    Args:
        source: a shipped prior's name; a folder written by `wellposed train` or by diffusers; a
            checkpoint file of guided-diffusion (ADM), DDPM, EDM, deepinv, lucidrains, ResShift,
            IR-SDE, Refusion or RDDM, recognised by its weights; or a Hugging Face hub id of a
            diffusers model or of a prior that `publish` has uploaded. Of diffusers also
            text-conditioned pipelines, see `Prompted`.
        options: settings that a checkpoint does not store, if the defaults of its family are
            wrong: ``data_range`` and ``is_complex``; for files also ``schedule``, those listed by
            the family's ``build``, and ``weights``, the name of one of several sets of weights in
            a file. ResShift needs ``autoencoder``, the file of its autoencoder. For pipelines with
            text: ``prompt`` and ``negative_prompt``, each a text, or one for each image;
            ``guidance``, the weight of guidance, 1 by default, or the scale of networks that are
            told it; ``lora``, a file, folder or hub id; ``dtype``, float32, float16 or bfloat16;
            ``device``; ``offload``, none, model or sequential; ``slicing`` and ``tiling`` of the
            autoencoder; ``image_size``, (height, width) that SDXL is told and that the times of
            FLUX depend on.

    Raises:
        FileError: a shipped prior whose package is not installed.
        UnknownNameError: not a shipped name, a path or a hub id; the nearest name is suggested.
        CheckpointError: an unreadable or truncated file, a pickle with code (never executed), an
            unknown family, keys or shapes that do not fit, or non-finite weights; transformers
            is not installed for a model with text.
        ArgumentError: an unknown option, or an invalid value.

    Example:
        >>> from wellposed import priors
        >>> prior = priors.load("natural")  # shipped; also a folder, a checkpoint file or a hub id
        >>> prior.channels, prior.data_range
        (3, (0.0, 1.0))
    """
    return read_checkpoint(source, **options).prior


def read_checkpoint(source: str | Path, /, **options: Unpack[Options]) -> Checkpoint:
    """Load a prior and the name of its family; see `load`."""
    path = shipped().get(str(source)) or require_path("prior", source)
    if path.is_file() or path.suffix in (*SUFFIXES, *REFUSED):
        _require_no_text(options)
        state = read_state(path, options.pop("weights", None))
        family = identify(state, path)
        return Checkpoint(family.name, family.build(state, f"path: {str(path)!r}", options))
    on_hub = isinstance(source, str) and bool(HUB_ID.fullmatch(source)) and not path.is_dir()
    folder = fetch(source, ["config.json", "model_index.json"]) if on_hub else path
    described = on_hub or path.is_dir()
    if described and _is_ours(folder):
        _require_no_text(options)
        require(not options, "options", options, "no options, as config.json has all settings")
        whole = fetch(source, ["config.json", "*.safetensors"]) if on_hub else folder
        return Checkpoint("wellposed", load_prior(whole))
    pipeline = text_pipeline(folder) if described else None
    if pipeline is not None:
        return Checkpoint(pipeline.name, load_text(source, pipeline, options))
    _require_no_text(options)
    if described:
        check_options(options, "data_range", "is_complex")
        data_range, is_complex = options.get("data_range"), options.get("is_complex", False)
        prior = load_diffusers(source, data_range=data_range, is_complex=is_complex)
        return Checkpoint("diffusers", prior)
    if str(source) in APART:
        raise FileError(
            f"prior: {source} is not installed; it is in the package wellposed-priors "
            "(pip install wellposed-priors)"
        )
    raise UnknownNameError(unknown_name("prior", str(source), shipped()))


def _require_no_text(options: Options) -> None:
    """Raise for the options of priors that are told a text."""
    told = [name for name in ("prompt", "negative_prompt", "guidance") if name in options]
    require(not told, ", ".join(told), "text", "none, as this model takes no text")


def _is_ours(folder: Path) -> bool:
    """Return whether a folder was written by `wellposed train`, not by diffusers."""
    if (folder / "model_index.json").is_file():
        return False
    if not (folder / "config.json").is_file():
        return (folder / "model.safetensors").is_file()
    try:
        return "_class_name" not in read_json(folder / "config.json")
    except (OSError, TypeError, ValueError):  # unreadable; the error then names our own files
        return True
