"""The result of a solver: samples, their mean and spread, the data misfit, and how it was made."""

import json
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed.errors import FileError, ShapeError


@dataclass(frozen=True, eq=False)
class Reconstruction:
    """Posterior samples of a batch of inverse problems, in public units.

    Attributes:
        samples: (N, B, C, ...), real or complex.
        residual: data misfit of each sample over its expected norm, (N, B): about 1 for a
            posterior sample of a noisy problem; ``||A x - y|| / ||y||`` when noise-free.
        nfe: network evaluations per sample.
        seconds: wall time of the call.
        solver: name of the method.
        settings: its hyper-parameters.
        seed: the seed of the random draws; ``None`` if they were recorded ones.
    """

    samples: Tensor
    residual: Tensor
    nfe: int
    seconds: float
    solver: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None

    @cached_property
    def mean(self) -> Tensor:
        """Mean over the samples, (B, C, ...)."""
        return self.samples.mean(0)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation over the samples, (B, C, ...), real; zero for a single sample.

        For complex images the root of the summed variances of both parts.
        """
        return (self.samples - self.mean).abs().square().mean(0).sqrt() * _bessel(
            len(self.samples)
        )

    def save(
        self,
        folder: str | Path,
        *,
        reference: Tensor | None = None,
        truth: Tensor | None = None,
        name: str = "reconstruction",
    ) -> Path:
        """Write ``name.h5`` (samples and settings) and ``name.png`` (a panel of the first item).

        Args:
            folder: created if missing.
            reference: a plain reconstruction shown first, e.g. the back-projection, (B, C, ...).
            truth: ground truth, (B, C, ...); adds an error picture.
            name: file name without suffix.

        Returns:
            Path of the HDF5 file.

        Raises:
            ShapeError: ``reference`` or ``truth`` differs from the mean in shape.
            FileError: the folder cannot be written.
        """
        for label, image in (("reference", reference), ("truth", truth)):
            if image is not None and image.shape != self.mean.shape:
                raise ShapeError(
                    f"{label}: got shape {tuple(image.shape)}, accepted: {tuple(self.mean.shape)}"
                )
        path = Path(folder) / f"{name}.h5"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._write_hdf5(path, reference, truth)
            from wellposed.report import write_panel

            write_panel(self, path.with_suffix(".png"), reference, truth)
        except OSError as error:
            raise FileError(f"folder: cannot write {str(path)!r}: {error}") from error
        return path

    def _write_hdf5(self, path: Path, reference: Tensor | None, truth: Tensor | None) -> None:
        import h5py

        arrays: dict[str, Tensor | None] = {
            "samples": self.samples,
            "residual": self.residual,
            "mean": self.mean,
            "std": self.std,
            "reference": reference,
            "truth": truth,
        }
        with h5py.File(path, "w") as file:
            for name, value in arrays.items():
                if value is not None:
                    value = value.float() if value.dtype == torch.bfloat16 else value
                    file.create_dataset(
                        name, data=value.detach().cpu().numpy(), compression="gzip"
                    )
            file.attrs["nfe"] = self.nfe
            file.attrs["seconds"] = self.seconds
            file.attrs["solver"] = self.solver
            file.attrs["settings"] = json.dumps(self.settings)
            file.attrs["seed"] = json.dumps(self.seed)

    @classmethod
    def load(cls, path: str | Path) -> "Reconstruction":
        """Read what `save` wrote (the HDF5 file).

        Raises:
            FileError: missing, truncated or of another kind.
        """
        import h5py

        try:
            with h5py.File(path, "r") as file:
                return cls(
                    samples=torch.from_numpy(np.asarray(file["samples"])),
                    residual=torch.from_numpy(np.asarray(file["residual"])),
                    nfe=int(file.attrs["nfe"]),
                    seconds=float(file.attrs["seconds"]),
                    solver=str(file.attrs["solver"]),
                    settings=json.loads(file.attrs["settings"]),
                    seed=json.loads(file.attrs["seed"]),
                )
        except (OSError, KeyError, ValueError) as error:
            raise FileError(f"path: {str(path)!r} is no saved reconstruction: {error}") from error

    def __repr__(self) -> str:
        shape, median = tuple(self.samples.shape), float(self.residual.median())
        return (
            f"Reconstruction({self.solver}, samples {shape}, residual {median:.3g}, "
            f"nfe {self.nfe}, {self.seconds:.1f} s, seed {self.seed})"
        )


def _bessel(count: int) -> float:
    """Return the factor of the unbiased standard deviation."""
    return (count / (count - 1)) ** 0.5 if count > 1 else 1.0
