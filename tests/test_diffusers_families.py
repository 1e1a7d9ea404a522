"""Diffusers models other than DDPM's: the numbers are those of diffusers' own schedulers."""

import json
import math
from functools import partial

import diffusers
import pytest
import torch
from diffusers.schedulers.deprecated.scheduling_sde_vp import ScoreSdeVpScheduler
from scipy.integrate import quad
from tests import helpers
from tests.helpers import item_noise

from wellposed import errors
from wellposed.priors.checkpoints.diffusers import DiffusersPrior, load_diffusers
from wellposed.priors.schedule import VE

pytestmark = pytest.mark.usefixtures("single_thread")

F64 = torch.float64
EDM_SCHEDULERS = (diffusers.EDMEulerScheduler, diffusers.EDMDPMSolverMultistepScheduler)
close = partial(helpers.close, tolerance=1e-5)


def tiny_unet(kind="", **settings):
    defaults = {
        "sample_size": 8,
        "in_channels": 3,
        "out_channels": 3,
        "block_out_channels": (16, 16),
        "layers_per_block": 1,
        "down_block_types": (f"{kind}DownBlock2D", f"Attn{kind}DownBlock2D"),
        "up_block_types": (f"Attn{kind}UpBlock2D", f"{kind}UpBlock2D"),
        "norm_num_groups": 4,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return diffusers.UNet2DModel(**{**defaults, **settings}).eval()


def ncsnpp():
    """As google/ncsnpp-*; its attention takes multiples of 32 channels."""
    settings = {"time_embedding_type": "fourier", "attention_head_dim": None}
    return tiny_unet("Skip", block_out_channels=(32, 32), **settings)


def saved(folder, unet, scheduler):
    diffusers.DDPMPipeline(unet, scheduler).save_pretrained(folder)
    return load_diffusers(folder)


# Song et al.'s SDEs


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 1.0])
def test_score_sde_ve_takes_their_predictor_step(place, tmp_path):
    """Their step is ``x + (sigma^2 - sigma_next^2) score``, to the clean image at the last."""
    scheduler = diffusers.ScoreSdeVeScheduler(21, sigma_min=0.02, sigma_max=30.0)
    unet = ncsnpp()
    prior = saved(tmp_path, unet, scheduler)
    index = round(20 * place)
    sigmas = [0.0, *scheduler.discrete_sigmas.tolist()]
    sigma, following = sigmas[index + 1], sigmas[index]
    x_t = item_noise(2, 3, 8, 8) * sigma
    with torch.no_grad():
        out = unet(x_t, torch.full((2,), sigma)).sample
    where = (index + 0.25) / 20  # safely within the index that they round down to
    theirs = scheduler.step_pred(out, where, x_t, generator=torch.Generator()).prev_sample_mean
    gap = sigma**2 - following**2
    close(x_t + gap * prior.score(x_t, sigma), theirs, tolerance=1e-4)
    if place == 0:
        close(prior.denoise(x_t, sigma), theirs, tolerance=1e-4)
    assert float((theirs - x_t).abs().max()) > 1e-3 * sigma  # the network has its say


def test_score_sde_ve_is_the_configs_diffusion_on_unit_images(tmp_path):
    scheduler = diffusers.ScoreSdeVeScheduler(sigma_min=0.02, sigma_max=30.0)
    prior = saved(tmp_path, ncsnpp(), scheduler)
    assert (prior.schedule.T, prior.schedule.min_ratio) == (30.0, 0.02)
    assert prior.data_range == (-1, 1)  # the network's own units, which are public values
    x = item_noise(2, 3, 8, 8)
    close(prior.to_units(x), x)
    close(prior(x, 0.5), prior.denoise(x, 0.5))
    close(prior.denoise(x, 0.0), x)  # the network's logarithm of 0 must not show


def test_score_sde_vp_takes_their_step(tmp_path):
    scheduler, unet = ScoreSdeVpScheduler(beta_min=0.2, beta_max=15.0), tiny_unet()
    prior = saved(tmp_path, unet, scheduler)
    x_t = item_noise(2, 3, 8, 8)
    scheduler.set_timesteps(1000)
    for t in (1, 300, 1000):
        u, beta = t / 1000, 0.2 + t / 1000 * 14.8
        with torch.no_grad():
            out = unet(x_t, torch.full((2,), 999 * u)).sample
        _, theirs = scheduler.step_pred(out, x_t, torch.full((2,), u))
        reverse = -beta / 2 * x_t - beta * prior.score(x_t, t)
        close(x_t - reverse / 1000, theirs)


def test_score_sde_vp_is_the_integral_of_its_betas(tmp_path):
    prior = saved(tmp_path, tiny_unet(), ScoreSdeVpScheduler())
    for t in (0, 1, 250, 777, 1000):
        area, _ = quad(lambda u: 0.1 + u * 19.9, 0, t / 1000)
        alpha, sigma = prior.schedule(t)
        close(alpha, torch.tensor(math.exp(-area / 2), dtype=F64), tolerance=1e-12)
        close(sigma, torch.tensor(math.sqrt(-math.expm1(-area)), dtype=F64), tolerance=1e-12)
    assert (prior.schedule.T, prior.schedule.terminal_std) == (1000, 1.0)
    assert prior.data_range == (0, 1)


# Karras et al.'s preconditioning


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", EDM_SCHEDULERS)
def test_edm_is_preconditioned_as_they_do(family, kind, tmp_path):
    scheduler = family(sigma_min=0.01, sigma_max=50.0, sigma_data=0.7, prediction_type=kind)
    unet = tiny_unet()
    prior = saved(tmp_path, unet, scheduler)
    assert (prior.schedule.T, prior.schedule.min_ratio) == (50.0, 0.01)
    for sigma in (0.01, 0.5, 50.0):
        x_t = item_noise(2, 3, 8, 8) * math.hypot(sigma, 0.7)
        seen = scheduler.precondition_inputs(x_t, sigma)
        with torch.no_grad():
            out = unet(seen, scheduler.precondition_noise(sigma)).sample
        theirs = scheduler.precondition_outputs(x_t, out, sigma)
        close(prior.denoise(x_t, sigma), theirs, tolerance=1e-4)
    mixed = prior.denoise(x_t, torch.tensor([0.5, 50.0]))
    close(mixed[:1], prior.denoise(x_t[:1], 0.5))
    close(mixed[1:], prior.denoise(x_t[1:], 50.0))


def test_edm_takes_their_euler_step(tmp_path):
    """A whole sampler's loop: inputs scaled, stepped, by diffusers and by the prior's score."""
    scheduler, unet = diffusers.EDMEulerScheduler(), tiny_unet()
    prior = saved(tmp_path, unet, scheduler)
    scheduler.set_timesteps(5)
    theirs = ours = 80 * item_noise(1, 3, 8, 8)
    for i, label in enumerate(scheduler.timesteps):
        with torch.no_grad():
            out = unet(scheduler.scale_model_input(theirs, label), label).sample
        theirs = scheduler.step(out, label, theirs).prev_sample
        sigma, following = scheduler.sigmas[i : i + 2].tolist()
        ours = ours + (following - sigma) * -sigma * prior.score(ours, sigma)
    close(ours, theirs, tolerance=1e-4)


# Classes


def test_classes_are_the_networks(tmp_path):
    scheduler, unet = diffusers.DDIMScheduler(clip_sample=False), tiny_unet(num_class_embeds=5)
    scheduler.set_timesteps(1000)
    prior, x_t = saved(tmp_path, unet, scheduler), item_noise(2, 3, 8, 8)
    seen = []
    for classes in (torch.tensor([3, 0]), 2):
        label = torch.as_tensor(classes).expand(2)
        with torch.no_grad():
            out = unet(x_t, 499, class_labels=label).sample
        theirs = scheduler.step(out, 499, x_t).pred_original_sample
        close(prior.denoise(x_t, 500, classes), theirs)
        seen.append(theirs)
    assert not torch.allclose(seen[0], seen[1])
    close(prior.conditioned_on(2).denoise(x_t, 500), seen[1])
    for wrong in (None, 5):
        with pytest.raises(errors.ArgumentError, match=r"condition: .*classes 0 to 4"):
            prior.denoise(x_t, 500, wrong)


def test_classes_and_preconditioning_together(tmp_path):
    scheduler, unet = diffusers.EDMEulerScheduler(), tiny_unet(num_class_embeds=5)
    prior, x_t = saved(tmp_path, unet, scheduler), item_noise(2, 3, 8, 8)
    label = scheduler.precondition_noise(0.7)
    with torch.no_grad():
        out = unet(scheduler.precondition_inputs(x_t, 0.7), label, torch.tensor([4, 4])).sample
    close(prior.conditioned_on(4).denoise(x_t, 0.7), scheduler.precondition_outputs(x_t, out, 0.7))


# What does not fit


def test_networks_and_schedulers_that_are_refused():
    ddpm, edm = diffusers.DDPMScheduler(), diffusers.EDMEulerScheduler()
    continuous = diffusers.EulerDiscreteScheduler(
        timestep_type="continuous", prediction_type="v_prediction"
    )
    learned = {"time_embedding_type": "learned", "num_train_timesteps": 10}
    for unet, scheduler, message in (
        (tiny_unet(), diffusers.CMStochasticIterativeScheduler(), "alphas_cumprod"),
        (tiny_unet(), continuous, "timestep_type: got 'continuous'"),
        (tiny_unet(), {**edm.config, "_class_name": "EDM", "prediction_type": "x"}, "epsilon, v"),
        (tiny_unet(), {"_class_name": "EDM", "sigma_min": 90.0}, "sigma_min: got 90"),
        (tiny_unet(class_embed_type="timestep"), ddpm, "class_embed_type 'timestep'"),
        (tiny_unet(**learned), ddpm, "learned embeddings of time"),
        (tiny_unet(in_channels=6), ddpm, "unet: got '6 channels in and 3 out'"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            DiffusersPrior(unet, scheduler)


def test_images_that_the_network_cannot_halve_are_refused():
    prior = DiffusersPrior(tiny_unet(), diffusers.DDPMScheduler())
    prior.check_image(torch.zeros(1, 3, 10, 6))
    prior.denoise(torch.zeros(1, 3, 10, 6), 5)
    with pytest.raises(errors.ShapeError, match=r"multiples of 2, .* images are 10 x 7"):
        prior.check_image(torch.zeros(1, 3, 10, 7))


def test_the_callers_range_wins(tmp_path):
    saved(tmp_path, ncsnpp(), diffusers.ScoreSdeVeScheduler())
    for load in (load_diffusers, DiffusersPrior.from_pretrained):
        assert load(tmp_path, data_range=(0.0, 255.0)).data_range == (0, 255)
        with pytest.raises(errors.CheckpointError, match="is_complex: got 'True and 3 channels'"):
            load(tmp_path, is_complex=True)


def test_pipelines_that_take_text_are_refused(tmp_path):
    saved(tmp_path, tiny_unet(), diffusers.DDPMScheduler())
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["text_encoder"] = ["transformers", "CLIPTextModel"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for load in (load_diffusers, DiffusersPrior.from_pretrained):
        with pytest.raises(
            errors.CheckpointError, match=r"also has text_encoder, accepted: .*without t"
        ):
            load(tmp_path)


@pytest.mark.parametrize("value", [None, "half", [0.5]])
def test_garbled_configs_are_blamed_on_the_folder(value, tmp_path):
    saved(tmp_path, tiny_unet(), diffusers.EDMEulerScheduler())
    file = tmp_path / "scheduler/scheduler_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "sigma_data": value}))
    with pytest.raises(errors.CheckpointError, match=r"path: .* is not a usable prior"):
        load_diffusers(tmp_path)


def test_defaults_of_configs_are_those_of_diffusers():
    """Old configs name only what was not the default."""
    for scheduler in (diffusers.ScoreSdeVeScheduler(), *(f() for f in EDM_SCHEDULERS)):
        whole = DiffusersPrior(tiny_unet(), scheduler)
        empty = DiffusersPrior(tiny_unet(), {"_class_name": type(scheduler).__name__})
        for a, b in ((whole, empty), (empty, whole)):
            assert isinstance(a.schedule, VE)
            assert (a.schedule.T, a.schedule.min_ratio) == (b.schedule.T, b.schedule.min_ratio)
            assert (a.sigma_data, a.prediction) == (b.sigma_data, b.prediction)
