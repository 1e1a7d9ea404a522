"""The memory plan: what a run is said to need is what it takes, and what cannot fit says why."""

import json
import logging
import os
import subprocess
import sys
from functools import partial

import pytest
import torch
from tests import helpers
from tests.helpers import F32
from torch import nn

from wellposed import errors
from wellposed.operators import Denoising, Inpainting, MultiCoilMRI, Stacked, random_mask
from wellposed.operators import simulate_sensitivity_maps as maps
from wellposed.priors import GaussianPrior, NetworkPrior, Tabulated
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.priors.networks.conv_unet import ConvUNet
from wellposed.priors.prior import Prior
from wellposed.runs import memory
from wellposed.runs.allocation import LivePeak, left_in_groups, prior_peak
from wellposed.solvers import (
    DAPS,
    DDNM,
    DDS,
    DPS,
    MMPS,
    DDIMProjection,
    DiffPIR,
    FlowChef,
    Flower,
    NoisyProjection,
    PiGDM,
    PnPDM,
    PnPFlow,
    Problem,
    REDDiff,
)

pytestmark = pytest.mark.usefixtures("single_thread")

VP, CPU = Tabulated.linear(), torch.device("cpu")
KB = 1000 * 4  # bytes of 1000 float32
rand = partial(helpers.rand, dtype=F32)


def test_live_tensors_are_counted_once_and_forgotten():
    given = torch.ones(1000)
    with LivePeak() as count:
        a = given + 1
        b = a[:500]  # a view
        b += 1
        given.mul_(2)  # was there before
        assert (count.live, count.peak) == (KB, KB)
        c = a * 2
        del a
        assert (count.live, count.peak) == (2 * KB, 2 * KB)  # of which b is a view
        del b
        d = c + 1
        assert (count.live, count.peak) == (2 * KB, 2 * KB)
        del c, d
    assert (count.live, count.peak) == (0, 2 * KB)


def unet_prior(dtype=torch.float32):
    network = ConvUNet(1, (8, 16), 1).to(dtype)
    return NetworkPrior(
        network, VP, "edm", lambda t: t / 1000, 0.5, channels=1, data_range=(-1.0, 1.0)
    )


@pytest.mark.parametrize("batch", [1, 5])
def test_the_priors_peak_is_known_without_computing(batch):
    x = rand(batch, 1, 24, 20)
    prior, seen = unet_prior(), []
    prior.network.register_forward_pre_hook(lambda module, args: seen.append(args[0].device.type))
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    planned = prior_peak(prior, x)
    assert seen == ["meta"]
    for name, value in prior.state_dict().items():
        assert torch.equal(value, before[name])
    with torch.no_grad(), LivePeak() as count:
        prior.denoise(x, VP.T / 2)
    assert count.peak > 10 * x.nbytes
    assert count.peak <= planned < 1.15 * count.peak


class Looking(nn.Module):
    """Looks at values, which the meta device has none of."""

    def forward(self, x, label):
        self.largest = len(x)
        return x * 2 if float(x.sum()) > 0 else x + 1


def test_a_prior_that_looks_at_values_denoises_one_image():
    prior = NetworkPrior(Looking(), VP, "sample", data_range=(-1.0, 1.0))
    x = rand(6, 1, 8, 8)
    peak = prior_peak(prior, x)
    assert prior.network.largest == 1
    assert 6 * 64 * 4 <= peak <= 6 * (2 * 64 * 4 + 300)


class Numerical(Prior):
    """Leaves torch, as classical denoisers do."""

    def denoise(self, x_t, t, condition=None):
        return torch.from_numpy(x_t.numpy() / 2)


def test_a_prior_that_computes_with_numpy_is_measured_too():
    assert prior_peak(Numerical(VP), rand(6, 1, 8, 8)) >= 0


def stacked(depth=12, side=16, dtype=torch.float32):
    operator = Stacked(Inpainting(random_mask(side, side, 0.5, 0), 1, 0.05), depth)
    return operator.measure(rand(1, 1, depth, side, side, dtype=dtype)), operator


def problem(prior=None, **options):
    y, operator = stacked(**options)
    return Problem.create(y, operator, prior or Slicewise(unet_prior()))


class Called(nn.Module):
    """Counts calls with values."""

    calls = 0

    def forward(self, x, label):
        self.calls += x.device.type != "meta"
        return torch.tanh(x)


@pytest.fixture
def free(monkeypatch):
    """Sets how many bytes are said to be free."""

    def say(size):
        monkeypatch.setattr(memory, "free_bytes", lambda device: size)

    return say


def test_the_largest_chunk_that_fits_is_taken(free):
    solver, own = DDS(steps=2), problem()
    free(1e12)
    plan = solver.memory_plan(own)
    assert plan.chunk == plan.prior.chunk == 12  # of 16, all there are
    assert plan.fits
    fixed = plan.needed[CPU] - 12 * plan.per_slice
    for chunk in (8, 4, 2, 1):
        free(fixed + chunk * plan.per_slice)
        found = solver.memory_plan(own)
        assert (found.chunk, found.fits) == (chunk, True)
        free(fixed + chunk * plan.per_slice - 1)
        assert solver.memory_plan(own).chunk < chunk or chunk == 1
    assert not solver.memory_plan(own).fits


def test_a_chunk_that_is_given_is_kept(free):
    free(1e12)
    plan = DDS().memory_plan(problem(Slicewise(unet_prior(), chunk=3)), chunk=2)
    assert plan.chunk == 3
    assert DDS().memory_plan(problem(), chunk=2).chunk == 2


def test_the_largest_slices_of_all_axes_count(free):
    free(1e12)
    per_slice = {
        axes: DDS().memory_plan(problem(Slicewise(unet_prior(), axes))).per_slice
        for axes in ((2,), (3,), (2, 3), (3, 4))
    }
    assert per_slice[2, 3] == per_slice[2,] > per_slice[3,] == per_slice[3, 4]


def test_two_chunks_are_elsewhere_at_once(free):
    free(1e12)
    here, there = (
        DDS().memory_plan(problem(Slicewise(unet_prior(), chunk=4, device=device)))
        for device in (None, "cpu")
    )
    assert there.needed[CPU] - here.needed[CPU] == 4 * here.per_slice


SOLVERS = [
    DAPS(steps=3, ode_steps=2, langevin_steps=2),
    DDIMProjection(steps=3),
    DDNM(steps=3),
    DDS(steps=3),
    DiffPIR(steps=3),
    DPS(steps=3),
    FlowChef(steps=3),
    Flower(steps=3, gamma=1.0),
    MMPS(steps=3),
    NoisyProjection(steps=3),
    PiGDM(steps=3),
    PnPDM(steps=3, prior_steps=2),
    PnPFlow(steps=3, averages=2),
    REDDiff(steps=3),
]


def mri(depth=12):
    operator = MultiCoilMRI(random_mask(16, 16, 0.5, 0), maps(4, 16, 16), noise_sigma=0.05)
    whole = Stacked(operator, depth)
    x = torch.complex(rand(1, 1, depth, 16, 16), rand(1, 1, depth, 16, 16))
    return whole.measure(x), whole


@pytest.mark.parametrize("make", [stacked, mri])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_no_run_takes_more_than_its_plan(solver, make):
    if isinstance(solver, MMPS) and make is mri:
        pytest.skip("iterates on measurements, here four times as large as the volume")
    y, operator = make(depth=8)
    prior = Slicewise(GaussianPrior(0.0, 0.1, VP, is_complex=make is mri), chunk=4)
    samples = 3 if isinstance(solver, DDS) else 1
    plan = solver.memory_plan(Problem.create(y, operator, prior), samples)
    with LivePeak() as count:
        solver(y, operator, prior, num_samples=samples, seed=0)
    # What is there before counts now: the measurement in units.
    assert count.peak <= plan.needed[CPU] + 2 * y.nbytes
    assert count.peak > plan.needed[CPU] / 3


@pytest.mark.parametrize(("batch_size", "together"), [(None, 6), (4, 4), (1, 1), (9, 6)])
def test_samples_in_a_batch_count(batch_size, together):
    one = DDS().memory_plan(problem())
    plan = DDS(batch_size=batch_size).memory_plan(problem(), 6)
    assert plan.volume == together * one.volume == together * 4 * 12 * 16**2
    assert plan.together == together


def test_a_run_that_cannot_fit_says_what_would(free):
    y, operator = stacked(dtype=torch.float64)
    prior = Slicewise(NetworkPrior(Called(), VP, "sample", data_range=(-1.0, 1.0)), chunk=12)
    plan = DDS().memory_plan(Problem.create(y, operator, prior), 4)
    parts = {name: size for _, name, size in plan.parts}
    assert set(parts) == {"14 arrays of the solver", "operator", "samples", "prior on 12 slices"}
    free(plan.needed[CPU] - 1)
    with pytest.raises(errors.ArgumentError, match="y: the run does not fit") as caught:
        DDS()(y, operator, prior, num_samples=4, seed=0)
    assert prior.prior.network.calls == 0
    message = str(caught.value)
    for remedy in ("Slicewise(chunk=8)", "batch_size=3", "single precision", "2 processes"):
        assert remedy in message
    DDS(steps=2)(y, operator, prior.in_chunks(8), num_samples=4, seed=0)
    DDS(steps=2, batch_size=3)(*stacked(), prior, num_samples=4, seed=0)
    DDS(steps=2)(y.float(), operator, prior, num_samples=4, seed=0)


def test_what_nothing_helps_says_so(free):
    free(0)
    with pytest.raises(errors.ArgumentError, match="accepted: more memory"):
        DDS().memory_plan(problem()).check()


def test_plans_of_volumes_are_logged_and_images_left_alone(caplog):
    y, operator = stacked()
    with caplog.at_level(logging.INFO, "wellposed"):
        DDS(steps=2)(y, operator, Slicewise(unet_prior()), seed=0)
    assert "needed on cpu" in caplog.text
    assert "14 arrays of the solver" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.INFO, "wellposed"):
        DDS(steps=2)(y[:, :, 0], operator.operator, unet_prior(), seed=0)
    assert "needed" not in caplog.text


def test_samples_of_an_image_are_computed_in_batches_that_fit(free, caplog, tmp_path):
    """As with that batch size; a checkpoint remembers it, and all go together by default."""
    operator, prior = Denoising((1, 16, 16), 0.1), unet_prior()
    y, how = torch.rand(1, 1, 16, 16), {"num_samples": 5, "seed": 0}
    image = Problem.create(y, operator, prior).zeros()
    each = prior_peak(prior, image, gradients=True) + 14 * image.nbytes
    assert memory.samples_together(prior, image, 5, 14) == 5
    expected = DDS(steps=4, batch_size=2)(y, operator, prior, **how).samples
    free(int(2.5 * each / memory.SHARE))
    with caplog.at_level(logging.INFO, "wellposed"):
        found = DDS(steps=4)(y, operator, prior, checkpoint=tmp_path, **how).samples
    assert "memory: 2 of 5 samples together" in caplog.text
    assert torch.equal(found, expected)
    assert json.loads((tmp_path / "run.json").read_text())["together"] == 2
    free(10**12)
    again = DDS(steps=4)(y, operator, prior, checkpoint=tmp_path, **how).samples
    assert torch.equal(again, expected)
    free(1)
    assert memory.samples_together(prior, image, 5, 14) == 1


def test_gradients_keep_activations():
    prior, x = unet_prior(), torch.zeros(2, 1, 16, 16)
    planned = prior_peak(prior, x, gradients=True)
    assert planned > 1.5 * prior_peak(prior, x)
    x.requires_grad_()
    with (peak := LivePeak()):
        torch.autograd.grad(prior.denoise(x, float(prior.schedule.T) / 2).abs().sum(), x)
    assert planned == pytest.approx(peak.peak, rel=1 - memory.SHARE)


def test_free_memory_is_told(device):
    assert 1e6 < memory.free_bytes(device) < 1e15


def test_the_plan_of_a_prior_over_volumes():
    prior = GaussianPrior(0.0, 0.1, VP)
    plan = DDS().memory_plan(problem(prior))
    assert (plan.chunk, plan.prior) == (None, prior)
    assert "prior on whole volumes" in str(plan)


LINUX = os.access("/proc/self/clear_refs", os.W_OK)

GROWTH = """
import psutil, torch
torch.set_num_threads(1)
from wellposed.runs.allocation import prior_peak
from wellposed.priors import NetworkPrior, Tabulated
from wellposed.priors.networks.conv_unet import ConvUNet
prior = NetworkPrior(
    ConvUNet(1, (32, 48), 1), Tabulated.linear(), "edm", lambda t: t / 1000, 0.5
)
x = torch.zeros(12, 1, 128, 128)
planned = prior_peak(prior, x)
with torch.no_grad():
    prior.denoise(x[:1], 500)  # what libraries set up once
    open("/proc/self/clear_refs", "w").write("5")  # the peak is what is held now
    before = psutil.Process().memory_info().rss
    prior.denoise(x, 500)
line = next(line for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(planned / (int(line.split()[1]) * 1024 - before))
"""


@pytest.mark.slow
@pytest.mark.skipif(not LINUX, reason="asks the kernel for the peak")
def test_the_process_grows_about_as_planned():
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", GROWTH]
    output = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert 0.4 < float(output.stdout) < 1.5


def group(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / f"memory.{name}").write_text(f"{text}\n")


def test_limits_of_containers_count(tmp_path):
    """Every group above the process's own limits it; cached files can be dropped."""
    group(tmp_path, max="max", current=9)
    group(tmp_path / "job", max=1000, current=700, stat="anon 600\ninactive_file 100")
    group(tmp_path / "job" / "step", max="max", current=700)
    assert list(left_in_groups("0::/job/step\n", tmp_path)) == [400]
    group(tmp_path / "memory" / "job", limit_in_bytes=500, usage_in_bytes=600)
    both = "9:pids:/job\n4:cpu,memory:/job\n0::/elsewhere\n"
    assert list(left_in_groups(both, tmp_path)) == [0]
    assert list(left_in_groups("", tmp_path)) == []
