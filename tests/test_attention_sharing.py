"""Attention to a source beside the target: identities, limits and the layers that share."""

import dataclasses

import pytest
import torch
from tests.helpers import item_noise, rand
from tests.tiny_pipelines import made

from wellposed import errors, inversion, priors
from wellposed.inversion import DDIM, DirectInversion, MutualAttention, PromptToPrompt
from wellposed.priors.text.sharing import SharedKeys, SharedMaps, shared_attention
from wellposed.priors.text.side_by_side import alignment, side_by_side

pytestmark = pytest.mark.usefixtures("single_thread")
CAT, DOG = "a photo of a cat", "a photo of a dog"
EDITS = {
    "prompt-to-prompt": PromptToPrompt(steps=4, spacing="leading"),
    "mutual": MutualAttention(steps=4, spacing="leading", depth=0.0, skipped=0.0),
}
every_edit = pytest.mark.parametrize("method", EDITS.values(), ids=EDITS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    found = {}

    def of(name):
        if name not in found:
            found[name] = tmp_path_factory.mktemp("pipes") / name
            made(name).save_pretrained(found[name])
        return found[name]

    return of


@pytest.fixture(scope="module")
def source(folders):
    return priors.load(folders("sd"), prompt=CAT, guidance=3.0)


@pytest.fixture(scope="module")
def target(source):
    return source.with_prompt(DOG)


def latents(source, items=2):
    return 0.5 * item_noise(items, 4, 8, 8)


def side(source, target, sharing, items=2):
    """Estimates of both prompts side by side, from different latents, and each alone."""
    z, other = latents(source, items), latents(source, items).flip(0)
    both = side_by_side(source, target, sharing, items).denoise(torch.cat([z, other]), 500.0)
    alone = torch.cat([source.denoise(z, 500.0), target.denoise(other, 500.0)])
    return both, alone


# Limits


@pytest.mark.parametrize("name", ["sd", "sdxl"])
@pytest.mark.parametrize("sharing", [SharedMaps(cross=0, own=0), SharedKeys(depth=1.0)])
def test_without_sharing_both_are_estimated_as_alone(name, sharing, folders):
    source = priors.load(folders(name), prompt=CAT, guidance=3.0)
    both, alone = side(source, source.with_prompt(DOG), sharing)
    torch.testing.assert_close(both, alone, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharing", [SharedMaps(cross=1, own=1), SharedKeys(depth=0, skipped=0)])
def test_the_source_never_changes_and_the_target_does(sharing, source, target):
    both, alone = side(source, target, sharing)
    torch.testing.assert_close(both[:2], alone[:2], rtol=1e-5, atol=1e-5)
    assert (both[2:] - alone[2:]).norm() > 1e-4 * alone[2:].norm()


def test_shared_maps_concern_the_condition_and_the_first_part_of_the_run(source, target):
    for time, other in ((500.0, 0.0), (500.0, 0.49)):
        sharing = SharedMaps(cross=other, own=other)
        z = latents(source)
        both = side_by_side(source, target, sharing, 2).denoise(torch.cat([z, z]), time)
        torch.testing.assert_close(both[2:], target.denoise(z, time), rtol=1e-5, atol=1e-5)


@every_edit
def test_a_target_that_is_the_source_returns_the_image_as_ddim_does(method, source):
    image = rand(2, 3, 16, 16).float()
    same = source.with_prompt(CAT)
    plain = DDIM(steps=4, spacing="leading").edit(image, source, same)
    exact = DirectInversion(steps=4, spacing="leading").edit(image, source, same)
    found = method.edit(image, source, same)
    assert (found - exact).norm() < 1.5 * (plain - exact).norm() + 1e-3 * exact.norm()


@every_edit
def test_an_item_is_the_same_alone_and_in_a_batch(method, source, target):
    image = rand(3, 3, 16, 16).float()
    batch, one = method.edit(image, source, target), method.edit(image[1:2], source, target)
    torch.testing.assert_close(batch[1:2], one, rtol=0, atol=1e-4)


@every_edit
def test_the_network_is_left_as_it_was(method, source, target):
    model = source.diffusion.network.model
    before = dict(model.attn_processors)
    method.edit(rand(1, 3, 16, 16).float(), source, target)
    assert model.attn_processors == before
    with pytest.raises(RuntimeError), shared_attention(model, SharedKeys(), 1.0, torch.eye(2), 1):
        raise RuntimeError
    assert model.attn_processors == before


# The maths of a layer


def attention(width=8, text=6):
    from diffusers.models.attention_processor import Attention

    torch.manual_seed(0)
    return Attention(width, cross_attention_dim=text, heads=2, dim_head=4).eval()


def by_hand(layer, queries, keys, values):
    heads = [t.unflatten(-1, (2, 4)).transpose(1, 2) for t in (queries, keys, values)]
    maps = (heads[0] @ heads[1].transpose(-1, -2) / 2).softmax(-1)
    return maps, heads[2]


def run(layer, sharing, x, text, words, is_cross=True, time=1.0):
    """Call a layer alone, with source and target of one item each, without a null condition."""
    from wellposed.priors.text.sharing import Place, _Processor

    place = Place(is_cross, 0.0, time)
    layer.set_processor(_Processor(layer.processor, place, sharing, words, items=1))
    return layer(x, encoder_hidden_states=text)


@torch.no_grad()
def test_a_shared_map_is_the_sources_with_the_targets_values():
    layer, x, text = attention(), rand(2, 5, 8).float(), rand(2, 3, 6, seed=1).float()
    words = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 0]])  # the third word is new
    maps, _ = by_hand(layer, layer.to_q(x[:1]), layer.to_k(text[:1]), layer.to_v(text[:1]))
    own, values = by_hand(layer, layer.to_q(x[1:]), layer.to_k(text[1:]), layer.to_v(text[1:]))
    mixed = torch.cat([maps[..., :2], own[..., 2:]], -1) @ values
    expected = layer.to_out[0](mixed.transpose(1, 2).flatten(2))
    found = run(layer, SharedMaps(cross=1), x, text, words)
    torch.testing.assert_close(found[1:], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_shared_keys_are_looked_up_by_the_targets_queries():
    layer, x = attention(text=None), rand(2, 5, 8).float()
    maps, values = by_hand(layer, layer.to_q(x[1:]), layer.to_k(x[:1]), layer.to_v(x[:1]))
    expected = layer.to_out[0]((maps @ values).transpose(1, 2).flatten(2))
    found = run(layer, SharedKeys(depth=0), x, None, torch.eye(5), is_cross=False, time=0.5)
    torch.testing.assert_close(found[1:], expected, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_layers_of_more_tokens_keep_their_own_maps():
    layer, x = attention(text=None), rand(2, 5, 8).float()
    usual = layer(x)
    found = run(layer, SharedMaps(own=1, tokens=4), x, None, torch.eye(5), is_cross=False)
    torch.testing.assert_close(found, usual)


def test_layers_are_counted_in_the_order_in_which_they_compute(source):
    model, seen = source.diffusion.network.model, {}

    class Noting(SharedKeys):
        def concerns(self, place, conditional):
            seen.setdefault(place.is_cross, []).append(place.depth)
            return False

    z = latents(source, 1)
    with shared_attention(model, Noting(), 0.5, torch.eye(77), 1):
        source.denoise(torch.cat([z, z]), 500.0)
    for depths in seen.values():
        assert depths == sorted(depths) and depths[0] == 0


# Words


def told(*tokens):
    numbers = torch.tensor([tokens])
    return priors.TextCondition(torch.zeros(1, len(tokens), 2), tokens=numbers)


def test_each_prompt_of_several_has_its_own_words(source):
    pairs = [(CAT, DOG), ("a small cat", "a cat on the moon")]
    befores, afters = (source.with_prompt(list(prompts)) for prompts in zip(*pairs, strict=True))
    z, sharing = latents(source), SharedMaps(cross=1, own=1)
    both = side_by_side(befores, afters, sharing, 2).denoise(torch.cat([z, z]), 500.0)
    for item, (before, after) in enumerate(pairs):
        one = side_by_side(source.with_prompt(before), source.with_prompt(after), sharing, 1)
        alone = one.denoise(torch.cat([z[item : item + 1]] * 2), 500.0)
        torch.testing.assert_close(both[2 + item], alone[1], rtol=0, atol=1e-4)


def test_words_are_aligned():
    same = alignment(told(0, 5, 6, 9), told(0, 5, 7, 9))
    torch.testing.assert_close(same, torch.eye(4)[None])
    (inserted,) = alignment(told(0, 5, 9, 9), told(0, 4, 5, 9))
    assert inserted.T.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0]]
    (longer,) = alignment(told(0, 5, 9, 9, 9), told(0, 6, 7, 9, 9))
    assert longer[:, 1:3].T.tolist() == [[0, 0.5, 0, 0, 0]] * 2
    unknown, cut = (dataclasses.replace(told(0, 5), tokens=t) for t in (None, torch.tensor([[0]])))
    for one in (unknown, cut):
        torch.testing.assert_close(alignment(one, told(0, 6)), torch.eye(2)[None])


def test_the_tokens_of_prompts_are_kept(source, target):
    (words,) = alignment(source.condition, target.condition)
    assert words.shape == (77, 77) and bool((words.sum(0) == 1).all())
    (longer,) = alignment(source.condition, source.with_prompt("a photo of a small cat").condition)
    assert longer.sum(0)[5] == 0 and longer[5, 6] == 1  # small is new, cat is one further
    assert source.condition.repeated(2).tokens.shape == (2, 77)
    assert (
        source.condition.beside(dataclasses.replace(target.condition, tokens=None)).tokens is None
    )


# Bad input


def test_what_does_not_fit_is_refused(source, target, folders):
    image = rand(1, 3, 16, 16).float()
    for method in EDITS.values():
        with pytest.raises(
            errors.ArgumentError, match=r"source: got .GaussianPrior., accepted: a pr"
        ):
            method.edit(image, priors.GaussianPrior(0.5, 0.1), target)
        with pytest.raises(errors.ArgumentError, match=r"target: got .another network"):
            method.edit(image, source, priors.load(folders("sd"), prompt=DOG, guidance=3.0))
        with pytest.raises(errors.ArgumentError, match="target, guidance: got 2"):
            method.edit(image, source, target.conditioned(target.condition, guidance=2.0))
    sd3 = priors.load(folders("sd3"), prompt=CAT, guidance=3.0)
    with pytest.raises(
        errors.ArgumentError, match=r"source: got .TextTransformer., accepted: a U-Net"
    ):
        EDITS["mutual"].edit(image, sd3, sd3.with_prompt(DOG))
    with pytest.raises(errors.ArgumentError, match="cross: got 2"):
        inversion.PromptToPrompt(cross=2)
    with pytest.raises(errors.ArgumentError, match="tokens: got"):
        priors.TextCondition(torch.zeros(1, 3, 2), tokens=torch.zeros(1, 3))
