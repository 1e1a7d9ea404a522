"""Inversions: exact round trips, order against the exact Gaussian flow, codes and their files."""

import math
import warnings
from dataclasses import replace

import h5py
import pytest
import torch
from tests.helpers import F64, normal, relative
from torch import nn

from wellposed import errors, inversion
from wellposed.inversion import BDIA, DDIM, EDICT, Code, EditFriendly, FixedPoint, Midpoint
from wellposed.inversion.mixing import slerp_weights
from wellposed.inversion.whiteness import whiteness
from wellposed.priors import (
    VE,
    Flow,
    Full,
    GaussianPrior,
    Guided,
    NetworkPrior,
    Slicewise,
    Tabulated,
)

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {"vp": Tabulated.linear(), "ve": VE(), "flow": Flow()}
EXACT = {
    "BDIA": BDIA(steps=20),
    "BDIA, gamma .9": BDIA(steps=20, gamma=0.9),
    "EDICT": EDICT(steps=20),
    "EDICT, no alternation": EDICT(steps=20, alternate=False),
    "EditFriendly": EditFriendly(steps=20),
    "FixedPoint": FixedPoint(steps=20, tolerance=1e-15, iterations=300),
}
ALL = EXACT | {"DDIM": DDIM(steps=20), "Midpoint": Midpoint(steps=20)}


def correlated(schedule, is_complex=False):
    """A Gaussian over 4 x 4 images with deviations from 0.2 to 1.4."""
    vectors = torch.linalg.qr(normal(16, 16, seed=1)).Q
    matrix = vectors @ torch.diag(torch.logspace(-1.3, 0.3, 16, dtype=F64)) @ vectors.T
    return GaussianPrior(0.3 * normal(1, 1, 4, 4, seed=2), Full(matrix), schedule, is_complex)


def images(*shape, dtype=F64, seed=3):
    return 0.7 * normal(*shape, dtype=dtype, seed=seed)


def quiet(method, *arguments):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return method.encode(*arguments)


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", EXACT)
def test_round_trips_are_exact(name, schedule):
    prior, x0 = correlated(SCHEDULES[schedule]), images(2, 1, 4, 4)
    code = quiet(EXACT[name], x0, prior)
    assert float(code.round_trip(x0, prior).max()) <= 1e-12
    assert float(code.residual.max()) < 1e-14


def test_bdia_comes_back_to_the_last_bit_of_its_grid():
    prior, x0 = correlated(SCHEDULES["vp"]), images(2, 1, 4, 4)
    method = BDIA(steps=400)
    code = method.encode(x0, prior)
    back = code.decode(prior)
    assert torch.equal(method.encode(back, prior).x_T, code.x_T)
    assert float((back - x0).abs().max()) < 2e-15 / float(prior.schedule(code.times[0])[0])


ORDERS = {
    "DDIM": (DDIM, {}, 1),
    "DDIM at target": (DDIM, {"at": "target"}, 1),
    "FixedPoint": (FixedPoint, {"tolerance": 1e-6}, 1),
    "EDICT": (EDICT, {}, 1),
    "BDIA": (BDIA, {}, 2),
    "Midpoint": (Midpoint, {}, 2),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", ORDERS)
def test_codes_converge_to_the_exact_flow_with_their_order(name, schedule):
    """Against ``GaussianPrior.flow`` from the same level: twice the steps, 2^order less error."""
    cls, options, order = ORDERS[name]
    prior, x0 = correlated(SCHEDULES[schedule]), images(2, 1, 4, 4)
    gaps = []
    for steps in (100, 200):
        code = quiet(cls(steps=steps, spacing="geometric", **options), x0, prior)
        start = float(prior.schedule(code.times[0])[0]) * x0
        gaps.append(relative(code.x_T, prior.flow(start, code.times[0], code.times[-1])))
    # Tables are interpolated, which an order above 2 would show.
    assert math.log2(gaps[0] / gaps[1]) > order - 0.3
    assert gaps[1] < (0.06 if order == 1 else 1e-3)


def test_processes_of_equal_levels_have_one_code():
    """Variance-exploding and variance-preserving forms of one diffusion, up to their scale."""
    ve, x0 = correlated(VE(sigma_max=50.0)), images(2, 1, 4, 4)
    ratios = ve.schedule.times(20, "geometric").flip(0)
    table = Tabulated(1 / (1 + ratios**2).sqrt(), ratios / (1 + ratios**2).sqrt())
    vp = GaussianPrior(ve.mean, ve.covariance, table)
    for method in ALL.values():
        if not isinstance(method, Midpoint):  # whose midpoint in time is another level
            codes = [
                quiet(replace(method, spacing=s), x0, p)
                for p, s in ((ve, "geometric"), (vp, "trailing"))
            ]
            torch.testing.assert_close(codes[0].states[0], codes[1].states[0])


def test_codes_decode_to_what_is_not_on_their_path():
    """Under another mean by it, not by what steps of second order amplify."""
    for schedule in SCHEDULES.values():
        one, other = (GaussianPrior(m, 0.3, schedule) for m in (0.0, 1.5))
        x0 = images(2, 1, 4, 4)
        moved = BDIA(steps=50).encode(x0, one).decode(other)
        torch.testing.assert_close(moved, x0 + 1.5, atol=0.02, rtol=0)


def test_half_of_the_mixing_at_half_of_the_steps():
    """So that the two states of EDICT come apart equally far: by ``p^-2`` a step."""
    assert EDICT(steps=50).p == 0.93
    assert EDICT(steps=200).p ** 200 == pytest.approx(EDICT(steps=25).p ** 25)


@pytest.mark.parametrize("name", ALL)
def test_an_item_is_the_same_in_any_batch(name):
    prior, x0 = correlated(SCHEDULES["vp"]), images(3, 1, 4, 4)
    together, alone = (quiet(ALL[name], x, prior) for x in (x0, x0[:1]))
    for found, one in zip(together.states, alone.states, strict=True):
        # Products of matrices differ in the last bit with the number of their rows.
        torch.testing.assert_close(found[:1], one, rtol=1e-11, atol=1e-11)
    assert [len(v) for v in together.whiteness] == [3] * 4


class Net(nn.Module):
    """A small network in single precision, by class."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.Tanh())
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x, label, classes=None):
        shift = 0 if classes is None else classes.view(-1, 1, 1, 1) / 3
        return self.last(self.layers(x + shift)).tanh()


@pytest.mark.parametrize("name", ["BDIA", "EDICT", "EditFriendly"])
def test_networks_in_single_precision_are_inverted_in_double(name):
    prior = NetworkPrior(Net(), Tabulated.linear(), channels=1, data_range=(0.0, 2.0))
    x0 = 1 + images(2, 1, 8, 8)
    code = EXACT[name].encode(x0, prior)
    assert code.x_T.dtype == F64
    assert float(code.round_trip(x0, prior).max()) < 1e-12
    single = EXACT[name].encode(x0.float(), prior)
    assert single.decode(prior).dtype == torch.float32
    assert relative(single.decode(prior), x0.float()) < 1e-7


def test_complex_images_and_volumes():
    prior = correlated(SCHEDULES["vp"], is_complex=True)
    x0 = images(2, 1, 4, 4, dtype=torch.complex128)
    for method in (BDIA(steps=10), EDICT(steps=10), EditFriendly(steps=10)):
        assert float(method.encode(x0, prior).round_trip(x0, prior).max()) < 1e-12
    code = FixedPoint(steps=20, tolerance=1e-13).encode(x0, prior)
    assert float(code.round_trip(x0, prior).max()) < 1e-11
    volumes, prior = images(2, 1, 3, 4, 4), Slicewise(correlated(SCHEDULES["ve"]))
    code = BDIA(steps=10).encode(volumes, prior)
    assert float(code.round_trip(volumes, prior).max()) < 1e-12
    assert code.whiteness.lag.shape == (2,)


CALLS = {"BDIA": 9, "DDIM": 9, "EDICT": 18, "EditFriendly": 10, "Midpoint": 18}


@pytest.mark.parametrize("name", CALLS)
def test_calls_are_counted(name):
    code = getattr(inversion, name)(steps=10).encode(images(1, 1, 4, 4), correlated(VE()))
    assert code.calls == CALLS[name]


def test_one_level_needs_no_call():
    prior, x0 = correlated(VE()), images(1, 1, 4, 4)
    for method in (BDIA(steps=1), DDIM(steps=1), EDICT(steps=1)):
        code = method.encode(x0, prior)
        assert code.calls == 0
        torch.testing.assert_close(code.decode(prior), x0)


def test_a_start_leaves_out_the_noisiest_levels():
    prior, x0 = correlated(VE()), images(1, 1, 4, 4)
    code = BDIA(steps=30, start=1.0).encode(x0, prior)
    assert max(code.levels) <= 1.0 < max(BDIA(steps=30).encode(x0, prior).levels)
    assert code.round_trip(x0, prior) < 1e-14


def test_a_fixed_point_that_does_not_converge_says_so():
    prior, x0 = correlated(SCHEDULES["vp"]), images(2, 1, 4, 4)
    with pytest.warns(UserWarning, match=r"items \[0, 1\] did not converge, residual up to"):
        code = FixedPoint(steps=5, iterations=2).encode(x0, prior)
    assert float(code.residual.min()) > 1e-6
    few, many = (FixedPoint(steps=10, iterations=300, memory=m) for m in (3, 1))
    assert few.encode(x0, prior).calls < many.encode(x0, prior).calls


def test_a_condition_may_be_another_one():
    base = NetworkPrior(Net(), Tabulated.linear(), channels=1, num_classes=3, data_range=(-1, 1))
    source, target = (Guided(base, c, 2.0, null=0) for c in (1, 2))
    x0 = images(1, 1, 8, 8)
    code = BDIA(steps=20).encode(x0, source)
    assert relative(code.decode(source), x0) < 1e-12
    assert relative(code.decode(target), x0) > 0.01


def test_interpolation_keeps_the_ends_and_the_variance():
    prior = GaussianPrior(0.0, 1.0, VE())
    a, b = (BDIA(steps=5).encode(normal(2, 1, 16, 16, seed=s), prior) for s in (5, 6))
    for share, end in ((0.0, a), (1, b)):
        for found, state in zip(a.interpolate(b, share).states, end.states, strict=True):
            torch.testing.assert_close(found, state)
    half = a.interpolate(b, 0.5)
    torch.testing.assert_close(half.x_T.norm(), a.x_T.norm(), rtol=0.05, atol=0)
    torch.testing.assert_close(half.x_T, (a.x_T + b.x_T) / math.sqrt(2), rtol=0.1, atol=0.5)
    own, theirs = slerp_weights(a.x_T, a.x_T, 0.25)
    assert (own + theirs).tolist() == [1, 1]


def test_codes_are_saved_and_loaded(tmp_path):
    prior, x0 = correlated(SCHEDULES["flow"]), images(2, 1, 4, 4, dtype=torch.complex128)
    prior.is_complex = True
    for method in (BDIA(steps=6, start=20.0), EditFriendly(steps=6), EDICT(steps=6)):
        code = method.encode(x0, prior)
        again = inversion.load(code.save(tmp_path / "code.h5"))
        assert isinstance(again, Code)
        assert (again.method, again.levels, again.calls) == (method, code.levels, code.calls)
        assert torch.equal(again.decode(prior), code.decode(prior))
        assert repr(again) == repr(code)


def test_what_is_not_a_code_is_not_loaded(tmp_path):
    path = tmp_path / "x.h5"
    with h5py.File(path, "w") as file:
        file.attrs["method"] = '"Solver"'
    (tmp_path / "text.h5").write_text("no")
    for name in ("x.h5", "text.h5", "missing.h5"):
        with pytest.raises(errors.FileError, match="is not a saved code"):
            inversion.load(tmp_path / name)


def test_white_noise_is_white_and_other_noise_is_not():
    noise = normal(4, 1, 64, 64)
    for found, expected in zip(whiteness(noise), (1, 1, 1, 0), strict=True):
        torch.testing.assert_close(found, torch.full((4,), expected, dtype=F64), atol=0.06, rtol=0)
    smooth = (noise + noise.roll(1, -1) + noise.roll(1, -2) + noise.roll((1, 1), (-1, -2))) / 2
    found = whiteness(smooth)
    assert float(found.low.min()) > 2 * float(found.high.max())
    torch.testing.assert_close(found.lag, torch.full((4,), 0.5, dtype=F64), atol=0.05, rtol=0)
    both = whiteness(torch.complex(noise, noise.flip(0)))
    torch.testing.assert_close(both.std, torch.ones(4, dtype=F64), atol=0.06, rtol=0)


def test_only_some_methods_go_to_pure_noise():
    prior, x0 = correlated(Flow()), images(1, 1, 4, 4)
    for method in (BDIA(steps=8, spacing="linspace"), Midpoint(steps=8, spacing="trailing")):
        assert method.encode(x0, prior).levels[-1] == math.inf
    for method in (DDIM(spacing="linspace"), EDICT(spacing="trailing")):
        with pytest.raises(errors.ArgumentError, match=r"spacing: got .*there is no signal"):
            method.encode(x0, prior)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, p: DDIM(at="end"), "at: unknown name 'end'"),
        (lambda x, p: BDIA(gamma=0), "gamma: got 0, accepted: a number above 0"),
        (lambda x, p: EDICT(mixing=1.5), "mixing: got 1.5"),
        (lambda x, p: BDIA(spacing="karas"), "Did you mean 'karras'"),
        (lambda x, p: BDIA(start=1e-9).encode(x, p), "start: got 1e-09, accepted: above"),
        (lambda x, p: BDIA().encode(x * math.nan, p), "image: 32 of 32 values are NaN"),
        (lambda x, p: BDIA().encode(x.long(), p), "image: got torch.int64"),
        (lambda x, p: BDIA().encode(x, None), "prior: got 'NoneType'"),
        (lambda x, p: BDIA().encode(x[0, 0, 0], p), "image: got shape"),
        (lambda x, p: BDIA().encode(x.cfloat(), p), "prior: made for real images"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make(images(2, 1, 4, 4), correlated(VE()))


def test_codes_fit_their_prior_and_each_other():
    prior, x0 = correlated(VE()), images(2, 1, 4, 4)
    code = BDIA(steps=6).encode(x0, prior)
    with pytest.raises(errors.ArgumentError, match="prior: got 'the schedule VE'"):
        code.decode(correlated(VE(sigma_max=20.0)))
    with pytest.raises(errors.ArgumentError, match="other: got EDICT"):
        code.interpolate(EDICT(steps=6).encode(x0, prior), 0.5)
    with pytest.raises(errors.ShapeError, match=r"other: got \(1, 1, 4, 4\)"):
        code.interpolate(BDIA(steps=6).encode(x0[:1], prior), 0.5)
    with pytest.raises(errors.ArgumentError, match="share: got 2"):
        code.interpolate(code, 2)
    with pytest.raises(errors.ShapeError, match=r"image: got \(1, 1, 4, 4\)"):
        code.round_trip(x0[:1], prior)
