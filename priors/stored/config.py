"""What ``config.json`` tells of a network that `wellposed train` has trained."""

from pathlib import Path
from typing import Any, Required, TypedDict

from wellposed.integrity import read_json

RENAMED = {"predicts": "prediction", "sees": "input"}
"""Names in the ``config.json`` of restorers that older versions wrote, and their names now."""


class Config(TypedDict, total=False):
    """What ``config.json`` tells of a network that `wellposed train` has trained.

    Attributes:
        network: arguments of a `ConvUNet`, of a `RestorationUNet` with an anchor.
        schedule: name of a plain prior's, one of `SCHEDULES`.
        process: ``name`` of a restorer's process, one of `SCHEDULES`, and its arguments. Its
            presence tells a restorer, a prior with an anchor.
        prediction: see `NetworkPrior`.
        sigma_data: see `NetworkPrior`.
        input: see `Anchor`.
        upsample: see `Anchor`.
        channels: of the images.
        complex: whether images are.
        data_range: public values of -1 and 1, or a pair of them for each channel.
        unrolled: ``operator`` and ``ratios`` of an unrolled network; its presence tells one.
        latent: whether it runs in the latents of an autoencoder, in the folder
            `store.AUTOENCODER`.
        training: settings and record of the training, for the model card.
    """

    network: Required[dict[str, Any]]
    schedule: str
    process: dict[str, Any]
    prediction: Required[str]
    sigma_data: float | None
    input: str
    upsample: int
    channels: Required[int]
    complex: bool
    data_range: Required[list[float] | list[list[float]]]
    unrolled: dict[str, Any]
    latent: bool
    training: dict[str, Any]


def read_config(folder: Path) -> Config:
    """Return the config of a folder written by `save_prior`, in this version or an older one."""
    content: Any = dict(read_json(folder / "config.json"))
    return {RENAMED.get(name, name): value for name, value in content.items()}  # type: ignore
