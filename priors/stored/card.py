"""Model cards: training data, settings and results of a prior."""

from typing import TypeVar

from wellposed.priors.stored.config import Config

T = TypeVar("T")

OPTIONS = {
    "deblurring": ("noise", "blur"),
    "super-resolution": ("noise", "kernel"),
    "inpainting": ("noise", "keep"),
    "mri": ("noise", "acceleration"),
    "ct": ("noise", "views"),
}
"""Settings of each degradation that are listed in the card."""

DENOISER, RESTORER, UNROLLED = "A diffusion prior", "A restorer", "An unrolled network"

COMMANDS = {UNROLLED: "train-unrolled"}

CURVES = {
    DENOISER: """Loss on training crops (running mean) and on held-out crops (averaged weights),
and mean squared denoising error of held-out crops at levels of sigma / alpha, for images in
[-1, 1]:""",
    RESTORER: """Loss on training crops (running mean) and on held-out crops (averaged weights),
and PSNR in dB on held-out crops: of the degraded image, and of the clean image estimated in one
step from the given time, a fraction of T.""",
    UNROLLED: """Mean absolute error on training crops (running mean) and on held-out crops
(averaged weights), and PSNR in dB on held-out crops, of the plain reconstruction and of the
network, with operators that were never trained on:""",
}


def model_card(config: Config) -> str:
    """Return the model card of a prior trained with `wellposed train`; see `Config`."""
    training, kind = config["training"], _kind(config)
    facts = FACTS[kind](config)
    facts |= {
        "steps": f"{training['steps_done']} of batch {training['batch_size']}",
        "augmentation": _augmentation(config),
        "hardware": training["hardware"],
    }
    curve = [["step", "training", "held-out", *training["curve"]]]
    curve += [[f"{v:.5g}" for v in row] for row in thinned(training["history"])]
    return f"""# {training["name"]}

{kind} of wellposed, trained with `wellposed {COMMANDS.get(kind, "train")}`.

{_table([["", ""], *map(list, facts.items())])}

{CURVES[kind]}

{_table(curve)}
"""


def _denoiser(config: Config) -> dict[str, str]:
    kind = "complex (real and imaginary part)" if config["complex"] else "real"
    return {
        **_data(config, f", {kind}"),
        "network": _network("ConvUNet", config),
        "schedule": config["schedule"],
        "prediction": config["prediction"],
        "noise levels": config["training"]["noise_levels"],
    }


def _restorer(config: Config) -> dict[str, str]:
    training = config["training"]
    named = OPTIONS.get(training["degradation"], ())
    how = ", ".join(f"{name} {training[name]}" for name in named) or "as published"
    space = "latents of its autoencoder" if config["latent"] else "pixels"
    return {
        **_data(config),
        "degradation": f"{training['degradation']}, enlarged {config['upsample']} x: {how}",
        "process": f"{config['process']}, on {space}",
        "prediction, loss": f"{config['prediction']}, {training['loss']}",
        "network": _network("RestorationUNet", config),
    }


def _unrolled(config: Config) -> dict[str, str]:
    own, steps = config["unrolled"], config["network"]["steps"]
    return {
        **_data(config),
        "operator": f"{own['operator']}, measured fractions {own['ratios']}",
        "network": f"{_network('UnrolledNetwork', config)}, {steps} steps",
    }


FACTS = {DENOISER: _denoiser, RESTORER: _restorer, UNROLLED: _unrolled}


def _kind(config: Config) -> str:
    if "unrolled" in config:
        return UNROLLED
    return RESTORER if "process" in config else DENOISER


def _data(config: Config, kind: str = "") -> dict[str, str]:
    training = config["training"]
    return {
        "data": training["sources"],
        "licence of the data": training["licence"],
        "images": f"{config['channels']} channel(s){kind}; crops of {_sizes(config)}",
        "value range": str(config["data_range"]),
    }


def _network(name: str, config: Config) -> str:
    widths, millions = config["network"]["widths"], config["training"]["millions"]
    return f"{name}, {millions:.1f} M parameters, widths {widths}"


def _sizes(config: Config) -> str:
    training = config["training"]
    aspect = training.get("aspect", 1.0)
    tall = "" if aspect == 1 else f", {aspect:g} times as tall"
    return f"{', '.join(map(str, training['image_size']))} pixels{tall}"


def _augmentation(config: Config) -> str:
    """Return the augmentation of the crops; old configs without signal settings get defaults."""
    training = config["training"]
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


def thinned(history: list[T], count: int = 12) -> list[T]:
    """Return about ``count`` rows, including the last one."""
    step = max(1, -(-len(history) // count))
    return history[::-1][::step][::-1]
