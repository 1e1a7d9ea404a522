"""Long runs: killed at any moment and called again, they give the same result bit for bit."""

import copy
import dataclasses
import json
import logging
import os
import random
import signal
import sys
import time

import pytest
import torch
import torch.multiprocessing as mp
from deepinv.physics import Downsampling
from safetensors import safe_open
from safetensors.torch import save_file
from tests.helpers import Killed, forks, rand

from wellposed import errors
from wellposed.integrity import checksum
from wellposed.operators import ConeBeamCT, Inpainting, MultiCoilMRI, Stacked, random_mask
from wellposed.operators import simulate_sensitivity_maps as maps
from wellposed.priors import VE, GaussianPrior, NetworkPrior, Stationary, Tabulated
from wellposed.priors.adapters.slicewise import Slicewise
from wellposed.runs import progress
from wellposed.runs.checkpoint import RunFolder
from wellposed.runs.fingerprint import fingerprint
from wellposed.solvers import DAPS, DDNM, DDS, DPS, DiffPIR, REDDiff, State

pytestmark = pytest.mark.usefixtures("single_thread")

VP = Tabulated.linear()


@forks
@pytest.mark.slow
def test_killed_at_random_moments_the_run_ends_with_the_same_samples(tmp_path):
    operator = Stacked(Inpainting(random_mask(16, 16, 0.5, 0), 1, 0.05), 8)
    y = operator.measure(rand(1, 1, 8, 16, 16, dtype=torch.float32))
    prior = Slicewise(GaussianPrior(0.5, 0.1, VP), (2, 3), chunk=3)
    solver, folder = DDS(steps=12, batch_size=1), tmp_path / "run"

    def run(checkpoint=None):
        options = {"checkpoint": checkpoint, "checkpoint_every": 2}
        return solver(y, operator, prior, num_samples=3, seed=1, **options)

    started = time.perf_counter()
    whole = run()
    taken = time.perf_counter() - started
    chance, kills, seen = random.Random(0), 0, set()
    moments = ["run.json", "samples-0.safetensors", "samples-1.safetensors"]
    for moment in [name for name in moments for _ in range(3)] + [None]:
        child = mp.get_context("fork").Process(
            target=lambda: torch.save(run(folder).samples, tmp_path / "samples")
        )
        child.start()
        if moment is not None:
            while not (folder / moment).exists() and child.is_alive():
                time.sleep(0.001)
            time.sleep(chance.uniform(0, taken / 8))
            child.kill()
        child.join()
        kills += child.exitcode == -signal.SIGKILL
        seen.add(tuple(sorted(p.name for p in folder.glob("*.safetensors"))))
    assert kills >= 4
    assert len(seen) >= 2  # in the first sample, in later ones, between them
    assert torch.equal(torch.load(tmp_path / "samples", weights_only=True), whole.samples)


def real(depth=4):
    operator = Stacked(Inpainting(random_mask(8, 6, 0.5, 0), 1, 0.05), depth)
    x = torch.rand(1, 1, depth, 8, 6, generator=torch.Generator().manual_seed(0))
    prior = GaussianPrior(0.5, Stationary(torch.linspace(0.1, 0.2, 48).view(8, 6)), VP)
    return operator.measure(x), operator, Slicewise(prior, (2,), 3)


def complex_(depth=4):
    operator = MultiCoilMRI(random_mask(8, 6, 0.5, 0), maps(2, 8, 6), noise_sigma=0.05)
    whole = Stacked(operator, depth)
    x = torch.rand(1, 1, depth, 8, 6, generator=torch.Generator().manual_seed(0))
    prior = Slicewise(GaussianPrior(0.0, 0.1, VP, is_complex=True), (2, 4))
    return whole.measure(x + 1j * x.flip(2)), whole, prior


def images():
    masks = torch.stack([random_mask(8, 6, 0.5, seed)[None].float() for seed in range(2)])
    operator = Inpainting(masks, noise_sigma=0.05)
    x = torch.rand(2, 1, 8, 6, generator=torch.Generator().manual_seed(0))
    return operator.measure(x.double()), operator, GaussianPrior(0.5, 0.1, VP)


def stop_after(steps):
    """A callback that ends the process's ``steps``-th step with an exception."""
    taken = []

    def callback(index, state):
        taken.append(index)
        if len(taken) == steps:
            raise Killed

    return callback


SOLVERS = [
    DDS(steps=7, batch_size=1),
    REDDiff(steps=7, sigma_x0=0.01, returned="x0", start="back-projection"),
    DAPS(steps=7, ode_steps=1, langevin_steps=3),
    DPS(steps=7, batch_size=1),
    DDNM(steps=7),
    DiffPIR(steps=7),
]


@pytest.mark.parametrize("make", [real, complex_, images])
@pytest.mark.parametrize("solver", SOLVERS, ids=lambda solver: type(solver).__name__)
def test_interrupted_after_any_steps_the_run_goes_on_alike(solver, make, tmp_path):
    problem = make()
    whole = solver(*problem, num_samples=2, seed=3)
    for every in (1, 3):
        options = {"num_samples": 2, "seed": 3, "checkpoint_every": every}
        options["checkpoint"] = tmp_path / str(every)
        for steps in (2, 4, 3):
            with pytest.raises(Killed):
                solver(*problem, callback=stop_after(steps), **options)
        seen = []
        result = solver(*problem, callback=lambda i, s, seen=seen: seen.append(i), **options)
        assert torch.equal(result.samples, whole.samples)
        assert torch.equal(result.residual, whole.residual)
        assert result.nfe == whole.nfe
        assert seen[0] > 0  # it did go on, and not begin again


def test_a_finished_run_is_at_hand_until_its_folder_is_deleted(tmp_path):
    folder = tmp_path / "run"
    first = DDS(steps=5)(*real(), num_samples=2, seed=3, checkpoint=folder)
    files = {"run.json", "samples-0.safetensors"}
    assert {p.name for p in folder.iterdir()} - {".lock"} == files
    again = DDS(steps=5)(
        *real(), num_samples=2, seed=3, checkpoint=str(folder), callback=stop_after(1)
    )
    assert torch.equal(again.samples, first.samples)
    assert again.nfe == 5


def test_the_seed_that_was_drawn_is_kept(tmp_path):
    with pytest.raises(Killed):
        DDS(steps=5)(*real(), checkpoint=tmp_path, checkpoint_every=1, callback=stop_after(3))
    result = DDS(steps=5)(*real(), checkpoint=tmp_path)
    assert torch.equal(result.samples, DDS(steps=5)(*real(), seed=result.seed).samples)


def changed(what):
    """Arguments of a call that differ in one thing."""
    y, operator, prior = real()
    solver, options = DDS(steps=5), {"num_samples": 1, "seed": 3}
    if what == "y":
        y = y + 1e-6 * operator.restrict(torch.ones_like(y))
    elif what == "y.dtype":
        y = y.double()
    elif what == "operator":
        operator.operator.mask[..., 0, 0] = 1 - operator.operator.mask[..., 0, 0]
    elif what == "prior":
        prior = Slicewise(prior.prior, (2,), precision=torch.bfloat16)
    elif what == "solver":
        solver = DiffPIR(steps=5)
    elif what.startswith("solver."):
        solver = DDS(**{"steps": 5, what.removeprefix("solver."): 7})
    else:
        options[what] = 2
    return solver, (y, operator, prior), options


SETTINGS = ["solver", "solver.steps", "solver.cg_steps", "seed", "num_samples"]


@pytest.mark.parametrize("what", ["y", "y.dtype", "operator", "prior", *SETTINGS])
def test_another_run_is_refused_and_named(what, tmp_path):
    DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)
    solver, problem, options = changed(what)
    with pytest.raises(errors.CheckpointError, match=rf"belongs to another run: .*\b{what} is"):
        solver(*problem, **options, checkpoint=tmp_path, callback=stop_after(1))


def test_the_chunk_is_no_part_of_the_identity_and_remembered(tmp_path):
    y, operator, prior = real()
    DDS(steps=5)(y, operator, prior.in_chunks(2), seed=3, checkpoint=tmp_path)
    assert RunFolder(tmp_path).read()["chunk"] == 2
    DDS(steps=5)(y, operator, prior.in_chunks(1), seed=3, checkpoint=tmp_path)


def interrupted(folder):
    with pytest.raises(Killed):
        DDS(steps=5)(
            *real(), seed=3, checkpoint=folder, checkpoint_every=1, callback=stop_after(3)
        )


@pytest.mark.parametrize("name", ["state.safetensors", "run.json"])
@pytest.mark.parametrize("kept", [0, 0.01, 0.5, 0.99])
def test_truncated_files_are_named(name, kept, tmp_path):
    interrupted(tmp_path)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(kept * len(content))])
    with pytest.raises(errors.CheckpointError, match=name):
        DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)


def rewritten(folder, name, change):
    """Change what a file holds, and its checksum with it."""
    with safe_open(folder / name, framework="pt") as file:
        facts = json.loads(file.metadata()["facts"])
        tensors = {key: file.get_tensor(key) for key in file.keys()}
    change(tensors, facts)
    told = json.dumps(facts)
    told = {"facts": told, "sha256": checksum({"facts": told, **tensors})}
    save_file(tensors, folder / name, told)


DAMAGES = {
    "NaN": lambda tensors, facts: tensors["x"].fill_(float("nan")),
    "float64": lambda tensors, facts: tensors.update(x=tensors["x"].double()),
    "shape": lambda tensors, facts: tensors.update(x=tensors["x"][:, :, 1:].contiguous()),
    "step": lambda tensors, facts: facts.update(step=99),
    "no step": lambda tensors, facts: facts.update(step=0),
    "step as text": lambda tensors, facts: facts.update(step="3"),
    "draws": lambda tensors, facts: facts.update(position=-1),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_states_that_cannot_be_are_refused(kind, tmp_path):
    interrupted(tmp_path)
    rewritten(tmp_path, "state.safetensors", DAMAGES[kind])
    with pytest.raises(errors.CheckpointError, match=r"checkpoint: .*(delete it|state of)"):
        DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)


@pytest.mark.parametrize(
    "change", [lambda u: u.double(), lambda u: u[..., 1:].contiguous(), lambda u: u[:0]]
)
def test_samples_that_cannot_be_are_refused(change, tmp_path):
    DDS(steps=2)(*real(), seed=3, checkpoint=tmp_path)
    name = "samples-0.safetensors"
    rewritten(tmp_path, name, lambda tensors, facts: tensors.update(u=change(tensors["u"])))
    with pytest.raises(errors.CheckpointError, match="holds samples of"):
        DDS(steps=2)(*real(), seed=3, checkpoint=tmp_path)


@pytest.mark.parametrize("name", ["state.safetensors", "samples-0.safetensors"])
def test_one_flipped_bit_is_noticed(name, tmp_path):
    if name.startswith("state"):
        interrupted(tmp_path)
    else:
        DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    for place in (-3, len(content) // 2, 60):
        flipped = bytearray(content)
        flipped[place] ^= 1
        (tmp_path / name).write_bytes(flipped)
        with pytest.raises(errors.CheckpointError, match=name):
            DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)


def test_a_second_run_in_the_folder_is_told_so(tmp_path):
    def second(index, state):
        with pytest.raises(errors.CheckpointError, match=f"another run uses.*{os.getpid()}"):
            DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)

    DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path, callback=second)
    DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)


def test_without_its_state_a_run_begins_again(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "state.safetensors").unlink()
    result = DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)
    assert torch.equal(result.samples, DDS(steps=5)(*real(), seed=3).samples)


def test_a_half_written_file_is_never_looked_at(tmp_path):
    interrupted(tmp_path)
    (tmp_path / "state.safetensors.part").write_bytes(b"half")
    result = DDS(steps=5)(*real(), seed=3, checkpoint=tmp_path)
    assert torch.equal(result.samples, DDS(steps=5)(*real(), seed=3).samples)


def test_what_is_no_folder_is_named(tmp_path):
    file = tmp_path / "file"
    file.write_text("a file")
    with pytest.raises(errors.FileError, match="checkpoint: cannot read"):
        DDS(steps=5)(*real(), seed=3, checkpoint=file)
    with pytest.raises(errors.ArgumentError, match="checkpoint: got True, accepted"):
        DDS(steps=5)(*real(), seed=3, checkpoint=True)


@pytest.mark.parametrize("every", [0, 1.5, True])
def test_impossible_intervals_are_named(every, tmp_path):
    with pytest.raises(errors.ArgumentError, match="checkpoint_every: got"):
        DDS(steps=5)(*real(), checkpoint=tmp_path, checkpoint_every=every)


def test_a_bad_seed_claims_no_folder(tmp_path):
    with pytest.raises(errors.ArgumentError, match="seed: got -1"):
        DDS(steps=5)(*real(), seed=-1, checkpoint=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@dataclasses.dataclass(frozen=True, eq=False)
class Richer(State):
    dual: torch.Tensor
    half: torch.Tensor
    count: int
    rate: float
    name: str | None


def richer():
    x = torch.randn(2, 3, dtype=torch.complex128)
    return Richer(x, x, x[:, :2].mT, x.real.bfloat16(), 3, float("inf"), None)


def test_states_of_any_fields_come_back_bit_for_bit(tmp_path):
    """Complex doubles, tensors that share storage, views, bfloat16, plain values."""
    state, folder = richer(), RunFolder(tmp_path)
    folder.save_state(state, {"batch": 1, "step": 4})
    assert folder.load_state(state, batch=0) is None
    found, facts, _ = folder.load_state(dataclasses.replace(richer(), count=0), batch=1)
    assert facts["step"] == 4
    for field in dataclasses.fields(state):
        a, b = getattr(found, field.name), getattr(state, field.name)
        same = torch.equal(a, b) and a.dtype == b.dtype if torch.is_tensor(b) else a == b
        assert same, field.name


def test_states_that_do_not_fit_are_refused(tmp_path):
    state, folder = richer(), RunFolder(tmp_path)
    folder.save_state(state, {"batch": 0})
    with pytest.raises(errors.CheckpointError, match="has a state of"):
        folder.load_state(dataclasses.replace(state, x=state.x[:1]), batch=0)
    with pytest.raises(errors.CheckpointError, match="has a state of"):
        folder.load_state(State(state.x, state.x0), batch=0)


def test_fingerprints_tell_weights_and_structure():
    layers = [torch.nn.Conv2d(1, 1, 3), torch.nn.Conv2d(1, 1, 3, padding=1)]
    layers[1].load_state_dict(layers[0].state_dict())
    assert fingerprint(layers[0]) != fingerprint(layers[1])
    before = fingerprint(layers[0])
    assert fingerprint(layers[0]) == before
    layers[0].weight.data.view(-1)[4] += 1e-6
    assert fingerprint(layers[0]) != before


def network(schedule=VP, prediction="noise", **images):
    layer = torch.nn.Conv2d(1, 1, 3, padding=1)
    torch.nn.init.constant_(layer.weight, 0.1)
    torch.nn.init.zeros_(layer.bias)
    images = {"channels": 1, "data_range": (-1.0, 1.0)} | images
    return Slicewise(NetworkPrior(layer, schedule, prediction, lambda t: t, **images))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (network(), network(Tabulated.cosine())),
        (network(VE(378.0, 0.01)), network(VE(100.0, 0.01))),
        (network(), network(prediction="sample")),
        (network(), network(data_range=(0.0, 1.0))),
        (GaussianPrior(0.5, 0.1), GaussianPrior(0.4, 0.1)),
        (GaussianPrior(0.5, 0.1), GaussianPrior(0.5, 0.2)),
        (ConeBeamCT((4, 10, 10), 3, 30.0, 45.0), ConeBeamCT((4, 10, 10), 3, 31.0, 45.0)),
        *[[Downsampling((1, 8, 8), None, factor) for factor in (2, 4)]],
    ],
)
def test_fingerprints_tell_settings_that_are_no_tensors(one, other):
    """Schedules, ranges, geometries: with them the same weights give another volume."""
    assert fingerprint(one) != fingerprint(other)
    assert fingerprint(one) == fingerprint(copy.deepcopy(one))


@pytest.mark.parametrize("make", [real, complex_, images])
def test_a_run_leaves_the_fingerprints_as_they_are(make):
    y, operator, prior = make()
    before = fingerprint(operator), fingerprint(prior)
    DDS(steps=2)(y, operator, prior, seed=0)
    assert (fingerprint(operator), fingerprint(prior)) == before


def test_fingerprints_end_where_modules_hold_each_other():
    first, second = torch.nn.ReLU(), torch.nn.ReLU()
    first.held, second.owner = [second], {"by": first}
    assert fingerprint(first) == fingerprint(first)


def test_batch_jobs_log_their_pace(caplog, monkeypatch):
    monkeypatch.setattr(progress, "LOG_EVERY", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, "wellposed.runs.progress"):
        assert list(progress.track(range(4, 7), "DDS", done=4)) == [4, 5, 6]
    assert len(caplog.messages) == 3
    assert caplog.messages[0].startswith("DDS: step 5 of 7, ")
    assert caplog.messages[2].endswith(" s/step, 0:00:00 left")


def test_a_line_is_logged_once_a_minute_only(caplog, monkeypatch):
    clock = iter(range(0, 1000, 25))
    monkeypatch.setattr(progress.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: False, raising=False)
    with caplog.at_level(logging.INFO, "wellposed.runs.progress"):
        list(progress.track(range(8), "DDS"))
    assert caplog.messages == [
        "DDS: step 3 of 8, 25 s/step, 0:02:05 left",
        "DDS: step 6 of 8, 25 s/step, 0:00:50 left",
    ]


def test_a_terminal_shows_steps_pace_and_time_left(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # what makes rich take it for a terminal
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert list(progress.track(range(4, 7), "DDS", done=4)) == [4, 5, 6]
    shown = capsys.readouterr().err
    for text in ("DDS", "7/7", "s/step", "0:00:00"):
        assert text in shown


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00:00"), (59.7, "0:01:00"), (3723, "1:02:03")]
)
def test_durations(seconds, text):
    assert progress.duration(seconds) == text


def test_notebooks_show_a_line_that_ends_at_the_last_step(monkeypatch, capsys):
    monkeypatch.setattr(progress, "in_notebook", lambda: True)
    assert list(progress.track(range(4, 7), "DDS", done=4)) == [4, 5, 6]
    lines = capsys.readouterr().err.split("\r")
    assert lines[-1].startswith("DDS: step 7 of 7, ")
    assert lines[-1].endswith("\n")
    assert list(progress.track((), "DDS")) == []
