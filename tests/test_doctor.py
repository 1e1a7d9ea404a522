"""The checkpoint doctor finds what was misread, and leaves right priors alone."""

import copy

import pytest
import torch
from torch import nn

from wellposed import errors, priors
from wellposed.datasets.images.phantoms import dead_leaves, spectral_mixtures
from wellposed.priors import VE, Flow, GaussianPrior, NetworkPrior, Stationary, Tabulated
from wellposed.priors.labels import LogNoiseLabel
from wellposed.priors.named_schedules import SCHEDULES
from wellposed.priors.networks.adm import ADMConfig, ADMUNet, heads_of
from wellposed.priors.prediction import training_target
from wellposed.validation.doctor import diagnose
from wellposed.validation.readings import Remembered, other_readings
from wellposed.validation.self_tests import LEVELS, STEPS, synthetic

pytestmark = pytest.mark.usefixtures("single_thread")

SIZE = 64
VP = Tabulated.linear()


def smooth_field(schedule=VP):
    """Images in [-1, 1] units with a falling spectrum, about as photographs have it."""
    k = torch.hypot(*torch.meshgrid(*2 * [torch.fft.fftfreq(SIZE) * SIZE], indexing="ij"))
    spectrum = 40.0 / (1 + k**3) + 1e-4
    return GaussianPrior(0.0, Stationary(spectrum), schedule)


class Best(nn.Module):
    """The best network of a kind for a Gaussian field, of images in the network's [-1, 1]."""

    def __init__(self, kind, schedule=VP, time=lambda label: label + 1):
        super().__init__()
        self.kind, self.time, self.field = kind, time, smooth_field(schedule)

    def forward(self, x, label):
        t = self.time(label.double())
        alpha, sigma = (v.view(-1, 1, 1, 1) for v in self.field.schedule(t))
        x0 = self.field.denoise(x, t)
        return training_target(self.kind, x0, (x - alpha * x0) / sigma, alpha, sigma).to(x.dtype)


def images(prior, count=3):
    """Draws of the field, in public values."""
    z = torch.randn(count, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0))
    return prior.to_public(smooth_field().draw(z))


def made(kind="noise", data_range=(0.0, 1.0)):
    return NetworkPrior(Best(kind), VP, kind, channels=1, data_range=data_range)


@pytest.mark.parametrize("kind", ["noise", "sample", "velocity"])
def test_a_right_prior_has_no_warnings(kind):
    prior = made(kind)
    diagnosis = diagnose(prior, images(prior))
    assert diagnosis.warnings == ()
    assert list(diagnosis.gains) == list(LEVELS)
    assert all(gain > 0 for gain in diagnosis.gains.values())
    assert -0.1 < diagnosis.sample_range[0] < 0.3 < 0.7 < diagnosis.sample_range[1] < 1.2


@pytest.mark.parametrize("kind", ["noise", "sample", "velocity"])
@pytest.mark.parametrize("claimed", ["noise", "sample", "velocity"])
def test_a_misread_prediction_is_named(kind, claimed):
    prior = made(kind)
    prior.prediction = claimed
    named = [w for w in diagnose(prior, images(prior)).warnings if f"prediction={kind!r}" in w]
    assert bool(named) == (kind != claimed)


@pytest.mark.parametrize("trained", ["linear", "cosine", "sigmoid"])
@pytest.mark.parametrize("claimed", ["linear", "cosine"])
def test_a_misread_schedule_is_named(trained, claimed):
    right, wrong = SCHEDULES[trained](), SCHEDULES[claimed]()
    prior = NetworkPrior(Best("noise", right), wrong, "noise", channels=1, data_range=(0.0, 1.0))
    named = [w for w in diagnose(prior, images(prior)).warnings if "schedule=" in w]
    if trained == claimed:
        assert not named
    elif trained != "sigmoid" or claimed != "cosine":  # which are nearly one
        assert f"with schedule={trained!r} it would denoise better by" in named[0]


def test_labels_of_another_convention_are_named():
    network = Best("noise", time=lambda label: (1000 * label).clamp(1, 1000))
    prior = NetworkPrior(network, VP, "noise", channels=1, data_range=(0.0, 1.0))
    assert "with label='fraction' it would" in diagnose(prior, images(prior)).warnings[-1]


def test_two_misreadings_at_once_are_named():
    right = Tabulated.cosine()
    prior = NetworkPrior(Best("velocity", right), VP, "noise", channels=1, data_range=(0.0, 1.0))
    (warning,) = (w for w in diagnose(prior, images(prior)).warnings if "with " in w)
    assert "prediction='velocity'" in warning and "schedule='cosine'" in warning


def test_attention_of_other_heads_is_tried():
    config = ADMConfig((1, 1), 32, (64,), 1, (True,), "plain", True, num_head_channels=16)
    network = ADMUNet(config)
    prior = NetworkPrior(network, VP, channels=1, data_range=(-1.0, 1.0))
    found = {r.name: r.prior for r in other_readings(prior, ()) if r.axis == "heads"}
    assert {"num_heads=1", "num_head_channels=32"} <= found.keys()
    assert "num_heads=4" not in found  # as it is
    for name, heads in {"num_heads=1": 1, "num_head_channels=32": 2}.items():
        other = found[name].network
        assert set(heads_of(other)) == {heads}
        assert next(other.parameters()) is next(network.parameters())
    assert set(heads_of(prior.network)) == {4}


def test_a_flow_network_is_told_from_a_noise_network():
    label = lambda t: 1000 * t  # noqa: E731
    network = Best("flow", Flow(), time=lambda label: label / 1000)
    prior = NetworkPrior(network, Flow(), "flow", label, channels=1, data_range=(0.0, 1.0))
    assert diagnose(prior, images(prior)).warnings == ()
    prior.prediction = "sample"
    assert "prediction='flow'" in diagnose(prior, images(prior)).warnings[-1]


@pytest.mark.parametrize(
    ("claimed", "found"),
    [((-1.0, 1.0), "[-1, 1]"), ((-5.0, 5.0), "[-1, 1]")],
)
def test_a_misread_range_is_named(claimed, found):
    prior = made(data_range=claimed)
    (warning,) = (w for w in diagnose(prior).warnings if "samples have values" in w)
    assert f"may have been trained on {found}" in warning


@pytest.mark.parametrize("name", sorted(priors.available()))
@pytest.mark.slow
def test_shipped_priors_are_healthy(name):
    """On a crop; `wellposed inspect` takes more images, and larger ones."""
    prior = priors.load(name)
    side = 32 if prior.anchor is None else 64  # as large as the restorers' blur
    images = synthetic(prior, seed=0)[:1, :, :side, :side]
    assert diagnose(prior, images).warnings == ()
    wrong = copy.copy(prior)
    wrong.prediction = "noise"
    assert f"prediction={prior.prediction!r}" in diagnose(wrong, images).warnings[-1]


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(priors.available()))
def test_shipped_priors_are_healthy_on_the_usual_images(name):
    assert diagnose(priors.load(name)).warnings == ()


def test_readings_share_the_passes_of_the_network():
    prior = made()
    calls = []
    prior.network.register_forward_hook(lambda *call: calls.append(1))
    diagnose(prior, images(prior))
    schedules, labels = 3, 2  # other ones; other predictions take no passes of their own
    assert len(calls) == len(LEVELS) * (1 + schedules + labels) + STEPS


def test_a_remembered_network_gives_what_the_network_gives():
    network = nn.Conv2d(1, 1, 1)
    network.forward = lambda x, label: x * label.view(-1, 1, 1, 1)
    memory, x, label = Remembered(network), torch.randn(2, 1, 4, 4), torch.tensor([1.0, 2.0])
    for given in ((x, label), (x, 2 * label), (x + 1, label), (x.double(), label), (x, label)):
        assert torch.equal(memory(*given), network(*given))
        assert memory(*given).dtype == network(*given).dtype


def test_a_network_that_does_not_denoise():
    network = nn.Conv2d(1, 1, 1)
    network.forward = lambda x, label: 0 * x + 0.1
    prior = NetworkPrior(
        network, VE(), "sample", LogNoiseLabel(VE()), channels=1, data_range=(-1.0, 1.0)
    )
    first, *_ = diagnose(prior).warnings
    assert "it does not denoise at sigma / alpha = 0.05 (-" in first


def test_exact_priors_can_be_tested_too():
    prior = smooth_field()
    prior.channels = 1
    assert not any("denoise" in w for w in diagnose(prior, images(prior)).warnings)


def test_what_cannot_be_tested_is_named():
    with pytest.raises(errors.ArgumentError, match="images: got None, accepted: clean images"):
        diagnose(smooth_field())
    prior = made()
    with pytest.raises(errors.ShapeError, match="made for 1 channels"):
        diagnose(prior, torch.zeros(1, 3, SIZE, SIZE))
    prior.network.forward = lambda x, label: x * torch.nan
    with pytest.raises(errors.NonFiniteError, match="prior: returns NaN"):
        diagnose(prior)


# Dead leaves


def test_dead_leaves_are_images_of_many_scales():
    a = dead_leaves(3, 3, 48, seed=1)
    assert a.shape == (3, 3, 48, 48)
    assert a.dtype == torch.float32
    assert 0 <= float(a.min()) < 0.2
    assert 0.8 < float(a.max()) <= 1
    assert torch.equal(a[:2], dead_leaves(2, 3, 48, seed=1))
    assert not torch.equal(a, dead_leaves(3, 3, 48, seed=2))
    # Piecewise constant: most neighbours are equal, some not.
    same = (a[..., 1:] == a[..., :-1]).float().mean()
    assert 0.6 < float(same) < 0.99
    # Not of one scale: halving the resolution keeps the spread, as it would not of noise.
    halved = torch.nn.functional.avg_pool2d(a, 2)
    assert float(halved.std() / a.std()) > 0.9


def test_spectral_mixtures_are_cubes_of_a_low_rank():
    a = spectral_mixtures(2, 12, 32, materials=3)
    assert a.shape == (2, 12, 32, 32)
    assert 0 <= float(a.min()) < float(a.max()) <= 1
    assert torch.equal(a[:1], spectral_mixtures(1, 12, 32, materials=3))
    assert not torch.equal(a, spectral_mixtures(2, 12, 32, materials=3, seed=1))
    values = torch.linalg.svdvals(a.flatten(2))
    assert bool((values[:, 2] > 1e-3 * values[:, 0]).all())
    assert bool((values[:, 3] < 1e-5 * values[:, 0]).all())
    with pytest.raises(errors.ArgumentError, match="bands: got 1"):
        spectral_mixtures(1, 1, 32)


@pytest.mark.parametrize(
    ("arguments", "named"), [((0, 1, 64), "count"), ((1, 0, 64), "channels"), ((1, 1, 8), "size")]
)
def test_dead_leaves_name_bad_arguments(arguments, named):
    with pytest.raises(errors.ArgumentError, match=f"{named}: got"):
        dead_leaves(*arguments)
