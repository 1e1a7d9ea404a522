"""Numbers for the tables that commands print."""

from torch import Tensor

from wellposed.figures import format_table
from wellposed.metrics import plane_quality, psnr, ssim
from wellposed.reconstruction import Reconstruction

PLANES = {"D": 2, "H": 3, "W": 4}


def summarize(result: Reconstruction, reference: Tensor, truth: Tensor | None) -> str:
    """Return a table of residual, cost and, if the truth is known, quality.

    Args:
        result: samples of one image or volume.
        reference: a direct reconstruction, (1, C, H, W) or (1, C, D, H, W).
        truth: the clean image, if it is known. Volumes are compared as a whole and slice by slice
            across each axis.
    """
    names = [] if truth is None else ["PSNR", "SSIM"]
    if truth is not None and truth.ndim == 5:
        names = ["PSNR", *(f"PSNR, SSIM across {name}" for name in PLANES)]

    def figures(image: Tensor) -> list[str]:
        return [] if truth is None else quality(image, truth)

    cost = [str(result.nfe), f"{result.seconds:.1f}"]
    residual = f"{float(result.residual[0, 0]):.3f}"
    rows = [
        ["reference", *figures(reference), "-", "-", "-"],
        ["one sample", *figures(result.samples[0]), residual, *cost],
        ["mean", *figures(result.mean), "-", *cost],
    ]
    return format_table(["image", *names, "residual", "NFE", "seconds"], rows)


def quality(image: Tensor, truth: Tensor) -> list[str]:
    """Return PSNR and SSIM of an image, or PSNR and both across each axis of a volume."""
    decibels = f"{float(psnr(image, truth)):.2f}"
    if truth.ndim == 4:
        return [decibels, f"{float(ssim(image, truth)):.4f}"]
    planes = (plane_quality(image, truth, axis) for axis in PLANES.values())
    return [decibels, *(f"{p:.2f}, {s:.4f}" for p, s in planes)]
