"""Volumes and batches shared by processes that speak by gloo."""

import copy
import os
import re
import runpy
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import torch.distributed as dist
from tests.helpers import forked, randn, told

from wellposed import errors
from wellposed.linalg import inner
from wellposed.noise import ItemNoise
from wellposed.operators import (
    ConeBeamCT,
    Inpainting,
    MultiCoilMRI,
    MultiCoilMRI3D,
    ParallelBeamCT,
    Stacked,
    random_mask,
    simulate_sensitivity_maps,
    uniform_random_lines,
)
from wellposed.parallel import sharding
from wellposed.parallel.distributed import ProcessPart
from wellposed.parallel.part import Part
from wellposed.priors import GaussianPrior, Stationary, Tabulated
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.reconstruction import Reconstruction
from wellposed.solvers import (
    DAPS,
    DDNM,
    DDS,
    DDS3D,
    DPS,
    IRSDE,
    MMPS,
    RDDM,
    DDIMProjection,
    DiffPIR,
    DiffusionMBIR,
    FlowChef,
    Flower,
    MRSampler,
    NoisyProjection,
    PiGDM,
    PnPDM,
    PnPFlow,
    Problem,
    REDDiff,
    ResShift,
)
from wellposed.solvers.volumes.tv import AXES

pytestmark = [
    pytest.mark.usefixtures("single_thread"),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="forks the processes"),
]

DEPTH = 7
F32, F64, C64, C128 = torch.float32, torch.float64, torch.complex64, torch.complex128
SOLVERS = {
    "dds": DDS(steps=2, cg_steps=3),
    "dds-hard": DDS(steps=2, gamma=float("inf"), cg_steps=3),
    "dds-3d": DDS3D(steps=2, cg_steps=5),
    "dds-3d-axes": DDS3D(steps=2, tv_axes="zyx", circular=True, cg_steps=2),
    "mbir": DiffusionMBIR(steps=3),
    "mbir-circular": DiffusionMBIR(steps=3, circular=True, rho=0.1),
}
OTHERS = {
    "dps": DPS(steps=3, zeta=0.5),
    "pigdm": PiGDM(steps=3),
    "mmps": MMPS(steps=3),
    "ddnm": DDNM(steps=3),
    "diffpir": DiffPIR(steps=3),
    "ddim-projection": DDIMProjection(steps=3, cg_steps=3),
    "red-diff": REDDiff(steps=3, start="back-projection"),
    "daps": DAPS(steps=3, ode_steps=1, langevin_steps=2),
    "daps-exact": DAPS(steps=3, ode_steps=1, draw="exact"),
    "pnp-dm": PnPDM(steps=2, prior_steps=2),
    "flowchef": FlowChef(steps=3),
    "flower": Flower(steps=3, gamma=0.5),
    "pnp-flow": PnPFlow(steps=3, averages=2),
    "noisy-projection": NoisyProjection(steps=3),
    "resshift": ResShift(steps=3, data_steps=2),
    "ir-sde": IRSDE(steps=3, correction=MMPS().correction),
    "rddm": RDDM(steps=3, data_steps=2),
    "mr-sampler": MRSampler(steps=3, data_steps=2),
}
PAIRS = [*zip(SOLVERS, ["ct", "mri"] * 3, strict=True)]
DTYPES = {2: {"ct": F32, "mri": C128}, 4: {"ct": F64, "mri": C64}}
CASES = [(n, *pair, DTYPES[n][pair[1]]) for n in DTYPES for pair in PAIRS]
# Of few views, conjugate gradients to a small residual amplify what processes round otherwise.
ON_CT = ("dps", "mmps", "red-diff", "flowchef", "resshift", "rddm")
CASES += [(2, name, *(("ct", F64) if name in ON_CT else ("mri", C128))) for name in OTHERS]
SOLVERS |= OTHERS


def in_processes(count, work, folder, timeout=200):
    """Run ``work(rank)`` in forked processes that know of each other; return their exit codes."""
    rendezvous = folder / f"rendezvous-{time.monotonic_ns()}"

    def start(rank):
        dist.init_process_group(
            "gloo", init_method=f"file://{rendezvous}", rank=rank, world_size=count
        )
        work(rank)

    return forked(count, start, folder, timeout)


def ct(dtype=F64, items=1, depth=DEPTH):
    operator = Stacked(ParallelBeamCT(10, 5, noise_sigma=0.02), depth)
    x = 0.5 + 0.1 * randn(items, 1, depth, 10, 10)
    spectrum = torch.linspace(0.05, 0.2, 100, dtype=F64).view(10, 10)
    prior = GaussianPrior(0.4, Stationary(spectrum + spectrum.flip(0, 1).roll((1, 1), (0, 1))))
    return operator.measure(x).to(dtype), operator, Slicewise(prior)


def mri(dtype=C128, items=1, depth=DEPTH):
    maps = simulate_sensitivity_maps(2, 10, 8)
    mask = uniform_random_lines(8, 1.5, 0.2, seed=1)
    operator = Stacked(MultiCoilMRI(mask, maps, noise_sigma=0.02), depth)
    x = randn(items, 1, depth, 10, 8, dtype=C128)
    prior = Slicewise(GaussianPrior(0.0, 0.3, Tabulated.linear(), is_complex=True), chunk=2)
    return operator.measure(x).to(dtype), operator, prior


MAKE = {"ct": ct, "mri": mri}


def solve(name, kind, dtype):
    """Two samples, of the volume or of this process's part of it."""
    y, operator, prior = MAKE[kind](dtype)
    y, operator = sharding.shard(y, operator)
    return sharding.gather(SOLVERS[name](y, operator, prior, num_samples=2, seed=3), operator)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Results of all cases by 2 or by 4 processes, saved by the first."""
    folder, found = tmp_path_factory.mktemp("shared"), {}
    for count in DTYPES:
        cases = [case for case in CASES if case[0] == count]

        def work(rank, cases=cases):
            results = [solve(*case[1:]) for case in cases]
            assert all((r is None) == (rank > 0) for r in results)
            if rank == 0:
                torch.save([(r.samples, r.residual, r.nfe) for r in results], folder / "found")

        codes = in_processes(count, work, folder, timeout=900)  # minutes on a busy machine
        assert codes == [0] * count, told(folder)
        results = torch.load(folder / "found", weights_only=True)
        found.update(zip(cases, results, strict=True))
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(map(str, case)))
def test_processes_give_the_volume_of_one(shared, case):
    samples, residual, nfe = shared[case]
    whole, single = solve(*case[1:]), case[-1] in (F32, C64)
    error = float((samples - whole.samples).norm() / whole.samples.norm())
    assert error < (1e-5 if single else 1e-10)
    torch.testing.assert_close(residual, whole.residual, rtol=1e-4 if single else 1e-9, atol=0)
    assert samples.dtype == whole.samples.dtype
    assert nfe == whole.nfe


def test_in_one_process_nothing_is_shared():
    y, operator, prior = ct()
    assert sharding.shard(y, operator)[0] is y
    assert sharding.shard(y, operator)[1] is operator
    result = DDS(steps=2)(y, operator, prior, seed=0)
    assert torch.equal(sharding.gather(result, operator).samples, result.samples)
    spread = sharding.spread(DDS(steps=2), y, operator, prior, seed=0)
    assert torch.equal(spread.samples, result.samples)


# The parts


@pytest.mark.parametrize("dtype", [F32, C128])
def test_a_part_is_given_the_noise_of_the_volume(dtype):
    whole = ItemNoise(2, [(0, 0), (1, 0)])
    part = ItemNoise(2, [(0, 0), (1, 0)], first_slice=3)
    for _ in range(2):
        z = whole.draw(torch.empty(2, 2, 7, 4, 5, dtype=dtype))
        assert torch.equal(part.draw(torch.empty(2, 2, 4, 4, 5, dtype=dtype)), z[:, :, 3:])
        assert len(torch.unique(z.real)) == z.numel()  # no slice repeats another


def test_differences_and_sums_reach_over_the_parts(tmp_path):
    x, d = (randn(2, 1, DEPTH, 3, 4, seed=s, dtype=C128) for s in (0, 1))

    def work(rank):
        part, whole = ProcessPart(DEPTH), Part()
        own = part.cut(x), part.cut(d)
        for circular in (False, True):
            for axis in AXES.values():
                kept = own[1].clone()
                jump = part.difference(own[0], axis, circular)
                back = part.difference_adjoint(own[1], axis, circular)
                assert torch.equal(own[1], kept)
                assert torch.equal(jump, part.cut(whole.difference(x, axis, circular)))
                assert torch.equal(back, part.cut(whole.difference_adjoint(d, axis, circular)))
                products = part.sum(inner(jump, own[1])), part.sum(inner(own[0], back))
                torch.testing.assert_close(*products)
        torch.testing.assert_close(part.sum(inner(*own)), inner(x, d))
        numbers = torch.tensor([2**50 + rank])
        assert int(part.sum(numbers)) == 3 * 2**50 + 3
        joined = part.gather(own[0])
        assert torch.equal(joined, x if rank == 0 else own[0])

    assert in_processes(3, work, tmp_path) == [0, 0, 0], told(tmp_path)


def test_the_identity_of_a_run_is_that_of_the_whole(tmp_path):
    def identity(y, operator, prior):
        return DDS().identity(Problem.create(y, operator, prior), y, 1, 0)

    expected = {kind: identity(*make()) for kind, make in MAKE.items()}
    y, operator, prior = ct()
    swapped = identity(y.flip(2), operator, prior)
    assert {k for k in swapped if swapped[k] != expected["ct"][k]} == {"y"}

    def work(rank):
        for kind, make in MAKE.items():
            y, operator, prior = make()
            assert identity(*sharding.shard(y, operator), prior) == expected[kind]

    assert in_processes(3, work, tmp_path) == [0, 0, 0], told(tmp_path)


# Runs


def test_a_seed_is_drawn_once_for_all(tmp_path):
    def work(rank):
        y, operator, prior = ct()
        y, operator = sharding.shard(y, operator)
        whole = sharding.gather(DDS(steps=2)(y, operator, prior), operator)
        if rank == 0:
            torch.save((whole.samples, whole.seed), tmp_path / "found")

    assert in_processes(2, work, tmp_path) == [0, 0], told(tmp_path)
    samples, seed = torch.load(tmp_path / "found", weights_only=True)
    torch.testing.assert_close(samples, DDS(steps=2)(*ct(), seed=seed).samples)


def test_seeds_that_differ_are_refused_by_all(tmp_path):
    def work(rank):
        y, operator, prior = ct()
        part, large = sharding.shard(y, operator), 2**70 + 5
        DDS(steps=1)(*part, prior, seed=large)
        with pytest.raises(
            errors.ArgumentError, match=r"seed: got .*, accepted: one seed for all"
        ):
            DDS(steps=1)(*part, prior, seed=large + rank)
        with pytest.raises(
            errors.ArgumentError, match=r"seed: got .*, accepted: one seed for all"
        ):
            sharding.spread(DDS(steps=1), *images(), seed=rank)
        with pytest.raises(errors.ArgumentError, match="operator: got 'a part of a volume'"):
            sharding.shard(*part)

    assert in_processes(3, work, tmp_path) == [0, 0, 0], told(tmp_path)


LOST = DDS3D(steps=5, batch_size=1, cg_steps=2)


def lose(folder, step):
    """A callback that kills process 1 after a step of its second sample."""
    seen = []

    def callback(index, state):
        seen.append(index)
        if dist.get_rank() == 1 and len(seen) == LOST.steps + step:
            os.kill(os.getpid(), signal.SIGKILL)

    return {"num_samples": 2, "seed": 1, "checkpoint": folder, "checkpoint_every": 2} | {
        "callback": callback
    }


def test_a_lost_process_is_a_sampling_error():
    assert issubclass(errors.ProcessLostError, errors.SamplingError)


@pytest.mark.parametrize("after", [3, 4], ids=["computing", "saving"])
@pytest.mark.sampled
def test_a_lost_process_ends_the_others_and_leaves_the_checkpoint(after, tmp_path):
    run = tmp_path / "run"

    def part(**options):
        y, operator, prior = mri()
        y, operator = sharding.shard(y, operator)
        return sharding.gather(LOST(y, operator, prior, **options), operator)

    codes = in_processes(3, lambda rank: part(**lose(run, after)), tmp_path)
    assert codes == [3, -signal.SIGKILL, 3]
    for rank, step in ((0, "4"), (2, "[45]")):
        message = (tmp_path / f"error-{rank}").read_text()
        assert re.search(f"ProcessLostError: DDS3D, step {step} of 5: a process", message)
        assert f"the checkpoint {str(run)!r} is intact" in message

    expected = LOST(*mri(), num_samples=2, seed=1).samples
    shutil.copytree(run, tmp_path / "copy")
    seen = []
    options = {"num_samples": 2, "seed": 1}
    alone = LOST(*mri(), checkpoint=run, callback=lambda index, _: seen.append(index), **options)
    assert seen == [2, 3, 4]
    torch.testing.assert_close(alone.samples, expected, rtol=0, atol=1e-9)

    def go_on(rank):
        whole = part(checkpoint=tmp_path / "copy", **options)
        if rank == 0:
            torch.testing.assert_close(whole.samples, expected, rtol=0, atol=1e-9)

    assert in_processes(2, go_on, tmp_path) == [0, 0], told(tmp_path)


def test_values_that_are_not_finite_end_all_processes_alike(tmp_path):
    class Broken(GaussianPrior):
        def denoise(self, x_t, t, condition=None):
            return super().denoise(x_t, t) / (1 if dist.get_rank() else 0)

    def work(rank):
        y, operator, _ = ct()
        y, operator = sharding.shard(y, operator)
        with pytest.raises(errors.SamplingError, match="non-finite values at step 1 of 4"):
            DDS(steps=4)(y, operator, Slicewise(Broken(0.4, 0.1)), seed=0)

    assert in_processes(2, work, tmp_path) == [0, 0], told(tmp_path)


def test_a_folder_that_not_all_see_is_refused(tmp_path):
    y, operator, prior = ct()
    options = {"seed": 1, "checkpoint_every": 1}
    DDS(steps=2)(y, operator, prior, checkpoint=tmp_path / "0", **options)

    def work(rank):
        part = sharding.shard(y, operator)
        with pytest.raises(errors.CheckpointError, match="checkpoint: the processes read"):
            DDS(steps=2)(*part, prior, checkpoint=tmp_path / str(rank), **options)

    assert in_processes(2, work, tmp_path) == [0, 0], told(tmp_path)


def test_another_run_is_refused_by_all(tmp_path):
    y, operator, prior = ct()
    DDS(steps=2)(y, operator, prior, seed=1, checkpoint=tmp_path / "run")

    def work(rank):
        part = sharding.shard(y.flip(2), operator)
        with pytest.raises(errors.CheckpointError, match=r"belongs to another run: y is"):
            DDS(steps=2)(*part, prior, seed=1, checkpoint=tmp_path / "run")

    assert in_processes(2, work, tmp_path) == [0, 0], told(tmp_path)


# A batch in parts


def images(items=3):
    operator = Inpainting(random_mask(8, 6, 0.5, 0), 1, noise_sigma=0.05)
    x = torch.rand(items, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    return operator.measure(x), operator, GaussianPrior(0.5, 0.1)


@pytest.mark.parametrize("count", [2, 4])
def test_items_are_what_they_are_in_one_process(count, tmp_path):
    """Also where processes are left without one; any solver, images and volumes."""
    cases = [(DDS(steps=3), images()), (DiffPIR(steps=3), images()), (DDS3D(steps=2), ct(F32, 2))]

    def work(rank):
        options = {"num_samples": 2, "seed": 5}
        found = [sharding.spread(solver, *problem, **options) for solver, problem in cases]
        drawn = sharding.spread(DDS(steps=3), *images())
        assert all((r is None) == (rank > 0) for r in (*found, drawn))
        if rank == 0:
            found = [(r.samples, r.residual, r.nfe, r.seed, r.measured) for r in (*found, drawn)]
            torch.save(found, tmp_path / "found")

    assert in_processes(count, work, tmp_path) == [0] * count, told(tmp_path)
    *found, drawn = torch.load(tmp_path / "found", weights_only=True)
    for (solver, problem), (samples, residual, *facts, measured) in zip(cases, found, strict=True):
        one = solver(*problem, num_samples=2, seed=5)
        assert torch.equal(samples, one.samples)
        assert torch.equal(residual, one.residual)
        assert torch.equal(measured, one.measured)
        assert facts == [one.nfe, 5]
    assert torch.equal(drawn[0], DDS(steps=3)(*images(), seed=drawn[3]).samples)


def test_a_batch_is_spread_and_nothing_else():
    with pytest.raises(errors.ArgumentError, match="y: got 'int', accepted: a batch"):
        sharding.spread(DDS(steps=1), 3, *images()[1:])


def test_operators_with_parameters_for_each_item_are_not_spread(tmp_path):
    y, operator, prior = images(2)
    levels = copy.deepcopy(operator)
    levels.noise_model.sigma = torch.tensor([0.1, 0.2])
    masks = torch.stack([random_mask(8, 6, 0.5, seed)[None].float() for seed in range(2)])

    def work(rank):
        for each in (levels, Inpainting(masks, noise_sigma=0.05)):
            with pytest.raises(errors.ArgumentError, match="operator: got 'parameters for 2"):
                sharding.spread(DDS(steps=2), y, each, prior, seed=0)
        with pytest.raises(errors.ArgumentError, match="num_samples: got 0"):
            sharding.spread(DDS(steps=2), y, operator, prior, num_samples=0)

    assert in_processes(2, work, tmp_path) == [0, 0], told(tmp_path)


# Bad input


def test_operators_that_couple_slices_are_refused():
    maps = simulate_sensitivity_maps(2, 10, 8)[:, None].expand(-1, 4, -1, -1).contiguous()
    lines = uniform_random_lines(8, 1.5, 0.2, seed=1)
    for operator in (ConeBeamCT((4, 10, 10), 3, 30.0, 45.0), MultiCoilMRI3D(lines[None], maps)):
        y = torch.zeros(1, *operator.measurement_size)
        with pytest.raises(errors.ArgumentError, match=r"may couple slices.*operators\.Stacked"):
            sharding.shard(y, operator)


def test_measurements_that_do_not_fit_are_refused():
    y, operator, _ = ct()
    for wrong, error in ((y[:, :, 1:], errors.ShapeError), (y + 0j, errors.DtypeError)):
        with pytest.raises(error, match="y: got"):
            sharding.shard(wrong, operator)


def test_what_cannot_be_shared_is_refused(tmp_path):
    def work(rank):
        y, operator, _ = ct(depth=2)
        with pytest.raises(errors.ArgumentError, match="operator: got '2 slices', accepted: at"):
            sharding.shard(y, operator)
        masks = torch.stack([random_mask(8, 6, 0.5, seed)[None].float() for seed in range(3)])
        each = Stacked(Inpainting(masks), 3)
        with pytest.raises(errors.ArgumentError, match="operator: got 'parameters for 3 items'"):
            sharding.shard(torch.zeros(1, 1, 3, 8, 6), each)

    assert in_processes(3, work, tmp_path) == [0] * 3, told(tmp_path)


class Two(Part):
    """One of two parts that need not speak."""

    processes = 2


@pytest.mark.parametrize(
    ("solver", "prior", "match"),
    [
        (DPS(steps=2), GaussianPrior(0.4, 0.1), "prior: got 'GaussianPrior', accepted: Slicewise"),
        (DDS(steps=2), GaussianPrior(0.4, 0.1), "prior: got 'GaussianPrior', accepted: Slicewise"),
        (
            DDS3D(steps=2),
            Slicewise(GaussianPrior(0.4, 0.1), (2, 3)),
            r"prior: got 'Slicewise along axes \(2, 3\)', accepted: Slicewise along axis 2",
        ),
        (
            DiffusionMBIR(steps=2, corrector_chunk=2),
            None,
            "corrector_chunk: got 2, accepted: None",
        ),
    ],
)
def test_what_couples_slices_is_refused_before_a_network_call(solver, prior, match):
    y, operator, usual = ct(depth=3)
    part = Stacked(operator.operator, 3, Two())
    with pytest.raises(errors.ArgumentError, match=match):
        solver(y, part, prior or usual, seed=0)


# As a user starts it

SCRIPT = """
import sys
import torch
from wellposed.operators import Inpainting, Stacked, random_mask
from wellposed.priors import GaussianPrior
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.solvers import DDS3D
from wellposed.parallel import sharding

torch.set_num_threads(1)
operator = Stacked(Inpainting(random_mask(8, 6, 0.5, 0), 1, noise_sigma=0.05), 3)
y = operator.measure(torch.rand(1, 1, 3, 8, 6, generator=torch.Generator().manual_seed(0)))
y, operator = sharding.shard(y, operator)
result = DDS3D(steps=4)(y, operator, Slicewise(GaussianPrior(0.5, 0.1)), seed=0)
whole = sharding.gather(result, operator)
if whole is not None:
    whole.save(sys.argv[1])
print(y.shape[2], "slices")
"""


@pytest.fixture
def script(tmp_path, monkeypatch, capsys):
    """The script, and the folder of what it finds in one process."""
    script, one = tmp_path / "script.py", tmp_path / "one"
    script.write_text(SCRIPT)
    monkeypatch.setattr("sys.argv", [str(script), str(one)])
    runpy.run_path(str(script))
    assert capsys.readouterr().out == "3 slices\n"
    return script, one


def same_samples(*folders):
    found = [Reconstruction.load(folder / "reconstruction.h5").samples for folder in folders]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=1e-6)


def test_a_script_shares_a_volume(script, tmp_path):
    """The script as it stands, by processes that are told what torchrun tells them."""
    script, one = script

    def work(rank):
        sys.argv[1] = str(tmp_path / "two")
        runpy.run_path(str(script))

    assert forked(2, work, tmp_path) == [0, 0], told(tmp_path)
    same_samples(one, tmp_path / "two")


@pytest.mark.slow
def test_torchrun_shares_a_volume(script, tmp_path):
    (script, one), two = script, tmp_path / "two"
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    output = subprocess.run(
        [sys.executable, *launcher, str(script), str(two)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert output.returncode == 0, output.stderr
    assert set(output.stdout.replace("slices", "").split()) == {"1", "2"}
    same_samples(one, two)
