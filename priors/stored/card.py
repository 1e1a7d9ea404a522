"""Model cards: training data, settings and results of a prior."""

from collections.abc import Mapping
from typing import Any

OPTIONS = {
    "deblurring": ("noise", "blur"),
    "super-resolution": ("noise", "kernel"),
    "inpainting": ("noise", "keep"),
    "mri": ("noise", "acceleration"),
    "ct": ("noise", "views"),
}
"""Settings of each degradation that are listed in the card."""

CURVES = {
    False: """Loss on training crops (running mean) and on held-out crops (averaged weights), and
mean squared denoising error of held-out crops at levels of sigma / alpha, for images in
[-1, 1]:""",
    True: """Loss on training crops (running mean) and on held-out crops (averaged weights), and
PSNR in dB on held-out crops: of the degraded image, and of the clean image estimated in one step
from the given time, a fraction of T.""",
}


def model_card(config: Mapping[str, Any]) -> str:
    """Return the model card of a prior trained with `wellposed train`; see `store.Config`."""
    training, anchored = config["training"], "process" in config
    facts = _restorer(config, training) if anchored else _denoiser(config, training)
    facts |= {
        "steps": f"{training['steps_done']} of batch {training['batch_size']}",
        "augmentation": _augmentation(training),
        "hardware": training["hardware"],
    }
    curve = [["step", "training", "held-out", *training["curve"]]]
    curve += [[f"{v:.5g}" for v in row] for row in thinned(training["history"])]
    return f"""# {training["name"]}

A {"restorer" if anchored else "diffusion prior"} of wellposed, trained with `wellposed train`.

{_table([["", ""], *map(list, facts.items())])}

{CURVES[anchored]}

{_table(curve)}
"""


def _denoiser(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, str]:
    kind = "complex (real and imaginary part)" if config["complex"] else "real"
    return {
        **_data(config, training, f", {kind}"),
        "network": _network("ConvUNet", config, training),
        "schedule": config["schedule"],
        "prediction": config["prediction"],
        "noise levels": training["noise_levels"],
    }


def _restorer(config: Mapping[str, Any], training: Mapping[str, Any]) -> dict[str, str]:
    named = OPTIONS.get(training["degradation"], ())
    how = ", ".join(f"{name} {training[name]}" for name in named) or "as published"
    space = "latents of its autoencoder" if config["latent"] else "pixels"
    return {
        **_data(config, training),
        "degradation": f"{training['degradation']}, enlarged {config['upsample']} x: {how}",
        "process": f"{config['process']}, on {space}",
        "prediction, loss": f"{config['prediction']}, {training['loss']}",
        "network": _network("RestorationUNet", config, training),
    }


def _data(
    config: Mapping[str, Any], training: Mapping[str, Any], kind: str = ""
) -> dict[str, str]:
    return {
        "data": training["sources"],
        "licence of the data": training["licence"],
        "images": f"{config['channels']} channel(s){kind}; crops of {_sizes(training)}",
        "value range": str(config["data_range"]),
    }


def _network(name: str, config: Mapping[str, Any], training: Mapping[str, Any]) -> str:
    widths = config["network"]["widths"]
    return f"{name}, {training['millions']:.1f} M parameters, widths {widths}"


def _sizes(training: Mapping[str, Any]) -> str:
    aspect = training.get("aspect", 1.0)
    tall = "" if aspect == 1 else f", {aspect:g} times as tall"
    return f"{', '.join(map(str, training['image_size']))} pixels{tall}"


def _augmentation(training: Mapping[str, Any]) -> str:
    """Return the augmentation of the crops; old configs without signal settings get defaults."""
    flips = {"all": "flips, transposition", "sideways": "sideways flips", "none": "no flips"}
    said = [f"zoom {training['zoom']}, gain {training['gain']}"]
    said.append(flips[training.get("flips", "all")])
    if training.get("polarity"):
        said.append("polarity")
    if training.get("companding"):
        said.append(f"then mu-law of {training['companding']:g}")
    return ", ".join(said)


def _table(rows: list[list[str]]) -> str:
    """Return rows as a Markdown table; the first row is the header."""
    head, *rest = [f"| {' | '.join(map(str, row))} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest])


def thinned(history: list[Any], count: int = 12) -> list[Any]:
    """Return about ``count`` rows, including the last one."""
    step = max(1, -(-len(history) // count))
    return history[::-1][::step][::-1]
