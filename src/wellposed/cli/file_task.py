"""The inverse problem of a file, and what becomes of its result."""

from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from wellposed import operators
from wellposed.cli.inputs import TaskInput
from wellposed.datasets.mri.encoding import center_crop
from wellposed.operators.plain import plain_image
from wellposed.operators.presets import Task
from wellposed.priors import Prior, fit_range
from wellposed.reconstruction import Reconstruction


@dataclass(frozen=True, kw_only=True, eq=False)
class FileTask(Task):
    """A `Task` of a file.

    Attributes:
        source: the place of the result.
        crop: (h, w) of the image that is written, or None for all of it.
    """

    source: TaskInput
    crop: tuple[int, int] | None = None

    def finished(self, result: Reconstruction) -> Reconstruction:
        """Return a result in its units, cut to the image that is written."""
        return replace(result, samples=self.cut(result.samples), units=self.source.units)

    def cut(self, image: Tensor) -> Tensor:
        """Return the part of an image (..., H, W) that is written."""
        image = self.inside(image)
        return image if self.crop is None else center_crop(image, self.crop)

    def on(self, device: str) -> Self:
        """Return the task with measurement and operator on a device."""
        return replace(self, y=self.y.to(device), operator=self.operator.to(device))

    def fitted(self, prior: Prior) -> Prior:
        """Return the prior in the units of a scan; as it is for other inputs."""
        if not (self.in_scanner_units and prior.has_range):
            return prior
        if isinstance(self.operator, operators.Stacked):  # by its slices, all with one scale
            slices = self.y.transpose(1, 2).flatten(0, 1)
            return fit_range(prior, slices, self.operator.operator)
        return fit_range(prior, self.y, self.operator)

    @property
    def peak(self) -> float:
        """White, for the metrics: 1, or the brightest of a scan."""
        scan = self.in_scanner_units and self.truth is not None
        return float(self.truth.abs().max()) if scan and self.truth is not None else 1.0

    def plain(self) -> dict[str, Tensor]:
        """Return the image to compare with, by its name; see `plain_image`."""
        if any(self.margins):
            return {"input": self.y}
        name, image = plain_image(self.y, self.operator)
        return {name: self.cut(image)}
