"""The result of a solver: samples, their mean and spread, data misfit and settings."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from wellposed import metrics
from wellposed.checks import require_integer, require_path
from wellposed.errors import ArgumentError, FileError, ShapeError, require
from wellposed.remote import fetched
from wellposed.results import Calibrated, read_hdf5, write_hdf5
from wellposed.units import Units
from wellposed.writing import make_folder

if TYPE_CHECKING:
    from wellposed.panel import Picture

_log = logging.getLogger(__name__)

OPTIONAL = ("measured", "log_evidence", "ess")
"""Arrays that not every reconstruction has."""

ITEM_AXIS = {"samples": 1, "residual": 1, "measured": 0, "log_evidence": 0, "ess": 1}
"""Axis of the items in each array of a reconstruction."""

CALIBRATED = {"std": "calibrated-std", "lower": "lower", "upper": "upper"}
"""Names of the arrays of `Calibrated` in files, by field."""

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
        units: what the values mean in the file that was measured or simulated from.
        log_evidence: logarithm of the density of ``y`` under the model, (B,), of methods with
            weighted particles; NaN for noise-free items. Differences compare priors and noise
            levels for the same ``y``.
        ess: effective number of particles after each step, (steps, B), of the same methods.
        calibrated: calibrated maps, from `uncertainty.Conformal.maps`, that are written beside
            the standard deviation.

    Example:
        >>> import torch
        >>> from wellposed import metrics, operators, priors, solvers
        >>> operator, prior = operators.Denoising((1, 8, 8), 0.1), priors.GaussianPrior(0.5, 0.1)
        >>> y = operator.measure(torch.rand(1, 1, 8, 8), seed=0)
        >>> result = solvers.DDS(steps=10)(y, operator, prior, num_samples=8, seed=0)
        >>> result.mean.shape, result.std.shape, result.residual.shape, result.nfe
        (torch.Size([1, 1, 8, 8]), torch.Size([1, 1, 8, 8]), torch.Size([8, 1]), 10)
        >>> lower, upper = result.interval(0.8)
    """

    samples: Tensor
    residual: Tensor
    nfe: int
    seconds: float
    solver: str
    settings: dict[str, Any] = field(default_factory=dict)
    seed: int | None = None
    measured: Tensor | None = None
    units: Units = field(default_factory=Units)
    log_evidence: Tensor | None = None
    ess: Tensor | None = None
    calibrated: Calibrated | None = None

    @cached_property
    def mean(self) -> Tensor:
        """Mean over the samples, (B, C, ...)."""
        return self.samples.mean(0)

    @cached_property
    def std(self) -> Tensor:
        """Standard deviation of the samples, (B, C, ...); of complex ones, over both parts.

        It is zero, and not written nor shown, for a single sample.
        """
        return (self.samples - self.mean).abs().square().mean(0).sqrt() * _bessel(
            len(self.samples)
        )

    def cpu(self) -> "Reconstruction":
        """Return a copy in host memory."""
        present = ((name, getattr(self, name)) for name in OPTIONAL)
        moved = {name: value.cpu() for name, value in present if value is not None}
        return replace(self, samples=self.samples.cpu(), residual=self.residual.cpu(), **moved)

    def by_item(self, change: Callable[[Tensor, int], Tensor]) -> "Reconstruction":
        """Return a copy with ``change(array, axis)`` of each array, ``axis`` that of the items."""
        arrays = {name: (getattr(self, name), axis) for name, axis in ITEM_AXIS.items()}
        changed: dict[str, Any] = {
            name: change(value, axis)
            for name, (value, axis) in arrays.items()
            if value is not None
        }
        return replace(self, **changed)

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
        others: Mapping[str, Tensor] | None = None,
        truth: Tensor | None = None,
        name: str = "reconstruction",
    ) -> Path:
        """Write ``name.h5`` (samples and settings) and ``name.png``, see `plot`.

        Args:
            folder: created if missing.
            others: images (B, C, ...) to compare with, by name, e.g. ``{"zero-filled": image}``.
            truth: ground truth, (B, C, ...); adds an error picture.
            name: file name without suffix.

        Returns:
            Path of the HDF5 file.

        Raises:
            ShapeError: one of ``others`` or ``truth`` differs from the mean in shape.
            FileError: the folder cannot be written.
        """
        from wellposed.figures import write_figure

        others = self._checked(others, truth)
        path = Path(folder) / f"{name}.h5"
        if len(self.samples) == 1:
            _log.info("no std is written: it takes two or more samples, this is one")
        make_folder(path.parent)
        self._write_hdf5(path, others, truth)
        write_figure(self.plot(others=others, truth=truth), path.with_suffix(".png"))
        return path

    def plot(
        self,
        item: int = 0,
        *,
        others: Mapping[str, Tensor] | None = None,
        truth: Tensor | None = None,
    ) -> "Picture":
        """Return a row of pictures of an item: others, mean, a sample, truth, std and error.

        Images share a grey scale, standard deviation and error another one, both in the unit of
        `Units`. For a single sample there is no mean and no standard deviation. Volumes show their
        middle slice. Notebooks show the returned picture.

        Args:
            item: index in the batch.
            others: images (B, C, ...) to compare with, by name.
            truth: ground truth, (B, C, ...).

        Raises:
            ShapeError: one of ``others`` or ``truth`` differs from the mean in shape.
            ArgumentError: no such item.
        """
        from wellposed.panel import draw_panel

        others, count = self._checked(others, truth), len(self.samples)
        require_integer("item", item, 0, len(self.mean) - 1)
        images = {title: image[item] for title, image in others.items()}
        best = f"mean of {count}" if count > 1 else self.kind
        images |= {best: self.mean[item], self.kind: self.samples[0, item]}
        spread = {f"std of {count}": self.std[item]} if count > 1 else {}
        spread |= {"calibrated std": self.calibrated.std[item]} if self.calibrated else {}
        if truth is not None:
            images["truth"] = truth[item]
            spread[f"|{best.split(' of')[0]} - truth|"] = metrics.absolute_error(self.mean, truth)[
                item
            ]
        return draw_panel(images, spread, self.units)

    @property
    def kind(self) -> str:
        """What the images of `samples` are: "one sample", or "estimate" if nothing was drawn."""
        return "estimate" if self.seed is None else "one sample"

    def _checked(
        self, others: Mapping[str, Tensor] | None, truth: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the images to compare with; raise unless all have the shape of the mean."""
        compared = dict(others or {})
        for label, image in {**compared, "truth": truth}.items():
            if image is not None and image.shape != self.mean.shape:
                raise ShapeError(
                    f"{label}: got shape {tuple(image.shape)}, accepted: {tuple(self.mean.shape)}"
                )
        return compared

    def _write_hdf5(self, path: Path, others: dict[str, Tensor], truth: Tensor | None) -> None:
        spread = self.std if len(self.samples) > 1 else None
        arrays = {name: getattr(self, name) for name in ("samples", "residual", *OPTIONAL)}
        arrays |= {"mean": self.mean, "std": spread, **others, "truth": truth}
        facts = {name: getattr(self, name) for name in ("nfe", "seconds", "solver")}
        if self.calibrated is not None:
            arrays |= {key: getattr(self.calibrated, n) for n, key in CALIBRATED.items()}
            facts["level"] = self.calibrated.level
        texts = {"settings": self.settings, "seed": self.seed, "units": asdict(self.units)}
        write_hdf5(path, arrays, facts | {key: json.dumps(v) for key, v in texts.items()})

    @classmethod
    def load(cls, path: str | Path) -> "Reconstruction":
        """Read the HDF5 file that `save` wrote; raises `FileError` for any other file."""
        path = fetched("path", require_path("path", path))
        try:
            names = ("samples", "residual", *OPTIONAL, *CALIBRATED.values())
            arrays, facts = read_hdf5(path, names)
            maps = {name: arrays[key] for name, key in CALIBRATED.items() if "level" in facts}
            return cls(
                samples=arrays["samples"],
                residual=arrays["residual"],
                nfe=int(facts["nfe"]),
                seconds=float(facts["seconds"]),
                solver=str(facts["solver"]),
                settings=json.loads(facts["settings"]),
                seed=json.loads(facts["seed"]),
                **{name: arrays.get(name) for name in OPTIONAL},
                units=Units.of(json.loads(facts.get("units", "{}"))),
                calibrated=Calibrated(float(facts["level"]), **maps) if maps else None,
            )
        except FileError:
            raise
        except (OSError, KeyError, ValueError, TypeError, RecursionError) as error:
            raise FileError(
                f"path: {str(path)!r} is not a saved reconstruction: {error}"
            ) from error

    @property
    def least_ess(self) -> float | None:
        """Smallest effective number of particles of all steps and items; ``None`` without."""
        return None if self.ess is None else float(self.ess.min())

    def _particle_facts(self) -> dict[str, str]:
        if self.log_evidence is None or self.least_ess is None:
            return {}
        values = ", ".join(f"{float(v):.2f}" for v in self.log_evidence.flatten()[:4])
        more = ", ..." if len(self.log_evidence) > 4 else ""
        return {"least ESS": f"{self.least_ess:.1f}", "log evidence": values + more}

    def __repr__(self) -> str:
        facts = self._facts()
        particles = [f"{name} {text}" for name, text in self._particle_facts().items()]
        told = [self.solver, f"samples {facts['samples']}", f"residual {facts['residual']}"]
        told += [*particles, f"nfe {self.nfe}", f"{self.seconds:.1f} s", f"seed {self.seed}"]
        return f"Reconstruction({', '.join(told)})"

    def _repr_html_(self) -> str:
        """Return the pictures of the first item, and a table, for notebooks."""
        from wellposed.panel import html

        return html(self.plot(), self._facts())

    def _facts(self) -> dict[str, str]:
        items = self.suspicious.nonzero().flatten().tolist()
        doubt = f" (inconsistent with the stated noise level: items {items})" if items else ""
        return {
            "solver": self.solver,
            "samples": str(tuple(self.samples.shape)),
            "residual": f"{float(self.residual.median()):.3g}{doubt}",
            **self._particle_facts(),
            "nfe": str(self.nfe),
            "seconds": f"{self.seconds:.1f}",
            "seed": str(self.seed),
        }


def _bessel(count: int) -> float:
    """Return the factor of the unbiased standard deviation."""
    return (count / (count - 1)) ** 0.5 if count > 1 else 1.0
