"""Jacobians of denoisers whose geometry is known exactly."""

import math

import pytest
import torch
from scipy.special import ive
from tests.helpers import F64, close, normal, run

from wellposed import errors
from wellposed.cli import inspect as inspecting
from wellposed.cli import priors as command
from wellposed.priors import (
    VE,
    Flow,
    GaussianPrior,
    LowRank,
    Prior,
    Tabulated,
    geometry,
    spectrum,
)
from wellposed.priors.jacobian import Jacobian, leading_modes
from wellposed.priors.stored.registry import Checkpoint
from wellposed.validation import geometry as section
from wellposed.validation.doctor import Diagnosis

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {"vp": Tabulated.linear(), "ve": VE(sigma_min=1e-4), "flow": Flow()}
SHAPE = (1, 5, 8)


def subspace(schedule, rest=1e-8):
    """Seven dimensions of 40, with deviations from 1.4 to 0.45, and hardly any others."""
    U = torch.linalg.qr(normal(40, 7, seed=1)).Q.T.reshape(7, *SHAPE)
    values = torch.logspace(math.log10(2), math.log10(0.2), 7, dtype=F64)
    return GaussianPrior(0.0, LowRank(U, values, rest), schedule)


@pytest.mark.parametrize(
    ("ratio", "trace"), [(0.3, 5.9643), (0.1, 6.8583), (0.03, 6.9872), (0.01, 7.0018)]
)
@pytest.mark.sampled
def test_a_subspace_has_its_dimension(ratio, trace):
    prior = subspace(VE(sigma_min=1e-4))
    values = spectrum(prior, normal(2, *SHAPE), ratio)
    assert (values > 0.5).sum(1).tolist() == [7, 7]
    torch.testing.assert_close(
        values.sum(1), torch.full((2,), trace, dtype=F64), atol=1e-4, rtol=0
    )
    found = geometry(prior, normal(2, *SHAPE), [ratio], probes=300)
    assert found.dimension.flatten().tolist() == pytest.approx([trace] * 2, abs=0.6)
    assert float(found.asymmetry.max()) < 1e-12
    assert float(found.lowest.min()) > 0
    assert found.size == 40


@pytest.mark.parametrize("name", SCHEDULES)
def test_processes_see_one_geometry(name):
    prior, x = subspace(SCHEDULES[name], rest=0.01), normal(2, *SHAPE)
    expected = subspace(VE(), rest=0.01)
    for curve in ("asymmetry", "lowest", "dimension"):
        found, wanted = (getattr(geometry(p, x, [1.0, 0.2]), curve) for p in (prior, expected))
        close(found, wanted, 1e-9)


class Sphere(Prior):
    """The uniform distribution on the unit sphere in R^m: ``D = A(k) x / |x|``, k = |x| / r^2."""

    def denoise(self, x_t, t, condition=None):
        m, length = x_t[0].numel(), x_t.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
        return Ratio.apply(length / float(t) ** 2, m) * x_t / length


class Ratio(torch.autograd.Function):
    """``A = I_{m/2} / I_{m/2-1}``, with ``A' = 1 - A^2 - (m - 1) A / k``."""

    generate_vmap_rule = True

    @staticmethod
    def forward(k, m):
        return torch.from_numpy(ive(m / 2, k.numpy()) / ive(m / 2 - 1, k.numpy()))

    @staticmethod
    def setup_context(ctx, inputs, output):
        k, m = inputs
        ctx.slope = 1 - output**2 - (m - 1) * output / k

    @staticmethod
    def backward(ctx, grad):
        return ctx.slope * grad, None

    @staticmethod
    def jvp(ctx, k, m):
        return ctx.slope * k


@pytest.mark.parametrize(
    ("ratio", "trace"), [(0.3, 5.2990), (0.1, 6.7922), (0.03, 6.9811), (0.01, 6.9979)]
)
def test_a_sphere_has_one_dimension_less(ratio, trace):
    """At points of length 1: m - 1 tangential eigenvalues A, and a radial one."""
    prior = Sphere(VE(sigma_min=1e-4))
    x = torch.nn.functional.normalize(normal(1, 1, 2, 4).flatten(1)).reshape(1, 1, 2, 4)
    jacobian = Jacobian(prior, x, ratio)
    columns = jacobian.repeated(8).times(torch.eye(8, dtype=F64).reshape(8, 1, 2, 4)).flatten(1)
    assert float(columns.trace()) == pytest.approx(trace, abs=1e-4)
    values = torch.linalg.eigvalsh((columns + columns.T) / 2).flip(0)
    k = 1 / ratio**2
    A = float(ive(4, k) / ive(3, k))
    close(values[:7], torch.full((7,), A, dtype=F64), 1e-9)
    assert float(values[7]) == pytest.approx((1 - A**2 - 7 * A / k) / ratio**2, abs=1e-6)


class Linear(Prior):
    """``D = M x / alpha`` with any matrix."""

    def __init__(self, matrix, schedule):
        super().__init__(schedule)
        self.matrix = matrix

    def denoise(self, x_t, t, condition=None):
        alpha = float(self.schedule(t)[0])
        return (x_t.flatten(1) @ self.matrix.T).reshape(x_t.shape) / alpha


@pytest.mark.parametrize("c", [0.0, 0.5, 3.0])
def test_asymmetry_of_a_known_mixture(c):
    """``S + c K``: ``q^2 = 4 c^2 |K|^2 / (|S|^2 + c^2 |K|^2)``."""
    A, B = normal(64, 64, seed=3), normal(64, 64, seed=4)
    S, K = (A + A.T) / 2, (B - B.T) / 2
    prior = Linear(S + c * K, Tabulated.linear())
    x = normal(2, 1, 8, 8)
    q = 2 * c * float(K.norm()) / math.hypot(float(S.norm()), c * float(K.norm()))
    found = geometry(prior, x, [1.0], probes=64).asymmetry
    assert found.flatten().tolist() == pytest.approx([q, q], rel=0.06, abs=1e-9)
    alone = geometry(prior, x[:1], [1.0], probes=64).asymmetry
    close(found[:, :1], alone)
    negative = geometry(Linear(-torch.eye(64, dtype=F64), VE()), x, [1.0])
    close(negative.lowest, -torch.ones(1, 2, dtype=F64))


def test_products_are_those_of_the_transposed():
    prior = Linear(normal(64, 64, seed=3), Tabulated.linear())
    x, v, w = (normal(2, 1, 8, 8, seed=s) for s in (5, 6, 7))
    jacobian = Jacobian(prior, x, 400.0)
    close(
        (jacobian.times(v) * w).flatten(1).sum(1), (v * jacobian.transposed(w)).flatten(1).sum(1)
    )


def test_leading_modes_of_low_rank_plus_identity_are_exact():
    U = torch.linalg.qr(normal(100, 6, seed=1)).Q
    values = torch.tensor([9.0, 5, 3, 2, 1.5, 1.2], dtype=F64)
    matrix = U @ torch.diag(values) @ U.T + 0.3 * torch.eye(100, dtype=F64)
    found = leading_modes(lambda rows: rows @ matrix, 100, 6, values)
    close(found.values, values + 0.3)
    close((found.vectors @ U).abs(), torch.eye(6, dtype=F64), 1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p, x: geometry(p, x, []), "ratios: got"),
        (lambda p, x: geometry(p, x, [-1.0]), "ratios: got -1.0"),
        (lambda p, x: geometry(p, x, probes=0), "probes: got 0"),
        (lambda p, x: geometry(p, x.long()), "images: got torch.int64"),
        (lambda p, x: spectrum(p, torch.zeros(1, 1, 40, 40), 1.0), "images: got '1600 numbers"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make(subspace(VE()), normal(1, *SHAPE))


def test_inspect_has_a_section_on_geometry(tmp_path, monkeypatch):
    checkpoint = Checkpoint("test", subspace(VE()))
    checkpoint.prior.channels = 1
    monkeypatch.setattr(command, "read_checkpoint", lambda *_, **__: checkpoint)
    monkeypatch.setattr(section, "synthetic", lambda *_: normal(3, *SHAPE))
    text = section.geometry_section(checkpoint.prior, None, tmp_path)
    assert "asymmetry of the Jacobian (0 .. 2) | 0.00" in text
    assert "dimension, of 40" in text
    assert "not explained by a Gaussian" in text
    assert (tmp_path / "geometry.png").read_bytes()[:4] == b"\x89PNG"
    healthy = Diagnosis("sigma / alpha", {1.0: 3.0}, (0.0, 1.0), ())
    monkeypatch.setattr(inspecting, "diagnose", lambda *_: healthy)
    done = run("inspect", "p", "--geometry", tmp_path / "out")
    assert (tmp_path / "out" / "geometry.png").exists(), done.output
    assert "dimension, of 40" in done.output
