"""CT without its stored matrix: time, set-up, and the steps that the ramp saves.

    python benchmarks/ct_memory.py [--size 256] [--views 90] [--repeats 5]

Products with all weights stored, with half of them, and with none, of equal views and of views at
random angles, in one run and in turn; times are the least processor time of the repeats, divided
by that of the stored matrix. The set-up is that of all weights, in seconds. The second table has
steps of conjugate gradients for ``A^H A + w`` until the residual is 1e-5, without and with the
ramp; w is a share of the largest row sum of A^H A. The third has cone beams of N^3 voxels and
their time for 256^3 and 360 views, as sides to the fourth power.
"""

import argparse
import time
from collections.abc import Callable
from functools import partial

import torch

from wellposed.figures import format_table
from wellposed.linalg import conjugate_gradient
from wellposed.operators import ConeBeamCT, FanBeamCT, ParallelBeamCT
from wellposed.operators.ct import PlanarCT

CONES, CONE_VIEWS = (64, 96), 12


def scans(size: int, views: int) -> dict[str, Callable[..., PlanarCT]]:
    """Return the scans by name; they take the memory of the operator."""
    fractions = torch.rand(views, generator=torch.Generator().manual_seed(0)).double()

    def parallel(angles: int | torch.Tensor) -> Callable[..., PlanarCT]:
        return lambda **options: ParallelBeamCT(size, angles, **options)

    def fan(angles: int | torch.Tensor) -> Callable[..., PlanarCT]:
        return lambda **options: FanBeamCT(size, angles, 2.0 * size, 4.0 * size, **options)

    return {
        "parallel, equal views": parallel(views),
        "parallel, random views": parallel(180 * fractions),
        "fan, equal views": fan(views),
        "fan, random views": fan(360 * fractions),
    }


def seconds(call: Callable[[], object]) -> float:
    """Return the processor time of a call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def least(calls: list[Callable[[], object]], repeats: int) -> list[float]:
    """Return the least processor time of each call, all taken in turn."""
    taken = [[seconds(call) for call in calls] for _ in range(repeats)]
    return [min(times) for times in zip(*taken, strict=True)]


def matrix_bytes(op: PlanarCT) -> int:
    """Return the bytes of the stored matrix and its transpose."""
    names = ("_values", "_columns")
    buffers = op.named_buffers()
    return sum(b.numel() * b.element_size() for name, b in buffers if name.endswith(names))


def products(size: int, views: int, repeats: int) -> None:
    """Print times of products over those of the stored matrix."""
    rows = []
    for name, build in scans(size, views).items():
        started = time.process_time()
        whole = build(memory=1e12)
        setup = time.process_time() - started
        ops = [whole, build(memory=matrix_bytes(whole) / 2), build(memory=0)]
        for batch in (1, 8):
            x = torch.rand(batch, *whole.img_size)
            y = whole.A(x)
            times = least([partial(op.A, x) for op in ops], repeats)
            back = least([partial(op.A_adjoint, y) for op in ops], repeats)
            ratios = [f"{t / ts[0]:.1f}" for ts in (times, back) for t in ts[1:]]
            rows.append([name, f"{setup:.2f}", str(batch), f"{1e3 * times[0]:.1f}", *ratios])
    header = ["", "set-up s", "batch", "A ms", "A, half stored", "A, none"]
    print(format_table([*header, "A^T, half stored", "A^T, none"], rows))


def steps(size: int, views: int) -> None:
    """Print steps of conjugate gradients without and with the ramp."""
    rows = []
    for name, build in scans(size, views).items():
        op = build()
        b = op.A_adjoint(op.A(torch.rand(1, *op.img_size)))
        largest = op.A_adjoint_A(torch.ones(1, *op.img_size)).max()
        cells = []
        for share in (1e-2, 1e-3, 1e-4):
            weight = (share * largest).view(1, 1, 1, 1)
            for inverse in (None, op.preconditioner(weight)):
                found = conjugate_gradient(
                    lambda x, op=op, w=weight: op.A_adjoint_A(x) + w * x,
                    b,
                    iterations=500,
                    tolerance=1e-5,
                    preconditioner=inverse,
                )
                cells.append(str(int(found.iterations)))
        rows.append([name, *(" / ".join(cells[i : i + 2]) for i in (0, 2, 4))])
    print(format_table(["steps without / with", "w 1e-2", "w 1e-3", "w 1e-4"], rows))


def cones(repeats: int) -> None:
    """Print times of cone beams, and minutes for 256^3 voxels and 360 views."""
    rows = []
    for side in CONES:
        op = ConeBeamCT((side, side, side), CONE_VIEWS, 2.0 * side, 4.0 * side)
        x = torch.rand(1, *op.img_size)
        y = op.A(x)
        times = least([partial(op.A, x), partial(op.A_adjoint, y)], repeats)
        whole = [t * (256 / side) ** 4 * 360 / CONE_VIEWS / 60 for t in times]
        rows.append([f"{side}^3", *(f"{t:.2f}" for t in times), *(f"{t:.1f}" for t in whole)])
    print(format_table(["", "A s", "A^T s", "A min, 256^3", "A^T min, 256^3"], rows))


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--views", type=int, default=90)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    products(args.size, args.views, args.repeats)
    steps(min(args.size, 128), args.views)
    cones(min(args.repeats, 3))


if __name__ == "__main__":
    main()
