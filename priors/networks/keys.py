"""Properties of a network, inferred from the names and shapes of its weights."""

from collections.abc import Mapping

from torch import Tensor

State = Mapping[str, Tensor]
"""Weights by name."""


def top_names(state: State) -> set[str]:
    """Return the first parts of the keys, which identify most families."""
    return {key.split(".")[0] for key in state}


def count_after(state: State, prefix: str) -> int:
    """Return the number of numbered modules after ``prefix``: one more than the largest index."""
    keys = (key.removeprefix(prefix).split(".")[0] for key in state if key.startswith(prefix))
    return 1 + max((int(key) for key in keys), default=-1)


def image_channels(first: Tensor, last: Tensor) -> tuple[int, int]:
    """Return the image channels of the first convolution's input and the last one's output.

    Raises:
        ValueError: neither as many out as in, nor twice as many (learned variance).
    """
    taken, returned = first.shape[1], len(last)
    if returned not in (taken, 2 * taken):
        raise ValueError(f"{taken} image channels in and {returned} out")
    return taken, returned


def image_pair(channels: tuple[int, int]) -> int:
    """Return the image channels of a network that takes two images and returns one.

    Raises:
        ValueError: other numbers of channels.
    """
    taken, returned = channels
    if taken != 2 * returned:
        raise ValueError(
            f"{taken} channels in and {returned} out; a network of x_t and a degraded image has "
            "twice as many in as out"
        )
    return returned
