"""Measurements from which a prior is learnt, and the samples of their images."""

import copy
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from deepinv.physics import GaussianNoise
from torch import Tensor

from wellposed.errors import CheckpointError, ShapeError, require
from wellposed.operators.base import LinearOperator
from wellposed.operators.check import require_operator
from wellposed.priors.flat import Flat
from wellposed.priors.scaling import fit_range
from wellposed.writing import make_folder, write_array


@dataclass(frozen=True)
class Measurement:
    """A measurement of one image.

    Attributes:
        name: name of its samples' files.
        y: (1, ...).
        operator: a linear operator with a positive noise level.

    Example:
        >>> import torch
        >>> from wellposed import operators
        >>> from wellposed.learning import Measurement
        >>> mask = operators.random_mask(16, 16, keep=0.5)
        >>> operator = operators.Inpainting(mask, channels=1, noise_sigma=0.05)
        >>> y = operator.measure(5.0 * torch.rand(1, 1, 16, 16), seed=0)  # in units of a scanner
        >>> scan = Measurement("scan-1", y, operator).normalised()
        >>> bool(scan.image.max() < 2)
        True
    """

    name: str
    y: Tensor
    operator: LinearOperator

    def __post_init__(self) -> None:
        require_operator(self.operator, self.y)
        if len(self.y) != 1:
            raise ShapeError(f"y: got {len(self.y)} items, accepted: one of each measurement")
        sigma = torch.as_tensor(self.operator.noise_model.sigma)
        positive = sigma.numel() == 1 and float(sigma) > 0
        accepted = "one positive number; set noise_sigma"
        require(positive, "noise_sigma", f"{sigma.tolist()} for {self.name}", accepted)

    @property
    def image(self) -> Tensor:
        """An image of its shape, dtype and device: its back-projection."""
        back: Tensor = self.operator.A_adjoint(self.y)
        return back

    def normalised(self) -> "Measurement":
        """Return the measurement of the image divided by its brightness, see `fit_range`.

        Scanners have units of their own; the images of all files are then in about [0, 1].
        """
        scale = fit_range(_Unit(), self.y, self.operator).data_range[1]
        own = copy.deepcopy(self.operator)
        own.noise_model = GaussianNoise(float(self.operator.noise_model.sigma) / scale)
        return replace(self, y=self.y / scale, operator=own)


class _Unit(Flat):
    """Stands for a prior of images up to 1, of which only the range is used."""

    def __init__(self) -> None:
        super().__init__()
        self.data_range = (-1.0, 1.0)


def write_sample(x: Tensor, path: Path) -> None:
    """Write a sample (1, C, H, W) as an array (H, W) or (H, W, C), complex ones by magnitude."""
    values = (x[0].abs() if x.is_complex() else x[0]).movedim(0, -1).float().cpu().numpy()
    make_folder(path.parent, "out")
    write_array(path, values[..., 0] if values.shape[-1] == 1 else values, "out")


def has_sample(path: Path) -> bool:
    """Return whether a sample has been written.

    Raises:
        CheckpointError: the file is damaged.
    """
    if not path.exists():
        return False
    try:
        finite = bool(np.isfinite(np.load(path)).all())
    except (ValueError, OSError, EOFError) as error:
        raise CheckpointError(f"out: {str(path)!r} is damaged ({error}); delete it") from error
    if not finite:
        raise CheckpointError(f"out: {str(path)!r} has values that are not finite; delete it")
    return True
