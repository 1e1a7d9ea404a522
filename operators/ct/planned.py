"""Projection of a few views, from which symmetry gives the others."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from wellposed.checks import Count
from wellposed.operators.ct.computed import ComputedWeights
from wellposed.operators.ct.geometry import Geometry
from wellposed.operators.ct.stored import StoredWeights
from wellposed.operators.ct.symmetry import Plan

Weights = StoredWeights | ComputedWeights


class PlannedProjector(nn.Module):
    """A linear map of images (B, H, W) to sinograms (B, views, bins), and its transpose.

    Args:
        geometry: the scan.
        plan: how its views are obtained from those of a few angles.
        weights: the weights of these angles, in parts.
    """

    _rays: Tensor
    _data: Tensor
    _posed: Tensor
    _upright: Tensor

    def __init__(self, geometry: Geometry, plan: Plan, weights: Sequence[Weights]) -> None:
        super().__init__()
        self.geometry, self.plan = geometry, plan
        self.weights = nn.ModuleList(weights)
        self._places = [part.places for part in weights]
        self.shapes = (geometry.image_size, (len(geometry.angles), geometry.bins))
        posed = plan.posed_pixels(geometry.image_size)
        # Gathering into sums is several times faster than scattered addition.
        for name, index in (
            ("_rays", plan.index),
            ("_data", _sources(plan.index, plan.places)),
            ("_posed", posed.ravel()),
            ("_upright", _sources(posed.ravel(), len(posed))),
        ):
            buffer = torch.from_numpy(index.astype(np.int32))
            self.register_buffer(name, buffer, persistent=False)

    @property
    def _parts(self) -> Iterator[Weights]:
        return iter(cast("Iterable[Weights]", self.weights))

    def project(self, images: Tensor) -> Tensor:
        """Return the sinograms of images, float32 or float64."""
        return self._in_groups(images, self._project)

    def backproject(self, sinograms: Tensor) -> Tensor:
        """Return the transpose applied to sinograms."""
        return self._in_groups(sinograms, self._backproject)

    def _in_groups(self, values: Tensor, apply: Callable[[Tensor], Tensor]) -> Tensor:
        """Apply a map to images in groups of the fastest size."""
        columns = max(part.columns(values) for part in self._parts)
        size = max(1, columns // len(self.plan.poses))
        return torch.cat([apply(group) for group in values.split(size)])

    def _project(self, images: Tensor) -> Tensor:
        count, poses = len(images), len(self.plan.poses)
        pixels = images.flatten(1).T.contiguous()  # (pixels, B)
        posed = pixels.index_select(0, self._posed).view(-1, poses * count)
        rays = torch.cat([part.rays(posed) for part in self._parts])  # (angles rows, poses B)
        data = rays.view(-1, count).index_select(0, self._rays)  # (views bins, B)
        return data.T.reshape(count, *self.shapes[1])

    def _backproject(self, sinograms: Tensor) -> Tensor:
        count, poses = len(sinograms), len(self.plan.poses)
        data = nn.functional.pad(sinograms.flatten(1).T, (0, 0, 0, 1))  # zero where no datum is
        rays = _sum_rows(data, self._data).view(-1, poses * count)
        parts = zip(self._parts, rays.split(self._places), strict=True)
        posed = torch.stack([part.pixels(own) for part, own in parts]).sum(0)  # (pixels, poses B)
        pixels = _sum_rows(posed.view(-1, count), self._upright)
        return pixels.T.reshape(count, *self.shapes[0])


def _sources(index: np.ndarray, size: Count) -> np.ndarray:
    """Return the entries of ``index`` that point to each of ``size`` places, one row per place.

    Rows are padded with ``len(index)``.
    """
    order = np.argsort(index, kind="stable")
    places = index[order]
    rank = np.arange(len(index)) - np.searchsorted(places, places)
    sources = np.full((size, int(rank.max()) + 1), len(index))
    sources[places, rank] = order
    return sources


def _sum_rows(table: Tensor, rows: Tensor) -> Tensor:
    """Return sums over the rows (n, k) of a table, (n, columns)."""
    return nn.functional.embedding_bag(rows, table, mode="sum")
