"""Solvers of volumes: the published trajectories, their limits, and what every solver promises."""

import dataclasses
import json
import math
import threading
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from deepinv.physics import LinearPhysics
from tests.helpers import randn

from wellposed import errors
from wellposed.linalg import WHOLE, inner, largest_eigenvalue
from wellposed.noise import ItemNoise, RecordedNoise
from wellposed.operators import (
    ConeBeamCT,
    FanBeamCT,
    Inpainting,
    MultiCoilMRI,
    MultiCoilMRI3D,
    ParallelBeamCT,
    Stacked,
    simulate_sensitivity_maps,
    uniform_random_lines,
)
from wellposed.operators.check import dense_matrix
from wellposed.parallel.part import Part
from wellposed.priors import VE, GaussianPrior, Tabulated
from wellposed.priors.prior import Prior
from wellposed.priors.transition import levels
from wellposed.solvers import DDS, DDS3D, DiffusionMBIR, Problem
from wellposed.solvers.data import matched_weight, proximal
from wellposed.solvers.volumes.tv import AXES, VolumeState, soft_threshold
from wellposed.validation import PROCESSES, process

pytestmark = pytest.mark.usefixtures("single_thread")

PARITY = Path(__file__).parent / "data" / "parity"
F64, C128 = torch.float64, torch.complex128
SOLVERS = {
    "dds": DDS3D(steps=5, cg_steps=5),
    "dds-all-axes": DDS3D(steps=5, tv_axes="zyx", circular=True, cg_steps=2),
    "mbir": DiffusionMBIR(steps=8),
    "mbir-chunks": DiffusionMBIR(steps=8, corrector_chunk=2),
}
CALLS = {DDS3D: 1, DiffusionMBIR: 2}
every_solver = pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS.keys())


class Wave(Prior):
    """A smooth stand-in for a trained network, coupling neighbouring pixels of a slice.

    As `GaussianPrior` contracts to, so that no error of rounding is amplified.
    """

    calls = 0

    def denoise(self, x_t, t, condition=None):
        self.calls += 1
        alpha, sigma = self.schedule(t)
        weight = alpha * 0.2 / (0.2 * alpha**2 + sigma**2)
        return weight * (0.8 * x_t + 0.2 * x_t.roll(1, -1)) + 0.1 * torch.tanh(x_t.real)


def wave(data_range=(0.0, 1.0)):
    return Wave(Tabulated.linear(), 1, data_range=data_range)


def complex_wave():
    return Wave(Tabulated.linear(), 1, is_complex=True)


def ct(items=1):
    operator = Stacked(ParallelBeamCT(10, 5, noise_sigma=0.02), 5)
    x = torch.rand(items, 1, 5, 10, 10, generator=torch.Generator().manual_seed(0), dtype=F64)
    return operator.measure(x), operator, wave()


def mri(items=1):
    masks = [uniform_random_lines(10, 1.5, 0.2, seed=i)[None, :, None] for i in range(items)]
    maps = simulate_sensitivity_maps(2, 10, 10)[:, None].expand(-1, 5, -1, -1)
    operator = MultiCoilMRI3D(torch.stack(masks), maps.to(C128), noise_sigma=0.02)
    return operator.measure(randn(items, 1, 5, 10, 10, dtype=C128)), operator, complex_wave()


def item_operator(operator, index):
    """The operator of one item of a batch."""
    if isinstance(operator, Stacked):
        return operator
    return MultiCoilMRI3D(operator.mask[index, 0], operator.sensitivity_maps, noise_sigma=0.02)


every_problem = pytest.mark.parametrize("make", [ct, mri])


class Masked(LinearPhysics):
    """``y = scale * mask * x`` on volumes of any shape."""

    def __init__(self, mask, scale=1.0):
        super().__init__(img_size=tuple(mask.shape[1:]))
        self.register_buffer("mask", scale * mask)

    def A(self, x, **kwargs):
        return self.mask * x

    A_adjoint = A

    def A_adjoint_A(self, x, **kwargs):
        return self.mask**2 * x


def masked(shape=(1, 1, 6, 4, 5), seed=1, scale=1.0):
    return Masked((randn(*shape, seed=seed) > 0).double(), scale)


def gaussian(schedule=None):
    return GaussianPrior(0.4, 0.1, schedule)


# The authors' code


class RecordedCT(LinearPhysics):
    """The published projector and what it takes for the adjoint, on all slices."""

    def __init__(self, d, depth):
        side = math.isqrt(d["A"].shape[1])
        super().__init__(img_size=(1, depth, side, side))
        self.matrix, self.back = (torch.from_numpy(d[key]) for key in ("A", "AT"))

    def A(self, x, **kwargs):
        return (x.flatten(3) @ self.matrix.T).unflatten(-1, (-1, 8))

    def A_adjoint(self, y, **kwargs):
        return (y.flatten(3) @ self.back.T).unflatten(-1, self.img_size[-2:])


def recorded(name, schedule):
    """The arrays, their problem, the absolute rho and lambda, and the draws of the run."""
    d = dict(np.load(PARITY / f"{name}.npz"))
    cfg, y = json.loads(d["args"].item()), torch.from_numpy(d["y"]).transpose(0, 1)[None]
    operator, prior = RecordedCT(d, y.shape[2]), GaussianPrior(0.5, 0.05, schedule)
    shape = torch.Size([1, *operator.img_size])
    # Built by hand, as the published adjoint is none and would be refused.
    problem = Problem(y, operator, prior, shape, torch.float32, is_linear=True)
    norm2 = float(largest_eigenvalue(problem.normal, problem.back_projection))
    # The images in [0, 1] are in the units of the prior, whose range is -1 to 1.
    weights = {"rho": cfg["rho"] / norm2, "lam": cfg["lamb"] / norm2 / 2, "circular": True}
    generator = torch.Generator().manual_seed(cfg["seed"])
    count = 2 * cfg["N"] + 1 if "N" in cfg else cfg["T_sampling"]
    draws = [torch.randn(shape[2], 1, *shape[3:], generator=generator) for _ in range(count)]
    for kept, z in ((d["noise_first"], draws[0]), (d["noise_last"], draws[-1])):
        assert np.array_equal(kept, z.flatten()[:8]), "torch draws other numbers than recorded"
    return d, cfg, problem, weights, RecordedNoise([z.transpose(0, 1)[None] for z in draws])


def test_dds_of_a_ct_volume_follows_the_published_code():
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    schedule = Tabulated.from_betas(betas)
    d, cfg, problem, weights, noise = recorded("dds_ct_volume", schedule)
    solver = DDS3D(
        gamma=math.inf,
        steps=cfg["T_sampling"],
        eta=cfg["eta"],
        cg_steps=cfg["CG_iter"],
        renoise_last=False,
        **weights,
    )
    seen = []
    x = solver.run(problem, noise, lambda i, state: seen.append((state.x, state.x0))).u
    for i, step in enumerate(seen):
        x_s, x0 = (v[0, 0, ::6, 2::5, 2::5].numpy() for v in step)
        assert np.abs(x0 - d["cg_out"][i]).max() < 1e-4, f"data consistency, step {i}"
        if i + 1 < len(seen):
            assert np.abs(x_s - d["xt"][i + 1]).max() < 1e-4, f"transition of step {i}"
    assert np.abs(x[0, 0].numpy() - d["x_out"]).max() < 1e-4


def test_diffusion_mbir_follows_the_published_code():
    d, cfg, problem, weights, noise = recorded("diffusion_mbir", VE(378.0, 0.01))
    solver = DiffusionMBIR(steps=cfg["N"], snr=cfg["snr"], final_consistency=True, **weights)
    levels = np.repeat(solver.times(problem)[:-1], 2)
    np.testing.assert_allclose(levels, d["sigma_labels"], rtol=1e-6)
    x = solver.run(problem, noise).u
    # Single precision truncates 19 of the published predictor's 300 levels to their neighbours;
    # with these, agreement is 6e-6.
    assert np.abs(x[0, 0].numpy() - d["x_out"][:, 0]).max() < 5e-4


def test_the_final_step_meets_the_data_and_leaves_the_rest():
    operator = masked(scale=3.0)
    y = operator.A(randn(1, 1, 6, 4, 5))
    solver = DiffusionMBIR(steps=3)
    runs = {
        final: dataclasses.replace(solver, final_consistency=final)(
            y, operator, gaussian(), seed=0
        )
        for final in (False, True)
    }
    before, after = (runs[final].samples[0] for final in (False, True))
    seen = operator.mask > 0
    torch.testing.assert_close(operator.A(after), y)
    assert torch.equal(after[~seen], before[~seen])
    assert not torch.equal(after[seen], before[seen])


def test_the_final_step_is_for_real_images():
    y, operator, prior = mri()
    with pytest.raises(errors.ArgumentError, match="final_consistency: got True, accepted: False"):
        DiffusionMBIR(steps=2, final_consistency=True)(y, operator, prior)


# The parts


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("name", AXES)
@pytest.mark.parametrize("dtype", [F64, C128])
def test_differences_and_their_adjoint(name, circular, dtype):
    x, d = (randn(2, 1, 4, 3, 5, seed=s, dtype=dtype) for s in (0, 1))
    axis, part = AXES[name], Part()
    kept = d.clone()
    jump = part.difference(x, axis, circular)
    back = part.difference_adjoint(d, axis, circular)
    torch.testing.assert_close(inner(jump, d), inner(x, back))
    assert torch.equal(d, kept)
    end = x.select(axis, 0) if circular else x.select(axis, -1)
    expected = np.diff(x.numpy(), axis=axis, append=end.unsqueeze(axis).numpy())
    np.testing.assert_allclose(jump.numpy(), expected)


def test_soft_threshold_shrinks_magnitudes():
    v = randn(200)
    expected = torch.nn.functional.softshrink(v, 0.7)
    torch.testing.assert_close(soft_threshold(v, 0.7), expected)
    turned = soft_threshold(v * (0.6 + 0.8j), 0.7)
    torch.testing.assert_close(turned, expected * (0.6 + 0.8j))
    assert not soft_threshold(torch.zeros(3, dtype=C128), 0.0).any()


def swept(solver, x, problem, sweeps=1):
    state = solver.init(problem, ItemNoise(0, [(0, 0)]))
    for _ in range(sweeps):
        x, d, u = solver.sweep(x, state, problem)
        state = VolumeState(x, x, d, u, state.norm2)
    return state


@pytest.mark.parametrize("dtype", [F64, C128])
@pytest.mark.parametrize(("axes", "circular"), [("z", False), ("zyx", True)])
def test_sweeps_lead_to_the_minimiser(axes, circular, dtype):
    """Its optimality: ``A^H (A x - y) + lambda D^H p = 0`` with p a subgradient of |D x|."""
    operator, prior = masked(scale=3.0), GaussianPrior(0.0, 1.0, is_complex=dtype == C128)
    prior.data_range = (-0.5, 0.5)
    solver = DDS3D(rho=1.0, lam=0.2, cg_steps=8, tv_axes=axes, circular=circular)
    y = operator.A(randn(1, 1, 6, 4, 5, dtype=dtype))
    problem = Problem.create(y, operator, prior)
    state = swept(solver, problem.zeros(), problem, 150)
    x, part, lam = problem.to_public(state.x), Part(), 0.2 * 3.0**2  # the data range is 1
    gradient = operator.A_adjoint(operator.A(x) - y)
    for n, u in zip(axes, state.u.unbind(1), strict=True):
        p, jump = u / (2 * 0.2), part.difference(x, AXES[n], circular)
        gradient = gradient + lam * part.difference_adjoint(p, AXES[n], circular)
        apart = jump.abs() > 2e-2
        assert float(p.abs().max()) < 1 + 1e-9
        torch.testing.assert_close(p[apart], torch.sgn(jump[apart]), rtol=0, atol=0.05)
        assert 0 < int(apart.sum()) < x.numel()
    assert float(gradient.abs().max()) < 0.01 * lam


def test_without_penalty_it_is_dds_with_hard_consistency():
    y, operator, prior = ct()
    published = DDS3D(steps=6, gamma=math.inf)
    ours = dataclasses.replace(published, rho=1e-13, lam=0.0)(y, operator, prior, seed=0).samples
    plain = DDS(steps=6, gamma=math.inf)(y, operator, prior, seed=0).samples
    torch.testing.assert_close(ours, plain, rtol=0, atol=1e-9)
    assert (published(y, operator, prior, seed=0).samples - plain).abs().max() > 1e-2


@pytest.mark.slow
def test_without_penalty_it_is_dds_with_the_same_weight_of_the_data():
    y, operator, prior = ct(2)
    ours = DDS3D(steps=6, rho=1e-13, lam=0.0, gamma=0.3, cg_steps=60)
    first, second = (
        solver(y, operator, prior, seed=0).samples
        for solver in (ours, DDS(steps=6, gamma=0.3, cg_steps=60))
    )
    torch.testing.assert_close(first, second, rtol=0, atol=1e-7)


def test_the_weight_that_follows_the_noise_is_that_of_dds():
    y, operator, prior = ct(2)
    problem, x = Problem.create(y, operator, prior), randn(2, 1, 5, 10, 10)
    level = levels(prior.schedule, float(prior.schedule.time_at(0.3)), 0.0)
    solver = DDS3D(rho=1e-13, lam=0.0, gamma=None, cg_steps=100)
    state = solver.init(problem, ItemNoise(0, [(0, 0), (0, 1)]))
    found, _, _ = solver.sweep(x, state, problem, solver.pull(level, problem))
    expected = proximal(problem, x, 1 / matched_weight(level.sigma_t / level.alpha_t, problem))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_a_huge_lambda_makes_a_constant_along_z():
    """What remains is least squares of one slice seen by all."""
    operator = masked()
    y = operator.A(randn(1, 1, 6, 4, 5))
    problem = Problem.create(y, operator, gaussian())
    x = swept(DDS3D(rho=0.3, lam=1e6, cg_steps=8), problem.zeros(), problem, 150).x
    seen = operator.mask.sum(2).clamp(min=1)
    mean = (y.sum(2) / seen)[:, :, None].expand_as(x)
    somewhere = (operator.mask.sum(2, keepdim=True) > 0).expand_as(x)
    torch.testing.assert_close(x[somewhere], mean[somewhere], rtol=0, atol=1e-5)


def test_an_axis_is_like_any_other():
    operator = masked()
    y = operator.A(randn(1, 1, 6, 4, 5))
    problem = Problem.create(y, operator, gaussian())
    turned = Masked(operator.mask.transpose(2, 4))
    other = Problem.create(y.transpose(2, 4), turned, gaussian())
    along_z = swept(DDS3D(tv_axes="z"), problem.zeros(), problem, 3).x
    along_x = swept(DDS3D(tv_axes="x"), other.zeros(), other, 3).x
    torch.testing.assert_close(along_x.transpose(2, 4), along_z)


def test_the_circular_difference_couples_the_last_slice_with_the_first():
    """Of a volume that is seen fully, data of slice 0 reach slice k weakened by rho^k."""
    operator, y = Masked(torch.ones(1, 1, 6, 4, 5, dtype=F64)), randn(1, 1, 6, 4, 5)
    changed = y.clone()
    changed[:, :, 0] += 1.0
    reached = {}
    for circular in (False, True):
        solver = DDS3D(rho=0.01, cg_steps=8, circular=circular)
        problems = [Problem.create(v, operator, gaussian()) for v in (y, changed)]
        before, after = (swept(solver, problem.zeros(), problem).x for problem in problems)
        reached[circular] = (after - before)[0, 0].abs().amax((1, 2)).tolist()
    assert 1e-3 < reached[True][1] < 1e-1
    assert reached[True][-1] == pytest.approx(reached[True][1], rel=1e-6)
    assert reached[False][-1] < 1e-8


@pytest.mark.parametrize(
    "solver", [DDS3D(steps=6, cg_steps=5), DiffusionMBIR(steps=6)], ids=["dds", "mbir"]
)
@pytest.mark.parametrize("scale", [2.0**-20, 2.0**20])
def test_the_scale_of_the_operator_does_not_matter(solver, scale):
    """Nor that of its data; exactly, for a power of two."""
    x, small, large = randn(1, 1, 6, 4, 5), masked(), masked(scale=scale)
    first = solver(small.A(x), small, gaussian(), seed=0)
    assert torch.equal(solver(large.A(x), large, gaussian(), seed=0).samples, first.samples)


def test_the_norm_is_that_of_the_dense_matrix():
    y, operator, _ = ct()
    matrix = dense_matrix(operator.operator.A, (1, 10, 10), F64)
    found = largest_eigenvalue(operator.A_adjoint_A, operator.A_adjoint(y))
    assert float(found) == pytest.approx(float(torch.linalg.matrix_norm(matrix, 2)) ** 2, rel=1e-2)
    assert largest_eigenvalue(torch.zeros_like, randn(2, 3)).tolist() == [0, 0]


# The samplers


@pytest.mark.parametrize("name", ["vp", "ve"])
def test_predictor_and_corrector_sample_the_prior(name):
    class Unmeasured(DiffusionMBIR):
        def sweep(self, x, state, problem):
            return x, state.d, state.u

    operator = Masked(torch.ones(1, 1, 10, 20, 20, dtype=F64))
    prior = gaussian(process(name))
    x = Unmeasured(steps=200)(torch.zeros(1, 1, 10, 20, 20, dtype=F64), operator, prior, seed=0)
    assert float(x.mean.mean()) == pytest.approx(0.4, abs=0.03)
    assert float(x.mean.var()) == pytest.approx(0.1, rel=0.1)


@pytest.mark.parametrize(
    "solver",
    [DDS3D(steps=12, spacing="karras", cg_steps=5), DiffusionMBIR(steps=20)],
    ids=["dds", "mbir"],
)
def test_vp_ve_and_flow_forms_give_the_same_samples(solver):
    y, operator, _ = ct()
    results = [
        solver(y, operator, gaussian(process(name)), num_samples=2, seed=5).samples
        for name in PROCESSES
    ]
    for other in results[1:]:
        torch.testing.assert_close(other, results[0], rtol=0, atol=1e-6)


class Chunked(Prior):
    """A prior that sees some slices at a time."""

    def __init__(self, prior, chunk):
        super().__init__(prior.schedule, prior.channels)
        self.prior, self.chunk = prior, chunk

    def denoise(self, x_t, t, condition=None):
        return torch.cat([self.prior.denoise(v, t) for v in x_t.split(self.chunk, 2)], 2)


@pytest.mark.parametrize(
    "solver", [DDS3D(steps=5, cg_steps=5), DiffusionMBIR(steps=5)], ids=["dds", "mbir"]
)
def test_the_chunks_of_the_prior_do_not_matter(solver):
    y, operator, _ = ct()
    whole, parts = (
        solver(y, operator, Chunked(gaussian(), chunk), seed=0).samples for chunk in (5, 2)
    )
    torch.testing.assert_close(whole, parts, rtol=0, atol=1e-12)


def test_langevins_step_is_the_published_one_of_each_chunk():
    z, score = randn(2, 1, 5, 3, 4), randn(2, 1, 5, 3, 4, seed=1) + 1.0
    by_chunk = DiffusionMBIR(corrector_chunk=2)._langevin_step(z, score, WHOLE).numpy()
    by_volume = DiffusionMBIR()._langevin_step(z, score, WHOLE).numpy()

    def step(item, slices):
        sizes = [np.linalg.norm(v[item, 0, slices].flatten(1), axis=1).mean() for v in (z, score)]
        return 2 * (0.16 * sizes[0] / sizes[1]) ** 2

    for item in range(2):
        for slices in (slice(0, 2), slice(2, 4), slice(4, 5)):
            np.testing.assert_allclose(by_chunk[item, 0, slices], step(item, slices))
        np.testing.assert_allclose(by_volume[item, 0], step(item, slice(0, 5)))


def layered(depth=12, side=16):
    """A disc, of which parts change at two heights."""
    x = torch.zeros(1, 1, depth, side, side, dtype=F64)
    at = torch.linspace(-1, 1, side, dtype=F64)
    radius = torch.hypot(at[:, None], at)
    x[:, :, :] = 0.4 * (radius < 0.8)
    x[:, :, depth // 3 :, 5:9, 4:8] = 0.9
    x[:, :, 2 * depth // 3 :, 8:11, 9:12] = 0.1
    return x


@pytest.mark.slow
def test_total_variation_along_z_improves_a_layered_volume():
    x = layered()
    operator = Stacked(ParallelBeamCT(16, 6, noise_sigma=0.05), 12)
    y, prior = operator.measure(x), GaussianPrior(0.3, 0.05)
    single = y.transpose(1, 2).flatten(0, 1)
    slices = DDS(gamma=math.inf)(single, operator.operator, prior, seed=0).mean.transpose(0, 1)
    found = {"slices": slices[None], "dds": DDS3D()(y, operator, prior, seed=0).mean}
    # At 16 x 16 pixels ||A||^2 is nearer to what A does to most images than at 256 x 256.
    for name, options in {"without": (1e-9, 0.0), "mbir": (0.05, 1e-3)}.items():
        solver = DiffusionMBIR(steps=150, rho=options[0], lam=options[1])
        found[name] = solver(y, operator, prior, seed=0).mean
    error = {name: float((v - x).norm() / x.norm()) for name, v in found.items()}
    assert error["dds"] < 0.8 * error["slices"], error
    assert error["mbir"] < 0.8 * error["without"], error


def operators():
    maps = simulate_sensitivity_maps(2, 10, 10)
    lines = uniform_random_lines(10, 2, 0.2, seed=0)
    return {
        "fan": lambda: Stacked(FanBeamCT(10, 6, 30.0, 45.0), 4),
        "cone": lambda: ConeBeamCT((4, 10, 10), 3, 30.0, 45.0),
        "slices": lambda: Stacked(MultiCoilMRI(lines, maps), 4),
        "mri": lambda: MultiCoilMRI3D(
            lines[:, None], maps[:, None].expand(-1, 4, -1, -1).contiguous()
        ),
    }


@pytest.mark.parametrize("name", operators())
@pytest.mark.parametrize(
    "solver", [DDS3D(steps=5, cg_steps=5), DiffusionMBIR(steps=25)], ids=["dds", "mbir"]
)
def test_operators_on_volumes(name, solver):
    operator = operators()[name]()
    prior = GaussianPrior(0.0, 0.1, is_complex=operator.complex_image)
    dtype = torch.complex64 if operator.complex_image else torch.float32
    x = 0.3 * randn(1, 1, 1, 10, 10, dtype=dtype).expand(1, 1, 4, 10, 10)
    result = solver(operator.A(x), operator, prior, seed=0)
    assert result.samples.shape == (1, 1, 1, 4, 10, 10)
    assert result.samples.dtype == dtype
    assert float(result.residual) < 0.5


# What every solver promises


@every_solver
@every_problem
def test_an_item_is_the_same_alone_and_in_a_batch(solver, make):
    y, operator, prior = make(3)
    batch = solver(y, operator, prior, seed=3).samples
    for b in (0, 2):
        alone = solver(
            y[b : b + 1], item_operator(operator, b), prior, noise=ItemNoise(3, [(0, b)])
        )
        torch.testing.assert_close(alone.samples[0], batch[0, b : b + 1], rtol=0, atol=1e-9)


@every_solver
def test_a_sample_is_the_same_whatever_the_number_of_samples_and_chunk(solver):
    y, operator, prior = ct()
    many = solver(y, operator, prior, num_samples=3, seed=0).samples
    few = solver(y, operator, prior, num_samples=2, seed=0).samples
    chunked = dataclasses.replace(solver, batch_size=2)(y, operator, prior, num_samples=3, seed=0)
    torch.testing.assert_close(few, many[:2], rtol=0, atol=1e-9)
    torch.testing.assert_close(chunked.samples, many, rtol=0, atol=1e-9)
    assert (many[0] - many[1]).abs().max() > 1e-3


@every_solver
@every_problem
def test_seeds_decide_and_nothing_global_changes(solver, make):
    y, operator, prior = make()
    kept, state = y.clone(), torch.get_rng_state()
    first = solver(y, operator, prior, seed=0).samples
    assert torch.equal(first, solver(y, operator, prior, seed=0).samples)
    assert not torch.equal(first, solver(y, operator, prior, seed=1).samples)
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.equal(y, kept)


@every_solver
def test_calls_of_the_network_are_counted(solver):
    y, operator, prior = ct()
    problem = Problem.create(y, operator, prior)
    found = solver.run(problem, ItemNoise(0, [(0, 0)]))
    assert found.evaluations == prior.calls == CALLS[type(solver)] * solver.steps


@every_solver
@every_problem
def test_results_follow_the_dtype_of_the_measurement(solver, make):
    y, operator, prior = make()
    double = solver(y, operator, prior, seed=0).samples
    narrow = torch.complex64 if y.is_complex() else torch.float32
    single = solver(y.to(narrow), operator, prior, seed=0).samples
    assert (double.dtype, single.dtype) == (y.dtype, narrow)
    assert (single - double).norm() < 1e-3 * double.norm()


@every_solver
def test_explicit_state_pauses_and_resumes(solver):
    y, operator, prior = ct()
    whole = solver(y, operator, prior, seed=4)
    problem = Problem.create(y, operator, prior)
    noise, times = ItemNoise(4, [(0, 0)]), solver.times(problem)
    state = solver.init(problem, noise)
    for t, s in pairwise(times[:4]):
        state = solver.step(state, t, s, problem, noise)
    position, noise = noise.position, ItemNoise(4, [(0, 0)])
    noise.position = position
    for t, s in pairwise(times[3:]):
        state = solver.step(state, t, s, problem, noise)
    assert torch.equal(problem.to_public(solver.finish(state)), whole.samples[0])


@every_solver
def test_the_prior_range_is_converted_in_one_place(solver):
    """A [0, 1] prior on x equals a [-1, 1] prior on 2 x - 1, with the measurement mapped."""
    operator, x = masked(), randn(1, 1, 6, 4, 5)
    first = solver(operator.A(x), operator, wave((0.0, 1.0)), seed=0).samples
    mapped = solver(operator.A(2 * x - 1), operator, wave((-1.0, 1.0)), seed=0).samples
    torch.testing.assert_close(2 * first - 1, mapped, rtol=0, atol=1e-9)


# A volume in parts


class Half(Part):
    """One of two halves, each in a thread of its own."""

    processes = 2

    def __init__(self, rank, barrier, post):
        self.rank, self.barrier, self.post = rank, barrier, post

    def _exchange(self, value):
        self.post[self.rank] = value
        self.barrier.wait()
        both = list(self.post)
        self.barrier.wait()
        return both

    def sum(self, values):
        return sum(self._exchange(values))

    def difference(self, x, axis, circular):
        whole = torch.cat(self._exchange(x), 2)
        return super().difference(whole, axis, circular).chunk(2, 2)[self.rank]

    def difference_adjoint(self, d, axis, circular):
        whole = torch.cat(self._exchange(d), 2)
        return super().difference_adjoint(whole, axis, circular).chunk(2, 2)[self.rank]


@pytest.mark.parametrize("solver", [SOLVERS["dds-all-axes"], SOLVERS["mbir"]], ids=["dds", "mbir"])
def test_halves_that_exchange_through_their_part_give_the_whole(solver):
    operator = masked(scale=3.0)
    y = operator.A(randn(1, 1, 6, 4, 5))
    draws = [randn(1, 1, 6, 4, 5, seed=s) for s in range(20)]
    whole = solver.run(Problem.create(y, operator, gaussian()), RecordedNoise(draws)).u
    barrier, post, found = threading.Barrier(2, timeout=20), [None, None], [None, None]

    def run(rank):
        part = Masked(operator.mask.chunk(2, 2)[rank])
        part.part = Half(rank, barrier, post)
        problem = Problem.create(y.chunk(2, 2)[rank], part, gaussian())
        noise = RecordedNoise([z.chunk(2, 2)[rank] for z in draws])
        found[rank] = solver.run(problem, noise).u

    threads = [threading.Thread(target=run, args=(rank,)) for rank in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(torch.cat(found, 2), whole, rtol=0, atol=1e-10)


# Bad input


def test_impossible_hyper_parameters_are_named():
    for make, name in (
        *[(lambda v=v: DDS3D(rho=v), "rho") for v in (0.0, -1.0, math.inf, math.nan)],
        *[(lambda v=v: DDS3D(lam=v), "lam") for v in (-1e-3, math.inf)],
        *[(lambda v=v: DDS3D(cg_steps=v), "cg_steps") for v in (0, 1.5)],
        *[(lambda v=v: DDS3D(tv_axes=v), "tv_axes") for v in ("", "zz", "t", 3, ("z",))],
        (lambda: DDS3D(circular=1), "circular"),
        *[(lambda v=v: DDS3D(eta=v), "eta") for v in (-0.1, 1.1)],
        (lambda: DDS3D(renoise_last="no"), "renoise_last"),
        *[(lambda v=v: DiffusionMBIR(snr=v), "snr") for v in (0.0, 1.0)],
        *[
            (lambda v=v: DiffusionMBIR(corrector_chunk=v), "corrector_chunk")
            for v in (0, 1.5, True)
        ],
        (lambda: DiffusionMBIR(spacing="geometrical"), "spacing"),
    ):
        with pytest.raises(errors.ArgumentError, match=rf"^{name}: .*(accepted|Known)"):
            make()


@pytest.mark.parametrize("solver", [DDS3D(steps=2), DiffusionMBIR(steps=2)])
def test_images_are_refused_before_a_network_call(solver):
    prior, operator = wave(), Inpainting(torch.ones(1, 4, 5))
    with pytest.raises(errors.ShapeError, match=r"volumes .*operators\.Stacked"):
        solver(randn(1, 1, 4, 5), operator, prior, seed=0)
    assert prior.calls == 0
