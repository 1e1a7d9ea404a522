"""Draw the pictures of axes and angles in conventions.md: ``python docs/pictures.py``.

Points are projected by the operators themselves, so the pictures show what the code does.
"""

from pathlib import Path

import matplotlib

matplotlib.use("agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

from wellposed import operators

OUT = Path(__file__).parent
SIDE, ROW, COLUMN = 15, 3, 11
"""An image whose one bright pixel is above and to the right of the centre."""


def image_axes(axes: Axes) -> torch.Tensor:
    """Draw an image with a bright pixel, its indices and its axes; return it."""
    image = torch.zeros(1, 1, SIDE, SIDE)
    image[..., ROW, COLUMN] = 1
    axes.imshow(image[0, 0], cmap="Blues", vmax=1.5, extent=(0, SIDE, SIDE, 0))
    axes.set(xlabel="column j, X →", ylabel="row i ↓", title="image: X right, Y up")
    axes.annotate("", (SIDE / 2, 0.8), (SIDE / 2, SIDE - 0.8), arrowprops={"arrowstyle": "->"})
    axes.annotate("", (SIDE - 0.8, SIDE / 2), (0.8, SIDE / 2), arrowprops={"arrowstyle": "->"})
    axes.text(SIDE / 2 + 0.3, 1.4, "Y")
    axes.text(SIDE - 1.6, SIDE / 2 - 0.4, "X")
    axes.text(COLUMN - 3.2, ROW - 0.5, f"x[..., {ROW}, {COLUMN}]", fontsize=8)
    return image


def view(axes: Axes, degrees: float) -> None:
    """Draw the rays and the detector of one view of a parallel beam."""
    theta = np.deg2rad(degrees)
    d, u = np.array([-np.sin(theta), np.cos(theta)]), np.array([np.cos(theta), np.sin(theta)])
    for offset in np.linspace(-0.8, 0.8, 5):
        start, end = offset * u - 1.15 * d, offset * u + 1.15 * d
        arrow = {"arrowstyle": "->", "color": "tab:orange", "lw": 1}
        axes.annotate("", end, start, arrowprops=arrow)
    ends = np.array([-1, 1])[:, None] * u + 1.3 * d
    axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "lw": 2})
    axes.text(*(1.6 * d), f"{degrees:g}°", ha="center", va="center")
    axes.text(*(ends[0] - 0.12 * u), "first bin", ha="right", fontsize=7)


def directions(axes: Axes) -> None:
    """Draw where views at two angles look, and how their bins are ordered."""
    axes.add_patch(plt.Rectangle((-0.7, -0.7), 1.4, 1.4, fill=False, lw=1.5))
    for degrees in (0, 60):
        view(axes, degrees)
    axes.set(xlim=(-2.4, 2), ylim=(-1.9, 2), aspect="equal", xlabel="X", ylabel="Y")
    axes.set_title("views look along d, bins run along u")


def parallel(path: Path) -> None:
    """Draw image, directions, and the sinogram of the bright pixel."""
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(12, 4))
    image = image_axes(left)
    directions(middle)
    scan = operators.ParallelBeamCT(SIDE, angles=180, detector=SIDE + 8)
    right.imshow(scan.A(image)[0, 0], cmap="Blues", aspect="auto", extent=(0, SIDE + 8, 180, 0))
    right.set(xlabel="bin k", ylabel="angle in degrees", title="its sinogram")
    right.axvline((SIDE + 8) / 2, color="k", lw=0.6, ls=":")
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def fan(path: Path) -> None:
    """Draw a fan beam with its distances, at 0 and 60 degrees."""
    figure, panels = plt.subplots(1, 2, figsize=(9, 4.6))
    source, detector = 2.0, 3.2
    for axes, degrees in zip(panels, (0, 60), strict=True):
        theta = np.deg2rad(degrees)
        d, u = np.array([-np.sin(theta), np.cos(theta)]), np.array([np.cos(theta), np.sin(theta)])
        place, middle = -source * d, (detector - source) * d
        for offset in np.linspace(-1.4, 1.4, 5):
            axes.plot(*zip(place, middle + offset * u, strict=True), color="tab:orange", lw=1)
        ends = middle + np.array([-1.5, 1.5])[:, None] * u
        axes.annotate("", ends[1], ends[0], arrowprops={"arrowstyle": "->", "lw": 2})
        axes.add_patch(plt.Rectangle((-0.7, -0.7), 1.4, 1.4, fill=False, lw=1.5))
        axes.plot(*place, "ko")
        axes.plot(0, 0, "k+")
        axes.text(*(place - 0.25 * d), "source", ha="center", va="center", fontsize=8)
        axes.set(xlim=(-2.7, 2.7), ylim=(-2.6, 2.6), aspect="equal", xlabel="X", ylabel="Y")
        axes.set_title(f"{degrees}°: source at -source_distance d", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


def kspace(path: Path) -> None:
    """Draw where frequencies are in k-space and how spokes are turned."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 4.2))
    columns = torch.arange(32.0).expand(1, 1, 32, 32)
    wave = torch.cos(2 * torch.pi * 4 * (columns - 16) / 32).to(torch.complex64)
    mri = operators.SingleCoilMRI(torch.ones(32, 32))
    left.imshow(mri.A(wave)[0, 0].abs(), cmap="Blues")
    left.set(xlabel="column", ylabel="row", title="k-space of 4 cycles along the columns")
    left.axhline(16, color="k", lw=0.5, ls=":")
    left.axvline(16, color="k", lw=0.5, ls=":")
    spokes = operators.radial_trajectory([0.0, 30.0, 90.0], 32, (32, 32))
    for degrees, spoke in zip((0, 30, 90), spokes, strict=True):
        right.plot(spoke[:, 1], spoke[:, 0], ".-", lw=0.7, label=f"{degrees}°")
        right.plot(spoke[-1, 1], spoke[-1, 0], "k>", ms=5)
    right.invert_yaxis()
    right.set(xlabel="cycles along columns", ylabel="cycles along rows", aspect="equal")
    right.set_title("spokes; the triangle is the last sample")
    right.legend(loc="lower left", fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=90)


if __name__ == "__main__":
    parallel(OUT / "axes-ct.png")
    fan(OUT / "axes-fan.png")
    kspace(OUT / "axes-mri.png")
