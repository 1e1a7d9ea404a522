"""The options of the commands that test samplers on images whose truth is known.

Nothing here loads torch, so that help is shown at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from wellposed.checks import setting
from wellposed.cli.options import argument, needed
from wellposed.cli.settings import InputOptions, PriorOptions, RunOptions, SolverOptions

DRAWN = ("images", "image_size", "draw_steps")
"""Options of images that are drawn from the prior."""

READ = ("centre", "window", "axis", "slice", "bands", "slices")
"""Options of images that are read from files."""


@dataclass(frozen=True, kw_only=True)
class DrawOptions:
    """Images that are drawn from the prior."""

    images: int = setting(100, "Number of images that are drawn from the prior.")
    image_size: int = setting(64, "Side of these images.")
    draw_steps: int = setting(100, "Steps of the draws from a network; analytic priors need none.")


@dataclass(frozen=True, kw_only=True)
class Calibrate(RunOptions, SolverOptions, PriorOptions, DrawOptions, InputOptions):
    """Find how wide intervals must be, on known images, for `reconstruct --calibration`.

    INPUT are clean images of one size, or complete k-space or sinograms; their measurements are
    simulated. With --slices each slice of a volume is an image. Without INPUT the images are drawn
    from the prior: then the intervals are only as good as the prior.

    The factor holds for the solver with its settings, the number of samples, the prior, operators
    that miss the same detail, about equal amounts of data and noise, and the size of the images.
    With 20 or more images it follows the typical pixel, with fewer the worst.
    """

    without: ClassVar = ("simulate", "volume")
    inputs: tuple[Path, ...] = argument("Files, folders or patterns.", "[INPUT]...", ())
    operator: str = needed("Forward operator, see `wellposed list`, or MODULE:CLASS.")
    out: Path = needed("The file, .json.")
    level: float = setting(0.9, "Fraction of pixels whose truth the intervals shall hold.")
    num_samples: int = setting(8, "Posterior samples of each image.")
    images: int = setting(20, "Without INPUT: number of images that are drawn from the prior.")
    simulate: bool = True


@dataclass(frozen=True, kw_only=True)
class Validate(RunOptions, SolverOptions, PriorOptions, DrawOptions, InputOptions):
    """Measure how far the samples of solvers are from exactly known posteriors.

    Results of other solvers that the folder holds from runs of the same effort are kept.

    With --operator, test whether the samples of one solver are consistent with a prior of yours:
    images are drawn from the prior and measured, and their ranks among posterior samples must be
    uniform (simulation-based calibration and TARP). An interrupted run with --out goes on.
    """

    without: ClassVar = ("solver", "recipe", "simulate", "volume", *READ)
    operator: str | None = setting(
        None, "Test self-consistency with this operator, see `wellposed list`, or MODULE:CLASS."
    )
    num_samples: int = setting(19, "Posterior samples of each image that is drawn.")
    simulate: bool = True
    solvers: tuple[str, ...] = argument(
        "Solvers, see `wellposed list`, or MODULE:CLASS; default: all.", "[SOLVER]...", ()
    )
    quick: bool = setting(False, "Smaller tests: seconds instead of minutes per solver.")
    out: Path | None = setting(
        None,
        "Folder for report.html and posterior.md, .png and .json, or with --operator ranks.json "
        "and .png; results there are kept.",
    )
