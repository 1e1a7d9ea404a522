"""A neural network as a prior."""

from collections.abc import Callable
from typing import Unpack

import torch
from torch import Tensor, nn

from wellposed.checks import Count, Fraction, Positive
from wellposed.errors import ArgumentError, ShapeError, require, require_choice
from wellposed.linalg import as_channels, from_channels
from wellposed.priors.anchor import Anchor, Condition, Degraded, degraded_of
from wellposed.priors.labels import Label, class_labels
from wellposed.priors.prediction import (
    PREDICTIONS,
    TWO_HEADS,
    Components,
    from_heads,
    magnitude,
    require_fitting,
    to_sample,
    training_target,
)
from wellposed.priors.prior import Images, Prior, broadcast, require_one_each
from wellposed.priors.schedule import Schedule, Tabulated
from wellposed.priors.text.condition import TextCondition


class NetworkPrior(Prior):
    """A neural network as a prior.

    Complex images are passed as real and imaginary channels. Inputs are cast to the network's
    dtype and outputs back. Outputs beyond the prediction are not used, except for a learned
    variance, see `denoise_with_variance`.

    Args:
        network: maps real images (B, C, H, W) and labels (B,) to its prediction; with an anchor
            it is called as ``network(input, label, degraded)``, see `Degraded`.
        schedule: the schedule it was trained with.
        prediction: what the network predicts, see `to_sample`; with an anchor also two images
            stacked along the channels, see `from_heads`. With an anchor a ``velocity`` refers to
            unit noise, ``alpha s eps - (sigma / s) (x_0 - m)`` with ``s`` the schedule's terminal
            deviation, which needs ``alpha^2 + (sigma / s)^2 = 1``. A ``flow`` needs
            ``alpha + sigma = 1``.
        label: maps time to the network's label. The default for tabulated schedules is ``t - 1``,
            DDPM's index, but at least 0, the smallest label of the training; with an anchor and a
            continuous schedule it is ``t`` (IR-SDE). Other continuous schedules have no default.
        sigma_data: standard deviation of clean images. If given, the network's input is divided
            by ``sqrt(sigma^2 + alpha^2 sigma_data^2)``; required for ``edm``.
        num_classes: number of classes of a class-conditional network, which is called as
            ``network(x, label, class)``.
        anchor: makes the prior a restorer, see `Anchor`.
        floor: smallest divisor of a predicted noise, see `to_sample`, as in the code of RDDM,
            whose alpha is 0 at T; 0 for none.
        images: channels, is_complex, data_range, see `Prior`; the range by default is that of
            images in [0, 1], or of complex ones [-1, 1], as of checkpoints.

    Raises:
        ArgumentError: an invalid setting.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> class Network(torch.nn.Module):  # yours, trained to predict the noise
        ...     def forward(self, x, label):
        ...         return 0.1 * x
        >>> prior = priors.NetworkPrior(Network(), priors.Tabulated.linear(), channels=3)
        >>> prior.denoise(torch.randn(1, 3, 16, 16), 500.0).shape
        torch.Size([1, 3, 16, 16])
    """

    null_class: int | None = None
    """The class that stands for none, where that is known of a network; see `Guided`."""

    is_signal = False
    """Whether images are companded RF with values about 0, not intensities; set by `store`."""

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        prediction: str = "noise",
        label: Callable[[Tensor], Tensor] | None = None,
        sigma_data: Positive | None = None,
        num_classes: Count | None = None,
        anchor: Anchor | None = None,
        floor: Fraction = 0.0,
        **images: Unpack[Images],
    ) -> None:
        usual = (-1.0, 1.0) if images.get("is_complex", False) else (0.0, 1.0)
        super().__init__(schedule, **({"data_range": usual} | images))
        require(isinstance(network, nn.Module), "network", type(network).__name__, "a module")
        known = PREDICTIONS if anchor is None else (*PREDICTIONS, *TWO_HEADS)
        self.prediction = require_choice("prediction", prediction, known)
        self.network, self.anchor, self.floor = network, anchor, floor
        indexed = isinstance(schedule, Tabulated)
        labelled = label is not None or indexed or anchor is not None
        require(labelled, "label", label, f"a function of time for a {type(schedule).__name__}")
        self.label = label or Label(int(indexed), least=0)
        scaled = sigma_data is not None or prediction != "edm"
        require(scaled, "sigma_data", sigma_data, "a number for prediction 'edm'")
        self.sigma_data = sigma_data
        self.num_classes = num_classes
        if anchor is not None:
            require(not self.is_complex, "is_complex", True, "False with an anchor")
            require(num_classes is None, "num_classes", num_classes, "None with an anchor")
            require_fitting(prediction, schedule)

    def require_condition(self, condition: object, name: str = "condition") -> None:
        """Raise unless the network can be told a condition, a class.

        Raises:
            ArgumentError: an unknown class, or an unconditional network; ``name`` is the argument.
        """
        class_labels(condition, self.num_classes, self.null_class, name)

    def extra_repr(self) -> str:
        """Return the content of `repr`."""
        return f"{super().extra_repr()}, prediction={self.prediction}"

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return ``E[x_0 | x_t]`` from one network evaluation; see `Prior.denoise`.

        For a class-conditional network ``condition`` is the class, or one class per item (B,).
        """
        if x_t.is_complex():
            return from_channels(self.denoise_channels(as_channels(x_t), t, condition))
        return self.denoise_channels(x_t, t, condition)

    def check_image(self, x: Tensor) -> None:
        """Raise unless the network accepts images like ``x``; see `Prior.check_image`."""
        super().check_image(x)
        kinds = {type(module) for module in self.network.modules()}
        if x.ndim == 5 and nn.Conv2d in kinds and nn.Conv3d not in kinds:
            raise ShapeError(
                f"prior: its network takes images (B, C, H, W), but those of the operator are "
                f"volumes of shape {tuple(x.shape)}; accepted: priors.Slicewise(prior)"
            )

    def denoise_channels(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Tensor:
        """Return `denoise` for the real channels of the network."""
        if self.prediction in TWO_HEADS:
            return self.components(x_t, t, condition).x0
        divides = self.prediction in ("noise", "score") and self.floor == 0
        if divides and bool((self._levels(x_t, t)[0] == 0).any()):
            raise ArgumentError(
                f"t: a network that predicts {self.prediction} does not determine x_0 where alpha "
                "is 0, accepted: times below T, e.g. spacing 'leading', or a floor, of the prior "
                "(floor=1e-6) or of its schedule, e.g. rddm(floor=1e-6)"
            )
        return self._sample(self.predict(x_t, t, condition), x_t, t, condition)

    def denoise_with_variance(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> tuple[Tensor, Tensor]:
        """Return `denoise` of real images and a learned v in [0, 1], from one evaluation.

        Networks with a learned range ("Improved Denoising Diffusion Probabilistic Models", 2021,
        arXiv 2102.09672, eq. 15) return v as a second image. The variance of the step to s is
        ``beta^v beta~^(1 - v)``: beta is that of x_t given x_s, beta~ that of x_s given x_t, x_0.

        Raises:
            ShapeError: the network returns no second image.
        """
        predicted, v = self._output(x_t, t, condition, 2).chunk(2, dim=1)
        return self._sample(predicted, x_t, t, condition), (v.detach() + 1) / 2

    def _sample(
        self, output: Tensor, x_t: Tensor, t: float | Tensor, condition: Condition
    ) -> Tensor:
        """Return the clean image of the output of one head."""
        alpha, sigma = self._levels(x_t, t)
        m, size = self._anchor_of(condition), sigma / self._noise_unit
        return to_sample(
            self.prediction, output, x_t, alpha, size, m, floor=self.floor, **self._data
        )

    def components(
        self, x_t: Tensor, t: float | Tensor, condition: Condition = None
    ) -> Components:
        """Return clean image, residual and noise of ``x_t``; see `Prior.components`."""
        kept = self.prediction == "noise" and self.floor > 0
        if self.prediction not in TWO_HEADS and not kept:
            return super().components(x_t, t, condition)
        output, levels = self.predict(x_t, t, condition), self._levels(x_t, t)
        if kept:  # below the floor the clean image does not give back the noise
            x0 = self._sample(output, x_t, t, condition)
            return Components(x0, self._anchor_of(condition) - x0, output)
        return from_heads(self.prediction, output, x_t, *levels, self._anchor_of(condition))

    def predict(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the network's prediction, see `to_sample`, or both heads (B, 2 C, H, W).

        Args:
            x_t: real channels (B, C, H, W), in units.
            t: time, a number or one per item (B,).
            condition: see `denoise`.

        Raises:
            ArgumentError: a missing or unknown class, a class for an unconditional network, or no
                degraded image for a restorer.
            ShapeError: the network returned another shape.
        """
        return self._output(x_t, t, condition, 2 if self.prediction in TWO_HEADS else 1)

    def _output(self, x_t: Tensor, t: float | Tensor, condition: Condition, images: int) -> Tensor:
        """Return the first ``images`` images (B, images C, H, W) of the network's output."""
        dtype = next((p.dtype for p in self.network.parameters()), x_t.dtype)
        told = self._told(condition, x_t, dtype)
        # Labels keep float32 at least: bfloat16 cannot count beyond 256.
        kind = torch.promote_types(dtype, torch.float32)
        seen = self._seen(x_t, t, condition).to(dtype)
        label = self.label(_times(t)).expand(len(x_t)).to(kind).to(x_t.device)
        output: Tensor = self.network(seen, label, *told)
        channels = images * x_t.shape[1]
        output, wanted = output[:, :channels], (len(x_t), channels, *x_t.shape[2:])
        if tuple(output.shape) != wanted:
            raise ShapeError(
                f"network: returned shape {tuple(output.shape)}, accepted: {wanted}, or more "
                "channels"
            )
        return output.to(x_t.dtype)

    def target(self, x0: Tensor, eps: Tensor, t: Tensor, anchor: float | Tensor = 0.0) -> Tensor:
        """Return the network's training target, the inverse of `components`.

        Args:
            x0: clean images as real channels (B, C, H, W), in units.
            eps: the noise.
            t: times (B,).
            anchor: ``m`` of a prior with an anchor.
        """
        (alpha, sigma), unit = self._levels(x0, t), self._noise_unit
        levels = alpha * unit, sigma / unit
        return training_target(self.prediction, x0, eps, *levels, anchor, **self._data)

    @property
    def _data(self) -> dict[str, float]:
        return {} if self.sigma_data is None else {"sigma_data": self.sigma_data}

    def _levels(self, x_t: Tensor, t: float | Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma, broadcastable to ``x_t``."""
        alpha, sigma = self.schedule(_times(t))
        return broadcast(alpha, x_t), broadcast(sigma, x_t)

    @property
    def _noise_unit(self) -> float:
        """Standard deviation of the noise that is 1 in a velocity."""
        about = self.anchor is not None and self.prediction == "velocity"
        return self.schedule.terminal_std if about else 1.0

    def _seen(self, x_t: Tensor, t: float | Tensor, condition: Condition) -> Tensor:
        """Return the network's input."""
        alpha, sigma = self._levels(x_t, t)
        seen = x_t
        if self.anchor is not None:
            seen = self.anchor.seen(x_t, degraded_of(condition).anchor, sigma)
        return seen if self.sigma_data is None else seen / magnitude(alpha, sigma, self.sigma_data)

    def _anchor_of(self, condition: Condition) -> float | Tensor:
        return 0.0 if self.anchor is None else degraded_of(condition).anchor

    def _told(
        self, condition: Condition, x_t: Tensor, dtype: torch.dtype
    ) -> tuple[Degraded | TextCondition | Tensor, ...]:
        """Return the network's third argument, if any: degraded images, text or classes."""
        if self.anchor is not None:
            return (Degraded(*(v.to(dtype) for v in degraded_of(condition))),)
        if self.num_classes is None:
            none = condition is None
            require(none, "condition", "a condition", "None, as this prior is unconditional")
            return ()
        classes = class_labels(condition, self.num_classes, self.null_class)
        require_one_each("condition", classes, len(x_t))
        return (classes.to(x_t.device).expand(len(x_t)),)


def _times(t: float | Tensor) -> Tensor:
    return torch.as_tensor(t, dtype=torch.float64, device="cpu")
