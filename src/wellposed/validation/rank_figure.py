"""A figure of the ranks of truths among samples."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from wellposed.validation.ranks import Uniformity, uniformity

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REACH = 2.6
"""Deviations of a bar's height within which 99 % of uniform ranks are."""


def draw_ranks(ranks: Mapping[str, Sequence[int]], num_samples: int) -> "Figure":
    """Return a figure of the ranks' histograms, and of TARP's expected coverage.

    Args:
        ranks: ranks of the images by the names in `ranks.QUANTITIES`.
        num_samples: number of samples of each image.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 5.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(2, 4).flatten()
    tests = {name: uniformity(found, num_samples) for name, found in ranks.items()}
    for place, (name, found) in zip(axes, ranks.items(), strict=False):
        _histogram(place, found, num_samples)
        place.set(title=f"{name}, p = {tests[name].p_value:.3g}", xlabel="rank of the truth")
    _curve(axes[len(ranks)], tests["distance"])
    for place in axes[len(ranks) + 1 :]:
        place.set_axis_off()
    return figure


def _histogram(place: "Axes", ranks: Sequence[int], num_samples: int) -> None:
    bins = min(num_samples + 1, 10)
    edges = np.linspace(-0.5, num_samples + 0.5, bins + 1).tolist()
    place.hist(np.asarray(ranks), edges, color="0.6")
    height = len(ranks) / bins
    reach = REACH * (height * (1 - 1 / bins)) ** 0.5
    place.axhspan(max(height - reach, 0), height + reach, color="C0", alpha=0.2)


def _curve(place: "Axes", test: Uniformity) -> None:
    diagonal = np.linspace(0, 1, len(test.curve))
    place.fill_between(diagonal, diagonal - test.band, diagonal + test.band, alpha=0.2)
    place.plot(diagonal, test.curve, color="black")
    place.set(title="TARP", xlabel="credibility", ylabel="expected coverage")
