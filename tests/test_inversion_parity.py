"""Inversions and guidance against arrays recorded from the authors' code; see test_parity.

The analytic networks act on every pixel alone, so that a crop of the recorded states is enough.
"""

from pathlib import Path

import numpy as np
import pytest
import torch

from wellposed.inversion import BDIA, DDCM, DDIM, EDICT, EditFriendly, FixedPoint, Midpoint
from wellposed.inversion.chain import Chain
from wellposed.noise import RecordedNoise
from wellposed.priors import CFGPlusPlus, Flow, Guided, Prior, Reflected, Tabulated
from wellposed.priors.transition import Levels, implied_noise, levels, transition, variance

pytestmark = pytest.mark.usefixtures("single_thread")

with np.load(Path(__file__).parent / "data" / "parity" / "inversion.npz") as file:
    RECORDED = {name: torch.from_numpy(np.asarray(value)) for name, value in file.items()}
ABAR = RECORDED["abar"]


def recorded(path):
    return {
        name.removeprefix(path + "/"): value
        for name, value in RECORDED.items()
        if name.startswith(path + "/")
    }


def close(found, expected, tolerance=1e-12):
    """Hold two states to be equal relative to the size of the expected one."""
    assert found.shape == expected.shape
    assert float((found - expected).abs().max()) <= tolerance * float(expected.abs().max())


def stub(x, c, t):
    return 0.6 * torch.tanh(0.8 * x) + 0.3 * c + 0.1 * torch.sin(3 * x - c + 0.05 * t)


class Labelled(Prior):
    """The analytic network; the time k = 1, 2, ... is the k-th of its increasing labels."""

    def __init__(self, labels, condition=0.0, guidance=1.0, shifted=False):
        self.labels = sorted(int(label) for label in labels)
        table = torch.cat([ABAR.new_ones(1), ABAR]) if shifted else ABAR
        abar = torch.cat([ABAR.new_ones(1), table[self.labels]])
        super().__init__(Tabulated(abar.sqrt(), (1 - abar).sqrt()))
        self.condition, self.guidance = float(condition), float(guidance)

    def noise(self, x, t):
        label = self.labels[int(t) - 1]
        none, found = stub(x, 0.0, label), stub(x, self.condition, label)
        return none + self.guidance * (found - none)

    def denoise(self, x_t, t, condition=None):
        alpha, sigma = self.schedule(t)
        return (x_t - sigma * self.noise(x_t, t)) / alpha

    @property
    def chain(self):
        return Chain(self, range(1, len(self.labels) + 1))


class Seen(Chain):
    """A chain that records the states that the network sees."""

    def __init__(self, prior):
        labels = getattr(prior, "prior", prior).labels
        super().__init__(prior, range(1, len(labels) + 1))
        self.states, self.levels = [], []

    def look(self, x, level):
        self.states.append(x)
        self.levels.append(level)
        return super().look(x, level)


@pytest.mark.parametrize("name", ["S20_gamma1_str1_g1", "S10_gamma0.5_str0.8_g3"])
def test_bdia_is_the_published_one(name):
    d = recorded(f"bdia_roundtrip/{name}")
    method = BDIA(gamma=float(d["gamma"]))
    # The noisiest recorded code is one level above the labels of the calls of sampling.
    top = int(d["t_invert"][-1]) + int(d["t_invert"][-1] - d["t_invert"][-2])
    prior = Labelled([*d["t_sample"], top], d["cond_src"], d["guidance"])
    up = Seen(prior)
    states = method.up(d["x0"], up).states
    # The first recorded call, at a negative label, changes nothing.
    for found, expected in zip(up.states, d["z_invert"][1:], strict=True):
        close(found, expected)
    close(states[0], d["zT"])
    close(states[1], d["zT1"])
    for condition, calls, ends in (
        ("cond_src", "z_sample", "x0_back"),
        ("cond_edit", "z_edit", "x0_edit"),
    ):
        prior.condition = float(d[condition])
        down = Seen(prior)
        last = method.down((d["zT"], d["zT1"]), down)
        for found, expected in zip([*down.states, last], d[calls], strict=True):
            close(found, expected)
        close(_last_bdia_step(method, down, last), d[ends])


@pytest.mark.parametrize("name", ["S10_gamma0.5_g1", "S40_gamma1_g3"])
def test_bdia_samples_as_published(name):
    """From pure noise: the first step is plain DDIM, and then two states are one code."""
    d = recorded(f"bdia_sampler/{name}")
    method = BDIA(gamma=float(d["gamma"]))
    down = Seen(Labelled(d["t"], d["cond"], d["guidance"]))
    z = down.place(down.look(d["xT"], down.top), down.top - 1)
    last = method.down((d["xT"], z), down)
    for found, expected in zip([*down.states, last], d["z"], strict=True):
        close(found, expected)
    if int(d["t"].min()) > 0:  # below the last label comes abar[0]
        levels = Seen(Labelled([*d["t"], 0], d["cond"], d["guidance"]))
        close(method.step(down.states[-1], last, levels, 1), d["x0"])
    else:
        close(_last_bdia_step(method, down, last), d["x0"])


def _last_bdia_step(method, chain, z):
    """The published code goes on from the lowest level to itself, where M is the identity."""
    look, g = chain.look(z, 0), method.gamma
    above = chain.states[-2]
    return above - (1 - g) * (above - z) - g * chain.along(look, 0, 1)


@pytest.mark.parametrize("name", ["S50_p0.93_leap_str0.8_g3", "S20_p0.93_noleap_str1_g1"])
def test_edict_is_the_published_one(name):
    d = recorded(f"edict/{name}")
    method = EDICT(alternate=bool(d["leapfrog"]))
    prior = Labelled(d["t_sample"], d["cond_src"], d["guidance"])
    p = float(d["p"])
    assert method.p == p  # of 50 steps
    method = EDICT(alternate=bool(d["leapfrog"]), mixing=p ** (method.steps / 50))
    states = method.up(d["x0"], prior.chain).states
    close(states[0], d["xT"])
    close(states[1], d["yT"])
    for condition, ends in (
        ("cond_src", ("x0_back", "y0_back")),
        ("cond_edit", ("x0_edit", "y0_edit")),
    ):
        prior.condition = float(d[condition])
        x, y = method.down_both((d["xT"], d["yT"]), prior.chain)
        # The published last step mixes once more, between equal levels.
        x = p * x + (1 - p) * y
        y = p * y + (1 - p) * x
        for found, end in zip((x, y), ends, strict=True):
            close(found, d[end])


@pytest.mark.parametrize("name", ["S100_eta1_skip36_src3.5_tar15", "S20_eta1_skip0_uncond"])
def test_edit_friendly_is_the_published_one(name, monkeypatch):
    d = recorded(f"edit_friendly/{name}")
    prior = Labelled(d["t"], d["cond_src"], d["guidance_src"])
    replayed = RecordedNoise(d["noise"])
    monkeypatch.setattr("wellposed.inversion.edit_friendly.ItemNoise", lambda *_: replayed)
    method, chain = EditFriendly(eta=float(d["eta"])), prior.chain
    k = method.up(chain.alpha[0] * d["x0"], chain).states[1:]
    steps = len(d["t"])
    for i in range(1, steps):  # zs[i] belongs to the step from the i-th level from the clean end
        ratio = (chain.alpha[i] * chain.sigma[i - 1] / (chain.alpha[i - 1] * chain.sigma[i])) ** 2
        std = chain.sigma[i - 1] * (1 - ratio) ** 0.5
        close(k[steps - 1 - i][0] / std, d["zs"][i], 1e-11)
    # The published code leaves out the last correction, and the noisiest steps.
    prior.condition, prior.guidance = float(d["cond_tar"]), float(d["guidance_tar"])
    left = steps - int(d["skip"])
    x, chain = d["xts"][left][None], prior.chain
    for i in range(left - 1, 0, -1):
        x = method.mean(x, chain, i) + k[steps - 1 - i]
    # Its last step ends at the level of label 0.
    look, level = (
        chain.look(x, 0),
        Levels(*prior.schedule(1), ABAR[0].sqrt(), (1 - ABAR[0]).sqrt()),
    )
    v = variance("markov", level, method.eta)
    close(transition(look.x0, look.eps, torch.zeros_like(x), level, v), d["x0_edited"], 1e-11)


@pytest.mark.parametrize(
    "case", ["ddim_p2p", "fixed_point_K1", "fixed_point_K3", "fixed_point_K20"]
)
def test_ddim_and_fixed_points_are_the_published_ones(case):
    d = recorded(f"fixed_point/S50_src0.7/{case}")
    prior = Labelled(d["t"], d["cond"])
    if case in ("ddim_p2p", "fixed_point_K1"):
        method = DDIM(at="target")
    else:
        method = FixedPoint(iterations=int(d["K"]), tolerance=0, memory=1)
    x = d["traj"][1]  # the first recorded step, from a level to itself, changes nothing
    for level in range(1, len(d["t"])):
        chain = Chain(prior, [level, level + 1])
        x = method.up(x, chain).states[0]
        close(x, d["traj"][level + 1])
    back = Seen(prior)
    close(method.down((x,), back), d["replay"][-1] if case == "ddim_p2p" else d["x0_back"])


@pytest.mark.parametrize("name", ["S25_shift1024", "S8_linear"])
def test_midpoint_is_rf_solver(name):
    d = recorded(f"rf_solver/{name}")
    times = d["times"].flip(0).tolist()

    class Velocity(Prior):
        condition = float(d["cond_src"])

        def denoise(self, x_t, t, condition=None):
            t, c = torch.tensor(t, dtype=torch.float64), self.condition
            v = 0.7 * x_t * torch.cos(t) + 0.4 * torch.sin(1.3 * x_t + 2 * t) - 0.2 * c
            return x_t - t * v

    prior = Velocity(Flow())
    chain = Chain(prior, times[1:])
    # The first recorded step starts at t = 0, where a diffusion has no noise to find.
    x = Midpoint().up(d["x_calls_invert"][2], chain).states[0]
    close(x, d["z1"])
    prior.condition = float(d["cond_edit"])
    x = Midpoint().down((d["z1"],), chain)
    h = times[0] - times[1]

    def velocity(x, t):
        return (x - prior.denoise(x, t)) / t

    middle = x + h / 2 * velocity(x, times[1])
    close(x + h * velocity(middle, times[1] + h / 2), d["x0_edit"])


@pytest.mark.parametrize("name", ["S12_gs1_gt2_eta1", "S4_gs1_gt1_eta0"])
def test_ddcm_is_the_published_one(name):
    d = recorded(f"ddcm/{name}")
    source, target = (
        Labelled(d["t"], d[f"cond_{side}"], d[f"guidance_{side}"]) for side in ("src", "tar")
    )
    seen = Seen(source), Seen(target)
    method = DDCM(steps=len(d["t"]), eta=float(d["eta"]))
    found = method.run(d["x0"], *seen, RecordedNoise(d["noise"]))
    for chain, states in zip(seen, (d["x_source"], d["x_target"]), strict=True):
        for state, expected in zip(chain.states, states[:-1], strict=True):
            close(state, expected)
    close(found, d["pred_x0"][-1])


class Conditional(Labelled):
    """The analytic network under a condition that the caller gives; none is 0."""

    strength = 0.0

    def noise(self, x, t):
        label = self.labels[int(t) - 1]
        return stub(x, self.condition, label) + 0.1 * self.strength * torch.cos(x)

    def denoise(self, x_t, t, condition=None):
        self.condition = 0.0 if condition is None else float(condition)
        return super().denoise(x_t, t)


def plus_plus(d, labels):
    prior = Conditional(labels, shifted=True)
    rule = CFGPlusPlus(float(d["guidance"]), prior.schedule, range(1, len(prior.labels) + 1))
    return Guided(prior, d["cond"], rule)


def down(prior, x, check):
    """DDIM from the noisiest level, step by step; returns the last estimate."""
    count = len(prior.prior.labels)
    for n, t in enumerate(range(count, 0, -1)):
        x0, level = prior.denoise(x, t), levels(prior.schedule, t, t - 1)
        if t > 1:
            x = transition(x0, implied_noise(x, x0, level), 0 * x, level, 0 * level.sigma_s)
            check(n, x)
    return x0


def test_cfgpp_is_a_rule_for_the_weight():
    """Of the published code, whose table is shifted by one."""
    d = recorded("cfgpp/ddim_cfgpp_S20_l0.6")
    guided = plus_plus(d, d["t_calls"])
    close(down(guided, d["xT"], lambda n, x: close(x, d["traj"][n])), d["x0"])


def test_cfgpp_is_inverted_by_the_same_rule():
    d = recorded("cfgpp/ddim_inversion_cfgpp_S50_l0.6")
    guided = plus_plus(d, d["t_calls"][: int(d["steps"])])
    chain, x = Seen(guided), d["x0_in"]
    # The published first step, from a level to itself, adds the guidance.
    own, none = (guided.prior.denoise(x, 1, c) for c in (d["cond"], None))
    x = x - chain.alpha[0] * float(d["guidance"]) * (own - none)
    x = DDIM(at="target").up(x, chain).states[0]
    close(x, d["xT"])
    close(down(guided, x, lambda n, x: close(x, d["traj"][n])), d["x0"])


def test_reflection_is_the_published_one_as_it_was_meant():
    d = recorded("w2sd/S20_lora1.5_-1.5_cfg5.5_1/intended")

    def made(strength, guidance):
        prior = Conditional(d["t"])
        prior.strength = float(strength)
        return Guided(prior, d["cond"], float(guidance))

    strong, weak = map(made, d["strength_gap"], d["cfg_gap"])
    base, times = made(d["base_strength"], d["guidance"]), range(1, len(d["t"]) + 1)
    reflected = Reflected(base, weak, times, strong, iterations=1)
    x = d["xT"]
    for n, t in enumerate(range(len(times), 1, -1)):
        x0, level = reflected.denoise(x, t), levels(base.schedule, t, t - 1)
        x = transition(x0, implied_noise(x, x0, level), 0 * x, level, 0 * level.sigma_s)
        close(x, d["traj"][n + 1], 1e-11)
