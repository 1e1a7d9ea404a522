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
    return f"""# {training["name"]}

A diffusion prior of wellposed, trained with `wellposed train`.

| | |
|---|---|
| data | {training["sources"]} |
| licence of the data | {training["licence"]} |
| images | {config["channels"]} channel(s), {kind}; crops of {_sizes(training)} |
| value range | {config["data_range"]} |
| network | ConvUNet, {training["millions"]:.1f} M parameters, widths {network["widths"]} |
| schedule | {config["schedule"]} |
| prediction | {config["prediction"]} |
| noise levels | {training["noise_levels"]} |
| steps | {training["steps_done"]} of batch {training["batch_size"]} |
| augmentation | {_augmentation(training)} |
| hardware | {training["hardware"]} |

Loss on training crops (running mean) and on held-out ones (averaged weights), and mean squared
denoising error of held-out crops at levels of sigma / alpha, images being in [-1, 1]:

| {heads} |
{lines}
{curve}
"""


def _sizes(training: dict[str, Any]) -> str:
    aspect = training.get("aspect", 1.0)
    tall = "" if aspect == 1 else f", {aspect:g} times as tall"
    return f"{', '.join(map(str, training['image_size']))} pixels{tall}"


def _augmentation(training: dict[str, Any]) -> str:
    """Return how crops are varied; of priors trained before there were signals, by the default."""
    flips = {"all": "flips, transposition", "sideways": "sideways flips", "none": "no flips"}
    said = [f"zoom {training['zoom']}, gain {training['gain']}"]
    said.append(flips[training.get("flips", "all")])
    if training.get("polarity"):
        said.append("polarity")
    if training.get("companding"):
        said.append(f"then mu-law of {training['companding']:g}")
    return ", ".join(said)


def thinned(history: list[Any], count: int = 12) -> list[Any]:
    """Return about ``count`` rows, the last one among them."""
    step = max(1, -(-len(history) // count))
    return history[::-1][::step][::-1]
