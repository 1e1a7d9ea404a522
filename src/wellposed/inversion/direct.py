"""Direct inversion: the steps of DDIM, with what they miss of the image."""

from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.inversion.base import Found, Inversion, States
from wellposed.inversion.chain import Chain


@dataclass(frozen=True, kw_only=True)
class DirectInversion(Inversion):
    """DDIM upwards, and DDIM downwards beside the path that it came: exact, one call a step.

    With the path ``x_t`` of DDIM upwards the code keeps of each step what the step back misses::

        o_s = x_s - (alpha_s D(x_t) + sigma_s e(x_t))

    and decoding adds it: ``z_s = alpha_s D(z_t) + sigma_s e(z_t) + o_s``. Under the prior of the
    inversion that is the path itself, whatever its error. The estimates of the path serve upwards
    and downwards, so that the source branch costs no calls of its own. Memory: one image for each
    step.

    The published target branch has no corrections and takes the attention maps of the source
    branch instead: `PromptToPrompt`. Priors have no attention maps in general, so both branches
    are corrected here; the authors compare that too.

    Ju et al., "Direct Inversion: Boosting Diffusion-based Editing with 3 Lines of Code", 2023,
    arXiv 2310.01506.

    Args:
        steps, spacing, start: see `Inversion`.

    Example:
        >>> import torch
        >>> from wellposed import inversion, priors
        >>> source, target = priors.GaussianPrior(0.3, 0.1), priors.GaussianPrior(0.6, 0.1)
        >>> image = torch.rand(1, 1, 8, 8)
        >>> inversion.DirectInversion(steps=10).edit(image, source, target).shape
        torch.Size([1, 1, 8, 8])
    """

    def up(self, x_m: Tensor, chain: Chain) -> Found:
        x, look, kept = x_m, chain.look(x_m, 0), list[Tensor]()
        for level in range(chain.top):
            shift, weight = chain.factors(level, level + 1)
            above = shift * x + weight * look.eps
            look = chain.look(above, level + 1)
            kept.append(x - chain.place(look, level))
            x = above
        exact = torch.zeros(len(x), dtype=torch.float64, device=x.device)
        return Found((x, *reversed(kept)), exact)

    def down(self, states: States, chain: Chain) -> Tensor:
        x, *missed = states
        for level, o in zip(range(chain.top, 0, -1), missed, strict=True):
            x = chain.place(chain.look(x, level), level - 1) + o
        return x
