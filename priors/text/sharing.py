"""Attention layers in which a target takes something from a source beside it."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from wellposed.checks import Count, Fraction, check_fields

STAGES = ("down", "mid", "up")
"""Parts of a U-Net in the order in which they compute."""


@dataclass(frozen=True)
class Place:
    """Where and when an attention layer computes.

    Attributes:
        is_cross: it attends to the text, not to the image.
        depth: share of the layers of its kind that compute before it.
        time: time over the last time of the schedule, 1 at the start of a run.
    """

    is_cross: bool
    depth: float
    time: float


class Sharing(ABC):
    """What an attention layer of the target takes from the source."""

    @abstractmethod
    def concerns(self, place: Place, conditional: bool) -> bool:
        """Return whether the target takes anything from the source there.

        Args:
            place: the layer, and when it computes.
            conditional: for the estimates of the prompts, not of the null condition.
        """

    @abstractmethod
    def target(self, layer: Any, place: Place, streams: "Streams", usual: Any) -> Tensor:
        """Return the result of the layer for the target, (B, tokens, width).

        Args:
            layer: diffusers' attention layer.
            place: where it is, and when it computes.
            streams: what it is given for both.
            usual: diffusers' own processor.
        """


@dataclass(frozen=True, eq=False)
class Streams:
    """Hidden states of an attention layer, (B, tokens, width), and the text it attends to, if any.

    Attributes:
        source, target: hidden states.
        source_text, target_text: embeddings.
        words: which of the source's tokens are which of the target's, (1 or B, source, target)
            tokens, see `alignment`.
    """

    source: Tensor
    target: Tensor
    source_text: Tensor | None
    target_text: Tensor | None
    words: Tensor


@dataclass(frozen=True, kw_only=True)
class SharedMaps(Sharing):
    """The target attends where the source does, to its own values: prompt-to-prompt.

    Words of the target that the source has too, or has another word for, take the attention map
    of that word; new words keep their own. Hertz et al., "Prompt-to-Prompt Image Editing with
    Cross Attention Control", 2022, arXiv 2208.01626, sections 3.2 and 4.

    Args:
        cross: share of the schedule's time, from T, in which attention to the text is shared.
        own: likewise of the image's attention to itself.
        tokens: most tokens of layers whose attention of the image to itself is shared.
    """

    cross: Fraction = 0.8
    own: Fraction = 0.4
    tokens: Count = 1024

    def __post_init__(self) -> None:
        check_fields(self)

    def concerns(self, place: Place, conditional: bool) -> bool:
        """Tell by the time; the null condition has no words."""
        return conditional and place.time > 1 - (self.cross if place.is_cross else self.own)

    def target(self, layer: Any, place: Place, streams: Streams, usual: Any) -> Tensor:
        """Attend with the source's maps to the target's values."""
        if not place.is_cross and streams.source.shape[1] > self.tokens:
            own: Tensor = usual(layer, streams.target)
            return own
        maps = _maps(layer, streams.source, streams.source_text)
        if place.is_cross:
            words = streams.words.to(maps).expand(len(streams.source), -1, -1)
            words = words.repeat_interleave(layer.heads, 0)
            new = words.sum(1, keepdim=True) == 0
            maps = maps @ words + new * _maps(layer, streams.target, streams.target_text)
        values = streams.target if streams.target_text is None else streams.target_text
        found: Tensor = layer.batch_to_head_dim(maps @ layer.head_to_batch_dim(layer.to_v(values)))
        for part in layer.to_out:
            found = part(found)
        return found


@dataclass(frozen=True, kw_only=True)
class SharedKeys(Sharing):
    """The target looks things up in the source's image: mutual self-attention.

    Keys and values of the image's attention to itself are those of the source. Cao et al.,
    "MasaCtrl: Tuning-Free Mutual Self-Attention Control for Consistent Image Synthesis and
    Editing", 2023, arXiv 2304.08465, section 4.1.

    Args:
        skipped: share of the schedule's time, from T, in which the target forms its own layout.
        depth: share of the layers that stay as they are, in the order in which they compute.
    """

    skipped: Fraction = 0.08
    depth: Fraction = 0.625

    def __post_init__(self) -> None:
        check_fields(self)

    def concerns(self, place: Place, conditional: bool) -> bool:
        """Tell by the time and the layer, with every condition."""
        late, deep = place.time <= 1 - self.skipped, place.depth >= self.depth
        return not place.is_cross and late and deep

    def target(self, layer: Any, place: Place, streams: Streams, usual: Any) -> Tensor:
        """Attend with the target's queries to the source's image."""
        found: Tensor = usual(layer, streams.target, streams.source)
        return found


def _maps(layer: Any, x: Tensor, text: Tensor | None) -> Tensor:
    """Return the attention maps of a layer, (B heads, tokens, tokens attended to)."""
    query, key = layer.to_q(x), layer.to_k(x if text is None else text)
    maps: Tensor = layer.get_attention_scores(*map(layer.head_to_batch_dim, (query, key)))
    return maps


class _Processor:
    """Attention of a layer to two prompts; the batch is the source, then the target.

    If both are estimated with and without a condition, the batch has them without it first.
    """

    def __init__(
        self, usual: Any, place: Place, sharing: Sharing, words: Tensor, items: int
    ) -> None:
        self.usual, self.place, self.sharing = usual, place, sharing
        self.words, self.items = words, items

    def __call__(
        self,
        layer: Any,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        **more: Any,
    ) -> Tensor:
        """Return the results for source and target; diffusers names the arguments."""
        found: Tensor = self.usual(layer, hidden_states, encoder_hidden_states, **more)
        pairs = range(len(hidden_states) // (2 * self.items))
        sharing = [p for p in pairs if self.sharing.concerns(self.place, p == pairs[-1])]
        if not sharing:
            return found
        found = found.clone()
        for pair in sharing:
            first = 2 * pair * self.items
            source = slice(first, first + self.items)
            target = slice(first + self.items, first + 2 * self.items)
            text = encoder_hidden_states
            streams = Streams(
                hidden_states[source],
                hidden_states[target],
                None if text is None else text[source],
                None if text is None else text[target],
                self.words,
            )
            found[target] = self.sharing.target(layer, self.place, streams, self.usual)
        return found


@contextmanager
def shared_attention(
    model: Any, sharing: Sharing, time: float, words: Tensor, items: int
) -> Iterator[None]:
    """Let the attention layers of diffusers' U-Net share, until the context ends.

    Args:
        model: the network.
        sharing: what is shared.
        time: time over the last time of the schedule.
        words: which of the source's tokens are which of the target's, see `alignment`.
        items: images of one prompt.
    """
    usual = dict(model.attn_processors)
    order = sorted(usual, key=lambda name: STAGES.index(name.split("_")[0]))
    changed = {}
    for is_cross, mark in ((False, "attn1"), (True, "attn2")):
        names = [name for name in order if f".{mark}." in name]
        for number, name in enumerate(names):
            place = Place(is_cross, number / len(names), time)
            changed[name] = _Processor(usual[name], place, sharing, words, items)
    model.set_attn_processor({**usual, **changed})
    try:
        yield
    finally:
        model.set_attn_processor(usual)
