"""Editing by text with attention to the source: prompt-to-prompt, mutual self-attention."""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Annotated

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Fraction
from wellposed.inversion.base import public
from wellposed.inversion.direct import DirectInversion
from wellposed.priors.prior import Prior
from wellposed.priors.schedule import SPACINGS
from wellposed.priors.text.sharing import SharedKeys, SharedMaps, Sharing
from wellposed.priors.text.side_by_side import side_by_side


@dataclass(frozen=True, kw_only=True)
class Attending(DirectInversion):
    """Base of the edits whose target attends to the source while both are decoded side by side.

    The source comes down the path that it went up, see `DirectInversion`. The target starts at
    the same noise without the corrections of that path, and takes from the source's attention
    what `sharing` says. So a target that is the source is returned as exactly as by DDIM. Times
    are equally spaced by default, as in the papers.
    """

    spacing: Annotated[str, Choice(*SPACINGS)] = "leading"

    @property
    @abstractmethod
    def sharing(self) -> Sharing:
        """What the target's attention takes from the source."""

    def edit(self, image: Tensor, source: Prior, target: Prior) -> Tensor:
        """Return images under another prompt.

        Args:
            image: (B, C, H, W), in public values.
            source: a pipeline with the prompt of the image, from ``priors.load``.
            target: ``source.with_prompt(...)``.

        Raises:
            ArgumentError: priors without text, of two networks, of another kind of network than a
                U-Net, or of different guidance.
            ArgumentError, SamplingError: see `Inversion.encode`.
        """
        both = side_by_side(source, target, self.sharing, len(image))
        code = self.encode(image, source)
        x_T, *missed = code.states
        states = (torch.cat([x_T, x_T]), *(torch.cat([o, torch.zeros_like(o)]) for o in missed))
        chain = self._chain(both)
        with torch.no_grad():
            found = self.clean(self.down(states, chain), chain)[len(image) :]
            return public(found, target, image.dtype)


@dataclass(frozen=True, kw_only=True)
class PromptToPrompt(Attending):
    """Prompt-to-prompt: words that the prompts share stay where they are in the image.

    While the run is in its first part, the target's attention to the text is the source's, word by
    word, and so is the image's attention to itself. Words that only the target has find their own
    places. One call on two images for each step, with a guidance on four.

    Hertz et al., "Prompt-to-Prompt Image Editing with Cross Attention Control", 2022, arXiv
    2208.01626, on the paths of direct inversion, arXiv 2310.01506, which replaces the DDIM
    inversion of the original. Departures: tokens are aligned by their longest common parts, and
    where a part replaces one of another length, its tokens share the map equally. Words cannot be
    weighted, and nothing outside the changed object is kept by a mask.

    Args:
        cross: share of the schedule's time, from T, in which the attention to the text is the
            source's; .8 of the steps as published.
        own: likewise of the image's attention to itself; .4 as published.
        tokens: most tokens of layers whose attention of the image to itself is shared, 32 x 32.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> from wellposed import inversion, priors
        >>> source = priors.load("stable-diffusion-v1-5/stable-diffusion-v1-5",
        ...     prompt="a photo of a cat", guidance=7.5)  # hub # doctest: +SKIP
        >>> target = source.with_prompt("a photo of a dog")  # doctest: +SKIP
        >>> edit = inversion.PromptToPrompt(steps=50).edit
        >>> dog = edit(image, source, target)  # doctest: +SKIP
    """

    cross: Fraction = 0.8
    own: Fraction = 0.4
    tokens: Count = 1024

    @property
    def sharing(self) -> Sharing:
        """Attention maps of the source."""
        return SharedMaps(cross=self.cross, own=self.own, tokens=self.tokens)


@dataclass(frozen=True, kw_only=True)
class MutualAttention(Attending):
    """MasaCtrl: the target has its own layout and takes its content from the source.

    After some steps, the later layers of the target look things up in the source: its image is
    what they attend to, with queries of the target. So postures change, and textures stay. One
    call on two images for each step, with a guidance on four.

    Cao et al., "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis
    and Editing", 2023, arXiv 2304.08465, without its masks, on the paths of direct inversion.

    Args:
        skipped: share of the schedule's time, from T, without it; 4 of 50 steps as published.
        depth: share of the layers, from the first one on, without it; 10 of the 16 of Stable
            Diffusion 1 as published.
        steps, spacing, start: see `Inversion`.

    Example:
        >>> from wellposed import inversion, priors
        >>> source = priors.load("stable-diffusion-v1-5/stable-diffusion-v1-5",
        ...     prompt="a sitting cat", guidance=7.5)  # hub # doctest: +SKIP
        >>> target = source.with_prompt("a running cat")  # doctest: +SKIP
        >>> edit = inversion.MutualAttention(steps=50).edit
        >>> running = edit(image, source, target)  # doctest: +SKIP
    """

    skipped: Fraction = 0.08
    depth: Fraction = 0.625

    @property
    def sharing(self) -> Sharing:
        """Keys and values of the source."""
        return SharedKeys(skipped=self.skipped, depth=self.depth)
