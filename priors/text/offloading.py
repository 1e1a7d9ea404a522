"""Networks that lie in main memory and come to a device only to compute."""

from typing import Any

import torch

from wellposed.errors import require

OFFLOADS = ("none", "model", "sequential")


def offload(how: str, device: torch.device, *models: Any) -> None:
    """Let models compute on a device while their weights are elsewhere.

    Args:
        how: ``model`` moves a whole model before it computes, and back when another one does;
            ``sequential`` moves each layer for its own computation, slowly and in little memory.
            Gradients need the weights: ``model`` has those of one model at a time, so methods may
            differentiate the decoder or the network, not one through the other; ``sequential``
            has none.
        device: where they compute.
        models: the models, from diffusers.

    Raises:
        ArgumentError: the device has no memory of its own.
    """
    accepted = "an accelerator, e.g. device='cuda', to offload to main memory"
    require(device.type != "cpu", "device", str(device), accepted)
    hook(how, device, *models)


def hook(how: str, device: torch.device, *models: Any) -> None:
    """Add the hooks that move weights, on any device; see `offload`."""
    from accelerate import cpu_offload, cpu_offload_with_hook

    if how == "sequential":
        for model in models:
            cpu_offload(model, device)
        return
    hooks = [cpu_offload_with_hook(model, device)[1] for model in models]
    for each, other in zip(hooks, hooks[1:] + hooks[:1], strict=True):
        each.hook.prev_module_hook = other  # leaves the device when the other one computes
