"""The options that commands share, each declared once: names and meanings are the same in all."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from wellposed.checks import setting
from wellposed.errors import ArgumentError, require_device
from wellposed.operators.options import OperatorOptions


def slice_range(option: str, text: str) -> tuple[int, int]:
    """Return A and B of ``A:B``."""
    try:
        first, end = map(int, text.split(":"))
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, accepted: A:B, as 100:116") from None
    return first, end


@dataclass(frozen=True, kw_only=True)
class InputOptions(OperatorOptions):
    """What is read of a file, and how it is or was measured."""

    operator_set: tuple[str, ...] = setting(
        (), "Argument of an operator MODULE:CLASS, e.g. factor=2; repeatable."
    )
    simulate: bool = setting(False, "INPUT is a clean image: measure it first, then compare.")
    mask: Path | None = setting(None, "Inpainting: image of known pixels, which are white.")
    window: tuple[float, float] | None = setting(
        None,
        "Values of a clean image taken for 0 and 1; default: -1000 1000 for CT in HU, else 0 and "
        "the 99.8 percentile, unless all are in [0, 1].",
    )
    axis: int = setting(0, "Axis across which a volume is sliced; NIfTI as (D, H, W).")
    slice: int | None = setting(None, "Slice of a volume; default: the middle one.")
    volume: bool = setting(
        False, "Reconstruct the volume; implied by --slices and solvers of volumes."
    )
    slices: tuple[int, int] | None = field(
        default=None,
        metadata={
            "help": "Slices A to B - 1 of a volume; default: all.",
            "metavar": "A:B",
            "parse": slice_range,
        },
    )


@dataclass(frozen=True, kw_only=True)
class PriorOptions:
    """The prior."""

    prior: str | None = setting(
        None,
        "Shipped prior, folder of a trained or diffusers one, checkpoint file or hub id; default: "
        "brain-mri for MRI, ct for CT, else natural.",
    )
    load: tuple[str, ...] = setting(
        (), "What a checkpoint does not tell, e.g. autoencoder=vq.pth; repeatable."
    )


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """The solver and its hyper-parameters."""

    solver: str | None = setting(
        None,
        "Solver, see `wellposed list`, or MODULE:CLASS; default: dds, or what suits a restorer.",
    )
    steps: int | None = setting(None, "Steps; default: the solver's.")
    set: tuple[str, ...] = setting(
        (), "Hyper-parameter, e.g. gamma=5, see `wellposed list SOLVER`; repeatable."
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How many samples, and where."""

    num_samples: int | None = setting(
        None, "Posterior samples; default: 4 of reconstructed images, else 1."
    )
    batch_size: int | None = setting(
        None, "Samples, or frames, worked on at once; default: all, of frames 8."
    )
    seed: int = setting(0, "Decides every random draw.")
    device: str = setting("cpu", "cpu or cuda.")

    def place(self) -> str:
        """Return the device, of several processes on one machine each its own."""
        require_device("--device", self.device)
        if self.device == "cuda":
            import torch

            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
        return self.device
