"""The options of the commands that compare solvers.

Nothing here loads torch, so that help is shown at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wellposed.checks import setting
from wellposed.cli.options import argument, needed
from wellposed.cli.settings import (
    BatchOptions,
    InputOptions,
    PriorOptions,
    RunOptions,
    SolverOptions,
)

LIST = (
    "Solvers, separated by commas: hqs,mmps,dds, with hyper-parameters 'dds steps=50 gamma=5', "
    "deepinv:DPS, spandrel:WEIGHTS, recipe:FILE, or FILE.py:CLASS; see `wellposed list`."
)
OUT = "Folder for table.md, scores.csv, report.html and the records."


@dataclass(frozen=True, kw_only=True)
class Benchmark(BatchOptions):
    """Compare solvers on a frozen task.

    A card fixes images, operator, noise, prior and scores; the same card gives the same table up
    to the seconds, and one whose measurements have changed is refused. Without CARD the cards are
    listed. Finished runs are kept in OUT, so that the same command goes on where it stopped;
    several processes divide them as in `wellposed reconstruct`.
    """

    card: str | None = argument("A card of the package, or a TOML file.", "[CARD]", None)
    solvers: str | None = setting(None, LIST)
    out: Path | None = setting(None, OUT)
    data: Path | None = setting(
        None, "Folder of other images for the card, such as the published test set."
    )
    num_samples: int | None = setting(None, "Posterior samples; default: those of the card.")
    device: str = setting("cpu", "cpu or cuda.")


@dataclass(frozen=True, kw_only=True)
class Compare(BatchOptions, RunOptions, PriorOptions, InputOptions):
    """Compare solvers on images of your own.

    INPUT are clean images, whose measurements are simulated, or complete k-space or sinograms, of
    which a part is kept. Finished runs are kept in OUT.
    """

    without: ClassVar = ("simulate", "volume", "batch_size")
    inputs: tuple[Path, ...] = argument("Files, folders or patterns.", "INPUT...")
    operator: str = needed("Forward operator, see `wellposed list`, or MODULE:CLASS.")
    solvers: str = needed(LIST)
    out: Path = needed(OUT)
    num_samples: int = setting(4, "Posterior samples of each image.")
    simulate: bool = True


@dataclass(frozen=True, kw_only=True)
class Tune(RunOptions, SolverOptions, PriorOptions, InputOptions):
    """Search the hyper-parameters of a solver on validation images, and write a recipe.

    INPUT are clean images, whose measurements are simulated, or complete k-space or sinograms, of
    which a part is kept; or --card gives the task and --data the images. Take images that no test
    uses. The solver's own settings, with those of --steps and --set, are tried first; those of
    --steps and --set are not searched. `--recipe` of other commands reads the file.

    Finished runs are kept in a folder beside OUT, so that the same command goes on where it
    stopped, also with more --evaluations.
    """

    without: ClassVar = ("recipe", "simulate", "volume", "batch_size")
    inputs: tuple[Path, ...] = argument("Files, folders or patterns.", "[INPUT]...", ())
    operator: str | None = setting(
        None, "Forward operator, see `wellposed list`, or MODULE:CLASS."
    )
    card: str | None = setting(
        None, "A card, see `wellposed benchmark`, in place of INPUT; its ranges are taken."
    )
    data: Path | None = setting(None, "Folder of validation images for the card.")
    solver: str = needed("The solver, see `wellposed list`.")
    out: Path = needed("The recipe, a file .json.")
    evaluations: int = setting(5000, "Network evaluations that may be spent, of all samples.")
    range: tuple[str, ...] = setting(
        (),
        "Range of a hyper-parameter in place of the usual: gamma=0.1:100:log, eta=0:1 or "
        "cg_steps=1,3,5; repeatable.",
    )
    objective: str = setting("PSNR", "Score of the mean of the samples: PSNR, SSIM or CRPS.")
    num_samples: int = setting(1, "Posterior samples of each image.")
    simulate: bool = True
