"""The page of a reconstruction."""

from collections.abc import Mapping, Sequence
from functools import partial

from torch import Tensor

from wellposed import metrics
from wellposed.reconstruction import Reconstruction
from wellposed.report.page import Page
from wellposed.report.parts import Facts, Table
from wellposed.report.pictures import Album, gallery

MOST = 4
"""Samples that are shown."""


def reconstruction_page(
    title: str,
    found: Reconstruction,
    *,
    others: Mapping[str, Tensor],
    truth: Tensor | None = None,
    tables: Sequence[Table] = (),
    facts: Mapping[str, str],
) -> Page:
    """Return a page of a reconstruction of one item.

    Args:
        title: heading.
        found: the result.
        others: images (1, C, ...) to compare with, by name.
        truth: ground truth (1, C, ...).
        tables: scores.
        facts: where it is from.
    """
    album = partial(_album, found, others, truth)
    return Page(
        title=title,
        parts=[
            *tables,
            _consistency(found, truth),
            gallery("Pictures", [album]),
            Facts(title="Settings", facts=_settings(found)),
            Facts(title="Provenance", facts=facts),
        ],
    )


def _consistency(found: Reconstruction, truth: Tensor | None) -> Table:
    """Return how well the samples fit the data, and the intervals the truth."""
    header, noisy = ["sample", "residual"], found.measured is not None
    rows = [[f"{k + 1}", f"{float(r[0]):.3f}"] for k, r in enumerate(found.residual)]
    if noisy:
        header.append("chi-square (expected 1)")
        rows = [[*r, f"{float(c[0]):.3f}"] for r, c in zip(rows, found.chi_square, strict=True)]
    note = "The residual is the data misfit over its expected norm, of noise-free data over ||y||."
    if truth is not None and len(found.samples) > 1:
        inside = float(found.coverage(truth)[0])
        least = min(0.9, (len(found.samples) - 1) / (len(found.samples) + 1))
        note += f" {inside:.1%} of the pixels lie in the samples' interval of level {least:.0%}."
    return Table(title="Residual", header=header, rows=rows, note=note)


def _settings(found: Reconstruction) -> dict[str, str]:
    facts: dict[str, object] = {
        "solver": found.solver,
        "samples": len(found.samples),
        "network evaluations of a sample": found.nfe,
        "seconds": f"{found.seconds:.1f}",
        "seed": found.seed,
    }
    return {name: str(value) for name, value in (facts | found.settings).items()}


def _album(found: Reconstruction, others: Mapping[str, Tensor], truth: Tensor | None) -> Album:
    images = {"truth": truth} if truth is not None else {}
    images |= others
    count = len(found.samples)
    if count > 1:
        images[f"mean of {count}"] = found.mean
        images |= {f"sample {k + 1}": found.samples[k] for k in range(min(count, MOST))}
    else:
        images[found.kind] = found.mean
    maps = {f"std of {count}": found.std} if count > 1 else {}
    maps |= {"calibrated std": found.calibrated.std} if found.calibrated else {}
    if truth is not None:
        maps["error"] = metrics.absolute_error(found.mean, truth)
    units = found.units
    shown = {name: units.stored(image[0]).numpy() for name, image in images.items()}
    window = units.shown(shown["truth"] if truth is not None else list(shown.values())[-1])
    spread = {name: (abs(units.scale) * each[0]).numpy() for name, each in maps.items()}
    return Album(
        title="Images",
        anchor="images",
        images=shown,
        maps=spread,
        window=window,
        unit=units.name,
        aspect=units.aspect,
    )
