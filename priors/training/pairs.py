"""Pairs of clean and degraded crops for restorers, which depend only on step and item."""

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
from wellposed.operators.options import OperatorOptions
from wellposed.priors.anchor import enlarged
from wellposed.priors.training.batches import Batches, draw_noise, draw_places
from wellposed.priors.training.settings import TrainingSettings

Degradation = Callable[[Tensor, np.random.Generator], Tensor]
"""Maps a clean crop (C, H, W) and its random generator to a degraded crop (C, h, w)."""

Pairs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Measured:
    """Degrades a crop by a simulated noisy measurement, as `reconstruct --simulate` does.

    Non-image data (k-space, sinograms) are mapped to images by the pseudo-inverse. Complex images
    are replaced by their magnitude.

    Args:
        operator: name of the operator, see `wellposed list`.
        settings: ranges of noise and blur, and the options of the operators.
    """

    operator: str
    settings: TrainingSettings

    def __call__(self, clean: Tensor, rng: np.random.Generator) -> Tensor:
        """Return the degraded crop, see `Degradation`."""
        s = self.settings
        options = OperatorOptions(
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
    """A clean image with the degraded image as further channels, so that both have the same crops.

    Attributes:
        clean: the clean images.
        degraded: collection of the degraded images.
        file: index of the file in that collection.
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
        """The share of its file."""
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
        """Name of the clean file."""
        return self.clean.name

    def array(self) -> np.ndarray:
        """Return both, float32 (D, H, W, 2 C); smaller degraded images are enlarged."""
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
        FileError: no file or several files have a name.
        ShapeError: the shape of a degraded image is neither equal nor smaller by an integer
            factor.
    """
    degraded = Collection([folder], reading, skip_broken=skip_broken)
    if skip_broken:
        stems = {file.stem for file in degraded.files}
        stacks = [s for s in stacks if s.collection.files[s.index].stem in stems]
    pairs = [PairedStack(s, degraded, _partner(s, degraded)) for s in stacks]
    factors = {shrinkage(pair) for pair in pairs}
    if len(factors) > 1:
        raise ShapeError(
            f"degraded: smaller by the factors {sorted(factors)}, accepted: one factor"
        )
    return pairs


def _partner(stack: Stack, degraded: Collection) -> int:
    wanted = stack.collection.files[stack.index].stem
    found = [i for i, file in enumerate(degraded.files) if file.stem == wanted]
    if len(found) != 1:
        raise FileError(f"degraded: {len(found)} files named {wanted!r}, accepted: one file")
    return found[0]


def shrinkage(pair: PairedStack) -> int:
    """Return the sides of the clean image over those of the degraded one.

    Raises:
        ShapeError: the ratio is not an integer, or differs between the axes.
    """
    clean = pair.clean.collection.shapes[pair.clean.index]
    degraded = pair.degraded.shapes[pair.file]
    factor = clean[1] // degraded[1]
    if (degraded[0], factor * degraded[1], factor * degraded[2], degraded[3]) != clean:
        raise ShapeError(
            f"degraded: {pair.degraded.files[pair.file].name} has shape {degraded}, accepted: "
            f"{clean} as the clean image, or sides smaller by an integer factor"
        )
    return factor


class PairBatches(Batches):
    """The batch of every step: clean and degraded crops, quantiles of their times, noise.

    Crops are degraded with a margin around them, so that a crop shows no border effects inside an
    image. Degraded crops are enlarged to the size of clean ones.

    Args:
        crops: clean crops, or clean and degraded crops of a `PairedStack`.
        degradation: degradation of clean crops; ``None`` for pairs.
        settings: the run's settings.
        latent: for latent noise, the channels of the latents, and the sides of an image over
            those of its latents.
        share: rank of this process, and number of processes.
    """

    settings: TrainingSettings

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
