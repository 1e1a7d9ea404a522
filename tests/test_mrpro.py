"""Raw data of mrpro: sorted as those of a file, in the order and units of our operators."""

from types import SimpleNamespace

import pytest
import torch

from wellposed import operators
from wellposed.datasets import from_mrpro
from wellposed.errors import ArgumentError, NonFiniteError, ShapeError, WellposedError
from wellposed.operators.mri.cartesian import fft2c

B, COILS, H, W = 2, 3, 12, 8  # readout x of 12, phase encoding y of 8


def sizes(z, y, x):
    return SimpleNamespace(z=z, y=y, x=x)


def kdata(data, kz, ky, kx, z=1, recon=(W, H)):
    """As `KData` holds them: data (other, coils, k2, k1, k0), frequencies (other, k2, k1, k0)."""
    header = SimpleNamespace(
        encoding_matrix=sizes(z, W, H),
        recon_matrix=sizes(z, *recon),
        encoding_fov=sizes(0.005 * z, 0.002 * W, 0.001 * H),
        recon_fov=sizes(0.005 * z, 0.002 * recon[0], 0.001 * recon[1]),
    )
    return SimpleNamespace(data=data, traj=SimpleNamespace(kz=kz, ky=ky, kx=kx), header=header)


def axis(count, place):
    shape = [1, 1, 1, 1]
    shape[place] = count
    return (torch.arange(count) - count // 2).float().reshape(shape)


def images(*shape):
    return torch.randn(*shape, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))


def test_lines_are_sorted_into_kspace_with_the_readout_first():
    image = images(B, COILS, H, W)
    kspace = fft2c(image)
    lines = torch.randperm(W, generator=torch.Generator().manual_seed(0))
    data = kspace.transpose(-1, -2)[:, :, lines][:, :, None]  # (other, coils, 1, k1 = y, k0 = x)
    ky = (lines - W // 2).float().reshape(1, 1, W, 1)
    scan = from_mrpro(kdata(data, torch.zeros(1, 1, 1, 1), ky, axis(H, 3)))
    assert torch.equal(scan.kspace, kspace)
    assert scan.mask.shape == (B, H, W)
    assert bool(scan.mask.all())
    assert scan.encoding.recon_size == (1, H, W)
    assert scan.encoding.voxel_mm == pytest.approx((5, 1, 2))
    one = operators.MultiCoilMRI(scan.mask, torch.ones(1, 1, H, W, dtype=torch.complex64))
    assert torch.allclose(one.A_adjoint(scan.kspace[:, :1]), image[:, :1], atol=1e-5)


def test_repeated_lines_are_averaged_and_missing_ones_are_zero():
    data = torch.ones(1, 1, 1, 3, H, dtype=torch.complex64) * torch.tensor([1, 3, 5.0])[:, None]
    ky = torch.tensor([0.0, 0.0, 2.0]).reshape(1, 1, 3, 1)
    scan = from_mrpro(kdata(data, torch.zeros(1, 1, 1, 1), ky, axis(H, 3)))
    assert scan.kspace[0, 0, 0].real.tolist() == [0, 0, 0, 0, 2, 0, 5, 0]
    assert scan.mask[0, 0].tolist() == [0, 0, 0, 0, 1, 0, 1, 0]


def test_partitions_become_the_first_axis():
    kspace = images(1, COILS, 4, H, W)  # (z, x, y)
    data = kspace.transpose(-1, -2)
    scan = from_mrpro(kdata(data, axis(4, 1), axis(W, 2), axis(H, 3), z=4))
    assert torch.equal(scan.kspace, kspace)
    assert scan.mask.shape == (1, 4, H, W)


def test_spokes_keep_their_places_in_the_units_of_the_image():
    spokes = operators.radial_trajectory(5, 2 * H, (H, H))  # (readouts, samples, rows columns)
    ky, kx = (k[None, None] for k in spokes.unbind(-1))
    data = images(1, COILS, 1, 5, 2 * H)
    found = kdata(data, torch.zeros(1, 1, 1, 1), ky, kx)
    for name in ("encoding", "recon"):
        setattr(found.header, f"{name}_matrix", sizes(1, H, H))
        setattr(found.header, f"{name}_fov", sizes(0.005, 0.1, 0.1))
    scan = from_mrpro(found)
    assert scan.mask is None
    assert torch.allclose(scan.trajectory[0], spokes.float())
    assert scan.kspace.shape == (1, COILS, 5, 2 * H)
    found.header.recon_matrix = sizes(1, H // 2, H // 2)
    found.header.recon_fov = sizes(0.005, 0.05, 0.05)  # half the field of view
    assert torch.allclose(from_mrpro(found).trajectory[0], spokes.float() / 2)


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        (lambda k: setattr(k, "data", k.data.real), ArgumentError, "complex"),
        (lambda k: setattr(k, "data", k.data[0]), ArgumentError, "complex"),
        (lambda k: k.data.fill_(torch.nan), NonFiniteError, "kdata"),
        (lambda k: k.traj.kx.fill_(torch.inf), NonFiniteError, "kdata"),
        (lambda k: setattr(k.traj, "kx", torch.zeros(1, 1, 1, 5)), ShapeError, "trajectory of"),
        (lambda k: setattr(k.traj, "ky", k.traj.ky + 3), ArgumentError, "within the matrix"),
        (lambda k: setattr(k, "header", None), ArgumentError, "a KData of mrpro"),
        (lambda k: setattr(k.header, "recon_fov", sizes(1, 0, 1)), ArgumentError, "positive"),
    ],
)
def test_objects_that_do_not_fit_are_refused(change, error, text):
    made = kdata(images(1, 2, 1, W, H), torch.zeros(1, 1, 1, 1), axis(W, 2), axis(H, 3))
    change(made)
    with pytest.raises(error, match=text):
        from_mrpro(made)
    with pytest.raises(WellposedError, match="kdata: got int"):
        from_mrpro(3)
