"""Model cards: what a prior was trained on, how, and how well it does."""

from typing import Any


def model_card(config: dict[str, Any]) -> str:
    """Return the model card of a prior trained with `wellposed train`."""
    training, network = config["training"], config["network"]
    kind = "complex (real and imaginary part)" if config["complex"] else "real"
    levels = training["levels"]
    rows = thinned(training["history"])
    curve = "\n".join("| " + " | ".join(f"{v:.5g}" for v in row) + " |" for row in rows)
    heads = " | ".join(["step", "training", "held-out", *(f"MSE at {v:g}" for v in levels)])
    lines = "|" + "---|" * (3 + len(levels))
    sizes = ", ".join(map(str, training["image_size"]))
    return f"""# {training["name"]}

A diffusion prior of wellposed, trained with `wellposed train`.

| | |
|---|---|
| data | {training["sources"]} |
| licence of the data | {training["licence"]} |
| images | {config["channels"]} channel(s), {kind}; crops of {sizes} pixels |
| value range | {config["data_range"]} |
| network | ConvUNet, {training["millions"]:.1f} M parameters, widths {network["widths"]} |
| schedule | {config["schedule"]} |
| prediction | {config["prediction"]} |
| noise levels | {training["noise_levels"]} |
| steps | {training["steps_done"]} of batch {training["batch_size"]} |
| augmentation | zoom {training["zoom"]}, gain {training["gain"]}, flips, transposition |
| hardware | {training["hardware"]} |

Loss on training crops (running mean) and on held-out ones (averaged weights), and mean squared
denoising error of held-out crops at levels of sigma / alpha, images being in [-1, 1]:

| {heads} |
{lines}
{curve}
"""


def thinned(history: list[Any], count: int = 12) -> list[Any]:
    """Return about ``count`` rows, the last one among them."""
    step = max(1, -(-len(history) // count))
    return history[::-1][::step][::-1]
