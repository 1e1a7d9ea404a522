"""Sums of unknowns: the operator, the prior, and every solver on both."""

import copy
import dataclasses
import json
import math
import runpy
from pathlib import Path

import pytest
import torch
from tests.helpers import random, relative
from torch import nn

from wellposed.datasets.ultrasound.processing import compand
from wellposed.errors import ArgumentError, DtypeError, ShapeError, UnknownNameError
from wellposed.noise import ItemNoise
from wellposed.operators import (
    Blur,
    CompressedSensing,
    Denoising,
    Inpainting,
    MultiCoilMRI,
    check_operator,
    gaussian_kernel,
    simulate_sensitivity_maps,
    uniform_random_lines,
)
from wellposed.operators.check import dense_matrix
from wellposed.operators.companded import Companded
from wellposed.operators.decomposable import Decomposable
from wellposed.operators.superposition import AlignedSuperposition, Superposition
from wellposed.priors import VE, GaussianPrior, NetworkPrior, Tabulated
from wellposed.priors.adapters.product import Product
from wellposed.priors.covariance import Stationary
from wellposed.priors.proximal import NuclearNorm, Proximal, TotalVariation
from wellposed.solvers import (
    DAPS,
    DDNM,
    DDRM,
    DDS,
    DPS,
    MMPS,
    DDIMProjection,
    DiffPIR,
    FlowChef,
    Flower,
    PiGDM,
    PnPDM,
    PnPFlow,
    Problem,
    REDDiff,
)
from wellposed.solvers.separation.noisy_projection import NoisyProjection
from wellposed.validation.gaussian import BatchNoise, draw_samples
from wellposed.validation.superposition import (
    exact_posterior,
    published_toy,
    squared_exponential,
    superposition_errors,
    superposition_problem,
    superposition_solvers,
)

pytestmark = pytest.mark.usefixtures("single_thread")
SIZE = (1, 8, 6)
SOLVERS = {
    "dds": DDS(steps=5),
    "dds-hard": DDS(steps=5, gamma=math.inf),
    "ddim-projection": DDIMProjection(steps=5, eta=0.5),
    "dps": DPS(steps=5),
    "daps": DAPS(steps=5, ode_steps=1, langevin_steps=3),
    "daps-exact": DAPS(steps=5, ode_steps=1, draw="exact"),
    "flowchef": FlowChef(steps=5),
    "flower": Flower(steps=5, gamma=0.5),
    "pnp-flow": PnPFlow(steps=5, averages=1),
    "pnp-dm": PnPDM(steps=5, prior_steps=1, rho_decay_rate=0.5, langevin_steps=10),
    "red-diff": REDDiff(steps=5, reduction="sum"),
    "pigdm": PiGDM(steps=5),
    "mmps": MMPS(steps=5),
    "ddnm": DDNM(steps=5),
    "ddrm": DDRM(steps=5),
    "diffpir": DiffPIR(steps=5),
    "noisy-projection": NoisyProjection(steps=5),
    "noisy-projection-shared": NoisyProjection(steps=5, noise="shared", start=2.0),
}
NONLINEAR = (
    "dps",
    "daps",
    "flowchef",
    "pnp-dm",
    "pnp-flow",
    "red-diff",
    "diffpir",
    "noisy-projection-shared",
)
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())


class Stub(nn.Module):
    """A smooth stand-in for a network; ``strength`` tells one from another."""

    def __init__(self, strength=1.0):
        super().__init__()
        self.strength = strength

    def forward(self, x, label):
        wave = torch.sin(3 * x + 0.05 * label.view(-1, 1, 1, 1))
        return self.strength * (0.6 * torch.tanh(0.8 * x) + 0.1 * wave + 0.1 * x.roll(1, -1))


def network(strength=1.0, **options):
    return NetworkPrior(
        Stub(strength), Tabulated.linear(), **{"channels": 1, "data_range": (-1.0, 1.0)} | options
    )


def aligned(items=1, weights=(1.0, 0.5), noise_sigma=0.05):
    masks = (random(items, *SIZE, seed=1) > -0.8).double()
    return Superposition([Denoising(SIZE), Inpainting(masks)], weights, noise_sigma)


def general(noise_sigma=0.05):
    return Superposition([Denoising(SIZE), Blur(gaussian_kernel(1.0, 5), SIZE)], None, noise_sigma)


def complex_sum():
    maps = simulate_sensitivity_maps(2, 8, 6).to(torch.complex128)
    masks = [uniform_random_lines(6, 1.5, 0.2, seed=seed) for seed in (0, 1)]
    return Superposition([MultiCoilMRI(mask, maps) for mask in masks], (1.0, -0.7), 0.05)


OPERATORS = {
    "aligned": aligned,
    "aligned, of each item": lambda: aligned(3),
    "one operator twice": lambda: Superposition(
        2 * [CompressedSensing((1, 8, 8), 0.5, 4)], (1, -2)
    ),
    "two with the same U": lambda: Superposition(
        [CompressedSensing((1, 8, 8), 0.5, 4, seed=seed) for seed in (0, 1)]
    ),
    "general": general,
    "complex": complex_sum,
}


@pytest.mark.parametrize("make", OPERATORS.values(), ids=OPERATORS.keys())
def test_the_operator_is_linear_with_its_adjoint(make):
    operator = make()
    dtype = torch.complex128 if operator.complex_image else torch.float64
    assert check_operator(operator, dtype=dtype).passes(1e-10)
    x = random(max(operator.items, 2), *operator.img_size, dtype=dtype)
    parts = [x[:, k : k + 1] for k in range(2)]
    blocks = zip(operator.weights, operator.operators, parts, strict=True)
    torch.testing.assert_close(operator.A(x), sum(w * A.A(part) for w, A, part in blocks))
    for block, part in zip(operator.split(x[None]), parts, strict=True):
        assert torch.equal(block[0], part)


@pytest.mark.parametrize("make", list(OPERATORS.values())[:1] + list(OPERATORS.values())[2:4])
def test_the_decomposition_is_one(make):
    operator = make()
    assert isinstance(operator, Decomposable)
    c = operator.V_adjoint(random(2, *operator.img_size))
    torch.testing.assert_close(operator.V_adjoint(operator.V(c)), c)
    M = dense_matrix(operator.A, operator.img_size, torch.float64)
    s = torch.linalg.svdvals(M)
    own = (operator.singular_values.double() * torch.ones_like(c[0])).flatten()
    torch.testing.assert_close(own.sort(descending=True).values[: len(s)], s)
    y, z = random(2, *operator.measurement_size), random(2, *operator.img_size, seed=1)
    fitted = operator.A_dagger(y).flatten(1)
    torch.testing.assert_close(fitted, y.flatten(1) @ torch.linalg.pinv(M, rtol=1e-6).T)
    near = operator.prox_l2(z, y, 3.0).flatten(1)
    system = 3 * M.T @ M + torch.eye(len(M.T), dtype=M.dtype)
    expected = torch.linalg.solve(system, (3 * y.flatten(1) @ M + z.flatten(1)).T).T
    torch.testing.assert_close(near, expected)


def test_only_operators_of_one_U_are_aligned():
    assert not isinstance(general(), Decomposable)
    blurs = [Blur(gaussian_kernel(width, 5), SIZE) for width in (0.5, 1.0)]
    assert not isinstance(Superposition(blurs), Decomposable)
    assert isinstance(Superposition(2 * blurs[:1]), Decomposable)
    with pytest.raises(ArgumentError, match="with the same U"):
        AlignedSuperposition([Denoising(SIZE), blurs[0]])
    for operator in (aligned(), general()):
        copied = copy.deepcopy(operator)
        x = random(1, *operator.img_size)
        assert type(copied) is type(operator)
        assert torch.equal(copied.A(x), operator.A(x))


def test_what_no_block_measures_has_no_noise():
    masks = [torch.zeros(8, 6), torch.zeros(8, 6)]
    masks[0][:3], masks[1][2:5] = 1, 1
    operator = Superposition([Inpainting(mask, 1) for mask in masks], noise_sigma=1.0)
    y = operator.measure(torch.zeros(1, 2, 8, 6))
    assert (y[:, :, :5] != 0).all()
    assert (y[:, :, 5:] == 0).all()
    alone = Superposition(list(operator.operators), (0, 1), noise_sigma=1.0)
    assert (alone.measure(torch.zeros(1, 2, 8, 6))[:, :, :2] == 0).all()


@pytest.mark.parametrize(
    ("operators", "options", "error", "message"),
    [
        ([], {}, ArgumentError, "operators"),
        ([nn.Identity()], {}, ArgumentError, "operators"),
        (Denoising(SIZE), {}, ArgumentError, "operators"),
        ([Denoising(SIZE), Denoising((1, 8, 7))], {}, ShapeError, "operators"),
        ([Denoising(SIZE), CompressedSensing(SIZE, 0.5, 2)], {}, ShapeError, "operators"),
        (
            [Denoising(SIZE), Denoising(SIZE, complex_image=True)],
            {},
            ArgumentError,
            "several kinds",
        ),
        ([Denoising(SIZE)] * 2, {"weights": (1,)}, ArgumentError, "weights"),
        ([Denoising(SIZE)] * 2, {"weights": 2.0}, ArgumentError, "weights: got 2.0"),
        ([Denoising(SIZE)] * 2, {"weights": (0, 0)}, ArgumentError, "weights"),
        ([Denoising(SIZE)] * 2, {"weights": (1, math.nan)}, ArgumentError, "weights"),
        ([Denoising(SIZE)] * 2, {"weights": (1, "2")}, ArgumentError, "weights"),
        ([Denoising(SIZE)] * 2, {"noise_sigma": -1}, ArgumentError, "noise_sigma"),
    ],
)
def test_operators_that_do_not_go_together_are_named(operators, options, error, message):
    with pytest.raises(error, match=message):
        Superposition(operators, **options)


@pytest.mark.parametrize("compressed", [True, False])
def test_companded_operators_sum_linear_values(compressed):
    gamma, rf = 0.3, 0.4 * torch.tanh(random(2, 2, 8, 6))
    operator = Companded(
        Superposition([Denoising(SIZE)] * 2, (1, gamma)), compressed_data=compressed
    )
    total = rf[:, :1] + gamma * rf[:, 1:]
    y = operator.A(compand(rf))
    torch.testing.assert_close(y, compand(total) if compressed else total)
    torch.testing.assert_close(operator.A(operator.A_dagger(y)), y)
    assert operator.A_adjoint(y).shape == rf.shape


def test_companding_of_the_wrong_kind_is_named():
    with pytest.raises(ArgumentError, match="operator"):
        Companded(Denoising(SIZE, complex_image=True))
    with pytest.raises(ArgumentError, match="mu"):
        Companded(Denoising(SIZE), mu=0)
    with pytest.raises(ShapeError, match="y"):
        Companded(Denoising(SIZE)).A_adjoint(torch.zeros(1, 2, 8, 6))
    with pytest.raises(DtypeError, match="x"):
        Companded(Denoising(SIZE)).A(torch.zeros(1, *SIZE, dtype=torch.long))


def test_blocks_are_denoised_by_their_own_prior():
    """Each in its own units, whatever schedule it was trained with."""
    first, second = network(), GaussianPrior(0.3, 0.2, VE(200.0))
    product = Product([first, second], channels=(1, 1))
    x_t = random(3, 2, 8, 6)
    for t in (3.0, 500.0, torch.tensor([20.0, 500.0, 900.0])):
        same = GaussianPrior(0.3, 0.2, Tabulated.linear())
        expected = torch.cat([first.denoise(x_t[:, :1], t), same.denoise(x_t[:, 1:], t)], 1)
        torch.testing.assert_close(product.denoise(x_t, t), expected)
    assert product.channels == 2
    assert product.schedule is first.schedule
    assert product.is_affine


def gaussian(mean, std, low, high, schedule=None):
    """A Gaussian prior of public mean and deviation, with a data range."""
    scale, centre = (high - low) / 2, (high + low) / 2
    prior = GaussianPrior((mean - centre) / scale, (std / scale) ** 2, schedule)
    prior.data_range = (low, high)
    return prior


@pytest.mark.parametrize("weights", [None, (1.0, 4.0), (0.5, 0.3)])
def test_units_and_step_weights_leave_the_denoiser_of_public_images_alone(weights):
    ranges = [(0.0, 1.0), (-3.0, 5.0)]
    blocks = [gaussian(0.4, 0.2, *ranges[0]), gaussian(1.2, 0.9, *ranges[1], VE(90.0))]
    product = Product(blocks, (1, 2), weights)
    x = random(2, 3, 8, 6)
    torch.testing.assert_close(product.to_public(product.to_units(x)), x)
    assert not product.is_affine
    alone = [GaussianPrior(0.4, 0.04, VE(90.0)), GaussianPrior(1.2, 0.81, VE(90.0))]
    parts = zip(alone, x.split((1, 2), 1), strict=True)
    torch.testing.assert_close(product(x, 0.7), torch.cat([p(part, 0.7) for p, part in parts], 1))
    # In units block k holds sqrt(weight) times the noise of its own prior's units.
    alpha, sigma = (float(v) for v in product.schedule(300.0))
    u_t = alpha * product.to_units(x)
    found = product.to_public(product.denoise(u_t, 300.0))
    for k, (low, high) in enumerate(ranges):
        gain = math.sqrt(1.0 if weights is None else weights[k])
        level = gain * (high - low) / 2 * sigma / alpha
        part = x.split((1, 2), 1)[k]
        torch.testing.assert_close(found.split((1, 2), 1)[k], alone[k](part, level))


@pytest.mark.parametrize("weights", [None, (1.0, 4.0), (0.5, 0.3)])
def test_posteriors_do_not_depend_on_units_and_step_weights(weights):
    """MMPS, exact for Gaussians, finds the mean of the posterior, which is known by pixel."""
    operator = Superposition([Denoising(SIZE)] * 2, (1.0, 0.5), 0.1)
    blocks = [gaussian(0.4, 0.2, 0.0, 1.0), gaussian(0.5, 0.6, -2.0, 4.0)]
    y = random(1, *SIZE)
    solver = MMPS(steps=60, spacing="karras", cg_steps=2)
    samples = draw_samples(
        solver, (y, operator, Product(blocks, (1, 1), weights)), 8, BatchNoise(0, True)
    )[:, 0]
    gain = (y - 0.4 - 0.25) / (0.2**2 + 0.25 * 0.6**2 + 0.01)
    exact = torch.cat([0.4 + 0.2**2 * gain, 0.5 + 0.5 * 0.6**2 * gain], 1)
    assert relative(samples.mean(0), exact[0]) < 0.02


def test_a_gradient_step_moves_a_block_by_its_weight():
    y, moves = random(1, *SIZE), []
    operator = Superposition([Denoising(SIZE)] * 2, noise_sigma=0.1)
    for weights in ((1.0, 1.0), (1.0, 4.0)):
        prior = Product([network(), network(0.5)], step_weights=weights)
        problem = Problem.create(y, operator, prior)
        u = problem.zeros()
        moves.append(prior.to_public(u - 0.1 * problem.A_adjoint(problem.A(u) - problem.y)))
    torch.testing.assert_close(moves[1][:, :1], moves[0][:, :1])
    torch.testing.assert_close(moves[1][:, 1:], 4 * moves[0][:, 1:])


def test_priors_that_do_not_go_together_are_named():
    complex_prior = network(is_complex=True)
    for priors, options, message in (
        ([], {}, "priors"),
        ([nn.Identity()], {}, "priors"),
        ([network(), complex_prior], {}, "real and complex"),
        ([GaussianPrior(0.0, 1.0)], {}, "channels"),
        ([network(), network()], {"channels": (1,)}, "channels"),
        (network(), {}, "priors: got NetworkPrior"),
        ([network(), network()], {"channels": 2}, "channels: got 2"),
        ([network(), network()], {"step_weights": 2.0}, "step_weights: got 2.0"),
        ([network(), network()], {"step_weights": (1, 0)}, "step_weights"),
        ([network(), network()], {"step_weights": (1,)}, "step_weights"),
        ([network(), network()], {"step_weights": (1, None)}, "step_weights"),
        ([Product([network(), network(data_range=(0, 1))])], {}, "priors"),
    ):
        with pytest.raises(ArgumentError, match=message):
            Product(priors, **options)
    product = Product([network(), network(data_range=(0, 1))])
    with pytest.raises(ArgumentError, match="condition"):
        product.denoise(torch.zeros(1, 2, 8, 6), 3.0, condition=1)
    with pytest.raises(ShapeError, match="blocks of"):
        Problem.create(torch.zeros(1, *SIZE), Denoising(SIZE), product)
    with pytest.raises(ArgumentError, match="Superposition"):
        Problem.create(torch.zeros(1, 2, 8, 6), Denoising((2, 8, 6)), product)


def item_of(operator, index):
    if operator.items == 1:
        return operator
    blocks = [operator.operators[0], Inpainting(operator.operators[1].mask[index])]
    return Superposition(blocks, operator.weights, operator.noise_model.sigma)


@every_solver
@pytest.mark.parametrize("make", [lambda: aligned(3), general, complex_sum])
def test_every_solver_takes_sums(solver, make):
    """As `tests/test_solvers.py` holds them to: items alone and in a batch, seeds, one count."""
    operator = make()
    if isinstance(solver, DDRM) and not isinstance(operator, Decomposable):
        pytest.skip("DDRM takes operators with a decomposition")
    kind = {"is_complex": operator.complex_image}
    second = {} if operator.complex_image else {"data_range": (0.0, 1.0)}
    prior = Product([network(**kind), network(0.5, **kind, **second)], step_weights=(1, 2))
    dtype = torch.complex128 if operator.complex_image else torch.float64
    y = operator.measure(random(3, *operator.img_size, dtype=dtype))
    batch = solver(y, operator, prior, seed=3)
    alone = solver(y[1:2], item_of(operator, 1), prior, noise=ItemNoise(3, [(0, 1)]))
    torch.testing.assert_close(alone.samples[0], batch.samples[0, 1:2], rtol=0, atol=1e-8)
    assert not torch.equal(batch.samples, solver(y, operator, prior, seed=4).samples)
    assert batch.samples.isfinite().all()
    if not isinstance(solver, DAPS | PnPDM):
        assert batch.nfe == len(solver.times(Problem.create(y, operator, prior))) - 1


@every_solver
def test_a_block_without_weight_leaves_the_plain_problem_of_the_other(solver):
    """Which sees the same noise: the first block of the draws."""

    mask = (random(1, *SIZE, seed=1) > -0.8).double()
    plain = Inpainting(mask, noise_sigma=0.05)
    y = plain.measure(random(1, *SIZE))
    expected = solver(y, plain, network(), noise=Shared())
    summed = Superposition([Inpainting(mask), Denoising(SIZE)], (1, 0), 0.05)
    result = solver(y, summed, Product([network(), network(0.5)]), noise=Shared())
    found, _ = summed.split(result.samples)
    torch.testing.assert_close(found, expected.samples, rtol=0, atol=1e-6)


class Shared:
    """Noise of which a second block has its own, while the first has that of a plain problem."""

    def __init__(self):
        self.position = 0

    def draw(self, like):
        self.position += 1
        parts = [
            ItemNoise(self.position, [(k,)]).draw(part) for k, part in enumerate(like.split(1, 1))
        ]
        return torch.cat(parts, 1)


@pytest.mark.parametrize("name", NONLINEAR)
def test_companded_problems_are_solved(name):
    operator = Companded(Superposition([Denoising(SIZE)] * 2, (1, 0.5)), noise_sigma=0.02)
    blocks = [GaussianPrior(0.0, 0.1), GaussianPrior(0.0, 0.1)]
    prior = Product(blocks, (1, 1))
    y = operator.measure(0.3 * random(2, 2, 8, 6))
    longer = dataclasses.replace(SOLVERS[name], steps=30)
    result = longer(y, operator, prior, seed=0)
    assert result.samples.isfinite().all()
    misfit = (operator.A(result.samples[0]) - y).norm()
    unfit = (operator.A(0.3 * random(2, 2, 8, 6, seed=5)) - y).norm()
    assert misfit < unfit


def test_noisy_images_are_not_companded():
    operator = Companded(Superposition([Denoising(SIZE)] * 2))
    prior = Product([network(), network()])
    with pytest.raises(ArgumentError, match="not linear"):
        NoisyProjection(steps=5)(torch.zeros(1, *SIZE), operator, prior)


def test_projection_is_that_of_its_equations():
    """Of pure Gaussians: written out in matrices, with recorded draws."""
    operator, prior = (
        general(),
        Product([GaussianPrior(0.0, 0.3), GaussianPrior(0.0, 0.1)], (1, 1)),
    )
    y = operator.measure(random(1, 2, 8, 6))
    solver = NoisyProjection(steps=4, step_size=0.3)
    found = solver(y, operator, prior, noise=Shared()).samples[0]
    M, noise = dense_matrix(operator.A, (2, 8, 6), torch.float64), Shared()
    times = solver.times(Problem.create(y, operator, prior))
    (alpha, sigma), C = prior.schedule(times[0]), torch.tensor([0.3, 0.1]).repeat_interleave(48)
    C = C.double()
    end = torch.hypot(*prior.schedule(prior.schedule.T))
    x = torch.hypot(alpha, sigma) / end * noise.draw(torch.zeros(1, 2, 8, 6).double()).flatten()
    for s in times[1:-1]:
        (alpha, sigma), (a, b) = (alpha, sigma), prior.schedule(s)
        # p(x_s | x_t, x_0) of DDPM.
        x0 = alpha * C / (alpha**2 * C + sigma**2) * x
        step = alpha / a
        beta2 = sigma**2 - step**2 * b**2
        mean = (a * beta2 * x0 + step * b**2 * x) / sigma**2
        z = noise.draw(torch.zeros(1, 2, 8, 6).double()).flatten()
        x = mean + (beta2 * b**2 / sigma**2).sqrt() * z
        y_s = a * y + b * noise.draw(y)
        x = x - 0.3 * M.T @ (M @ x - y_s.flatten())
        alpha, sigma = a, b
    x0 = alpha * C / (alpha**2 * C + sigma**2) * x
    torch.testing.assert_close(found.flatten(), x0)


def test_projection_starts_where_it_is_told():
    operator, prior = general(), Product([network(), network()])
    y = operator.measure(random(1, 2, 8, 6))
    problem, solver = Problem.create(y, operator, prior), NoisyProjection(steps=50, start=1.0)
    times = solver.times(problem)
    assert 1 < len(times) < 51
    assert float(prior.schedule.ratio(times[0])) <= 1
    assert solver(y, operator, prior, seed=0).nfe == len(times) - 1
    alpha, sigma = prior.schedule(times[0])
    start = solver.init(problem, Shared()).x - sigma * Shared().draw(problem.zeros())
    torch.testing.assert_close(operator.A(start / alpha), y, rtol=0, atol=1e-3)
    for options in ({"start": 0.0}, {"noise": "none"}, {"step_size": -1.0}):
        with pytest.raises((ArgumentError, UnknownNameError), match=next(iter(options))):
            NoisyProjection(**options)
    with pytest.raises(ArgumentError, match="start"):
        NoisyProjection(start=1e-4)(y, operator, prior)


@pytest.mark.parametrize("kind", ["image", "frames", "patches"])
def test_the_nuclear_norm_is_proximal(kind):
    """Its solution is optimal: (z - x) / (gamma weight) is a subgradient at x."""
    prox = NuclearNorm(0.7, kind, patch=4)
    z, gamma = random(2, 3, 8, 12), torch.tensor([0.5, 3.0]).double()
    x = prox(z, gamma)
    for item in range(2):
        rest = (z - x)[item] / (0.7 * gamma[item])
        for X, G in zip(matrices(x[item], kind), matrices(rest, kind), strict=True):
            nuclear = torch.linalg.svdvals(X).sum()
            assert float(torch.linalg.svdvals(G).max()) < 1 + 1e-9
            torch.testing.assert_close((X * G).sum(), nuclear, rtol=0, atol=1e-9)


def matrices(x, kind):
    if kind == "frames":
        return [x.flatten(1)]
    if kind == "image":
        return list(x)
    places = [(i, j) for i in range(0, 8, 4) for j in range(0, 12, 4)]
    return [torch.stack([c[i : i + 4, j : j + 4].flatten() for i, j in places]) for c in x]


def test_total_variation_is_proximal():
    """No image nearby is better, and a step of two pieces shrinks as is known."""
    prox, gamma = TotalVariation(0.5, iterations=300), torch.tensor([0.2, 0.6]).double()
    step = torch.zeros(2, 1, 16, 20).double()
    step[..., 10:] = 1
    shrunk = gamma.view(-1, 1, 1, 1) * 0.5 / 10
    expected = step + shrunk * torch.where(step > 0, -1.0, 1.0)
    torch.testing.assert_close(prox(step, gamma), expected, rtol=0, atol=1e-3)
    z = random(2, 1, 9, 7)
    x = prox(z, gamma)

    def objective(image):
        down, across = (torch.zeros_like(image) for _ in range(2))
        down[..., :-1, :], across[..., :-1] = image.diff(dim=-2), image.diff(dim=-1)
        size = (down**2 + across**2).sqrt().flatten(1).sum(1)
        return ((image - z) ** 2).flatten(1).sum(1) / 2 + 0.5 * gamma * size

    for seed in range(5):
        for size in (1e-2, 1e-1):
            assert (objective(x) < objective(x + size * random(*x.shape, seed=seed))).all()


def test_a_regulariser_takes_the_place_of_a_network():
    """Rows that are equal, of unknown heights, off a smooth field; both come out."""
    k = 16 * torch.fft.fftfreq(16, dtype=torch.float64)
    varying = (k[:, None] != 0) * torch.exp(-(k[:, None] ** 2 + k**2) / 2)
    smooth = GaussianPrior(0.0, Stationary(1e-3 + 40 * varying))
    x = smooth.draw(random(1, 1, 16, 16))
    h = random(1, 1, 1, 16, seed=1).expand(1, 1, 16, 16)
    operator = Superposition([Denoising((1, 16, 16))] * 2, noise_sigma=0.1)
    y = operator.measure(torch.cat([x, h], 1))
    prior = Product([smooth, Proximal(NuclearNorm(10.0), channels=1)], (1, 1))
    result = DiffPIR(steps=30, lambda_=1.0)(y, operator, prior, seed=0)
    found, stripes = operator.split(result.mean)
    assert relative(stripes, h) < 0.35
    assert relative(found, x) < 0.45 < 1.5 < relative(y, x)
    guided = DPS(steps=8)(y, operator, prior, seed=0)
    assert guided.samples.isfinite().all()
    with pytest.raises(ArgumentError, match="prox"):
        Proximal(None)
    for bad in ({"weight": -1.0}, {"matrix": "rows"}, {"patch": 0}):
        with pytest.raises((ArgumentError, UnknownNameError), match=next(iter(bad))):
            NuclearNorm(**bad)
    with pytest.raises(ShapeError, match="divisible"):
        NuclearNorm(1.0, "patches", 5)(random(1, 1, 8, 8), torch.ones(1))
    with pytest.raises(ArgumentError, match="iterations"):
        TotalVariation(iterations=0)


RECORD = json.loads((Path(__file__).parent / "data" / "superposition.json").read_text())
LONG = ("DAPS", "DAPS, exact draws", "PnPDM", "PnPDM, rho_min .05")


@pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in LONG else []) for n in RECORD["solvers"]],
)
def test_errors_on_the_toy_are_those_recorded(name):
    """Neither worse nor better: the draws are fixed, so only rounding may differ."""
    solver = superposition_solvers(RECORD["budget"])[name]
    found = superposition_errors(solver)
    assert found == pytest.approx(RECORD["solvers"][name], rel=0.01, abs=2e-3)


def test_records_are_of_solvers_that_exist():
    assert set(RECORD["solvers"]) <= set(superposition_solvers(RECORD["budget"]))
    assert set(RECORD["toy"]) == {"exact covariance", "DPS", "PiGDM", "projection"}


@pytest.mark.slow
def test_published_guidance_is_as_far_off_as_recorded():
    for name, errors in published_toy().items():
        assert errors == pytest.approx(RECORD["toy"][name], rel=0.02, abs=4e-3), name


def test_the_posterior_of_the_toy_is_exact():
    """By the blocks' covariances alone, without operator and product."""
    y, operator, prior = superposition_problem(prior_schedule := Tabulated.linear())
    mean, covariance = exact_posterior((y, operator, prior))
    blocks = [squared_exponential(*case) for case in ((4.0, 1.0), (1.0, 0.5))]
    S = sum(blocks) + 0.01 * torch.eye(32, dtype=y.dtype)
    expected = torch.cat([C @ torch.linalg.solve(S, y.flatten()) for C in blocks])
    torch.testing.assert_close(mean[0], expected)
    torch.testing.assert_close(covariance[:32, 32:], -blocks[0] @ torch.linalg.solve(S, blocks[1]))
    assert prior.schedule is prior_schedule


def test_the_example_runs(monkeypatch, capsys, tmp_path):
    script = Path(__file__).parents[1] / "examples" / "superposition.py"
    options = ["--out", str(tmp_path), "--side", "32", "--steps", "4"]
    monkeypatch.setattr("sys.argv", [script.name, *options])
    runpy.run_path(str(script), run_name="__main__")
    rows = [line for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert len(rows) == 7
    assert (tmp_path / "rain.png").stat().st_size > 0
