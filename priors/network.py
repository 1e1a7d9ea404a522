"""A neural network as a prior."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from wellposed.errors import ArgumentError, ShapeError, require, require_choice
from wellposed.priors.labels import Label
from wellposed.priors.prediction import PREDICTIONS, magnitude, to_sample
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.schedule import Schedule, Tabulated


class NetworkPrior(Prior):
    """A neural network as a prior.

    Complex images go in as real and imaginary channels. Inputs are cast to the network's dtype
    and outputs back. A network with twice the channels (learned variance) loses the second half.

    Args:
        network: maps (B, C, H, W) real images and labels (B,) to its prediction.
        schedule: the schedule it was trained with.
        prediction: what it predicts, see `to_sample`.
        label: turns time into the network's label. For tabulated schedules ``t - 1`` by default,
            the index of DDPM, and at least 0, the smallest label it was trained with; continuous
            schedules have no default.
        num_classes: of a class-conditional network, which is called ``network(x, label, class)``.
        sigma_data: standard deviation of clean images. Where it is given the network sees
            ``x_t / sqrt(sigma^2 + alpha^2 sigma_data^2)`` instead of ``x_t``; ``edm`` needs it.
        channels, is_complex, data_range: see `Prior`.

    Raises:
        ArgumentError: no label for a continuous schedule, no ``sigma_data`` for ``edm``.
    """

    is_signal = False
    """Whether images are companded RF, about 0, instead of intensities; set by `store`."""

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "noise",
        label: Callable[[Tensor], Tensor] | None = None,
        sigma_data: float | None = None,
        num_classes: int | None = None,
        **images: Any,
    ) -> None:
        super().__init__(schedule, **images)
        self.prediction = require_choice("prediction", prediction, PREDICTIONS)
        self.network = network
        known = label is not None or isinstance(schedule, Tabulated)
        require(known, "label", label, f"a function of time for {type(schedule).__name__}")
        self.label = label or Label(1, least=0)
        scaled = sigma_data is not None or prediction != "edm"
        require(scaled, "sigma_data", sigma_data, "a number for prediction 'edm'")
        self.sigma_data = sigma_data
        self.num_classes = num_classes

    def extra_repr(self) -> str:
        """Return what `repr` tells."""
        return f"{super().extra_repr()}, prediction={self.prediction}"

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return ``E[x_0 | x_t]`` from one network evaluation; see `Prior.denoise`.

        ``condition`` is the class, or one class per item (B,), of a class-conditional network.
        """
        if x_t.is_complex():
            x0 = self.denoise_channels(torch.cat([x_t.real, x_t.imag], 1), t, condition)
            return torch.complex(*x0.chunk(2, dim=1))
        return self.denoise_channels(x_t, t, condition)

    def denoise_channels(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return `denoise` of real channels, as the network has them."""
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        alpha, sigma = self.schedule(t)
        if self.prediction in ("noise", "score") and bool((alpha == 0).any()):
            raise ArgumentError(
                f"t: a network that predicts {self.prediction} says nothing of x_0 where alpha is "
                "0, accepted: times below T, e.g. spacing 'leading'"
            )
        alpha, sigma = broadcast(alpha, x_t), broadcast(sigma, x_t)
        output = self.predict(x_t, t, alpha, sigma, condition)
        data = {} if self.sigma_data is None else {"sigma_data": self.sigma_data}
        return to_sample(self.prediction, output, x_t, alpha, sigma, **data)

    def predict(
        self, x_t: Tensor, t: Tensor, alpha: Tensor, sigma: Tensor, condition: Any = None
    ) -> Tensor:
        """Return what the network predicts, see `to_sample`.

        Args:
            x_t: real channels (B, C, H, W), in units.
            t: times, (B,) or ().
            alpha: the schedule at ``t``, broadcastable to ``x_t``.
            sigma: likewise.
            condition: see `denoise`.

        Raises:
            ArgumentError: a missing class, an unknown one, or one of an unconditional network.
            ShapeError: the network returned another shape.
        """
        classes = self._classes(condition, x_t)
        dtype = next((p.dtype for p in self.network.parameters()), x_t.dtype)
        # Labels keep float32 at least: bfloat16 cannot count beyond 256.
        kind = torch.promote_types(dtype, torch.float32)
        label = self.label(t).expand(len(x_t)).to(kind).to(x_t.device)
        seen = x_t
        if self.sigma_data is not None:
            seen = x_t / magnitude(alpha, sigma, self.sigma_data)
        output = self.network(seen.to(dtype), label, *classes)[:, : x_t.shape[1]].to(x_t.dtype)
        if output.shape != x_t.shape:
            raise ShapeError(
                f"network: returned shape {tuple(output.shape)}, accepted: that of its input, "
                f"{tuple(x_t.shape)}, or twice the channels"
            )
        return output

    def _classes(self, condition: Any, x_t: Tensor) -> tuple[Tensor, ...]:
        """Return the network's class argument, if it takes one: integers (B,)."""
        count = self.num_classes
        if count is None:
            none = condition is None
            require(none, "condition", "a condition", "None, this prior is unconditional")
            return ()
        classes = torch.as_tensor(-1 if condition is None else condition)
        known = not classes.is_floating_point() and bool(
            ((classes >= 0) & (classes < count)).all()
        )
        accepted = f"classes 0 to {count - 1}; fix one for all calls with prior.given(class)"
        require(known, "condition", condition, accepted)
        return (classes.long().to(x_t.device).expand(len(x_t)),)
