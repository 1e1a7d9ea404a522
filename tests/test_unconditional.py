"""Unconditional samples against distributions that are known exactly."""

import pytest
import torch
from torch import nn

from wellposed import errors
from wellposed.priors import Diagonal, Flow, GaussianPrior, NetworkPrior, Tabulated
from wellposed.priors.sampling import sample
from wellposed.priors.schedule import SPACINGS, VE

pytestmark = pytest.mark.usefixtures("single_thread")

SCHEDULES = {
    "linear": Tabulated.linear(),
    "cosine": Tabulated.cosine(),
    "ve": VE(),
    "flow": Flow(),
}
MEAN, STD = torch.tensor([0.4, -0.2]), torch.tensor([0.3, 0.8])


class Counted(GaussianPrior):
    """Two channels of independent pixels, mean and deviation of each its own; counts calls."""

    def __init__(self, schedule=SCHEDULES["linear"], is_complex=False, data_range=(-1.0, 1.0)):
        variance = Diagonal(STD.double().view(2, 1, 1) ** 2)
        super().__init__(MEAN.view(1, 2, 1, 1), variance, schedule, is_complex)
        self.channels, self.data_range, self.times = 2, data_range, []

    def denoise(self, x_t, t, condition=None):
        self.times.append(t)
        return super().denoise(x_t, t)


def moments(images):
    """Mean and standard deviation of each channel."""
    pixels = images.transpose(0, 1).flatten(1)
    return pixels.mean(1), pixels.std(1)


def moments_of_ddim(schedule, steps, eta, spacing):
    """Mean and deviation of DDIM's samples of the Gaussian, which is linear: step by step."""
    times = schedule.times(steps, spacing)
    (a, sigma), mean, deviation = schedule(times[0]), MEAN.double(), STD.double()
    # It starts without the image: of unit variance and zero mean, as if that had vanished.
    spread, off = (a**2 + sigma**2).sqrt(), -a * mean
    for t in times[1:]:
        (a_next, sigma_next) = schedule(t)
        gain = a * deviation**2 / (a**2 * deviation**2 + sigma**2)
        if t == 0:
            return (mean + gain * off).float(), (gain * spread).float()
        fresh = eta * sigma_next * (1 - (a * sigma_next / (a_next * sigma)) ** 2).sqrt()
        kept = (sigma_next**2 - fresh**2).sqrt() / sigma
        factor = a_next * gain + kept * (1 - a * gain)
        spread, off = torch.hypot(factor * spread, fresh), factor * off
        a, sigma = a_next, sigma_next


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("eta", "steps", "spacing"),
    [(0.0, 20, "karras"), (0.0, 100, "karras"), (1.0, 100, "karras"), (0.0, 20, "leading")],
)
def test_samples_of_a_gaussian_are_gaussian(name, eta, steps, spacing):
    """Mean, spread, fourth moment and independence of 25600 pixels a channel."""
    prior = Counted(SCHEDULES[name])
    images = sample(prior, 100, (16, 16), steps=steps, eta=eta, spacing=spacing)
    assert images.shape == (100, 2, 16, 16)
    assert images.dtype == torch.float32
    mean, std = moments(images)
    expected = moments_of_ddim(SCHEDULES[name], steps, eta, spacing)
    torch.testing.assert_close(mean, expected[0], atol=0.015, rtol=0)
    torch.testing.assert_close(std, expected[1], atol=0, rtol=0.015)
    if steps == 100:  # of which the bias is small
        torch.testing.assert_close(mean, MEAN, atol=0.015, rtol=0)
        torch.testing.assert_close(std, STD, atol=0, rtol=0.16)
    unit = (images - mean.view(2, 1, 1)) / std.view(2, 1, 1)
    assert float(unit.pow(4).mean()) == pytest.approx(3, abs=0.1)
    for shifted in (unit.roll(1, 0), unit.roll(1, 1), unit.roll(1, 2), unit.roll(1, 3)):
        assert abs(float((unit * shifted).mean())) < 0.015


@pytest.mark.parametrize("name", SCHEDULES)
def test_ddim_follows_the_exact_probability_flow(name):
    """From the same noise: ``x_0 = m + s (x_T - alpha m) / sqrt(alpha^2 s^2 + sigma^2)``.

    Of first order: four times the steps leave a quarter of the error.
    """
    schedule = SCHEDULES[name]
    one, few, many = (sample(Counted(schedule), 4, (8, 8), steps=n) for n in (1, 100, 400))
    alpha, sigma = (float(v) for v in schedule(schedule.times(1, "karras")[0]))
    m, s = MEAN.view(2, 1, 1), STD.view(2, 1, 1)
    spread = (alpha**2 * s**2 + sigma**2).sqrt()
    # One step is the estimate at the start, m + alpha s^2 (x_T - alpha m) / spread^2.
    start = (one - m) * spread**2 / (alpha * s**2)
    exact = m + s * start / spread
    error = [float((images - exact).square().mean().sqrt()) for images in (few, many)]
    assert error[1] < 0.03
    assert error[0] / error[1] == pytest.approx(4, rel=0.2)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_one_evaluation_a_step_at_the_times_of_the_spacing(name, spacing):
    prior = Counted(SCHEDULES[name])
    images = sample(prior, 2, (4, 4), steps=10, spacing=spacing)
    assert prior.times == prior.schedule.times(10, spacing)[:-1].tolist()
    assert len(prior.times) == 10
    assert bool(images.isfinite().all())


@pytest.mark.parametrize("eta", [0.0, 0.5])
def test_a_sample_is_the_same_in_any_number(eta):
    draw = lambda count, **c: sample(Counted(), count, (4, 6), steps=5, eta=eta, **c)  # noqa: E731
    five = draw(5)
    assert torch.equal(five[:2], draw(2))
    assert not torch.allclose(five[0], five[1], atol=0.1)
    assert torch.equal(draw(5, seed=0), five)
    assert not torch.allclose(draw(5, seed=1), five, atol=0.1)


def test_only_ddpm_draws_fresh_noise():
    exact, noisy = (sample(Counted(), 2, (4, 4), steps=20, eta=eta) for eta in (0.0, 1e-6))
    torch.testing.assert_close(exact, noisy, atol=1e-4, rtol=0)
    other = sample(Counted(), 2, (4, 4), steps=20, eta=1.0)
    assert not torch.allclose(exact, other, atol=0.1)


def test_samples_come_in_public_values():
    units = sample(Counted(), 3, (4, 4), steps=5)
    public = sample(Counted(data_range=(0.0, 10.0)), 3, (4, 4), steps=5)
    torch.testing.assert_close(public, 5 * units + 5)


def test_complex_samples():
    """Real and imaginary part have the prior's spread each."""
    images = sample(Counted(is_complex=True), 100, (16, 16), steps=100)
    assert images.dtype == torch.complex64
    for part, mean in ((images.real, MEAN), (images.imag, torch.zeros(2))):
        torch.testing.assert_close(moments(part)[0], mean, atol=0.015, rtol=0)
        torch.testing.assert_close(moments(part)[1], STD, atol=0, rtol=0.06)


class Grey(nn.Module):
    """Predicts the same grey always."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.25))

    def forward(self, x, label):
        return self.level.expand_as(x)


def test_networks_are_sampled_without_gradients_or_global_noise(device):
    before = torch.get_rng_state()
    prior = NetworkPrior(Grey(), Tabulated.linear(), "sample", channels=3, data_range=(0.0, 1.0))
    images = sample(prior.to(device), 2, (4, 6), steps=3, eta=1.0, device=device)
    torch.testing.assert_close(images, torch.full((2, 3, 4, 6), 0.625, device=device))
    assert not images.requires_grad
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 0}, "steps: got 0"),
        ({"steps": 1001}, "steps: got 1001, accepted: a number from 1 to T = 1000"),
        ({"spacing": "karas"}, "Did you mean 'karras'"),
        ({"eta": 1.5}, "eta: got 1.5"),
        ({"eta": -0.1}, "eta: got -0.1"),
        ({"seed": -1}, "seed: got -1"),
        ({"seed": None}, "seed: got None"),
    ],
)
def test_what_cannot_be_sampled_is_named(change, message):
    with pytest.raises(errors.ArgumentError, match=message):
        sample(Counted(), 2, (4, 4), **{"steps": 5, **change})


def test_priors_of_any_number_of_channels_are_refused():
    with pytest.raises(errors.ArgumentError, match="prior: got 'any number of channels', accept"):
        sample(GaussianPrior(0.0, 1.0), 2, (4, 4))
