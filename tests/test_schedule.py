"""Noise schedules: against diffusers' tables, and the identities that every one must satisfy."""

import diffusers
import numpy as np
import pytest
import torch

from wellposed import errors
from wellposed.priors.schedule import SPACINGS, VE, Flow, Schedule, Tabulated

F64 = torch.float64


def random_betas():
    """Betas in no particular order: nothing may rely on a smooth or growing table."""
    return np.random.default_rng(0).uniform(1e-4, 0.3, 40)


def resshift():
    """A table whose kernel preserves neither variance nor mean (ResShift, kappa = 2)."""
    eta = torch.linspace(0.04, 0.999, 16, dtype=F64) ** 2
    eta = torch.cat([eta.new_zeros(1), eta])
    return Tabulated(1 - eta, 2 * eta.sqrt())


def zero_terminal_snr():
    return Tabulated.from_diffusers(diffusers.DDIMScheduler(rescale_betas_zero_snr=True))


SCHEDULES = {
    "linear": Tabulated.linear,
    "linear of 100": lambda: Tabulated.linear(100),
    "cosine": Tabulated.cosine,
    "random betas": lambda: Tabulated.from_betas(random_betas()),
    "resshift": resshift,
    "zero terminal SNR": zero_terminal_snr,
    "one level": lambda: Tabulated.linear(1),
    "ve": VE,
    "short ve": lambda: VE(3.0, 0.1),
    "flow": Flow,
    "short flow": lambda: Flow(0.9),
}


@pytest.fixture(params=SCHEDULES)
def schedule(request) -> Schedule:
    return SCHEDULES[request.param]()


def inner_times(schedule, count=201):
    return torch.linspace(0, 1, count, dtype=F64) * schedule.T


# Tables


def assert_table(ours, alphas_cumprod):
    """``alpha_t^2`` is diffusers' entry of index ``t - 1``, and time 0 is the clean image."""
    T = len(alphas_cumprod)
    assert ours.T == T
    assert [float(v) for v in ours(0.0)] == [1.0, 0.0]
    alpha, sigma = ours(torch.arange(1, T + 1))
    torch.testing.assert_close(alpha**2, alphas_cumprod.double(), rtol=5e-5, atol=2e-9)
    torch.testing.assert_close(sigma**2, 1 - alphas_cumprod.double(), rtol=0, atol=2e-6)


@pytest.mark.parametrize("T", [10, 1000])
def test_linear_is_ddpms(T):
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule="linear")
    assert_table(Tabulated.linear(T), theirs.alphas_cumprod)


@pytest.mark.parametrize("T", [10, 1000])
def test_cosine_is_squaredcos_cap_v2(T):
    theirs = diffusers.DDPMScheduler(num_train_timesteps=T, beta_schedule="squaredcos_cap_v2")
    assert_table(Tabulated.cosine(T), theirs.alphas_cumprod)


@pytest.mark.parametrize(
    "kind", ["DDPM", "DDIM", "PNDM", "DPMSolverMultistep", "EulerDiscrete", "UniPCMultistep"]
)
@pytest.mark.parametrize("beta_schedule", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_from_diffusers(kind, beta_schedule):
    make = getattr(diffusers, f"{kind}Scheduler")
    scheduler = make(beta_schedule=beta_schedule, beta_start=2e-4, beta_end=0.015)
    assert_table(Tabulated.from_diffusers(scheduler), scheduler.alphas_cumprod)
    from_config = Tabulated.from_diffusers(dict(scheduler.config))
    assert_table(from_config, scheduler.alphas_cumprod)


def test_from_diffusers_trained_betas_and_zero_terminal_snr():
    scheduler = diffusers.DDPMScheduler(trained_betas=random_betas())
    assert_table(Tabulated.from_diffusers(scheduler), scheduler.alphas_cumprod)
    assert_table(Tabulated.from_diffusers(scheduler.config), scheduler.alphas_cumprod)
    last = zero_terminal_snr()
    assert float(last(last.T)[0]) == 0.0
    assert float(last.time_at(torch.inf)) == last.T


def test_terminal_std_is_what_samplers_start_with():
    assert Tabulated.linear().terminal_std == 1.0  # N(0, I), though sigma_T is below 1
    assert Tabulated.cosine().terminal_std == 1.0
    table = resshift()
    assert table.terminal_std == pytest.approx(float(table(table.T)[1]))
    assert Tabulated([1.0, 0.5], [0.0, 0.5], terminal_std=3.0).terminal_std == 3.0
    assert VE(5.0).terminal_std == VE(5.0).T == 5.0
    assert Flow().terminal_std == Flow().T == 1.0
    assert Flow(0.9).terminal_std == 0.9


# The pair (alpha, sigma) and its inverse


def test_ve_and_flow_values():
    t = torch.tensor([0.0, 0.25, 1.0], dtype=F64)
    assert [v.tolist() for v in VE()(t)] == [[1, 1, 1], [0, 0.25, 1]]
    assert [v.tolist() for v in Flow()(t)] == [[1, 0.75, 0], [0, 0.25, 1]]
    assert Flow().ratio(t).tolist() == [0, 1 / 3, torch.inf]


@pytest.mark.parametrize("name", ["linear", "cosine", "random betas", "zero terminal SNR"])
def test_variance_is_preserved_between_the_entries(name):
    schedule = SCHEDULES[name]()
    alpha, sigma = schedule(inner_times(schedule, 777))
    torch.testing.assert_close(alpha**2 + sigma**2, torch.ones_like(alpha), rtol=0, atol=1e-14)


def test_values_are_float64_of_the_shape_of_t(schedule):
    for t in (0, schedule.T, schedule.T / 3, torch.tensor(0.5), torch.ones(2, 3) * schedule.T):
        for value in schedule(t):
            assert value.dtype == F64
            assert value.shape == torch.as_tensor(t).shape
    t = inner_times(schedule, 7)
    one_by_one = [torch.stack(schedule(float(v))) for v in t]
    assert torch.equal(torch.stack(schedule(t)), torch.stack(one_by_one, 1))


def test_noise_grows_from_the_clean_image(schedule):
    assert [float(v) for v in schedule(0)] == [1.0, 0.0]
    assert bool((schedule.ratio(inner_times(schedule)).diff() > 0).all())


def test_time_at_inverts_ratio(schedule):
    t = inner_times(schedule).reshape(3, -1)
    torch.testing.assert_close(
        schedule.time_at(schedule.ratio(t)), t, rtol=1e-9, atol=1e-9 * schedule.T
    )
    for end in (0.0, float(schedule.T)):
        back = float(schedule.time_at(float(schedule.ratio(end))))
        assert back == pytest.approx(end, rel=1e-12, abs=1e-12)


def test_ratio_inverts_time_at(schedule):
    low, high = 1e-4, min(1e4, float(schedule.ratio(schedule.T)))
    ratio = torch.logspace(np.log10(low), np.log10(high), 100, dtype=F64)
    t = schedule.time_at(ratio)
    torch.testing.assert_close(schedule.ratio(t), ratio, rtol=1e-9, atol=0)
    assert torch.equal(schedule.time_at(ratio[50]), t[50])


@pytest.mark.parametrize("name", ["linear", "ve"])
def test_more_noise_than_the_schedule_has_is_its_end(name):
    schedule = SCHEDULES[name]()
    assert schedule.time_at(torch.tensor([1e9, torch.inf])).tolist() == [schedule.T] * 2


# Times


def too_many(schedule, spacing, steps):
    """A table has no more levels than entries; between them only "geometric" goes."""
    if not isinstance(schedule, Tabulated) or steps <= schedule.T:
        return False
    return spacing != "geometric" or schedule.T == 1


@pytest.mark.parametrize("spacing", SPACINGS)
def test_times_decrease_to_the_clean_image(schedule, spacing):
    tabulated = isinstance(schedule, Tabulated)
    for steps in (1, 2, 3, 7, 50, 300, 667, 999, 1000):
        if too_many(schedule, spacing, steps):
            with pytest.raises(errors.ArgumentError, match=f"1 to T = {schedule.T}"):
                schedule.times(steps, spacing)
            continue
        times = schedule.times(steps, spacing)
        assert times.dtype == F64
        assert times[-1] == 0
        assert bool((times.diff() < 0).all())
        assert times[0] <= schedule.T
        if tabulated:
            assert times[-2] >= 1 - 1e-9  # no network call below its first training level
        assert len(times) == steps + 1  # as many network evaluations
        from_the_end = spacing in ("trailing", "karras", "geometric")
        if from_the_end and np.isfinite(float(schedule.ratio(schedule.T))):
            assert float(times[0]) == pytest.approx(schedule.T, rel=1e-9)


@pytest.mark.parametrize("T", [1, 7, 100, 1000])
def test_leading_is_the_published_range_where_steps_divide_it(T):
    for steps in (n for n in range(1, T + 1) if T % n == 0):
        published = [t + 1 for t in reversed(range(0, T, T // steps))]
        assert Tabulated.linear(T).times(steps).tolist() == [*published, 0]


def test_leading_of_the_papers():
    times = Tabulated.linear().times(50)
    assert times[:3].tolist() == [981, 961, 941]
    assert times[-3:].tolist() == [21, 1, 0]


@pytest.mark.parametrize("steps", [3, 12, 60, 80, 300, 667])
def test_leading_has_as_many_times_as_steps(steps):
    times = Tabulated.linear().times(steps)[:-1]
    assert len(times) == steps
    gaps = -times.diff()
    assert float(gaps.max() - gaps.min()) <= 1  # evenly spread from the first to the last
    assert float(times[0]) > 1000 * (1 - 1 / steps)


@pytest.mark.parametrize("spacing", ["linspace", "trailing"])
@pytest.mark.parametrize("T", [1000, 37])
def test_spacings_are_those_of_diffusers(spacing, T):
    scheduler = diffusers.DDIMScheduler(num_train_timesteps=T, timestep_spacing=spacing)
    for steps in [*range(1, 38), 100, 167, 300, 667, 999, 1000]:
        if steps > T:
            break
        scheduler.set_timesteps(steps)
        # Rounding of their running sum may add one entry at the end (below index 0).
        expected = (scheduler.timesteps + 1).tolist()[:steps]
        assert Tabulated.linear(T).times(steps, spacing).tolist() == [*expected, 0], steps


def test_ve_spacings_are_even_in_log_sigma():
    schedule = VE(50.0, 0.01)
    for spacing, first in (("linspace", 50.0), ("trailing", 50.0)):
        times = schedule.times(5, spacing)
        torch.testing.assert_close(times[0], torch.tensor(first, dtype=F64))
        torch.testing.assert_close(times[-2], torch.tensor(0.01, dtype=F64))
        steps = times[:-1].log().diff()
        torch.testing.assert_close(steps, steps[:1].expand(4))
    leading = schedule.times(5, "leading")
    torch.testing.assert_close(leading[:-1], schedule.times(6, "linspace")[1:-1])


@pytest.mark.parametrize("name", ["linear", "flow"])
def test_continuous_spacings_are_even(name):
    schedule, steps = SCHEDULES[name](), 4
    if name == "linear":
        assert schedule.times(steps, "trailing").tolist() == [1000, 750, 500, 250, 0]
        return
    for spacing, knots in (("linspace", 4), ("trailing", 4), ("leading", 5)):
        times = schedule.times(steps, spacing) / schedule.T
        expected = torch.arange(steps, -1, -1, dtype=F64) / knots
        torch.testing.assert_close(times, expected, rtol=0, atol=1e-15)


def test_karras_is_even_in_the_seventh_root_of_the_noise_ratio(schedule):
    steps = min(int(schedule.T), 11) if isinstance(schedule, Tabulated) else 11
    knots = schedule.times(steps, "karras")[:-1]
    high = float(schedule.ratio(schedule.T))
    high = high if np.isfinite(high) else 1 / schedule.min_ratio
    ramp = np.arange(steps) / max(1, steps - 1)
    # Karras et al. 2022, eq. 5
    low = schedule.min_ratio
    expected = (high ** (1 / 7) + ramp * (low ** (1 / 7) - high ** (1 / 7))) ** 7
    np.testing.assert_allclose(schedule.ratio(knots).numpy(), expected, rtol=1e-9)


def test_geometric_multiplies_the_noise_ratio(schedule):
    count = 1 if schedule.T == 1 and isinstance(schedule, Tabulated) else 30
    ratios = schedule.ratio(schedule.times(count, "geometric")[:-1])
    high = float(schedule.ratio(schedule.T))
    high = high if np.isfinite(high) else 1 / schedule.min_ratio
    expected = np.geomspace(high, schedule.min_ratio, count)
    np.testing.assert_allclose(ratios.numpy(), expected, rtol=1e-9)


def test_karras_equals_diffusers_edm_sigmas():
    scheduler = diffusers.EDMEulerScheduler(sigma_min=0.002, sigma_max=80.0, rho=7.0)
    scheduler.set_timesteps(18)
    times = VE(80.0, 0.002).times(18, "karras")
    torch.testing.assert_close(times, scheduler.sigmas.double(), rtol=2e-6, atol=0)


# Bad input


def test_steps_must_be_a_positive_integer(schedule):
    for steps in (0, -3, 1.5, "50", None):
        with pytest.raises(errors.ArgumentError, match=f"^steps: got {steps!r}, accepted: "):
            schedule.times(steps)


def test_unknown_spacing_names_the_nearest(schedule):
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'trailing'") as caught:
        schedule.times(1, "trailling")
    assert "leading, linspace, trailing, karras" in str(caught.value)


@pytest.mark.parametrize(
    ("alpha", "sigma", "message"),
    [
        ([1, 0.9, 0.8], [0, 0.5], r"shapes \(3,\) and \(2,\)"),
        ([1.0], [0.0], "T \\+ 1 >= 2"),
        ([[1, 0.9]], [[0, 0.1]], "alpha: got"),
        ([1, 0.9, 0.8], [0, 0.5, 0.4], "strictly increasing"),
        ([1, 0.9, 0.9], [0, 0.5, 0.5], "strictly increasing"),
        ([1, 0.9, -0.8], [0, 0.5, 0.9], "strictly increasing"),
        ([1, 0.5, 0, 0], [0, 0.5, 1, 1], "strictly increasing"),
        ([1, torch.nan], [0, 1], "finite"),
    ],
)
def test_tables_must_fit_and_grow(alpha, sigma, message):
    with pytest.raises(errors.ArgumentError, match=message):
        Tabulated(alpha, sigma)


@pytest.mark.parametrize(
    "betas", [[0.1, 0.0], [0.1, -0.1], [0.1, 1.5], [[0.1], [0.2]], [torch.nan]]
)
def test_betas_must_lie_between_zero_and_one(betas):
    with pytest.raises(errors.ArgumentError, match=r"betas: got .* 0 < beta <= 1"):
        Tabulated.from_betas(betas)


def test_ranges_of_the_continuous_schedules():
    for sigma_max, sigma_min in ((1.0, 2.0), (1.0, 0.0), (-1.0, 0.1)):
        with pytest.raises(errors.ArgumentError, match="sigma_min"):
            VE(sigma_max, sigma_min)
    for T in (0.0, -0.5, 1.5):
        with pytest.raises(errors.ArgumentError, match="T: got"):
            Flow(T)
    for T, min_ratio in ((1.0, 0.0), (0.5, 1.0), (1e-3, 2e-3)):
        with pytest.raises(errors.ArgumentError, match="min_ratio"):
            Flow(T, min_ratio)


def test_from_diffusers_refuses_schedulers_without_betas():
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    for scheduler in (flow, diffusers.EDMEulerScheduler(), "ddpm"):
        with pytest.raises(errors.ArgumentError, match="accepted: a diffusers scheduler"):
            Tabulated.from_diffusers(scheduler)
    # DDPM's betas must not be filled in for the config of another process.
    with pytest.raises(errors.ArgumentError, match="FlowMatchEulerDiscreteScheduler"):
        Tabulated.from_diffusers({**flow.config, "_class_name": type(flow).__name__})
