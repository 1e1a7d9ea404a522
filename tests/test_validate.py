"""The measuring instruments: problems with exact posteriors, errors, records and the command."""

import dataclasses
import json
import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm
from tests import helpers
from tests.helpers import normal

from wellposed import errors
from wellposed.errors import ArgumentError
from wellposed.metrics import crps
from wellposed.operators import MatrixOperator, check_operator
from wellposed.priors import VE, Flow, GaussianMixturePrior, GaussianPrior, Tabulated
from wellposed.priors.covariance import Diagonal
from wellposed.priors.transition import levels
from wellposed.solvers import Problem, Solver, State
from wellposed.solvers.repaint import replaced
from wellposed.validation.consistency import mean_errors, order, process_gap
from wellposed.validation.errors import (
    compare,
    expected_coverage,
    expected_crps,
    expected_region_coverage,
    gaussian_samples,
)
from wellposed.validation.gaussian import (
    PROBLEMS,
    BatchNoise,
    field_covariance,
    floor_errors,
    gaussian_errors,
    process,
)
from wellposed.validation.levy import MATRICES, covariance, levy_errors, levy_problem
from wellposed.validation.mixtures import UnitMixture, mixture_distances, mixture_problem
from wellposed.validation.report import details, summary
from wellposed.validation.run import DIVERGED, QUICK, REFUSED, measure
from wellposed.validation.settings import recorded_solvers

pytestmark = pytest.mark.usefixtures("single_thread")
F64 = torch.float64


def dense(operator, size):
    """The operator's matrix, column by column."""
    basis = torch.eye(math.prod(size), dtype=F64).reshape(-1, *size)
    return torch.cat([operator.A(column[None]).flatten(1) for column in basis]).T


def close(found, expected, atol=1e-9):
    torch.testing.assert_close(found, expected, rtol=0, atol=atol)


@dataclass(frozen=True, kw_only=True)
class Exact(Solver):
    """Draws from the exact Gaussian posterior, then errs as it is told."""

    shift: float = 0.0
    stretch: float = 1.0
    refuse: str = "Whitened"
    break_down: bool = False

    def check(self, problem):
        if type(problem.operator).__name__ == self.refuse:
            raise ArgumentError("operator: refused")

    def step(self, state, t, s, problem, noise):
        exact = problem.prior.posterior(problem.y[:1], problem.operator)
        z = noise.draw(state.x).flatten(1)
        C = exact.covariance()
        deviation = self.stretch * gaussian_samples(torch.zeros(1, dtype=z.dtype), C, z)
        direction = C.diagonal().sqrt() * math.nan if self.break_down else C.diagonal().sqrt()
        x = exact.mean.flatten(1) + deviation + self.shift * direction
        return State(x.reshape(state.x.shape), x.reshape(state.x.shape))


# Problems


@pytest.mark.parametrize("kind", list(PROBLEMS))
def test_gaussian_problems_are_consistent_draws_of_their_own(kind):
    """Over many problems, y has the mean and covariance that prior, operator and noise imply."""
    y, operator, prior = PROBLEMS[kind](process("vp"), 0)
    assert y.dtype == F64 and len(y) == 1
    assert check_operator(operator).passes()
    other = PROBLEMS[kind](process("vp"), 1)[0]
    assert not torch.allclose(other, y)
    assert torch.equal(PROBLEMS[kind](process("ve"), 0)[0], y)
    whitened = []
    for seed in range(12):
        y, operator, prior = PROBLEMS[kind](process("vp"), seed)
        size = operator.img_size
        A, sigma = dense(operator, size), float(operator.noise_model.sigma)
        basis = torch.eye(A.shape[1], dtype=F64).reshape(-1, *size)
        C = (prior.covariance @ basis).flatten(1)
        S = A @ C @ A.T + sigma**2 * torch.eye(len(A), dtype=F64)
        keep = A.abs().sum(1) > 0  # pixels that are not measured carry no noise
        m = prior.mean.to(F64).expand(1, *size).flatten()
        gap = (y.flatten() - A @ m)[keep]
        whitened.append(float(gap @ torch.linalg.solve(S[keep][:, keep], gap)))
        count = int(keep.sum())
    low, high = chi2.ppf([1e-4, 1 - 1e-4], 12 * count)
    assert low < sum(whitened) < high


def test_a_field_is_smooth_and_has_its_deviation():
    basis = torch.eye(144, dtype=F64).reshape(144, 1, 12, 12)
    C = (field_covariance() @ basis).flatten(1)
    close(C.diagonal(), torch.full((144,), 0.09, dtype=F64))
    assert 0.5 < float(C[0, 1] / C[0, 0]) < 0.95
    close(C[0, 1], C[0, 11])  # periodic


def test_matrix_operators_are_their_matrix_and_decomposition():
    M = normal(3, 8)
    operator = MatrixOperator(M, (2, 2, 2), 0.1)
    assert check_operator(operator).passes()
    x, y = normal(4, 2, 2, 2, seed=1), normal(4, 3, seed=2)
    close(operator.A(x), x.flatten(1) @ M.T)
    close(operator.U(operator.singular_values * operator.V_adjoint(x)), operator.A(x))
    close(operator.A_dagger(y).flatten(1), y @ torch.linalg.pinv(M).T)
    close(operator.V_adjoint(operator.V(y)), y)
    close(operator.U_adjoint(operator.U(y)), y)
    assert operator.A(x.float()).dtype == torch.float32
    with pytest.raises(errors.ShapeError, match=r"matrix: got \(3, 8\), accepted: \(m, 9\)"):
        MatrixOperator(M, (1, 3, 3))
    with pytest.raises(errors.ShapeError, match="matrix"):
        MatrixOperator(M[0], (2, 2, 2))


def test_batch_noise_is_normal_and_antithetic_if_asked():
    like = torch.zeros(6, 500, dtype=F64)
    plain, paired = BatchNoise(3), BatchNoise(3, antithetic=True)
    first, second = plain.draw(like), plain.draw(like)
    assert not torch.allclose(first, second) and plain.position == 2
    assert torch.equal(BatchNoise(3).draw(like), first)
    assert abs(float(first.std()) - 1) < 0.1
    pair = paired.draw(like)
    close(pair[:3], -pair[3:])
    close(pair[:3], first[:3])
    assert BatchNoise(3).draw(like.float()).dtype == torch.float32


# Distances from Gaussians


def test_expected_scores_are_averages_over_drawn_truths():
    samples, mean, std = 0.7 * normal(40, 3) + 0.2, torch.tensor([0, 0.3, 1.0]).double(), 0.8
    spread = torch.full((3,), std, dtype=F64)
    truths = mean + std * normal(60_000, 3, seed=1)
    scores = crps(samples[:, None].expand(40, 60_000, 3), truths)
    assert expected_crps(samples, mean, spread) == pytest.approx(float(scores.mean()), abs=2e-3)
    low, high = np.quantile(samples.numpy(), [0.1, 0.9], axis=0)
    inside = ((truths.numpy() >= low) & (truths.numpy() <= high)).mean()
    assert expected_coverage(samples, mean, spread, 0.8) == pytest.approx(inside, abs=4e-3)


def test_errors_of_a_shift_and_a_stretch_are_what_they_must_be():
    C = torch.diag(torch.tensor([0.5, 1.0, 2.0], dtype=F64) ** 2)
    mean, shift = normal(3, seed=2), torch.tensor([0.0, 0.6, 0.8], dtype=F64)
    z = normal(50_000, 3)
    found = compare(mean + shift + 1.3 * z @ C.sqrt(), mean, C)
    assert found.mean == pytest.approx(1 / math.sqrt(5.25), abs=0.02)
    assert found.spread == pytest.approx(1.69, abs=0.03)
    assert found.covariance == pytest.approx(0.69, abs=0.03)
    wide = compare(mean + 1.3 * z @ C.sqrt(), mean, C)
    for name, level in (("coverage_50", 0.5), ("coverage_90", 0.9)):
        expected = 2 * norm.cdf(1.3 * norm.ppf((1 + level) / 2)) - 1
        assert getattr(wide, name) == pytest.approx(expected, abs=0.01)
    # E|X - x| of independent normals is sqrt(2 (s^2 + 1) / pi), half that between samples s.
    expected = math.sqrt(2 * (1 + 1.69)) - 1.3
    assert wide.crps == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("kind", list(PROBLEMS))
def test_exact_samples_show_the_floor(kind):
    floor = floor_errors(1, 2000, kind)
    assert floor.mean < 0.06
    assert floor.spread == pytest.approx(1, abs=0.05)
    assert floor.crps == pytest.approx(1, abs=5e-3)
    assert floor.coverage_50 == pytest.approx(0.5, abs=0.015)
    assert floor.coverage_95 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize("kind", ["independent pixels", "field, half the pixels"])
def test_an_exact_solver_shows_the_floor_and_an_inexact_one_its_errors(kind):
    """The whole way through a solver's call, with a posterior computed another way."""
    exact = gaussian_errors(Exact(steps=1), "flow", 1, 2000, kind)
    assert exact.mean < 0.06
    assert exact.spread == pytest.approx(1, abs=0.05)
    wrong = gaussian_errors(Exact(steps=1, shift=0.5, stretch=0.8), "ve", 1, 2000, kind)
    assert wrong.mean == pytest.approx(0.5, abs=0.05)
    assert wrong.spread == pytest.approx(0.64, abs=0.04)
    assert wrong.coverage_90 < exact.coverage_90 - 0.05


def test_regions_of_highest_density_are_covered_as_stated():
    C = torch.diag(torch.linspace(0.1, 2, 10, dtype=F64))
    z = normal(20_000, 10)
    mean = normal(10, seed=1)
    exact = expected_region_coverage(gaussian_samples(mean, C, z), mean, C, 0.9)
    assert exact == pytest.approx(0.9, abs=0.01)
    narrow = expected_region_coverage(gaussian_samples(mean, C, 0.8 * z), mean, C, 0.9)
    expected = chi2.cdf(0.64 * chi2.ppf(0.9, 10), 10)
    assert narrow == pytest.approx(expected, abs=0.01)


def test_unknown_problems_are_named():
    for call in (
        lambda: gaussian_errors(Exact(), kind="random matric"),
        lambda: floor_errors(kind="random matric"),
    ):
        with pytest.raises(errors.UnknownNameError, match="Did you mean 'random matrix'"):
            call()
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'samples'"):
        levy_problem("sample", 2)
    with pytest.raises(errors.UnknownNameError, match="process"):
        process("edm")


# Mixture of 25


@pytest.mark.parametrize("schedule", [Tabulated.linear(), VE(), Flow()], ids=["vp", "ve", "flow"])
def test_unit_mixtures_denoise_as_general_ones(schedule):
    weights, means = (
        torch.rand(5, generator=torch.Generator().manual_seed(0)).double(),
        normal(5, 1, 2, 3),
    )
    ours = UnitMixture(weights, 3 * means, schedule)
    general = GaussianMixturePrior(weights, 3 * means, torch.ones(5, dtype=F64), schedule)
    x = 4 * normal(7, 1, 2, 3, seed=1)
    for t in (0.02 * schedule.T, 0.4 * schedule.T, 0.97 * schedule.T):
        close(ours.denoise(x, t), general.denoise(x, t))
    times = schedule.T * torch.linspace(0.1, 0.9, 7, dtype=F64)
    close(ours.denoise(x, times), general.denoise(x, times))
    with pytest.raises(errors.ArgumentError, match="weights"):
        UnitMixture(torch.zeros(2), means[:2])


def test_mixture_posteriors_are_those_of_general_mixtures():
    """Moments of the closed-form sampler against weights, means and covariances in general."""
    problem = mixture_problem(8, 2, seed=1)
    prior, count = problem.prior, 40_000
    general = GaussianMixturePrior(
        prior.weights, prior.means.reshape(25, 1, 1, 8), torch.ones(25, dtype=F64)
    )
    exact = general.posterior(problem.y, problem.operator)
    w, m = exact.weights[0], exact.means[0]
    mean = w @ m
    spread = exact.covariances + torch.einsum("ki,kj->kij", m - mean, m - mean)
    C = torch.einsum("k,kij->ij", w, spread)
    samples = problem.posterior_samples(count, np.random.default_rng(0))
    band = 5 * (C.diagonal() / count).sqrt()
    assert bool(((samples.mean(0) - mean).abs() < band).all())
    close(torch.cov(samples.T), C, 0.05 * float(C.diagonal().max()))


@pytest.mark.parametrize("cell", [(8, 1), (80, 4)])
def test_mixture_problems_are_those_published(cell):
    for seed in range(5):
        problem = mixture_problem(*cell, seed)
        s, means = problem.operator.singular_values, problem.prior.means
        assert len(s) == cell[1] and 0 <= float(s.min()) and float(s.max()) <= 1
        assert 0 < float(problem.operator.noise_model.sigma) <= float(s.max())
        assert means.shape == (25, cell[0]) and len(means.unique(dim=0)) == 25
        assert means.unique().tolist() == [-16.0, -8.0, 0.0, 8.0, 16.0]
        assert torch.equal(means[:, :2], means[:, -2:])
    with pytest.raises(errors.ArgumentError, match="d: got 7"):
        mixture_problem(7, 1, 0)
    with pytest.raises(errors.ArgumentError, match="measured: got 9"):
        mixture_problem(8, 9, 0)


def test_mixture_distance_of_the_prior_is_far_from_the_floor():
    @dataclass(frozen=True, kw_only=True)
    class Ignorant(Exact):
        def step(self, state, t, s, problem, noise):
            z = noise.draw(state.x)
            k = (25 * torch.special.ndtr(z.flatten(1)[:, 0])).long().clamp(max=24)
            x = problem.prior.means[k].reshape(z.shape) + z
            return State(x, x)

    floor = mixture_distances(None, (8, 2), 2, 300, 200)
    prior = mixture_distances(Ignorant(steps=1), (8, 2), 2, 300, 200)
    assert 0 < max(floor) < 1.5
    assert min(prior) > 5 * max(floor)


# Random walks


def test_levy_matrices_are_their_operations():
    x = normal(64).numpy()
    taps = np.exp(-0.5 * (np.arange(-6, 7) / 2) ** 2)
    convolved = np.convolve(x, taps / taps.sum(), mode="same")
    np.testing.assert_allclose(MATRICES["convolution"] @ x, convolved, atol=1e-12)
    assert set(MATRICES["samples"] @ x) <= set(x) and len(MATRICES["samples"]) == 32
    spectrum, kept = np.fft.rfft(x, norm="ortho"), MATRICES["transform"] @ x
    assert len(kept) == 31
    for value in kept[:16]:
        assert np.abs(spectrum.real - value).min() < 1e-12
    for value in kept[16:]:
        assert np.abs(spectrum.imag - value).min() < 1e-12
    walk = np.tril(np.ones((64, 64)))
    np.testing.assert_allclose(covariance().numpy(), 0.25 * walk @ walk.T)


@pytest.mark.parametrize("name", list(MATRICES))
def test_levy_problems_have_their_noise_and_their_floor(name):
    y, operator, _ = levy_problem(name, 30)
    sigma = float(operator.noise_model.sigma)
    power = y.square().mean(1).median() - sigma**2
    assert 10 * math.log10(float(power) / sigma**2) == pytest.approx(25, abs=1)
    floor = levy_errors(None, name, 30, 400)
    assert floor.gap == pytest.approx(10 * math.log10(1 + 1 / 400), rel=0.2)
    assert floor.coverage == pytest.approx(0.9, abs=0.01)


# Steps and processes


def test_order_is_the_slope():
    assert order([25, 50, 100], [4.0, 1.0, 0.25]) == pytest.approx(2)
    assert order([10, 20], [0.3, 0.3]) == pytest.approx(0)
    with pytest.raises(errors.ArgumentError, match="steps"):
        order([25], [1.0])
    with pytest.raises(errors.ArgumentError, match="errors"):
        order([25, 50], [1.0, 0.0])


def test_antithetic_pairs_leave_no_sampling_error():
    exact, shifted = (mean_errors(Exact(shift=s), (1, 2), problems=2, pairs=3) for s in (0, 0.25))
    assert max(exact) < 1e-9
    assert shifted == pytest.approx([0.25, 0.25], rel=1e-6)


def test_a_process_gap_is_found():
    class Naive(Exact):
        def step(self, state, t, s, problem, noise):
            x = super().step(state, t, s, problem, noise).x + 0.01 * problem.prior.schedule.T
            return State(x, x)

    assert process_gap(Exact(), 2) < 1e-12
    assert process_gap(Naive(), 2) > 1


# Records and the command


@pytest.fixture(scope="module")
def records():
    small = dataclasses.replace(QUICK, samples=50, cells=(), signals=2)
    return {
        "floor": measure(None, small),
        "exact": measure(Exact(steps=2, spacing="karras", refuse="Inpainting"), small),
        "broken": measure(Exact(steps=2, break_down=True), small),
    }


def test_refusals_and_divergence_are_told_apart_from_errors(records):
    exact, broken = records["exact"], records["broken"]
    assert exact["gaussian"]["field, half the pixels"] == REFUSED
    assert exact["gaussian"]["random matrix"]["spread"] == pytest.approx(1, abs=0.3)
    assert exact["nfe"] == 0 and exact["process_gap"] < 1e-12
    assert broken["gaussian"]["random matrix"] == broken["process_gap"] == DIVERGED


def test_other_errors_than_refusals_are_not_hidden():
    @dataclass(frozen=True, kw_only=True)
    class Buggy(Exact):
        def step(self, state, t, s, problem, noise):
            raise ArgumentError("x: a bug")

    with pytest.raises(errors.ArgumentError, match="a bug"):
        measure(Buggy(), QUICK)


def test_all_recorded_solvers_are_those_offered():
    from wellposed import solvers

    offered = {n for n in solvers.__all__ if isinstance(getattr(solvers, n), type)}
    offered -= {"ResShift", "IRSDE", "RDDM", "MRSampler"}  # of trained restorers
    offered -= {
        "IRSDEDenoising",
        "VarianceSharing",
        "SeparatedMode",
        "BlindHQS",
    }  # for one operator
    recorded = {type(s).__name__ for s in recorded_solvers().values()}
    of_volumes = {"DDS3D", "DiffusionMBIR"}
    found = {n for n in offered if issubclass(getattr(solvers, n), Solver)} - {"Solver"}
    estimates = {n for n in found if getattr(solvers, n).deterministic}
    latent = {n for n in found if getattr(solvers, n).latent_only}
    assert found - of_volumes - estimates - latent == recorded
    assert {s.spacing for s in recorded_solvers().values()} == {"karras"}


run = partial(helpers.run, "validate")


def cells(text, name):
    line = next(line for line in text.splitlines() if line.startswith(f"| {name} "))
    return [cell.strip() for cell in line.strip("| ").split("|")]


@pytest.mark.slow
def test_the_command_writes_table_plot_and_record(tmp_path):
    result = run("red-diff", "--quick", "--out", tmp_path / "new")
    assert result.exit_code == 0, result.output
    text = (tmp_path / "new" / "posterior.md").read_text()
    assert "wellposed validate --quick --out" in text
    record = json.loads((tmp_path / "new" / "posterior.json").read_text())["solvers"]
    assert set(record) == {"floor", "REDDiff"}
    row, floor = cells(text, "REDDiff"), cells(text, "floor")
    assert row == cells(result.stdout, "REDDiff")
    header = cells(text, "solver")
    values = record["REDDiff"]["gaussian"].values()
    mean = np.mean([v["mean"] for v in values])
    assert float(row[header.index("mean")]) == pytest.approx(mean, abs=1e-3)
    assert row[header.index("NFE")] == "25"
    assert floor[header.index("mixture")] == "1.0"
    assert text.count("| REDDiff ") == 5 and "![" in text
    assert (tmp_path / "new" / "posterior.png").stat().st_size > 10_000


@pytest.mark.slow
def test_the_command_adds_to_what_a_folder_holds(tmp_path):
    """The floor is not measured again."""
    assert run("red-diff", "--quick", "--out", tmp_path).exit_code == 0
    stored = json.loads((tmp_path / "posterior.json").read_text())
    assert set(stored["solvers"]) == {"floor", "REDDiff"}
    stored["solvers"]["REDDiff"]["nfe"] = 7
    (tmp_path / "posterior.json").write_text(json.dumps(stored))
    result = run("mmps", "--quick", "--out", tmp_path)
    assert "REDDiff" not in result.stdout
    text = (tmp_path / "posterior.md").read_text()
    assert cells(text, "REDDiff")[1] == "7"
    assert cells(text, "MMPS")[1] == "25"


def test_the_command_writes_over_no_table_it_cannot_add_to(tmp_path):
    other = {"effort": {"budget": 1}, "solvers": {"DPS": "of another effort"}}
    (tmp_path / "posterior.json").write_text(json.dumps(other))
    result = run("red-diff", "--quick", "--out", tmp_path)
    assert result.exit_code == 2
    assert "results of another effort" in result.stderr
    (tmp_path / "posterior.json").unlink()
    (tmp_path / "posterior.md").write_text("hours of work")
    result = run("red-diff", "--quick", "--out", tmp_path)
    assert result.exit_code == 2
    assert "--out: cannot add to" in result.stderr
    assert (tmp_path / "posterior.md").read_text() == "hours of work"


def test_the_command_names_what_is_wrong(tmp_path):
    result = run("red-dif", "--quick")
    assert result.exit_code == 2
    assert "Did you mean 'red-diff'?" in result.stderr
    assert run("dds3d", "--quick").exit_code == 2
    (tmp_path / "file").write_text("")
    result = run("red-diff", "--quick", "--out", tmp_path / "file" / "below")
    assert result.exit_code == 2
    assert "--out: cannot add to" in result.stderr


def test_tables_mark_averages_over_some_problems(records):
    small = {
        name: r | {"mixture": {"8, 2": {"distance": 0.5, "half_width": 0.1}}}
        for name, r in records.items()
    }
    header, exact = cells(summary(small), "solver"), cells(summary(small), "exact")
    assert exact[header.index("mean")].endswith("*")
    assert cells(summary(small), "broken")[header.index("mean")] == DIVERGED
    rows = [row for _, rows in details(small).values() for row in rows]
    assert any(REFUSED in row for row in rows if row[0] == "exact")


@pytest.mark.parametrize(
    ("label", "operator"),
    [
        ("RePaint", "convolution"),
        ("DDIMProjection", "convolution"),
        ("REDDiff", "convolution"),
        ("PiGDM", "transform"),
        ("PiGDM, by the score", "transform"),
    ],
)
def test_noise_that_the_operator_amplifies_stays_out_of_the_image(label, operator):
    """As published, the gaps are 80, 18, 28, 79 and 506 dB."""
    assert levy_errors(recorded_solvers()[label], operator, 4).gap < 3


def test_replaced_data_keep_the_noise_of_the_level():
    """RePaint's images have the variance of their level, whatever share the data have in them."""
    count, gains = 40_000, torch.tensor([1.0, 0.3, 0.05], dtype=torch.float64)
    noise = BatchNoise(0)
    zeros = torch.zeros(count, 1, 1, 3, dtype=torch.float64)
    operator = MatrixOperator(torch.diag(gains), (1, 1, 3), 0.4)
    y = 0.4 * noise.draw(zeros.flatten(1))
    problem = Problem.create(y, operator, GaussianPrior(0.0, Diagonal(1.0), process("vp")))
    level = levels(problem.prior.schedule, 600, 400)
    x = replaced(level.sigma_s * noise.draw(zeros), level, problem, noise)
    assert x.mean(0).abs().max() < 0.02
    assert torch.allclose(x.std(0), level.sigma_s, rtol=0.02)
