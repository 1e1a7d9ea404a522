"""Raw data of the package mrpro, as its `KData` holds them."""

from typing import Any

import torch
from torch import Tensor

from wellposed.checks import checked
from wellposed.datasets.mri.encoding import Encoding
from wellposed.datasets.mri.ismrmrd import RawScan
from wellposed.datasets.mri.ismrmrd_sorting import Frame
from wellposed.errors import ArgumentError, ShapeError, check_finite, require

GRID = 1e-3
"""Largest distance of places on a Cartesian grid from its points, as in mrpro."""


@checked
def from_mrpro(kdata: Any) -> RawScan:
    """Return raw data of mrpro as `load_ismrmrd` returns those of a file.

    Data whose trajectory lies on the grid of the encoded matrix are Cartesian: they are sorted
    into k-space (D, H, W) = (kz, kx, ky), with repeated samples averaged. Others keep their
    trajectory, in the order (rows, columns) = (y, x) of the image, or (z, y, x). mrpro counts
    frequencies in cycles per field of view of the encoded matrix; they become those of the image.

    Args:
        kdata: a `KData`, or an object with its ``data`` (*other, coils, k2, k1, k0), ``traj`` with
            ``kz``, ``ky`` and ``kx`` (*other, k2, k1, k0), and ``header`` with the matrices and
            the fields of view in m.

    Returns:
        The scan, with one item for each of the other axes. There is no calibration and no noise,
        and positions and directions are NaN: the header of mrpro has them for each readout.

    Raises:
        ArgumentError: an object of another kind, or samples outside the encoded matrix.
        ShapeError: data and trajectory do not fit each other.
        NonFiniteError: NaN or infinite values.

    Example:
        >>> from mrpro.data import KData  # mrpro # doctest: +SKIP
        >>> from wellposed import datasets
        >>> scan = datasets.from_mrpro(KData.from_file("scan.h5", trajectory))  # doctest: +SKIP
    """
    try:
        data, traj, header = kdata.data, kdata.traj, kdata.header
        axes = [torch.as_tensor(getattr(traj, name)) for name in ("kz", "ky", "kx")]
        spaces = {
            name: tuple(float(getattr(getattr(header, name), axis)) for axis in "zyx")
            for name in ("encoding_matrix", "recon_matrix", "encoding_fov", "recon_fov")
        }
    except (AttributeError, TypeError, ValueError) as error:
        got = f"{type(kdata).__name__} ({error})"
        raise ArgumentError(f"kdata: got {got}, accepted: a KData of mrpro") from error
    positive = all(side > 0 for sides in spaces.values() for side in sides)
    require(positive, "kdata", f"a header with {spaces}", "positive sizes")
    complex_ = isinstance(data, Tensor) and data.is_complex() and data.ndim >= 5
    require(complex_, "kdata", getattr(data, "shape", data), "complex (*other, coils, k2, k1, k0)")
    check_finite("kdata", data)
    shape = (*data.shape[:-4], *data.shape[-3:])
    try:
        places = torch.stack([check_finite("kdata", k).expand(shape) for k in axes], -1)
    except RuntimeError as error:
        shapes = [tuple(k.shape) for k in axes]
        raise ShapeError(
            f"kdata: got a trajectory of {shapes}, accepted: {shape} of the data, or lengths of 1"
        ) from error
    kspace = data.flatten(0, -5).to(torch.complex64)
    places = places.flatten(0, -5).double()
    on_grid = bool(((places - places.round()).abs() <= GRID).all())
    return _cartesian(kspace, places, spaces) if on_grid else _trajectory(kspace, places, spaces)


Spaces = dict[str, tuple[float, ...]]


def _cartesian(kspace: Tensor, places: Tensor, spaces: Spaces) -> RawScan:
    """Return samples (B, coils, k2, k1, k0) sorted by their places (B, k2, k1, k0, zyx)."""
    order = [0, 2, 1]  # D, H, W are z, x, y: the readout is the second
    encoding = _encoding(spaces, order, "cartesian")
    size = encoding.encoded_size
    index = places[..., order].round().long() + torch.tensor([n // 2 for n in size])
    inside = bool(((index >= 0) & (index < torch.tensor(size))).all())
    got = [int(v) for v in places.abs().amax((0, 1, 2, 3))]
    require(inside, "kdata", f"places to {got} along z, y, x", f"within the matrix of {size}")
    strides = torch.tensor([size[1] * size[2], size[2], 1])
    flat = (index * strides).sum(-1).flatten(1)  # (B, samples)
    items, coils = kspace.shape[:2]
    count = torch.zeros(items, size[0] * size[1] * size[2])
    count.scatter_add_(1, flat, torch.ones(flat.shape))
    total = torch.zeros(items, coils, count.shape[1], dtype=kspace.dtype)
    total.scatter_add_(2, flat[:, None].expand(-1, coils, -1), kspace.flatten(2))
    inner = size if size[0] > 1 else size[1:]
    sorted_ = (total / count.clamp(min=1)[:, None]).reshape(items, coils, *inner)
    return _scan(sorted_, encoding, mask=(count > 0).float().reshape(items, *inner))


def _trajectory(kspace: Tensor, places: Tensor, spaces: Spaces) -> RawScan:
    """Return samples (B, coils, readouts, samples) and their places for the image."""
    encoding = _encoding(spaces, [0, 1, 2], "other")
    scale = [r / e for r, e in zip(spaces["recon_fov"], spaces["encoding_fov"], strict=True)]
    places = (places * torch.tensor(scale, dtype=places.dtype)).flatten(1, 2)
    deep = encoding.recon_size[0] > 1 or bool(places[..., 0].any())
    found = places if deep else places[..., 1:]
    return _scan(kspace.flatten(2, 3), encoding, trajectory=found.float())


def _encoding(spaces: Spaces, order: list[int], kind: str) -> Encoding:
    sizes = {
        name: tuple(spaces[f"{name}_matrix"][axis] for axis in order)
        for name in ("encoding", "recon")
    }
    fovs = {
        name: tuple(1e3 * spaces[f"{name}_fov"][axis] for axis in order)
        for name in ("encoding", "recon")
    }
    (d, h, w), (depth, height, width) = (
        (round(a), round(b), round(c)) for a, b, c in (sizes["encoding"], sizes["recon"])
    )
    (fd, fh, fw), (rd, rh, rw) = fovs["encoding"], fovs["recon"]
    centre = (d // 2, w // 2)
    return Encoding((d, h, w), (depth, height, width), (fd, fh, fw), (rd, rh, rw), centre, kind)


def _scan(
    kspace: Tensor,
    encoding: Encoding,
    mask: Tensor | None = None,
    trajectory: Tensor | None = None,
) -> RawScan:
    unknown = torch.full((len(kspace), 3), torch.nan)
    return RawScan(
        kspace=kspace,
        mask=mask,
        trajectory=trajectory,
        calibration=None,
        noise=None,
        frames=tuple(Frame(0, 0, 0, n, 0) for n in range(len(kspace))),
        positions=unknown,
        directions=unknown[:, None].expand(-1, 3, -1),
        encoding=encoding,
    )
