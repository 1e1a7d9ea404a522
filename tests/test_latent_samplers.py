"""Samplers of latent priors on linear autoencoders, where the posterior is known exactly."""

import dataclasses
import math
from itertools import pairwise

import pytest
import torch
from torch import nn

from wellposed import errors, solvers
from wellposed.noise import ItemNoise
from wellposed.operators import Inpainting, MatrixOperator, PhaseRetrieval, random_mask
from wellposed.priors import Flow, GaussianPrior, Latent, Tabulated
from wellposed.priors.covariance import Full
from wellposed.solvers import (
    DDS,
    DPS,
    FLAIR,
    PSLD,
    DiffPIR,
    FlowDPS,
    LatentDDS,
    LatentDPS,
    MRSampler,
    Problem,
    ReSample,
)
from wellposed.solvers.descent import descend
from wellposed.validation.errors import compare
from wellposed.validation.gaussian import BatchNoise, process

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.filterwarnings("ignore:residual"),  # of runs of a few steps
]

SOLVERS = {
    "psld": PSLD(steps=6),
    "psld-ancestral": PSLD(steps=6, eta=1.0),
    "latent-dps": LatentDPS(steps=6),
    "latent-dds": LatentDDS(steps=6),
    "resample": ReSample(steps=6, every=2),
    "flow-dps": FlowDPS(steps=6),
    "flair": FLAIR(steps=6),
}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())


class Linear:
    """Decodes by a matrix (64, 16) and encodes by its pseudo-inverse."""

    factor, image_channels, latent_channels = 2, 1, 1

    def __init__(self, matrix):
        self.matrix, self.inverse = matrix, torch.linalg.pinv(matrix)

    def decode(self, z):
        return (z.flatten(1) @ self.matrix.T).unflatten(1, (1, 8, 8))

    def encode(self, x):
        return (x.flatten(1) @ self.inverse.T).unflatten(1, (1, 4, 4))


class Identity:
    """The autoencoder whose latents are the images."""

    factor, image_channels, latent_channels = 1, 1, 1

    def decode(self, z):
        return z

    def encode(self, x):
        return x


class Curved(nn.Module):
    """A nonlinear autoencoder, whose encoder is not the inverse of its decoder."""

    factor, image_channels, latent_channels = 2, 1, 1

    def __init__(self):
        super().__init__()
        self.items = []

    def decode(self, z):
        self.items.append(len(z))
        fine = z.repeat_interleave(2, 2).repeat_interleave(2, 3)
        return torch.tanh(fine + 0.2 * fine.roll(1, 3).square())

    def encode(self, x):
        self.items.append(len(x))
        return torch.nn.functional.avg_pool2d(1.2 * x, 2)


class Decoder:
    """An autoencoder that cannot encode."""

    factor, image_channels, latent_channels = 1, 1, 1

    def decode(self, z):
        return z


def draws(seed):
    noise = ItemNoise(seed, [(0,)])
    return lambda *shape: noise.draw(torch.empty(1, *shape, dtype=torch.float64))[0]


def latent_problem(seed=0, sigma=0.1, general=False):
    """Measurement, operator, latent prior, and the exact posterior of the latents."""
    draw = draws(seed)
    Q, D = torch.linalg.qr(draw(16, 16))[0], torch.linalg.qr(draw(64, 16))[0]
    if general:  # columns are neither orthogonal nor of length 1
        D = D @ (torch.eye(16, dtype=torch.float64) + 0.075 * draw(16, 16))
    C = Q @ torch.diag(torch.linspace(0.3, 1.2, 16, dtype=torch.float64) ** 2) @ Q.T
    U, V = torch.linalg.qr(draw(8, 8))[0], torch.linalg.qr(draw(64, 8))[0]
    A = U @ torch.diag(torch.linspace(0.3, 1, 8, dtype=torch.float64)) @ V.T
    operator = MatrixOperator(A, (1, 8, 8), sigma)
    latents = GaussianPrior(0.2 * draw(1, 1, 4, 4), Full(C), process("vp"))
    prior = Latent(latents, Linear(D), (-1.0, 1.0))
    y = operator.A(prior.to_public(latents.draw(draw(1, 1, 4, 4)))) + sigma * draw(1, 8)
    exact = latents.posterior(y, MatrixOperator(A @ D, (1, 4, 4), sigma or 1.0))
    return y, operator, prior, exact


def masked(items=1, sigma=0.05):
    draw = draws(7)
    operator = Inpainting(random_mask(8, 8, 0.6, 0), 1, sigma)
    return operator.measure(0.1 + 0.5 * draw(items, 1, 8, 8), seed=1), operator


def curved(items=1):
    operator = masked()[1]
    prior = Latent(GaussianPrior(0.1, 0.5, Tabulated.linear()), Curved(), (-1.0, 1.0))
    image = prior.to_public(0.1 + 0.5 * draws(8)(items, 1, 4, 4))
    return operator.measure(image, seed=1), operator, prior


def pair(prior=None):
    """A prior on images, and the same as a latent prior of the identity."""
    prior = prior or GaussianPrior(0.1, 0.5, Tabulated.linear())
    return prior, Latent(prior, Identity(), (-1.0, 1.0))


# Distance from the exact posterior, as the docstrings state it.

KNOWN = {
    "dps": (DPS(steps=50, zeta=1.0), 0.8, 0.3),
    "psld": (PSLD(steps=50), 0.8, 0.3),
    "latent-dps": (LatentDPS(steps=50), 0.8, 0.3),
    "latent-dds": (LatentDDS(steps=50), 0.8, 0.3),
    "resample": (ReSample(steps=50, every=1), 0.35, 0.7),
    "flow-dps": (FlowDPS(steps=50), 0.3, 0.4),
    "flair": (FLAIR(steps=50), 0.3, 0.5),
}


@pytest.mark.parametrize("general", [False, True], ids=["orthonormal", "general"])
@pytest.mark.parametrize("name", KNOWN)
def test_errors_on_gaussian_latents_are_those_documented(name, general):
    solver, mean, narrow = KNOWN[name]
    y, operator, prior, exact = latent_problem(general=general)
    solver = dataclasses.replace(solver, spacing="karras")
    found = solver(y.repeat(200, 1), operator, prior, noise=BatchNoise(0, antithetic=True))
    errors_ = compare(prior.to_units(found.samples[0]), exact.mean, exact.covariance())
    assert errors_.mean < mean
    assert 1 - narrow < errors_.spread < 1.1


# Hard consistency and the descent of the misfit.


@pytest.mark.parametrize("spacing", ["leading", "karras"])
def test_noise_free_resample_fits_the_data(spacing):
    y, operator, prior, _ = latent_problem(sigma=0.0)
    found = ReSample(steps=12, every=3, spacing=spacing)(y, operator, prior, num_samples=2, seed=0)
    assert float(found.residual.max()) < 1e-8


def test_resample_stops_at_the_noise():
    y, operator, prior, _ = latent_problem()
    found = ReSample(steps=12, every=3)(y, operator, prior, num_samples=8, seed=0)
    assert bool((found.residual <= 1 + 1e-9).all()) and float(found.residual.mean()) > 0.5


def test_descent_is_the_projection_of_linear_measurements():
    y, operator, prior, _ = latent_problem(sigma=0.0)
    z = draws(5)(1, 1, 4, 4)
    AD = operator.matrix @ prior.autoencoder.matrix
    exact = z.flatten(1) + (y - z.flatten(1) @ AD.T) @ torch.linalg.pinv(AD).T
    found = descend(Problem.create(y, operator, prior), z, 20)
    assert (found.flatten(1) - exact).norm() < 1e-6 * exact.norm()
    problem = Problem.create(y, MatrixOperator(AD, (1, 4, 4)), prior.prior)
    assert (descend(problem, z, 20).flatten(1) - exact).norm() < 1e-9 * exact.norm()


def test_descent_lowers_any_misfit_item_by_item():
    y, operator, prior = curved(3)
    z, problem = draws(5)(3, 1, 4, 4), Problem.create(y, operator, prior)
    misfit = lambda u: (problem.A(u) - problem.y).flatten(1).norm(dim=1)  # noqa: E731
    found = [descend(problem, z, steps) for steps in (0, 1, 2, 8)]
    for before, after in pairwise(found):
        assert bool((misfit(after) <= misfit(before)).all())
    alone = descend(Problem.create(y[:1], operator, prior), z[:1], 8)
    torch.testing.assert_close(found[-1][:1], alone, rtol=0, atol=1e-9)


# Limits and the identity.


@pytest.mark.parametrize("schedule", [Tabulated.linear(), Flow()], ids=["vp", "flow"])
def test_psld_without_gluing_is_dps(schedule):
    y, operator = masked()
    prior = Latent(GaussianPrior(0.1, 0.5, schedule), Curved())
    psld = PSLD(steps=8, omega=0.7, gamma=0.0, eta=1.0)(y, operator, prior, seed=0)
    dps = DPS(steps=8, zeta=0.7)(y, operator, prior, seed=0)
    torch.testing.assert_close(psld.samples, dps.samples, rtol=0, atol=1e-12)


def test_gluing_by_the_identity_is_another_misfit():
    """With A A^T = 1 and the identity both terms are equal: DPS with the sum of the weights."""
    y, operator = masked()
    image, latent = pair()
    psld = PSLD(steps=8, omega=0.4, gamma=0.3, eta=1.0)(y, operator, latent, seed=0)
    dps = DPS(steps=8, zeta=0.7)(y, operator, image, seed=0)
    torch.testing.assert_close(psld.samples, dps.samples, rtol=0, atol=1e-10)


def test_gluing_does_not_depend_on_the_scale_of_the_operator():
    prior = Latent(GaussianPrior(0.1, 0.5), Curved())
    matrix, y = torch.eye(64, dtype=torch.float64)[::2], draws(3)(1, 32)
    one, ten = (
        PSLD(steps=6, omega=0.0, gamma=0.3)(
            c * y, MatrixOperator(c * matrix, (1, 8, 8), c * 0.1), prior, seed=0
        ).samples
        for c in (1.0, 10.0)
    )
    torch.testing.assert_close(one, ten, rtol=0, atol=1e-9)


def test_latent_dps_is_dps_for_standard_normal_latents():
    y, operator = masked()
    for schedule in (Tabulated.linear(), Flow()):
        prior = Latent(GaussianPrior(0.0, 1.0, schedule), Curved())
        found, dps = (
            s(y, operator, prior, seed=0) for s in (LatentDPS(steps=8), DPS(steps=8, zeta=1.0))
        )
        torch.testing.assert_close(found.samples, dps.samples, rtol=0, atol=1e-10)


def test_pixel_steps_by_the_identity_are_those_of_dds():
    y, operator = masked()
    image, latent = pair()
    found = LatentDDS(steps=8)(y, operator, latent, seed=0).samples
    torch.testing.assert_close(found, DDS(steps=8)(y, operator, image, seed=0).samples)


def test_flow_dps_by_the_identity_is_that_of_images():
    y, operator = masked()
    image, latent = pair(GaussianPrior(0.1, 0.5, Flow()))
    samples = [FlowDPS(steps=8)(y, operator, p, seed=0).samples for p in (image, latent)]
    torch.testing.assert_close(*samples, rtol=0, atol=1e-6)


@pytest.mark.parametrize("latents_from", [0.0, 1.0], ids=["latents", "pixels"])
def test_resample_with_all_noise_renewed_is_diffpir(latents_from):
    """By the identity and without noise, if every step is consistent and gamma is infinite."""
    y, operator = masked(sigma=0.0)
    image, latent = pair()
    shares = {"pixels_from": 0.0, "latents_from": latents_from}
    found = ReSample(steps=8, every=1, gamma=1e14, **shares)(y, operator, latent, seed=0)
    plain = DiffPIR(steps=8, zeta=1.0)(y, operator, image, seed=0)
    torch.testing.assert_close(found.samples, plain.samples, rtol=0, atol=1e-5)


def test_what_explains_the_data_is_left():
    """The difference of codes leaves out what the autoencoder loses."""
    y, operator, prior = curved()
    z = draws(5)(1, 1, 4, 4)
    y = operator.A(prior.to_public(z))
    problem = Problem.create(y, operator, prior)
    found = solvers.corrected.Estimate(z, z, lambda v: v)
    level = solvers.corrected.levels(prior.schedule, 500, 400)
    moved = LatentDDS().correction.correct(found, level, problem, ItemNoise(0, [(0,)]))
    torch.testing.assert_close(moved, z, rtol=0, atol=1e-12)


# What every solver promises.


@every_solver
def test_an_item_is_the_same_alone_and_in_a_batch(solver):
    y, operator, prior = curved(3)
    batch = solver(y, operator, prior, seed=3).samples
    alone = solver(y[2:], operator, prior, noise=ItemNoise(3, [(0, 2)])).samples
    torch.testing.assert_close(alone[0], batch[0, 2:], rtol=0, atol=1e-9)


@every_solver
def test_chunks_of_the_autoencoder_change_nothing(solver):
    y, operator, prior = curved(3)
    whole, chunked = (solver(y, operator, p, seed=3) for p in (prior, prior.in_chunks(2)))
    torch.testing.assert_close(chunked.samples, whole.samples, rtol=0, atol=1e-12)
    assert max(prior.autoencoder.items) >= 3
    del prior.autoencoder.items[:]
    solver(y, operator, prior.in_chunks(1), seed=3)
    assert max(prior.autoencoder.items) == 1


def test_gradients_of_chunks_are_those_of_the_whole():
    prior = curved()[2]
    z = draws(5)(5, 1, 4, 4).requires_grad_()
    v = draws(6)(5, 1, 8, 8)
    whole, chunked = (
        torch.autograd.grad(p.to_public(z), z, v)[0] for p in (prior, prior.in_chunks(2))
    )
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-12)
    x = v.clone().requires_grad_()
    whole, chunked = (
        torch.autograd.grad(p.to_units(x), x, z.detach())[0] for p in (prior, prior.in_chunks(2))
    )
    torch.testing.assert_close(chunked, whole, rtol=0, atol=1e-12)
    with pytest.raises(errors.ArgumentError, match="chunk: got 0"):
        prior.in_chunks(0)


@pytest.mark.parametrize("solver", [ReSample(steps=4), LatentDDS(steps=4), LatentDPS(steps=4)])
def test_nonlinear_operators_are_solved(solver):
    operator = PhaseRetrieval((1, 8, 8))
    y = operator.measure(0.5 + 0.1 * draws(2)(1, 1, 8, 8))
    assert torch.isfinite(solver(y, operator, curved()[2], seed=0).samples).all()


def test_other_integrators_take_the_pixel_step():
    y, operator, prior = curved()
    solver = MRSampler(steps=6, order=2, correction=LatentDDS().correction)
    near, far = (
        s(y, operator, prior, seed=0).residual for s in (solver, MRSampler(steps=6, order=2))
    )
    assert float(near) < 0.8 * float(far)


@pytest.mark.parametrize("name", ["psld", "latent-dps", "latent-dds", "resample"])
def test_priors_on_images_are_refused(name):
    y, operator = masked()
    with pytest.raises(
        errors.ArgumentError, match=r"GaussianPrior is a prior on images, accepted by .*Latent"
    ):
        SOLVERS[name](y, operator, pair()[0])


@pytest.mark.parametrize("name", ["psld", "latent-dds", "resample"])
def test_autoencoders_that_only_decode_are_refused(name):
    y, operator = masked()
    prior = Latent(GaussianPrior(0.1, 0.5), Decoder())
    with pytest.raises(errors.ArgumentError, match="autoencoder of Latent has no encode, acc"):
        SOLVERS[name](y, operator, prior)
    assert torch.isfinite(LatentDPS(steps=2)(y, operator, prior, seed=0).samples).all()
    fixed = prior.conditioned_on(None)
    assert fixed.is_latent and not fixed.has_encoder


def test_gluing_asks_for_an_adjoint():
    operator = PhaseRetrieval((1, 8, 8))
    y = operator.measure(0.5 + torch.zeros(1, 1, 8, 8))
    with pytest.raises(errors.ArgumentError, match="PhaseRetrieval is not linear, accepted by PS"):
        PSLD()(y, operator, curved()[2])


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        (PSLD, "gamma", -0.1),
        (PSLD, "omega", math.inf),
        (ReSample, "gamma", 0.0),
        (ReSample, "every", 0),
        (ReSample, "pixels_from", 1.5),
        (LatentDPS, "zeta", -1.0),
        (LatentDDS, "cg_steps", 0),
        (FlowDPS, "data_steps", 0),
    ],
)
def test_values_outside_their_ranges_are_named(kind, field, value):
    with pytest.raises(errors.ArgumentError, match=f"{field}: got"):
        kind(**{field: value})
