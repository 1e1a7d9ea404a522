"""State dicts, checked against the network they belong to."""

from collections.abc import Mapping

from torch import Tensor, nn

from wellposed.errors import CheckpointError

SHOWN = 5


def load_strictly(network: nn.Module, state: Mapping[str, Tensor], where: str) -> None:
    """Load a state dict that must fit exactly; the network is then frozen, in evaluation mode.

    Args:
        network: receives the weights.
        state: its state dict.
        where: beginning of the error message, which names the file.

    Raises:
        CheckpointError: missing or unexpected keys, other shapes, or non-finite weights.
    """
    check_fit(network.state_dict(), state, where)
    bad = sorted(
        k for k, v in state.items() if v.is_floating_point() and not bool(v.isfinite().all())
    )
    if bad:
        raise CheckpointError(f"{where}: weights hold NaN or infinite values in {_some(bad)}")
    network.load_state_dict(dict(state))
    network.eval().requires_grad_(False)


def check_fit(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> None:
    """Raise `CheckpointError` unless a state dict has the keys and shapes that are expected."""
    missing, extra = sorted(expected.keys() - state.keys()), sorted(state.keys() - expected.keys())
    shapes = [
        f"{k}: {tuple(state[k].shape)} instead of {tuple(v.shape)}"
        for k, v in expected.items()
        if k in state and state[k].shape != v.shape
    ]
    problems = {"missing keys": missing, "unexpected keys": extra, "shapes": shapes}
    if any(problems.values()):
        listed = "; ".join(f"{what}: {_some(keys)}" for what, keys in problems.items() if keys)
        raise CheckpointError(f"{where}: weights do not fit the network; {listed}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
