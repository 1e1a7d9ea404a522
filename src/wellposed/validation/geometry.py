"""The geometry of a prior as a table and a picture."""

from pathlib import Path

import torch
from torch import Tensor

from wellposed.figures import format_table, write_figure
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.geometry import Geometry, geometry
from wellposed.priors.prior import Prior
from wellposed.priors.skip import unexplained
from wellposed.validation.self_tests import synthetic

PROBES = 2


def geometry_section(prior: Prior, images: Tensor | None, folder: Path) -> str:
    """Return a table of the geometry of a prior at noised images, and draw it.

    Args:
        prior: a plain prior on images.
        images: (N, C, H, W) in public values; synthetic ones by default.
        folder: where ``geometry.png`` is written.

    Raises:
        FileError: the folder cannot be written.
    """
    device = next((weight.device for weight in prior.parameters()), torch.device("cpu"))
    images = (synthetic(prior, 0) if images is None else images).to(device)
    found = geometry(prior, images[:2], probes=PROBES)
    gaussian = GaussianPrior.fit(images, prior=prior) if len(images) > 1 else None
    rows = [
        ["asymmetry of the Jacobian (0 .. 2)", *_cells(found.asymmetry.mean(1), "{:.2f}")],
        ["its lowest quotient, at least 0", *_cells(found.lowest.amin(1), "{:.3f}")],
        [f"dimension, of {found.size}", *_cells(found.dimension.mean(1), "{:.0f}")],
    ]
    if gaussian is not None:
        left = unexplained(prior, gaussian, images, found.ratios).mean(1)
        rows.append(["not explained by a Gaussian", *_cells(left, "{:.2f}")])
    _draw(found, folder / "geometry.png")
    return format_table(["sigma / alpha", *(f"{ratio:g}" for ratio in found.ratios)], rows)


def _cells(values: Tensor, form: str) -> list[str]:
    return [form.format(value) for value in values.tolist()]


def _draw(found: Geometry, path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.6), dpi=96, layout="constrained")
    curves = {"asymmetry |J - J^T| / |J|": found.asymmetry, "dimension tr J": found.dimension}
    for axes, (title, curve) in zip(figure.subplots(1, 2), curves.items(), strict=True):
        axes.semilogx(found.ratios, curve.cpu().numpy(), marker="o", color="0.3")
        axes.set(title=title, xlabel="sigma / alpha", ylim=(0, None))
    write_figure(figure, path)
