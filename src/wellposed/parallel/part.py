"""The part of a volume that a process holds, and its coupling with the other parts."""

from torch import Tensor


class Part:
    """The slices of a volume that this process holds: here all of them.

    Everything besides the operator that couples distant voxels uses a part, so that processes can
    share a volume: an operator on a part of a volume has an attribute ``part`` whose methods act
    across all parts.

    Attributes:
        start: number of the first slice within the whole volume.
        stop: one past the number of the last slice; 0 if the part is the whole.
        rank: number of this process, 0 to ``processes`` - 1.
        processes: number of processes.
    """

    start: int = 0
    stop: int = 0
    rank: int = 0
    processes: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """Return numbers summed over all parts, equal in every process."""
        return values

    def difference(self, x: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D x = x[k + 1] - x[k]`` along an axis.

        For the last k it is ``x[0] - x[k]`` if circular, and 0 otherwise.
        """
        jump = x.roll(-1, axis) - x
        if not circular:
            jump.select(axis, -1).zero_()
        return jump

    def difference_adjoint(self, d: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D^H d``."""
        if not circular:
            d = d.clone()
            d.select(axis, -1).zero_()
        return d.roll(1, axis) - d

    def gather(self, part: Tensor) -> Tensor:
        """Return the whole (..., D, H, W) on process 0, and the part elsewhere.

        The whole is in host memory if there are several processes.
        """
        return part

    def cut(self, whole: Tensor) -> Tensor:
        """Return this part of (..., D, H, W)."""
        return whole


def part_of(operator: object) -> Part:
    """Return the part of a volume on which an operator acts."""
    return getattr(operator, "part", None) or Part()
