"""The options of all commands, each declared once: names and meanings are the same in all.

Nothing here loads torch, so that help is shown at once.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from wellposed.checks import setting
from wellposed.cli.options import argument, needed
from wellposed.cli.shares import Share, parse_shard
from wellposed.errors import ArgumentError
from wellposed.operators.options import OperatorOptions

OPTIONS_OF = {
    "inpainting": ("keep", "mask"),
    "super-resolution": ("factor", "kernel"),
    "deblurring": ("blur_sigma", "kernel_file"),
    "mri": ("acceleration", "coils"),
    "compressed-sensing": ("ratio",),
    "ct": ("views", "arc", "fan", "centre"),
}
"""Options that only one operator uses."""

RESTORED_OPERATORS = ("inpainting", "super-resolution", "deblurring")
"""Operators that `wellposed restore` accepts as the known degradation."""


def slice_range(option: str, text: str) -> tuple[int, int]:
    """Return A and B of ``A:B``."""
    try:
        first, end = map(int, text.split(":"))
    except ValueError:
        raise ArgumentError(f"{option}: got {text!r}, accepted: A:B, e.g. 100:116") from None
    return first, end


@dataclass(frozen=True, kw_only=True)
class InputOptions(OperatorOptions):
    """The input file and its measurement."""

    operator_set: tuple[str, ...] = setting(
        (), "Argument of an operator MODULE:CLASS, e.g. factor=2; repeatable."
    )
    simulate: bool = setting(
        False,
        "INPUT is a clean image: simulate its measurement; or complete k-space or a sinogram: "
        "keep a part of it. Then compare.",
    )
    centre: float | None = setting(
        None, "Bin of a sinogram that the rotation centre is seen at, from 0; default: the middle."
    )
    mask: Path | None = setting(None, "Inpainting: mask image, white where pixels are known.")
    kernel_file: Path | None = setting(
        None, "Deblurring: image or array of the kernel, scaled to sum 1."
    )
    window: tuple[float, float] | None = setting(
        None,
        "Values of a clean image that become 0 and 1; default: -1000 1000 for CT in HU; otherwise "
        "0 and the 99.8 percentile, unless all values are in [0, 1].",
    )
    axis: int = setting(0, "Axis of a volume perpendicular to its slices; NIfTI is (D, H, W).")
    slice: int | None = setting(None, "Slice of a volume; default: the middle one.")
    volume: bool = setting(
        False, "Reconstruct the whole volume; implied by --slices and by solvers for volumes."
    )
    bands: bool = setting(
        False,
        "INPUT is one image of many bands, (H, W, bands), as of --prior spatio-spectral.",
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
        "Shipped prior, folder of a trained or diffusers prior, checkpoint file, hub id, or "
        "spatio-spectral, fitted to an image of bands (--load rank=5); default: brain-mri "
        "for MRI, ct for CT, natural for other operators.",
    )
    load: tuple[str, ...] = setting(
        (), "Setting that a checkpoint does not store, e.g. schedule=cosine; repeatable."
    )
    class_: int | None = setting(None, "Class of a class-conditional prior.")
    prompt: str | None = setting(None, "What the image shows, for a prior that is told a text.")
    negative_prompt: str | None = setting(None, "What it does not show; for --guidance.")
    guidance: float = setting(
        1.0, "Weight of the class or prompt, above 1 more than it is trained with."
    )
    null_class: int | None = setting(None, "Class that stands for none; for --guidance.")
    arithmetic: str = setting(
        "single",
        "Of the network: single, bfloat16 (half the time on processors that have it; its error is "
        "below 1 % of what the network removes), compiled, or compiled-bfloat16.",
    )


@dataclass(frozen=True, kw_only=True)
class SolverOptions:
    """The solver and its hyper-parameters."""

    solver: str | None = setting(
        None,
        "Solver, see `wellposed list`, or MODULE:CLASS; default: one that suits the problem, see "
        "solvers.recommend.",
    )
    steps: int | None = setting(None, "Number of steps; default: the solver's.")
    set: tuple[str, ...] = setting(
        (), "Hyper-parameter, e.g. gamma=5, see `wellposed list SOLVER`; repeatable."
    )
    recipe: Path | None = setting(
        None, "File of `wellposed tune`: solver and hyper-parameters; --steps and --set go before."
    )


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Number of samples, batching, seed and device."""

    num_samples: int | None = setting(
        None,
        "Posterior samples; default: none but one best estimate, or 4 with a --solver that "
        "samples images.",
    )
    batch_size: int | None = setting(
        None,
        "Images that are solved together: samples of a file, files of one size, or frames; "
        "default: all samples, one file, 8 frames.",
    )
    seed: int = setting(0, "Seed of all random draws.")
    device: str = setting("cpu", "cpu or cuda.")


@dataclass(frozen=True, kw_only=True)
class BatchOptions:
    """How many inputs are shared among processes."""

    shard: Share | None = field(
        default=None,
        metadata={"help": "Part i/n of the inputs, i from 1 to n.", "parse": parse_shard},
    )


@dataclass(frozen=True, kw_only=True)
class CheckpointOptions:
    """Where the state of a run is saved."""

    checkpoint: Path | None = setting(
        None, "Folder for the state of the run, from which an interrupted run resumes."
    )
    checkpoint_every: int = setting(10, "Steps between saved states.")


@dataclass(frozen=True, kw_only=True)
class Reconstruct(
    CheckpointOptions, BatchOptions, RunOptions, SolverOptions, PriorOptions, InputOptions
):
    """Reconstruct images or volumes from measurements, measured or simulated (--simulate).

    Results are written in the kind of the input (PNG, NIfTI, DICOM, NPY, zarr) and as HDF5. Inputs
    that are finished with the same options are skipped; those that fail are reported at the end.
    Inputs and --out may be URLs, e.g. s3://bucket/scan.h5 (pip install 'wellposed[remote]').

    Several processes divide the inputs among them (srun, SLURM job arrays, torchrun, --shard), or
    share the slices of a volume: torchrun --nproc-per-node 4 -m wellposed reconstruct ...
    """

    inputs: tuple[Path, ...] = argument(
        "Files, folders or patterns ('scans/*.h5'): photographs, NIfTI, DICOM, OME-NGFF, NPY, "
        "zarr, HDF5, MATLAB, fastMRI, ISMRMRD, tomopy, HTC 2022; each is reconstructed alone.",
        "INPUT...",
    )
    operator: str = needed("Forward operator, see `wellposed list`, or MODULE:CLASS.")
    out: Path = needed("Folder for the result; a subfolder per input if there are several.")
    like: Path | None = setting(
        None, "NIfTI file, DICOM series or OME-NGFF: the result is written as it, in its place."
    )
    std_map: bool = setting(
        False,
        "Also write std.dcm, the standard deviation as a DICOM Parametric Map beside a DICOM "
        "series (pip install 'wellposed[dicom-maps]').",
    )
    calibration: Path | None = setting(
        None,
        "File of `wellposed calibrate`: adds calibrated standard deviations and intervals; the "
        "solver and the number of samples are by default those of the file.",
    )
    report: bool = setting(False, "Also write report.html: pictures to compare, scores, settings.")
    slab: int | None = setting(
        None,
        "Slices that are in memory at a time: each slice of a volume is solved as an image, and "
        "mean, deviation and samples are written to zarr slab by slab; a killed run goes on.",
    )


@dataclass(frozen=True, kw_only=True)
class Restore(BatchOptions, RunOptions, SolverOptions, PriorOptions, InputOptions):
    """Restore photographs of any size with a trained restorer.

    Finished ones are skipped, failures reported at the end; processes divide them as in
    `wellposed reconstruct`.
    """

    without: ClassVar = (
        *("class_", "guidance", "null_class"),
        *("noise_sigma", "factor", "keep", "acceleration", "coils", "views", "arc", "fan"),
        *("simulate", "centre", "window", "axis", "slice", "volume", "bands", "slices"),
    )
    inputs: tuple[Path, ...] = argument("Photographs, folders of them, or patterns.", "INPUT...")
    prior: str = needed("Shipped restorer, folder of a trained restorer, or checkpoint file.")
    out: Path = needed("Folder for the restored images.")
    truth: Path | None = setting(
        None, "The clean image, or a folder of clean images with the same names."
    )
    operator: str | None = setting(
        None, f"The degradation, if known: {', '.join(RESTORED_OPERATORS)} or MODULE:CLASS."
    )
    tile: int | None = setting(
        None, "Side of the tiles that larger images are divided into; default: 512."
    )


@dataclass(frozen=True, kw_only=True)
class Dehaze(RunOptions, SolverOptions, PriorOptions):
    """Remove haze from ultrasound RF frames with a prior of tissue and a prior of haze.

    Makes one estimate in 8 evaluations. --solver variance-sharing --num-samples 4 draws posterior
    samples; --set gamma=2 removes more haze. Writes dehazed.h5 (RF of tissue and haze; with
    several samples their mean, and the standard deviation of the tissue), metrics.json, b_mode.png
    and, for sequences, b_mode.gif. The pictures show hazy, dehazed and haze, and clean if the file
    has it.
    """

    without: ClassVar = ("prior", "recipe")
    input: Path = argument("RF frames: HDF5 with the data set 'rf', or MetaImage.", "INPUT")
    out: Path = needed("Folder for the result.")
    tissue: str = setting("tissue-rf", "Prior of tissue: a shipped prior or a folder.")
    haze: str = setting("haze-rf", "Prior of haze: a shipped prior or a folder.")
    tile: int | None = setting(None, "Side of overlapping tiles; default: whole frames.")
    sequence: bool = setting(
        False,
        "Frames are one sequence: each after the first starts from the haze of the one before, "
        "as long as it stands still, and takes 3 evaluations.",
    )
    frame_ms: int = setting(60, "Duration of a frame of the GIF in ms.")


@dataclass(frozen=True, kw_only=True)
class Inspect(RunOptions, PriorOptions):
    """Identify a checkpoint, test whether it denoises, and warn if it seems to be misread."""

    without: ClassVar = ("prior", "num_samples", "batch_size", "seed")
    path: str = argument("Shipped prior, folder, checkpoint file or hub id.", "PATH")
    image: tuple[Path, ...] = setting((), "Clean image to test on; repeatable.")
    size: int = setting(128, "Largest side of the test images; larger ones are cropped.")
    geometry: Path | None = setting(
        None, "Folder for geometry.png: asymmetry and dimension of its Jacobian; a minute."
    )


@dataclass(frozen=True, kw_only=True)
class List:
    """List operators, solvers and priors, or the hyper-parameters of solvers."""

    solvers: tuple[str, ...] = argument(
        "Solvers, or MODULE:CLASS; default: everything.", "[SOLVER]...", ()
    )
