"""The page and the picture of `coverage.py`."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

from wellposed.figures import displayable, format_table
from wellposed.uncertainty import gaussian_factor, smallest_factor

LEVEL, SHOWN = 0.9, 2
"""Of intervals, and the held-out images of a task in the picture."""

GAUSSIAN = gaussian_factor(LEVEL)

NAMES = {
    "mri4": "MRI 4 x, 8 coils",
    "ct30": "CT, 30 views",
    "sr4": "super-resolution 4 x",
    "inpaint-random": "70 % missing pixels",
}

TEXT = """# Do intervals hold the truth?

Made by `python benchmarks/coverage.py --data FOLDER`. 90 % intervals of posterior samples should
hold the truth of 90 % of the pixels. Images are crops of {size} pixels, with {samples} samples
each of `{solver}`.

- **before**: pixels within {gaussian:.3f} standard deviations of the mean of the samples, the
  interval of a Gaussian.
- **after**: pixels within the interval that is calibrated on {known} known images
  (`uncertainty.Conformal`, `wellposed calibrate`), with the standard error over the {held}
  held-out images. With n known images the factor is made for .9 (n + 1) / n of their pixels.
- **least, most**: of one held-out image, after calibration. Calibration holds on average over
  images; it does not hold for each.
- **small, large deviations**: the half of the pixels where the samples differ less, and the other
  one, after calibration. A factor for all pixels cannot mend a difference between them.

{table}

Known and held-out photographs differ. Known and held-out crops of MRI, and those of CT, are **of
the same subject**, from different parts of its volume: for other subjects, scanners and sequences
the intervals hold less well.

![where intervals fail](coverage.png)

For {shown} held-out images of each task: the truth, the calibrated standard deviation, and the
errors of the pixels whose interval does not hold the truth (0 elsewhere). Both maps of an image
share one scale.
"""


def kept(folder: Path, task: str, part: str, index: int) -> Path:
    """Return the file of an image: truth, deviation and score of its pixels, (3, C, H, W)."""
    return folder / f"{task}-{part}-{index}.npy"


def figures(folder: Path, task: str, counts: Mapping[str, int]) -> dict[str, float]:
    """Return the factor of the known images, and coverages of the held-out ones."""
    known, held = (
        torch.stack([torch.from_numpy(np.load(kept(folder, task, part, i))) for i in range(count)])
        for part, count in counts.items()
    )
    factor = float(smallest_factor(known[:, 2].double().flatten(), counts["known"], LEVEL))
    inside = (held[:, 2] <= factor).double()
    per_image = inside.flatten(1).mean(1)
    wide = held[:, 1] >= held[:, 1].flatten().median()
    return {
        "factor": factor,
        "samples": float((held[:, 2] <= GAUSSIAN).double().mean()),
        "calibrated": float(per_image.mean()),
        "error": float(per_image.std()) / math.sqrt(len(per_image)),
        "least": float(per_image.min()),
        "most": float(per_image.max()),
        "small deviations": float(inside[~wide].mean()),
        "large deviations": float(inside[wide].mean()),
        "known": counts["known"],
        "held out": counts["held"],
    }


def page(rows: Mapping[str, Mapping[str, float]], size: int, samples: int, solver: str) -> str:
    """Return the page in Markdown; see `coverage.Setting` for the arguments."""
    first = next(iter(rows.values()))
    return TEXT.format(
        gaussian=GAUSSIAN,
        known=first["known"],
        held=first["held out"],
        table=table(rows),
        shown=SHOWN,
        size=size,
        samples=samples,
        solver=solver,
    )


def table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Return the figures as a table."""
    header = ["task", "before", "after", "least, most", "small, large deviations"]
    header += ["calibrated over sampled deviation"]
    lines = [
        [
            *(NAMES[task], f"{row['samples']:.1%}"),
            f"{row['calibrated']:.1%} ± {row['error']:.1%}",
            f"{row['least']:.0%}, {row['most']:.0%}",
            f"{row['small deviations']:.0%}, {row['large deviations']:.0%}",
            f"{row['factor'] / GAUSSIAN:.2f}",
        ]
        for task, row in rows.items()
    ]
    return format_table(header, lines)


def picture(folder: Path, rows: Mapping[str, Mapping[str, float]]) -> Figure:
    """Return truths, calibrated deviations, and errors of the pixels outside their interval."""
    figure = Figure(figsize=(5.1 * SHOWN, 1.75 * len(rows) + 0.3), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), 3 * SHOWN, squeeze=False)
    for line, (task, row) in zip(axes, rows.items(), strict=True):
        for index in range(SHOWN):
            file = kept(folder, task, "held", index)
            if file.exists():
                _draw(line[3 * index : 3 * index + 3], torch.from_numpy(np.load(file)), row)
        line[0].set_ylabel(NAMES[task])
    titles = ["truth", "calibrated std", "errors outside"] * SHOWN
    for place, title in zip(axes[0], titles, strict=True):
        place.set_title(title, fontsize=9)
    return figure


def _draw(axes: Sequence[Axes], image: Tensor, row: Mapping[str, float]) -> None:
    truth, std, score = image
    outside = torch.where(score > row["factor"], score * std, 0)
    maps = [m.mean(0) for m in (row["factor"] / GAUSSIAN * std, outside)]
    axes[0].imshow(displayable(truth).clip(0, 1), cmap="gray", vmin=0)
    for place, values in zip(axes[1:], maps, strict=True):
        place.imshow(values.numpy(), cmap="magma", vmin=0, vmax=float(maps[0].max()))
    for place in axes:
        place.set(xticks=[], yticks=[])
