"""The check of operators, their base class, and bad arguments of their constructors."""

import math

import deepinv
import pytest
import torch
from tests.helpers import maps, mask, random

from wellposed import errors
from wellposed.operators.base import LinearOperator
from wellposed.operators.check import OperatorReport, check_operator, dense_matrix, operator_norm
from wellposed.operators.image.blur import Blur
from wellposed.operators.image.inpainting import Inpainting, box_mask, random_mask
from wellposed.operators.image.kernels import gaussian_kernel, motion_kernel
from wellposed.operators.image.super_resolution import (
    SuperResolution,
)
from wellposed.operators.mri.cartesian import MultiCoilMRI, SingleCoilMRI, fft2c, ifft2c

pytestmark = pytest.mark.usefixtures("single_thread")

F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128


KERNEL = torch.tensor([[0.1, 0.5, 0.0, 0.2], [0.3, 0.0, 0.4, 0.1], [0.0, 0.2, 0.0, 0.05]])


# --- the check itself -----------------------------------------------------------------------


BUILD = {
    "gaussian blur": lambda: Blur(gaussian_kernel(1.2, 5), (2, 9, 6)),
    "inpainting (H, W)": lambda: Inpainting(mask(5, 7), 2),
    "bicubic 4": lambda: SuperResolution((2, 8, 12), 4),
    "multi-coil, 2-D mask": lambda: MultiCoilMRI(mask(6, 7), maps(3, 6, 7)),
}


def tampered(name, **methods):
    """Return an operator some of whose methods are functions of it and their argument."""
    op = BUILD[name]()
    for method, function in methods.items():
        honest = getattr(op, method)
        setattr(op, method, lambda v, f=function, h=honest: f(h, v))
    return op


REAL, MRI = "gaussian blur", "multi-coil, 2-D mask"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (REAL, lambda h, y: 1.05 * h(y)),
        (REAL, lambda h, y: h(y).roll(1, -1)),
        (REAL, lambda h, y: h(y) + 0.02),
        (REAL, lambda h, y: h(y).flip(-1)),
        ("inpainting (H, W)", lambda h, y: y),
        ("bicubic 4", lambda h, y: 16 * h(y)),
        (MRI, lambda h, y: 1.05 * h(y)),
        (MRI, lambda h, y: h(y).conj()),
        (MRI, lambda h, y: 1j * h(y)),
        (MRI, lambda h, y: h(y).roll(1, -2)),
        (MRI, lambda h, y: h(y).real.to(y.dtype)),
    ],
)
def test_a_wrong_adjoint_is_found(name, wrong):
    report = check_operator(tampered(name, A_adjoint=wrong))
    assert report.adjoint > 0.02
    assert report.linearity < 1e-5
    assert not report.passes()


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        (REAL, lambda h, x: h(x) + 0.1),
        (REAL, lambda h, x: h(x.abs())),
        (REAL, lambda h, x: h(x).clamp(-0.2, 0.2)),
        (MRI, lambda h, x: h(x.conj())),
        (MRI, lambda h, x: h(x.real.to(x.dtype))),
    ],
)
def test_a_map_that_is_not_linear_is_found(name, wrong):
    report = check_operator(tampered(name, A=wrong))
    assert report.linearity > 0.02
    assert not report.passes()


@pytest.mark.parametrize("wrong", [lambda h, x: 1.01 * h(x), lambda h, x: math.nan * h(x)])
@pytest.mark.parametrize("name", [REAL, MRI])
def test_a_wrong_normal_map_is_found(name, wrong):
    report = check_operator(tampered(name, A_adjoint_A=wrong))
    assert not report.normal < 0.009
    assert report.adjoint < 1e-5
    assert not report.passes()


def test_nan_never_passes():
    good = {"adjoint": 0.0, "linearity": 0.0, "normal": 0.0}
    assert OperatorReport(**good, norm=1.0).passes()
    for name in good:
        for bad in (math.nan, math.inf, 1e-4):
            assert not OperatorReport(**good | {name: bad}, norm=1.0).passes()


def deepinv_blur():
    return deepinv.physics.BlurFFT((1, 7, 8), filter=KERNEL[None, None, :, :3])


def deepinv_inpainting():
    return deepinv.physics.Inpainting((2, 5, 6), mask=mask(2, 5, 6))


@pytest.mark.parametrize(
    ("make", "size"), [(deepinv_blur, (1, 7, 8)), (deepinv_inpainting, (2, 5, 6))]
)
def test_deepinvs_physics_is_checked_too(make, size):
    report = check_operator(make(), size)
    assert report.passes()
    A = dense_matrix(make().A, size, F32)
    assert abs(report.norm / float(torch.linalg.matrix_norm(A, 2)) - 1) < 0.03
    for wrong in (lambda h, y: 1.05 * h(y), lambda h, y: h(y).roll(1, -1)):
        physics = make()
        honest = physics.A_adjoint
        physics.A_adjoint = lambda y, f=wrong, h=honest: f(h, y)
        report = check_operator(physics, size)
        assert report.adjoint > 0.02
        assert not report.passes()


def test_bad_arguments_of_the_check():
    plain = deepinv.physics.LinearPhysics(A=lambda x: x, A_adjoint=lambda y: y)
    with pytest.raises(errors.ArgumentError, match="image_size: got None"):
        check_operator(plain)
    assert check_operator(plain, (2, 3, 4)).passes()
    for pairs in (0, -1):
        with pytest.raises(errors.ArgumentError, match=f"pairs: got {pairs}"):
            check_operator(plain, (2, 3, 4), pairs=pairs)
    with pytest.raises(errors.DtypeError, match=r"dtype: got torch\.int64"):
        check_operator(plain, (2, 3, 4), torch.int64)
    shorter = deepinv.physics.LinearPhysics(A=lambda x: x, A_adjoint=lambda y: y[..., :-1])
    with pytest.raises(errors.ShapeError, match=r"A_adjoint returns \(8, 2, 3, 3\)"):
        check_operator(shorter, (2, 3, 4))
    real = deepinv.physics.LinearPhysics(A=fft2c, A_adjoint=lambda y: ifft2c(y))
    with pytest.raises(errors.DtypeError, match=r"A_adjoint returns torch\.complex64"):
        check_operator(real, (1, 3, 4))


def test_power_iterations():
    matrix = torch.diag(torch.tensor([0.5, 3.0, 1.0], dtype=F64))
    start = random(1, 3)
    assert abs(operator_norm(lambda x: x @ matrix, start) - 3) < 1e-12
    assert operator_norm(lambda x: 0 * x, start) == 0
    per_item = torch.tensor([[2.0], [5.0], [0.0]], dtype=F64)
    assert abs(operator_norm(lambda x: per_item * x, random(3, 4)) - 5) < 1e-12


# --- the base class -------------------------------------------------------------------------


class Half(LinearOperator):
    """Halves an image of two pixels, and adds a third value."""

    def __init__(self, **options):
        super().__init__((2,), (3,), **options)

    def forward_map(self, x):
        return torch.cat([0.5 * x, x.sum(1, keepdim=True)], 1)

    def adjoint_map(self, y):
        return 0.5 * y[:, :2] + y[:, 2:]


def test_a_subclass_needs_two_maps():
    op = Half(noise_sigma=0.1)
    assert isinstance(op, deepinv.physics.LinearPhysics)
    assert check_operator(op).passes()
    x = random(4, 2)
    torch.testing.assert_close(op.A_adjoint_A(x), op.A_adjoint(op.A(x)))
    torch.testing.assert_close(op.A_dagger(op.A(x)), x)
    y = random(4, 3)
    assert op.restrict(y) is y
    A = dense_matrix(op.A, (2,), F64)
    torch.testing.assert_close(op.A_dagger(y), y @ torch.linalg.pinv(A).T)
    assert op.noise_std(y).item() == pytest.approx(0.1)
    assert op.measurement_size == (3,)
    assert op.img_size == (2,)


NO_LEVELS = (-0.1, math.nan, math.inf, torch.tensor([0.1, -1.0]), torch.zeros(0), "much", None)


@pytest.mark.parametrize(
    "make",
    [
        lambda s: Half(noise_sigma=s),
        lambda s: Inpainting(torch.ones(3, 4), noise_sigma=s),
        lambda s: SuperResolution((1, 4, 4), 2, noise_sigma=s),
        lambda s: Blur(KERNEL, (1, 6, 6), noise_sigma=s),
        lambda s: SingleCoilMRI(torch.ones(3, 4), noise_sigma=s),
        lambda s: MultiCoilMRI(torch.ones(3, 4), maps(2, 3, 4), noise_sigma=s),
    ],
)
def test_bad_noise_levels_are_refused(make):
    for sigma in (*NO_LEVELS, [[0.1], 2]):
        with pytest.raises(errors.ArgumentError, match=r"noise_sigma: (got|is empty)"):
            make(sigma)


# --- bad construction -----------------------------------------------------------------------


def spoilt(value, bad=math.nan):
    value = value.clone()
    value.view(-1)[1] = bad
    return value


BAD = {
    Inpainting: [
        ({"mask": spoilt(torch.ones(3, 4))}, errors.NonFiniteError, "mask: . of"),
        ({"mask": spoilt(torch.ones(3, 4), 0.5)}, errors.ArgumentError, "mask: got .*zeros and"),
        ({"mask": spoilt(torch.ones(3, 4), -1)}, errors.ArgumentError, "mask"),
        ({"mask": torch.zeros(3, 4)}, errors.ArgumentError, "mask: got .only zeros"),
        (
            {"mask": torch.stack([torch.ones(1, 3, 4), torch.zeros(1, 3, 4)])},
            errors.ArgumentError,
            r"mask: got .only zeros in item \[1\]",
        ),
        ({"mask": torch.ones(0, 4)}, errors.ArgumentError, "mask: is empty"),
        ({"mask": torch.ones(4)}, errors.ShapeError, "mask: got 1 axes"),
        ({"mask": torch.ones(1, 1, 1, 3, 4)}, errors.ShapeError, "mask: got 5 axes"),
        ({"mask": torch.ones(3, 4, dtype=C64)}, errors.DtypeError, "mask: got torch.complex64"),
        ({"channels": 0}, errors.ArgumentError, "channels: got 0"),
        ({"channels": 1.5}, errors.ArgumentError, "channels: got 1.5"),
    ],
    SuperResolution: [
        ({"factor": 3}, errors.ShapeError, "image_size: got 8 x 12, .*crop to 6 x 12"),
        ({"factor": 16}, errors.ShapeError, "image_size"),
        ({"factor": 1}, errors.ArgumentError, "factor: got 1"),
        ({"factor": 2.0}, errors.ArgumentError, "factor: got 2.0"),
        ({"factor": -2}, errors.ArgumentError, "factor: got -2"),
        ({"kernel": "bicubi"}, errors.UnknownNameError, "kernel: .*Did you mean 'bicubic'"),
        ({"kernel": "lanczos"}, errors.UnknownNameError, "kernel: unknown name 'lanczos'"),
        ({"image_size": (8, 12)}, errors.ShapeError, r"image_size: got \(8, 12\)"),
        ({"image_size": (1, 1, 8, 12)}, errors.ShapeError, "image_size"),
        ({"image_size": (1, 0, 12)}, errors.ArgumentError, "image_size: got 0"),
        ({"image_size": (1, 8.0, 12)}, errors.ArgumentError, "image_size: got 8.0"),
    ],
    Blur: [
        ({"kernel": torch.ones(9, 3)}, errors.ShapeError, r"kernel: got \(9, 3\).*6 x 7"),
        ({"kernel": torch.ones(3, 8)}, errors.ShapeError, "kernel"),
        ({"kernel": torch.ones(3, 3, 3)}, errors.ShapeError, "kernel: .*one for all channels"),
        ({"kernel": torch.ones(3)}, errors.ShapeError, "kernel: got 1 axes"),
        ({"kernel": torch.zeros(3, 3)}, errors.ArgumentError, "kernel: got 'all zeros'"),
        ({"kernel": torch.ones(0, 3)}, errors.ArgumentError, "kernel: is empty"),
        ({"kernel": spoilt(torch.ones(3, 3))}, errors.NonFiniteError, "kernel: 1 of 9"),
        ({"kernel": spoilt(torch.ones(3, 3), math.inf)}, errors.NonFiniteError, "kernel"),
        ({"kernel": torch.ones(3, 3, dtype=C64)}, errors.DtypeError, "kernel"),
        ({"image_size": (6, 7)}, errors.ShapeError, "image_size"),
        ({"image_size": (1, -6, 7)}, errors.ArgumentError, "image_size: got -6"),
        ({"cutoff": -0.1}, errors.ArgumentError, "cutoff: got -0.1"),
        ({"cutoff": 1.0}, errors.ArgumentError, "cutoff"),
        ({"cutoff": math.nan}, errors.ArgumentError, "cutoff"),
    ],
    MultiCoilMRI: [
        ({"mask": spoilt(torch.ones(5, 6))}, errors.NonFiniteError, "mask: 1 of"),
        ({"mask": spoilt(torch.ones(5, 6), 0.5)}, errors.ArgumentError, "mask: got"),
        ({"mask": torch.zeros(6)}, errors.ArgumentError, "mask: got .only zeros"),
        (
            {"mask": torch.stack([torch.zeros(5, 6), torch.ones(5, 6)])},
            errors.ArgumentError,
            r"only zeros in item \[0\]",
        ),
        ({"mask": torch.ones(6, 5)}, errors.ShapeError, r"mask: got \(1, 6, 5\).*\(5, 6\)"),
        ({"mask": torch.ones(5)}, errors.ShapeError, "mask"),
        ({"mask": torch.ones(2, 6)}, errors.ShapeError, "mask"),
        ({"mask": torch.ones(1, 1, 5, 6)}, errors.ShapeError, "mask: got 4 axes"),
        ({"mask": torch.ones(5, 6, dtype=C64)}, errors.DtypeError, "mask"),
        (
            {"mask": torch.ones(3, 5, 6), "sensitivity_maps": maps(2, 2, 5, 6)},
            errors.ShapeError,
            "mask: got 3 masks for 2 sets of maps",
        ),
        ({"sensitivity_maps": maps(2, 5, 6).real}, errors.DtypeError, "sensitivity_maps: got"),
        ({"sensitivity_maps": spoilt(maps(2, 5, 6))}, errors.NonFiniteError, "sensitivity_maps"),
        ({"sensitivity_maps": maps(5, 6)}, errors.ShapeError, "sensitivity_maps: got 2 axes"),
        (
            {"sensitivity_maps": torch.zeros(0, 5, 6, dtype=C64)},
            errors.ArgumentError,
            "sensitivity_maps: is empty",
        ),
    ],
    SingleCoilMRI: [
        ({"mask": torch.ones(6)}, errors.ShapeError, "mask: got 1 axes"),
        ({"mask": torch.ones(1, 1, 5, 6)}, errors.ShapeError, "mask: got 4 axes"),
        ({"mask": torch.ones(0, 6)}, errors.ArgumentError, "mask: is empty"),
        ({"mask": torch.zeros(5, 6)}, errors.ArgumentError, "mask"),
        ({"mask": 0.5 * torch.ones(5, 6)}, errors.ArgumentError, "mask"),
        ({"mask": spoilt(torch.ones(5, 6))}, errors.NonFiniteError, "mask"),
    ],
    random_mask: [
        ({"keep": 0}, errors.ArgumentError, "keep: got 0"),
        ({"keep": -0.1}, errors.ArgumentError, "keep"),
        ({"keep": 1.01}, errors.ArgumentError, "keep"),
        ({"keep": math.nan}, errors.ArgumentError, "keep"),
        ({"height": 0}, errors.ArgumentError, "height: got 0"),
        ({"width": -3}, errors.ArgumentError, "width: got -3"),
        ({"width": 3.5}, errors.ArgumentError, "width: got 3.5"),
    ],
    box_mask: [
        ({"box": (6, 2)}, errors.ArgumentError, "box: got .*a box inside 5 x 6"),
        ({"box": (2, 7)}, errors.ArgumentError, "box"),
        ({"box": (0, 2)}, errors.ArgumentError, "box"),
        ({"box": (2, -1)}, errors.ArgumentError, "box"),
        ({"box": 2}, errors.ArgumentError, "box: got 2, accepted: 2 values, each an integer"),
        ({"box": (2, 2, 2)}, errors.ArgumentError, "box"),
        ({"box": (2.0, 2)}, errors.ArgumentError, "box"),
        ({"corner": (-1, 0)}, errors.ArgumentError, "box"),
        ({"corner": (4, 0)}, errors.ArgumentError, "box"),
        ({"corner": (0, 5)}, errors.ArgumentError, "box"),
        ({"corner": 3}, errors.ArgumentError, "corner: got 3"),
        ({"corner": ()}, errors.ArgumentError, "corner"),
    ],
    gaussian_kernel: [
        ({"sigma": 0.0}, errors.ArgumentError, "sigma: got 0.0"),
        ({"sigma": -1.0}, errors.ArgumentError, "sigma"),
        ({"sigma": math.nan}, errors.ArgumentError, "sigma"),
        ({"sigma": math.inf}, errors.ArgumentError, "sigma"),
        ({"size": 0}, errors.ArgumentError, "size: got 0"),
        ({"size": 4.5}, errors.ArgumentError, "size: got 4.5"),
    ],
    motion_kernel: [
        ({"intensity": 0.0}, errors.ArgumentError, "intensity: got 0.0"),
        ({"intensity": 1.1}, errors.ArgumentError, "intensity"),
        ({"intensity": -0.5}, errors.ArgumentError, "intensity"),
        ({"intensity": math.nan}, errors.ArgumentError, "intensity"),
        ({"size": 0}, errors.ArgumentError, "size: got 0"),
        ({"size": -3}, errors.ArgumentError, "size"),
    ],
}
GOOD = {
    Inpainting: {"mask": torch.ones(3, 4)},
    SuperResolution: {"image_size": (1, 8, 12), "factor": 4},
    Blur: {"kernel": KERNEL, "image_size": (1, 6, 7)},
    MultiCoilMRI: {"mask": torch.ones(5, 6), "sensitivity_maps": maps(2, 5, 6)},
    SingleCoilMRI: {"mask": torch.ones(5, 6)},
    random_mask: {"height": 5, "width": 6, "keep": 0.5},
    box_mask: {"height": 5, "width": 6, "box": (2, 2)},
    gaussian_kernel: {"sigma": 1.0, "size": 5},
    motion_kernel: {"size": 7, "intensity": 0.5},
}


@pytest.mark.parametrize("make", BAD)
def test_bad_construction_names_the_argument(make):
    make(**GOOD[make])
    for changes, error, match in BAD[make]:
        with pytest.raises(error, match=match):
            make(**GOOD[make] | changes)
