"""Editing: what a source and a target condition make of an image, against closed forms."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.integrate import quad
from tests.helpers import F64, close, normal, relative

from wellposed import errors, inversion, operators, solvers
from wellposed.inversion import (
    BDIA,
    DDIM,
    EDICT,
    RIVAL,
    DirectInversion,
    EditFriendly,
    FixedPoint,
    NullText,
    PromptTuning,
    RFInversion,
)
from wellposed.inversion.rival import adain, channel_statistics
from wellposed.priors import (
    VE,
    Flow,
    GaussianPrior,
    Guided,
    Prior,
    Tabulated,
    TextCondition,
)

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {"vp": Tabulated.linear(), "ve": VE(), "flow": Flow()}
SHAPE = (1, 4, 4)


class Described(Prior):
    """Gaussians whose mean is the embedding of a text, 16 numbers for each item."""

    has_range = False

    def __init__(self, schedule, variance=0.3):
        super().__init__(schedule)
        self.variance = variance

    def denoise(self, x_t, t, condition=None):
        e = condition.embeddings if isinstance(condition, TextCondition) else condition
        mean = e.double().reshape(-1, *SHAPE)
        return GaussianPrior(mean, self.variance, self.schedule).denoise(x_t, t)


def text(seed, size=0.5):
    return TextCondition(size * normal(1, 1, 16, seed=seed))


def told(schedule="vp", seed=1, guidance=1.0):
    return Guided(Described(SCHEDULES[schedule]), text(seed), guidance, text(9, 0.1))


def images(count=2, seed=3):
    return 0.7 * normal(count, *SHAPE, seed=seed)


EXACT = {
    "BDIA": BDIA(steps=16),
    "DirectInversion": DirectInversion(steps=16),
    "EDICT": EDICT(steps=16),
    "EditFriendly": EditFriendly(steps=16),
    "FixedPoint": FixedPoint(steps=16, tolerance=1e-14, iterations=300),
    "RFInversion, pulled to the end": RFInversion(steps=16, eta=1.0, until=0.0),
}
OTHERS = {
    "DDIM": DDIM(steps=16),
    "RFInversion": RFInversion(steps=16),
    "RIVAL": RIVAL(steps=16),
    "NullText": NullText(steps=6, iterations=3),
    "PromptTuning": PromptTuning(steps=6, iterations=3),
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", EXACT)
def test_the_same_condition_returns_the_image(name, schedule):
    prior, x0 = told(schedule, guidance=2.0), images()
    close(EXACT[name].edit(x0, prior, prior), x0, 1e-11)


@pytest.mark.parametrize("name", [n for n in EXACT if "RF" not in n])
def test_another_condition_moves_by_the_difference_of_the_means(name):
    """Of Gaussians that differ in their mean alone; their flows are translates."""
    source, target, x0 = told(seed=1), told(seed=2), images()
    move = (target.condition.embeddings - source.condition.embeddings).reshape(1, *SHAPE)
    steps = 40 if name == "BDIA" else 100
    found = replace(EXACT[name], steps=steps).edit(x0, source, target)
    torch.testing.assert_close(found, x0 + move, atol=0.05, rtol=0)


@pytest.mark.parametrize("name", EXACT | OTHERS)
def test_an_item_is_the_same_in_any_batch(name):
    method, x0 = (EXACT | OTHERS)[name], images(3)
    source, target = told(seed=1, guidance=2.0), told(seed=2, guidance=2.0)
    together = method.edit(x0, source, target)
    assert relative(together, x0) > 0.01 or "pulled" in name
    close(method.edit(x0[:1], source, target), together[:1], 1e-10)


@pytest.mark.parametrize("name", ["DirectInversion", "RFInversion", "RIVAL", "NullText"])
def test_codes_are_saved_and_loaded(name, tmp_path):
    prior = told(guidance=2.0)
    code = (EXACT | OTHERS)[name].encode(images(), prior)
    again = inversion.load(code.save(tmp_path / "code.h5"))
    assert again.method == code.method
    assert torch.equal(again.decode(prior), code.decode(prior))


def test_direct_inversion_goes_down_the_path_that_it_came():
    """One call a step, where DDIM's own way back is off by its error."""
    prior, x0 = told(guidance=4.0), images()
    direct, plain = (m(steps=10).encode(x0, prior) for m in (DirectInversion, DDIM))
    close(direct.x_T, plain.x_T)
    assert direct.calls == 10
    assert float(plain.round_trip(x0, prior).min()) > 0.01
    assert float(direct.round_trip(x0, prior).max()) < 1e-12


# Flows that are controlled


def test_a_pull_of_one_goes_straight_to_the_noise():
    for name in SCHEDULES:
        code = RFInversion(steps=7, gamma=1.0).encode(images(), told(name))
        chain = code.method._chain(told(name))
        z = (code.states[0] - chain.alpha[-1] * images()) / chain.sigma[-1]
        fresh = RFInversion(steps=3, gamma=1.0).encode(images(), told(name)).states[0]
        close(z, (fresh - chain.alpha[-1] * images()) / chain.sigma[-1], 0.01)
        assert 0.7 < float(z.std()) < 1.3


def test_without_control_it_is_ddim():
    prior, x0 = told("flow"), images()
    code = RFInversion(steps=20, gamma=0.0, eta=0.0).encode(x0, prior)
    close(code.x_T, DDIM(steps=20).encode(x0, prior).x_T)
    last = code.decode(prior)
    close(last, DDIM(steps=20).encode(x0, prior).decode(prior), 0.01)


def test_the_controlled_flow_of_a_gaussian():
    """Upwards ``z' = (1 - g) (log q)' z + g (y - z) / (1 - t)`` with ``q^2 = (1 - t)^2 s2 + t^2``.

    The solution is ``h (z_0 / h_0 + g y int 1 / ((1 - t) h))`` with ``h = q^(1 - g) (1 - t)^g``.
    """
    s2, g, x0 = 0.3, 0.4, images(1)
    prior = GaussianPrior(0.0, s2, Flow())
    pulled = RFInversion(steps=12, gamma=1.0, start=4.0).encode(x0, prior)
    top, bottom = pulled.levels[-1], pulled.levels[0]
    t0, t1 = bottom / (1 + bottom), top / (1 + top)
    start = (1 - t0) * x0
    y = start + (pulled.states[0] - start) * (1 - t0) / (t1 - t0)  # the line's end

    def h(t):
        return math.sqrt((1 - t) ** 2 * s2 + t**2) ** (1 - g) * (1 - t) ** g

    gaps = []
    for steps in (60, 120):
        code = RFInversion(steps=steps, gamma=g, start=4.0).encode(x0, prior)
        t1 = code.levels[-1] / (1 + code.levels[-1])
        t0 = code.levels[0] / (1 + code.levels[0])
        share = quad(lambda t: 1 / ((1 - t) * h(t)), t0, t1)[0]
        exact = h(t1) * ((1 - t0) * x0 / h(t0) + g * y * share)
        gaps.append(relative(code.states[0], exact))
    assert gaps[1] < 0.05
    assert math.log2(gaps[0] / gaps[1]) > 0.7


def test_between_the_image_and_what_the_target_knows():
    """A prior that knows one image: the flow ends at its mixture with the image."""
    target, x0 = GaussianPrior(0.5, 1e-12, Flow()), images()
    found = RFInversion(steps=12, eta=0.7, until=0.0).edit(x0, told("flow"), target)
    close(found, 0.3 * 0.5 + 0.7 * x0, 1e-6)
    free = RFInversion(steps=12, eta=1.0).edit(x0, told("flow"), target)
    close(free, torch.full_like(x0, 0.5), 1e-6)


def test_flowchef_edits_as_the_solver_of_the_identity():
    """A kept half stays, and the other one becomes what the target knows."""
    keep = torch.ones(4, 4, dtype=F64)
    keep[:, :2] = 0
    x0, operator = images(), operators.Inpainting(keep, channels=1)
    target = GaussianPrior(0.5, 1e-12, Flow())
    solver = solvers.FlowChef(steps=10, step_size=0.5)
    found = solver(operator.A(x0), operator, target).samples[0]
    close(found, keep * x0 + 0.5 * (1 - keep), 1e-5)


# Statistics


@pytest.mark.parametrize("dtype", [F64, torch.complex128])
def test_adain_gives_each_channel_the_statistics_of_another(dtype):
    x, other = (normal(2, 3, 5, 5, dtype=dtype, seed=s) for s in (1, 2))
    other = 3 * other + 1
    found = adain(x, *channel_statistics(other))
    for got, wanted in zip(channel_statistics(found), channel_statistics(other), strict=True):
        close(got, wanted)
    close(adain(x, *channel_statistics(x)), x)
    close(adain(2 * x + 5, *channel_statistics(other)), found)


def test_the_noises_of_the_target_have_the_statistics_of_the_source():
    """Where all noises are aligned, a shift of the target's mean that is even changes nothing."""
    schedule, x0 = SCHEDULES["vp"], images()
    source, moved = (GaussianPrior(m, 0.3, schedule) for m in (0.0, 1.5))
    aligned = RIVAL(steps=40, until=0.0)
    same = DDIM(steps=40).edit(x0, source, source)
    close(aligned.edit(x0, source, moved), same, 0.1)
    close(
        RIVAL(steps=40, until=1e9).edit(x0, source, moved), DDIM(steps=40).edit(x0, source, moved)
    )


# Embeddings


@pytest.mark.parametrize("method", [NullText, PromptTuning])
def test_a_tuned_embedding_returns_the_image_of_guided_steps(method):
    prior, x0 = told(guidance=3.0), images()
    code = method(steps=6, iterations=40, rate=0.05).encode(x0, prior)
    before = method(steps=6, iterations=1, rate=1e-9).encode(x0, prior)
    assert float(before.residual.min()) > 0.05
    assert float(code.residual.max()) < 0.02
    torch.testing.assert_close(code.round_trip(x0, prior), code.residual, rtol=1e-6, atol=1e-9)


def test_the_tuned_null_condition_is_the_one_that_closes_the_gap():
    """The step is affine in it, so that the best one of the noisiest level is known."""
    prior, x0 = told(guidance=3.0), images()
    method = NullText(steps=2, iterations=150, rate=0.03)
    code = method.encode(x0, prior)
    chain = method._chain(prior)
    plain = replace_guidance(prior, 1.0)
    path = [chain.alpha[0] * x0]
    for level in range(chain.top):
        a, b = chain.factors(level, level + 1)
        path.append(a * path[-1] + b * chain.look(path[-1], level, plain).eps)
    z, goal, level = path[-1], path[-2], chain.top

    def step(shift):
        null = TextCondition(prior.null.embeddings + shift.reshape(-1, 1, 16))
        guided = Guided(prior.prior, prior.condition, 3.0, null)
        return chain.place(chain.look(z, level, guided), level - 1)

    zero = torch.zeros_like(z)
    slope = step(zero + 1) - step(zero)
    close(code.states[1].reshape(z.shape), (goal - step(zero)) / slope, 1e-3)


def replace_guidance(prior, guidance):
    return Guided(prior.prior, prior.condition, guidance, prior.null)


def test_embeddings_may_be_plain_tensors():
    base, x0 = Described(SCHEDULES["vp"]), images()
    source, target = (Guided(base, normal(1, 16, seed=s), 2.0, normal(1, 16)) for s in (1, 2))
    found = NullText(steps=5, iterations=5).edit(x0, source, target)
    assert found.shape == x0.shape
    assert relative(found, x0) > 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x, p: RFInversion(gamma=2), "gamma: got 2"),
        (lambda x, p: RFInversion(until=-1), "until: got -1"),
        (lambda x, p: RIVAL(until=math.nan), "until: got nan"),
        (lambda x, p: NullText(rate=0), "rate: got 0"),
        (lambda x, p: BDIA().edit(x, p, None), "target: got 'NoneType'"),
        (lambda x, p: BDIA().edit(x, 3, p), "source: got 'int'"),
        (lambda x, p: BDIA().edit(x * math.nan, p, p), "image: 32 of 32 values are NaN"),
        (lambda x, p: DDIM().edit(x, p, told("ve")), "target: got 'the schedule VE'"),
        (lambda x, p: NullText().encode(x, p), "guidance: got 1, accepted: another weight"),
        (lambda x, p: NullText().encode(x, p.prior), "prior: got 'Described'"),
        (
            lambda x, p: NullText().encode(x, Guided(p.prior, 3, 2.0)),
            "null: got 'none', accepted: a TextCondition",
        ),
        (
            lambda x, p: PromptTuning().encode(x, Guided(p.prior, normal(3, 16))),
            "condition: got 3 embeddings, accepted: 1 or 2",
        ),
        (
            lambda x, p: (
                PromptTuning(steps=2)
                .encode(x, p)
                .decode(Guided(p.prior, TextCondition(normal(1, 2, 16))))
            ),
            "condition: got an embedding",
        ),
        (lambda x, p: adain(x, x, x), "mean: got shape"),
    ],
)
def test_bad_input_is_named(make, message):
    with pytest.raises(errors.ArgumentError, match=message):
        make(images(), told())


def test_priors_that_cannot_be_tuned_say_so():
    class Deaf(Described):
        def denoise(self, x_t, t, condition=None):
            return 0.5 * x_t

    prior = Guided(Deaf(SCHEDULES["vp"]), text(1), 2.0, text(2))
    with pytest.raises(errors.ArgumentError, match="prior: got estimates without a gradient"):
        NullText(steps=2).encode(images(), prior)
