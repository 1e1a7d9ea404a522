"""Views of a scan that equal views of the rotated or mirrored image.

If the image is rotated by a quarter turn, its views rotate too; if it is mirrored, a centred
detector records the reversed view. The weights of a few views therefore suffice, with angles
between 0 and 45 degrees for a square image: eight times fewer for equally spaced views.
"""

from dataclasses import dataclass

import numpy as np

from wellposed.operators.ct.geometry import Geometry


@dataclass(frozen=True)
class Pose:
    """An image rotated by ``turns`` quarter turns clockwise, and then mirrored left to right."""

    turns: int
    mirrored: bool

    def apply(self, image: np.ndarray) -> np.ndarray:
        """Return an image (H, W) in this pose."""
        turned = np.rot90(image, -self.turns)
        return turned[:, ::-1] if self.mirrored else turned


@dataclass(frozen=True)
class Plan:
    """How the views of a scan are obtained from a few angles.

    Attributes:
        angles: angles in degrees whose weights are needed.
        rows: number of needed bins of each view, from the first.
        poses: images that are projected.
        index: for each datum (views * bins,) its place in the projections of all poses, an array
            (angles, rows, poses).
    """

    angles: tuple[float, ...]
    rows: int
    poses: tuple[Pose, ...]
    index: np.ndarray

    @property
    def places(self) -> int:
        """Number of places in the projections."""
        return len(self.angles) * self.rows * len(self.poses)

    def posed_pixels(self, image_size: tuple[int, int]) -> np.ndarray:
        """Return the pixel of the image at each pixel of the posed images, (pixels, poses)."""
        pixels = np.arange(image_size[0] * image_size[1]).reshape(image_size)
        return np.stack([pose.apply(pixels).ravel() for pose in self.poses], 1)

    @property
    def cost(self) -> float:
        """Approximate memory and time: a matrix entry costs about four multiplications."""
        return len(self.angles) * self.rows * (len(self.poses) + 4)


def make_plan(geometry: Geometry, halves: bool = True) -> Plan:
    """Return the cheapest plan for a scan.

    Args:
        geometry: the scan.
        halves: whether the bins of a view may be few while others see the pixels, see `_plan`.
    """
    height, width = geometry.image_size
    mirrors = [False, True] if geometry.detector.offset == 0 else [False]
    # A parallel beam from the opposite side has the same rays in reverse order.
    opposite = mirrors if geometry.is_parallel and halves else [False]
    plans = [
        _plan(geometry, step, mirror, half)
        for step in ([1, 2, 4] if height == width else [2, 4])
        for mirror in mirrors
        for half in (opposite if step < 4 else [False])
    ]
    return min(plans, key=lambda plan: plan.cost)


def _plan(geometry: Geometry, step: int, mirrors: bool, halves: bool) -> Plan:
    """Return the plan with poses ``step`` quarter turns apart.

    Args:
        geometry: the scan.
        step: 1, 2 or 4 (no turn at all).
        mirrors: use mirrored poses.
        halves: take the second half of each view from the first half of the opposite view.
    """
    bins, quarter = geometry.bins, 90.0
    rows = (bins + 1) // 2 if halves else bins
    angle = np.mod(np.asarray(geometry.angles), 360.0)
    count, rest = np.divmod(angle, step * quarter)
    turns, mirrored = (step * count).astype(int), np.zeros(len(angle), bool)
    if mirrors:
        mirrored = rest > step * quarter / 2
        rest = np.where(mirrored, step * quarter - rest, rest)
        turns = np.where(mirrored, turns + step, turns)
    angles, which = np.unique(np.round(rest, 9), return_inverse=True)
    # For every datum: the angle of its view, its bin and its pose.
    k = np.broadcast_to(np.arange(bins), (len(angle), bins))
    k = np.where(mirrored[:, None], bins - 1 - k, k)
    turn = np.broadcast_to(turns[:, None], k.shape) % 4
    if halves:
        opposite = k >= rows
        k = np.where(opposite, bins - 1 - k, k)
        turn = np.where(opposite, (turn + 2) % 4, turn)
    code = turn + 4 * mirrored[:, None]
    used, pose = np.unique(code, return_inverse=True)
    place = (which[:, None] * rows + k) * len(used) + pose.reshape(k.shape)
    poses = tuple(Pose(int(c) % 4, bool(c >= 4)) for c in used)
    return Plan(tuple(angles.tolist()), rows, poses, place.ravel())
