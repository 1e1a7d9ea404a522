"""Pictures written while a restorer is trained."""

import copy
from pathlib import Path

import torch

from wellposed.priors.training.batches import to_units
from wellposed.priors.training.pictures import write_grid
from wellposed.priors.training.restoration import RestorationTrainer

COUNT = 6


@torch.no_grad()
def write_pictures(trainer: RestorationTrainer, folder: Path) -> None:
    """Write ``restored_STEP.png``: rows of clean, degraded and restored held-out crops."""
    from wellposed.solvers import IRSDE, RDDM, ResShift

    s = trainer.settings
    T = trainer.averaged.schedule.T
    samplers = {
        "resshift": ResShift(steps=min(4, T)),
        "ir-sde": IRSDE(steps=10),
        "rddm": RDDM(steps=min(5, T)),
    }
    batch = trainer.held.draw(range(COUNT), COUNT, 1, s.image_size[0])
    clean, degraded = (v.to(trainer.accelerator.device) for v in batch[:2])
    restorer = copy.copy(trainer.averaged)
    restorer.upsample = 1  # crops come enlarged
    restored = samplers[s.process](degraded, None, restorer, seed=0).samples[0]
    rows = [to_units(v, s.data_range) for v in (clean, degraded, restored)]
    write_grid(rows, folder / f"restored_{trainer.step:07d}.png")
