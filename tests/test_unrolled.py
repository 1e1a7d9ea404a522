"""Invertible couplings, and unrolled networks made of them."""

import gc
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from wellposed import solvers
from wellposed.errors import ArgumentError, CheckpointError, ShapeError
from wellposed.operators import CompressedSensing, MultiCoilMRI, presets
from wellposed.operators.options import OperatorOptions
from wellposed.priors.networks import unrolled
from wellposed.priors.networks.unrolled import Fidelity, UnrolledNetwork
from wellposed.priors.training import UnrolledSettings, train
from wellposed.reversible import Coupling, reversible

RECORDED = np.load(Path(__file__).parent / "data/parity/idm.npz")
"""Arrays of the authors' code."""


class Mixed(nn.Module):
    """``tanh(W x) + x``, as recorded."""

    def __init__(self, weight: np.ndarray) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(weight))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(torch.einsum("oc,bchw->bohw", self.weight, x)) + x


def slope(coupling: Coupling) -> Tensor:
    """Return d v / d place of a coupling of bounds 0 and 1."""
    v = coupling.mix.detach()
    return v * (1 - v)


def plain(x1: Tensor, x2: Tensor, couplings: list[Coupling], *context: object) -> tuple:
    """Do what `reversible` does, by autograd."""
    for coupling in couplings:
        x1, x2 = coupling(x1, x2, *context)
    return x1, x2


def recorded_chain() -> list[Coupling]:
    return [Coupling(Mixed(w), 0.5, (0, 1)).double() for w in RECORDED["chain/W"]]


def test_a_chain_equals_the_authors() -> None:
    """Value and gradients of five couplings, to 1e-12."""
    chain = recorded_chain()
    x = torch.tensor(RECORDED["chain/x"], requires_grad=True)
    y = torch.cat(reversible(*x.chunk(2, 1), chain), 1)
    (y - torch.tensor(RECORDED["chain/target"])).square().mean().backward()
    found = {
        "out": y.detach(),
        "grad_x": x.grad,
        "grad_W": torch.stack([c.body.weight.grad for c in chain]),
        "grad_v": torch.stack([c.place.grad / slope(c) for c in chain])[:, None],
    }
    for name, value in found.items():
        np.testing.assert_allclose(value, RECORDED[f"chain/{name}"], rtol=0, atol=1e-12)


def test_the_inverse_gives_the_input_back() -> None:
    chain = recorded_chain()
    x1, x2 = torch.randn(2, 1, 4, 3, 3, dtype=torch.float64)
    y = plain(x1, x2, chain)
    for coupling in reversed(chain):
        y = coupling.inverse(*y)
    torch.testing.assert_close(y, (x1, x2), rtol=0, atol=1e-12)


class Shifted(nn.Module):
    """A body with a context of a tensor, a module and a number."""

    def forward(self, x: Tensor, shift: Tensor, layer: nn.Module, scale: float) -> Tensor:
        return scale * torch.tanh(layer(x)) + shift


def test_gradients_reach_shared_modules_and_the_context() -> None:
    """As in autograd, to 1e-10; a module may stand in several couplings and in the context."""
    layer, body = nn.Linear(5, 5).double(), Shifted()
    chain = [Coupling(body).double() for _ in range(6)]
    x1, x2, shift = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(3))
    wanted = [x1, x2, shift, *layer.parameters(), *(c.place for c in chain)]
    gradients = [
        torch.autograd.grad(
            sum(v.square().sum() for v in way(x1, x2, chain, shift, layer, 2.0)), wanted
        )
        for way in (reversible, plain)
    ]
    for own, other in zip(*gradients, strict=True):
        torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("bounds", [(0.6, 0.95), (0.0, 1.0)])
def test_couplings_start_where_they_are_told(bounds: tuple[float, float]) -> None:
    assert float(Coupling(nn.Identity(), 0.7, bounds).mix.detach()) == pytest.approx(0.7)


def test_a_mix_outside_the_bounds_is_refused() -> None:
    with pytest.raises(ArgumentError, match="mix"):
        Coupling(nn.Identity(), 0.5)


class Look(nn.Module):
    """The recorded stand-in of the U-Net."""

    def __init__(self, case: str) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor(RECORDED[f"{case}/unet_W"]))
        self.bias = nn.Parameter(torch.tensor(RECORDED[f"{case}/unet_b"]))

    def forward(self, x: Tensor, *context: object) -> Tensor:
        z = nn.functional.pixel_unshuffle(x, 2)
        mixed = torch.einsum("oc,bchw->bohw", self.weight, z) + self.bias[:, None, None]
        return nn.functional.pixel_shuffle(torch.tanh(mixed) + 0.25 * z.roll(1, -1), 2)


def recorded_data(case: str) -> Fidelity:
    """Return the recorded measurement, with its own permutation and matrix."""
    order, basis = (torch.tensor(RECORDED[f"{case}/{name}"]) for name in ("perm", "Phi"))
    shape = RECORDED[f"{case}/x"].shape

    def forward(x: Tensor) -> Tensor:
        return x.flatten(1)[:, order].unflatten(1, (-1, len(basis))) @ basis

    def back(y: Tensor) -> Tensor:
        return (y @ basis.mT).flatten(1)[:, order.argsort()].reshape(shape)

    return Fidelity(torch.tensor(RECORDED[f"{case}/y"]), forward, back)


@pytest.mark.parametrize(
    ("case", "mixes", "merge", "second"),
    [("t3_r25", (0.5, 0.5, 0.5), 0.0, 1.0), ("t3_r10_merge", (0.4, 0.6, 0.7), 0.3, 0.8)],
)
def test_unrolled_steps_equal_the_authors(
    case: str, mixes: tuple[float, ...], merge: float, second: float
) -> None:
    """Result and gradients of three steps around the recorded stand-in."""
    network = UnrolledNetwork(1, (4,), 1, 3, bounds=(0.0, 1.0)).double()
    network.look = Look(case)
    for coupling, mix in zip(network.steps, mixes, strict=True):
        coupling.place.data = torch.logit(torch.tensor(mix, dtype=torch.float64))
    network.merge.data.fill_(merge)
    network.second.data.fill_(second)
    found = network(recorded_data(case))
    (found - torch.tensor(RECORDED[f"{case}/x"])).abs().mean().backward()
    np.testing.assert_allclose(found.detach(), RECORDED[f"{case}/x_out"], rtol=0, atol=1e-7)
    gradients = {
        "unet.W": network.look.weight.grad,
        "unet.b": network.look.bias.grad,
        "merge_scale_factor": network.merge.grad[None],
        "input_help_scale_factor": network.second.grad[None],
        **{f"body.{n}.v": (c.place.grad / slope(c))[None] for n, c in enumerate(network.steps)},
    }
    for name, value in gradients.items():
        np.testing.assert_allclose(value, RECORDED[f"{case}/grad/{name}"], rtol=1e-6, atol=1e-8)


def random_network(channels: int = 1, **settings: object) -> UnrolledNetwork:
    """Return a network none of whose layers is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = UnrolledNetwork(channels, **{"widths": (8, 16), "layers": 1, **settings})
        for weight in network.parameters():
            if not weight.any():
                nn.init.normal_(weight, std=0.1)
    return network


def sensed(side: int = 32) -> tuple[Tensor, CompressedSensing]:
    operator = CompressedSensing((1, side, side), 0.25, 16, permuted=True, seed=1)
    image = torch.rand(1, 1, side, side, generator=torch.Generator().manual_seed(0))
    return operator.A(image), operator


def loss_of(network: UnrolledNetwork, data: Fidelity) -> Tensor:
    network.zero_grad()
    loss = network(data).square().mean()
    loss.backward()
    return torch.cat([weight.grad.flatten() for weight in network.parameters()])


def test_gradients_of_a_network_are_those_of_autograd(monkeypatch: pytest.MonkeyPatch) -> None:
    network, (y, operator) = random_network().double(), sensed()
    data = Fidelity.of(y.double(), operator)
    own = loss_of(network, data)
    monkeypatch.setattr(unrolled, "reversible", plain)
    torch.testing.assert_close(own, loss_of(network, data), rtol=1e-10, atol=1e-12)


def held_bytes(network: UnrolledNetwork, data: Fidelity) -> int:
    """Return the bytes that a forward pass keeps for the backward pass, beyond the weights."""
    weights = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        found = network(data)
    gc.collect()
    del found
    return sum(size for place, size in seen.items() if place not in weights)


def test_memory_does_not_grow_with_steps_and_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    y, operator = sensed(16)
    data = Fidelity.of(y, operator)
    deep = held_bytes(random_network(steps=4, layers=2), data)
    assert deep < 1.1 * held_bytes(random_network(steps=2, layers=1), data)
    monkeypatch.setattr(unrolled, "reversible", plain)
    assert deep < 0.06 * held_bytes(random_network(steps=4, layers=2), data)


def test_the_last_step_satisfies_the_data() -> None:
    """As abar_0 is 1, ``f_1`` ends with the data step."""
    network, (y, operator) = random_network(), sensed()
    data = Fidelity.of(y, operator)
    last = network.steps[-1].body
    x = last(data.start(), network.levels, network.labels, data.start(), data, network.look)
    torch.testing.assert_close(operator.A(x), y, rtol=0, atol=1e-5)


def test_complex_images_are_pairs_of_channels() -> None:
    options = OperatorOptions(coils=3, acceleration=2)
    operator = presets.build("mri", (1, 16, 16), options)
    assert isinstance(operator, MultiCoilMRI)
    y = operator.A(torch.randn(2, 1, 16, 16, dtype=torch.complex64))
    found = random_network(2)(Fidelity.of(y, operator))
    assert found.shape == (2, 1, 16, 16)
    assert found.is_complex()


def test_sides_off_the_stride_are_refused() -> None:
    operator = presets.build("inpainting", (1, 18, 18))
    with pytest.raises(ShapeError, match="multiples of 4"):
        random_network()(Fidelity.of(operator.A(torch.ones(1, 1, 18, 18)), operator))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for number in range(4):
        pixels = rng.integers(0, 255, (40, 44), np.uint8)
        Image.fromarray(pixels).save(folder / f"{number}.png")
    return folder


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(training(photos, tmp_path_factory.mktemp("trained") / "out"))


def training(photos: Path, out: Path, **changes: object) -> UnrolledSettings:
    """Return the settings of a tiny run."""
    settings = {"steps": 2, "batch_size": 2, "image_size": (32,), "widths": (4, 16), "layers": 1}
    settings |= {"ratios": (0.2, 0.4), "unrolled_steps": 2, "channels": 1, "held_out": 0.3}
    return UnrolledSettings(data=(str(photos),), out=str(out), **{**settings, **changes})


def test_an_interrupted_training_ends_with_the_same_weights(
    photos: Path, trained: Path, tmp_path: Path
) -> None:
    train(training(photos, tmp_path, steps=1))
    train(training(photos, tmp_path))
    weights = [(run / "model.safetensors").read_bytes() for run in (tmp_path, trained)]
    assert weights[0] == weights[1]
    assert "train-unrolled" in (trained / "README.md").read_text()


def test_a_trained_network_solves(trained: Path) -> None:
    y, operator = sensed()
    found = solvers.Unrolled(weights=str(trained))(torch.cat([y, 2 * y]), operator)
    alone = solvers.Unrolled(weights=str(trained))(y, operator)
    assert found.mean.shape == (2, 1, 32, 32)
    torch.testing.assert_close(found.mean[:1], alone.mean, rtol=1e-5, atol=1e-6)


def test_weights_of_another_kind_are_refused(trained: Path, tmp_path: Path) -> None:
    from wellposed import priors

    y, operator = sensed()
    with pytest.raises(ArgumentError, match="weights: got ''"):
        solvers.Unrolled()(y, operator)
    with pytest.raises(CheckpointError, match="config"):
        solvers.Unrolled(weights=str(tmp_path))(y, operator)
    with pytest.raises(CheckpointError, match=r"solvers\.Unrolled"):
        priors.load(str(trained))
    colours = presets.build("inpainting", (3, 32, 32))
    with pytest.raises(ArgumentError, match="real channel"):
        solvers.Unrolled(weights=str(trained))(colours.A(torch.ones(1, 3, 32, 32)), colours)


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"operator": "ct"}, "operator"),
        ({"ratios": (0.0,)}, "ratios"),
        ({"operator": "mri"}, "complex_phase"),
        ({"widths": (4, 24)}, "widths"),
        ({"data_range": (-1.0, 2.0)}, "data_range"),
        ({"unrolled_steps": 0}, "unrolled_steps"),
    ],
)
def test_bad_settings_are_refused(changes: dict[str, object], match: str) -> None:
    with pytest.raises(ArgumentError, match=match):
        training(Path("photos"), Path("out"), **changes)
