"""The options of all commands, each declared once: names and meanings are the same in all.

Nothing here loads torch, so that help comes at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from wellposed.checks import setting
from wellposed.cli.options import argument, needed
from wellposed.errors import ArgumentError
from wellposed.operators.options import OperatorOptions
from wellposed.priors.training.settings import TrainingSettings

RESTORED_OPERATORS = ("inpainting", "super-resolution", "deblurring")
"""Operators that may have degraded what `wellposed restore` restores."""


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
    kernel_file: Path | None = setting(
        None, "Deblurring: image or array of the kernel, scaled to sum 1."
    )
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
            "help": "Slices A:B of a volume, B not included; default: all.",
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
        (), "What a checkpoint does not tell, e.g. schedule=cosine; repeatable."
    )
    class_: int | None = setting(None, "Class of a class-conditional prior.")
    guidance: float = setting(1.0, "Weight of the class, above 1 more than it is trained with.")
    null_class: int | None = setting(None, "Class that stands for none; for --guidance.")


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
    """How many samples, how and where."""

    num_samples: int | None = setting(
        None, "Posterior samples; default: 4 of reconstructed images, else 1."
    )
    batch_size: int | None = setting(
        None, "Samples, or frames, worked on at once; default: all, of frames 8."
    )
    seed: int = setting(0, "Decides every random draw.")
    device: str = setting("cpu", "cpu or cuda.")


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Where the state of a run is kept."""

    checkpoint: Path | None = setting(
        None, "Folder that keeps the run: after a kill, go on from it."
    )
    checkpoint_every: int = setting(10, "Steps between two states kept.")


@dataclass(frozen=True, kw_only=True)
class Reconstruct(CheckpointOptions, RunOptions, SolverOptions, PriorOptions, InputOptions):
    """Reconstruct measurements, or simulated ones of clean images or volumes (--simulate).

    Several processes share the slices of a volume, or deal out images: torchrun
    --nproc-per-node 4 -m wellposed reconstruct ...
    """

    inputs: tuple[Path, ...] = argument(
        "PNG, JPEG, NPY, HDF5 or NIfTI; of several, each by itself.", "INPUT..."
    )
    operator: str = needed("Forward operator, see `wellposed list`, or MODULE:CLASS.")
    out: Path = needed("Folder for the result; of several, of theirs.")


@dataclass(frozen=True, kw_only=True)
class Restore(RunOptions, SolverOptions, PriorOptions, InputOptions):
    """Restore photographs of any size with a trained restorer."""

    without: ClassVar = (
        *("class_", "guidance", "null_class"),
        *("noise_sigma", "factor", "keep", "acceleration", "coils", "views", "arc"),
        *("simulate", "window", "axis", "slice", "volume", "slices"),
    )
    inputs: tuple[Path, ...] = argument("PNG, JPEG, TIFF, or folders of them.", "INPUT...")
    prior: str = needed("Shipped restorer, folder of a trained one, or checkpoint file.")
    out: Path = needed("Folder for the restored images.")
    truth: Path | None = setting(None, "The clean image, or a folder of them of the same names.")
    operator: str | None = setting(
        None, f"What degraded them, if known: {', '.join(RESTORED_OPERATORS)}, MODULE:CLASS."
    )
    tile: int | None = setting(None, "Side of the tiles of larger images; default: 512.")


@dataclass(frozen=True, kw_only=True)
class Dehaze(RunOptions, SolverOptions, PriorOptions):
    """Take haze out of ultrasound RF frames with a prior of tissue and one of haze.

    --set gamma=2 takes out more. Writes dehazed.h5 (RF of tissue and haze, of several samples the
    mean and the tissue's spread), b_mode.png and, of sequences, b_mode.gif: hazy, dehazed, haze
    and, where the file holds it, clean; and metrics.json.
    """

    without: ClassVar = ("prior",)
    input: Path = argument("RF frames: HDF5 with 'rf', or MetaImage.", "INPUT")
    out: Path = needed("Folder for the result.")
    tissue: str = setting("tissue-rf", "Prior of tissue: shipped, or a folder.")
    haze: str = setting("haze-rf", "Prior of haze: shipped, or a folder.")
    tile: int | None = setting(None, "Side of overlapping tiles; default: whole frames.")
    frame_ms: int = setting(60, "Duration of a frame of the GIF.")


@dataclass(frozen=True, kw_only=True)
class Inspect(RunOptions, PriorOptions):
    """Tell what a checkpoint is, test whether it denoises, and warn if it was misread."""

    without: ClassVar = ("prior", "num_samples", "batch_size", "seed")
    path: str = argument("Shipped prior, folder, checkpoint file or hub id.", "PATH")
    image: tuple[Path, ...] = setting((), "Clean image to test on; repeatable.")
    size: int = setting(128, "Images are cropped to this side at most.")


@dataclass(frozen=True, kw_only=True)
class Validate(SolverOptions):
    """Measure how far the samples of solvers are from exactly known posteriors.

    The results of other solvers in the folder, from runs of the same effort, are kept.
    """

    without: ClassVar = ("solver",)
    solvers: tuple[str, ...] = argument(
        "Solvers, see `wellposed list`, or MODULE:CLASS; all if none.", "[SOLVER]...", ()
    )
    quick: bool = setting(False, "Seconds instead of minutes per solver.")
    out: Path | None = setting(
        None, "Folder for posterior.md, .png and .json; adds to what is there."
    )


@dataclass(frozen=True, kw_only=True)
class List:
    """List operators, solvers and priors, or the hyper-parameters of solvers."""

    solvers: tuple[str, ...] = argument(
        "Solvers, or MODULE:CLASS; all if none.", "[SOLVER]...", ()
    )


@dataclass(frozen=True, kw_only=True)
class Train(TrainingSettings):
    """Train a prior on images of your own; run again to continue after a kill.

    With --process it is a restorer: images are degraded as they are needed, or come in pairs
    (--degradation pairs).

    On several GPUs: torchrun --nproc-per-node 4 -m wellposed train ... (or accelerate launch).
    """

    device: str = setting("cpu", "cpu or cuda.")
    threads: int = setting(0, "CPU threads; 0: torch's choice.")
