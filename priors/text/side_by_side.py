"""Two prompts as one prior, with images of the source and then of the target."""

from difflib import SequenceMatcher

import torch
from torch import Tensor

from wellposed.errors import ArgumentError, require
from wellposed.priors.adapters.autoencoder import Latent
from wellposed.priors.adapters.guided import Guided
from wellposed.priors.anchor import Condition
from wellposed.priors.prior import Adapter, Prior
from wellposed.priors.text.condition import TextCondition
from wellposed.priors.text.diffusion import TextDiffusion
from wellposed.priors.text.networks import TextUNet
from wellposed.priors.text.prior import Prompted
from wellposed.priors.text.sharing import Sharing, shared_attention


class SideBySide(Adapter):
    """A diffusion of two prompts in one batch, source images and then target images.

    Args:
        prior: the diffusion.
        sharing: what the target's attention takes from the source.
        words: which of the source's tokens are which of the target's, see `alignment`.
        items: images of one prompt.
    """

    prior: TextDiffusion

    def __init__(self, prior: TextDiffusion, sharing: Sharing, words: Tensor, items: int) -> None:
        super().__init__(prior)
        self.sharing, self.words, self.items = sharing, words, items

    def denoise(self, x_t: Tensor, t: float | Tensor, condition: Condition = None) -> Tensor:
        """Return the estimates of both prompts; see `Prior.denoise`."""
        time = float(torch.as_tensor(t).max()) / self.schedule.T
        model = self.prior.network.model
        with shared_attention(model, self.sharing, time, self.words, self.items):
            return self.prior.denoise(x_t, t, condition)


def side_by_side(source: Prior, target: Prior, sharing: Sharing, items: int) -> Latent:
    """Return the prior of images of two prompts, the source's and then the target's.

    Args:
        source: a pipeline with a prompt.
        target: the same pipeline with another one.
        sharing: what the target's attention takes from the source.
        items: images of one prompt.

    Raises:
        ArgumentError: priors without text, of two networks, of another kind of network than a
            U-Net, or of different guidance.
    """
    source, target = _prompted("source", source), _prompted("target", target)
    diffusion = source.diffusion
    same = target.diffusion.network is diffusion.network
    require(same, "target", "another network", "source.with_prompt(...)")
    kind = type(diffusion.network).__name__
    accepted = "a U-Net, as of Stable Diffusion 1 and 2 and SDXL"
    require(isinstance(diffusion.network, TextUNet), "source", kind, accepted)
    weights = source.prior.guidance, target.prior.guidance
    require(
        weights[0] == weights[1], "target, guidance", weights[1], f"the source's, {weights[0]}"
    )
    given = _beside(source.condition, target.condition, items)
    null = None
    if source.null is not None and target.null is not None:
        null = _beside(source.null, target.null, items)
        if not null.is_like(given):
            raise ArgumentError(
                f"source, null condition: got embeddings {tuple(null.embeddings.shape[1:])}, "
                f"accepted: {tuple(given.embeddings.shape[1:])}, as of the prompt"
            )
    words = alignment(source.condition, target.condition)
    shared = SideBySide(diffusion, sharing, words, items)
    guided = Guided(shared, given, weights[0], null, source.prior.rescale)
    return Latent(guided, source.autoencoder, source.data_range)


def _prompted(name: str, prior: Prior) -> Prompted:
    if not isinstance(prior, Prompted):
        kind, accepted = type(prior).__name__, "a prior of a pipeline with a prompt"
        raise ArgumentError(f"{name}: got {kind!r}, accepted: {accepted}")
    return prior


def _beside(source: TextCondition, target: TextCondition, items: int) -> TextCondition:
    return source.repeated(items).beside(target.repeated(items))


def alignment(source: TextCondition, target: TextCondition) -> Tensor:
    """Return which of the source's tokens are which of the target's, (n, source, target) tokens.

    Equal tokens in equal order have 1. Where some are replaced by others, the map of the old ones
    is shared equally by the new ones. Columns of inserted tokens are 0, and so are rows of deleted
    ones, whose attention is lost as in the published refinement. Conditions that do not tell their
    tokens correspond token by token.

    Args:
        source: the conditions of n prompts.
        target: those of as many others, or of one; or one and n.
    """
    counts = [condition.embeddings.shape[1] for condition in (source, target)]
    known = [c.tokens.tolist() for c in (source, target) if c.tokens is not None]
    if [len(tokens[0]) for tokens in known] != counts:
        return torch.eye(*counts)[None]
    number = max(map(len, known))
    pairs = zip(*(tokens * (number if len(tokens) == 1 else 1) for tokens in known), strict=True)
    return torch.stack([_aligned(one, other) for one, other in pairs])


def _aligned(one: list[int], other: list[int]) -> Tensor:
    """Return which of the tokens are which of the others, see `alignment`."""
    found = torch.zeros(len(one), len(other))
    for kind, i, j, k, m in SequenceMatcher(None, one, other, autojunk=False).get_opcodes():
        if kind == "equal":
            found[range(i, j), range(k, m)] = 1
        elif kind == "replace" and j - i == m - k:
            found[range(i, j), range(k, m)] = 1
        elif kind == "replace":
            found[i:j, k:m] = 1 / (m - k)
    return found
