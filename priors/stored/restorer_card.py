"""Model cards of restorers: what they were trained on, how, and how well they do."""

from typing import Any

from wellposed.priors.stored.card import thinned


def restorer_card(config: dict[str, Any]) -> str:
    """Return the model card of a restorer trained with `wellposed train-restoration`."""
    training, network = config["training"], config["network"]
    rows = thinned(training["history"])
    curve = "\n".join("| " + " | ".join(f"{v:.5g}" for v in row) + " |" for row in rows)
    heads = ["step", "training", "held-out", *training["curve"]]
    lines = "|" + "---|" * len(heads)
    sizes = ", ".join(map(str, training["image_size"]))
    space = "latents of its autoencoder" if config["latent"] else "pixels"
    return f"""# {training["name"]}

A restorer of wellposed, trained with `wellposed train-restoration`.

| | |
|---|---|
| data | {training["sources"]} |
| licence of the data | {training["licence"]} |
| images | {config["channels"]} channel(s); crops of {sizes} pixels |
| value range | {config["data_range"]} |
| degradation | {training["degradation"]}, enlarged {config["upsample"]} x: {_how(training)} |
| process | {config["process"]}, on {space} |
| prediction, loss | {config["predicts"]}, {training["criterion"]} |
| network | RestorationUNet, {training["millions"]:.1f} M parameters, widths {network["widths"]} |
| steps | {training["steps_done"]} of batch {training["batch_size"]} |
| augmentation | zoom {training["zoom"]}, gain {training["gain"]}, flips, transposition |
| hardware | {training["hardware"]} |

Loss on training crops (running mean) and on held-out ones (averaged weights), and PSNR in dB of
held-out crops: of the degraded image, and of the clean one estimated in one step from the time
named, as a fraction of T.

| {" | ".join(heads)} |
{lines}
{curve}
"""


def _how(training: dict[str, Any]) -> str:
    """Return the options of the degradation."""
    options = {
        "deblurring": ("noise", "blur"),
        "super-resolution": ("noise", "kernel"),
        "inpainting": ("noise", "keep"),
        "mri": ("noise", "acceleration"),
        "ct": ("noise", "views"),
    }
    named = options.get(training["degradation"], ())
    return ", ".join(f"{name} {training[name]}" for name in named) or "as published"
