"""Save and load priors: ``config.json`` beside float16 ``model.safetensors``, and a model card."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from wellposed.errors import CheckpointError
from wellposed.priors.networks import UnshuffledUNet, finite_state, parameters_in_millions


def save_prior(folder: Path, network: nn.Module, config: dict[str, Any]) -> None:
    """Write weights (float16), config and model card into ``folder``, replacing older ones."""
    folder.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().half().contiguous().cpu() for k, v in network.state_dict().items()}
    # `save_file` leaves files that only their owner can read, and a killed run half of one.
    (folder / "model.part").write_bytes(save(state))
    (folder / "model.part").replace(folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    (folder / "README.md").write_text(model_card(config, parameters_in_millions(network)))


def load_network(folder: Path) -> tuple[nn.Module, dict[str, Any]]:
    """Return the network of a folder written by `save_prior`, in float32, and its config.

    Raises:
        CheckpointError: a file is missing or truncated, keys or shapes do not match, or weights
            are not finite.
    """
    try:
        config = json.loads((folder / "config.json").read_text())
        state = load_file(folder / "model.safetensors")
        settings = {k: v for k, v in config["network"].items() if k != "kind"}
        network = UnshuffledUNet(**settings)
    except KeyError as error:
        raise CheckpointError(f"prior: config in {str(folder)!r} lacks {error}") from error
    except (OSError, SafetensorError, AttributeError, TypeError, ValueError) as error:
        raise CheckpointError(f"prior: cannot load {str(folder)!r}: {error}") from error
    _check_fit(network.state_dict(), state, folder)
    network.load_state_dict({k: v.float() for k, v in state.items()})
    return network.eval().requires_grad_(False), config


def _check_fit(
    expected: dict[str, torch.Tensor], found: dict[str, torch.Tensor], folder: Path
) -> None:
    missing = sorted(expected.keys() - found.keys())
    extra = sorted(found.keys() - expected.keys())
    shapes = [
        f"{k}: {tuple(found[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in found and found[k].shape != v.shape
    ]
    if missing or extra or shapes:
        raise CheckpointError(
            f"prior: weights in {str(folder)!r} do not fit their config; missing keys: "
            f"{missing[:5]}, unexpected keys: {extra[:5]}, shapes: {shapes[:5]}"
        )
    if not finite_state(found):
        raise CheckpointError(f"prior: weights in {str(folder)!r} hold NaN or infinite values")


def model_card(config: dict[str, Any], millions: float) -> str:
    """Return the model card: what the prior was trained on and how."""
    training = config["training"]
    history = "\n".join(f"| {s} | {a:.5f} | {b:.5f} |" for s, a, b in training["history"][-8:])
    kind = "complex (real and imaginary part)" if config["complex"] else "real"
    return f"""# {training["name"]}

A diffusion prior of wellposed, trained with `wellposed train`.

| | |
|---|---|
| data | {training["sources"]} |
| licence of the data | {training["licence"]} |
| images | {config["network"]["channels"]} channels, {kind}, {training["image_size"]} pixel crops |
| value range | {config["data_range"]} |
| network | UnshuffledUNet, {millions:.1f} M parameters, widths {config["network"]["widths"]} |
| schedule | {config["schedule"]["kind"]}, T = {config["schedule"]["T"]} |
| prediction | {config["prediction"]} |
| steps | {training["steps_done"]} of batch {training["batch_size"]} |
| augmentation | zoom {training["zoom"]}, gain {training["gain"]}, flips, transposition |

Loss on training and held-out crops (averaged weights):

| step | training | held-out |
|---|---|---|
{history}
"""
