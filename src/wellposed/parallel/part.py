"""The part of a volume that a process holds: what couples it with the other parts."""

from torch import Tensor


class Part:
    """The slices of a volume that this process holds: here all of them.

    Whatever couples distant voxels besides the operator goes through here, so that processes can
    share a volume: an operator on a part of it names in its attribute ``part`` one that reaches
    over all parts.

    Attributes:
        start: number of the first slice within the whole volume.
        stop: number behind the last one; 0 where it is all.
        rank: number of this process, 0 to ``processes`` - 1.
        processes: their number.
    """

    start: int = 0
    stop: int = 0
    rank: int = 0
    processes: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """Return the sums over all parts of numbers of this one, equal in every process."""
        return values

    def difference(self, x: Tensor, axis: int, circular: bool) -> Tensor:
        """Return ``D x = x[k + 1] - x[k]`` along an axis.

        Behind the last k comes the first where circular, else the difference there is 0.
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
        """Return the whole of (..., D, H, W) on process 0, in host memory if from several.

        Elsewhere the part.
        """
        return part

    def cut(self, whole: Tensor) -> Tensor:
        """Return this part of (..., D, H, W)."""
        return whole


def part_of(operator: object) -> Part:
    """Return the part of volumes that an operator acts on."""
    return getattr(operator, "part", None) or Part()
