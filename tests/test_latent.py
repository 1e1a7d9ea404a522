"""Latent priors: the autoencoder is diffusers' own, the diffusion that of the latents."""

import itertools
import json
import shutil
from functools import partial

import diffusers
import pytest
import torch
from tests import helpers
from tests.helpers import item_noise
from torch import nn

from wellposed import errors
from wellposed.priors import VE, Diagonal, GaussianPrior, NetworkPrior, Tabulated
from wellposed.priors.adapters.autoencoder import DiffusersAutoencoder, Latent
from wellposed.priors.checkpoints.diffusers import DiffusersPrior, load_diffusers

pytestmark = pytest.mark.usefixtures("single_thread")

KINDS = ("kl", "vq")
LATENTS = 3
close = partial(helpers.close, tolerance=1e-5)


def autoencoder(kind, **settings):
    """Three levels: sides are divided by 4."""
    defaults = {
        "block_out_channels": (8, 8, 8),
        "down_block_types": ("DownEncoderBlock2D",) * 3,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
        "latent_channels": LATENTS,
        "norm_num_groups": 4,
    }
    make = {"kl": diffusers.AutoencoderKL, "vq": diffusers.VQModel}[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make(**{**defaults, **settings}).eval()
        if kind == "vq":  # a codebook as wide as the latents, of which several entries are used
            model.quantize.embedding.weight.data.normal_()
    return model


def tiny_unet(channels=LATENTS, **settings):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return diffusers.UNet2DModel(
            sample_size=4,
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(8, 8),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            **settings,
        )


def coded(kind, scaling=1.0, shift=0.0, **settings):
    return DiffusersAutoencoder(autoencoder(kind, **settings), scaling, shift)


def latent_prior(kind, scaling=0.25, shift=0.0, **settings):
    inner = DiffusersPrior(tiny_unet(), diffusers.DDPMScheduler(), (-1.0, 1.0))
    return Latent(inner, coded(kind, scaling, shift), **settings)


def encoded(model, image):
    """What diffusers encodes an image in [-1, 1] as, without chance."""
    if isinstance(model, diffusers.VQModel):
        return model.encode(image).latents
    return model.encode(image).latent_dist.mean


# Encoding and decoding


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_the_autoencoders_own(kind):
    model, x = autoencoder(kind), item_noise(2, 3, 16, 8)
    prior = latent_prior(kind, data_range=(-2.0, 6.0))
    with torch.no_grad():
        code = encoded(model, (x - 2) / 4)
        image = model.decode(code).sample
    torch.testing.assert_close(prior.to_units(x), code * 0.25, rtol=1e-6, atol=1e-6)
    found = prior.to_public(prior.to_units(x))
    torch.testing.assert_close(found, image * 4 + 2, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_are_shifted_then_scaled(kind):
    plain, prior = latent_prior(kind, 1.0), latent_prior(kind, 0.3, 0.7)
    x, u = item_noise(1, 3, 8, 8), item_noise(1, LATENTS, 2, 2)
    close(prior.to_units(x), 0.3 * (plain.to_units(x) - 0.7))
    close(prior.to_public(u), plain.to_public(u / 0.3 + 0.7))


def test_vector_quantised_latents_are_rounded_as_the_autoencoder_does():
    prior, u = latent_prior("vq"), item_noise(2, LATENTS, 4, 4)
    model = prior.autoencoder.model
    codebook = model.quantize.embedding.weight
    pixels = (u / 0.25).permute(0, 2, 3, 1)
    nearest = ((pixels[..., None, :] - codebook) ** 2).sum(-1).argmin(-1)
    assert len(nearest.unique()) > 5
    rounded = codebook[nearest].permute(0, 3, 1, 2)
    with torch.no_grad():
        image = model.decode(rounded, force_not_quantize=True).sample
    close(prior.to_public(u), (image + 1) / 2, tolerance=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_latents_of_an_item_are_the_same_alone(kind):
    prior, x = latent_prior(kind), item_noise(3, 3, 8, 8)
    u = prior.to_units(x)
    close(prior.to_units(x[1:2]), u[1:2])
    close(prior.to_public(u[1:2]), prior.to_public(u)[1:2])


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_drawn_and_nothing_trains(kind):
    prior, x = latent_prior(kind), item_noise(1, 3, 8, 8)
    before = torch.get_rng_state()
    first = prior.to_public(prior.to_units(x))
    assert torch.equal(prior.to_public(prior.to_units(x)), first)
    assert torch.equal(torch.get_rng_state(), before)
    assert not prior.autoencoder.model.training
    assert not any(p.requires_grad for p in prior.parameters())


def test_the_gradient_goes_through_the_decoder():
    """Against central differences along a direction, in float64."""
    prior = latent_prior("kl").double()
    u, direction = (item_noise(1, LATENTS, 4, 4, seed=s, dtype=torch.float64) for s in (1, 2))
    (gradient,) = torch.autograd.grad(prior.to_public(u.requires_grad_()).square().sum(), u)
    with torch.no_grad():
        up, down = (prior.to_public(u + h * direction).square().sum() for h in (1e-5, -1e-5))
    slope = (up - down) / 2e-5
    close((gradient * direction).sum(), slope, tolerance=1e-6)
    assert float(slope.abs()) > 1e-3


def test_the_gradient_goes_straight_through_the_codebook():
    """As VQ-VAEs are trained: the decoder's gradient at the rounded latents."""
    prior = latent_prior("vq", scaling=1.0)
    u = item_noise(1, LATENTS, 4, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(prior.to_public(u).square().sum(), u)
    rounded = prior.autoencoder.model.quantize(u.detach())[0].requires_grad_()
    image = (prior.autoencoder.model.decode(rounded, force_not_quantize=True).sample + 1) / 2
    (expected,) = torch.autograd.grad(image.square().sum(), rounded)
    close(gradient, expected, tolerance=1e-5)
    assert float(gradient.abs().max()) > 0


@pytest.mark.parametrize("kind", KINDS)
def test_double_images_stay_double(kind):
    prior, x = latent_prior(kind), item_noise(1, 3, 8, 8)
    u = item_noise(1, 3, 4, 4)
    for precise, single in (
        (prior.to_units(x.double()), prior.to_units(x)),
        (prior.to_public(u.double()), prior.to_public(u)),
    ):
        assert precise.dtype == torch.float64
        close(precise.float(), single)


# The diffusion


def test_denoising_is_that_of_the_latents():
    mean = item_noise(1, LATENTS, 2, 2, seed=1)
    variance = 0.1 + item_noise(LATENTS, 2, 2, seed=2) ** 2
    exact = GaussianPrior(mean.double(), Diagonal(variance.double()), VE())
    prior = Latent(exact, coded("kl"))
    u = item_noise(2, LATENTS, 2, 2, dtype=torch.float64)
    assert torch.equal(prior.denoise(u, 0.7), exact.denoise(u, 0.7))
    assert torch.equal(prior.score(u, 0.7), exact.score(u, 0.7))
    assert prior.schedule is exact.schedule


def test_conditions_reach_the_latent_prior():
    inner = DiffusersPrior(tiny_unet(num_class_embeds=4), diffusers.DDPMScheduler())
    prior, u = Latent(inner, coded("kl", 2.0, 0.5), (0.0, 3.0)), item_noise(2, LATENTS, 4, 4)
    given, x = prior.conditioned_on(1), item_noise(2, 3, 8, 8)
    close(given.denoise(u, 500), inner.denoise(u, 500, 1))
    close(prior.denoise(u, 500, 1), inner.denoise(u, 500, 1))
    assert not torch.allclose(given.denoise(u, 500), prior.denoise(u, 500, 2))
    close(given.to_units(x), prior.to_units(x))
    close(given.to_public(u), prior.to_public(u))


# Shapes and errors


@pytest.mark.parametrize("kind", KINDS)
def test_shapes(kind):
    prior, x = latent_prior(kind), torch.zeros(2, 3, 16, 8)
    shape = prior.unit_shape(x.shape)
    assert shape == prior.to_units(x).shape == (2, LATENTS, 4, 2)
    assert prior.to_public(torch.zeros(shape)).shape == x.shape
    assert (prior.channels, prior.is_affine) == (3, False)
    prior.check_image(x)
    for wrong in ((2, 3, 16, 10), (2, 3, 14, 8), (2, 3, 16)):
        with pytest.raises(errors.ShapeError, match=r"multiples of 4, .* shape \(2, 3, 1"):
            prior.unit_shape(torch.Size(wrong))


def test_another_width_of_the_codebook():
    model = coded("vq", vq_embed_dim=5)
    prior = Latent(
        NetworkPrior(nn.Identity(), Tabulated.linear(), channels=5, data_range=(-1.0, 1.0)), model
    )
    x = item_noise(1, 3, 8, 8)
    assert prior.unit_shape(x.shape) == prior.to_units(x).shape


def test_images_that_do_not_suit():
    prior = latent_prior("kl")
    for image, message in (
        (torch.zeros(1, 1, 8, 8), "made for 3 channels"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.complex64), "made for real images"),
        (torch.zeros(1, 3, 10, 8), "multiples of 4"),
        (torch.zeros(1, 3, 12, 8), "multiples of 2, .* are 3 x 2"),  # of the latents' network
    ):
        with pytest.raises(errors.ShapeError, match=message):
            prior.check_image(image)


def test_it_is_no_denoiser_of_images():
    with pytest.raises(errors.ArgumentError, match="the units of an autoencoder"):
        latent_prior("kl")(torch.zeros(1, 3, 8, 8), 0.1)


def test_parts_that_do_not_fit():
    linear = Tabulated.linear()
    fitting, model = (
        NetworkPrior(nn.Identity(), linear, channels=LATENTS, data_range=(-1.0, 1.0)),
        coded("kl"),
    )
    wide = NetworkPrior(nn.Identity(), linear, channels=4, data_range=(-1.0, 1.0))
    paired = NetworkPrior(nn.Identity(), linear, channels=LATENTS, is_complex=True)
    for arguments, message in (
        ((fitting, nn.Identity()), "autoencoder: got 'Identity', accepted: an Autoencoder"),
        ((wide, model), "of 4 channels', accepted: a real prior with the autoencoder's 3 latent"),
        ((paired, model), "accepted: a real prior"),
        ((Latent(fitting, model), model), "prior: got 'Latent"),
        ((fitting, model, (1.0, 0.0)), "data_range"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            Latent(*arguments)
    with pytest.raises(
        errors.ArgumentError, match=r"scaling_factor: got 0\.0, accepted: a positive number"
    ):
        coded("kl", 0.0)


# Folders of diffusers


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Pipelines as diffusers saves them; one with AutoencoderKL is put together by hand."""
    root = tmp_path_factory.mktemp("latent")
    unet, scheduler = tiny_unet(), diffusers.DDIMScheduler(clip_sample=False)
    vq, kl = autoencoder("vq"), autoencoder("kl", scaling_factor=0.3, shift_factor=0.2)
    diffusers.LDMPipeline(vq, unet, scheduler).save_pretrained(root / "vq")
    for part, name in ((kl, "vae"), (unet, "unet"), (scheduler, "scheduler")):
        part.save_pretrained(root / "kl" / name)
    return root


def test_a_saved_pipeline_decodes_as_itself(folders):
    """Its last two lines: latents over the scaling factor, decoded, to [0, 1]."""
    prior, u = load_diffusers(folders / "vq"), item_noise(2, LATENTS, 4, 4)
    assert prior.autoencoder.scaling_factor == 0.18215
    model = autoencoder("vq")
    with torch.no_grad():
        close(prior.to_public(u), model.decode(u / 0.18215).sample / 2 + 0.5)
        out = tiny_unet()(u, 299).sample
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(1000)
    close(prior.denoise(u, 300), scheduler.step(out, 299, u).pred_original_sample)
    assert (prior.data_range, prior.channels) == ((0, 1), 3)


def test_the_pipelines_own_sample_is_a_public_image(folders):
    """The whole of LDMPipeline, its sampler replaced by DDIM on the prior."""
    pipeline = diffusers.LDMPipeline.from_pretrained(folders / "vq")
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        generator=torch.Generator().manual_seed(0), num_inference_steps=5, output_type="np"
    ).images
    prior = load_diffusers(folders / "vq")
    u = torch.randn(1, LATENTS, 4, 4, generator=torch.Generator().manual_seed(0))
    for t, s in itertools.pairwise([801, 601, 401, 201, 1, 0]):
        alpha, sigma = (float(v) for v in prior.schedule(t))
        x0 = prior.denoise(u, t)
        eps = (u - alpha * x0) / sigma
        alpha, sigma = (float(v) for v in prior.schedule(s))
        u = alpha * x0 + sigma * eps
    ours = prior.to_public(u).clamp(0, 1).permute(0, 2, 3, 1)
    close(ours, torch.from_numpy(theirs), tolerance=1e-4)


def test_a_kl_autoencoder_brings_its_factors(folders):
    prior, x = load_diffusers(str(folders / "kl"), data_range=(-1.0, 1.0)), item_noise(1, 3, 8, 8)
    assert (
        prior.autoencoder.scaling_factor,
        prior.autoencoder.shift_factor,
        prior.data_range,
    ) == (0.3, 0.2, (-1, 1))
    with torch.no_grad():
        close(prior.to_units(x), (encoded(autoencoder("kl"), x) - 0.2) * 0.3)


def replace_json(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


DAMAGE = {
    "no weights": (
        lambda p: (p / "vqvae/diffusion_pytorch_model.safetensors").unlink(),
        "cannot load a VQModel",
    ),
    "no autoencoder": (lambda p: shutil.rmtree(p / "vqvae"), r"vqvae' has no config\.json"),
    "another autoencoder": (
        lambda p: replace_json(p / "vqvae/config.json", _class_name="AutoencoderTiny"),
        "contains AutoencoderTiny, accepted: AutoencoderKL or VQModel",
    ),
    "another width": (
        lambda p: replace_json(p / "vqvae/config.json", vq_embed_dim=4),
        "cannot load a VQModel",
    ),
    "text": (
        lambda p: replace_json(p / "model_index.json", tokenizer=[], text_encoder=[]),
        "also has text_encoder, tokenizer, accepted: a pipeline without text or image",
    ),
    "a mean per channel": (
        lambda p: replace_json(p / "vqvae/config.json", latents_mean=[0.0, 1.0, 2.0]),
        "latents_mean or latents_std",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_pipelines_are_refused(damage, folders, tmp_path):
    spoil, message = DAMAGE[damage]
    folder = shutil.copytree(folders / "vq", tmp_path / "pipeline")
    spoil(folder)
    with pytest.raises(errors.CheckpointError, match=f"(?s)path: .*{message}"):
        load_diffusers(folder)


def test_pipelines_for_other_latents_or_images_are_refused(folders, tmp_path):
    folder = shutil.copytree(folders / "vq", tmp_path / "pipeline")
    shutil.rmtree(folder / "unet")
    tiny_unet(channels=4).save_pretrained(folder / "unet")
    with pytest.raises(errors.CheckpointError, match="autoencoder's 3 latent channels"):
        load_diffusers(folder)
    with pytest.raises(errors.CheckpointError, match="is_complex: got True, accepted: False"):
        load_diffusers(folders / "vq", is_complex=True)
    for kind in ("vq", "kl"):
        with pytest.raises(errors.CheckpointError, match=r"also has v.*a pixel diffusion"):
            DiffusersPrior.from_pretrained(folders / kind)


def test_a_hub_id_fetches_the_autoencoder_too(folders, monkeypatch):
    asked = []

    def snapshot_download(repository, allow_patterns):
        asked.append(allow_patterns)
        return str(folders / "vq")

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    u = item_noise(1, LATENTS, 4, 4)
    close(load_diffusers("o/n").to_public(u), load_diffusers(folders / "vq").to_public(u))
    configs, weights = asked
    assert {"vqvae/config.json", "vae/config.json"} <= set(configs)
    stem = "diffusion_pytorch_model.safetensors"
    assert {f"vqvae/{stem}", f"vae/{stem}", f"unet/{stem}"} <= set(weights)
