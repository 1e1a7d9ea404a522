"""Simulated radio-frequency frames of beating hearts with haze."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from wellposed.checks import checked, require_integer
from wellposed.datasets.ultrasound.sector import Sector
from wellposed.datasets.ultrasound.simulation.haze import repeat_tissue, simulate_haze
from wellposed.datasets.ultrasound.simulation.tissue import render_beat
from wellposed.errors import require, require_choice
from wellposed.noise import item_generator

SPLITS = ("train", "validation", "test")

TISSUE, HAZE = 4, 5
"""First words of the seeds, next to those in `wellposed.noise` and `wellposed.metrics`."""


@dataclass(frozen=True, eq=False)
class EchoFrames:
    """Simulated RF with its regions.

    Attributes:
        tissue: float32 (B, 1, depths, beams), or (B, 1, frames, depths, beams) for sequences, with
            electronic noise. The largest magnitude of each item is 1.
        haze: haze of the same shape, with root mean square 1 in each item.
        cavity: boolean mask of the same shape, well inside the blood of the left ventricle.
        myocardium: boolean mask of the same shape, well inside its wall.

    Example:
        >>> from wellposed import datasets
        >>> sector = datasets.Sector(depths=256, beams=16, centre_mhz=0.45)
        >>> echoes = datasets.simulate_echoes([0], "validation", sector)
        >>> echoes.hazy(level_db=-20.0).shape, echoes.cavity.dtype
        (torch.Size([1, 1, 256, 16]), torch.bool)
    """

    tissue: Tensor
    haze: Tensor
    cavity: Tensor
    myocardium: Tensor

    def hazy(self, level_db: float) -> Tensor:
        """Return ``tissue + gamma haze``, which may slightly exceed [-1, 1].

        Args:
            level_db: root mean square of the haze over the largest magnitude of the tissue, in dB;
                -40 is slight, -34 usual, -22 severe.
        """
        return self.tissue + 10 ** (level_db / 20) * self.haze


@checked
def simulate_echoes(
    items: Sequence[int],
    split: str = "train",
    sector: Sector | None = None,
    frames: int | None = None,
    haze_from_tissue: bool = False,
) -> EchoFrames:
    """Simulate hearts in the apical four-chamber view, and haze in front of them.

    Tissue consists of point scatterers, enough per resolution cell for fully developed speckle,
    with chambers, walls, pericardium, valves, a chest wall, shadows, attenuation and electronic
    noise. For the haze see `haze.simulate_haze`. In a sequence the speckle moves with the tissue,
    blood is independent in every frame, and haze is static.

    Args:
        items: numbers of the hearts; a heart does not depend on its batch.
        split: ``train``, ``validation`` or ``test``, which never share a heart or haze.
        sector: the grid; by default that of `Sector`.
        frames: length of sequences over one beat, from end-diastole; ``None`` for single frames at
            a random phase.
        haze_from_tissue: make haze from the echoes of the tissue, see `haze.repeat_tissue`. This
            is a stress test: methods assume that the two are independent.

    Returns:
        The simulated frames, on the CPU.

    Raises:
        ArgumentError: no items, a negative one, an unknown split, or no frames.

    Example:
        >>> from wellposed import datasets
        >>> sector = datasets.Sector(depths=256, beams=16, centre_mhz=0.45)
        >>> datasets.simulate_echoes([0, 7], "validation", sector).tissue.shape
        torch.Size([2, 1, 256, 16])
    """
    require(len(items) > 0, "items", items, "one or more numbers")
    number = SPLITS.index(require_choice("split", split, SPLITS))
    if frames is not None:
        require_integer("frames", frames)
    grid, hearts = sector or Sector(), []
    for item in items:
        tissue, *regions = render_beat(grid, frames, item_generator(item, (number,), TISSUE))
        rng = item_generator(item, (number,), HAZE)
        repeated = repeat_tissue(tissue, grid, rng) if haze_from_tissue else None
        haze = simulate_haze(grid, rng).expand_as(tissue) if repeated is None else repeated
        hearts.append((tissue, haze, *regions))
    parts = [torch.stack(part).transpose(1, 2) for part in zip(*hearts, strict=True)]
    return EchoFrames(*(part if frames is not None else part[:, :, 0] for part in parts))
