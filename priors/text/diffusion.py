"""The diffusion of the latents, told a prompt with every call."""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed.errors import ShapeError
from wellposed.priors.anchor import Condition
from wellposed.priors.network import NetworkPrior
from wellposed.priors.schedule import Schedule
from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.networks import TextNetwork


class TextDiffusion(NetworkPrior):
    """A network on latents that is told a `TextCondition` with every call.

    Args:
        network: the network.
        schedule, prediction, label: see `NetworkPrior`.
        device: device on which the network computes, if its weights are elsewhere meanwhile.

    Raises:
        ArgumentError: an invalid setting.
    """

    network: TextNetwork

    def __init__(
        self,
        network: TextNetwork,
        schedule: Schedule,
        prediction: str,
        label: Callable[[Tensor], Tensor] | None = None,
        device: torch.device | None = None,
    ) -> None:
        images = {"channels": network.channels, "data_range": (-1.0, 1.0)}
        super().__init__(network, schedule, prediction, label, **images)  # type: ignore[arg-type]
        self.runs_on = device

    @property
    def computes_on(self) -> torch.device | None:
        """Device on which the network computes."""
        return self.runs_on or super().computes_on

    def require_condition(self, condition: object, name: str = "condition") -> None:
        """Raise unless the network can be told the condition, see `TextNetwork`."""
        self.network.require_condition(condition, name)

    def check_image(self, x: Tensor) -> None:
        """Raise unless the network accepts latents like ``x``; see `Prior.check_image`."""
        super().check_image(x)
        patch = self.network.patch
        if any(side % patch for side in x.shape[-2:]):
            raise ShapeError(
                f"prior: made for latents with sides in multiples of {patch}, but those of the "
                f"operator's images are {' x '.join(map(str, x.shape[-2:]))}"
            )

    def _told(
        self, condition: Condition, x_t: Tensor, dtype: torch.dtype
    ) -> tuple[TextCondition, ...]:
        """Return the condition for all items, where the network computes."""
        told = self.network.require_condition(condition)
        return (told.repeated(len(x_t)).to(x_t.device, dtype),)
