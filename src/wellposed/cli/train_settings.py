"""The options of the commands that train.

Nothing here loads torch, so that help is shown at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wellposed.checks import setting
from wellposed.cli.options import argument, needed
from wellposed.cli.settings import InputOptions
from wellposed.priors.training.settings import RunSettings, TrainingSettings
from wellposed.priors.training.unrolled_settings import UnrolledSettings


@dataclass(frozen=True, kw_only=True)
class Train(TrainingSettings):
    """Train a prior on your own images; the same command resumes an interrupted run.

    With --process the prior is a restorer. Its degraded images are made during training, or read
    from a folder (--degradation pairs).

    On several GPUs: torchrun --nproc-per-node 4 -m wellposed train ... (or accelerate launch).
    """

    device: str = setting("cpu", "cpu or cuda.")
    threads: int = setting(0, "CPU threads; 0: chosen by torch.")


@dataclass(frozen=True, kw_only=True)
class TrainUnrolled(UnrolledSettings):
    """Train an unrolled network end to end for one kind of operator; the same command resumes it.

    Operators are drawn anew for every batch. The network is used by reconstruct --solver unrolled.
    Its memory does not grow with its steps and layers.
    """

    device: str = setting("cpu", "cpu or cuda.")
    threads: int = setting(0, "CPU threads; 0: chosen by torch.")


@dataclass(frozen=True, kw_only=True)
class TrainMeasured(RunSettings, InputOptions):
    """Train a prior on measurements alone: k-space, sinograms or incomplete images.

    Rounds of posterior sampling with the prior of the round before and training on the samples
    (expectation maximisation). All images must have one shape. The same command resumes an
    interrupted run, inside a round too.

    The measurements must miss different parts, or what all of them miss is never learnt. With
    --simulate INPUT is complete, and each file is measured with a mask of its own.
    """

    without: ClassVar = (
        *("operator_set", "volume", "slices", "bands", "compile", "workers"),
        *("class_", "guidance", "null_class"),
    )
    inputs: tuple[Path, ...] = argument("Files, folders or patterns, see reconstruct.", "INPUT...")
    operator: str = needed("Forward operator, see `wellposed list`, or MODULE:CLASS.")
    out: Path = needed("Folder of the run; the prior is in its last round.")
    rounds: int = setting(4, "Rounds; more continue a finished run.")
    start_rounds: int = setting(8, "Rounds of the Gaussian that the first samples come from.")
    solver: str = setting("mmps", "Posterior sampler, see `wellposed list`.")
    solver_set: tuple[str, ...] = setting(
        ("steps=30", "spacing=karras"), "Its hyper-parameters; repeatable."
    )
    image_size: tuple[int, ...] = setting((64,), "Widths of the training crops: 64,128.")
    sigma_data: float = setting(0.5, "Standard deviation of the images in [-1, 1].")
    held_out: float = setting(0.05, "Fraction of the samples kept for validation.")
    name: str = setting("my-prior", "Name for the model card.")
    licence: str = setting("unknown", "Licence of the data, for the model card.")
    device: str = setting("cpu", "cpu or cuda.")
