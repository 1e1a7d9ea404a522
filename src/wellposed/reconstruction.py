"""The result of a solver: samples, their mean and spread, data misfit and settings."""

import json
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from wellposed import metrics
from wellposed.errors import ArgumentError, FileError, ShapeError, require
from wellposed.figures import write_panel

SUSPICIOUS = 5.0
"""Deviation of a chi-square from 1, in standard deviations, above which it is reported."""


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
        seed: seed of the random draws; ``None`` for recorded draws.
        measured: real numbers measured with noise in each item, (B,); ``None`` without noise.
    """

    samples: Tensor
    residual: Tensor
    nfe: int
    seconds: float
    solver: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    measured: Tensor | None = None

    @cached_property
    def mean(self) -> Tensor:
        """Mean over the samples, (B, C, ...)."""
        return self.samples.mean(0)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the samples, (B, C, ...); of complex ones, over both parts."""
        return (self.samples - self.mean).abs().square().mean(0).sqrt() * _bessel(
            len(self.samples)
        )

    def cpu(self) -> "Reconstruction":
        """Return a copy in host memory."""
        measured = None if self.measured is None else self.measured.cpu()
        return replace(
            self, samples=self.samples.cpu(), residual=self.residual.cpu(), measured=measured
        )

    def quantile(self, q: float) -> Tensor:
        """Return Weibull's ``q``-quantile per pixel, (B, C, ...), of magnitudes if complex."""
        # The k-th of N ordered samples is the quantile k / (N + 1), with linear interpolation.
        require(0 <= q <= 1, "q", q, "a number from 0 to 1")
        return self._quantiles(q)[0]

    def interval(self, level: float = 0.9) -> tuple[Tensor, Tensor]:
        """Return both ends of the central interval of probability ``level`` of the samples.

        Levels above ``(N - 1) / (N + 1)`` return the range of the N samples. The interval need not
        contain the truth with this probability; `uncertainty.Conformal` calibrates it.
        """
        require(0 < level < 1, "level", level, "a number in (0, 1)")
        require(len(self.samples) >= 2, "samples", "a single sample", "2 or more for an interval")
        lower, upper = self._quantiles((1 - level) / 2, (1 + level) / 2)
        return lower, upper

    def coverage(self, truth: Tensor, level: float = 0.9) -> Tensor:
        """Return the fraction of each item's pixels whose truth lies in `interval`, (B,)."""
        return metrics.coverage(self.interval(level), truth)

    @property
    def chi_square(self) -> Tensor:
        """``||A x - y||^2 / (m sigma^2)`` of each sample, (N, B); NaN for items without noise.

        For posterior samples its mean is 1 and its standard deviation ``sqrt(2 / m)``.
        """
        if self.measured is None:
            raise ArgumentError(
                "chi_square: undefined for a noise-free measurement or an unknown operator"
            )
        return torch.where(self.measured > 0, self.residual.square(), torch.nan)

    @property
    def suspicious(self) -> Tensor:
        """Items (B,) that under- or overfit the data, or whose noise level is wrong."""
        # Their median chi-square is more than `SUSPICIOUS` standard deviations from 1.
        if self.measured is None:
            return torch.zeros_like(self.residual[0], dtype=torch.bool)
        gap = (self.chi_square.median(0).values - 1).abs()
        # The comparison is False for NaN, the value of items without noise.
        return gap > SUSPICIOUS * (2 / self.measured.to(gap)).sqrt()

    def _quantiles(self, *fractions: float) -> list[Tensor]:
        # torch.quantile refuses more than 16 million values.
        values = self.samples.abs() if self.samples.is_complex() else self.samples
        ordered, last = values.sort(0).values, len(values) - 1
        places = [min(max(q * (last + 2) - 1, 0), last) for q in fractions]
        return [
            torch.lerp(ordered[int(p)], ordered[min(int(p) + 1, last)], p - int(p)) for p in places
        ]

    def save(
        self,
        folder: str | Path,
        *,
        reference: Tensor | None = None,
        truth: Tensor | None = None,
        name: str = "reconstruction",
    ) -> Path:
        """Write ``name.h5`` and ``name.png``, a panel of the first item; return the HDF5 path.

        The panel also shows a direct ``reference`` and the ``truth``, (B, C, ...), if given.
        Raises `ShapeError` for other shapes and `FileError` if the folder cannot be written.
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
            first = [None if image is None else image[0] for image in (reference, truth)]
            panel = path.with_suffix(".png")
            write_panel(panel, self.mean[0], self.samples[0, 0], self.std[0], *first)
        except OSError as error:
            raise FileError(f"folder: cannot write {str(path)!r}: {error}") from error
        return path

    def _write_hdf5(self, path: Path, reference: Tensor | None, truth: Tensor | None) -> None:
        import h5py

        arrays: dict[str, Tensor | None] = {
            "samples": self.samples,
            "residual": self.residual,
            "measured": self.measured,
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
        """Read the HDF5 file that `save` wrote; raises `FileError` for any other file."""
        import h5py

        try:
            with h5py.File(path, "r") as file:
                measured = file.get("measured")
                return cls(
                    samples=torch.from_numpy(np.asarray(file["samples"])),
                    residual=torch.from_numpy(np.asarray(file["residual"])),
                    nfe=int(file.attrs["nfe"]),
                    seconds=float(file.attrs["seconds"]),
                    solver=str(file.attrs["solver"]),
                    settings=json.loads(file.attrs["settings"]),
                    seed=json.loads(file.attrs["seed"]),
                    measured=None if measured is None else torch.from_numpy(np.asarray(measured)),
                )
        except (OSError, KeyError, ValueError) as error:
            raise FileError(
                f"path: {str(path)!r} is not a saved reconstruction: {error}"
            ) from error

    def __repr__(self) -> str:
        shape, median = tuple(self.samples.shape), float(self.residual.median())
        items = self.suspicious.nonzero().flatten().tolist()
        doubt = f" (inconsistent with the stated noise level: items {items})" if items else ""
        return (
            f"Reconstruction({self.solver}, samples {shape}, residual {median:.3g}{doubt}, "
            f"nfe {self.nfe}, {self.seconds:.1f} s, seed {self.seed})"
        )


def _bessel(count: int) -> float:
    """Return the factor of the unbiased standard deviation."""
    return (count / (count - 1)) ** 0.5 if count > 1 else 1.0
