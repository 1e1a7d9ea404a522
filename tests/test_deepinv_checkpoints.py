"""Checkpoints of deepinv's networks: recognised by their weights, equal to deepinv's own calls."""

from functools import partial

import pytest
import torch
from deepinv.models import ADMUNet, DRUNet, NCSNpp
from deepinv.models.precond import EDMPrecond
from safetensors.torch import save_file
from tests import helpers
from tests.helpers import item_noise
from torch import nn

from wellposed import errors
from wellposed.priors import VE, Flow, Rescheduled, Tabulated
from wellposed.priors.checkpoints import FAMILIES, deepinv_models, edm, identify
from wellposed.priors.checkpoints.reading import read_state
from wellposed.priors.checkpoints.wrappings import bare

pytestmark = pytest.mark.usefixtures("single_thread")

WHERE = "path: 'w.pt'"
TINY = {
    "img_resolution": 16,
    "in_channels": 2,
    "out_channels": 2,
    "model_channels": 32,
    "channel_mult": (1, 2),
    "num_blocks": 1,
    "attn_resolutions": (8,),
    "augment_dim": 0,
    "pretrained": None,
}
NETWORKS = {
    "ncsn": lambda **s: NCSNpp("ncsn", **{**TINY, **s}),
    "ddpm": lambda **s: NCSNpp("ddpm", **{**TINY, **s}),
    # Heads of 64 channels: narrower blocks would have no attention.
    "adm": lambda **s: ADMUNet(**{**TINY, "model_channels": 64, **s}),
}
# Each differs from the default and from the others in one thing.
VARIANTS = {
    "augmented": {"augment_dim": 9},
    "deeper": {"num_blocks": 2, "channel_mult": (1, 1, 2), "attn_resolutions": (16, 4)},
    "wide labels": {"channel_mult_emb": 3},
    "finest multiplied": {"channel_mult": (2, 1)},
    "no attention": {"attn_resolutions": ()},
    "attention everywhere": {"attn_resolutions": (16, 8)},
    "one channel": {"in_channels": 1, "out_channels": 1, "img_resolution": 32},
}
close = partial(helpers.close, tolerance=1e-5)


def with_random_weights(make, **settings):
    """Every weight drawn, so that no branch is silent: deepinv starts some at (nearly) zero."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        model = make(**settings).eval()
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.data = torch.randn_like(weight) / weight[0].numel() ** 0.5
            else:
                weight.data += 0.2 * torch.randn_like(weight)
    return model


def edm_network(kind, **settings):
    model = with_random_weights(NETWORKS[kind], **settings)
    model._was_trained_on_minus_one_one, model.pixel_std = True, 0.5
    return model


def edm_prior(model, **options):
    return edm.build(model.state_dict(), WHERE, options)


# EDM


@pytest.mark.parametrize(
    ("kind", "variant"),
    [("ddpm", "deeper"), *((kind, v) for kind in ("ncsn", "adm") for v in VARIANTS)],
)
def test_edm_is_deepinvs_denoiser(kind, variant):
    """In deepinv's protocol: [0, 1] images and their noise level."""
    model = edm_network(kind, **VARIANTS[variant])
    prior = edm_prior(model)
    channels = VARIANTS[variant].get("in_channels", 2)
    x, levels = item_noise(2, channels, 8, 8), torch.tensor([0.05, 3.0])
    with torch.no_grad():
        close(prior(x, levels), model(x, levels), tolerance=1e-4)
        close(prior(x, 0.05), model(x, 0.05), tolerance=1e-4)
    assert prior.channels == channels


class Unconditioned(nn.Module):
    """Without the preconditioning that deepinv's networks have in their own call."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x, label, class_labels):
        return self.model.forward_unet(x, label, class_labels)


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("sigma_data", [0.5, 0.75])
def test_edm_is_preconditioned_as_deepinv_does(kind, sigma_data):
    model = edm_network(kind)
    prior = edm_prior(model, sigma_data=sigma_data)
    wrapped = EDMPrecond(Unconditioned(model), pixel_std=sigma_data)
    for sigma in (0.002, 0.5, 80.0):
        x_t = item_noise(2, 2, 8, 8) * (sigma**2 + 0.25) ** 0.5
        with torch.no_grad():
            close(prior.denoise(x_t, sigma), wrapped(x_t, sigma), tolerance=1e-5)
    assert (prior.schedule.T, prior.schedule.min_ratio) == (80.0, 0.002)


@pytest.mark.parametrize("kind", NETWORKS)
def test_edm_classes_are_one_hot(kind):
    model = edm_network(kind, label_dim=5)
    prior, x = edm_prior(model), item_noise(3, 2, 8, 8)
    classes = torch.tensor([4, 0, 1])
    with torch.no_grad():
        expected = model(x, 0.3, class_labels=torch.eye(5)[classes], input_in_minus_one_one=True)
        others = model(x, 0.3, class_labels=torch.eye(5)[[1, 1, 1]], input_in_minus_one_one=True)
    close(prior.denoise(x, 0.3, classes), expected)
    close(prior.conditioned_on(1).denoise(x, 0.3), others)
    assert not torch.allclose(expected, others, atol=1e-3)
    with pytest.raises(errors.ArgumentError, match="classes 0 to 4"):
        prior.denoise(x, 0.3)


def test_edm_inside_its_preconditioning():
    """NVlabs' exports are of the whole, so that each name begins with ``model.``."""
    model, x = edm_network("ncsn"), item_noise(1, 2, 8, 8)
    state = EDMPrecond(model).state_dict()
    assert all(key.startswith("model.") for key in state)
    state = bare(state)
    assert edm.matches(state)
    close(edm.build(state, WHERE, {})(x, 0.4), edm_prior(model)(x, 0.4))


def test_edm_of_unit_images_as_deepinv_trains_it():
    """deepinv's own default: networks of [0, 1] images, preconditioned for 0.75."""
    model, x = with_random_weights(NETWORKS["adm"]), item_noise(2, 2, 8, 8)
    assert (model._was_trained_on_minus_one_one, model.pixel_std) == (False, 0.75)
    prior = edm_prior(model, data_range=(-1.0, 1.0), sigma_data=0.75)
    with torch.no_grad():
        close(prior(x, 0.4), model(x, 0.4))


def test_edm_of_complex_images():
    model, x = edm_network("ddpm"), item_noise(2, 1, 8, 8, dtype=torch.complex64)
    prior = edm_prior(model, is_complex=True)
    assert (prior.channels, prior.data_range) == (1, (-1, 1))
    with torch.no_grad():
        pair = torch.cat([x.real, x.imag], 1)
        expected = model(pair, 0.4, input_in_minus_one_one=True)
    close(prior(x, 0.4), torch.complex(expected[:, :1], expected[:, 1:]))


@pytest.mark.parametrize("schedule", [Flow(), Tabulated.linear()])
def test_edm_under_another_schedule(schedule):
    model, x_t = edm_network("ncsn"), item_noise(2, 2, 8, 8)
    prior = edm_prior(model, schedule=schedule)
    assert prior.schedule is schedule
    for share in (0.1, 0.7):
        t = share * schedule.T
        close(
            prior.denoise(x_t, t),
            Rescheduled(edm_prior(model), schedule).denoise(x_t, t),
            tolerance=1e-4,
        )


@pytest.mark.parametrize("kind", NETWORKS)
def test_edm_has_a_gradient(kind):
    """Against central differences, in float64: deepinv's network works in place."""
    prior = edm_prior(edm_network(kind)).double()
    x, step = (item_noise(1, 2, 8, 8, seed=s, dtype=torch.float64) for s in (1, 2))
    total = prior.denoise(x.requires_grad_(), 0.7).square().sum()
    (gradient,) = torch.autograd.grad(total, x)
    up, down = (prior.denoise(x.detach() + h * step, 0.7).square().sum() for h in (1e-6, -1e-6))
    close((gradient * step).sum(), (up - down) / 2e-6, tolerance=1e-4)


def test_edm_networks_are_built_without_weights_or_chance(monkeypatch):
    for module in ("ncsnpp", "guided_diffusion", "drunet"):
        name = f"deepinv.models.{module}.load_state_dict_from_url"
        monkeypatch.setattr(name, lambda *a, **k: pytest.fail("downloads"))
    states = [edm_network("ncsn").state_dict(), edm_network("adm").state_dict()]
    before = torch.get_rng_state()
    for state in states:
        prior = edm.build(state, WHERE, {})
        assert not any(m.training for m in prior.network.network.modules())
        assert not any(p.requires_grad for p in prior.parameters())
    assert torch.equal(torch.get_rng_state(), before)


def test_edm_half_precision_files_become_float32():
    model, x = edm_network("ncsn"), item_noise(1, 2, 8, 8)
    state = {k: v.half() for k, v in model.state_dict().items()}
    prior = edm.build(state, WHERE, {})
    model.load_state_dict(state)
    with torch.no_grad():
        close(prior(x, 0.4), model(x, 0.4))


def without(state, part):
    return {k: v for k, v in state.items() if part not in k}


SPOILED = {
    "missing": (lambda s: without(s, "norm1.bias"), "missing keys: dec.16x16_block0.norm1.bias"),
    "unexpected": (lambda s: {**s, "enc.extra": torch.ones(1)}, "unexpected keys: enc.extra"),
    "shape": (lambda s: {**s, "map_layer1.bias": torch.ones(3)}, r"map_layer1\.bias: \(3,\)"),
    "not finite": (lambda s: {k: v * torch.nan for k, v in s.items()}, "NaN or infinite"),
    "no first layer": (lambda s: without(s, "16x16_conv"), "the weights fit no network"),
    "no encoder": (lambda s: {**without(s, "enc."), "enc.x": torch.ones(1)}, "fit no network"),
    "flat weights": (lambda s: {k: v.flatten() for k, v in s.items()}, "fit no network"),
    "no groups": (
        lambda s: {k: v[:20] if v.ndim else v for k, v in s.items()},
        "20 is not a multiple of",
    ),
}


@pytest.mark.parametrize("spoiled", SPOILED)
def test_edm_weights_that_do_not_fit(spoiled):
    spoil, message = SPOILED[spoiled]
    state = spoil(edm_network("ncsn").state_dict())
    assert edm.matches(state)
    with pytest.raises(errors.CheckpointError, match=f"{WHERE}: .*{message}"):
        edm.build(state, WHERE, {})


def test_edm_options_that_do_not_fit():
    state = edm_network("adm", in_channels=1, out_channels=1).state_dict()
    for options, message in (
        ({"prediction": "noise"}, "options: unknown name 'prediction'"),
        ({"schedule": 3}, "schedule: got 3, accepted: "),
        ({"is_complex": True}, "is_complex: got 'True and 1 channels'"),
        ({"data_range": (1.0, 0.0)}, "data_range"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            edm.build(state, WHERE, options)
    with pytest.raises(errors.ArgumentError, match=r"channels: got \(1, 2\)"):
        edm.build(edm_network("adm", in_channels=1).state_dict(), WHERE, {})


PUBLISHED = {
    "ffhq-64x64-uncond-ve": lambda: NCSNpp("ncsn", pretrained=None),
    "cifar10-32x32-uncond-vp": lambda: NCSNpp("ddpm", img_resolution=32, pretrained=None),
    "imagenet64-cond": lambda: ADMUNet(label_dim=1000, pretrained=None),
    "drunet": lambda: DRUNet(pretrained=None),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes_are_read_off_the_weights(name):
    with torch.device("meta"):
        state = PUBLISHED[name]().state_dict()
        module = deepinv_models if name == "drunet" else edm
        found = module.make_network(state).state_dict()
    assert {k: v.shape for k, v in found.items()} == {k: v.shape for k, v in state.items()}


# DRUNet


def drunet(channels=1, **settings):
    sizes = {"nc": (4, 6, 8, 10), "nb": 2, "pretrained": None}
    make = lambda **s: DRUNet(channels, channels, **s)  # noqa: E731
    return with_random_weights(make, **{**sizes, **settings})


@pytest.mark.parametrize("settings", [{}, {"nb": 3}, {"nc": (3, 5, 7, 9)}, {"dim": 3}])
@pytest.mark.parametrize("channels", [1, 3])
def test_drunet_is_deepinvs_denoiser(channels, settings):
    model = drunet(channels, **settings)
    prior = deepinv_models.build(model.state_dict(), WHERE, {})
    x = item_noise(2, channels, *[32] * settings.get("dim", 2))
    levels = torch.tensor([0.05, 0.4])
    with torch.no_grad():
        close(prior(x, levels), model(x, levels), tolerance=1e-4)
    assert (prior.channels, prior.data_range) == (channels, (0, 1))
    assert not any(p.requires_grad for p in prior.parameters())


def test_drunet_options():
    state = drunet().state_dict()
    prior = deepinv_models.build(state, WHERE, {"schedule": VE(2.0), "data_range": (-1.0, 1.0)})
    assert (prior.schedule.T, prior.data_range) == (2.0, (-1, 1))
    with pytest.raises(errors.ArgumentError, match="unknown name 'is_complex'"):
        deepinv_models.build(state, WHERE, {"is_complex": True})


@pytest.mark.parametrize(
    "settings",
    [
        {"upsample_mode": "upconv"},
        {"upsample_mode": "pixelshuffle"},
        {"downsample_mode": "avgpool"},
    ],
)
def test_drunets_of_another_kind_are_refused(settings):
    with pytest.raises(errors.CheckpointError, match=f"{WHERE}: .*(do not fit|fit no network)"):
        deepinv_models.build(drunet(**settings).state_dict(), WHERE, {})


# Files


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
@pytest.mark.parametrize("kind", [*NETWORKS, "drunet"])
def test_files_are_recognised(kind, suffix, tmp_path):
    model = drunet(2) if kind == "drunet" else edm_network(kind)
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pt" else save_file)(model.state_dict(), path)
    state, x = read_state(path), item_noise(1, 2, 32, 32)
    with torch.no_grad():
        close(identify(state, path).build(state, WHERE, {})(x, 0.2), model(x, 0.2), tolerance=1e-4)


def test_only_one_family_claims_a_network():
    for model, family in ((edm_network("adm"), edm.FAMILY), (drunet(), deepinv_models.FAMILY)):
        state = model.state_dict()
        assert [f for f in FAMILIES if f.matches(state)] == [family]
        assert identify(state, "w.pt") is family
