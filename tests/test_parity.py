"""Trajectories recorded from the original authors' code, run with an analytic network.

The arrays in ``data/parity`` are cut from such recordings; draws are replayed in call order.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from wellposed.noise import RecordedNoise
from wellposed.operators.image.inpainting import Inpainting
from wellposed.operators.mri.cartesian import MultiCoilMRI
from wellposed.priors import GaussianPrior, Tabulated
from wellposed.priors.transition import Levels, implied_noise, transition, variance
from wellposed.solvers import DDS, REDDiff

DATA = Path(__file__).parent / "data" / "parity"


def recorded(name):
    return {k: v for k, v in np.load(DATA / f"{name}.npz").items()}


def recorded_prior(d, is_complex=False):
    """The analytic network of the recordings, on their float32 table of betas."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    mean = 0.0 if is_complex else torch.from_numpy(d["prior_mean"])
    variance = float(d["prior_var"].item())
    return GaussianPrior(mean, variance, Tabulated.from_betas(betas), is_complex)


def test_dds_multicoil_mri_follows_the_published_code_with_its_slip_corrected():
    d = recorded("dds_mri")
    cfg = json.loads(d["args"].item())
    operator = MultiCoilMRI(torch.from_numpy(d["mask"][0, 0]), torch.from_numpy(d["maps"]))
    solver = DDS(
        steps=cfg["T_sampling"],
        eta=cfg["eta"],
        gamma=cfg["gamma"],
        cg_steps=cfg["CG_iter"],
        renoise_last=False,
    )
    seen = []
    noise = RecordedNoise([torch.from_numpy(d["z0000"])] * cfg["T_sampling"])
    result = solver(
        torch.from_numpy(d["y"]),
        operator,
        recorded_prior(d, is_complex=True),
        noise=noise,
        callback=lambda i, s: seen.append((s.x, s.x0)),
    )
    assert len(seen) == len(d["t"])
    for i, (x, x0) in enumerate(seen):
        assert np.abs(x0.numpy() - d["cg_out"][i]).max() < 1e-4, f"data consistency, step {i}"
        if i + 1 < len(seen):
            got = torch.cat([x.real, x.imag], 1).numpy()
            assert np.abs(got - d["xt"][i + 1]).max() < 1e-4, f"transition of step {i}"
    assert np.abs(result.samples[0, 0, 0].numpy() - d["x_out"]).max() < 1e-4


@pytest.mark.parametrize(("returned", "key"), [("x0", "x_out"), ("mu", "second")])
def test_red_diff_inpainting_follows_the_published_code(returned, key):
    d = recorded("red_diff_inpainting")
    cfg = json.loads(d["cfg"].item())
    operator = Inpainting(torch.from_numpy(d["mask"]))
    solver = REDDiff(
        steps=cfg["num_steps"],
        regularization=cfg["grad_term_weight"],
        weighting=cfg["denoise_term_weight"],
        learning_rate=cfg["lr"],
        sigma_x0=cfg["sigma_x0"],
        returned=returned,
        # The recording averaged over 2 images of 3 channels, of which one channel is kept here:
        # its gradients were 6 times smaller, which only Adam's epsilon can tell.
        epsilon=6e-8,
    )
    means = []
    result = solver(
        torch.from_numpy(d["y"]),
        operator,
        recorded_prior(d),
        noise=RecordedNoise(torch.from_numpy(d["z"])),
        callback=lambda i, s: means.append(s.x),
    )
    assert np.abs(torch.stack(means[::7]).numpy() - d["mu"]).max() < 1e-4
    assert np.abs(result.samples[0].numpy() - d[key]).max() < 1e-4


def test_shift_transition_is_resshifts_chain():
    d = {k: torch.from_numpy(v) for k, v in recorded("resshift").items()}
    eta, kappa = d["sqrt_etas"] ** 2, 2.0
    upsampled = torch.nn.functional.interpolate(d["y"], scale_factor=4, mode="bicubic")
    anchor = torch.nn.functional.avg_pool2d(upsampled, 4)
    x = anchor + kappa * eta[-1].sqrt() * d["noise"][0]
    for i, t in enumerate(range(14, -1, -1)):
        before = eta[t - 1] if t else torch.zeros_like(eta[0])
        level = Levels(1 - eta[t], kappa * eta[t].sqrt(), 1 - before, kappa * before.sqrt())
        eps = implied_noise(x, d["x0"][i], level, anchor)
        v = variance("shift", level)
        x = transition(d["x0"][i], eps, d["noise"][i + 1], level, v, anchor)
        error = (x - d["traj"][i]).abs().max() / d["traj"][i].abs().max()
        assert error < 1e-12, f"t = {t}"


def test_markov_transition_is_ddpm_and_ddim():
    schedule = Tabulated.linear()
    generator = torch.Generator().manual_seed(0)
    x_t, x0, z = (torch.randn(4, 8, generator=generator, dtype=torch.float64) for _ in range(3))
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    for t in (2, 17, 500, 1000):
        level = Levels(*schedule(t), *schedule(t - 1))
        bar_t, bar_s, beta = level.alpha_t**2, level.alpha_s**2, betas[t - 1]
        # Ho et al. 2020, eq. 7, as a textbook writes it.
        mean = bar_s.sqrt() * beta / (1 - bar_t) * x0
        mean = mean + (1 - beta).sqrt() * (1 - bar_s) / (1 - bar_t) * x_t
        ddpm = mean + (beta * (1 - bar_s) / (1 - bar_t)).sqrt() * z
        eps = implied_noise(x_t, x0, level)
        ours = transition(x0, eps, z, level, variance("markov", level))
        torch.testing.assert_close(ours, ddpm, rtol=0, atol=1e-11)
    for t, s, eta in ((500, 300, 0.0), (500, 300, 0.7), (981, 961, 1.0)):
        level = Levels(*schedule(t), *schedule(s))
        bar_t, bar_s = level.alpha_t**2, level.alpha_s**2
        # Song et al. 2021, eq. 12 and 16.
        std = eta * ((1 - bar_s) / (1 - bar_t)).sqrt() * (1 - bar_t / bar_s).sqrt()
        eps = implied_noise(x_t, x0, level)
        ddim = bar_s.sqrt() * x0 + (1 - bar_s - std**2).sqrt() * eps + std * z
        ours = transition(x0, eps, z, level, variance("markov", level, eta))
        torch.testing.assert_close(ours, ddim, rtol=0, atol=1e-12)
