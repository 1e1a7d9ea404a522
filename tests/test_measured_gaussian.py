"""The Gaussian prior fitted to measurements alone (expectation maximisation)."""

from pathlib import Path

import numpy as np
import pytest
import torch
from tests.helpers import C128, F64, close, mask, normal, random

from wellposed.errors import ArgumentError, NonFiniteError, ShapeError
from wellposed.operators import JPEG, Denoising, Inpainting, LinearOperator, SingleCoilMRI
from wellposed.priors import Full, GaussianPrior
from wellposed.priors.measured_gaussian import fit_moments, information, of_rank

RECORDED = np.load(Path(__file__).parent / "data" / "parity" / "em.npz")


def recorded(name):
    return torch.from_numpy(RECORDED[name])


class PerItem(LinearOperator):
    """A matrix (m, n) of its own for each item."""

    def __init__(self, matrices, sigma):
        super().__init__((1, 1, matrices.shape[2]), (matrices.shape[1],), sigma)
        self.register_buffer("matrices", matrices)

    def forward_map(self, x):
        return torch.einsum("kmn,kn->km", self.matrices, x.flatten(1))

    def adjoint_map(self, y):
        return torch.einsum("kmn,km->kn", self.matrices, y)[:, None, None]


def rises(seen):
    return bool((np.diff(list(seen.values())) > -1e-12).all())


def test_the_exact_rounds_are_those_of_the_recording():
    operator, seen = PerItem(recorded("A"), 0.05), {}
    for number, rounds in enumerate(RECORDED["mu_round"][:4] + 1):
        prior = GaussianPrior.fit_measured(
            *(recorded("y"), operator, int(rounds)), callback=seen.__setitem__
        )
        close(prior.mean.flatten(), recorded("mu")[number], 1e-9)
        found = prior.covariance @ torch.eye(5, dtype=F64)[:, None, None]
        close(found.flatten(1), recorded("cov")[number], 1e-9)
    assert rises(seen)
    close(seen[0], float(RECORDED["mean_loglik"][0]))


def test_long_runs_stay_symmetric_and_approach_the_truth():
    """Without symmetry the rounds diverge after about a hundred."""
    known = information(recorded("y"), PerItem(recorded("A"), 0.05), torch.full((512,), 0.05))
    errors = []
    for rounds in (1, 16, 400):
        C = fit_moments(known, rounds).C
        errors.append(float((C - recorded("cov_true")).norm() / recorded("cov_true").norm()))
    assert errors[0] > errors[1] > errors[2] and errors[2] < 0.09
    close(C, recorded("cov")[4], 1e-7)


def test_a_round_is_that_of_the_posteriors_of_the_prior():
    """The means and covariances of `GaussianPrior.posterior`, item by item."""
    masks = mask(6, 1, 2, 3)
    operator = Inpainting(masks, noise_sigma=0.3)
    y = operator.A(normal(6, 1, 2, 3))
    found = fit_moments(information(y, operator, torch.full((6,), 0.3)), 1)
    start = GaussianPrior(0.0, Full(torch.eye(6, dtype=torch.float64)))
    means, spreads = [], []
    for k in range(6):
        posterior = start.posterior(y[k : k + 1], Inpainting(masks[k], noise_sigma=0.3))
        means.append(posterior.mean.flatten())
        spreads.append(posterior.covariance())
    m = torch.stack(means)
    close(found.mu, m.mean(0), 1e-6)  # the masks are float32
    C = torch.stack(spreads).mean(0) + (m - m.mean(0)).T @ (m - m.mean(0)) / 6
    close(found.C, C, 1e-6)


def test_the_likelihood_is_that_of_the_marginal_gaussian():
    seen, A, y = {}, normal(3, 2, 4), normal(3, 2, seed=1)
    known = information(y, PerItem(A, 0.5), torch.full((3,), 0.5))
    fit_moments(known, 1, callback=seen.__setitem__)
    each = [
        torch.distributions.MultivariateNormal(
            torch.zeros(2, dtype=torch.float64), a @ a.T + 0.25 * torch.eye(2)
        ).log_prob(v)
        for a, v in zip(A, y, strict=True)
    ]
    close(seen[0], float(torch.stack(each).mean()))


def test_complex_images_have_the_covariance_of_each_part():
    """Circular noise: with complete, nearly noise-free data, half the mean square."""
    x = 2 * random(400, 1, 1, 3, dtype=C128)
    operator = Denoising((1, 1, 3), 1e-2, complex_image=True)
    prior = GaussianPrior.fit_measured(operator.A(x), operator, rounds=30)
    assert prior.is_complex
    C = prior.covariance @ torch.eye(3, dtype=C128)[:, None, None]
    centred = (x - x.mean(0)).flatten(1)
    close(C.flatten(1), (centred.T @ centred.conj() / 800).T, 1e-3)


def test_it_learns_from_kspace_of_which_lines_are_missing():
    """Images of two directions, seen through masks that differ: closer to the truth than 1."""
    basis = normal(2, 16)
    x = (normal(300, 2, seed=1) @ basis).reshape(300, 1, 4, 4).to(C128)
    lines = mask(300, 1, 1, 4, keep=0.5)
    lines[..., 0] = 1
    lines = lines.expand(300, 1, 4, 4)
    operator = SingleCoilMRI(lines[:, 0], noise_sigma=0.05)
    prior = GaussianPrior.fit_measured(operator.A(x), operator, rounds=60, rank=4)
    C = (prior.covariance @ torch.eye(16, dtype=C128).reshape(16, 1, 4, 4)).flatten(1).T
    true = basis.T @ basis / 2  # the imaginary part is zero
    assert float((C.real - true).norm() / true.norm()) < 0.25


def test_the_rank_is_that_of_probabilistic_principal_components():
    X = recorded("X") - recorded("X").mean(0)
    found = of_rank(X.T @ X / len(X), 2)
    close(found, recorded("UUt") + torch.diag(recorded("D")), 1e-12)
    close(of_rank(found, None), found)
    assert torch.linalg.eigvalsh(of_rank(torch.zeros(2, 2) + 1.0, None)).min() > 0


def test_with_a_rank_the_likelihood_does_not_fall_either():
    known = information(recorded("y"), PerItem(recorded("A"), 0.05), torch.full((512,), 0.05))
    seen = {}
    fit_moments(known, 30, rank=2, callback=seen.__setitem__)
    assert rises(seen)


def test_one_operator_for_all_items_gives_what_equal_ones_give():
    A, y = normal(2, 4), normal(50, 2, seed=1)
    one = LinearOperatorOf(A)
    same = PerItem(A.expand(50, 2, 4), 0.5)
    first, second = (GaussianPrior.fit_measured(y, op, 5) for op in (one, same))
    unit = torch.eye(4, dtype=torch.float64)[:, None, None]
    close(first.covariance @ unit, second.covariance @ unit, 1e-9)


class LinearOperatorOf(LinearOperator):
    """A matrix for all items."""

    def __init__(self, matrix):
        super().__init__((1, 1, matrix.shape[1]), (len(matrix),), 0.5)
        self.register_buffer("matrix", matrix)

    def forward_map(self, x):
        return x.flatten(1) @ self.matrix.T

    def adjoint_map(self, y):
        return (y @ self.matrix)[:, None, None]


def test_bad_input_is_named():
    y, operator = normal(3, 1, 2, 2), Inpainting(torch.ones(3, 1, 2, 2), noise_sigma=0.1)
    fit = GaussianPrior.fit_measured
    with pytest.raises(ArgumentError, match="rounds: got 0"):
        fit(y, operator, 0)
    with pytest.raises(ArgumentError, match="rank: got 0"):
        fit(y, operator, 1, 0)
    with pytest.raises(ArgumentError, match="noise levels"):
        fit(y, Inpainting(torch.ones(3, 1, 2, 2)), 1)
    with pytest.raises(ArgumentError, match="operator: got 'JPEG'"):
        fit(torch.zeros(1, 3, 16, 16), JPEG((3, 16, 16)), 1)
    with pytest.raises(NonFiniteError, match="y: "):
        fit(y / 0, operator, 1)
    with pytest.raises(ShapeError, match="3"):
        fit(y[:2], operator, 1)
    with pytest.raises(ShapeError, match="GiB"):
        fit(torch.zeros(600, 1, 80, 80), Inpainting(torch.ones(600, 1, 80, 80), noise_sigma=1.0))
