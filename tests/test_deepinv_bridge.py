"""deepinv's samplers through our call, and ours as deepinv's reconstructors."""

import deepinv
import numpy as np
import pytest
import torch
from torch import nn

from wellposed import errors
from wellposed.operators import (
    Blur,
    Inpainting,
    MultiCoilMRI,
    SuperResolution,
    gaussian_kernel,
    random_mask,
)
from wellposed.priors import GaussianPrior, NetworkPrior, Stationary, Tabulated
from wellposed.solvers import DDS, PnPDM, Solver, as_reconstructor, from_deepinv

pytestmark = pytest.mark.usefixtures("single_thread")

SAMPLERS = {
    "DDRM": dict(sigmas=np.linspace(1, 0, 12)),
    "DiffPIR": dict(max_iter=12),
    "DPS": dict(num_steps=12),
}
every_sampler = pytest.mark.parametrize("name", SAMPLERS)


def prior():
    """Smooth grey images about .5, in [0, 1]."""
    f = torch.fft.fftfreq(16).double()
    spectrum = 0.4 / (1 + 40 * (f[:, None] ** 2 + f**2)) ** 2
    found = GaussianPrior(0.0, Stationary(4 * spectrum))
    found.data_range, found.channels = (0.0, 1.0), 1
    return found


def truth(items=2, seed=0):
    z = torch.randn(items, 1, 16, 16, generator=torch.Generator().manual_seed(seed))
    return (0.5 + 0.5 * prior().draw(z)).clamp(0, 1)


def inpainting():
    return Inpainting(random_mask(16, 16, 0.5, 0), 1, noise_sigma=0.05)


def solver(name, **options):
    return from_deepinv(name, **{**SAMPLERS[name], **options})


@every_sampler
def test_samples_are_a_reconstruction_in_our_terms(name):
    operator, x = inpainting(), truth()
    y = operator.measure(x)
    kept = y.clone()
    settings = (operator.max_iter, operator.tol, operator.solver)
    level = operator.noise_model.sigma.clone()
    result = solver(name)(y, operator, prior(), num_samples=3, seed=0)
    assert result.samples.shape == (3, 2, 1, 16, 16)
    assert result.chi_square.shape == (3, 2)
    assert torch.equal(operator.noise_model.sigma, level)
    assert result.samples.dtype == y.dtype
    assert result.residual.shape == (3, 2)
    assert (result.solver, result.seed) == (f"deepinv:{name}", 0)
    assert result.settings.keys() == SAMPLERS[name].keys()
    assert torch.equal(y, kept)
    assert (operator.max_iter, operator.tol, operator.solver) == settings
    expected = (operator.A(result.samples[0]) - y).flatten(1).norm(dim=1)
    expected = expected / (0.05 * operator.mask.sum().sqrt())
    torch.testing.assert_close(result.residual[0], expected.to(result.residual.dtype))
    assert not result.samples.requires_grad


@every_sampler
def test_seeds_decide_and_the_global_generators_are_left_alone(name):
    operator = inpainting()
    y = operator.measure(truth())
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    state, numpy_state = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    first = solver(name)(y, operator, prior(), num_samples=2, seed=0)
    assert torch.equal(torch.get_rng_state(), state)
    assert (np.random.get_state()[1] == numpy_state).all()  # noqa: NPY002
    torch.manual_seed(6)
    again = solver(name)(y, operator, prior(), num_samples=1, seed=0)
    assert torch.equal(first.samples[:1], again.samples)
    assert not torch.equal(first.samples[0], first.samples[1])
    other = solver(name)(y, operator, prior(), seed=1)
    assert not torch.equal(other.samples, again.samples)
    drawn = solver(name)(y, operator, prior())
    repeated = solver(name)(y, operator, prior(), seed=drawn.seed)
    assert torch.equal(repeated.samples, drawn.samples)


class Counting(nn.Module):
    calls = 0

    def forward(self, x, label):
        self.calls += 1
        return 0.5 * x


@every_sampler
def test_network_calls_are_counted(name):
    network = NetworkPrior(Counting(), Tabulated.linear(), channels=1, data_range=(0.0, 1.0))
    operator = inpainting()
    y = operator.measure(truth())
    result = solver(name)(y, operator, network, num_samples=2, seed=0)
    assert 2 * result.nfe == network.network.calls
    assert result.nfe >= 11


@every_sampler
def test_deepinvs_own_call_gives_the_same(name):
    """With its generator seeded alike and the prior as its denoiser."""
    operator, denoiser = inpainting(), prior()
    y = operator.measure(truth())
    result = solver(name)(y, operator, denoiser, seed=3)
    from wellposed.noise import SAMPLING, item_generator

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(item_generator(3, (0,), SAMPLING).integers(2**63)))
        options = SAMPLERS[name]
        model = {
            "DDRM": lambda: deepinv.sampling.DDRM(denoiser, **options),
            "DiffPIR": lambda: deepinv.sampling.DiffPIR(
                denoiser, deepinv.optim.L2(), device="cpu", **options
            ),
            "DPS": lambda: deepinv.sampling.DPS(denoiser, **options),
        }[name]()
        expected = model(y.clone(), operator).detach()
    torch.testing.assert_close(result.samples[0], expected.to(y.dtype), rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["DiffPIR", "DPS"])
@pytest.mark.parametrize("kind", ["super-resolution", "blur", "deepinv"])
def test_other_operators_work(name, kind):
    kernel = gaussian_kernel(1.0, 5)
    operator = {
        "super-resolution": lambda: SuperResolution((1, 16, 16), 2, noise_sigma=0.05),
        "blur": lambda: Blur(kernel, (1, 16, 16), noise_sigma=0.05),
        "deepinv": lambda: deepinv.physics.Inpainting(
            (1, 16, 16), mask=0.5, noise_model=deepinv.physics.GaussianNoise(0.05)
        ),
    }[kind]()
    y = operator.A(truth())
    result = solver(name)(y, operator, prior(), seed=0)
    assert torch.isfinite(result.samples).all()
    assert result.samples.shape == (1, 2, 1, 16, 16)


def test_a_sampler_with_data_beats_the_priors_mean():
    operator, x = inpainting(), truth()
    y = operator.measure(x)
    result = solver("DiffPIR", max_iter=30)(y, operator, prior(), num_samples=2, seed=0)
    assert (result.mean - x).norm() < 0.8 * (x - 0.5).norm()


def test_unknown_names_and_options_are_suggested():
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'DiffPIR'"):
        from_deepinv("DifPIR")
    with pytest.raises(errors.UnknownNameError, match="Did you mean 'max_iter'"):
        from_deepinv("DiffPIR", max_iters=3)
    with pytest.raises(errors.UnknownNameError, match="unknown name 'rng'"):
        from_deepinv("DPS", rng=torch.Generator())


def test_bad_calls_are_named():
    operator = inpainting()
    y = operator.measure(truth())
    run = solver("DiffPIR")
    for change, words in (
        (dict(num_samples=0), "num_samples: got 0"),
        (dict(num_samples=True), "num_samples: got True"),
        (dict(seed=-1), "seed: got -1"),
        (dict(seed=True), "seed: got True"),
    ):
        with pytest.raises(errors.ArgumentError, match=words):
            run(y, operator, prior(), **change)
    with pytest.raises(errors.NonFiniteError, match="y:"):
        run(y * torch.nan, operator, prior())
    with pytest.raises(errors.ArgumentError, match="prior: got"):
        run(y, operator, deepinv.models.MedianFilter())


class Broken(nn.Module):
    def forward(self, x, label):
        return x * torch.nan


@every_sampler
def test_a_run_that_breaks_says_so(name):
    network = NetworkPrior(Broken(), Tabulated.linear(), channels=1, data_range=(0.0, 1.0))
    operator = inpainting()
    with pytest.raises(errors.SamplingError, match=f"{name} of deepinv: non-finite"):
        solver(name)(operator.measure(truth()), operator, network, seed=0)


def test_what_deepinv_would_fail_on_is_refused_before_the_network_runs():
    network = NetworkPrior(Counting(), Tabulated.linear(), channels=1, data_range=(0.0, 1.0))
    clean = Inpainting(random_mask(16, 16, 0.5, 0), 1)
    levels = Inpainting(random_mask(16, 16, 0.5, 0), 1, noise_sigma=torch.tensor([0.1, 0.2]))
    for operator in (clean, levels):
        with pytest.raises(errors.ArgumentError, match="one positive noise level"):
            solver("DiffPIR")(operator.A(truth()), operator, network)
    blur = Blur(gaussian_kernel(1.0, 5), (1, 16, 16), noise_sigma=0.05)
    with pytest.raises(errors.ArgumentError, match="operator: got 'Blur', accepted: for DDRM"):
        solver("DDRM")(blur.A(truth()), blur, network)
    assert network.network.calls == 0
    mri = MultiCoilMRI(torch.ones(16, 16), torch.ones(1, 16, 16, dtype=torch.complex64), 0.1)
    waves = GaussianPrior(0.0, 1.0, is_complex=True)
    with pytest.raises(errors.ArgumentError, match=r"prior: got .* a prior on real images"):
        solver("DPS")(mri.A(truth().to(torch.complex64)), mri, waves)


@pytest.mark.parametrize("ours", [DDS(steps=10), PnPDM(steps=4, prior_steps=2)])
def test_our_solvers_are_reconstructors(ours):
    operator, denoiser = inpainting(), prior()
    y = operator.measure(truth())
    model = as_reconstructor(ours, denoiser, num_samples=2, seed=0)
    assert isinstance(model, deepinv.models.Reconstructor)
    assert isinstance(ours, Solver)
    expected = ours(y, operator, denoiser, num_samples=2, seed=0).mean
    assert torch.equal(model(y, operator), expected)
    assert denoiser in set(model.modules())
    drawn = as_reconstructor(ours, denoiser)
    assert not torch.equal(drawn(y, operator), last := drawn(y, operator))
    again = as_reconstructor(ours, denoiser, seed=drawn.drawn)
    assert torch.equal(again(y, operator), last)


def test_deepinv_tests_our_solver():
    operator, x = inpainting(), truth(4)
    data = [(x[i : i + 2], operator.measure(x[i : i + 2], seed=i)) for i in (0, 2)]
    model = as_reconstructor(DDS(steps=20), prior(), num_samples=4, seed=0)
    found = deepinv.test(
        model,
        torch.utils.data.DataLoader(data, batch_size=None),
        operator,
        metrics=deepinv.metric.PSNR(),
        verbose=False,
        show_progress_bar=False,
    )
    means = [model(y, operator) for _, y in data]
    psnr = torch.cat(
        [
            -10 * (m - t).square().mean((1, 2, 3)).log10()
            for m, (t, _) in zip(means, data, strict=True)
        ]
    )
    assert found["PSNR"] == pytest.approx(float(psnr.mean()), abs=0.1)
    assert found["PSNR"] > found["PSNR no learning"] + 3
