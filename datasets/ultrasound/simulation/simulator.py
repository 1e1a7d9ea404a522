"""Radio-frequency frames of beating hearts behind haze, simulated."""

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
    """Simulated RF, and what is known of it; nothing tells how it was made.

    Attributes:
        tissue: float32 (B, 1, depths, beams), or of sequences (B, 1, frames, depths, beams); with
            electronic noise. The largest magnitude of each item is 1.
        haze: the same shape, of root mean square 1 in each item.
        cavity: boolean, the same shape: well inside the left ventricle's blood.
        myocardium: likewise, well inside its wall.
    """

    tissue: Tensor
    haze: Tensor
    cavity: Tensor
    myocardium: Tensor

    def hazy(self, level_db: float) -> Tensor:
        """Return ``tissue + gamma haze``, which may leave [-1, 1] a little.

        Args:
            level_db: the haze's root mean square over the tissue's largest magnitude, in dB; -40
                is slight, -34 usual, -22 severe.
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

    Tissue is made of point scatterers, enough in each resolution cell for fully developed
    speckle: chambers, walls, pericardium, valves, a chest wall, shadows, attenuation and
    electronic noise. Haze: see `haze.simulate_haze`. In a sequence tissue moves with its speckle,
    blood is another in every frame, and haze stands still.

    Args:
        items: numbers of the hearts; each is the same in any batch.
        split: ``train``, ``validation`` or ``test``, which never share a heart or a haze.
        sector: the grid; `Sector`'s defaults if not given.
        frames: length of sequences over one beat, from end-diastole on; single frames at a
            random phase if not given.
        haze_from_tissue: haze repeats the tissue's own echoes, see `haze.repeat_tissue`. A stress
            test: the two are not independent as methods assume.

    Returns:
        What was simulated, on the CPU.

    Raises:
        ArgumentError: no items, a negative one, an unknown split, or no frames.
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
