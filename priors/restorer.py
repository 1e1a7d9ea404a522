"""Trained restoration networks as priors: what is clean, given a degraded image."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from wellposed.errors import ArgumentError, ShapeError, require, require_choice
from wellposed.priors.adapters.autoencoder import Autoencoder
from wellposed.priors.labels import Label
from wellposed.priors.prediction import PREDICTIONS, TWO_HEADS, Parts, from_heads, to_sample
from wellposed.priors.prior import Prior, broadcast
from wellposed.priors.schedule import Schedule, Tabulated

INPUTS: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "plain": lambda x_t, m, sigma: x_t,
    "difference": lambda x_t, m, sigma: x_t - m,
    "latent": lambda x_t, m, sigma: x_t / torch.sqrt(sigma**2 + 1),
    "pixel": lambda x_t, m, sigma: x_t / (3 * sigma + 1),
}
"""What a network sees of ``x_t``: RDDM, IR-SDE, ResShift in latents, ResShift on pixels."""


class Degraded(NamedTuple):
    """The condition of a restorer.

    Attributes:
        anchor: ``m`` of the kernel, in units, of the clean image's shape (B, C, H, W): the
            degraded image, upsampled and encoded.
        image: the degraded image (B, c, h, w) as it came, in [-1, 1] where units are.
    """

    anchor: Tensor
    image: Tensor


class Restorer(Prior):
    """A trained restoration network: ``E[x_0 | x_t, m]`` of a process that ends in ``m``.

    Its diffusion is ``x_t = m + alpha_t (x_0 - m) + sigma_t eps`` with the degraded image as
    ``m``. Units are those the network was trained in: with ``data_range=(0, 1)`` images from -1
    to 1 (ResShift, RDDM), with ``(-1, 1)`` the public values themselves (IR-SDE); with an
    autoencoder its latents.

    Args:
        network: called ``network(seen, label, degraded)`` with what it sees of ``x_t``
            (B, C, H, W), labels (B,) and the `Degraded` images; returns its prediction, or two
            stacked along the channels (B, 2 C, H, W) where it ``predicts`` two.
        schedule: the schedule it was trained with.
        predicts: what it predicts, see `to_sample`, or two of RDDM, see `from_heads`. A
            ``velocity`` is that of unit noise, ``alpha s eps - (sigma / s) (x_0 - m)`` with ``s``
            the schedule's terminal deviation; the schedule must have alpha^2 + (sigma / s)^2 = 1.
            For a ``flow`` it must have alpha + sigma = 1.
        sees: how it sees ``x_t``, one of `INPUTS`.
        label: turns time into the network's label: ``t - 1`` for tables (ResShift, RDDM) and
            ``t`` for other schedules (IR-SDE) by default.
        upsample: factor by which degraded images are upsampled, bicubically as ResShift does.
        autoencoder: of a latent process, see `Autoencoder`; `Codec` makes one of diffusers'.
        images: ``channels`` of the images (3 by default) and ``data_range``, see `Prior`.

    Raises:
        ArgumentError: an impossible argument.
    """

    def __init__(
        self,
        network: nn.Module,
        schedule: Schedule,
        predicts: str = "sample",
        sees: str = "plain",
        label: Callable[[Tensor], Tensor] | None = None,
        upsample: int = 1,
        autoencoder: Autoencoder | None = None,
        **images: Any,
    ) -> None:
        require(isinstance(network, nn.Module), "network", type(network).__name__, "a module")
        require(isinstance(schedule, Schedule), "schedule", type(schedule).__name__, "a Schedule")
        super().__init__(schedule, **{"channels": 3, "data_range": (0.0, 1.0), **images})
        self.predicts = require_choice("predicts", predicts, (*PREDICTIONS, *TWO_HEADS))
        self.sees = require_choice("sees", sees, INPUTS)
        require(isinstance(upsample, int) and upsample >= 1, "upsample", upsample, "1, 2, ...")
        require(not self.is_complex, "is_complex", True, "False: restorers take real images")
        self.network, self.upsample, self.autoencoder = network, upsample, autoencoder
        first = 1.0 if isinstance(schedule, Tabulated) else 0.0
        self.label = label or Label(first, least=0)
        _require_fitting(predicts, schedule)

    @property
    def is_affine(self) -> bool:
        """False for a latent process: units are a network's code of public values."""
        return self.autoencoder is None

    def to_units(self, x: Tensor) -> Tensor:
        """Return public images (B, C, H, W) in units: scaled, and encoded where latent."""
        scaled = super().to_units(x)
        return scaled if self.autoencoder is None else self.autoencoder.encode(scaled)

    def to_public(self, u: Tensor) -> Tensor:
        """Return units as public images: decoded where latent, and scaled."""
        return super().to_public(u if self.autoencoder is None else self.autoencoder.decode(u))

    def unit_shape(self, image_shape: torch.Size) -> torch.Size:
        """Return the shape in units of public images of a shape.

        Raises:
            ShapeError: sides that the autoencoder does not divide.
        """
        if self.autoencoder is None:
            return image_shape
        factor, channels = self.autoencoder.factor, self.autoencoder.latent_channels
        if len(image_shape) != 4 or any(side % factor for side in image_shape[2:]):
            raise ShapeError(
                f"prior: made for images (B, C, H, W) with sides in multiples of {factor}, "
                f"but the images have shape {tuple(image_shape)}"
            )
        return torch.Size((image_shape[0], channels, *(n // factor for n in image_shape[2:])))

    def degraded(self, image: Tensor) -> Degraded:
        """Return the condition made of degraded images (B, C, h, w) in public values."""
        scaled = super().to_units(image)
        return Degraded(self.anchor(image), scaled)

    def anchor(self, image: Tensor) -> Tensor:
        """Return ``m``, in units, of degraded images (B, C, h, w) in public values."""
        if self.upsample > 1:
            image = F.interpolate(image, scale_factor=float(self.upsample), mode="bicubic")
        return self.to_units(image)

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Any = None) -> Tensor:
        """Return ``E[x_0 | x_t, m]``; see `Prior.denoise`.

        ``condition`` is a `Degraded`, from `degraded`, or the anchor alone where that is all the
        network sees.
        """
        return self.parts(x_t, t, condition).x0

    def parts(self, x_t: Tensor, t: float | Tensor, condition: Any) -> Parts:
        """Return the clean image, residual and noise of ``x_t`` from one network evaluation.

        Args:
            x_t: noisy images (B, C, H, W), in units.
            t: time, a number or one per item (B,).
            condition: see `denoise`.

        Raises:
            ArgumentError: no condition, or a network that predicts noise alone where alpha is 0.
        """
        given = degraded_of(condition)
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        alpha, sigma = (broadcast(v, x_t) for v in self.schedule(t))
        output = self.predict(x_t, t, given)
        if self.predicts in TWO_HEADS:
            return from_heads(self.predicts, output, x_t, alpha, sigma, given.anchor)
        if self.predicts in ("noise", "score") and bool((alpha == 0).any()):
            raise ArgumentError(
                f"t: a network that predicts {self.predicts} says nothing of x_0 where alpha is "
                "0, accepted: times below T, or a schedule with a floor, as rddm(floor=1e-6)"
            )
        size = sigma / self.schedule.terminal_std if self.predicts == "velocity" else sigma
        x0 = to_sample(self.predicts, output, x_t, alpha, size, given.anchor)
        eps = (x_t - given.anchor - alpha * (x0 - given.anchor)) / sigma
        return Parts(x0, given.anchor - x0, eps)

    def predict(self, x_t: Tensor, t: float | Tensor, condition: Any) -> Tensor:
        """Return what the network predicts, (B, C, H, W) or both heads (B, 2 C, H, W).

        Inputs are cast to the network's dtype and the output back.

        Raises:
            ShapeError: the network returned another shape.
        """
        given = degraded_of(condition)
        t = torch.as_tensor(t, dtype=torch.float64, device="cpu")
        sigma = broadcast(self.schedule(t)[1], x_t)
        dtype = next((p.dtype for p in self.network.parameters()), x_t.dtype)
        # Labels keep float32 at least: bfloat16 cannot count beyond 256.
        kind = torch.promote_types(dtype, torch.float32)
        label = self.label(t).expand(len(x_t)).to(kind).to(x_t.device)
        seen = INPUTS[self.sees](x_t, given.anchor, sigma).to(dtype)
        output = self.network(seen, label, Degraded(*(v.to(dtype) for v in given)))
        heads = 2 if self.predicts in TWO_HEADS else 1
        wanted = (len(x_t), heads * x_t.shape[1], *x_t.shape[2:])
        if tuple(output.shape) != wanted:
            raise ShapeError(f"network: returned shape {tuple(output.shape)}, accepted: {wanted}")
        return output.to(x_t.dtype)

    def given(self, condition: Any) -> Prior:
        """Refuse: solvers would take the degraded image that is fixed for none at all.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(
            "prior: a restorer cannot fix its degraded image, accepted: the image as the "
            "measurement of a solver: ResShift, IRSDE, RDDM or MRSampler"
        )

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Refuse: a restorer denoises around a degraded image, which the protocol lacks.

        Raises:
            ArgumentError: always.
        """
        raise ArgumentError(
            "prior: a restorer needs the degraded image, accepted as a denoiser: a plain prior; "
            "to restore with this one use a solver: ResShift, IRSDE, RDDM or MRSampler"
        )


def degraded_of(condition: Any) -> Degraded:
    """Return the condition of a restorer, of which an anchor alone may be given.

    Raises:
        ArgumentError: none was given.
    """
    if isinstance(condition, Degraded):
        return condition
    given = isinstance(condition, Tensor)
    require(given, "condition", condition, "a Degraded, see Restorer.degraded, or an anchor")
    return Degraded(condition, condition)


def _require_fitting(predicts: str, schedule: Schedule) -> None:
    """Raise unless the schedule is one for which the prediction tells the clean image."""
    alpha, sigma = schedule(torch.linspace(0.25, 0.75, 3, dtype=torch.float64) * schedule.T)
    gaps = {
        "velocity": ("alpha^2 + (sigma / s)^2", alpha**2 + (sigma / schedule.terminal_std) ** 2),
        "flow": ("alpha + sigma", alpha + sigma),
    }
    if predicts in gaps:
        what, value = gaps[predicts]
        fits, name = bool(((value - 1).abs() < 1e-3).all()), type(schedule).__name__
        require(fits, "schedule", name, f"{what} = 1 where {predicts} is predicted")
