"""The authors' restoration networks: layouts, computations and loading.

Checkpoints are random ones of the published layouts, which `unet_layout` and its like write down
from the papers' code: names and shapes of all tensors. What the networks should compute is written
here once more, from those names, with torchvision's window attention and diffusers' autoencoder.
"""

import copy
import functools
import json
import math
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from diffusers import VQModel
from safetensors.torch import save_file
from tests import helpers
from tests.helpers import F32, relative
from torchvision.models import swin_transformer

from wellposed import errors, priors
from wellposed.operators import Denoising
from wellposed.priors.anchor import Degraded
from wellposed.priors.checkpoints import FAMILIES
from wellposed.priors.checkpoints import resshift as resshift_family
from wellposed.priors.checkpoints.family import load_network
from wellposed.priors.networks import nafnet, vq
from wellposed.priors.networks import restoration_unet as unet
from wellposed.priors.networks.conv_unet import RestorationUNet
from wellposed.priors.networks.layers import ChannelNorm, pad
from wellposed.priors.networks.swin import SwinConfig, WindowAttention
from wellposed.priors.processes import MeanReverting, rddm, resshift
from wellposed.priors.stored import registry
from wellposed.solvers import IRSDE, RDDM, IRSDEDenoising, ResShift

pytestmark = pytest.mark.usefixtures("single_thread")

LABELS = torch.tensor([3.0, 64.0])
randn = partial(helpers.randn, dtype=F32)


# Published layouts: names and shapes


def conv(name, taken, returned, side=3, bias=True):
    shapes = {f"{name}.weight": (returned, taken, side, side)}
    return shapes | ({f"{name}.bias": (returned,)} if bias else {})


def linear(name, taken, returned):
    return {f"{name}.weight": (returned, taken), f"{name}.bias": (returned,)}


def norm(name, channels):
    return {f"{name}.weight": (channels,), f"{name}.bias": (channels,)}


def unet_layout(taken, returned, features, multipliers, rddm, full, ending="final"):
    """IR-SDE's U-Net, or RDDM's ``Unet``; ``shared``: its ``UnetRes`` with one encoder."""
    shared = ending == "shared"

    def block(name, c, w):
        keys = linear(f"{name}.mlp.1", 4 * features, 2 * w)
        for part, taken in (("block1", c), ("block2", w)):
            keys |= conv(f"{name}.{part}.proj", taken, w, bias=rddm)
            keys |= norm(f"{name}.{part}.norm", w) if rddm else {}
        return keys | (conv(f"{name}.res_conv", c, w, 1, bias=rddm) if c != w else {})

    def attention(name, c, linear):
        keys = {f"{name}.norm.g": (1, c, 1, 1)} | conv(f"{name}.fn.to_qkv", c, 384, 1, bias=False)
        if not linear:
            return keys | conv(f"{name}.fn.to_out", 128, c, 1)
        return (
            keys | conv(f"{name}.fn.to_out.0", 128, c, 1) | {f"{name}.fn.to_out.1.g": (1, c, 1, 1)}
        )

    def level(name, c, w, resample):
        blocks = block(f"{name}.0", c, w) | block(f"{name}.1", c, w)
        return blocks | attention(f"{name}.2.fn", w, linear=True) | resample

    widths = [features, *(features * m for m in multipliers)]
    depth, last = len(multipliers), widths[-1]
    keys = conv("init_conv", taken, features, 7, bias=rddm)
    keys |= linear("time_mlp.1", features, 4 * features)
    keys |= linear("time_mlp.3", 4 * features, 4 * features)
    keys |= block("mid_block1", last, last) | block("mid_block2", last, last)
    keys |= attention("mid_attn.fn", last, linear=not full)
    for i in range(depth):
        fine, coarse, name = widths[i], widths[i + 1], f"downs.{i}"
        ends = i == depth - 1
        down = conv(f"{name}.3", fine, coarse, 3 if ends else 4, bias=rddm or not ends)
        keys |= level(name, fine, fine, down)
        for ups in ("ups", "ups_no_skip") if shared else ("ups",):
            name = f"{ups}.{depth - 1 - i}"
            up = (
                conv(f"{name}.3.1", coarse, fine)
                if i
                else conv(f"{name}.3", coarse, fine, bias=rddm)
            )
            keys |= level(name, coarse + fine * (ups == "ups"), coarse, up)
    for suffix, c in (
        {"_1": features, "_2": 2 * features}.items() if shared else [("", 2 * features)]
    ):
        keys |= block(f"final_res_block{suffix}", c, features)
        keys |= conv(f"final_conv{suffix}", features, returned, 1 if rddm else 3)
    return keys


def irsde_layout(features=64, multipliers=(2, 4, 8, 16), full=False):
    return unet_layout(6, 3, features, multipliers, rddm=False, full=full)


def rddm_layout(features=64, multipliers=(1, 2, 4, 8), ending="final"):
    return unet_layout(6, 3, features, multipliers, rddm=True, full=True, ending=ending)


def nafnet_layout(width=64, encoders=(1, 1, 1, 28), middle=1, decoders=(1, 1, 1, 1)):
    def block(name, c):
        keys = linear(f"{name}.mlp.1", 2 * width, 4 * c) | conv(f"{name}.conv1", c, 2 * c, 1)
        keys |= {f"{name}.conv2.weight": (2 * c, 1, 3, 3), f"{name}.conv2.bias": (2 * c,)}
        keys |= conv(f"{name}.sca.1", c, c, 1) | conv(f"{name}.conv3", c, c, 1)
        keys |= conv(f"{name}.conv4", c, 2 * c, 1) | conv(f"{name}.conv5", c, c, 1)
        return keys | {
            f"{name}.{p}": (1, c, 1, 1) for p in ("norm1.g", "norm2.g", "beta", "gamma")
        }

    depth = len(encoders)
    keys = conv("intro", 6, width) | conv("ending", width, 3)
    keys |= linear("time_mlp.1", width, 8 * width) | linear("time_mlp.3", 4 * width, 4 * width)
    for i in range(depth):
        fine, up = width * 2**i, width * 2 ** (depth - i)
        keys |= conv(f"downs.{i}", fine, 2 * fine, 2) | conv(
            f"ups.{i}.0", up, 2 * up, 1, bias=False
        )
        for j in range(encoders[i]):
            keys |= block(f"encoders.{i}.{j}", fine)
        for j in range(decoders[i]):
            keys |= block(f"decoders.{i}.{j}", up // 2)
    for j in range(middle):
        keys |= block(f"middle_blks.{j}", width * 2**depth)
    return keys


def resshift_layout(
    latents=3, image=3, halvings=0, width=160, multipliers=(1, 2, 2, 4), swin=(192, 6, 8), side=64
):
    """ResShift's ``UNetModelSwin``; ``side`` is that of the latents it was built for."""
    time = 4 * width

    def block(name, c, w):
        keys = norm(f"{name}.in_layers.0", c) | conv(f"{name}.in_layers.2", c, w)
        keys |= linear(f"{name}.emb_layers.1", time, 2 * w)
        keys |= norm(f"{name}.out_layers.0", w) | conv(f"{name}.out_layers.3", w, w)
        return keys | (conv(f"{name}.skip_connection", c, w, 1) if c != w else {})

    def layer(name, c, size):
        embed, heads, window = swin
        pixels = window**2
        keys = conv(f"{name}.patch_embed.proj", c, embed, 1)
        keys |= conv(f"{name}.patch_unembed.proj", embed, c, 1)
        for i in range(2):
            b = f"{name}.blocks.{i}"
            keys |= norm(f"{b}.norm1", embed) | norm(f"{b}.norm2", embed)
            keys |= linear(f"{b}.attn.qkv", embed, 3 * embed) | linear(
                f"{b}.attn.proj", embed, embed
            )
            keys |= conv(f"{b}.mlp.fc1", embed, 4 * embed, 1) | conv(
                f"{b}.mlp.fc2", 4 * embed, embed, 1
            )
            keys[f"{b}.attn.relative_position_bias_table"] = ((2 * window - 1) ** 2, heads)
            keys[f"{b}.attn.relative_position_index"] = (pixels, pixels)
            if i and size > window:
                keys[f"{b}.attn_mask"] = ((size // window) ** 2, pixels, pixels)
        return keys

    keys, features = {}, image
    for i in range(halvings):
        w = 16 * 2**i
        keys |= conv(f"feature_extractor.{3 * i}", features, w)
        keys |= conv(f"feature_extractor.{3 * i + 2}.op", w, 2 * w)
        features = 2 * w
    keys |= linear("time_embed.0", width, time) | linear("time_embed.2", time, time)
    keys |= conv("input_blocks.0.0", latents + features, width)
    stage, c, skips, levels = 1, width, [width], len(multipliers)
    for i, m in enumerate(multipliers):
        for j in range(2):
            keys |= block(f"input_blocks.{stage}.0", c, m * width)
            c = m * width
            keys |= layer(f"input_blocks.{stage}.1", c, side >> i) if j == 0 else {}
            skips.append(c)
            stage += 1
        if i < levels - 1:
            keys |= conv(f"input_blocks.{stage}.0.op", c, c)
            skips.append(c)
            stage += 1
    keys |= block("middle_block.0", c, c) | block("middle_block.2", c, c)
    keys |= layer("middle_block.1", c, side >> levels - 1)
    for stage in range(3 * levels):
        i, j = levels - 1 - stage // 3, stage % 3
        w, name = multipliers[i] * width, f"output_blocks.{stage}"
        keys |= block(f"{name}.0", c + skips.pop(), w)
        keys |= layer(f"{name}.1", w, side >> i) if j == 0 else {}
        keys |= conv(f"{name}.1.conv", w, w) if i and j == 2 else {}
        c = w
    return keys | norm("out.0", width) | conv("out.2", width, latents)


def vq_layout(ch=128, multipliers=(1, 2, 4), blocks=(2, 2, 2), latents=3, codes=8192):
    def block(name, c, w):
        keys = norm(f"{name}.norm1", c) | conv(f"{name}.conv1", c, w)
        keys |= norm(f"{name}.norm2", w) | conv(f"{name}.conv2", w, w)
        return keys | (conv(f"{name}.nin_shortcut", c, w, 1) if c != w else {})

    def ends(name, taken, first, last, returned):
        keys = conv(f"{name}.conv_in", taken, first) | norm(f"{name}.norm_out", last)
        keys |= conv(f"{name}.conv_out", last, returned) | norm(
            f"{name}.mid.attn_1.norm", coarsest
        )
        for i in (1, 2):
            keys |= block(f"{name}.mid.block_{i}", coarsest, coarsest)
        for part in ("q", "k", "v", "proj_out"):
            keys |= conv(f"{name}.mid.attn_1.{part}", coarsest, coarsest, 1)
        return keys

    widths, levels = [ch * m for m in multipliers], len(multipliers)
    coarsest = widths[-1]
    keys = ends("encoder", 3, ch, coarsest, latents) | ends("decoder", latents, coarsest, ch, 3)
    for i, w in enumerate(widths):
        before, above = widths[max(i - 1, 0)], widths[min(i + 1, levels - 1)]
        for j in range(blocks[i]):
            keys |= block(f"encoder.down.{i}.block.{j}", w if j else before, w)
        for j in range(blocks[i] + 1):
            keys |= block(f"decoder.up.{i}.block.{j}", w if j else above, w)
        keys |= conv(f"encoder.down.{i}.downsample.conv", w, w) if i < levels - 1 else {}
        keys |= conv(f"decoder.up.{i}.upsample.conv", w, w) if i else {}
    keys |= conv("quant_conv", latents, latents, 1) | conv("post_quant_conv", latents, latents, 1)
    return keys | {"quantize.embedding.weight": (codes, latents)}


def weights(layout, seed=0):
    """Random weights of a layout, under which normalisation, attention and the label matter."""
    draw, state = torch.Generator().manual_seed(seed), {}
    for name, shape in layout.items():
        spread = 0.2 if len(shape) == 1 else math.prod(shape[1:]) ** -0.5
        if name.endswith((".g", "beta", "gamma", "table")):
            spread = 0.2
        state[name] = spread * torch.randn(shape, generator=draw)
        if name.endswith(".g") or (len(shape) == 1 and name.endswith("weight")):
            state[name] += 1
        if name.endswith("relative_position_index"):
            state[name] = torch.zeros(shape, dtype=torch.int64)
    return state


# What the networks compute, from the published names


def conv_of(s, name, x, **options):
    side = s[f"{name}.weight"].shape[-1]
    padding = options.pop("padding", side // 2)
    return F.conv2d(x, s[f"{name}.weight"], s.get(f"{name}.bias"), padding=padding, **options)


def linear_of(s, name, x):
    return F.linear(x, s[f"{name}.weight"], s[f"{name}.bias"])


def sinusoids(label, features, sines_first):
    """Transformer features: of IR-SDE and RDDM with sines first, of ADM with cosines first."""
    half = features // 2
    last = half - 1 if sines_first else half
    phases = [[float(t) * math.exp(-math.log(1e4) * i / last) for i in range(half)] for t in label]
    waves = [torch.tensor(phases).sin(), torch.tensor(phases).cos()]
    return torch.cat(waves if sines_first else waves[::-1], 1)


def pixel_norm(g, x):
    """Layer normalisation over the channels of each pixel, without a bias."""
    return g * F.layer_norm(x.movedim(1, -1), x.shape[1:2], eps=1e-5).movedim(-1, 1)


def modulation(values, parts):
    return [v[:, :, None, None] for v in values.chunk(parts, 1)]


def unet_block(s, name, x, time):
    """IR-SDE's and RDDM's residual block."""
    scale, shift = modulation(linear_of(s, f"{name}.mlp.1", F.silu(time)), 2)
    h = x
    for part in ("block1", "block2"):
        weight, bias = s[f"{name}.{part}.proj.weight"], s.get(f"{name}.{part}.proj.bias")
        if bias is not None:
            flat = weight.flatten(1)
            flat = (flat - flat.mean(1, True)) / (
                flat.var(1, correction=0, keepdim=True) + 1e-5
            ) ** 0.5
            h = F.conv2d(h, flat.view_as(weight), bias, padding=1)
            h = F.group_norm(h, 8, s[f"{name}.{part}.norm.weight"], s[f"{name}.{part}.norm.bias"])
        else:
            h = F.conv2d(h, weight, padding=1)
        h = F.silu(h * (1 + scale) + shift if part == "block1" else h)
    return h + (conv_of(s, f"{name}.res_conv", x) if f"{name}.res_conv.weight" in s else x)


def unet_attention(s, name, x):
    """Attention head by head, by the matrix of all pairs of pixels where it is not linear."""
    n = math.prod(x.shape[2:])
    qkv = conv_of(s, f"{name}.fn.fn.to_qkv", pixel_norm(s[f"{name}.fn.norm.g"], x)).flatten(2)
    heads, is_linear = [], f"{name}.fn.fn.to_out.0.weight" in s
    for q, k, v in zip(*(part.chunk(4, 1) for part in qkv.chunk(3, 1)), strict=True):
        if is_linear:
            context = torch.einsum("bdn,ben->bde", k.softmax(2), v / n)
            heads.append(torch.einsum("bde,bdn->ben", context, q.softmax(1) * 32**-0.5))
        else:
            pairs = torch.einsum("bdi,bdj->bij", q * 32**-0.5, k).softmax(2)
            heads.append(torch.einsum("bij,bdj->bdi", pairs, v))
    h = torch.cat(heads, 1).view(len(x), -1, *x.shape[2:])
    if not is_linear:
        return x + conv_of(s, f"{name}.fn.fn.to_out", h)
    return x + pixel_norm(s[f"{name}.fn.fn.to_out.1.g"], conv_of(s, f"{name}.fn.fn.to_out.0", h))


def unet_by_hand(s, x, label):
    depth = 1 + max(int(k.split(".")[1]) for k in s if k.startswith("downs."))
    time = sinusoids(label, s["time_mlp.1.weight"].shape[1], sines_first=True)
    time = linear_of(s, "time_mlp.3", F.gelu(linear_of(s, "time_mlp.1", time)))
    x = first = conv_of(s, "init_conv", x)
    skips = []
    for i in range(depth):
        skips.append(x := unet_block(s, f"downs.{i}.0", x, time))
        x = unet_attention(s, f"downs.{i}.2", unet_block(s, f"downs.{i}.1", x, time))
        skips.append(x)
        step = {} if i == depth - 1 else {"stride": 2, "padding": 1}
        x = conv_of(s, f"downs.{i}.3", x, **step)
    x = unet_attention(s, "mid_attn", unet_block(s, "mid_block1", x, time))
    x = unet_block(s, "mid_block2", x, time)

    def ascend(x, ups):
        rest = list(skips)
        for i in range(depth):
            for j in (0, 1):
                x = torch.cat([x, rest.pop()], 1) if ups == "ups" else x
                x = unet_block(s, f"{ups}.{i}.{j}", x, time)
            x = unet_attention(s, f"{ups}.{i}.2", x)
            if i < depth - 1:
                x = conv_of(s, f"{ups}.{i}.3.1", F.interpolate(x, scale_factor=2.0))
        return conv_of(s, f"{ups}.{depth - 1}.3", x)

    def end(x, suffix):
        x = unet_block(s, f"final_res_block{suffix}", x, time)
        return conv_of(s, f"final_conv{suffix}", x)

    outer = torch.cat([ascend(x, "ups"), first], 1)
    if "final_conv.weight" in s:
        return end(outer, "")
    return torch.cat([end(ascend(x, "ups_no_skip"), "_1"), end(outer, "_2")], 1)


def nafnet_by_hand(s, x, label):
    def gate(x):
        half = x.shape[1] // 2
        return x[:, :half] * x[:, half:]

    def stage(name, x):
        count = len(
            {k.split(".")[-4] for k in s if k.startswith(name) and k.endswith("mlp.1.bias")}
        )
        for name_ in [f"{name}{i}" for i in range(count)]:
            parts = modulation(linear_of(s, f"{name_}.mlp.1", gate(time)), 4)
            h = pixel_norm(s[f"{name_}.norm1.g"], x) * (1 + parts[1]) + parts[0]
            h = conv_of(s, f"{name_}.conv1", h)
            h = gate(conv_of(s, f"{name_}.conv2", h, groups=h.shape[1]))
            h = h * conv_of(s, f"{name_}.sca.1", h.mean((2, 3), keepdim=True))
            x = x + s[f"{name_}.beta"] * conv_of(s, f"{name_}.conv3", h)
            h = pixel_norm(s[f"{name_}.norm2.g"], x) * (1 + parts[3]) + parts[2]
            h = gate(conv_of(s, f"{name_}.conv4", h))
            x = x + s[f"{name_}.gamma"] * conv_of(s, f"{name_}.conv5", h)
        return x

    depth = len({k.split(".")[1] for k in s if k.startswith("downs.")})
    time = sinusoids(label, s["time_mlp.1.weight"].shape[1], sines_first=True)
    time = linear_of(s, "time_mlp.3", gate(linear_of(s, "time_mlp.1", time)))
    x, skips = conv_of(s, "intro", x), []
    for i in range(depth):
        skips.append(x := stage(f"encoders.{i}.", x))
        x = conv_of(s, f"downs.{i}", x, stride=2, padding=0)
    x = stage("middle_blks.", x)
    for i in range(depth):
        x = F.pixel_shuffle(conv_of(s, f"ups.{i}.0", x), 2) + skips.pop()
        x = stage(f"decoders.{i}.", x)
    return conv_of(s, "ending", x)


def window_attention(s, name, x, heads, window, shift):
    """Torchvision's, of (B, C, H, W)."""
    module = swin_transformer.ShiftedWindowAttention(x.shape[1], [window] * 2, [shift] * 2, heads)
    bias = s[f"{name}.relative_position_bias_table"][module.relative_position_index]
    return swin_transformer.shifted_window_attention(
        x.movedim(1, -1),
        s[f"{name}.qkv.weight"],
        s[f"{name}.proj.weight"],
        bias.view(window**2, window**2, heads).permute(2, 0, 1)[None],
        [window] * 2,
        heads,
        [shift] * 2,
        qkv_bias=s[f"{name}.qkv.bias"],
        proj_bias=s[f"{name}.proj.bias"],
    ).movedim(-1, 1)


def features_by_hand(s, image):
    """What ResShift's network makes of the degraded image."""
    i = 0
    while f"feature_extractor.{i}.weight" in s:
        image = F.silu(conv_of(s, f"feature_extractor.{i}", image))
        image = conv_of(s, f"feature_extractor.{i + 2}.op", image, stride=2)
        i += 3
    return image


def resshift_by_hand(s, x, label, image, heads, window):
    def normed(name, x):
        return F.group_norm(x, 32, s[f"{name}.weight"], s[f"{name}.bias"])

    def block(name, x):
        scale, shift = modulation(linear_of(s, f"{name}.emb_layers.1", F.silu(time)), 2)
        h = conv_of(s, f"{name}.in_layers.2", F.silu(normed(f"{name}.in_layers.0", x)))
        h = F.silu(normed(f"{name}.out_layers.0", h) * (1 + scale) + shift)
        skip = f"{name}.skip_connection"
        x = conv_of(s, skip, x) if f"{skip}.weight" in s else x
        return x + conv_of(s, f"{name}.out_layers.3", h)

    def swin(name, x):
        if f"{name}.patch_embed.proj.weight" not in s:
            return x
        x = conv_of(s, f"{name}.patch_embed.proj", x)
        for i in (0, 1):
            b = f"{name}.blocks.{i}"
            shift = window // 2 if f"{b}.attn_mask" in s else 0
            x = x + window_attention(s, f"{b}.attn", normed(f"{b}.norm1", x), heads, window, shift)
            h = F.gelu(conv_of(s, f"{b}.mlp.fc1", normed(f"{b}.norm2", x)))
            x = x + conv_of(s, f"{b}.mlp.fc2", h)
        return conv_of(s, f"{name}.patch_unembed.proj", x)

    time = sinusoids(label, s["time_embed.0.weight"].shape[1], sines_first=False)
    time = linear_of(s, "time_embed.2", F.silu(linear_of(s, "time_embed.0", time)))
    h, skips = conv_of(s, "input_blocks.0.0", torch.cat([x, features_by_hand(s, image)], 1)), []
    skips.append(h)
    while (name := f"input_blocks.{len(skips)}") and any(k.startswith(f"{name}.") for k in s):
        if f"{name}.0.op.weight" in s:
            h = conv_of(s, f"{name}.0.op", h, stride=2)
        else:
            h = swin(f"{name}.1", block(f"{name}.0", h))
        skips.append(h)
    h = block("middle_block.2", swin("middle_block.1", block("middle_block.0", h)))
    for i in range(len(skips)):
        name = f"output_blocks.{i}"
        h = swin(f"{name}.1", block(f"{name}.0", torch.cat([h, skips.pop()], 1)))
        if f"{name}.1.conv.weight" in s:
            h = conv_of(s, f"{name}.1.conv", F.interpolate(h, scale_factor=2.0))
    return conv_of(s, "out.2", F.silu(normed("out.0", h)))


# Tiny checkpoints of the published layouts

TINY_SWIN = {"width": 32, "multipliers": (1, 2), "swin": (32, 2, 2), "side": 4}
TINY_VQ = {"ch": 32, "multipliers": (1, 2, 2), "blocks": (1, 2, 1), "codes": 64}


def saved(folder, state, name="model.pth"):
    path = folder / name
    if name.endswith(".safetensors"):
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


TINY_CODE = weights(vq_layout(**TINY_VQ))


def autoencoder_of(state):
    return load_network(lambda s: vq.VQAutoencoder(vq.read_config(s)), state, "path: a copy")


@functools.cache
def tiny_resshift(**layout):
    """A tiny ResShift restorer of four steps, and the weights of its network."""
    state = weights(resshift_layout(**TINY_SWIN, **layout))
    code = autoencoder_of(TINY_CODE)
    return resshift_family.build(state, "path: 'resshift_s4.pth'", {"autoencoder": code}), state


def called(network, seen, label, degraded):
    with torch.no_grad():
        return network(seen, label, degraded)


# The networks have the published layouts, and as many parameters as published


@pytest.mark.parametrize(
    ("layout", "make", "millions"),
    [
        # Millions of parameters of ResShift and of its autoencoder as ProSR's comparison has them.
        (irsde_layout(), lambda s: unet.ResidualUNet(unet.read_config(s)), None),
        (rddm_layout(), lambda s: unet.ResidualUNet(unet.read_config(s)), None),
        (
            rddm_layout(ending="shared"),
            lambda s: unet.SharedUNet(unet.read_config(s, "final_conv_2")),
            None,
        ),
        (nafnet_layout(), lambda s: nafnet.ConditionalNAFNet(nafnet.read_config(s)), None),
        (vq_layout(), lambda s: vq.VQAutoencoder(vq.read_config(s)), 55.32),
        (
            vq_layout(64, (1, 2, 4, 8), (1, 2, 3, 4), 8, 4096),
            lambda s: vq.VQAutoencoder(vq.read_config(s)),
            None,
        ),
        (resshift_layout(), resshift_family.make_network, 118.59),
        (resshift_layout(halvings=1), resshift_family.make_network, None),
        (resshift_layout(image=4, halvings=2), resshift_family.make_network, None),
        (resshift_layout(latents=8, halvings=3), resshift_family.make_network, None),
    ],
    ids=[
        "irsde",
        "rddm",
        "rddm-shared",
        "nafnet",
        "vq-f4",
        "vq-f8",
        "x4",
        "x2",
        "inpainting",
        "faces",
    ],
)
def test_networks_have_the_published_weights(layout, make, millions):
    with torch.device("meta"):
        state = {k: torch.empty(shape) for k, shape in layout.items()}
        network = make(state)
    ours = {k.removeprefix("unet."): tuple(v.shape) for k, v in network.state_dict().items()}
    derived = {k for k in layout if k.endswith(resshift_family.DERIVED)}
    assert ours == {k: v for k, v in layout.items() if k not in derived}
    if millions is not None:
        count = sum(p.numel() for p in network.parameters()) / 1e6
        assert count == pytest.approx(millions, abs=0.01)


# The networks compute what the papers' do


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("size", [(8, 8), (8, 16)])
def test_irsde_unet(tmp_path, full, size):
    state = weights(irsde_layout(16, (1, 2, 2), full))
    restorer = priors.load(saved(tmp_path, state))
    x, m = randn(2, 3, *size), randn(2, 3, *size, seed=1)
    expected = unet_by_hand(state, torch.cat([x - m, m], 1), LABELS)
    assert relative(restorer.predict(x, LABELS, m), expected) < 1e-5
    alpha, sigma = (v.float().view(-1, 1, 1, 1) for v in MeanReverting(10.0)(LABELS))
    x0 = m + (x - m - sigma * expected) / alpha
    assert relative(restorer.denoise(x, LABELS, m), x0) < 1e-5
    assert torch.equal(restorer.to_units(x), x)


def test_nafnet(tmp_path):
    state = weights(nafnet_layout(8, (1, 2), 2, (1, 1)))
    schedule = MeanReverting(50.0)
    restorer = priors.load(saved(tmp_path, state, "m.safetensors"), schedule=schedule)
    x, m = randn(2, 3, 8, 12), randn(2, 3, 8, 12, seed=1)
    expected = nafnet_by_hand(state, torch.cat([x - m, m], 1), LABELS)
    assert relative(restorer.predict(x, LABELS, m), expected) < 1e-5
    assert restorer.schedule is schedule


def rddm_nets(names, ending="final"):
    layouts = {name: rddm_layout(16, (1, 2), ending) for name in names}
    return {name: weights(layout, seed=i) for i, (name, layout) in enumerate(layouts.items())}


def joined(nets, prefix=""):
    return {f"{prefix}{net}{k}": v for net, state in nets.items() for k, v in state.items()}


@pytest.mark.parametrize(
    ("names", "ending"),
    [
        (("",), "final"),
        (("unet0.",), "final"),
        (("unet0.", "unet1."), "final"),
        (("",), "shared"),
    ],
)
def test_rddm_networks(tmp_path, names, ending):
    """One network, two, or two heads on one encoder, at labels that are indices, t - 1."""
    nets = rddm_nets(names, ending)
    restorer = priors.load(saved(tmp_path, joined(nets)))
    x, m, t = randn(2, 3, 8, 12), randn(2, 3, 8, 12, seed=1), LABELS
    heads = [unet_by_hand(s, torch.cat([x, m], 1), t - 1) for s in nets.values()]
    two = len(names) == 2 or ending == "shared"
    assert restorer.prediction == ("residual+noise" if two else "residual")
    assert relative(restorer.predict(x, t, m), torch.cat(heads, 1)) < 1e-5
    assert restorer.data_range == (0.0, 1.0)


def rddm_process(scale, T=20):
    """The tables that RDDM's trainer saves, float32, of its decreased and increased steps."""
    steps = torch.arange(1, T + 1, dtype=torch.float64) / (T * (T + 1) / 2)
    noise = scale * steps.cumsum(0)
    tables = {"alphas_cumsum": steps.flip(0).cumsum(0), "betas_cumsum": noise.sqrt()}
    return {k: v.float() for k, v in (tables | {"betas2_cumsum": noise}).items()}


@pytest.mark.parametrize("averaged", [False, True])
def test_rddm_trainer_files(tmp_path, averaged):
    """Of a trainer's file the averaged weights count, and the schedule that it keeps."""
    nets, other = rddm_nets(("unet0.", "unet1.")), rddm_nets(("unet1.", "unet0."))
    inner = joined(nets, "model.") | rddm_process(0.01)
    content = {"step": 3, "model": inner, "opt": {"state": {}}, "scaler": None}
    if averaged:
        worse = joined(other, "model.") | rddm_process(0.01)
        ema = {f"ema_model.{k}": v for k, v in inner.items()}
        ema |= {f"online_model.{k}": v for k, v in worse.items()}
        ema |= {"initted": torch.tensor([True]), "step": torch.tensor([3])}
        content |= {"model": worse, "ema": ema}
    restorer = priors.load(saved(tmp_path, content, "model-120.pt"))
    expected = rddm(20, 0.01)
    assert restorer.schedule.T == 20
    torch.testing.assert_close(restorer.schedule.sigma, expected.sigma, atol=1e-7, rtol=0)
    torch.testing.assert_close(restorer.schedule.alpha, expected.alpha, atol=1e-6, rtol=0)
    x, m, t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1), torch.tensor([1.0, 20.0])
    heads = [unet_by_hand(s, torch.cat([x, m], 1), t - 1) for s in nets.values()]
    assert relative(restorer.predict(x, t, m), torch.cat(heads, 1)) < 1e-5


@pytest.mark.parametrize(
    ("names", "predicts"), [(("unet0.", "unet1."), None), (("unet0.",), "noise")]
)
@pytest.mark.sampled
def test_rddm_of_ddim_coefficients_is_told_its_progress(tmp_path, names, predicts):
    """Processes converted from DDIM's are partially path-independent: labels are sums times T."""
    alpha_bar = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    process = {"alphas_cumsum": 1 - alpha_bar.sqrt(), "betas_cumsum": (1 - alpha_bar).sqrt()}
    nets = rddm_nets(names)
    path = saved(tmp_path, joined(nets, "model.") | process)
    restorer = priors.load(path, **({"prediction": predicts} if predicts else {}))
    x, m, t = randn(2, 3, 4, 4), randn(2, 3, 4, 4, seed=1), torch.tensor([500, 900])
    labels = {"unet0.": 1000 * process["alphas_cumsum"], "unet1.": 1000 * process["betas_cumsum"]}
    if predicts == "noise":
        labels = {"unet0.": labels["unet1."]}
    heads = [unet_by_hand(nets[n], torch.cat([x, m], 1), labels[n][t - 1]) for n in names]
    assert relative(restorer.predict(x, t.double(), m), torch.cat(heads, 1)) < 1e-4


def test_rddm_of_noise_alone_has_the_published_floor(tmp_path):
    path = saved(tmp_path, joined(rddm_nets(("",)), "model.") | rddm_process(1.0))
    restorer = priors.load(path, prediction="noise")
    assert (restorer.floor, float(restorer.schedule.alpha[-1])) == (1e-6, 0.0)
    assert priors.load(path).floor == 0
    other = priors.load(path, prediction="noise", schedule="rddm(20, floor=1e-6)")
    assert float(other.schedule.alpha[-1]) == 1e-6


def test_rddm_tables_that_are_no_schedule(tmp_path):
    process = rddm_process(1.0) | {"betas_cumsum": torch.zeros(20)}
    path = saved(tmp_path, joined(rddm_nets(("",)), "model.") | process)
    with pytest.raises(errors.CheckpointError, match=r"betas_cumsum are not a schedule"):
        priors.load(path)
    assert priors.load(path, schedule=rddm(50)).schedule.T == 50


@pytest.mark.parametrize("shift", [0, 2])
@pytest.mark.parametrize("size", [(8, 8), (12, 16)])
def test_window_attention_is_torchvisions(shift, size):
    layer = WindowAttention(SwinConfig(16, 64, 2, 4, (0, shift)), shift)
    with torch.no_grad():
        for i, p in enumerate(layer.parameters()):
            p.copy_(randn(*p.shape, seed=i) * p[0].numel() ** -0.5)
    x = randn(2, 16, *size)
    with torch.no_grad():
        state = {f"a.{k}": v for k, v in layer.state_dict().items()}
        expected = window_attention(state, "a", x, 2, 4, shift)
        assert relative(layer(x), expected) < 1e-5
        if shift:
            assert relative(window_attention(state, "a", x, 2, 4, 0), expected) > 0.1


@pytest.mark.parametrize("halvings", [0, 1, 2])
def test_resshift_network(halvings):
    """Super-resolution by 4 and 2, and restoration at the same size, told apart by the weights."""
    restorer, state = tiny_resshift(halvings=halvings)
    assert restorer.upsample == 4 >> halvings
    x, image = randn(2, 3, 8, 12), randn(2, 3, 8 << halvings, 12 << halvings, seed=1)
    expected = resshift_by_hand(state, x, LABELS, image, heads=2, window=2)
    got = called(restorer.prior.network, x, LABELS, Degraded(x, image))
    assert relative(got, expected) < 1e-5


def test_resshift_restorer():
    """It sees scaled latents, the index of the time, and the degraded image in [-1, 1]."""
    restorer, state = tiny_resshift(halvings=0)
    y = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    degraded = restorer.degraded(y)
    upsampled = F.interpolate(y, scale_factor=4.0, mode="bicubic")
    assert relative(degraded.anchor, restorer.autoencoder.encode(2 * upsampled - 1)) < 1e-5
    x, t = randn(2, 3, 8, 8), torch.tensor([2.0, 4.0])
    sigma = resshift(4, min_noise=0.2)(t)[1].float().view(-1, 1, 1, 1)
    seen = x / torch.sqrt(sigma**2 + 1)
    expected = resshift_by_hand(state, seen, t - 1, 2 * y - 1, heads=2, window=2)
    assert relative(restorer.denoise(x, t, degraded), expected) < 1e-5


@pytest.mark.slow
def test_steps_are_read_off_the_published_names_or_asked_for(tmp_path):
    _, state = tiny_resshift(halvings=0)
    code = saved(tmp_path, TINY_CODE, "code.pth")
    path = saved(tmp_path, {"state_dict": state}, "resshift_realsrx4_s15_v2.pth")
    published = priors.load(path, autoencoder=code).schedule
    assert torch.equal(published.sigma, resshift().sigma)
    path = saved(tmp_path, state, "model.pth")
    assert priors.load(path, autoencoder=code, steps=4).schedule.T == 4
    assert priors.load(path, autoencoder=code, schedule=resshift(7)).schedule.T == 7
    with pytest.raises(errors.ArgumentError, match="steps: got None, accepted: 15 or 4"):
        priors.load(path, autoencoder=code)
    with pytest.raises(errors.ArgumentError, match="steps: got 5"):
        priors.load(path, autoencoder=code, steps=5)


def diffusers_vq(state, latents, codes):
    """Diffusers' autoencoder with our weights; 64 channels at the coarsest of three levels."""
    model = VQModel(
        block_out_channels=(32, 64, 64),
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        layers_per_block=1,
        latent_channels=latents,
        num_vq_embeddings=codes,
        norm_num_groups=32,
    ).eval()
    renamed = {}
    for key, value in state.items():
        new = key.replace("nin_shortcut", "conv_shortcut").replace("norm_out", "conv_norm_out")
        new = new.replace("mid.block_1", "mid_block.resnets.0").replace(
            "mid.block_2", "mid_block.resnets.1"
        )
        new = new.replace("mid.attn_1.norm", "mid_block.attentions.0.group_norm")
        for old, part in {"q": "to_q", "k": "to_k", "v": "to_v", "proj_out": "to_out.0"}.items():
            new = new.replace(f"mid.attn_1.{old}.", f"mid_block.attentions.0.{part}.")
        for side, blocks in (("down", "encoder.down"), ("up", "decoder.up")):
            for i in range(3):
                place = i if side == "down" else 2 - i
                new = new.replace(f"{blocks}.{i}.block", f"{blocks}_blocks.{place}.resnets")
                new = new.replace(
                    f"{blocks}.{i}.{side}sample", f"{blocks}_blocks.{place}.{side}samplers.0"
                )
        renamed[new] = value[..., 0, 0] if "attentions" in new and value.ndim == 4 else value
    model.load_state_dict(renamed)
    return model


def test_autoencoder_is_diffusers(tmp_path):
    state = weights(vq_layout(**{**TINY_VQ, "blocks": (1, 1, 1)}))
    state["quantize.embedding.weight"] *= 0.3
    ours = autoencoder_of(state)
    reference = diffusers_vq(state, 3, 64)
    x = randn(2, 3, 16, 24)
    with torch.no_grad():
        z = ours.encode(x)
        assert relative(z, reference.encode(x).latents) < 1e-5
        assert relative(ours.decode(z), reference.decode(z).sample) < 1e-5
    assert (ours.factor, ours.latent_channels) == (4, 3)


def test_codes_are_the_nearest(monkeypatch):
    """One by one; in chunks as well as at once; gradients pass as if nothing was rounded."""
    book = vq.Codebook(20, 3)
    z = randn(2, 3, 5, 7, seed=2)
    with torch.no_grad():
        rounded = book(z)
        for pixel, got in zip(
            z.movedim(1, -1).reshape(-1, 3), rounded.movedim(1, -1).reshape(-1, 3), strict=True
        ):
            nearest = min(book.embedding.weight, key=lambda code: float((code - pixel).norm()))
            assert torch.equal(got, nearest)
        monkeypatch.setattr(vq, "CHUNK", 9)
        assert torch.equal(book(z), rounded)
    ours = autoencoder_of(weights(vq_layout(**TINY_VQ)))
    z = randn(1, 3, 2, 2).requires_grad_()
    (through,) = torch.autograd.grad(ours.decode(z).sum(), z)
    code = ours.quantize(z).detach().requires_grad_()
    (at_code,) = torch.autograd.grad(ours.decoder(ours.post_quant_conv(code)).sum(), code)
    assert relative(through, at_code) < 1e-5


def test_channel_norm():
    layer = ChannelNorm(5)
    with torch.no_grad():
        layer.g.copy_(randn(1, 5, 1, 1))
    x = 3 + 2 * randn(2, 5, 3, 4)
    assert relative(layer(x), pixel_norm(layer.g, x)) < 1e-6


# Any size


@pytest.mark.parametrize(("family", "mode"), [("unet", "reflect"), ("nafnet", "constant")])
def test_sides_are_padded_as_published_and_cropped(tmp_path, family, mode):
    layouts = {"unet": irsde_layout(16, (1, 2)), "nafnet": nafnet_layout(8, (1, 1), 1, (1, 1))}
    state = weights(layouts[family])
    network = priors.load(saved(tmp_path, state)).network
    x, m = randn(1, 3, 5, 6), randn(1, 3, 5, 6, seed=1)
    both = F.pad(torch.cat([x, m], 1), (0, 2, 0, 3), mode)
    by_hand = unet_by_hand if family == "unet" else nafnet_by_hand
    expected = by_hand(state, both, LABELS[:1])[..., :5, :6]
    assert relative(called(network, x, LABELS[:1], Degraded(m, m)), expected) < 1e-5


def test_rddm_takes_sides_that_its_levels_halve_as_they_are(tmp_path):
    """Four levels halve three times; the published network takes multiples of 8 unpadded."""
    nets = {"": weights(rddm_layout(16, (1, 1, 1, 1)))}
    restorer = priors.load(saved(tmp_path, nets[""]))
    x, m = randn(1, 3, 8, 24), randn(1, 3, 8, 24, seed=1)
    expected = unet_by_hand(nets[""], torch.cat([x, m], 1), LABELS[:1] - 1)
    assert relative(restorer.predict(x, LABELS[:1], m), expected) < 1e-5


def test_resshift_pads_latents_and_the_degraded_image_alike():
    """To multiples of a window at the coarsest level: here 4 latents, 8 pixels of the image."""
    restorer, state = tiny_resshift(halvings=1)
    x, image = randn(1, 3, 7, 6), randn(1, 3, 14, 12, seed=1)
    padded = (F.pad(x, (0, 2, 0, 1), "reflect"), F.pad(image, (0, 4, 0, 2), "reflect"))
    expected = resshift_by_hand(state, padded[0], LABELS[:1], padded[1], 2, 2)[..., :7, :6]
    assert (
        relative(called(restorer.prior.network, x, LABELS[:1], Degraded(x, image)), expected)
        < 1e-5
    )
    with pytest.raises(errors.ShapeError, match=r"got a degraded image of sides \(7, 6\)"):
        restorer.prior.network(x, LABELS[:1], Degraded(x, image[..., :7, :6]))


def test_padding_refuses_what_reflection_cannot_reach():
    assert pad(randn(1, 1, 5, 8), 4).shape == (1, 1, 8, 8)
    with pytest.raises(
        errors.ShapeError, match=r"images of 3 x 8 .* multiple of 8, e.g. all above 4"
    ):
        pad(randn(1, 1, 3, 8), 8)


# Restoring


@pytest.mark.parametrize("family", ["irsde", "nafnet", "rddm", "resshift"])
def test_networks_in_other_precisions(tmp_path, family):
    """Images keep their dtype, whatever the network's; labels are not rounded to bfloat16."""
    if family == "resshift":
        restorer = copy.deepcopy(tiny_resshift(halvings=0)[0].prior)
    else:
        restorer = priors.load(saved(tmp_path, weights(LAYOUTS[family])))
    x, image, t = randn(1, 3, 8, 8), randn(1, 3, 8, 8, seed=1), torch.tensor([3.0])
    given = Degraded(image, image)
    expected = restorer.predict(x, t, given)
    for dtype, far in ((torch.float64, 1e-5), (torch.bfloat16, 0.1)):
        got = restorer.to(dtype).predict(x, t, given)
        assert got.dtype == torch.float32
        assert relative(got, expected) < far


def test_every_family_restores(tmp_path):
    """Shapes and ranges through the samplers; a batch gives each item what it gets alone."""
    y = torch.rand(2, 3, 12, 8, generator=torch.Generator().manual_seed(0))
    made = {
        IRSDE(steps=2): priors.load(saved(tmp_path, weights(irsde_layout(16, (1, 2))))),
        RDDM(steps=2): priors.load(saved(tmp_path, joined(rddm_nets(("unet0.", "unet1."))))),
        ResShift(steps=4): tiny_resshift(halvings=0)[0],
    }
    for solver, restorer in made.items():
        result = solver(y, None, restorer, seed=0).mean
        factor = restorer.upsample
        assert result.shape == (2, 3, 12 * factor, 8 * factor)
        assert bool(result.isfinite().all())
        alone = solver(y[:1], None, restorer, seed=0).mean
        assert relative(result[:1], alone) < 1e-3


def test_inpainting_is_told_the_mask():
    """A fourth channel of the degraded image, of which the anchor takes no notice."""
    restorer, state = tiny_resshift(image=4, halvings=2)
    y = torch.rand(1, 4, 16, 32, generator=torch.Generator().manual_seed(0))
    y[:, 3:] = (y[:, 3:] > 0.5).float()
    degraded = restorer.degraded(y)
    assert relative(degraded.anchor, restorer.to_units(y[:, :3])) < 1e-6
    x, t = randn(1, 3, 4, 8), torch.tensor([3.0])
    sigma = float(restorer.schedule(t)[1])
    expected = resshift_by_hand(state, x / math.hypot(sigma, 1), t - 1, 2 * y - 1, 2, 2)
    assert relative(restorer.denoise(x, t, degraded), expected) < 1e-5
    assert ResShift(steps=4)(y, None, restorer, seed=0).mean.shape == (1, 3, 16, 32)
    with pytest.raises(errors.ShapeError, match="y: got 3 channels, accepted: 4"):
        restorer.degraded(y[:, :3])


# One's own


OWN = {
    "network": {"channels": 3, "widths": [8, 16], "layers": 1, "heads": 1, "networks": 1},
    "process": {"name": "resshift", "T": 4},
    "predicts": "sample",
    "sees": "pixel",
    "upsample": 2,
    "channels": 3,
    "data_range": [0.0, 1.0],
    "latent": False,
}


def test_folders_and_shipped_names(tmp_path, monkeypatch):
    state = RestorationUNet(**OWN["network"]).state_dict()
    state = {k: v.contiguous() for k, v in state.items()}
    for folder in (tmp_path / "mine", tmp_path / "shipped" / "restorers" / "resshift-x2"):
        folder.mkdir(parents=True)
        saved(folder, state, "model.safetensors")
        (folder / "config.json").write_text(json.dumps(OWN))
    monkeypatch.setattr(registry, "WEIGHTS", tmp_path / "shipped")
    line = "restorer, 3 channel(s), 2 times larger, trained as resshift"
    assert priors.available() == {"resshift-x2": line}
    for source in (tmp_path / "mine", "resshift-x2"):
        restorer = priors.load(source)
        assert (restorer.upsample, restorer.schedule.T) == (2, 4)
        with pytest.raises(errors.ArgumentError, match=r"options: got .* accepted: no options"):
            priors.load(source, schedule=resshift())
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'resshift-x2'"):
        priors.load("resshift-x3")


# Bad input


def test_unknown_weights_name_the_families(tmp_path):
    path = saved(tmp_path, {"a.weight": torch.ones(1)})
    with pytest.raises(errors.CheckpointError, match="no known family") as error:
        priors.load(path)
    assert all(family.name in str(error.value) for family in FAMILIES)
    with pytest.raises(errors.CheckpointError, match="does not exist"):
        priors.load(tmp_path / "nothing.pth")


LAYOUTS = {
    "irsde": irsde_layout(16, (1, 2)),
    "nafnet": nafnet_layout(8, (1,), 1, (1,)),
    "rddm": rddm_layout(16, (1, 2)),
}


@pytest.mark.parametrize("family", LAYOUTS)
def test_misfits_are_named(tmp_path, family):
    state = weights(LAYOUTS[family])
    name = next(k for k in state if k.endswith("mlp.1.bias") and not k.startswith("time"))
    for content, message in (
        ({k: v for k, v in state.items() if k != name}, f"missing keys: {name}"),
        (state | {"extra": torch.ones(1)}, "unexpected keys: extra"),
        (state | {name: state[name][1:]}, f"shapes: {name}"),
        (state | {name: state[name] * torch.nan}, f"NaN or infinite values in {name}"),
    ):
        with pytest.raises(errors.CheckpointError, match=message):
            priors.load(saved(tmp_path, content))
    with pytest.raises(
        errors.UnknownNameError, match=r"options: unknown name 'shedule'.*schedule"
    ):
        priors.load(saved(tmp_path, state), shedule=1)
    with pytest.raises(errors.ArgumentError, match="schedule: got 3, accepted: "):
        priors.load(saved(tmp_path, state), schedule=3)


@pytest.mark.parametrize("family", LAYOUTS)
def test_networks_of_other_inputs_are_refused(tmp_path, family):
    """Such as RDDM's with a mask."""
    state = weights(LAYOUTS[family])
    first = "intro" if family == "nafnet" else "init_conv"
    state[f"{first}.weight"] = state[f"{first}.weight"][:, :4].contiguous()
    with pytest.raises(errors.CheckpointError, match="4 channels in and 3 out"):
        priors.load(saved(tmp_path, state))


@pytest.mark.parametrize(("family", "max_sigma", "T"), [("irsde", 75, 100), ("nafnet", 70, 1000)])
def test_networks_for_denoising_are_plain_priors(tmp_path, family, max_sigma, T):
    """They see the noisy image alone; alpha is 1."""
    state = weights(LAYOUTS[family])
    first = "intro" if family == "nafnet" else "init_conv"
    state[f"{first}.weight"] = state[f"{first}.weight"][:, :3].contiguous()
    path = saved(tmp_path, state)
    prior = priors.load(path)
    assert prior.anchor is None
    assert (prior.schedule.T, prior.schedule.terminal_std) == (T, max_sigma / 255)
    by_hand = nafnet_by_hand if family == "nafnet" else unet_by_hand
    x = randn(2, 3, 8, 12)
    sigma = prior.schedule(LABELS)[1].float().view(-1, 1, 1, 1)
    expected = x - sigma * by_hand(state, x, LABELS)
    assert relative(prior.denoise(x, LABELS), expected) < 1e-5
    y, operator = torch.rand(1, 3, 7, 9), Denoising((3, 7, 9), 15 / 255)
    assert IRSDEDenoising(steps=10)(y, operator, prior).samples.isfinite().all()
    other = priors.load(path, schedule="ir-sde-denoising(60, T=50)")
    assert (other.schedule.T, other.schedule.terminal_std) == (50, 60 / 255)
    with pytest.raises(errors.UnknownNameError, match="options: unknown name 'upsample'"):
        priors.load(path, upsample=2)


def test_rddm_refuses_predictions_of_other_networks(tmp_path):
    path = saved(tmp_path, joined(rddm_nets(("unet0.",))))
    with pytest.raises(errors.UnknownNameError, match=r"prediction: .* Known: residual, noise"):
        priors.load(path, prediction="residual+noise")


@pytest.mark.slow
def test_resshift_needs_its_autoencoder(tmp_path):
    _, state = tiny_resshift(halvings=0)
    path, code = saved(tmp_path, state, "resshift_s4.pth"), saved(tmp_path, TINY_CODE, "code.pth")
    with pytest.raises(
        errors.ArgumentError, match="autoencoder: got None, accepted: an Autoencoder with 3"
    ):
        priors.load(path)
    with pytest.raises(errors.CheckpointError, match=r"autoencoder: .* is not one of ResShift's"):
        priors.load(path, autoencoder=path)
    other = saved(tmp_path, weights(vq_layout(**TINY_VQ, latents=4)), "other.pth")
    with pytest.raises(
        errors.ArgumentError, match=r"autoencoder: got 4, .* with 3 latent channels"
    ):
        priors.load(path, autoencoder=other)
    small = saved(tmp_path, weights(vq_layout(32, (1, 2), (1, 1), codes=9)), "small.pth")
    deep = saved(tmp_path, weights(resshift_layout(**TINY_SWIN, halvings=2)), "deep_s4.pth")
    with pytest.raises(
        errors.ArgumentError, match=r"latents 2 times smaller', accepted: .* at least 4"
    ):
        priors.load(deep, autoencoder=small)
    unmasked = {k: v for k, v in state.items() if not k.endswith("attn_mask")}
    with pytest.raises(errors.CheckpointError, match="shifted windows"):
        priors.load(saved(tmp_path, unmasked, "x_s4.pth"), autoencoder=code)
