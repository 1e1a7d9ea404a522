"""What a diffusion is told by text: embeddings, as an immutable value."""

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, ShapeError, require

PARTS = {"embeddings": 3, "pooled": 2, "ids": 2, "guidance": 1, "tokens": 2}
"""Axes of the parts of a condition."""


@dataclass(frozen=True, eq=False)
class TextCondition:
    """The condition of a text-conditioned prior, one for all items or one for each.

    To optimise it, give `dataclasses.replace` embeddings that require a gradient, and the result
    to ``prior.conditioned``: every estimate is differentiable in them.

    Args:
        embeddings: tokens of the prompt (n, tokens, width).
        pooled: one vector for the whole prompt (n, width), of SDXL, Stable Diffusion 3 and FLUX.
        ids: SDXL's sizes in pixels (n, 6): height and width of the original, top and left of the
            crop, height and width of the image.
        guidance: guidance scale (n,) of networks that are told it: FLUX.1-dev, latent consistency
            models.
        tokens: numbers of the tokens (n, tokens) in the first tokenizer. They tell which words two
            prompts share, if there is one for each embedding.

    Raises:
        ArgumentError: a part that is not such a tensor, or parts of different n.

    Example:
        >>> import torch
        >>> from wellposed import priors
        >>> condition = priors.TextCondition(torch.randn(1, 77, 768))
        >>> condition.embeddings.shape, condition.pooled
        (torch.Size([1, 77, 768]), None)
    """

    embeddings: Tensor
    pooled: Tensor | None = None
    ids: Tensor | None = None
    guidance: Tensor | None = None
    tokens: Tensor | None = None

    def __post_init__(self) -> None:
        for name, axes in PARTS.items():
            part = getattr(self, name)
            if part is None and name != "embeddings":
                continue
            require(isinstance(part, Tensor), name, type(part).__name__, "a tensor")
            fits = part.ndim == axes and len(part) == len(self.embeddings)
            require(fits, name, tuple(part.shape), f"{axes} axes, the first for the prompts")
            kind = "whole numbers" if name == "tokens" else "floating-point numbers"
            require(part.is_floating_point() == (name != "tokens"), name, part.dtype, kind)

    def __len__(self) -> int:
        return len(self.embeddings)

    def each(self, change: Callable[[Tensor], Tensor]) -> "TextCondition":
        """Return the condition with all its tensors changed."""
        parts: dict[str, Any] = {k: change(v) for k, v in self._parts().items()}
        return replace(self, **parts)

    def to(self, device: torch.device, dtype: torch.dtype) -> "TextCondition":
        """Return the condition on a device; sizes and scales keep their precision."""
        moved = self.each(lambda part: part.to(device))
        pooled = None if moved.pooled is None else moved.pooled.to(dtype)
        return replace(moved, embeddings=moved.embeddings.to(dtype), pooled=pooled)

    def repeated(self, items: int) -> "TextCondition":
        """Return one condition for each of the items.

        Raises:
            ShapeError: neither one condition nor one for each item.
        """
        if len(self) not in (1, items):
            raise ShapeError(
                f"condition: got {len(self)} prompts, accepted: 1, or one for each of {items} "
                "items"
            )
        return self.each(lambda part: part.expand(items, *part.shape[1:]))

    def is_like(self, other: "TextCondition") -> bool:
        """Return whether both have the same parts, and as many tokens."""
        return self._shapes() == other._shapes()

    def beside(self, other: "TextCondition") -> "TextCondition":
        """Return these conditions and then the other's, which are of the same shape.

        Raises:
            ArgumentError: conditions of other shapes.
        """
        if not self.is_like(other):
            got, accepted = other._shapes(), self._shapes()
            raise ArgumentError(f"condition: got shapes {got}, accepted: {accepted}")
        own, others = self._parts(), other._parts()
        parts: dict[str, Any] = dict.fromkeys(own)
        parts |= {k: torch.cat([v, others[k].to(v)]) for k, v in own.items() if k in others}
        return replace(self, **parts)

    def _parts(self) -> dict[str, Tensor]:
        """Return the parts that there are."""
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: part for name, part in parts.items() if part is not None}

    def _shapes(self) -> dict[str, tuple[int, ...]]:
        parts = self._parts()
        parts.pop("tokens", None)  # known or not, the embeddings are what is told
        return {name: tuple(part.shape[1:]) for name, part in parts.items()}
