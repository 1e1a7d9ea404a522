"""Pairs of clean and degraded crops that restorers are trained on, set by step and item alone."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.images.crops import Crops, central_crop
from wellposed.datasets.images.image_files import Collection, Stack
from wellposed.datasets.images.reading import Reading
from wellposed.errors import FileError, ShapeError
from wellposed.operators import presets
from wellposed.priors.anchor import enlarged
from wellposed.priors.training.batches import TrainingBatches, draw_noise, draw_places
from wellposed.priors.training.settings import TrainingSettings

Degradation = Callable[[Tensor, np.random.Generator], Tensor]
"""From a clean crop (C, H, W) and its random numbers to a degraded one (C, h, w)."""

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Measured:
    """A crop as an operator of `wellposed reconstruct --simulate` measures it, noise and all.

    What is no image, as k-space and sinograms are, becomes one by the pseudo-inverse; of complex
    images the magnitude is taken.

    Args:
        operator: its name, see `wellposed list`.
        settings: ranges of the noise and the blur, and the options of the operators.
    """

    operator: str
    settings: TrainingSettings

    def __call__(self, clean: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the degraded crop, see `Degradation`."""
        s = self.settings
        options = presets.OperatorOptions(
            seed=int(rng.integers(2**31)),
            noise_sigma=float(rng.uniform(*s.noise)),
            blur_sigma=float(rng.uniform(*s.blur)),
            **{k: getattr(s, k) for k in ("factor", "kernel", "keep", "acceleration", "views")},
        )
        task = presets.simulate(self.operator, clean[None].float().contiguous(), options)
        is_image = not task.y.is_complex() and task.y.shape[1] == len(clean)
        image = task.y if is_image and self.operator != "ct" else task.operator.A_dagger(task.y)
        return (image.abs() if image.is_complex() else image)[0].float()


@dataclass(frozen=True)
class PairedStack:
    """A clean image and, behind its channels, the degraded one, so that crops agree.

    Attributes:
        clean: the clean images.
        degraded: where the degraded ones are.
        file: which of its files.
    """

    clean: Stack
    degraded: Collection
    file: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(D, H, W, 2 C)."""
        *place, channels = self.clean.shape
        return (place[0], place[1], place[2], 2 * channels)

    @property
    def share(self) -> float:
        """The part of its file that this is."""
        return self.clean.share

    @property
    def group(self) -> str | None:
        """The patient."""
        return self.clean.group

    @property
    def ordered(self) -> bool:
        """Whether it is a volume."""
        return self.clean.ordered

    @property
    def valid(self) -> np.ndarray:
        """What was measured."""
        return self.clean.valid

    @property
    def name(self) -> str:
        """The name of the clean file."""
        return self.clean.name

    def array(self) -> np.ndarray:
        """Return both, float32 (D, H, W, 2 C); smaller degraded ones are enlarged."""
        clean = self.clean.array()
        degraded = torch.from_numpy(self.degraded.array(self.file)[self.clean.rows])
        large = enlarged(degraded.movedim(-1, 1), clean.shape[1] // degraded.shape[1])
        return np.concatenate([clean, large.movedim(1, -1).numpy()], -1)


def paired(
    stacks: Sequence[Stack], folder: Path, reading: Reading, skip_broken: bool = False
) -> list[PairedStack]:
    """Return stacks with the degraded images of the same names in a folder.

    Args:
        stacks: the clean images.
        folder: where the degraded ones are.
        reading: how arrays become images.
        skip_broken: leave out pairs of which the degraded image is missing or cannot be read.

    Raises:
        FileError: there is none of that name, or there are several.
        ShapeError: its shape is neither the same nor smaller by a whole factor, named.
    """
    degraded = Collection([folder], reading, skip_broken=skip_broken)
    if skip_broken:
        stems = {file.stem for file in degraded.files}
        stacks = [s for s in stacks if s.collection.files[s.index].stem in stems]
    pairs = [PairedStack(s, degraded, _partner(s, degraded)) for s in stacks]
    factors = {shrinkage(pair) for pair in pairs}
    if len(factors) > 1:
        raise ShapeError(f"degraded: smaller by the factors {sorted(factors)}, accepted: one")
    return pairs


def _partner(stack: Stack, degraded: Collection) -> int:
    wanted = stack.collection.files[stack.index].stem
    found = [i for i, file in enumerate(degraded.files) if file.stem == wanted]
    if len(found) != 1:
        raise FileError(f"degraded: {len(found)} files of the name {wanted!r}, accepted: one")
    return found[0]


def shrinkage(pair: PairedStack) -> int:
    """Return the sides of the clean image over those of the degraded one.

    Raises:
        ShapeError: not a whole number, the same along both.
    """
    clean = pair.clean.collection.shapes[pair.clean.index]
    degraded = pair.degraded.shapes[pair.file]
    factor = clean[1] // degraded[1]
    if (degraded[0], factor * degraded[1], factor * degraded[2], degraded[3]) != clean:
        raise ShapeError(
            f"degraded: {pair.degraded.files[pair.file].name} has shape {degraded}, accepted: "
            f"{clean} as the clean one, or sides smaller by a whole factor"
        )
    return factor


class PairBatches(TrainingBatches):
    """The batch of every step: clean and degraded crops, places of their times, noise.

    Crops are degraded with a margin around them, so that none shows the border of an image that
    goes on. Degraded crops come enlarged to the size of clean ones.

    Args:
        crops: clean ones, or clean and degraded ones as of `PairedStack`.
        degradation: how clean ones are degraded, None for pairs.
        settings: the run's settings.
        latent: channels of the latents in which the noise is, and sides of an image over theirs.
        share: number of this process, and of all.
    """

    def __init__(
        self,
        crops: Crops,
        degradation: Degradation | None,
        settings: TrainingSettings,
        latent: tuple[int, int] | None = None,
        share: tuple[int, int] = (0, 1),
    ) -> None:
        super().__init__(crops, settings, share)
        self.degradation, self.latent = degradation, latent

    def draw(self, items: range, count: int, step: int, size: int) -> Pairs:
        """Return (clean, degraded, u, eps): twice (B, C, H, W) in public values, (B,), noise."""
        s = self.settings
        images = self.crops.batch(items, s.seed, step, size + 2 * s.margin)
        if self.degradation is None:
            clean, degraded = images.chunk(2, dim=1)
        else:
            streams = [np.random.default_rng((s.seed, step, item, 3)) for item in items]
            each = [self.degradation(*pair) for pair in zip(images, streams, strict=True)]
            small, clean = torch.stack(each), images
            degraded = enlarged(small, images.shape[-1] // small.shape[-1])
        clean, degraded = central_crop(clean, size), central_crop(degraded, size)
        channels, factor = self.latent or (clean.shape[1], 1)
        eps = draw_noise(items, s.seed, step, (channels, size // factor, size // factor))
        return clean, degraded, draw_places(items, count, s.seed, step), eps
