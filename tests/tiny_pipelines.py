"""Text-conditioned pipelines of the true architectures, tiny and with random weights."""

import diffusers
import torch
import transformers

WIDTH = 32
WORDS = ["a", "cat", "dog", "photo", "of", "red", "small", "house", "on", "the", "moon"]
SCALED = {"beta_schedule": "scaled_linear", "beta_start": 8.5e-4, "beta_end": 0.012}


def clip_tokenizer():
    tokens = ["<|startoftext|>", "<|endoftext|>", *"abcdefghijklmnopqrstuvwxyz"]
    tokens += [f"{t}</w>" for t in tokens[2:]]
    merges = []
    for word in WORDS:  # letter by letter to the whole word
        for n in range(1, len(word)):
            last = n == len(word) - 1
            merges.append((word[:n], word[n] + ("</w>" if last else "")))
            tokens.append(word[: n + 1] + ("</w>" if last else ""))
    vocab = {token: n for n, token in enumerate(dict.fromkeys(tokens))}
    return transformers.CLIPTokenizer(
        vocab=vocab, merges=list(dict.fromkeys(merges)), model_max_length=77
    )


def t5_tokenizer():
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    return transformers.T5Tokenizer(
        vocab=pieces + [(f"▁{word}", -1.0) for word in WORDS], extra_ids=0
    )


def clip_encoder(projects=False):
    kind = transformers.CLIPTextModelWithProjection if projects else transformers.CLIPTextModel
    tokenizer = clip_tokenizer()
    config = transformers.CLIPTextConfig(
        hidden_size=WIDTH,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=4,
        projection_dim=WIDTH,
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return kind(config).eval()


def t5_encoder(width=WIDTH):
    config = transformers.T5Config(
        d_model=width, d_kv=8, d_ff=37, num_layers=1, num_heads=4, vocab_size=20
    )
    return transformers.T5EncoderModel(config).eval()


def vae(channels=4, **settings):
    """Sides are divided by 2."""
    return diffusers.AutoencoderKL(
        block_out_channels=(4, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=channels,
        norm_num_groups=2,
        sample_size=16,
        **settings,
    ).eval()


def unet(**settings):
    return diffusers.UNet2DConditionModel(
        **{
            "sample_size": 8,
            "block_out_channels": (8, 8),
            "layers_per_block": 1,
            "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
            "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
            "attention_head_dim": 4,
            "norm_num_groups": 2,
            "cross_attention_dim": WIDTH,
            **settings,
        }
    ).eval()


def stable_diffusion(scheduler=None, kind=diffusers.StableDiffusionPipeline, **settings):
    usual = diffusers.DDIMScheduler(**SCALED, clip_sample=False, steps_offset=1)
    return kind(
        vae=vae(),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        unet=unet(**settings),
        scheduler=scheduler or usual,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def latent_consistency():
    kind = diffusers.LatentConsistencyModelPipeline
    return stable_diffusion(diffusers.LCMScheduler(**SCALED), kind, time_cond_proj_dim=16)


def sdxl(scheduler=None, **settings):
    return diffusers.StableDiffusionXLPipeline(
        vae=vae(scaling_factor=0.13025),
        text_encoder=clip_encoder(),
        text_encoder_2=clip_encoder(projects=True),
        tokenizer=clip_tokenizer(),
        tokenizer_2=clip_tokenizer(),
        unet=unet(
            cross_attention_dim=2 * WIDTH,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=WIDTH + 6 * 8,
        ),
        scheduler=scheduler
        or diffusers.EulerDiscreteScheduler(**SCALED, timestep_spacing="leading", steps_offset=1),
        **settings,
    )


def stable_diffusion_3(with_t5=True):
    network = diffusers.SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=1,
        attention_head_dim=8,
        num_attention_heads=4,
        caption_projection_dim=WIDTH,
        joint_attention_dim=2 * WIDTH,
        pooled_projection_dim=2 * WIDTH,
        out_channels=4,
        pos_embed_max_size=16,
    )
    third = t5_encoder(2 * WIDTH) if with_t5 else None
    return diffusers.StableDiffusion3Pipeline(
        transformer=network.eval(),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0),
        vae=vae(scaling_factor=1.5305, shift_factor=0.0609),
        text_encoder=clip_encoder(projects=True),
        tokenizer=clip_tokenizer(),
        text_encoder_2=clip_encoder(projects=True),
        tokenizer_2=clip_tokenizer(),
        text_encoder_3=third,
        tokenizer_3=t5_tokenizer() if with_t5 else None,
    )


def flux(is_guided=True):
    network = diffusers.FluxTransformer2DModel(
        patch_size=1,
        in_channels=16,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=WIDTH,
        pooled_projection_dim=WIDTH,
        axes_dims_rope=(4, 4, 8),
        guidance_embeds=is_guided,
    )
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(
        shift=3.0, use_dynamic_shifting=True, base_image_seq_len=16, max_image_seq_len=128
    )
    return diffusers.FluxPipeline(
        transformer=network.eval(),
        scheduler=scheduler,
        vae=vae(scaling_factor=0.3611, shift_factor=0.1159),
        text_encoder=clip_encoder(),
        tokenizer=clip_tokenizer(),
        text_encoder_2=t5_encoder(),
        tokenizer_2=t5_tokenizer(),
    )


PIPELINES = {
    "sd": stable_diffusion,
    "lcm": latent_consistency,
    "sdxl": sdxl,
    "sd3": stable_diffusion_3,
    "flux": flux,
}


def made(name, **settings):
    """Return a pipeline with weights from one seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        pipe = PIPELINES[name](**settings)
    pipe.set_progress_bar_config(disable=True)
    return pipe
