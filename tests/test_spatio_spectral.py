"""The low-rank prior that is fitted while it is sampled (DDS2M)."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.io import savemat
from tests import helpers
from tests.helpers import Killed, close, normal, rand

from wellposed.cli.inputs import read_bands
from wellposed.errors import ArgumentError, CheckpointError, ShapeError
from wellposed.noise import ItemNoise, RecordedNoise
from wellposed.operators import Decomposable, Denoising, Inpainting
from wellposed.priors import ConvMaps, FreeMaps, Prior, Rescheduled, SpatioSpectral, Tabulated
from wellposed.priors.spatio_spectral.factors import Factors, fit_loss, total_variation
from wellposed.priors.spatio_spectral.start import completed, leading, noise_levels, smoothed
from wellposed.solvers import DDRM, DPS, recommend

RECORDED = np.load(Path(__file__).parent / "data" / "parity" / "dds2m.npz")


def part(name):
    cut = len(name) + 1
    found = {k[cut:]: RECORDED[k] for k in RECORDED.files if k.startswith(f"{name}/")}
    cfg = json.loads(str(found.pop("cfg")))
    return {k: torch.from_numpy(v) for k, v in found.items()}, cfg


# --- the published fit and chain -------------------------------------------------------------


@pytest.mark.parametrize("name", ["vs2m_b0", "vs2m_tv"])
def test_three_steps_of_the_fit_are_those_of_the_published_code(name):
    d, cfg = part(name)
    rank, size, bands = len(d["S0"]), tuple(d["S0"].shape[1:]), d["A0"].shape[1]
    prior = SpatioSpectral(
        *(rank, FreeMaps, 0.0, cfg["lr"], 1), average=cfg["ema"], smoothness=cfg["beta"]
    )
    fit = prior.begin(torch.zeros(1, bands, *size, dtype=torch.float64), ItemNoise(0, [(0,)]))
    factors = fit.factors[0]
    factors.maps.maps.data.copy_(d["S0"])
    factors.spectra.data.copy_(d["A0"])
    fit.mean, fit.begun = d["avg0"].permute(2, 1, 0)[None], torch.ones(())
    for i in range(3):
        x_t, alpha = d["xt"][i].permute(2, 1, 0)[None], float(d["abar"][i].sqrt())
        loss = fit_loss(factors, x_t, alpha, cfg["beta"])
        close(loss, d["loss"][i], 1e-12)
        fit._fit(x_t, alpha)
        close(factors.maps.maps.grad[0], d["gS"][i], 1e-12)
        close(factors.spectra.grad, d["gA"][i], 1e-12)
        close(factors.maps.maps[0], d["S"][i], 1e-12)
        close(factors.spectra, d["A"][i], 1e-12)
        close(fit.mean[0].permute(2, 1, 0), d["ema"][i], 1e-12)


class Stub(Prior):
    """The recording's network: it depends on its last estimate, as a fit does."""

    def __init__(self, schedule, first):
        super().__init__(schedule)
        self.first = first

    def begin(self, like, noise, project=None):
        twin = Stub(self.schedule, self.first)
        twin.previous = torch.zeros_like(like)
        return twin

    def denoise(self, x_t, t, condition=None):
        if t > self.first:
            self.previous = ((x_t + 1) / 2).clamp(0, 1)
            return x_t
        alpha = float(self.schedule(t)[0])
        wave = 0.35 * torch.tanh(0.7 * x_t * alpha) + 0.05 * torch.sin(3 * self.previous)
        self.previous = (0.5 + wave).clamp(0, 1)
        return 2 * self.previous - 1


class ByVectors(Decomposable):
    """An operator given by its right singular vectors and singular values."""

    def __init__(self, size, columns, values, sigma):
        super().__init__(size, (len(values),), sigma)
        self.register_buffer("columns", columns[:, : len(values)])
        self.register_buffer("singular_values", values)

    def V(self, coordinates):
        return (coordinates @ self.columns.T).reshape(-1, *self.img_size)

    def V_adjoint(self, x):
        return x.flatten(1) @ self.columns


def basis_of(name, d, cfg):
    """The coordinates of the recording, as columns: pixel by pixel, channels fastest."""
    size = tuple(d["x_init"].shape[1:])
    if "V_columns" in d:
        return size, d["V_columns"]
    identity = torch.eye(int(np.prod(size)), dtype=torch.float64)
    if "mask" not in d:
        return size, identity
    order = torch.arange(len(identity)).reshape(size).permute(1, 2, 0).flatten()
    kept = d["mask"][0].permute(1, 2, 0).flatten() > 0
    return size, identity[torch.cat([order[kept], order[~kept]])].T


def draws_of(d, columns, schedule, sigma):
    """One draw per step of the three of the recording: measured coordinates have their own."""
    values, T = d["singulars"], len(d["betas"])
    yield (columns @ d["x_init"].flatten()).reshape(d["x_init"].shape)
    for k, t in enumerate(range(T, 0, -1)):
        alpha, std = schedule(float(t - 1))
        noisier = values * std / alpha < sigma
        measured = d["drawB"][k].clone()
        measured[noisier] = d["drawA_padded"][k][: int(noisier.sum())]
        z = torch.cat([measured, d["drawC"][k][len(values) :]])
        yield (columns @ z).reshape(d["x_init"].shape)


@pytest.mark.parametrize("name", ["denoise", "completion", "sr2"])
def test_the_chain_is_ddrm_as_published(name):
    d, cfg = part(name)
    schedule, sigma = Tabulated.from_betas(d["betas"]), float(d["sigma0"])
    size, columns = basis_of(name, d, cfg)
    operator = ByVectors(size, columns, d["singulars"], sigma)
    y = d.get("Ut_y", d["y"])
    first, seen = cfg["T"] - cfg["start"] + 1, []
    solver = DDRM(steps=cfg["T"], eta=cfg["eta"], eta_b=cfg["etaB"])
    draws = draws_of(d, columns, schedule, sigma)
    found = solver(
        *(y, operator, Stub(schedule, first)),
        noise=RecordedNoise(draws),
        callback=lambda i, state: seen.append(state.x),
    )
    calls = torch.stack(seen[cfg["start"] - 2 : -1])[:, 0]
    close(calls, d["xt_at_calls"], 1e-6)
    close((found.samples[0, 0].permute(1, 2, 0) + 1) / 2, d["x_recon"], 1e-6)


# --- the fit --------------------------------------------------------------------------------

SIZE = (12, 9, 7)  # sides that no power of two divides


def cube(rank=2, seed=0):
    """A smooth image in [0, 1] of few maps and spectra, (1, bands, H, W)."""
    bands, height, width = SIZE
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    maps = torch.stack([0.2 + 0.6 * x, 0.5 + 0.4 * torch.sin(4 * y)])[:rank].double()
    spectra = rand(rank, bands, seed=seed)
    return torch.einsum("rhw,rc->chw", maps, spectra)[None] / rank


def noise(items=1, seed=0):
    return ItemNoise(seed, [(n,) for n in range(items)])


def quick(**settings):
    small = dict(rank=2, maps=FreeMaps, learning_rate=0.05, average=0.5, fits=2)
    return SpatioSpectral(**small | settings)


def test_the_gradient_with_free_factors_is_that_of_least_squares():
    """``d/dS mean (a (2 S A - 1) - x)^2 = 4 a / n (a (2 S A - 1) - x) A^T``."""
    factors = Factors(FreeMaps(2, SIZE[1:]).double(), rand(2, SIZE[0]))
    factors.maps.maps.data.copy_(rand(1, 2, *SIZE[1:], seed=1))
    x_t, alpha = normal(1, *SIZE), 0.7
    fit_loss(factors, x_t, alpha).backward()
    S, A = factors.maps.maps[0].flatten(1).T, factors.spectra
    gap = alpha * (2 * S @ A - 1) - x_t[0].flatten(1).T
    factor = 4 * alpha / gap.numel()
    close(factors.spectra.grad, factor * S.T @ gap, 1e-12)
    close(factors.maps.maps.grad[0].flatten(1).T, factor * gap @ A.T, 1e-12)


def test_total_variation_is_the_sum_over_three_axes():
    u = normal(1, 3, 4, 5)
    rows = (u[:, :, 1:] - u[:, :, :-1]).square().mean()
    columns = (u[..., 1:] - u[..., :-1]).square().mean()
    bands = (u[:, 1:] - u[:, :-1]).square().mean()
    close(total_variation(u), 2 * (rows + columns + bands / 2))
    assert total_variation(torch.ones(1, 1, 1, 1)) == 0


def test_free_factors_start_at_the_truncated_svd():
    x = normal(1, *SIZE)
    factors = Factors(FreeMaps(3, SIZE[1:]).double(), rand(3, SIZE[0]))
    factors.start(x)
    U, s, Vh = torch.linalg.svd(x[0].flatten(1), full_matrices=False)
    close(factors.image()[0].flatten(1), (U[:, :3] * s[:3]) @ Vh[:3], 1e-12)
    close(factors.spectra.square().mean(1), torch.ones(3).double(), 1e-12)


def test_ranks_above_the_number_of_bands_get_zeros():
    maps, scale, spectra = leading(cube(), 20)
    assert all(part[SIZE[0] :].abs().max() == 0 for part in (maps, scale, spectra))


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (8, 8), (13, 21)])
def test_the_network_makes_maps_of_any_size(size):
    assert ConvMaps(3, size, (4, 6, 8))().shape == (1, 3, *size)


def wave(side=48):
    y, x = torch.meshgrid(*[torch.linspace(0, 6, side).double()] * 2, indexing="ij")
    return torch.stack([x.sin() + y.cos(), (3 * x).sin() * y.sin(), torch.sign(x.sin())])


def test_the_noise_of_maps_is_measured():
    stds = torch.tensor([0.05, 0.2, 1.0]).double()
    maps = wave(96) + stds[:, None, None] * normal(3, 96, 96)
    assert (noise_levels(maps) / stds - 1).abs().max() < 0.1
    assert noise_levels(torch.ones(2, 1, 5)).tolist() == [0, 0]


def test_maps_are_smoothed_as_far_as_it_pays():
    clean = wave()
    close(smoothed(clean), clean, 0.02)
    before = None
    for std in (0.1, 0.3, 1.0):
        noise_ = std * normal(3, 48, 48)
        error = (smoothed(clean + noise_) - clean).square().mean((1, 2))
        assert (error < 0.8 * noise_.square().mean((1, 2))).all()
        assert before is None or (error > before).all()
        before = error
    assert smoothed(normal(1, 48, 48)).std() < 0.2  # of a map of noise little is left


def test_a_cube_of_low_rank_is_completed():
    kept = (rand(1, *SIZE, seed=3) < 0.5).double()
    x = cube()
    found = completed(lambda c: c + kept * (x - c), x, 2)
    missing = (1 - kept).bool()
    assert (found - x)[missing].square().mean().sqrt() < 0.1 * x[missing].std()


def test_completed_items_do_not_depend_on_the_others():
    kept, x = (rand(2, *SIZE, seed=3) < 0.5).double(), torch.cat([cube(), cube(seed=1)])
    both = completed(lambda c: c + kept * (x - c), x, 2)
    one = completed(lambda c: c + kept[:1] * (x - c)[:1], x[:1], 2)
    close(both[:1], one, 1e-12)


def test_a_run_starts_at_what_the_data_tell():
    kept = (rand(1, *SIZE, seed=3) < 0.5).double()
    x, operator = cube(), Inpainting(kept[0], noise_sigma=0.01)
    seen = []
    solver = DDRM(steps=4, eta=1.0)
    y, prior = operator.A(x), quick(wait=1.0)
    solver(y, operator, prior, seed=0, callback=lambda _, state: seen.append(state.x0))
    expected = completed(lambda c: c + kept * (x - c), x, 2)
    close((seen[0] + 1) / 2, expected.clamp(0, 1), 1e-6)


def test_a_fit_of_a_clean_image_finds_it():
    prior, x0 = quick(wait=0.0, fits=10, learning_rate=0.02), cube()
    fit = prior.begin(x0, noise())
    for _ in range(40):
        found = fit.denoise(2 * x0 - 1, 0.0)
    assert (found - (2 * x0 - 1)).abs().max() < 0.01


def test_it_waits_before_it_fits():
    fit, x_t = quick(wait=0.5).begin(cube(), noise()), normal(1, *SIZE)
    assert fit.denoise(x_t, 1501.0) is x_t and fit.begun == 0
    assert fit.denoise(x_t, 1500.0).abs().max() <= 1 and fit.begun == 1


# --- runs -----------------------------------------------------------------------------------


def solved(y, prior, sigma=0.1, solver=None, **options):
    solver, operator = solver or DDRM(steps=20, eta=0.5), Denoising(SIZE, sigma)
    return solver(y, operator, prior, seed=0, **options).samples


def noisy(sigma=0.1, items=1):
    return cube() + sigma * normal(items, *SIZE)


def test_denoising_beats_the_noise():
    y = noisy()
    found = solved(y, quick(fits=20), solver=DDRM(steps=40, eta=0.5))[0]
    assert (found - cube()).square().mean() < 0.3 * (y - cube()).square().mean()


def test_missing_pixels_are_completed():
    kept = (rand(1, *SIZE, seed=3) < 0.6).double()
    operator = Inpainting(kept[0], noise_sigma=0.01)
    found = DDRM(steps=20, eta=1.0)(operator.A(cube()), operator, quick(), seed=0).samples[0]
    missing = (1 - kept[0]).bool()
    error = (found - cube())[0][missing].square().mean().sqrt()
    assert error < 0.4 * cube()[0][missing].std()


@pytest.mark.parametrize("maps", [FreeMaps, ConvMaps])
def test_a_run_begins_anew_and_leaves_the_prior_as_it_was(maps):
    prior = quick(maps=maps)
    before = dict(vars(prior))
    first, second = solved(noisy(), prior), solved(noisy(), prior)
    assert torch.equal(first, second)
    assert vars(prior) == before and not list(prior.parameters())


def test_an_item_is_the_same_alone_and_in_a_batch():
    y, prior = noisy(items=2), quick(maps=ConvMaps, fits=2)
    close(solved(y, prior)[:, :1], solved(y[:1], prior), 1e-9)


def test_samples_differ_by_their_seed():
    found = solved(noisy(), quick(maps=ConvMaps), num_samples=2)
    assert (found[0] - found[1]).abs().max() > 1e-3


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    y, prior = noisy(), quick(maps=ConvMaps, fits=2)
    whole = solved(y, prior)

    def kill(index, state):
        if index == 13:
            raise Killed

    with pytest.raises(Killed):
        solved(y, prior, callback=kill, checkpoint=tmp_path, checkpoint_every=4)
    found = solved(y, prior, checkpoint=tmp_path, checkpoint_every=4)
    assert torch.equal(found, whole)


def test_the_memory_of_another_fit_is_refused():
    fit = quick(rank=2).begin(cube(), noise())
    with pytest.raises(CheckpointError, match="another prior"):
        fit.recall(quick(rank=3).begin(cube(), noise()).memory())


def test_float32_stays_float32():
    assert solved(noisy().float(), quick(maps=ConvMaps)).dtype == torch.float32


# --- bad input ------------------------------------------------------------------------------


def test_what_it_cannot_be_used_for_is_refused():
    prior, y = quick(), noisy()
    with pytest.raises(ArgumentError, match="no run has begun"):
        prior.denoise(y, 5.0)
    with pytest.raises(ArgumentError, match="no run has begun"):
        solved(y, Rescheduled(prior, Tabulated.cosine()))
    with pytest.raises(ArgumentError, match="cannot be differentiated"):
        solved(y, quick(wait=0.0), solver=DPS(steps=5))
    with pytest.raises(ShapeError, match="bands"):
        prior.check_image(torch.zeros(1, 1, 2, 2, 2))
    with pytest.raises(ShapeError, match="real"):
        prior.check_image(torch.zeros(1, 1, 2, 2, dtype=torch.complex64))


def test_maps_that_are_none_are_refused():
    with pytest.raises(ArgumentError, match="maps: got 'int'"):
        solved(noisy(), quick(maps=lambda rank, size: 3))
    with pytest.raises(ShapeError, match="maps: got maps"):
        solved(noisy(), quick(maps=lambda rank, size: FreeMaps(rank + 1, size)))


# --- the command line -----------------------------------------------------------------------


def reconstruct(folder, *words):
    np.save(folder / "cube.npy", cube()[0].movedim(0, -1).numpy())
    common = ("--operator", "inpainting", "--simulate", "--prior", "spatio-spectral")
    quick_ = ("--steps", 4, "--num-samples", 1, "--noise-sigma", 0.05, "--out", folder / "out")
    return helpers.run("reconstruct", folder / "cube.npy", *common, *quick_, *words)


def test_the_command_line_takes_all_bands_as_one_image(tmp_path):
    done = reconstruct(tmp_path, "--load", "rank=2", "--solver", "ddrm")
    assert done.exit_code == 0, done.output
    bands, height, width = SIZE
    assert np.load(tmp_path / "out" / "mean.npy").shape == (height, width, bands)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--load", "rnk=2"), "Did you mean 'rank'"),
        (("--load", "rank=0"), "rank: got 0"),
        (("--load", "maps=conv"), "maps: got 'conv'"),
        (("--slice", 1), "--bands: got an image of many bands"),
        (("--class", 1), "--class: got 1"),
    ],
)
def test_the_command_line_names_what_does_not_fit(tmp_path, words, told):
    done = reconstruct(tmp_path, "--solver", "ddrm", *words)
    assert done.exit_code != 0 and told.replace("'", "") in done.output.replace("'", "")
    assert done.output.strip().count("\n") == 0


def test_bands_are_read_from_a_matrix_of_a_mat_file(tmp_path):
    values = np.arange(24.0).reshape(2, 12)  # bands, pixels column by column
    savemat(tmp_path / "cube.mat", {"Y": values, "nRow": 3, "nCol": 4})
    found = read_bands(tmp_path / "cube.mat").values
    np.testing.assert_allclose(found, values.reshape(2, 4, 3).transpose(2, 1, 0), atol=1e-5)
    np.save(tmp_path / "flat.npy", np.zeros((3, 4)))
    with pytest.raises(ShapeError, match="--bands"):
        read_bands(tmp_path / "flat.npy")


def test_it_is_recommended_with_ddrm():
    assert isinstance(recommend(Denoising(SIZE, 0.1), SpatioSpectral()), DDRM)
