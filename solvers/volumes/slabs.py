"""Volumes of independent slices, solved and written slab by slab."""

from pathlib import Path

from wellposed.checks import Seed, checked, require_path
from wellposed.datasets.volumes.slab_folder import SlabFolder
from wellposed.datasets.volumes.zarr_stores import ZarrVolume
from wellposed.errors import ShapeError, require
from wellposed.parallel.part import Part
from wellposed.parallel.slabs import Slabs
from wellposed.priors.prior import Prior
from wellposed.runs.fingerprint import digest, fingerprint
from wellposed.solvers.base import Solver


@checked
def by_slabs(
    solver: Solver,
    slabs: Slabs,
    prior: Prior,
    out: str | Path,
    *,
    num_samples: int = 1,
    seed: Seed = 0,
    like: ZarrVolume | None = None,
) -> tuple[Path, ...]:
    """Solve a volume of independent slices, of which one slab is in memory at a time.

    Slices are the items of a batch, each with its own draws. The result is that of
    ``solver(y, operator, prior, num_samples=, seed=)`` for the measurement of all slices: bit for
    bit with `priors.Itemwise`, otherwise up to the rounding of the network in other batches. The
    same call goes on at the first slab that is missing. Scales are those of the prior: for data in
    a scanner's units take it from `priors.fit_range_by_slabs`.

    Args:
        solver: a solver of images. Solvers that couple slices, as `DDS3D`, need the whole volume.
        slabs: the measurement of the slices, read when it is needed.
        prior: a prior of images.
        out: folder on this machine; a killed run leaves its slabs in ``out/slabs``.
        num_samples: posterior samples per slice.
        seed: seed of all draws.
        like: OME-NGFF volume of the shape of the result, whose place and metadata it gets.

    Returns:
        ``mean.zarr`` and, of two or more samples, ``std.zarr`` and ``samples.zarr``, (D, H, W) and
        (N, D, H, W), with chunks as thick as a slab.

    Raises:
        ArgumentError: a solver of volumes.
        ShapeError: the operator measures volumes, or ``like`` has another depth.
        FileError: the stores cannot be written, or zarr is not installed.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.parallel.slabs import Slabs
        >>> operator, y = operators.Denoising((1, 8, 8), 0.1), torch.rand(6, 1, 8, 8)
        >>> slabs = Slabs(6, 2, lambda first, end: (y[first:end], operator))
        >>> solver, prior = solvers.DDS(steps=3), priors.GaussianPrior(0.5, 0.1)
        >>> [path.name for path in solvers.by_slabs(solver, slabs, prior, "out", num_samples=2)]
        ['mean.zarr', 'std.zarr', 'samples.zarr']
    """
    require_images(solver)
    depth, thickness = slabs.depth, slabs.thickness
    if like is not None and like.shape[0] != depth:
        raise ShapeError(f"like: got {like.shape[0]} slices, accepted: {depth} as of the slabs")
    run = {
        "solver": [type(solver).__name__, solver.settings],
        "prior": fingerprint(prior),
        "samples": num_samples,
        "seed": seed,
        "slabs": [depth, thickness],
        "first slab": _checked(slabs),
    }
    folder = SlabFolder(require_path("out", out), run, depth, thickness, like)
    for first, end in slabs.ranges(folder.done):
        y, operator = slabs.read(first, end)
        own = range(first, end)
        found = solver(y, operator, prior, num_samples=num_samples, seed=seed, items=own)
        folder.add(found)
        del y, operator, found  # before the next slab is read
    return folder.finish()


def require_images(solver: Solver | type[Solver], argument: str = "solver") -> None:
    """Raise unless a solver takes slices one by one."""
    name = solver.__name__ if isinstance(solver, type) else type(solver).__name__
    accepted = "a solver of images, e.g. DDS: this one couples slices and needs the whole volume"
    require(not solver.volumes_only, argument, name, accepted)


def _checked(slabs: Slabs) -> list[object]:
    """Return what identifies the first slab, which must hold images, one for each slice."""
    first, end = next(slabs.ranges())
    y, operator = slabs.read(first, end)
    shape = tuple(operator.A_adjoint(y).shape)
    if len(shape) != 4 or len(y) != end - first:
        raise ShapeError(
            f"slabs: got {len(y)} measurements of images {shape} for slices {first} to {end}, "
            f"accepted: {end - first} of images (d, C, H, W)"
        )
    return [digest(y, Part()), fingerprint(operator)]
