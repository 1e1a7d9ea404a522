"""Text-conditioned pipelines as priors: the numbers are those of diffusers' own pipelines."""

import dataclasses
import json
import shutil
from functools import partial

import diffusers
import pytest
import torch
from PIL import Image
from tests import helpers
from tests.helpers import item_noise
from tests.tiny_pipelines import SCALED, made
from typer.testing import CliRunner

from wellposed import errors, operators, priors, solvers
from wellposed.cli.app import app
from wellposed.noise import ItemNoise
from wellposed.priors import Flow
from wellposed.priors.checkpoints.diffusers_schedulers import diffusion_of
from wellposed.priors.sampling import reverse
from wellposed.priors.text.networks import packed, unpacked
from wellposed.priors.text.offloading import hook

pytestmark = pytest.mark.usefixtures("single_thread")

PROMPT, NEGATIVE = "a photo of a cat", "red house"
WEIGHTS = {"sd": 3.0, "sdxl": 2.5, "sd3": 4.0, "flux": 2.0, "lcm": 5.0}
TOLD = ("flux", "lcm")
"""Networks that are told their guidance."""

close = partial(helpers.close, tolerance=2e-5)


@pytest.fixture(scope="module")
def pipes(tmp_path_factory):
    """Return a pipeline and its folder, made when first asked for."""
    found = {}

    def of(name):
        if name not in found:
            pipe, folder = made(name), tmp_path_factory.mktemp("pipes") / name
            pipe.save_pretrained(folder)
            found[name] = pipe, folder
        return found[name]

    return of


@pytest.fixture(scope="module")
def loaded(pipes):
    """Return a pipeline and its prior, with prompts and guidance."""
    found = {}

    def of(name):
        if name not in found:
            pipe, folder = pipes(name)
            negative = {} if name in TOLD else {"negative_prompt": NEGATIVE}
            prior = priors.load(folder, prompt=PROMPT, guidance=WEIGHTS[name], **negative)
            found[name] = pipe, prior
        return found[name]

    return of


def run(prior, noise, steps):
    """Run DDIM at the times of the pipeline's own sampler."""
    times = prior.schedule.times(steps, prior.found["spacing"]).tolist()
    nothing = ItemNoise(0, [(0,)])
    with torch.no_grad():
        return reverse(prior.denoise, noise, prior.schedule, times, 0.0, nothing)


def packs(name, x):
    return packed(x) if name == "flux" else x


# Exactness


@pytest.mark.parametrize("name", ["sd", "sdxl", "sd3", "flux"])
def test_a_whole_run_is_the_pipelines(name, loaded):
    pipe, prior = loaded(name)
    noise, steps = item_noise(1, 4, 8, 8), 3
    size = {"height": 16, "width": 16, "guidance_scale": WEIGHTS[name]}
    negative = {} if name in TOLD else {"negative_prompt": NEGATIVE}
    if name == "flux":  # its times depend on the size
        prior = priors.load(prior.text.folder, prompt=PROMPT, guidance=2.0, image_size=(16, 16))
    theirs = pipe(
        PROMPT,
        latents=packs(name, noise),
        num_inference_steps=steps,
        output_type="latent",
        **size,
        **negative,
    ).images
    close(packs(name, run(prior, noise, steps)), theirs, tolerance=2e-4)


def test_a_run_of_the_consistency_model_visits_its_times(loaded):
    """One step, as later ones draw noise; and the times of four."""
    pipe, prior = loaded("lcm")
    noise, scheduler = item_noise(1, 4, 8, 8), diffusers.LCMScheduler(**SCALED)
    theirs = pipe(
        PROMPT, latents=noise, num_inference_steps=1, guidance_scale=5.0, output_type="latent"
    ).images
    close(run(prior, noise, 1), theirs, tolerance=2e-4)
    for steps in (1, 4, 7):
        scheduler.set_timesteps(steps)
        ours = prior.schedule.times(steps, "trailing")[:-1] - 1
        assert ours.tolist() == scheduler.timesteps.tolist()
    with pytest.raises(errors.ArgumentError, match="at most 50, the times it knows"):
        prior.schedule.times(51, "trailing")


def network_output(name, pipe, x, label, condition):
    """Call diffusers' network directly, as its pipeline does."""
    n, told = len(x), {"encoder_hidden_states": condition.embeddings, "return_dict": False}
    told["encoder_hidden_states"] = told["encoder_hidden_states"].expand(n, -1, -1)
    if name in ("sd", "lcm", "sdxl"):
        if name == "sdxl":
            sizes = torch.tensor([[16.0, 16, 0, 0, 16, 16]]).expand(n, 6)
            pooled = condition.pooled.expand(n, -1)
            told["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": sizes}
        if name == "lcm":
            told["timestep_cond"] = pipe.get_guidance_scale_embedding(
                torch.tensor(WEIGHTS[name] - 1).repeat(n), embedding_dim=16
            )
        return pipe.unet(x, label, **told)[0]
    told["pooled_projections"] = condition.pooled.expand(n, -1)
    times = torch.full((n,), float(label))
    if name == "sd3":
        return pipe.transformer(x, timestep=times, **told)[0]
    ids = pipe._prepare_latent_image_ids(n, x.shape[2] // 2, x.shape[3] // 2, "cpu", x.dtype)
    tokens = pipe.transformer(
        packed(x),
        timestep=times / 1000,
        guidance=torch.full((n,), WEIGHTS[name]),
        img_ids=ids,
        txt_ids=torch.zeros(condition.embeddings.shape[1], 3),
        **told,
    )[0]
    return unpacked(tokens, x.shape[2] // 2, x.shape[3] // 2)


def encoded(name, pipe, prompt):
    """Return embeddings and pooled embeddings by the pipeline's own encoder."""
    if name in ("sd", "lcm"):
        return pipe.encode_prompt(prompt, "cpu", 1, False)[0], None
    if name == "flux":
        return pipe.encode_prompt(prompt, None, device="cpu")[:2]
    more = (None,) if name == "sdxl" else (None, None)
    told = pipe.encode_prompt(prompt, *more, device="cpu", do_classifier_free_guidance=False)
    return told[0], told[2]


@pytest.mark.parametrize("name", WEIGHTS)
def test_conditions_and_estimates_are_the_pipelines(name, loaded):
    """Also of images that are not square, and of one time for each item."""
    pipe, prior = loaded(name)
    with torch.no_grad():
        conditions = [prior.condition] if name in TOLD else [prior.condition, prior.null]
        for condition, prompt in zip(conditions, (PROMPT, NEGATIVE), strict=False):
            embeddings, pooled = encoded(name, pipe, prompt)
            close(condition.embeddings, embeddings)
            assert (pooled is None) == (condition.pooled is None)
            if pooled is not None:
                close(condition.pooled, pooled)
        x = item_noise(2, 4, 8, 4)
        discrete = prior.schedule.T > 1
        for t in (2, 500, 999) if discrete else (0.002, 0.5, 0.999):
            label = t - 1 if discrete else 1000 * t
            outputs = [network_output(name, pipe, x, label, c) for c in conditions]
            weight = 1 if name in TOLD else WEIGHTS[name]
            guided = outputs[-1] + weight * (outputs[0] - outputs[-1])
            alpha, sigma = (float(v) for v in prior.schedule(t))
            theirs = (x - sigma * guided) / alpha if discrete else x - sigma * guided
            close(prior.denoise(x, t), theirs, tolerance=1e-4)
        each = prior.denoise(x, torch.tensor([0.25, 0.5]) * prior.schedule.T)
        close(each[1:], prior.denoise(x[1:], 0.5 * prior.schedule.T), tolerance=1e-4)


def test_velocities_are_read_from_the_scheduler(tmp_path):
    """As Stable Diffusion 2.1, with a terminal signal-to-noise ratio of zero too."""
    scheduler = diffusers.DDIMScheduler(
        **SCALED,
        clip_sample=False,
        steps_offset=1,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
    )
    pipe, noise = made("sd", scheduler=scheduler), item_noise(1, 4, 8, 8)
    pipe.save_pretrained(tmp_path)
    prior = priors.load(tmp_path, prompt=PROMPT, guidance=2.0)
    assert prior.diffusion.prediction == "velocity"
    theirs = pipe(
        PROMPT, latents=noise, num_inference_steps=4, guidance_scale=2.0, output_type="latent"
    ).images
    close(run(prior, noise, 4), theirs, tolerance=2e-4)


def test_turbo_takes_one_step_from_the_noisiest_time(tmp_path):
    scheduler = diffusers.EulerDiscreteScheduler(**SCALED, timestep_spacing="trailing")
    pipe, noise = made("sdxl", scheduler=scheduler), item_noise(1, 4, 8, 8)
    pipe.save_pretrained(tmp_path)
    prior = priors.load(tmp_path, prompt=PROMPT)
    assert prior.schedule.times(1, prior.found["spacing"]).tolist() == [1000, 0]
    theirs = pipe(
        PROMPT, latents=noise, num_inference_steps=1, guidance_scale=0.0, output_type="latent"
    ).images
    sigma = float(prior.schedule(1000)[1])  # they start from the noise alone, without an image
    close(run(prior, sigma * noise, 1), theirs, tolerance=2e-4)


@pytest.mark.parametrize("side", [16, 32])
def test_times_of_flux_follow_the_size_of_the_image(side, pipes):
    """Their shift is that of the pipeline for as many tokens."""
    pipe, folder = pipes("flux")
    prior = priors.load(folder, prompt=PROMPT, image_size=(side, 2 * side))
    tokens = side // 4 * (2 * side // 4)
    mu = diffusers.pipelines.flux.pipeline_flux.calculate_shift(tokens, 16, 128, 0.5, 1.15)
    pipe.scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25], mu=mu)
    close(prior.schedule.times(4, "trailing").float(), pipe.scheduler.sigmas)


def test_times_of_a_fixed_shift_are_the_schedulers():
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    schedule = diffusion_of(scheduler).schedule
    for steps in (1, 4, 28):
        scheduler.set_timesteps(steps)
        close(schedule.times(steps, "linspace").float(), scheduler.sigmas)
    assert isinstance(diffusion_of(diffusers.FlowMatchEulerDiscreteScheduler()).schedule, Flow)


# Conditions


def test_no_prompt_is_an_empty_one(pipes):
    pipe, folder = pipes("sd")
    prior = priors.load(folder)
    close(prior.condition.embeddings, encoded("sd", pipe, "")[0])
    assert (prior.prior.guidance, prior.data_range, prior.channels) == (1, (0, 1), 3)


def test_sdxl_without_a_negative_prompt_is_guided_from_zeros(pipes):
    _, folder = pipes("sdxl")
    prior = priors.load(folder, prompt=PROMPT)
    assert not prior.null.embeddings.any()
    assert not prior.null.pooled.any()
    assert prior.null.ids.tolist() == prior.condition.ids.tolist() == [[16, 16, 0, 0, 16, 16]]
    assert prior.encode("")[0].embeddings.any()


def test_two_prompts_share_a_network(loaded):
    _, source = loaded("sd")
    target = source.with_prompt("a small dog")
    assert target.diffusion is source.diffusion
    assert target.autoencoder is source.autoencoder
    assert target.null is source.null
    assert target.prior.guidance == source.prior.guidance == 3
    x = item_noise(1, 4, 8, 8)
    found = target.denoise(x, 500)
    assert not torch.allclose(found, source.denoise(x, 500))
    close(source.denoise(x, 500, target.condition), found)
    close(source.conditioned_on(target.condition).denoise(x, 500), found)
    close(target.conditioned(source.condition).denoise(x, 500), source.denoise(x, 500))
    unguided = source.conditioned(source.condition, guidance=1.0)
    swapped = source.conditioned(source.null, source.condition, 0.0)
    close(unguided.denoise(x, 500), swapped.denoise(x, 500))
    both = source.with_prompt(["a cat", "a dog"], NEGATIVE)
    assert len(both.condition) == 2
    two = item_noise(2, 4, 8, 8)
    found = both.denoise(two, 500)
    each = both.conditioned(both.condition.each(lambda part: part[1:]))
    close(found[1:], each.denoise(two[1:], 500))


def test_guidance_is_one_evaluation_of_both_conditions(loaded, monkeypatch):
    _, prior = loaded("sd")
    seen, network = [], prior.diffusion.network
    call = network.forward
    monkeypatch.setattr(network, "forward", lambda x, *told: seen.append(len(x)) or call(x, *told))
    x = item_noise(2, 4, 8, 8)
    guided = prior.denoise(x, 400)
    assert seen == [4]
    alone = [prior.diffusion.denoise(x, 400, c) for c in (prior.null, prior.condition)]
    close(guided, alone[0] + 3 * (alone[1] - alone[0]))
    longer = dataclasses.replace(prior.null, embeddings=prior.null.embeddings[:, :40])
    prior.conditioned(prior.condition, longer).denoise(x, 400)  # of other lengths: one by one
    assert seen[3:] == [2, 2]


@pytest.mark.parametrize("name", WEIGHTS)
def test_estimates_are_differentiable_in_the_condition(name, loaded):
    _, prior = loaded(name)
    x, given = item_noise(1, 4, 8, 8), prior.condition.embeddings.clone().requires_grad_()
    told = prior.conditioned(dataclasses.replace(prior.condition, embeddings=given))
    t = 0.5 * prior.schedule.T
    (gradient,) = torch.autograd.grad(told.denoise(x, t).square().sum(), given)
    assert torch.isfinite(gradient).all()
    assert float(gradient.abs().max()) > 0
    assert not any(weight.requires_grad for weight in prior.parameters())


def test_a_prompted_prior_solves_problems(loaded):
    _, prior = loaded("sd")
    operator = operators.SuperResolution((3, 16, 16), 2, noise_sigma=0.05)
    y = operator.A(item_noise(1, 3, 16, 16).sigmoid())
    found = solvers.REDDiff(steps=3)(y, operator, prior, seed=0)
    assert found.samples.shape[-3:] == (3, 16, 16)
    image = item_noise(1, 3, 16, 16).sigmoid()
    assert prior.to_public(prior.to_units(image)).shape == image.shape


# Options


def adapter(pipe, folder):
    """Save random layers for the U-Net and the text encoder, of another scale than their rank."""
    from peft import LoraConfig, get_peft_model_state_dict

    layers = {}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        for name, part, targets in (
            ("unet", pipe.unet, ["to_q", "to_v"]),
            ("text_encoder", pipe.text_encoder, ["q_proj", "v_proj"]),
        ):
            config = LoraConfig(r=2, lora_alpha=3, target_modules=targets, init_lora_weights=False)
            part.add_adapter(config)
            layers[f"{name}_lora_layers"] = get_peft_model_state_dict(part)
            layers[f"{name}_lora_adapter_metadata"] = config.to_dict()
    pipe.save_lora_weights(folder, **layers)


def test_low_rank_layers_are_those_of_the_pipeline(pipes, tmp_path, monkeypatch):
    # Releases of transformers may ask for a later peft than there is.
    monkeypatch.setattr("transformers.integrations.peft.check_peft_version", lambda **_: None)
    _, folder = pipes("sd")
    adapter(made("sd"), tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    pipe, x = made("sd"), item_noise(1, 4, 8, 8)
    plain = priors.load(folder, prompt=PROMPT)
    pipe.load_lora_weights(tmp_path)
    prior = priors.load(folder, prompt=PROMPT, lora=file)
    embeddings, _ = encoded("sd", pipe, PROMPT)
    close(prior.condition.embeddings, embeddings, tolerance=1e-4)
    assert not torch.allclose(prior.condition.embeddings, plain.condition.embeddings)
    with torch.no_grad():
        theirs = pipe.unet(x, 499, encoder_hidden_states=embeddings, return_dict=False)[0]
    ours = prior.diffusion.predict(x, 500, prior.condition)
    close(ours, theirs, tolerance=1e-4)
    assert not torch.allclose(ours, plain.diffusion.predict(x, 500, prior.condition), atol=1e-3)
    close(priors.load(folder, prompt=PROMPT, lora=tmp_path).denoise(x, 500), prior.denoise(x, 500))
    for wrong, message in ((tmp_path / "none", "cannot read"), (folder, "lora: ")):
        with pytest.raises(errors.CheckpointError, match=message):
            priors.load(folder, lora=wrong)
    _, other = pipes("sd3")
    with pytest.raises(errors.CheckpointError, match=r"lora: .*of a StableDiffusion3Pipeline"):
        priors.load(other, lora=file)


@pytest.mark.parametrize("dtype", ["bfloat16", torch.float16])
def test_half_precision(dtype, pipes, loaded):
    _, folder = pipes("sd")
    _, precise = loaded("sd")
    prior = priors.load(folder, prompt=PROMPT, negative_prompt=NEGATIVE, guidance=3.0, dtype=dtype)
    x = item_noise(1, 4, 8, 8)
    found = prior.denoise(x, 500)
    assert found.dtype == torch.float32
    close(found, precise.denoise(x, 500), tolerance=0.1)
    half = {p.dtype for p in prior.diffusion.parameters()}
    assert half == {torch.bfloat16 if dtype == "bfloat16" else torch.float16}
    # An autoencoder whose config says that it overflows stays in float32.
    wide = next(prior.autoencoder.model.parameters()).dtype
    assert wide == (torch.bfloat16 if dtype == "bfloat16" else torch.float32)


def test_slicing_and_tiling(pipes):
    _, folder = pipes("sd")
    prior = priors.load(folder, slicing=True, tiling=True)
    model = prior.autoencoder.model
    assert (model.use_slicing, model.use_tiling) == (True, True)
    u = item_noise(2, 4, 16, 16)  # more than one tile of 8
    assert prior.to_public(u).shape == (2, 3, 32, 32)


@pytest.mark.parametrize("name", ["sd", "sd3"])
@pytest.mark.parametrize("how", ["model", "sequential"])
def test_networks_are_offloaded_between_their_calls(how, name, pipes):
    """On a processor, where the hooks do the same with nothing to gain."""
    _, folder = pipes(name)
    prior, plain = (priors.load(folder, prompt=PROMPT) for _ in range(2))
    network, vae = prior.diffusion.network.model, prior.autoencoder.model
    hook(how, torch.device("cpu"), network, vae)
    u, t = item_noise(1, 4, 8, 8), prior.schedule.T / 2
    for _ in range(2):
        with torch.no_grad():
            close(prior.denoise(u, t), plain.denoise(u, t))
            close(prior.to_public(u), plain.to_public(u))
        if how == "sequential":
            assert {p.device.type for m in (network, vae) for p in m.parameters()} == {"meta"}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("how", ["model", "sequential"])
def test_offloaded_networks_compute_on_the_device(how, pipes, loaded):
    _, folder = pipes("sd")
    prior = priors.load(folder, prompt=PROMPT, offload=how, device="cuda")
    plain = priors.load(folder, prompt=PROMPT)
    x, u = item_noise(1, 3, 16, 16), item_noise(1, 4, 8, 8)
    prior.check_image(x.cuda())
    with torch.no_grad():
        close(prior.denoise(u.cuda(), 500).cpu(), plain.denoise(u, 500), tolerance=1e-3)
        close(prior.to_public(u.cuda()).cpu(), plain.to_public(u), tolerance=1e-3)
        close(prior.denoise(u.cuda(), 500).cpu(), plain.denoise(u, 500), tolerance=1e-3)


@pytest.mark.slow
def test_three_encoders_may_be_two(tmp_path):
    """Stable Diffusion 3 without T5, whose embeddings are zero."""
    pipe = made("sd3", with_t5=False)
    pipe.save_pretrained(tmp_path)
    prior = priors.load(tmp_path, prompt=PROMPT)
    close(prior.condition.embeddings, encoded("sd3", pipe, PROMPT)[0])
    assert prior.found["text encoders"].count("CLIPTextModelWithProjection") == 2


@pytest.mark.slow
def test_flux_without_a_guidance_scale_is_guided_by_two_conditions(tmp_path):
    made("flux", is_guided=False).save_pretrained(tmp_path)
    prior = priors.load(tmp_path, prompt=PROMPT, negative_prompt=NEGATIVE, guidance=2.0)
    assert (prior.condition.guidance, prior.prior.guidance) == (None, 2)


# What does not fit


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


def copied(pipes, name, tmp_path):
    return shutil.copytree(pipes(name)[1], tmp_path / "pipeline")


DAMAGE = {
    "no tokenizer": (lambda p: shutil.rmtree(p / "tokenizer"), r"has no tokenizer, accepted: "),
    "an empty tokenizer": (
        lambda p: [file.unlink() for file in (p / "tokenizer").iterdir()],
        "tokenizer' has no vocabulary, accepted: tokenizer.json",
    ),
    "no network": (lambda p: shutil.rmtree(p / "unet"), "has no unet, accepted"),
    "no safetensors": (
        lambda p: (p / "text_encoder/model.safetensors").unlink(),
        "text_encoder' has no weights in safetensors",
    ),
    "another encoder": (
        lambda p: changed(p / "model_index.json", text_encoder=["transformers", "BertModel"]),
        "text_encoder of the pipeline in .* is BertModel, accepted: CLIPTextModel or",
    ),
    "code": (
        lambda p: changed(p / "model_index.json", text_encoder=["mine", "CLIPTextModel"]),
        "is None, accepted: CLIPTextModel or",
    ),
    "another network": (
        lambda p: changed(p / "unet/config.json", _class_name="UNet3DConditionModel"),
        "contains UNet3DConditionModel, accepted: UNet2DConditionModel",
    ),
    "another width": (
        lambda p: changed(p / "unet/config.json", cross_attention_dim=48),
        r"got \(32, 0, 0\), accepted: \(48, 0, 0\), as this network takes",
    ),
    "inpainting": (
        lambda p: changed(p / "unet/config.json", in_channels=9),
        "9 channels in and 4 out",
    ),
    "another scheduler": (
        lambda p: changed(p / "scheduler/scheduler_config.json", prediction_type="x"),
        "prediction_type: unknown name 'x'",
    ),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_pipelines_are_refused(damage, pipes, tmp_path):
    spoil, message = DAMAGE[damage]
    folder = copied(pipes, "sd", tmp_path)
    spoil(folder)
    with pytest.raises(errors.CheckpointError, match=f"(?s)path: .*{message}"):
        priors.load(folder, prompt=PROMPT)


@pytest.mark.slow
def test_weights_that_do_not_fit_are_refused(pipes, tmp_path):
    folder = copied(pipes, "sd", tmp_path)
    for part in ("unet", "vae", "text_encoder"):
        file = next((folder / part).glob("*.safetensors"))
        whole = file.read_bytes()
        file.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(errors.CheckpointError, match=f"cannot load a .*{part}"):
            priors.load(folder, prompt=PROMPT)
        file.write_bytes(whole)


def test_options_that_do_not_fit(pipes, tmp_path):
    _, folder = pipes("sd")
    for options, message in (
        ({"prompt": 3}, "prompt: got 3, accepted: a string or"),
        ({"prompt": []}, r"prompt: got \[\]"),
        ({"negative_prompt": [None]}, "negative_prompt: got"),
        ({"guidance": -1.0}, "guidance: got -1"),
        ({"dtype": "int8"}, "dtype: unknown name 'int8'. Known: float32, float16, bfloat16"),
        ({"dtype": torch.float64}, "dtype: unknown name 'float64'"),
        ({"device": "abacus"}, "device: got 'abacus', accepted: an available device"),
        ({"offload": "model"}, "device: got 'cpu', accepted: an accelerator"),
        ({"image_size": (0, 8)}, "image_size: got"),
        ({"is_complex": True}, "is_complex"),
        ({"schedule": "cosine"}, "schedule"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            priors.load(folder, **options)
    for name in TOLD:
        with pytest.raises(errors.ArgumentError, match=r"negative_prompt: .*told its guidance"):
            priors.load(pipes(name)[1], prompt=PROMPT, negative_prompt=NEGATIVE)


def test_models_without_text_take_no_prompt(tmp_path):
    unet = diffusers.UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 8),
        layers_per_block=1,
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=2,
    )
    diffusers.DDPMPipeline(unet, diffusers.DDPMScheduler()).save_pretrained(tmp_path)
    for options in ({"prompt": "a cat"}, {"negative_prompt": "a cat"}, {"guidance": 2.0}):
        with pytest.raises(errors.ArgumentError, match="none, as this model takes no text"):
            priors.load(tmp_path, **options)


def test_transformers_may_be_missing(pipes, monkeypatch):
    _, folder = pipes("sd")
    monkeypatch.setitem(__import__("sys").modules, "transformers", None)
    with pytest.raises(errors.CheckpointError, match=r"pip install 'wellposed\[text\]'"):
        priors.load(folder, prompt=PROMPT)


def test_conditions_that_do_not_fit(loaded):
    _, prior = loaded("sd")
    x, condition = torch.zeros(2, 4, 8, 8), prior.condition
    wide = priors.TextCondition(torch.zeros(1, 5, 48))
    pooled = dataclasses.replace(condition, pooled=torch.zeros(1, 32))
    told = dataclasses.replace(condition, guidance=torch.ones(1))
    for wrong, message in (
        (wide, r"got \(48, 0, 0\), accepted: \(32, 0, 0\)"),
        (pooled, "widths of embeddings, pooled"),
        (told, "no guidance scale"),
        (3, "condition: got int, accepted: a TextCondition"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            prior.conditioned(wrong)
        with pytest.raises(errors.ArgumentError, match=message):
            prior.diffusion.denoise(x, 5, wrong)
    many = condition.each(lambda part: part.expand(3, *part.shape[1:]))
    with pytest.raises(
        errors.ShapeError, match="got 3 prompts, accepted: 1, or one for each of 2"
    ):
        prior.conditioned(many).denoise(x, 5)
    for parts, message in (
        ({"embeddings": torch.zeros(5, 48)}, r"embeddings: got \(5, 48\), accepted: 3 axes"),
        ({"embeddings": "a cat"}, "embeddings: got 'str', accepted: a tensor"),
        ({"embeddings": torch.zeros(1, 5, 8), "pooled": torch.zeros(2, 8)}, "pooled: got"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            priors.TextCondition(**parts)
    with pytest.raises(errors.ArgumentError, match="condition: got shapes"):
        condition.beside(wide)


@pytest.mark.parametrize(("name", "stride"), [("sd", 2), ("sd3", 4), ("flux", 4)])
def test_images_off_the_stride_are_refused(name, stride, loaded):
    _, prior = loaded(name)
    prior.check_image(torch.zeros(1, 3, 4 * stride, 2 * stride))
    message = f"multiples of {stride}, but the operator's images are {4 * stride} x {stride + 1}"
    with pytest.raises(errors.ShapeError, match=message):
        prior.check_image(torch.zeros(1, 3, 4 * stride, stride + 1))


def test_a_hub_id_fetches_configs_before_weights(pipes, monkeypatch):
    asked, (_, folder) = [], pipes("sdxl")

    def snapshot_download(repository, allow_patterns):
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    prior = priors.load("owner/name", prompt=PROMPT)
    assert prior.found["pipeline"] == "StableDiffusionXLPipeline"
    assert "tokenizer*/*" in asked[-2]
    assert {
        "unet/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "text_encoder_2/model.safetensors",
    } <= set(asked[-1])
    assert all(pattern.count("safetensors") == 1 for pattern in asked[-1])


def test_inspection_tells_what_was_found(pipes, tmp_path):
    folder = copied(pipes, "sd3", tmp_path)
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: my-own\n---\nText\n")
    image = tmp_path / "image.png"
    Image.fromarray((255 * item_noise(16, 24, 3).sigmoid()).byte().numpy()).save(image)
    told = ["inspect", str(folder), "--load", "prompt=a cat", "--size", "16", "--image", image]
    done = CliRunner().invoke(app, list(map(str, told)))
    assert done.exit_code == 0, done.output
    for fact in (
        *("StableDiffusion3Pipeline", "FlowMatchEulerDiscreteScheduler", "linspace", "flow"),
        "CLIPTextModelWithProjection, CLIPTextModelWithProjection, T5EncoderModel",
        *("4 channels, sides divided by 2", "1.5305", "0.0609", "float32", "my-own"),
        "gain in dB",
    ):
        assert fact in done.output
    assert "not tested: give photographs" in CliRunner().invoke(app, told[:2]).output


def test_the_command_line_tells_a_prompt(pipes, tmp_path):
    _, folder = pipes("sd")
    image = tmp_path / "image.png"
    Image.fromarray((255 * item_noise(16, 16, 3).sigmoid()).byte().numpy()).save(image)
    run = ["reconstruct", image, "--operator", "inpainting", "--keep", "0.5", "--simulate"]
    run += ["--prior", folder, "--solver", "flow-dps", "--steps", "2", "--noise-sigma", "0.05"]
    found = {}
    for name, told in {
        "plain": [],
        "cat": ["--prompt", "a cat"],
        "guided": ["--prompt", "a cat", "--guidance", "4"],
        "away": ["--prompt", "a cat", "--guidance", "4", "--negative-prompt", "a dog"],
    }.items():
        out = tmp_path / name
        done = CliRunner().invoke(app, list(map(str, [*run, *told, "--out", out])))
        assert done.exit_code == 0, done.output
        found[name] = next(out.glob("mean.*")).read_bytes()
    assert len(set(found.values())) == 4
    refused = {
        "--guidance: got 4.0, accepted: 1, as this prior has no": ["--guidance", "4"],
        "prompt: got 'text', accepted: none, as this prior": [
            *("--prior", "spatio-spectral", "--prompt", "a cat")
        ],
        "prompt: got 'text', accepted: none, as this model": [
            "--prior",
            "natural",
            "--prompt",
            "a cat",
        ],
    }
    for message, told in refused.items():
        done = CliRunner().invoke(app, list(map(str, [*run, *told, "--out", tmp_path / "no"])))
        assert done.exit_code != 0 and message in " ".join(done.output.split()), done.output
