"""What all inversions share: the call, and the code that it returns."""

import json
import math
from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import (
    Choice,
    Fraction,
    PositiveOrInfinite,
    Seed,
    Steps,
    check_fields,
    checked,
    require_batch,
)
from wellposed.errors import ArgumentError, SamplingError, ShapeError, check_finite, require
from wellposed.inversion.chain import Chain, Denoising
from wellposed.inversion.mixing import slerp_weights
from wellposed.inversion.noise import CodeNoise
from wellposed.inversion.whiteness import Whiteness, whiteness
from wellposed.linalg import norm, per_item
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import SPACINGS
from wellposed.priors.transition import starting_std
from wellposed.results import write_hdf5

States = tuple[Tensor, ...]


class Found(NamedTuple):
    """What a method keeps of an image: its states, and how well they fulfil its equation, (B,)."""

    states: States
    residual: Tensor


@dataclass(frozen=True, kw_only=True)
class Inversion(ABC):
    """Base of the inversions.

    An image ``x_0`` is placed at the lowest positive level m of the run, ``x_m = alpha_m x_0``,
    and carried up to the noisiest level. `Code.decode` comes down to m and returns
    ``x_m / alpha_m``. The last step to t = 0, a projection onto the prior's images, is not made:
    it has no inverse. States have double precision, whatever the network's precision, as then the
    network sees the same input both ways.

    Args:
        steps: noise levels; the network is called once or twice for each but one of them.
        spacing: spacing of the levels, see `Schedule.times`.
        start: noise-to-signal ratio up to which images are carried; by default all levels.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior = priors.GaussianPrior(0.5, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> code = inversion.BDIA(steps=10).encode(image, prior)
        >>> code.x_T.shape, torch.allclose(code.decode(prior), image, atol=1e-6)
        (torch.Size([1, 1, 8, 8]), True)
    """

    steps: Steps = 50
    spacing: Annotated[str, Choice(*SPACINGS)] = "karras"
    start: PositiveOrInfinite = math.inf

    needs_signal: ClassVar[bool] = True
    """Whether it divides by ``alpha`` of every level, which is 0 at the end of a flow."""

    def __post_init__(self) -> None:
        check_fields(self)

    @torch.no_grad()
    def encode(self, image: Tensor, prior: Prior) -> "Code":
        """Return the code of images.

        Args:
            image: (B, C, ...), in public values.
            prior: a plain prior; fix the condition of a conditional one, see
                `Prior.conditioned_on` and `priors.Guided`.

        Raises:
            ArgumentError and subclasses: before the first network call.
            SamplingError: the code is not finite.
        """
        u, chain = units(image, prior), self._chain(prior)
        found = self.up(chain.alpha[0] * u, chain)
        if not all(bool(state.isfinite().all()) for state in found.states):
            raise SamplingError(f"{type(self).__name__}: the code is not finite; use more steps")
        std = starting_std(prior.schedule, chain.times[-1])
        facts = _levels(chain), tuple(chain.times), std, chain.scale[-1], image.dtype
        return Code(found.states, self, found.residual, chain.calls, *facts)

    def edit(self, image: Tensor, source: Prior, target: Prior) -> Tensor:
        """Return images under another condition: encoded with the source, decoded with the target.

        Args:
            image: (B, C, ...), in public values.
            source: the prior under the condition of the image, see `priors.Guided`.
            target: the prior under the wanted condition, of the same noise levels.

        Raises: see `encode`.
        """
        _require_plain(source, "source")
        _require_plain(target, "target")
        _require_levels("target", self._chain(target), _levels(self._chain(source)))
        return self.encode(image, source).decode(target)

    @abstractmethod
    def up(self, x_m: Tensor, chain: Chain) -> Found:
        """Carry images from the lowest level to the noisiest one."""

    @abstractmethod
    def down(self, states: States, chain: Chain) -> Tensor:
        """Return the image ``x_m`` at the lowest level, the inverse of `up`."""

    def clean(self, x: Tensor, chain: Chain) -> Tensor:
        """Return the clean image of the result of `down`."""
        return x / chain.alpha[0]

    def times(self, prior: Denoising) -> list[float]:
        """Return the increasing times of the levels, all above 0."""
        schedule = prior.schedule
        times = schedule.times(self.steps, self.spacing).tolist()[-2::-1]
        kept = [t for t in times if float(schedule.ratio(t)) <= self.start]
        accepted = f"above {float(schedule.ratio(times[0])):.3g}, the lowest of {self.steps} steps"
        require(len(kept) > 1 or len(times) == 1, "start", self.start, accepted)
        return kept

    def _chain(self, prior: Prior) -> Chain:
        chain = Chain(prior, self.times(prior))
        if self.needs_signal and min(chain.alpha) == 0:
            raise ArgumentError(
                f"spacing: got {self.spacing!r}, at whose first time there is no signal, accepted "
                f"by {type(self).__name__}: 'karras', 'geometric' or 'leading', or a start"
            )
        return chain


@dataclass(frozen=True, eq=False)
class Code:
    """Inverted images, made by `Inversion.encode`.

    Attributes:
        states: in the scale of `inversion.chain` and in double precision, the noisiest first;
            some methods need more than one to come back.
        method: the inversion.
        residual: largest relative residual of the method's equation at any level, (B,): 0 where
            the inverse is exact by construction, NaN where no equation was solved.
        calls: network calls of `Inversion.encode`.
        levels: ``sigma / alpha`` of each level, increasing.
        times: their times.
        std: standard deviation of the schedule's noise at the noisiest level, in units.
        scale: size there in units over that of the states.
        dtype: dtype of the images.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> prior, method = priors.GaussianPrior(0.5, 0.1), inversion.BDIA(steps=10)
        >>> a, b = (method.encode(torch.rand(1, 1, 8, 8), prior) for _ in range(2))
        >>> a.interpolate(b, share=0.5).decode(prior).shape
        torch.Size([1, 1, 8, 8])
        >>> path = a.save("code.h5")
    """

    states: States
    method: Inversion
    residual: Tensor
    calls: int
    levels: tuple[float, ...]
    times: tuple[float, ...]
    std: float
    scale: float
    dtype: torch.dtype

    @property
    def x_T(self) -> Tensor:
        """The image at the noisiest level, in units."""
        return self.scale * self.states[0]

    @property
    def whiteness(self) -> Whiteness:
        """How far ``x_T`` is from white noise, for each item."""
        return whiteness(self.x_T / self.std)

    @torch.no_grad()
    def decode(self, prior: Prior) -> Tensor:
        """Return the images (B, C, ...) of the code in public values.

        Under the prior of the inversion it is the image, under another condition an edited one.

        Raises:
            ArgumentError: a restorer, or a prior with another schedule.
        """
        _require_plain(prior)
        chain = self.method._chain(prior)
        _require_levels("prior", chain, self.levels)
        u = self.method.clean(self.method.down(self.states, chain), chain)
        return public(u, prior, self.dtype)

    def round_trip(self, image: Tensor, prior: Prior) -> Tensor:
        """Return ``|decode - image| / |image|`` of each item, (B,).

        It says that `decode` inverts `Inversion.encode`, not that ``x_T`` is on the prior's flow.
        """
        if image.shape != (back := self.decode(prior)).shape:
            raise ShapeError(f"image: got {tuple(image.shape)}, accepted: {tuple(back.shape)}")
        return norm(back - image) / norm(image).clamp(min=1e-300)

    @checked
    def noise(self, seed: Seed = 0, mix: Fraction = 0.0) -> CodeNoise:
        """Return the code as a noise source of a solver: it starts from ``x_T``.

        Not for posterior samples. Measured on an exact Gaussian, half of the pixels missing, DDS
        of 50 steps: started from the inverted pseudo-inverse, the spread of the samples is .00
        of the posterior's and their mean is four times as far off as from fresh noise, with 0.7
        of it mixed in .61 and three times; with fresh noise in each step (eta = .85) the start is
        forgotten. It serves deterministic restoration and editing, and images that look like the
        prior's: the previous frame, a neighbouring slice.

        Args:
            seed: seed of the fresh noise, and of all draws after the first.
            mix: m of the first draw ``sqrt(1 - m^2) x_T / std + m z``.
        """
        return CodeNoise(self.x_T / self.std, seed, mix)

    @checked
    def interpolate(self, other: "Code", share: Fraction) -> "Code":
        """Return the code between this one (share 0) and another one (share 1).

        The states are mixed with weights that carry ``x_T`` along a great circle, item by item,
        divided by the norm of the weights where the two are far from orthogonal noise: white
        noise keeps its variance. Shoemake, "Animating rotation with quaternion curves", 1985.

        Raises:
            ArgumentError, ShapeError: a code of another method, of other levels or other shapes.
        """
        fits = other.method == self.method and _close(other.levels, self.levels)
        require(fits, "other", other.method, f"a code of {self.method} with its levels")
        if [s.shape for s in other.states] != [s.shape for s in self.states]:
            raise ShapeError(
                f"other: got {tuple(other.x_T.shape)}, accepted: {tuple(self.x_T.shape)}"
            )
        own, theirs = slerp_weights(self.x_T, other.x_T, share)
        states = tuple(
            per_item(own, a) * a + per_item(theirs, b) * b
            for a, b in zip(self.states, other.states, strict=True)
        )
        residual = torch.maximum(self.residual, other.residual)
        return replace(self, states=states, residual=residual)

    def save(self, path: str | Path) -> Path:
        """Write the code to an HDF5 file, which `inversion.load` reads.

        Raises:
            FileError: the file cannot be written.
        """
        arrays = {f"state {n}": state for n, state in enumerate(self.states)}
        facts: dict[str, object] = {
            "method": type(self.method).__name__,
            "settings": asdict(self.method),
            "dtype": str(self.dtype).removeprefix("torch."),
            **{name: getattr(self, name) for name in ("calls", "levels", "times", "std", "scale")},
        }
        texts = {name: json.dumps(value) for name, value in facts.items()}
        write_hdf5(Path(path), arrays | {"residual": self.residual}, texts)
        return Path(path)

    def __repr__(self) -> str:
        worst = float(self.residual.max())
        return (
            f"Code({type(self.method).__name__}, {tuple(self.x_T.shape)}, "
            f"{len(self.states)} states, {self.calls} calls, residual {worst:.2g})"
        )


def units(image: Tensor, prior: Prior) -> Tensor:
    """Return public images in units, in double precision; raise unless they fit the prior."""
    _require_plain(prior)
    require_batch("image", image)
    prior.check_image(check_finite("image", image))
    exact = torch.promote_types(image.dtype, torch.float64)
    return prior.to_units(image.to(exact) if prior.is_affine else image).to(exact)


def public(u: Tensor, prior: Prior, dtype: torch.dtype) -> Tensor:
    """Return units as public images; an autoencoder has the dtype of the images."""
    return prior.to_public(u if prior.is_affine else u.to(dtype)).to(dtype)


def _levels(chain: Chain) -> tuple[float, ...]:
    pairs = zip(chain.sigma, chain.alpha, strict=True)
    return tuple(sigma / alpha if alpha else math.inf for sigma, alpha in pairs)


def _close(found: tuple[float, ...], wanted: tuple[float, ...]) -> bool:
    pairs = list(zip(found, wanted, strict=False))
    return len(found) == len(wanted) and all(math.isclose(a, b, rel_tol=1e-6) for a, b in pairs)


def _require_levels(name: str, chain: Chain, levels: tuple[float, ...]) -> None:
    got = f"the schedule {type(chain.prior.schedule).__name__}"
    accepted = "one with the noise levels of the inversion's prior"
    require(_close(_levels(chain), levels), name, got, accepted)


def _require_plain(prior: Prior, name: str = "prior") -> None:
    kind = type(prior).__name__
    require(isinstance(prior, Prior), name, kind, "a wellposed Prior")
    require(prior.anchor is None, name, f"{kind} with an anchor", "a plain prior")
