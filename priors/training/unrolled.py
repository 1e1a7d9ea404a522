"""Training of unrolled networks: clean crops, measured by operators drawn anew in every batch."""

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from wellposed.datasets.images.crops import Crops
from wellposed.datasets.images.image_files import Collection
from wellposed.linalg import as_real, from_channels
from wellposed.metrics import psnr
from wellposed.operators import LinearOperator, presets
from wellposed.operators.options import OperatorOptions
from wellposed.priors.networks.unrolled import Fidelity, UnrolledNetwork
from wellposed.priors.stored.config import Config
from wellposed.priors.training.batches import Batch, Batches
from wellposed.priors.training.task import PICTURES, VALIDATION_CROPS, Task
from wellposed.priors.training.unrolled_settings import UnrolledSettings

if TYPE_CHECKING:
    from accelerate import Accelerator

TRAINED, HELD = 6, 7
"""Last words of the seeds of operators: none of training is ever met in validation."""


class CleanBatches(Batches):
    """The batch of every step: clean crops, 1 at the top of the range, and the step's number."""

    def draw(self, items: range, count: int, step: int, size: int) -> Batch:
        """Return (x, step) of some items of a batch."""
        crops = self.crops.batch(items, self.settings.seed, step, size)
        return crops / self.settings.data_range[1], torch.tensor(step)


class Unrolling(Task[UnrolledNetwork]):
    """Trains an unrolled network; see `Task`.

    The loss is the mean absolute error, as in the paper (Chen et al., 2024, arXiv:2403.17006).
    """

    settings: UnrolledSettings

    def __init__(
        self, settings: UnrolledSettings, collection: Collection, accelerator: "Accelerator"
    ) -> None:
        super().__init__(settings, collection, accelerator)
        s = settings
        train, held = (
            partial(Crops, part, foreground=s.foreground, complex_phase=s.complex_phase)
            for part in collection.split(s.held_out)
        )
        crops = train(max(s.image_size), axes=s.axes, zoom=s.zoom, gain=s.gain, flips=s.flips)
        self.batches = CleanBatches(crops, s, self.share)
        self.held = CleanBatches(held(s.image_size[0], flips="none"), s)
        self.curve = tuple(f"psnr_{which}_at_{r:g}" for r in s.ratios for which in ("plain", "of"))

    def config(self) -> Config:
        """Return the config of the network; see `Task.config`."""
        s = self.settings
        return {
            "network": {
                "channels": self.batches.crops.channels,
                "widths": list(s.widths),
                "layers": s.layers,
                "steps": s.unrolled_steps,
                "block": s.block,
            },
            "unrolled": {"operator": s.operator, "ratios": list(s.ratios)},
            "prediction": "sample",
            "channels": self.batches.crops.channels // (2 if s.complex_phase else 1),
            "complex": s.complex_phase,
            "data_range": list(s.data_range),
        }

    def model(self, network: torch.nn.Module) -> UnrolledNetwork:
        """Return the network itself."""
        return network  # type: ignore[return-value]

    def operator(self, step: int, side: int, kind: int, ratio: float) -> LinearOperator:
        """Return the operator of a step, drawn anew."""
        s = self.settings
        seed = int(np.random.default_rng((s.seed, step, 0, kind)).integers(2**31))
        options = OperatorOptions(
            seed=seed,
            noise_sigma=s.noise_sigma / s.data_range[1],
            ratio=ratio,
            keep=ratio,
            acceleration=1 / ratio,
            coils=s.coils,
        )
        channels = self.batches.crops.channels // (2 if s.complex_phase else 1)
        built = presets.build(s.operator, (channels, side, side), options)
        found: LinearOperator = built.to(self.device)
        return found

    def measured(self, x: Tensor, step: int, kind: int, ratio: float) -> Fidelity:
        """Return the data of clean images (B, C, H, W)."""
        operator = self.operator(step, x.shape[-1], kind, ratio)
        return Fidelity.of(operator.measure(x, step), operator)

    def reconstructed(self, network: UnrolledNetwork, data: Fidelity) -> Tensor:
        """Return the network's reconstruction (B, C, H, W)."""
        with self.autocast():
            found: Tensor = network(data)
        return found

    def loss(self, network: UnrolledNetwork, batch: Batch) -> Tensor:
        """Return the mean absolute error of a batch; the ratios take turns."""
        x, step = self._images(batch[0]), int(batch[1])
        s = self.settings
        ratio = s.ratios[step // len(s.image_size) % len(s.ratios)]
        found = self.reconstructed(network, self.measured(x, step, TRAINED, ratio))
        return as_real(found - x).abs().mean()

    @torch.no_grad()
    def measure(self, network: UnrolledNetwork) -> tuple[float, ...]:
        """Return the loss on fixed held-out crops, and PSNR without and with the network."""
        x = self._images(self.first_held(VALIDATION_CROPS, 0)[0])
        losses, gains = [], list[float]()
        for ratio in self.settings.ratios:
            data = self.measured(x, 0, HELD, ratio)
            found = self.reconstructed(network, data)
            losses.append(float(as_real(found - x).abs().mean()))
            both = (data.back(data.y), found)
            gains += [float(psnr(image.abs(), x.abs(), 1.0).mean()) for image in both]
        return sum(losses) / len(losses), *gains

    @torch.no_grad()
    def pictures(self, network: UnrolledNetwork) -> dict[str, list[Tensor]]:
        """Return clean crops, and their reconstructions without and with the network."""
        x = self._images(self.first_held(PICTURES, 1)[0])
        rows = [x]
        for ratio in self.settings.ratios:
            data = self.measured(x, 1, HELD, ratio)
            rows += [data.back(data.y), self.reconstructed(network, data)]
        return {"reconstructed": rows}

    def _images(self, x: Tensor) -> Tensor:
        x = x.to(self.device)
        return from_channels(x) if self.settings.complex_phase else x
