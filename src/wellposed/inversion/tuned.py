"""Inversion by tuning the embedding of a condition, so that guided DDIM returns the image."""

from abc import abstractmethod
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor

from wellposed.checks import Count, Positive
from wellposed.errors import ArgumentError, ShapeError, require
from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain, Denoising
from wellposed.linalg import norm
from wellposed.priors.adapters.guided import Guided
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Prior
from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.prior import Prompted

Told = Guided | Prompted
"""Priors with a condition that can be another one."""


@dataclass(frozen=True, kw_only=True)
class Tuned(Inversion):
    """Base of the inversions that tune an embedding at each level.

    The pivot is the path ``x_t`` of DDIM upwards without guidance. Downwards from ``x_T``, at each
    level the embedding moves by ``h_t`` to the least misfit of the next step,

        min_h |x_s - (alpha_s D(z_t; h) + sigma_s e(z_t; h))|^2,

    by Adam from the ``h`` of the level before; ``z_s`` is the step with it. The code keeps ``x_T``
    and all ``h_t``, which decoding adds to the embedding of the prior it is given.

    Args:
        iterations: steps of Adam at each level, a call with its gradient each.
        rate: their size, in units of the embedding.
        steps, spacing, start: see `Inversion`.
    """

    iterations: Count = 10
    rate: Positive = 1e-2

    tunes: ClassVar[str]
    """Which condition is tuned: ``condition`` or ``null``."""

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        source = _told(chain.prior)
        h = torch.zeros_like(self._embedding(source, len(x_m)))
        path = _pivot(x_m, chain, _again(source, guidance=1.0))
        z, kept = path[-1], list[Tensor]()
        for level in range(chain.top, 0, -1):
            h = self._fitted(h, z, path[level - 1], chain, level)
            z = self._step(z, h, chain, level)
            kept.append(h)
        residual = norm(z - x_m) / norm(x_m).clamp(min=1e-300)
        return Found((path[-1], *kept), residual.double())

    def down(self, states: States, chain: Chain) -> Tensor:
        z, *kept = states
        for level, h in zip(range(chain.top, 0, -1), kept, strict=True):
            z = self._step(z, h, chain, level)
        return z

    def _step(self, z: Tensor, h: Tensor, chain: Chain, level: int) -> Tensor:
        """Return the step of DDIM with the embedding moved by ``h``."""
        return chain.place(chain.look(z, level, self.moved(chain.prior, h)), level - 1)

    def _fitted(self, h: Tensor, z: Tensor, goal: Tensor, chain: Chain, level: int) -> Tensor:
        h = h.clone().requires_grad_()
        adam = torch.optim.Adam([h], lr=self.rate)
        for _ in range(self.iterations):
            with torch.enable_grad():
                miss = (self._step(z, h, chain, level) - goal).abs().square().sum()
            if not miss.requires_grad:
                raise ArgumentError(
                    f"prior: got estimates without a gradient for {self.tunes}, accepted: a prior "
                    "that is differentiable in its condition"
                )
            (h.grad,) = torch.autograd.grad(miss, h)
            adam.step()
        return h.detach()

    def moved(self, prior: Denoising, h: Tensor) -> Prior:
        """Return the prior with its tuned embedding moved by ``h``, one for each item."""
        told = _told(prior)
        embedding = self._embedding(told, len(h))
        if embedding.shape != h.shape:
            raise ShapeError(
                f"{self.tunes}: got an embedding {tuple(embedding.shape)}, accepted: "
                f"{tuple(h.shape)}, that of the inversion"
            )
        return self.with_embedding(told, embedding + h)

    @abstractmethod
    def with_embedding(self, prior: Told, embedding: Tensor) -> Prior:
        """Return the prior with another embedding."""

    def _embedding(self, prior: Told, items: int) -> Tensor:
        """Return the embedding of each item, at least of single precision."""
        found: Condition = getattr(prior, self.tunes)
        if isinstance(found, TextCondition):
            return _precise(found.repeated(items).embeddings)
        tensor = isinstance(found, Tensor) and found.is_floating_point() and found.ndim > 1
        accepted = "a TextCondition, or an embedding (1 or B, ...)"
        require(tensor, self.tunes, _name(found), accepted)
        assert isinstance(found, Tensor)
        if len(found) not in (1, items):
            raise ShapeError(f"{self.tunes}: got {len(found)} embeddings, accepted: 1 or {items}")
        return _precise(found.expand(items, *found.shape[1:]))


@dataclass(frozen=True, kw_only=True)
class NullText(Tuned):
    """Null-text inversion: guided DDIM returns the image by a null condition for each level.

    Guidance multiplies the small errors of DDIM inversion. The null condition, which no prompt
    needs, takes them up; see `Tuned`, whose ``h_t`` belongs to the null condition here. The target
    is the same prior with another condition and the same guidance: ``prior.conditioned(...)`` of
    a model with text, `priors.Guided` of other priors.

    Mokady et al., "Null-text Inversion for Editing Real Images using Guided Diffusion Models",
    2022, arXiv 2211.09794. Their early stop is left out.

    Args:
        iterations, rate, steps, spacing, start: see `Tuned`.

    Example:
        >>> from wellposed import inversion, priors
        >>> hub = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        >>> source = priors.load(hub, prompt="a cat", guidance=5.0)  # hub # doctest: +SKIP
        >>> target = source.with_prompt("a dog")  # doctest: +SKIP
        >>> edited = inversion.NullText().edit(image, source, target)  # doctest: +SKIP
    """

    tunes: ClassVar[str] = "null"

    def with_embedding(self, prior: Told, embedding: Tensor) -> Prior:
        guidance = prior.prior.guidance if isinstance(prior, Prompted) else prior.guidance
        require(guidance != 1, "guidance", 1, "another weight; with 1 there is no null condition")
        return _again(prior, null=_replaced(prior.null, embedding))


@dataclass(frozen=True, kw_only=True)
class PromptTuning(Tuned):
    """Prompt tuning inversion: DDIM returns the image by a condition moved at each level.

    See `Tuned`, whose ``h_t`` belongs to the condition here. An edit moves the target's embedding
    by it; published is a mean of the target's and the tuned embedding, which does not return the
    image for the source's own prompt.

    Dong et al., "Prompt Tuning Inversion for Text-Driven Image Editing Using Diffusion Models",
    2023, arXiv 2305.04441.

    Args:
        iterations, rate, steps, spacing, start: see `Tuned`.

    Example:
        >>> from wellposed import inversion, priors
        >>> hub = "stable-diffusion-v1-5/stable-diffusion-v1-5"
        >>> source = priors.load(hub, prompt="a cat")  # hub # doctest: +SKIP
        >>> target = source.with_prompt("a dog")  # doctest: +SKIP
        >>> edited = inversion.PromptTuning().edit(image, source, target)  # doctest: +SKIP
    """

    tunes: ClassVar[str] = "condition"

    def with_embedding(self, prior: Told, embedding: Tensor) -> Prior:
        return _again(prior, condition=_replaced(prior.condition, embedding))


def _pivot(x_m: Tensor, chain: Chain, plain: Prior) -> list[Tensor]:
    """Return the path of DDIM upwards."""
    path = [x_m]
    for level in range(chain.top):
        shift, weight = chain.factors(level, level + 1)
        path.append(shift * path[-1] + weight * chain.look(path[-1], level, plain).eps)
    return path


def _told(prior: Denoising) -> Told:
    accepted = "a prior with text, or priors.Guided"
    require(isinstance(prior, Guided | Prompted), "prior", type(prior).__name__, accepted)
    assert isinstance(prior, Guided | Prompted)
    return prior


def _again(
    prior: Told,
    condition: Condition = None,
    null: Condition = None,
    guidance: float | None = None,
) -> Prior:
    """Return the same network told something else."""
    if isinstance(prior, Prompted):
        given = prior.condition if condition is None else condition
        assert isinstance(given, TextCondition)
        assert isinstance(null, TextCondition | None)
        return prior.conditioned(given, null, guidance)
    return Guided(
        prior.prior,
        prior.condition if condition is None else condition,
        prior.guidance if guidance is None else guidance,
        prior.null if null is None else null,
        prior.rescale,
    )


def _replaced(condition: Condition, embedding: Tensor) -> TextCondition | Tensor:
    if isinstance(condition, TextCondition):
        return replace(condition.repeated(len(embedding)), embeddings=embedding)
    return embedding


def _precise(embedding: Tensor) -> Tensor:
    return embedding.to(torch.promote_types(embedding.dtype, torch.float32))


def _name(condition: Condition) -> str:
    return "none" if condition is None else type(condition).__name__
