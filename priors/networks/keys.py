"""What names and shapes of weights tell of the network they are for."""

from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""Weights by name."""


def top_names(state: State) -> set[str]:
    """Return the first parts of the keys, by which most families can be told."""
    return {key.split(".")[0] for key in state}


def count_after(state: State, prefix: str) -> int:
    """Return how many numbered modules follow ``prefix``: one more than the largest number."""
    keys = (key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix))
    return 1 + max((int(key) for key in keys), default=-1)


def image_channels(first: Tensor, last: Tensor) -> tuple[int, int]:
    """Return the image channels that a first and a last convolution take and return.

    Raises:
        ValueError: not as many out as in, nor twice as many (learned variance).
    """
    taken, returned = first.shape[1], len(last)
    if returned not in (taken, 2 * taken):
        raise ValueError(f"{taken} image channels in and {returned} out")
    return taken, returned


def image_pair(channels: tuple[int, int]) -> int:
    """Return the channels of the images of a network that takes two and returns one.

    Raises:
        ValueError: it takes something else.
    """
    taken, returned = channels
    if taken != 2 * returned:
        raise ValueError(
            f"{taken} channels in and {returned} out; a network that takes x_t and one degraded "
            "image has twice as many in as out"
        )
    return returned
