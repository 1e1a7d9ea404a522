"""Numbers for the tables that commands print."""

from collections.abc import Mapping
from math import isnan
from typing import NamedTuple

from torch import Tensor

from wellposed.metrics import SSIM_WINDOW, coverage, plane_quality, psnr, ssim
from wellposed.reconstruction import Reconstruction

PLANES = {"D": 2, "H": 3, "W": 4}


class Summary(NamedTuple):
    """A table, and its last row with facts of the run, by column."""

    header: list[str]
    rows: list[list[str]]
    row: dict[str, str]


def summarize(
    result: Reconstruction,
    others: Mapping[str, Tensor],
    truth: Tensor | None,
    peak: float = 1.0,
) -> Summary:
    """Return a table of residual, cost and, if the truth is known, quality.

    Args:
        result: samples of one image or volume.
        others: images to compare with by name, (1, C, H, W) or (1, C, D, H, W).
        truth: the clean image, if it is known. Volumes are compared as a whole and slice by slice
            across each axis.
        peak: value of white.
    """
    names = [] if truth is None else ["PSNR", "SSIM"]
    if truth is not None and truth.ndim == 5:
        names = ["PSNR", *(f"PSNR, SSIM across {name}" for name in PLANES)]

    def figures(image: Tensor) -> list[str]:
        return [] if truth is None else quality(image, truth, peak)

    cost, count = [str(result.nfe), f"{result.seconds:.1f}"], len(result.samples)
    residual = f"{float(result.residual[0, 0]):.3f}"
    rows = [[name, *figures(image), "-", "-", "-"] for name, image in others.items()]
    rows += [[result.kind, *figures(result.samples[0]), residual, *cost]]
    rows += [[f"mean of {count}", *figures(result.mean), "-", *cost]] if count > 1 else []
    header = ["image", *names, "residual", "NFE", "seconds"]
    row = dict(zip(header, rows[-1], strict=True))
    if result.least_ess is not None and result.log_evidence is not None:
        own = [f"{result.least_ess:.1f}", f"{float(result.log_evidence[0]):.2f}"]
        blank = ["-"] * len(own)
        rows = [[*each, *(blank if each[0] in others else own)] for each in rows]
        header += ["least ESS", "log evidence"]
        row = dict(zip(header, rows[-1], strict=True))
    if result.calibrated is not None and truth is not None:
        level, _, lower, upper = result.calibrated
        name, inside = f"within {level:.0%} interval", coverage((lower, upper), truth)
        rows = [[*each, "-"] for each in rows[:-1]] + [[*rows[-1], f"{float(inside):.1%}"]]
        header += [name]
        row[name] = rows[-1][-1]
    row |= {"residual": residual, "solver": result.solver, "seed": str(result.seed)}
    return Summary(header, rows, row)


def quality(image: Tensor, truth: Tensor, peak: float = 1.0) -> list[str]:
    """Return PSNR and SSIM of an image, or PSNR and both across each axis of a volume."""
    decibels = f"{float(psnr(image, truth, peak)):.2f}"
    if truth.ndim == 4:
        small = min(truth.shape[-2:]) < SSIM_WINDOW
        return [decibels, "-" if small else f"{float(ssim(image, truth, peak)):.4f}"]
    planes = (plane_quality(image, truth, axis, peak) for axis in PLANES.values())
    return [decibels, *(f"{p:.2f}, {'-' if isnan(s) else f'{s:.4f}'}" for p, s in planes)]
