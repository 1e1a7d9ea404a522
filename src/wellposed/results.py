"""HDF5 files of results: arrays, and facts as attributes."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from torch import Tensor

from wellposed.integrity import check_claim
from wellposed.writing import replacing


class Calibrated(NamedTuple):
    """Calibrated uncertainty: real maps (B, C, ...), of magnitudes if complex.

    Attributes:
        level: probability that the truth of a pixel lies in the interval.
        std: standard deviation, of which the interval is that of a Gaussian.
        lower, upper: ends of the interval.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.uncertainty import Conformal
        >>> operator, prior = operators.Denoising((1, 8, 8), 0.1), priors.GaussianPrior(0.5, 0.1)
        >>> truth = torch.rand(10, 1, 8, 8)
        >>> y = operator.measure(truth)
        >>> result = solvers.DDS(steps=10)(y, operator, prior, num_samples=4, seed=0)
        >>> maps = Conformal.fit([result], [truth], level=0.9).maps(result)
        >>> maps.level, maps.std.shape
        (0.9, torch.Size([10, 1, 8, 8]))
    """

    level: float
    std: Tensor
    lower: Tensor
    upper: Tensor


def write_hdf5(
    path: Path, arrays: Mapping[str, Tensor | None], facts: Mapping[str, object]
) -> None:
    """Write compressed arrays, without those that are None, and facts as attributes.

    Raises:
        FileError: the file cannot be written.
    """
    with replacing(path, "folder") as part, h5py.File(part, "w") as file:
        for name, value in arrays.items():
            if value is not None:
                value = value.float() if value.dtype == torch.bfloat16 else value
                data = value.detach().cpu().numpy()
                file.create_dataset(name, data=data, compression="gzip")
        file.attrs.update(facts)


def read_hdf5(path: Path, names: Iterable[str]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the arrays of these names that exist, and the attributes.

    Raises:
        OSError: the file is missing or not HDF5.
        FileError: an array is too large for the file or the memory.
    """
    with h5py.File(path, "r") as file:
        there = [name for name in names if name in file]
        for name in there:
            check_claim(path, name, file[name].nbytes)
        found = {name: np.asarray(file[name]) for name in there}
        return {key: torch.from_numpy(v) for key, v in found.items()}, dict(file.attrs)
