"""Checkpoints of published layouts, against independent networks with the same weights."""

import math
import os
import pickle
from functools import partial

import pytest
import torch
from deepinv.models import DiffUNet
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from safetensors.torch import save_file
from tests import helpers
from tests.helpers import F32, relative

from wellposed import errors
from wellposed.operators import Inpainting, SingleCoilMRI
from wellposed.priors import Tabulated, available, load
from wellposed.priors.checkpoints import adm, ddpm
from wellposed.priors.checkpoints.reading import read_state
from wellposed.priors.networks.adm import ADMUNet
from wellposed.priors.networks.ddpm import DDPMConfig, DDPMUNet
from wellposed.priors.stored import registry as loading
from wellposed.priors.stored.registry import WEIGHTS
from wellposed.solvers import DDS

pytestmark = pytest.mark.usefixtures("single_thread")

HEAD = 32  # channels of an attention head in the tiny networks
VP = Tabulated.linear()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


randn = partial(helpers.randn, dtype=F32)


def randomised(network, seed=0):
    """Fill a network with weights under which attention and the label matter."""
    draw = generator(seed)
    with torch.no_grad():
        for name, p in network.named_parameters():
            spread = 0.1 if p.ndim == 1 else 2 * p[0].numel() ** -0.5
            p.copy_(spread * torch.randn(p.shape, generator=draw))
            if p.ndim == 1 and name.endswith("weight"):
                p.add_(1)
    return network.eval()


# Independent networks, and their weights under the published names


def copied(state, names):
    """The weights of the modules ``names``, under their new names."""
    return {
        new + key.removeprefix(old): value.clone()
        for old, new in names.items()
        for key, value in state.items()
        if key.startswith(f"{old}.")
    }


def within(blocks, parts):
    """The names of the parts of each block."""
    return {f"{a}.{b}": f"{blocks[a]}.{parts[b]}" for a in blocks for b in parts}


ADM_ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}
ADM_BLOCK = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
DDPM_ENDS = {
    "time_embedding.linear_1": "temb.dense.0",
    "time_embedding.linear_2": "temb.dense.1",
    "conv_in": "conv_in",
    "conv_norm_out": "norm_out",
    "conv_out": "conv_out",
}
DDPM_BLOCK = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {
    "time_emb_proj": "temb_proj",
    "conv_shortcut": "nin_shortcut",
}
DDPM_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def adm_attention(state, old, new):
    """ADM has one projection, in which each head's query, key and value follow each other."""
    out = copied(state, {f"{old}.group_norm": f"{new}.norm", f"{old}.to_out.0": f"{new}.proj_out"})
    for kind in ("weight", "bias"):
        qkv = [state[f"{old}.to_{p}.{kind}"].unflatten(0, (-1, HEAD)) for p in "qkv"]
        out[f"{new}.qkv.{kind}"] = torch.stack(qkv, 1).flatten(0, 2)
    return {k: v[..., None] if v.ndim == 2 else v for k, v in out.items()}


def adm_weights(unet):
    """The weights of a diffusers network under the names of guided-diffusion."""
    state, config = unet.state_dict(), unet.config
    blocks, resizers, attentions, stage = {}, {}, {}, 0

    def add_layers(old, i, new):
        blocks[f"{old}.resnets.{i}"] = f"{new}.0"
        if f"{old}.attentions.{i}.to_q.weight" in state:
            attentions[f"{old}.attentions.{i}"] = f"{new}.1"

    for level in range(len(config.block_out_channels)):
        for i in range(config.layers_per_block):
            stage += 1
            add_layers(f"down_blocks.{level}", i, f"input_blocks.{stage}")
        stage += 1
        resizers[f"down_blocks.{level}.downsamplers.0"] = f"input_blocks.{stage}.0"
        for i in range(config.layers_per_block + 1):
            new = f"output_blocks.{level * (config.layers_per_block + 1) + i}"
            add_layers(f"up_blocks.{level}", i, new)
        place = 2 if f"up_blocks.{level}.attentions.{i}" in attentions else 1
        resizers[f"up_blocks.{level}.upsamplers.0"] = f"{new}.{place}"
    blocks |= {"mid_block.resnets.0": "middle_block.0", "mid_block.resnets.1": "middle_block.2"}
    attentions["mid_block.attentions.0"] = "middle_block.1"
    out = copied(state, ADM_ENDS | within(blocks | resizers, ADM_BLOCK))
    convs = {a: f"{b}.{'op' if 'down' in a else 'conv'}" for a, b in resizers.items()}
    out |= copied(state, {f"{a}.conv": b for a, b in convs.items()})
    for old, new in attentions.items():
        out |= adm_attention(state, old, new)
    return out


def ddpm_weights(unet):
    """The weights of a diffusers network under the names of DDPM's PyTorch port."""
    state, levels = unet.state_dict(), len(unet.config.block_out_channels)
    blocks = {"mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2"}
    attentions, resizers = {"mid_block.attentions.0": "mid.attn_1"}, {}
    for level in range(levels):
        for side, place in (("down", level), ("up", levels - 1 - level)):
            old, new = f"{side}_blocks.{level}", f"{side}.{place}"
            resizers[f"{old}.{side}samplers.0.conv"] = f"{new}.{side}sample.conv"
            for i in range(unet.config.layers_per_block + 1):
                blocks[f"{old}.resnets.{i}"] = f"{new}.block.{i}"
                attentions[f"{old}.attentions.{i}"] = f"{new}.attn.{i}"
    out = copied(state, DDPM_ENDS | resizers | within(blocks, DDPM_BLOCK))
    qkv = copied(state, within(attentions, DDPM_ATTENTION))
    return out | {k: v[..., None, None] if v.ndim == 2 else v for k, v in qkv.items()}


PLAIN = {
    "conv": ("DownBlock2D", "UpBlock2D"),
    "resnet": ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D"),
}


def adm_unet(channels=3, resampling="resnet", scale_shift=True, blocks=2, classes=None):
    """A network of ADM's structure by diffusers, with two attention heads at the middle level."""
    down, up = PLAIN[resampling]
    return randomised(
        UNet2DModel(
            in_channels=channels,
            out_channels=2 * channels,
            block_out_channels=(32, 64, 96),
            layers_per_block=blocks,
            down_block_types=(down, "AttnDownBlock2D", down),
            up_block_types=(up, "AttnUpBlock2D", up),
            downsample_type=resampling,
            upsample_type=resampling,
            attention_head_dim=HEAD,
            attn_norm_num_groups=32,
            resnet_time_scale_shift="scale_shift" if scale_shift else "default",
            num_class_embeds=classes,
        )
    )


def ddpm_unet(channels=3, blocks=2):
    """A network of DDPM's structure by diffusers, as google/ddpm-celebahq-256 is configured."""
    return randomised(
        UNet2DModel(
            in_channels=channels,
            out_channels=channels,
            block_out_channels=(32, 64, 96),
            layers_per_block=blocks,
            down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            attention_head_dim=None,
            norm_eps=1e-6,
            downsample_padding=0,
            flip_sin_to_cos=False,
            freq_shift=1,
        )
    )


def saved(folder, content, name="model.pt", **options):
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(content, path)
    else:
        torch.save(content, path, **options)
    return path


def by_hand(unet, x_t, t, channels, **condition):
    """``E[x_0 | x_t]`` of the independent network, from the formula of DDPM."""
    with torch.no_grad():
        eps = unet(x_t, t - 1, **condition).sample[:, :channels]
    alpha, sigma = (v.float().view(-1, 1, 1, 1) for v in VP(t))
    return (x_t - sigma * eps) / alpha


TIMES = torch.tensor([3.0, 640.0])
SHAPES = [(16, 16), (8, 24)]


# The networks are the published ones


@pytest.mark.parametrize("size", SHAPES)
@pytest.mark.parametrize(
    ("resampling", "scale_shift", "blocks"),
    [("resnet", True, 1), ("resnet", False, 2), ("conv", True, 2), ("conv", False, 3)],
)
def test_adm_is_what_diffusers_computes(tmp_path, resampling, scale_shift, blocks, size):
    unet = adm_unet(3, resampling, scale_shift, blocks)
    path = saved(tmp_path, adm_weights(unet))
    prior = load(path, num_head_channels=HEAD)
    x_t = randn(2, 3, *size)
    assert relative(prior.denoise(x_t, TIMES), by_hand(unet, x_t, TIMES, 3)) < 1e-5
    assert (prior.channels, prior.data_range, prior.is_complex) == (3, (0.0, 1.0), False)


@pytest.mark.slow
def test_heads_matter_and_default_to_64_channels(tmp_path):
    """The tiny network's widths 64 and 96 in heads of 32 channels; as one head it differs."""
    weights = adm_weights(adm_unet())
    x = randn(2, 3, 16, 16)
    path = saved(tmp_path, weights)
    right = load(path, num_head_channels=HEAD).network(x, TIMES)
    wrong = load(path, num_heads=1).network(x, TIMES)
    assert relative(wrong, right) > 0.01
    with pytest.raises(errors.ArgumentError, match=r"num_head_channels: got 64, .* of the 96"):
        load(path)


@pytest.mark.parametrize("blocks", [1, 2])
@pytest.mark.parametrize("size", SHAPES)
def test_ddpm_is_what_diffusers_computes(tmp_path, blocks, size):
    unet = ddpm_unet(blocks=blocks)
    prior = load(saved(tmp_path, ddpm_weights(unet), "model.ckpt"))
    x_t = randn(2, 3, *size)
    assert relative(prior.denoise(x_t, TIMES), by_hand(unet, x_t, TIMES, 3)) < 1e-5
    assert (prior.channels, prior.data_range) == (3, (0.0, 1.0))


def published_adm(large):
    """deepinv's network on no device: the keys and shapes of two published checkpoints."""
    with torch.device("meta"):
        state = DiffUNet(pretrained=None, large_model=large).state_dict()
    return {k: v for k, v in state.items() if "alphas_cumprod" not in k}


@pytest.mark.parametrize("large", [False, True], ids=["ffhq", "imagenet"])
def test_the_configuration_of_published_checkpoints_is_read_off_the_weights(large):
    state = published_adm(large)
    config = adm.read_config(state)
    size, blocks = (256, 2) if large else (128, 1)
    assert config.widths == tuple(size * m for m in (1, 1, 2, 2, 4, 4))
    assert (config.features, config.blocks, config.channels) == (size, blocks, (3, 6))
    attending = [256 >> level for level in range(6) if config.attention[level]]
    assert attending == ([32, 16, 8] if large else [16])
    with torch.device("meta"):
        ours = ADMUNet(config).state_dict()
    assert {k: v.shape for k, v in ours.items()} == {k: v.shape for k, v in state.items()}


DDPM_SIZES = {
    # Ho et al. 2020, appendix B: 35.7 million parameters for CIFAR10, 114 for LSUN and CelebA-HQ.
    "cifar": ((1, 2, 2, 2), (1,), 35.7),
    "celeba-hq": ((1, 1, 2, 2, 4, 4), (4,), 113.7),
}


@pytest.mark.parametrize("name", DDPM_SIZES)
def test_ddpm_has_as_many_parameters_as_the_paper_says(name):
    multipliers, attending, millions = DDPM_SIZES[name]
    config = DDPMConfig(
        channels=(3, 3),
        features=128,
        widths=tuple(128 * m for m in multipliers),
        blocks=2,
        attention=tuple(level in attending for level in range(len(multipliers))),
    )
    with torch.device("meta"):
        network = DDPMUNet(config)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert ddpm.read_config(network.state_dict()) == config


@pytest.mark.slow
def test_adm_is_what_deepinv_computes_at_full_size():
    reference = randomised(DiffUNet(pretrained=None))
    state = {k: v for k, v in reference.state_dict().items() if "alphas_cumprod" not in k}
    network = adm.build(state, "path: a copy", {}).network
    x = randn(2, 3, 64, 32)
    with torch.no_grad():
        expected = reference(x, TIMES, type_t="timestep")
        wrong = adm.build(state, "path: a copy", {"num_heads": 4}).network(x, TIMES)
    assert relative(network(x, TIMES), expected) < 1e-4
    assert relative(wrong, expected) > 1e-3


def test_pooling_is_the_convolution_with_its_kernel(tmp_path):
    """Networks that resample without weights leave gaps in the numbers of the input blocks."""
    weights = adm_weights(adm_unet(resampling="conv"))
    resizers = {k for k in weights if ".op." in k or ".conv." in k}
    pooled = {k: v for k, v in weights.items() if k not in resizers}
    kernels = torch.zeros(2, 3, 3)
    kernels[0, 1:, 1:], kernels[1, 1, 1] = 0.25, 1.0
    for key in resizers:
        same = torch.eye(len(weights[key]))
        kernel = kernels[0 if ".op." in key else 1]
        weights[key] = same[:, :, None, None] * kernel if "weight" in key else 0 * weights[key]
    x = randn(2, 3, 16, 16)
    convolved, plain = (
        load(saved(tmp_path, w), num_head_channels=HEAD).network(x, TIMES)
        for w in (weights, pooled)
    )
    assert len(resizers) == 8
    assert relative(plain, convolved) < 1e-5


def test_a_wide_shortcut_of_ddpm_equals_a_narrow_one_of_the_same_kernel(tmp_path):
    weights = ddpm_weights(ddpm_unet())
    wide = {
        k.replace("nin", "conv"): torch.nn.functional.pad(v, (1, 1, 1, 1))
        if "nin_shortcut.weight" in k
        else v
        for k, v in weights.items()
    }
    x = randn(1, 3, 8, 8)
    outputs = [load(saved(tmp_path, w)).network(x, TIMES[:1]) for w in (weights, wide)]
    assert any("conv_shortcut" in k for k in wide)
    assert relative(outputs[1], outputs[0]) < 1e-5


# Conditions, complex images, options


def test_a_class_conditional_network_is_given_its_class(tmp_path):
    unet = adm_unet(classes=5)
    prior = load(saved(tmp_path, adm_weights(unet)), num_head_channels=HEAD)
    x_t, classes = randn(2, 3, 16, 16), torch.tensor([4, 0])
    expected = by_hand(unet, x_t, TIMES, 3, class_labels=classes)
    assert relative(prior.conditioned_on(classes).denoise(x_t, TIMES), expected) < 1e-5
    assert relative(prior.conditioned_on(1).denoise(x_t, TIMES), expected) > 1e-3
    with pytest.raises(errors.ArgumentError, match="classes 0 to 4"):
        prior.denoise(x_t, TIMES)


def test_two_real_channels_are_a_complex_one(tmp_path):
    unet = adm_unet(channels=2)
    path = saved(tmp_path, adm_weights(unet))
    prior = load(path, is_complex=True, num_head_channels=HEAD)
    pairs = randn(2, 2, 16, 16)
    expected = by_hand(unet, pairs, TIMES, 2)
    got = prior.denoise(torch.complex(pairs[:, :1], pairs[:, 1:]), TIMES)
    assert relative(torch.cat([got.real, got.imag], 1), expected) < 1e-5
    assert (prior.channels, prior.data_range, prior.is_complex) == (1, (-1.0, 1.0), True)


@pytest.fixture(scope="module")
def weights():
    """Tiny checkpoints of both families."""
    return {"adm": adm_weights(adm_unet(blocks=1)), "ddpm": ddpm_weights(ddpm_unet(blocks=1))}


def load_family(path, family, **options):
    return load(path, **({"num_heads": 2} if family == "adm" else {}), **options)


every_family = pytest.mark.parametrize("family", ["adm", "ddpm"])


@every_family
def test_options_are_taken_over(tmp_path, weights, family):
    path, x_t = saved(tmp_path, weights[family]), randn(2, 3, 8, 8)
    cosine = load_family(path, family, schedule="cosine", data_range=(-2.0, 2.0))
    assert cosine.data_range == (-2.0, 2.0)
    table = load_family(path, family, schedule=Tabulated.cosine())
    assert torch.equal(cosine.denoise(x_t, TIMES), table.denoise(x_t, TIMES))
    sample = load_family(path, family, prediction="sample")
    assert torch.equal(sample.denoise(x_t, TIMES), sample.network(x_t, TIMES - 1)[:, :3])


OPTIONS = {
    "num_head": "Did you mean 'num_heads'",
    "num_heads": "num_heads: got 5, accepted: a divisor of the 64",
    "schedule": "schedule: unknown name",
    "prediction": "prediction: unknown name",
    "is_complex": "is_complex: got 'True and 3 channels'",
    "data_range": "data_range: got",
}


@pytest.mark.parametrize("option", OPTIONS)
def test_impossible_options_are_named(tmp_path, weights, option):
    value = {"num_heads": 5, "is_complex": True, "data_range": (1.0, 0.0)}.get(option, "linea")
    options = {"num_heads": 2, option: value}
    with pytest.raises(errors.ArgumentError, match=OPTIONS[option]):
        load(saved(tmp_path, weights["adm"]), **options)


def test_ddpm_has_no_heads_to_choose(tmp_path, weights):
    with pytest.raises(errors.ArgumentError, match="unknown name 'num_heads'"):
        load(saved(tmp_path, weights["ddpm"]), num_heads=2)


@every_family
def test_images_that_cannot_be_halved_are_refused(tmp_path, weights, family):
    prior = load_family(saved(tmp_path, weights[family]), family)
    with pytest.raises(errors.ShapeError, match=r"10 x 8, accepted: .* multiples of 4"):
        prior.denoise(randn(1, 3, 10, 8), 5)


@every_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_networks_are_float32_frozen_and_drawn_from_no_generator(tmp_path, weights, family, dtype):
    stored = {k: v.to(dtype) for k, v in weights[family].items()}
    before = torch.get_rng_state()
    network = load_family(saved(tmp_path, stored), family).network
    assert torch.equal(torch.get_rng_state(), before)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    for name, value in network.state_dict().items():
        assert torch.equal(value, stored[name].float())


@every_family
def test_half_precision_comes_close(tmp_path, weights, family):
    prior = load_family(saved(tmp_path, weights[family]), family)
    x_t = randn(2, 3, 8, 8)
    expected = prior.denoise(x_t, TIMES)
    assert 1e-5 < relative(prior.bfloat16().denoise(x_t, TIMES), expected) < 0.05


# Files


def prefixed(state):
    return {f"module.{k}": v for k, v in state.items()}


OPTIMIZER = {"state": {0: {"step": 3, "exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 1e-4}]}


def containers(state, other):
    return {
        "plain": state,
        "state_dict": {"state_dict": state, "epoch": 3},
        "model": {"model": prefixed(state), "optimizer": OPTIMIZER},
        "averaged": {"model": other, "ema": state, "step": 7},
        "averaged within": {"ema": {"state_dict": state}, "state_dict": other},
        "params": {"params": state},
        "params_ema": {"params": other, "params_ema": state},
        "list": [prefixed(state), OPTIMIZER, 3, 40],
        "list, averaged": [prefixed(other), OPTIMIZER, 3, 40, state],
        "prefixed": prefixed(state),
        "with a number": {**state, "epoch": 3},
    }


@pytest.mark.parametrize("kind", containers({}, {}))
@pytest.mark.parametrize("suffix", [".pt", ".pth", ".ckpt", ".safetensors"])
def test_the_usual_containers_are_opened(tmp_path, kind, suffix):
    state = {"a.weight": randn(2, 3), "b": randn(4, seed=1), "n": torch.tensor(3)}
    other = {k: v + 1 for k, v in state.items()}
    content = containers(state, other)[kind]
    if suffix == ".safetensors":
        content = prefixed(state)  # which has no containers
    got = read_state(saved(tmp_path, content, f"model{suffix}"))
    assert got.keys() == state.keys()
    assert all(torch.equal(got[k], state[k]) for k in state)


@pytest.mark.parametrize("kind", ["zip", "legacy", "safetensors"])
def test_files_cut_anywhere_are_named_as_such(tmp_path, kind):
    name = "model.safetensors" if kind == "safetensors" else "model.pt"
    options = {"_use_new_zipfile_serialization": False} if kind == "legacy" else {}
    path = saved(tmp_path, {"a": randn(40, 3), "b": randn(7)}, name, **options)
    whole = path.read_bytes()
    # Half the name of what torch rebuilds tensors with is the name of something unknown.
    known = "truncated|empty" + ("|contains code" if kind == "legacy" else "")
    for length in [*range(0, len(whole), 31), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(errors.CheckpointError, match=rf"model\.\w+' (is )?({known})"):
            read_state(path)


class Code:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder):
        self.folder = str(folder)

    def __reduce__(self):
        return os.mkdir, (self.folder,)


WRITERS = {
    "zip": torch.save,
    "legacy": lambda content, path: torch.save(
        content, path, _use_new_zipfile_serialization=False
    ),
    "bare": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=2)),
    "bare, protocol 0": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=0)),
    "bare, protocol 4": lambda content, path: path.write_bytes(pickle.dumps(content, protocol=4)),
}


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("suffix", [".pt", ".ckpt", ".pkl"])
@pytest.mark.parametrize("kind", WRITERS)
def test_code_is_refused_and_not_executed(tmp_path, kind, suffix):
    path, trap = tmp_path / f"model{suffix}", tmp_path / "trap"
    WRITERS[kind]({"ema": {"a": torch.ones(2)}, "more": Code(trap)}, path)
    with pytest.raises(errors.CheckpointError) as caught:
        load(path)
    assert not trap.exists()
    for part in (path.name, "contains code", "was not executed", "safetensors"):
        assert part in str(caught.value)


def test_the_code_would_have_run(tmp_path):
    pickle.loads(pickle.dumps(Code(tmp_path / "trap")))
    assert (tmp_path / "trap").exists()


def test_what_is_no_checkpoint_is_refused(tmp_path):
    def fails(path, match):
        with pytest.raises(errors.CheckpointError, match=match) as caught:
            load(path)
        assert path.name in str(caught.value)

    fails(tmp_path / "missing.pt", "does not exist, accepted: .*safetensors")
    (tmp_path / "page.pt").write_text("<html>404</html>")
    fails(tmp_path / "page.pt", "contains code, or no weights, which was not executed")
    (tmp_path / "weights.txt").write_text("1 2 3")
    fails(tmp_path / "weights.txt", "is not a file of weights, accepted")
    fails(saved(tmp_path, {"epoch": 3}, "none.pt"), "contains no named tensors")
    fails(saved(tmp_path, [OPTIMIZER, 3], "list.pt"), "contains no named tensors")
    fails(saved(tmp_path, torch.ones(3), "tensor.pt"), "contains no named tensors")
    unknown = {"encoder.0.weight": torch.ones(2)}
    fails(saved(tmp_path, unknown, "other.pt"), r"no known family .*encoder\.0.*guided-diffusion")


# Damaged weights

ENDS = {"adm": ("out.2.bias", "out.2.weight"), "ddpm": ("norm_out.bias", "conv_out.weight")}


def without(state, key):
    return {k: v for k, v in state.items() if k != key}


@every_family
@pytest.mark.sampled
def test_weights_that_do_not_fit_are_listed(tmp_path, weights, family):
    def fails(state, *parts):
        path = saved(tmp_path, state, "damaged.pt")
        with pytest.raises(errors.CheckpointError) as caught:
            load_family(path, family)
        for part in ("damaged.pt", *parts):
            assert part in str(caught.value)

    state, (some, last) = weights[family], ENDS[family]
    fails(without(state, some), "missing keys", some)
    fails({**state, "extra.weight": torch.ones(1)}, "unexpected keys", "extra.weight")
    fails({**state, some: torch.ones(7)}, "shapes", f"{some}: (7,) instead of")
    fails({**state, some: state[some] * torch.nan}, "NaN or infinite", some)
    fails({**state, some: state[some] + torch.inf}, "NaN or infinite", some)
    fails({**state, last: torch.ones(5, 32, 3, 3)}, "3 image channels in and 5 out")
    fails(without(state, last), "missing, misnamed", last)


@every_family
@pytest.mark.sampled
def test_no_damaged_weight_goes_unnoticed(tmp_path, weights, family):
    """Whichever weight is missing or too narrow, it is a checkpoint error and no other."""
    build = {"adm": adm.build, "ddpm": ddpm.build}[family]
    options = {"num_heads": 2} if family == "adm" else {}
    state = weights[family]
    damages = [
        lambda key: without(state, key),
        lambda key: {**state, key: state[key][1:]},
        lambda key: {**state, key: torch.ones(())},
    ]
    for i, key in enumerate(list(state)[::7]):
        with pytest.raises(errors.CheckpointError, match="path: damaged"):
            build(damages[i % 3](key), "path: damaged", options)


# Folders


def test_folders_of_ours_and_of_diffusers_are_loaded_too(tmp_path):
    name = next(iter(available()))
    ours = load(WEIGHTS / name)
    assert ours.schedule.T > 0
    with pytest.raises(errors.ArgumentError, match="options: got"):
        load(WEIGHTS / name, is_complex=True)
    unet = ddpm_unet(channels=2, blocks=1)
    DDPMPipeline(unet, DDPMScheduler()).save_pretrained(tmp_path)
    prior = load(tmp_path, is_complex=True)
    pairs = randn(2, 2, 8, 8)
    got = prior.denoise(torch.complex(pairs[:, :1], pairs[:, 1:]), TIMES)
    assert relative(torch.cat([got.real, got.imag], 1), by_hand(unet, pairs, TIMES, 2)) < 1e-5
    with pytest.raises(errors.ArgumentError, match="unknown name 'num_heads'"):
        load(tmp_path, num_heads=2)


def test_hub_ids_go_to_diffusers_and_lost_files_do_not(monkeypatch, tmp_path):
    asked = []
    (tmp_path / "config.json").write_text('{"_class_name": "UNet2DModel"}')
    monkeypatch.setattr(loading, "fetch", lambda path, patterns: tmp_path)
    monkeypatch.setattr(
        loading, "load_diffusers", lambda path, **options: asked.append((path, options))
    )
    load("google/ddpm-v1.5", data_range=(-1.0, 1.0))
    assert asked == [("google/ddpm-v1.5", {"data_range": (-1.0, 1.0), "is_complex": False})]
    for lost in ("models/lost.ckpt", "models/lost.safetensors"):
        with pytest.raises(errors.CheckpointError, match="does not exist"):
            load(lost)
    with pytest.raises(errors.CheckpointError, match="Python pickle"):
        load("models/lost.pkl")
    assert len(asked) == 1


# From the file to the image


def tame(state):
    """The weights of a network that predicts next to nothing."""
    return {
        k: 0.01 * v if k in ("out.2.weight", "conv_out.weight") else v for k, v in state.items()
    }


@pytest.mark.parametrize("kind", ["adm", "ddpm", "conditional", "complex"])
def test_a_loaded_prior_fills_in_an_image(tmp_path, weights, kind):
    """What is measured stays; the rest is the network's: the centre of the range."""
    options = {}
    if kind == "conditional":
        weights = {"adm": adm_weights(adm_unet(blocks=1, classes=3))}
    elif kind == "complex":
        weights, options = {"adm": adm_weights(adm_unet(2, blocks=1))}, {"is_complex": True}
    family = "ddpm" if kind == "ddpm" else "adm"
    path = saved(tmp_path, tame(weights[family]))
    x = torch.rand(1, 1 if options else 3, 16, 16, generator=generator(), dtype=torch.float32)
    mask = (torch.rand(16, 16, generator=generator(1)) > 0.5).float()
    operator = Inpainting(mask.expand(3, -1, -1))
    if kind == "complex":
        x, operator = torch.complex(x, x.flip(-1)), SingleCoilMRI(mask)
    y = operator.measure(x)
    for prediction in ("noise", "sample"):
        prior = load_family(path, family, prediction=prediction, **options)
        prior = prior.conditioned_on(2) if kind == "conditional" else prior
        image = DDS(steps=3, gamma=math.inf)(y, operator, prior, seed=0).samples[0]
        assert (image.shape, image.dtype) == (x.shape, x.dtype)
        assert bool(image.isfinite().all())
        torch.testing.assert_close(operator.A(image), y, rtol=0, atol=1e-4)
    centre = torch.full_like(x, 0.0 if kind == "complex" else 0.5)
    expected = centre + operator.A_dagger(y - operator.A(centre))
    assert 0 < (image - expected).abs().max() < 0.2
