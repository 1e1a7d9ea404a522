"""Editing with a source and a target condition: what each method costs and what it keeps.

The prior is a mixture of two Gaussians for each description, which is an embedding of three
numbers; descriptions shift both. It is told the descriptions with a guidance of 2, and the methods
know no more of it than of a network. Each edit is measured by

- calls: evaluations of the network, with a guidance two for each estimate,
- returned: relative error of the image where target and source are the same,
- moved: how far the image went from one description to the other, 1 for all of the way;
  the guidance takes it further,
- rest: relative change of the image in all other directions.

    python examples/editing.py

It takes some seconds of one core. No data are needed.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from wellposed import inversion, solvers
from wellposed.figures import format_table
from wellposed.operators import Denoising
from wellposed.priors import Flow, Guided, Prior, TextCondition

SIDE, STEPS, GUIDANCE = 8, 25, 2.0


class Described(Prior):
    """Mixtures ``(N(M e + p, v) + N(M e - p, v)) / 2`` of an embedding e; counts the images."""

    has_range = False

    def __init__(self, variance: float = 0.05) -> None:
        super().__init__(Flow(), channels=1)
        generator = torch.Generator().manual_seed(0)
        shape = (1, SIDE, SIDE)
        self.shifts = torch.randn(3, *shape, generator=generator, dtype=torch.float64)
        self.pattern = torch.randn(shape, generator=generator, dtype=torch.float64)
        self.variance, self.calls = variance, 0

    def centre_of(self, condition: TextCondition) -> Tensor:
        """Return the mean ``M e`` of a description, (B, 1, SIDE, SIDE)."""
        return torch.einsum("bte,echw->bchw", condition.embeddings.double(), self.shifts)

    def denoise(self, x_t: Tensor, t: float, condition: TextCondition) -> Tensor:
        """Return ``E[x_0 | x_t]`` under a description."""
        self.calls += len(x_t)
        alpha, sigma = self.schedule(t)
        v, middle = self.variance, self.centre_of(condition)
        total = alpha**2 * v + sigma**2
        rest = x_t - alpha * middle
        lean = (alpha * rest * self.pattern).sum((1, 2, 3), keepdim=True) / total
        side = torch.tanh(lean) * self.pattern
        return middle + side + alpha * v / total * (rest - alpha * side)


def described(*numbers: float) -> TextCondition:
    """Return the condition of a description, one token of three numbers."""
    return TextCondition(torch.tensor([[numbers]], dtype=torch.float64))


def flowchef(image: Tensor, source: Prior, target: Prior) -> Tensor:
    """FlowChef: the target from noise, steered to the image; it needs no source."""
    operator = Denoising(image.shape[1:])
    return solvers.FlowChef(steps=STEPS, step_size=0.02)(image, operator, target).mean


Edit = Callable[[Tensor, Prior, Prior], Tensor]

METHODS: dict[str, Edit] = {
    "DDIM": inversion.DDIM(steps=STEPS).edit,
    "FixedPoint": inversion.FixedPoint(steps=STEPS).edit,
    "BDIA": inversion.BDIA(steps=STEPS).edit,
    "EDICT": inversion.EDICT(steps=STEPS).edit,
    "EditFriendly": inversion.EditFriendly(steps=STEPS).edit,
    "DirectInversion": inversion.DirectInversion(steps=STEPS).edit,
    "NullText": inversion.NullText(steps=STEPS).edit,
    "PromptTuning": inversion.PromptTuning(steps=STEPS).edit,
    "RIVAL": inversion.RIVAL(steps=STEPS).edit,
    "RFInversion": inversion.RFInversion(steps=STEPS).edit,
    "RFInversion(until=0.3)": inversion.RFInversion(steps=STEPS, until=0.3).edit,
    "DDCM": inversion.DDCM(steps=STEPS).edit,
    "FlowChef": flowchef,
}


def main() -> None:
    """Edit two images by all methods and print the table."""
    prior, null = Described(), described(0, 0, 0)
    one, other = described(1, 0, 0.5), described(0, 1, 0.5)
    source, target = (Guided(prior, c, GUIDANCE, null) for c in (one, other))
    noise = torch.randn(2, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(1))
    signs = torch.tensor([1.0, -1.0]).view(2, 1, 1, 1)
    image = prior.centre_of(one) + signs * prior.pattern + prior.variance**0.5 * noise.double()
    move = prior.centre_of(other) - prior.centre_of(one)
    rows = []
    for name, edit in METHODS.items():
        returned = float((edit(image, source, source) - image).norm() / image.norm())
        prior.calls = 0
        change = edit(image, source, target) - image
        share = (change * move).sum((1, 2, 3), keepdim=True) / move.square().sum()
        rest = float((change - share * move).norm() / image.norm())
        rows.append(
            [
                name,
                str(prior.calls // len(image)),
                f"{returned:.1e}",
                f"{share.mean():.2f}",
                f"{rest:.2f}",
            ]
        )
    print(format_table(["method", "calls", "returned", "moved", "rest"], rows))


if __name__ == "__main__":
    main()
