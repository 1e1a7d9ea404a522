"""Training of restorers: pairs, losses, runs, and what they leave."""

import json
import math
from pathlib import Path

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import Killed, anchored, run, tiny_training
from torch import nn

from wellposed import errors
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.reading import Reading
from wellposed.operators import Blur, SuperResolution, gaussian_kernel
from wellposed.operators.presets import OPERATORS as TASKS
from wellposed.priors import Anchor, MeanReverting
from wellposed.priors.stored.store import load_prior
from wellposed.priors.training import Trainer, train
from wellposed.priors.training.losses import optimal_reverse
from wellposed.priors.training.pairs import Measured, PairBatches, paired
from wellposed.priors.training.restoration_settings import (
    OPERATORS,
    PREDICTIONS,
)
from wellposed.solvers import IRSDE

pytestmark = pytest.mark.usefixtures("single_thread")

PARITY = Path(__file__).parent / "data" / "parity"


def colours(height=40, width=48, seed=0):
    """A smooth random picture (H, W, 3) in [0, 1]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width] / 6
    waves = [np.sin(a * x + c) * np.cos(b * y + c) for a, b, c in rng.uniform(0.4, 2, (3, 3))]
    return ((1 + np.stack(waves, -1)) / 2).astype(np.float32)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        Image.fromarray(np.round(colours(seed=i) * 255).astype(np.uint8)).save(folder / f"{i}.png")
    return folder


def settings(photos, out, **changes):
    return tiny_training(photos, out, **dict(process="ir-sde", noise=(0.0, 0.1)) | changes)


def trainer_of(photos, out, **changes):
    return Trainer(settings(photos, out, **changes))


def steps(trainer, count):
    return [trainer.train_step(trainer.task.batches[trainer.step]) for _ in range(count)]


def killer(step):
    """A progress callback that ends the process, so to say, in the middle of a step."""

    def progress(done, loss):
        if done == step:
            raise Killed

    return progress


def stream(seed=0):
    return np.random.default_rng(seed)


# Settings


def test_settings_name_what_cannot_be(photos, tmp_path):
    for change, message in (
        ({"degradation": "deblurred"}, "Did you mean 'deblurring'"),
        ({"degradation": "pairs"}, "degraded: got None, accepted: a folder with degradation"),
        ({"degraded": "folder"}, "degraded: got 'folder', accepted: None with"),
        ({"noise": (0.2, 0.1)}, "noise: got .* 0 <= low <= high"),
        ({"noise": (0.0, math.inf)}, "noise: got .* two finite numbers"),
        ({"blur": (0.0, 1.0)}, "blur: got .* positive widths"),
        ({"factor": 1}, "factor: got 1, accepted: an integer of at least 2"),
        ({"kernel": "cubic"}, "Did you mean 'bicubic'"),
        ({"margin": -1}, "margin: got -1"),
        ({"degradation": "super-resolution", "margin": 6}, "margin: got 6, accepted: a multiple"),
        ({"degradation": "super-resolution", "factor": 3}, "image_size: got 16, .* of factor, 3"),
        ({"process": "irsde"}, "Did you mean 'ir-sde'"),
        ({"prediction": "nois"}, "Did you mean 'noise'"),
        ({"process": "resshift", "prediction": "noise"}, "Known: sample, residual"),
        ({"loss": "l2"}, "loss: unknown name 'l2'"),
        ({"process": "resshift", "loss": "optimal"}, "loss: got 'optimal'"),
        ({"kappa": 0.0}, "kappa: got 0.0"),
        ({"max_sigma": math.inf}, "max_sigma: got inf"),
        ({"sum_scale": -1.0}, "sum_scale: got -1.0"),
        ({"lpips": -1.0}, "lpips: got -1.0"),
        ({"lpips": 1.0}, "lpips: got 1.0, accepted: 0 with the prediction"),
        ({"networks": 2}, "networks: got 2"),
        ({"image_size": (12,), "widths": (8, 8, 8)}, "image_size: got 12"),
        ({"data_range": (1.0, 1.0)}, "data_range: got"),
        ({"process_steps": 1}, "process_steps: got 1"),
        ({"steps": 0}, "steps: got 0"),
    ):
        with pytest.raises(errors.ArgumentError, match=message):
            settings(photos, tmp_path, **change)


def test_operators_are_those_of_the_command_line():
    """But for compressed sensing, whose back-projection shows nothing to restore."""
    assert {*TASKS} - {"compressed-sensing"} == set(OPERATORS)


# Degradations by operators


def crop(side=32, seed=0):
    return torch.from_numpy(colours(side, side, seed)).permute(2, 0, 1)


def test_blur_and_noise_are_the_operators(photos, tmp_path):
    s = settings(photos, tmp_path, noise=(0.0, 0.0), blur=(1.3, 1.3))
    clean = crop()
    expected = Blur(gaussian_kernel(1.3, 13), (3, 32, 32)).A(clean[None])[0]
    torch.testing.assert_close(Measured("deblurring", s)(clean, stream()), expected)
    noisy = settings(photos, tmp_path, noise=(0.05, 0.05), blur=(1.3, 1.3))
    added = Measured("deblurring", noisy)(clean, stream()) - expected
    assert float(added.std()) == pytest.approx(0.05, rel=0.05)
    again, other = (Measured("deblurring", noisy)(clean, stream(n)) - expected for n in (0, 1))
    assert torch.equal(again, added)
    assert not torch.equal(other, added)


def test_ranges_are_drawn_from(photos, tmp_path):
    s = settings(photos, tmp_path, noise=(0.02, 0.1), blur=(1e-3, 1e-3))  # no blur to speak of
    clean = crop()
    spreads = [
        float((Measured("deblurring", s)(clean, stream(n)) - clean).std()) for n in range(60)
    ]
    assert 0.018 < min(spreads) < 0.03
    assert 0.09 < max(spreads) < 0.11
    assert np.mean(spreads) == pytest.approx(0.06, rel=0.15)


def test_super_resolution_shrinks(photos, tmp_path):
    s = settings(photos, tmp_path, degradation="super-resolution", kernel="average", noise=(0, 0))
    small = Measured("super-resolution", s)(crop(), stream())
    expected = SuperResolution((3, 32, 32), 4, "average").A(crop()[None])[0]
    torch.testing.assert_close(small, expected)


@pytest.mark.parametrize("operator", ["inpainting", "mri", "ct"])
def test_measurements_of_all_kinds_become_images(operator, photos, tmp_path):
    s = settings(photos, tmp_path, degradation=operator, noise=(0.0, 0.01), views=3)
    clean = crop() if operator == "inpainting" else crop()[:1]
    degraded = Measured(operator, s)(clean, stream())
    assert degraded.shape == clean.shape
    assert degraded.dtype == torch.float32
    error = float((degraded - clean).square().mean().sqrt())
    assert 0.01 < error < 0.6
    assert not torch.equal(degraded, Measured(operator, s)(clean, stream(1)))


# Batches


def test_batches_are_functions_of_step_and_item(photos, tmp_path):
    batches = trainer_of(photos, tmp_path, batch_size=4, margin=4).task.batches
    first, again, other = batches[3], batches[3], batches[4]
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a, b)
    assert all(not torch.equal(a, b) for a, b in zip(first, other, strict=True))
    clean, degraded, u, eps = first
    assert clean.shape == degraded.shape == eps.shape == (4, 3, 16, 16)
    assert u.shape == (4,)
    few = batches.draw(range(1, 3), 4, 3, 16)
    for a, b in zip(few, first, strict=True):
        assert torch.equal(a, b[1:3])
    shares = [
        PairBatches(batches.crops, batches.degradation, batches.settings, None, (n, 2))[3]
        for n in range(2)
    ]
    for whole, *parts in zip(first, *shares, strict=True):
        assert torch.equal(whole, torch.cat(parts))


def test_a_margin_keeps_the_border_out(photos, tmp_path):
    """With it crops are blurred as the image is, without it as if they were all there is."""
    blurred = dict(noise=(0.0, 0.0), blur=(1.0, 1.0))
    errors_ = {}
    for margin in (0, 8):
        batches = trainer_of(photos, tmp_path, margin=margin, **blurred).task.batches
        s = batches.settings
        large = batches.crops.batch(range(4), s.seed, 0, 16 + 2 * margin)
        kernel = gaussian_kernel(1.0, 11)[None, None].float()
        planes = large.flatten(0, 1)[:, None]
        expected = nn.functional.conv2d(planes, kernel, padding=5).unflatten(0, (4, 3))[:, :, 0]
        cut = slice(margin, margin + 16)
        degraded = batches.draw(range(4), 4, 0, 16)[1]
        errors_[margin] = float((degraded - expected[..., cut, cut]).abs().max())
    assert errors_[8] < 1e-4
    assert errors_[0] > 0.01


def test_smaller_crops_come_enlarged(photos, tmp_path):
    batches = trainer_of(
        photos, tmp_path, degradation="super-resolution", factor=2, noise=(0.0, 0.0)
    ).task.batches
    clean, degraded, *_ = batches[0]
    small = SuperResolution((3, 16, 16), 2).A(clean)
    restorer = anchored(nn.Identity(), MeanReverting(), "noise", upsample=2, data_range=(-1, 1))
    torch.testing.assert_close(degraded, restorer.degraded(small).anchor)


@pytest.mark.parametrize("factor", [1, 4])
def test_real_world_degradations(factor, photos, tmp_path):
    trainer = trainer_of(photos, tmp_path, degradation="real-world", factor=factor)
    clean, degraded, *_ = trainer.task.batches[0]
    assert degraded.shape == clean.shape
    assert trainer.config()["upsample"] == factor
    assert float((clean - degraded).abs().mean()) > 0.01


# Pairs from folders


def write_pairs(folder, change, count=4):
    """Write clean arrays and what ``change`` makes of them."""
    for name in ("clean", "degraded"):
        (folder / name).mkdir(exist_ok=True)
    for n in range(count):
        clean = colours(seed=n).mean(-1)
        np.save(folder / "clean" / f"{n}.npy", clean)
        np.save(folder / "degraded" / f"{n}.npy", change(clean))
    return dict(data=(str(folder / "clean"),), degradation="pairs"), folder / "degraded"


def test_pairs_are_cropped_and_turned_alike(tmp_path):
    options, degraded_folder = write_pairs(tmp_path, lambda clean: 1 - clean)
    trainer = trainer_of(
        "", tmp_path / "out", **options, degraded=str(degraded_folder), zoom=(0.7, 1.4)
    )
    for batch in (
        trainer.task.batches[0],
        trainer.task.batches[1],
        trainer.task.held.draw(range(3), 3, 0, 16),
    ):
        clean, degraded = batch[:2]
        torch.testing.assert_close(degraded, 1 - clean, atol=1e-5, rtol=0)
    assert trainer.config()["upsample"] == 1
    assert trainer.task.channels == 1


def test_smaller_partners_are_enlarged_in_place(tmp_path):
    """A ramp keeps its place: bicubic enlargement of its averages is the ramp, inside."""
    y, x = np.mgrid[:40, :48] / 100

    def ramp_halved(clean):
        return (y + x).reshape(20, 2, 24, 2).mean((1, 3))

    options, folder = write_pairs(tmp_path, ramp_halved)
    for n in range(4):
        np.save(tmp_path / "clean" / f"{n}.npy", y + x)
    trainer = trainer_of("", tmp_path / "out", **options, degraded=str(folder))
    clean, degraded, *_ = trainer.task.batches.draw(range(20), 20, 0, 16)
    error = (clean - degraded).abs().flatten(1).max(1).values
    assert float(error.median()) < 5e-3  # where a crop has no border of the image
    assert trainer.config()["upsample"] == 2


def test_partners_that_do_not_fit_are_named(tmp_path):
    _, folder = write_pairs(tmp_path, lambda clean: clean)
    stacks = Collection([tmp_path / "clean"]).whole()
    np.save(folder / "2.npy", np.zeros((30, 48)))
    with pytest.raises(errors.ShapeError, match=r"degraded: 2\.npy has shape \(1, 30, 48, 1\)"):
        paired(stacks, folder, Reading())
    np.save(folder / "2.npy", np.zeros((20, 24)))
    with pytest.raises(errors.ShapeError, match=r"degraded: smaller by the factors \[1, 2\]"):
        paired(stacks, folder, Reading())
    (folder / "2.npy").rename(folder / "two.npy")
    with pytest.raises(errors.FileError, match="degraded: 0 files named '2', accepted: one"):
        paired(stacks, folder, Reading())


# Losses


class Perfect(nn.Module):
    """Answers what a network should, from the definitions in the papers."""

    def __init__(self, kind, x0, m, eps, t, restorer):
        super().__init__()
        alpha = restorer.schedule(t)[0].view(-1, 1, 1, 1).float()
        s = restorer.schedule.terminal_std
        turned = torch.acos(alpha)  # the MR Sampler's angle, whose sine is sigma / s
        self.answer = {
            "noise": lambda: eps,
            "sample": lambda: x0,
            "residual": lambda: m - x0,
            "residual+noise": lambda: torch.cat([m - x0, eps], 1),
            "velocity": lambda: turned.cos() * s * eps - turned.sin() * (x0 - m),
        }[kind]()
        self.calls = 0

    def forward(self, seen, label, degraded):
        self.calls += 1
        return self.answer


KINDS = [(process, kind) for process, kinds in PREDICTIONS.items() for kind in kinds]
LOSSES = [(*kind, loss) for kind in KINDS for loss in ("mse", "l1")]
LOSSES += [("ir-sde", kind, "optimal") for kind in PREDICTIONS["ir-sde"]]


@pytest.mark.parametrize(("process", "kind", "loss"), LOSSES)
def test_the_loss_of_a_perfect_network_is_least(process, kind, loss, photos, tmp_path):
    """Zero, or that of IR-SDE's: it asks of a network what `denoise` expects of it."""
    trainer = trainer_of(
        photos, tmp_path, process=process, prediction=kind, loss=loss, batch_size=8
    )
    batch = trainer.task.batches[0]
    prior = trainer.model
    x0, m = prior.to_units(batch[0]), prior.to_units(batch[1])
    t = (batch[2] * prior.schedule.T).ceil()
    network = prior.network = Perfect(kind, x0, m, batch[3], t, prior)
    least = float(trainer.task.loss(prior, batch))
    assert network.calls == 1
    assert least < (2e-3 if loss == "optimal" else 1e-3)
    network.answer = network.answer + 0.5  # the loss sees what is wrong
    wrong = float(trainer.task.loss(prior, batch))
    if loss == "optimal":
        assert wrong > 1.5 * least
    else:
        assert wrong == pytest.approx(0.5 if loss == "l1" else 0.25, rel=1e-2)


def stub(x, c, t):
    """The analytic network of the recordings."""
    return 0.6 * torch.tanh(0.8 * x) + 0.3 * c + 0.1 * torch.sin(3 * x - c + 0.05 * t)


class Stub(nn.Module):
    def forward(self, seen, label, degraded):
        return stub(seen, degraded.anchor, label.view(-1, 1, 1, 1))


def test_the_optimal_loss_is_the_published_one():
    d = {k: torch.from_numpy(v) for k, v in np.load(PARITY / "irsde_loss.npz").items()}
    schedule = MeanReverting(max_sigma=10)
    restorer = anchored(Stub(), schedule, "noise", "plain", data_range=(-1.0, 1.0))
    t = d["tr/t"].flatten().double()
    alpha, sigma = (v.view(-1, 1, 1, 1) for v in schedule(t))
    x_t = d["lq"] + alpha * (d["gt"] - d["lq"]) + sigma * d["tr/noise"][0]
    torch.testing.assert_close(x_t, d["tr/state"], rtol=0, atol=1e-12)
    loss = optimal_reverse(restorer, x_t, t, d["lq"], d["gt"])
    assert float(loss) == pytest.approx(float(d["tr/l1"]), rel=1e-9)


def test_latents_are_learnt_in_latents(photos, tmp_path):
    """The loss is that of latents, of the frozen autoencoder, and so is the noise."""
    folder = autoencoder(tmp_path / "vae", "vq")
    trainer = latent_trainer(photos, tmp_path, folder)
    clean, degraded, u, eps = batch = trainer.task.batches[0]
    assert clean.shape == degraded.shape == (2, 3, 32, 32)
    assert eps.shape == (2, 3, 8, 8)
    model = diffusers.VQModel.from_pretrained(folder)
    with torch.no_grad():
        x0, m = (model.encode(2 * v - 1).latents for v in (clean, degraded))
    torch.testing.assert_close(trainer.model.to_units(clean), x0)
    t = (15 * u).ceil()
    prior = trainer.model
    prior.prior.network = Perfect("residual", x0, m, eps, t, prior)
    assert float(trainer.task.loss(prior, batch)) < 1e-6
    before = {k: v.clone() for k, v in trainer.task.autoencoder.state_dict().items()}
    steps(latent := latent_trainer(photos, tmp_path, folder), 2)
    assert all(torch.equal(before[k], v) for k, v in latent.task.autoencoder.state_dict().items())


@pytest.mark.parametrize("kind", ["kl", "vq"])
def test_a_latent_run_carries_its_autoencoder(kind, photos, tmp_path):
    folder = autoencoder(tmp_path / "vae", kind)
    out = train(latent_settings(photos, tmp_path / "out", folder))
    trainer = Trainer(latent_settings(photos, tmp_path / "out", folder))
    trainer.load_checkpoint(out / "checkpoint.pt")
    for path in folder.iterdir():
        path.unlink()
    restorer = load_prior(out)
    x = torch.rand(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    u = restorer.to_units(x)
    torch.testing.assert_close(u, trainer.averaged.to_units(x))
    scaling = 1.0 if kind == "vq" else trainer.task.autoencoder.model.config.scaling_factor
    assert restorer.autoencoder.scaling_factor == scaling
    assert not restorer.is_affine
    assert restorer.unit_shape(x.shape) == u.shape == (1, 3, 8, 8)


def test_crops_that_no_latents_fit_are_named(photos, tmp_path):
    folder = autoencoder(tmp_path / "vae", "vq", levels=4)
    with pytest.raises(
        errors.ArgumentError, match=r"image_size: got 20, accepted: a multiple of 8"
    ):
        trainer_of(photos, tmp_path, image_size=(20,), autoencoder=str(folder))
    with pytest.raises(errors.CheckpointError, match="nowhere"):
        trainer_of(photos, tmp_path, autoencoder=str(tmp_path / "nowhere"))


def test_grey_images_are_not_coded_as_colours(tmp_path):
    Image.fromarray(np.round(colours()[..., 0] * 255).astype(np.uint8)).save(tmp_path / "a.png")
    Image.fromarray(np.round(colours()[..., 1] * 255).astype(np.uint8)).save(tmp_path / "b.png")
    folder = autoencoder(tmp_path / "vae", "vq")
    with pytest.raises(errors.ArgumentError, match=r"autoencoder: got 'one of 3 channel\(s\)'"):
        latent_trainer(tmp_path, tmp_path / "out", folder)


def autoencoder(folder, kind, levels=3):
    """A tiny one that divides the sides by ``2^(levels - 1)``, as a folder of diffusers."""
    make = {"kl": diffusers.AutoencoderKL, "vq": diffusers.VQModel}[kind]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = make(
            block_out_channels=(8,) * levels,
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            latent_channels=3,
            norm_num_groups=4,
        )
    model.save_pretrained(folder)
    return folder


def latent_settings(photos, out, folder):
    latent = dict(process="resshift", prediction="residual", image_size=(32,), steps=2)
    return settings(photos, out, **latent, autoencoder=str(folder))


def latent_trainer(photos, out, folder):
    return Trainer(latent_settings(photos, out, folder))


class FakeMetric(nn.Module):
    """Stands for torchmetrics' LPIPS: the mean distance of each pair, differentiable."""

    def __init__(self, net_type):
        super().__init__()
        self.net = FakeMetric.Net()

    class Net(nn.Module):
        def forward(self, a, b):
            assert float(b.min()) >= -1
            assert float(b.max()) <= 1
            return (a - b).abs().flatten(1).mean(1)


@pytest.mark.parametrize("kind", ["sample", "residual"])
def test_lpips_is_added_with_its_weight(kind, photos, tmp_path, monkeypatch):
    monkeypatch.setattr("torchmetrics.image.LearnedPerceptualImagePatchSimilarity", FakeMetric)
    process = dict(process="resshift", prediction=kind, noise=(0.1, 0.1))
    plain, weighted = (trainer_of(photos, tmp_path, lpips=v, **process) for v in (0.0, 3.0))
    batch = plain.task.batches[0]
    base, loss = (float(t.task.loss(t.model, batch).detach()) for t in (plain, weighted))
    # Nothing is predicted at first: a clean image of 0, or the degraded one.
    estimate = (2 * batch[1] - 1).clamp(-1, 1) if kind == "residual" else 0 * batch[1]
    expected = (estimate - (2 * batch[0] - 1)).abs().mean()
    assert loss - base == pytest.approx(3 * float(expected), rel=1e-4)
    steps(weighted, 1)
    tail = weighted.network.parts[0].tail.weight.grad
    assert float(tail.abs().sum()) > 0


def test_lpips_without_weights_is_refused(photos, tmp_path, monkeypatch):
    def offline(net_type):
        raise OSError("no route to host")

    monkeypatch.setattr("torchmetrics.image.LearnedPerceptualImagePatchSimilarity", offline)
    with pytest.raises(errors.ArgumentError, match=r"lpips: .*no route to host.*accepted: 0"):
        trainer_of(photos, tmp_path, process="resshift", lpips=1.0)
    for n in range(4):
        np.save(tmp_path / f"{n}.npy", colours(seed=n)[..., 0])
    with pytest.raises(
        errors.ArgumentError, match=r"lpips: got 1\.0, accepted: 0 for .* of 1 chan"
    ):
        trainer_of(tmp_path, tmp_path / "out", process="resshift", lpips=1.0)


# Steps and runs


@pytest.mark.parametrize(
    "process",
    [
        dict(process="ir-sde"),
        dict(process="ir-sde", prediction="velocity", loss="mse"),
        dict(process="resshift"),
        dict(process="rddm"),
        dict(process="rddm", networks=2),
        dict(process="rddm", prediction="residual"),
    ],
)
@pytest.mark.slow
def test_training_lowers_the_held_out_loss(process, photos, tmp_path):
    trainer = trainer_of(
        photos,
        tmp_path,
        **process,
        **dict(steps=60, ema=0.8, learning_rate=1e-2, batch_size=8),
        **dict(noise=(0.0, 0.0), blur=(2.0, 2.0)),
    )
    before = trainer.validate()
    steps(trainer, 60)
    after = trainer.validate()
    assert after[0] < 0.95 * before[0]
    assert after[1] == before[1]  # the degraded images are what they were
    assert len(after) == 1 + len(trainer.task.curve)


def test_validation_tells_psnr(photos, tmp_path):
    """Of a network that predicts nothing: the clean image is taken for the degraded one."""
    trainer = trainer_of(photos, tmp_path, process="resshift", prediction="residual")
    loss, degraded, *estimates = trainer.validate()
    clean, worse, *_ = trainer.task.held.draw(range(32), 32, 0, 16)
    mse = (clean - worse).square().flatten(1).mean(1)
    assert degraded == pytest.approx(float((-10 * mse.log10()).mean()), rel=1e-5)
    assert estimates == pytest.approx([degraded] * 5, rel=1e-5)
    assert loss == pytest.approx(4 * float(mse.mean()), rel=1e-4)  # in [-1, 1]


def test_two_networks_share_nothing(photos, tmp_path):
    one, two = (trainer_of(photos, tmp_path, process="rddm", networks=n) for n in (1, 2))
    for trainer, count in ((one, 1), (two, 2)):
        assert len(trainer.network.parts) == count
    residual, eps = two.model.network(
        torch.rand(1, 3, 16, 16), torch.zeros(1), two.averaged.degraded(torch.rand(1, 3, 16, 16))
    ).chunk(2, 1)
    assert residual.shape == eps.shape == (1, 3, 16, 16)
    first, second = (sum(p.numel() for p in part.parameters()) for part in two.network.parts)
    assert first == second


def test_bfloat16_is_autocast(photos, tmp_path):
    exact, rough = (trainer_of(photos, tmp_path, bf16=bf16) for bf16 in (False, True))
    seen = []
    head = rough.network.parts[0].head
    head.register_forward_hook(lambda module, given, output: seen.append(output.dtype))
    a, b = steps(exact, 3), steps(rough, 3)
    assert seen == [torch.bfloat16] * 3
    assert b == pytest.approx(a, rel=0.05)
    assert a != b


@pytest.fixture(scope="module")
def finished(photos, tmp_path_factory):
    """The folder of an uninterrupted run."""
    return train(settings(photos, tmp_path_factory.mktemp("finished")))


def test_a_killed_run_ends_as_an_uninterrupted_one(photos, finished, tmp_path):
    for step in (3, 4):
        with pytest.raises(Killed):
            train(settings(photos, tmp_path), progress=killer(step))
    train(settings(photos, tmp_path))
    for name in ("model.safetensors", "loss.csv", "config.json", "README.md"):
        assert (tmp_path / name).read_bytes() == (finished / name).read_bytes(), name


def test_a_run_goes_on_with_the_same_settings_alone(photos, finished):
    with pytest.raises(errors.CheckpointError, match=r"max_sigma \(10\.0 before, 20\.0 now\)"):
        train(settings(photos, finished, max_sigma=20.0))


def test_a_trained_restorer_is_the_average_in_half_precision(photos, finished):
    restorer = load_prior(finished)
    trainer = trainer_of(photos, finished)
    trainer.load_checkpoint(finished / "checkpoint.pt")
    for key, value in trainer.average.state_dict().items():
        assert torch.equal(restorer.network.state_dict()[key], value.half().float()), key
    assert (restorer.prediction, restorer.anchor) == ("noise", Anchor("difference", 1))
    assert (restorer.channels, restorer.data_range) == (3, (0.0, 1.0))
    # 10 levels of 255 in [0, 1] are twice as many units.
    assert restorer.schedule.terminal_std == pytest.approx(20 / 255)
    degraded = torch.rand(2, 3, 20, 24, generator=torch.Generator().manual_seed(0))
    result = IRSDE(steps=3)(degraded, None, restorer, seed=0)
    assert result.samples.shape == (1, 2, 3, 20, 24)


@pytest.mark.parametrize("process", ["resshift", "rddm"])
def test_pictures_take_no_more_steps_than_the_process(photos, tmp_path, process):
    s = settings(photos, tmp_path, process=process, process_steps=2, steps=1)
    assert (train(s) / "images" / "restored_0000001.png").is_file()


def test_a_run_leaves_its_curve_pictures_and_card(finished):
    lines = (finished / "loss.csv").read_text().splitlines()
    assert lines[0] == (
        "step,loss,held_out_loss,psnr_degraded,"
        "psnr_from_0.1,psnr_from_0.25,psnr_from_0.5,psnr_from_0.75,psnr_from_1"
    )
    assert [line.split(",")[0] for line in lines[1:]] == ["2", "4"]
    with Image.open(finished / "images" / "restored_0000004.png") as image:
        assert (image.mode, image.size) == ("RGB", (6 * 16, 3 * 16))
    card = (finished / "README.md").read_text()
    assert "deblurring, enlarged 1 x: noise [0.0, 0.1], blur [0.5, 2.5]" in card
    assert "{'name': 'ir-sde', 'max_sigma': 20.0}, on pixels" in card


SPOILT = {
    "no config": lambda folder: (folder / "config.json").unlink(),
    "garbled config": lambda folder: (folder / "config.json").write_text("{"),
    "unknown process": lambda folder: change(folder, process={"name": "magic"}),
    "other widths": lambda folder: change(folder, network={"channels": 3, "widths": [8, 24]}),
    "no prediction": lambda folder: change(folder, prediction=None),
    "no weights": lambda folder: (folder / "model.safetensors").unlink(),
    "half the weights": lambda folder: halve(folder / "model.safetensors"),
}


def change(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def halve(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


@pytest.mark.parametrize("damage", SPOILT)
def test_a_damaged_restorer_is_refused(damage, finished, tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((finished / name).read_bytes())
    load_prior(tmp_path)
    SPOILT[damage](tmp_path)
    with pytest.raises(errors.CheckpointError, match=r"prior: '.*'"):
        load_prior(tmp_path)


def test_the_command_trains_and_names_what_cannot_be(photos, tmp_path):
    out = tmp_path / "out"
    options = ["--data", photos, "--out", out, "--image-size", 16, "--widths", "8,16"]
    options += ["--layers", 1, "--steps", 1, "--batch-size", 2, "--process", "resshift"]
    options += ["--process-steps", 4, "--min-noise", 0.2, "--degradation", "super-resolution"]
    result = run("train", *options)
    assert result.exit_code == 0, result.output
    restorer = load_prior(out)
    assert (restorer.schedule.T, restorer.anchor) == (4, Anchor("pixel", 4))
    wrong = run("train", *options, "--kernel", "cubic")
    assert wrong.exit_code == 2
    assert "error: kernel: unknown name 'cubic'. Did you mean 'bicubic'?" in wrong.output
