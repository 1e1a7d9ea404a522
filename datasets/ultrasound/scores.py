"""Scores of dehazing, if the tissue is known."""

from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.ultrasound.metrics import gcnr, ks_statistic
from wellposed.datasets.ultrasound.processing import b_mode, envelope
from wellposed.errors import ShapeError
from wellposed.metrics import psnr


@checked
def dehazing_scores(
    rf: Tensor, tissue: Tensor, cavity: Tensor | None = None, myocardium: Tensor | None = None
) -> dict[str, Tensor]:
    """Return scores of RF frames (B, 1, depths, beams) compared with clean tissue, (B,) each.

    Grey values have a dynamic range of 60 dB below the largest envelope of each clean frame.

    Args:
        rf: hazy or dehazed frames.
        tissue: clean frames, of the same shape.
        cavity: mask of blood; for gcnr.
        myocardium: mask of its wall; for gcnr and ks.

    Returns:
        ``psnr_rf`` and ``psnr_b_mode`` in dB with a peak of 1; with the masks also ``gcnr`` of the
        two regions, and ``ks`` between the wall's grey values and those of the clean frame, which
        is small if its speckle is preserved. A high gcnr alone can result from erasing the cavity.

    Raises:
        ShapeError: shapes differ.

    Example:
        >>> import torch
        >>> from wellposed.datasets import ultrasound
        >>> tissue = torch.randn(1, 1, 256, 16)
        >>> scores = ultrasound.dehazing_scores(tissue + 0.1, tissue)
        >>> scores["psnr_rf"].round()
        tensor([20.], dtype=torch.float64)
    """
    if rf.shape != tissue.shape or rf.ndim != 4:
        raise ShapeError(
            f"tissue: got {tuple(tissue.shape)}, accepted: {tuple(rf.shape)} as rf, with four axes"
        )
    peak = envelope(tissue).flatten(1).amax(1)
    grey, clean = (b_mode(v, 60.0, peak) for v in (rf, tissue))
    scores = {"psnr_rf": psnr(rf, tissue), "psnr_b_mode": psnr(grey, clean)}
    if cavity is not None and myocardium is not None:
        scores["gcnr"] = gcnr(grey, cavity, myocardium)
        scores["ks"] = ks_statistic(grey, clean, myocardium)
    return scores
