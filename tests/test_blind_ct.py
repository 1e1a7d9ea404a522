"""An unknown rotation centre: equality with the known scan, exact kernels, a measured tooth."""

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from tests.helpers import rand

from wellposed import errors
from wellposed.datasets import load_tomopy
from wellposed.noise import ItemNoise
from wellposed.operators import BlindCT, Detector, MatrixOperator, ParallelBeamCT, check_operator
from wellposed.priors import GaussianPrior, Product, Proximal, Simplex, load
from wellposed.solvers import DPS, BlindHQS
from wellposed.solvers.estimates.blind_hqs import most_probable

pytestmark = pytest.mark.usefixtures("single_thread")
TOOTH = Path(__file__).parent / "data" / "tomopy_tooth_row.h5"
SIZE, VIEWS, TAPS = 16, 12, 5


def scan(offset=0.0):
    return ParallelBeamCT(SIZE, VIEWS, Detector(30, 1.0, offset))


def unknown(items=2):
    operator = BlindCT(scan(), TAPS, 0.05)
    kernels = operator.canvas(rand(items, 1, 1, TAPS, seed=1))
    return operator, rand(items, 1, SIZE, SIZE), operator.normalised(kernels)


def shift(operator, bins):
    kernel = torch.zeros(1, operator.kernel_size, dtype=torch.float64)
    kernel[0, operator.kernel_size // 2 + bins] = 1
    return operator.canvas(kernel)


def kernels_of(operator):
    taps = operator.kernel_size
    mean = operator.canvas(torch.full((1, taps), 1 / taps))[0, 0]
    return Proximal(Simplex(mean, weight=1.0), data_range=(-0.1, 1.1), channels=1)


def test_all_three_forms_are_the_same_and_have_their_adjoints():
    operator, x, kernels = unknown()
    expected = operator.A(operator.join(x, kernels))
    given = operator.given_parameter(kernels), operator.given_image(x)
    torch.testing.assert_close(given[0].A(x), expected)
    torch.testing.assert_close(given[1].A(kernels), expected)
    for form in given:
        assert check_operator(form).passes(1e-5)
    z = rand(2, 1, SIZE, SIZE, seed=3)
    torch.testing.assert_close(given[1].A_adjoint_A(z), given[1].A_adjoint(given[1].A(z)))


@pytest.mark.parametrize("bins", [-2, 0, 1])
def test_a_shifted_kernel_is_another_rotation_centre(bins):
    operator, x, _ = unknown(1)
    kernel = shift(operator, bins)
    offset = float(operator.offset(kernel))
    assert offset == -bins
    expected = scan(offset).A(x)
    torch.testing.assert_close(operator.given_parameter(kernel).A(x), expected)


def test_the_centre_is_that_of_the_peak():
    operator = BlindCT(ParallelBeamCT(SIZE, VIEWS, Detector(30, 0.5, 0.2), pixel_size=0.5), 7)
    kernel = operator.canvas(torch.tensor([[0.05, 0.02, 0.02, 0.02, 0.2, 0.6, 0.2]]))
    assert float(operator.offset(kernel)) == pytest.approx(0.2 - 0.5 * 2)


def test_the_kernel_of_a_known_image_is_that_of_the_closed_form():
    operator, x, kernels = unknown()
    A, prior = operator.given_image(x), GaussianPrior(0.2, 0.3)
    y, sigma = A.measure(kernels, seed=0), torch.full((2,), 20.0).double()
    found = operator.window(most_probable(A, y, sigma, prior, 0 * kernels, 3000))
    for i in range(2):
        columns = A.item(i).A(operator.canvas(torch.eye(TAPS).double()[:, None, None])).flatten(1)
        matrix = MatrixOperator(columns.T, (1, 1, TAPS), 20.0)
        exact = prior.posterior(y[i : i + 1].flatten(1), matrix).mean
        torch.testing.assert_close(found[i : i + 1], exact, rtol=0, atol=1e-6)


def test_an_item_is_the_same_alone_and_in_a_batch():
    operator, x, kernels = unknown(3)
    y = operator.measure(operator.join(x, kernels), seed=0)
    prior = Product([GaussianPrior(0.5, 0.3), kernels_of(operator)], [1, 1])
    for solver in (BlindHQS(steps=4, starts=2, image_steps=2), DPS(steps=4)):
        batch = solver(y, operator, prior, seed=1).samples[0, 1:2]
        one = solver(y[1:2], operator, prior, noise=ItemNoise(1, [(0, 1)])).samples[0]
        torch.testing.assert_close(one, batch, rtol=0, atol=1e-6)


@pytest.mark.slow
def test_the_rotation_centre_of_a_measured_tooth_is_found():
    """Bin 296 of 640, as tomopy's documentation has it, is 5.9 of 160 bins from the middle."""
    measured = load_tomopy(TOOTH, row=0)
    sinogram = F.avg_pool2d(measured.sinogram, (1, 4))[:, :, ::2]
    ct = ParallelBeamCT(120, measured.angles[::2], Detector(160, 0.04), pixel_size=0.04)
    operator = BlindCT(ct, 25, 0.02)
    prior = Product([load("ct"), kernels_of(operator)])
    result = BlindHQS(steps=30, starts=2)(sinogram, operator, prior, seed=0)
    offset = float(operator.offset(operator.split(result.mean)[1])) / 0.04
    assert offset == pytest.approx((639 / 2 - 296) / 4, abs=0.3)


def test_what_does_not_fit_is_refused():
    operator, x, _ = unknown()
    with pytest.raises(errors.ArgumentError, match="ct: got 3, accepted: an instance of PlanarCT"):
        BlindCT(3, TAPS)
    with pytest.raises(errors.ArgumentError, match="kernel_size: got 4, accepted: an odd"):
        BlindCT(scan(), 4)
    with pytest.raises(errors.ArgumentError, match="kernel_size: got 17, accepted: at most 16"):
        BlindCT(scan(), SIZE + 1)
    with pytest.raises(errors.ShapeError, match="y: got"):
        operator.A_adjoint(x)
    with pytest.raises(errors.ShapeError, match="kernels: got"):
        operator.canvas(torch.ones(3))
