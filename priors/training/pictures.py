"""Pictures written during training: denoised held-out crops, and samples."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.priors.prior import broadcast
from wellposed.priors.training.batches import draw_batch
from wellposed.priors.training.trainer import VALIDATION_LEVELS, Trainer

COUNT = 6
SAMPLING_STEPS = 20


def write_pictures(trainer: Trainer, folder: Path) -> None:
    """Write ``denoised_STEP.png`` and ``samples_STEP.png``."""
    for kind, draw in (("denoised", denoising_grid), ("samples", sample_grid)):
        path = folder / f"{kind}_{trainer.step:07d}.png"
        write_grid(draw(trainer), path, trainer.settings.complex_phase)


@torch.no_grad()
def denoising_grid(trainer: Trainer) -> list[Tensor]:
    """Return rows: clean held-out crops, then noisy and denoised ones for each level."""
    prior, settings = trainer.averaged, trainer.settings
    size = settings.image_size[0]
    batch = draw_batch(trainer.held_crops, range(COUNT), COUNT, settings, 1, size)
    x0, _, eps = (v.to(trainer.accelerator.device) for v in batch)
    rows = [x0]
    for level in VALIDATION_LEVELS:
        t = prior.schedule.time_at(level)
        alpha, sigma = (broadcast(v, x0) for v in prior.schedule(t))
        x_t = alpha * x0 + sigma * eps
        rows += [x_t / alpha, prior.denoise_channels(x_t, t)]
    return rows


def sample_grid(trainer: Trainer) -> list[Tensor]:
    """Return rows of unconditional samples, of the size of the largest crops."""
    from wellposed.priors.sampling import sample

    prior, device = trainer.averaged, trainer.accelerator.device
    sides = trainer.held_crops.sides(max(trainer.settings.image_size))
    images = sample(prior, COUNT, sides, steps=SAMPLING_STEPS, seed=0, device=device)
    units = prior.to_units(images)
    real = torch.cat([units.real, units.imag], 1) if units.is_complex() else units
    return list(real.split(COUNT // 2))


def write_grid(rows: list[Tensor], path: Path, complex_phase: bool = False) -> None:
    """Write rows of images (B, C, H, W) in [-1, 1] as one picture: in grey, or in colour if RGB.

    Args:
        rows: one tensor each.
        path: a PNG file.
        complex_phase: the two channels are the parts of complex images; write magnitudes.
    """
    from PIL import Image

    grid = torch.cat([torch.cat(list(row), -1) for row in rows], -2).cpu().numpy()
    if complex_phase:
        grey = np.hypot(*grid)
    elif len(grid) == 3:
        grey = (grid.transpose(1, 2, 0) + 1) / 2
    else:
        grey = (grid.mean(0) + 1) / 2
    Image.fromarray((grey.clip(0, 1) * 255).astype(np.uint8)).save(path)
