"""The command line with solvers and operators from outside, and what commands have in common."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from tests.helpers import CUDA, run

from wellposed import Reconstruction
from wellposed.cli.app import COMMANDS
from wellposed.cli.names import find_class
from wellposed.cli.options import options_of
from wellposed.cli.trial_settings import Validate
from wellposed.cli.validate import _chosen
from wellposed.solvers import DDS, Solver
from wellposed.solvers.catalogue import named_solvers

pytestmark = pytest.mark.usefixtures("single_thread")

MODULE = '''
"""A method and operators of somebody else."""

from dataclasses import dataclass

import deepinv
import torch

from wellposed.operators import LinearOperator
from wellposed.solvers import DDS, Solver


@dataclass(frozen=True, kw_only=True)
class Mine(DDS):
    """DDS, but stronger."""

    strength: float


class Abstract(Solver):
    """Has no step."""


class EveryRow(LinearOperator):
    def __init__(self, image_size, every, noise_sigma=0.0):
        channels, height, width = image_size
        super().__init__(image_size, (channels, -(-height // every), width), noise_sigma)
        self.every = every

    def forward_map(self, x):
        return x[:, :, :: self.every]

    def adjoint_map(self, y):
        x = y.new_zeros(len(y), *self.img_size)
        x[:, :, :: self.every] = y
        return x


class Deepinvs(deepinv.physics.Inpainting):
    def __init__(self, img_size):
        super().__init__(img_size, mask=0.5, rng=torch.Generator().manual_seed(0))
'''


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with the module, one that is broken, and images."""
    folder = tmp_path_factory.mktemp("outside")
    (folder / "theirs.py").write_text(MODULE)
    (folder / "broken.py").write_text("import nothing_of_this_name")
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 255, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    np.save(folder / "rows.npy", rng.random((3, 16, 32)).astype(np.float32))
    np.save(folder / "volume.npy", rng.random((4, 32, 32)).astype(np.float32))
    return folder


@pytest.fixture
def at(place, monkeypatch):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", sys.path[:])
    return place


def reconstruct(out, *words, file="photo.png"):
    return run("reconstruct", file, "--out", out, "--steps", 2, "--num-samples", 1, *words)


EVERY = ("--operator", "theirs:EveryRow", "--operator-set", "every=2")


@pytest.mark.parametrize("solver", ["theirs:Mine", "theirs.py:Mine"])
def test_a_solver_from_outside_is_used(at, tmp_path, solver):
    words = ["--operator", "deblurring", "--simulate", "--set", "gamma=3"]
    done = reconstruct(tmp_path / "a", *words, "--solver", solver, "--set", "strength=2")
    assert done.exit_code == 0, done.output
    assert reconstruct(tmp_path / "b", *words, "--solver", "DDS").exit_code == 0
    ours, theirs = (Reconstruction.load(tmp_path / n / "reconstruction.h5") for n in "ab")
    assert ours.solver == "Mine"
    assert ours.settings["strength"] == 2
    assert torch.equal(ours.samples, theirs.samples)


@pytest.mark.slow
def test_an_operator_from_outside_measures(at, tmp_path):
    done = reconstruct(tmp_path, *EVERY, "--simulate", "--noise-sigma", 0.01)
    assert done.exit_code == 0, done.output
    assert "PSNR" in done.output
    assert Reconstruction.load(tmp_path / "reconstruction.h5").measured.tolist() == [3 * 16 * 32]


def test_an_operator_from_outside_takes_measurements(at, tmp_path):
    """An array of the shape that it measures, of images of the size that is said."""
    more = ("--operator-set", "image_size=(3,32,32)")
    done = reconstruct(tmp_path, *EVERY, *more, file="rows.npy")
    assert done.exit_code == 0, done.output
    found = Reconstruction.load(tmp_path / "reconstruction.h5").mean[0]
    assert found.shape == (3, 32, 32)
    y = torch.from_numpy(np.load("rows.npy"))
    assert (found[:, ::2] - y).norm() < 0.35 * (found[:, ::2].mean() - y).norm()


@pytest.mark.slow
def test_an_operator_from_outside_measures_each_slice(at, tmp_path):
    words = [*EVERY, "--simulate", "--volume", "--prior", "ct"]
    done = reconstruct(tmp_path, *words, file="volume.npy")
    assert done.exit_code == 0, done.output
    shape = Reconstruction.load(tmp_path / "reconstruction.h5").samples.shape
    assert shape == (1, 1, 1, 4, 32, 32)


def test_operators_of_deepinv_are_taken(at, tmp_path):
    words = ["--operator", "theirs:Deepinvs", "--simulate", "--noise-sigma", 0.1]
    for out in "ab":
        done = reconstruct(tmp_path / out, *words)
        assert done.exit_code == 0, done.output
    a, b = (Reconstruction.load(tmp_path / n / "reconstruction.h5") for n in "ab")
    assert a.measured is not None
    assert torch.equal(a.samples, b.samples)


DEBLURRING = ("--operator", "deblurring")
MISTAKES = {
    "no module": ((*DEBLURRING, "--solver", "nowhere:A"), "--solver: cannot import 'nowhere'"),
    "no file": ((*DEBLURRING, "--solver", "nowhere.py:A"), "--solver: no such file 'nowhere.py'"),
    "broken module": ((*DEBLURRING, "--solver", "broken:A"), "nothing_of_this_name"),
    "no class": ((*DEBLURRING, "--solver", "theirs:Mind"), "Did you mean 'Mine'? Known: Mine"),
    "no solver": ((*DEBLURRING, "--solver", "theirs:EveryRow"), "a subclass of wellposed.solvers"),
    "abstract": ((*DEBLURRING, "--solver", "theirs:Abstract"), "abstract method"),
    "missing setting": (
        (*DEBLURRING, "--solver", "theirs:Mine"),
        "--solver: Mine needs strength, accepted: --set strength=...",
    ),
    "unknown setting": (
        (*DEBLURRING, "--solver", "theirs:Mine", "--set", "strenght=1"),
        "--set: unknown name 'strenght'. Did you mean 'strength'?",
    ),
    "no operator class": (("--operator", "theirs:EveryRoe"), "Did you mean 'EveryRow'?"),
    "no operator": (("--operator", "theirs:Mine"), "a subclass of deepinv"),
    "missing argument": (("--operator", "theirs:EveryRow"), "accepted: --operator-set every=..."),
    "unknown argument": ((*EVERY, "--operator-set", "evry=2"), "Did you mean 'every'?"),
    "wrong argument": (
        ("--operator", "theirs:EveryRow", "--operator-set", "every=two"),
        "--operator: EveryRow: unsupported operand",
    ),
    "argument of a named one": (
        (*DEBLURRING, "--operator-set", "width=2"),
        "--operator-set: got 'width=2', accepted: options of deblurring",
    ),
    "load": ((*DEBLURRING, "--load", "data_range"), "--load: got 'data_range'"),
    "load of a shipped one": ((*DEBLURRING, "--load", "source=1"), "options: got {'source': 1}"),
    "batch": ((*DEBLURRING, "--batch-size", 0), "batch_size: got 0"),
    "device": ((*DEBLURRING, "--device", "tpu"), "--device: got 'tpu', accepted: cpu"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_one_clear_line(at, tmp_path, mistake):
    words, message = MISTAKES[mistake]
    done = reconstruct(tmp_path / "out", "--simulate", *words)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert len(done.output.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_listing_shows_hyper_parameters(at):
    done = run("list", "theirs:Mine", "flow-chef")
    assert done.exit_code == 0, done.output
    assert done.output.startswith("theirs:Mine: DDS, but stronger.")
    assert "--set strength=..." in done.output
    assert "\nflowchef: " in done.output
    assert run("list", "flowchief").exit_code == 2


@pytest.mark.slow
def test_a_solver_from_outside_is_validated(at, tmp_path):
    done = run("validate", "theirs:Mine", "--set", "strength=2", "--quick", "--out", tmp_path)
    assert done.exit_code == 0, done.output
    assert "| Mine, strength 2 " in (tmp_path / "posterior.md").read_text()
    assert "<td>Mine, strength 2</td>" in (tmp_path / "report.html").read_text()


def test_settings_of_ones_own_are_validated():
    chosen = _chosen(Validate(solvers=("dds",), steps=7, set=("gamma=3",)))
    assert chosen == {"DDS, gamma 3": DDS(steps=7, spacing="karras", gamma=3)}
    done = run("validate", "--set", "gamma=3")
    assert done.exit_code == 2
    assert "--set: got 'no SOLVER'" in done.output


@pytest.mark.parametrize("spelling", ["diffpir", "diff-pir", "DiffPIR", "flow_chef", "IRSDE"])
def test_spellings_of_papers_and_classes_are_one_name(spelling):
    cls = find_class("--solver", spelling, named_solvers(), Solver)
    assert cls.__name__.lower() == spelling.replace("-", "").replace("_", "").lower()


def test_every_solver_has_a_name_of_its_own():
    classes = named_solvers()
    plain = {name.replace("-", "") for name in classes}
    assert plain == {cls.__name__.lower() for cls in classes.values()}


SHARED = ("load", "solver", "steps", "set", "num_samples", "batch_size", "seed", "device")


def test_options_are_the_same_in_all_commands():
    sampling = ("reconstruct", "restore", "dehaze")
    of = {
        name: {each.name: each.metadata["help"] for each in options_of(cls)}
        for name, (cls, _) in COMMANDS.items()
    }
    for option in SHARED:
        assert len({of[name][option] for name in sampling}) == 1
    assert all("device" in of[name] for name in (*sampling, "inspect", "train"))
    every = {option for options in of.values() for option in options}
    assert not every & {"samples", "model", "sampler", "input_"}


def test_old_spellings_are_taken_and_not_shown(at, tmp_path):
    words = ["dehaze", "none.h5", "--out", tmp_path, "--samples", 2, "--sampler=nothing"]
    assert "--solver: unknown name 'nothing'" in run(*words).output
    assert "--samples" not in run("restore", "--help").output


HELP = """
import sys
from wellposed.cli.app import app
for command in sys.argv[1:]:
    app([command, "--help"], standalone_mode=False)
    print(command, [m for m in ("torch", "numpy", "deepinv") if m in sys.modules])
"""


def test_help_comes_without_torch():
    command = [sys.executable, "-c", HELP, *COMMANDS]
    done = subprocess.run(command, capture_output=True, text=True)
    assert [f"{name} []" in done.stdout for name in COMMANDS] == [True] * len(COMMANDS), done
    assert done.stdout.count("--help") >= len(COMMANDS)


@pytest.mark.slow
def test_batches_change_nothing(at, tmp_path):
    words = ["--operator", "inpainting", "--simulate", "--num-samples", 3]
    found = []
    for size in (1, 3):
        out = tmp_path / str(size)
        assert reconstruct(out, *words, "--batch-size", size).exit_code == 0
        found.append(Reconstruction.load(out / "reconstruction.h5"))
    assert [result.settings["batch_size"] for result in found] == [1, 3]
    torch.testing.assert_close(found[0].samples, found[1].samples, rtol=0, atol=1e-5)


@pytest.mark.parametrize("device", [CUDA])
def test_commands_run_on_a_device(at, tmp_path, device):
    words = ["--operator", "deblurring", "--simulate"]
    for out in ("cpu", device):
        done = reconstruct(tmp_path / out, *words, "--device", out)
        assert done.exit_code == 0, done.output
    a, b = (Reconstruction.load(tmp_path / n / "reconstruction.h5") for n in ("cpu", device))
    torch.testing.assert_close(a.samples, b.samples, rtol=0, atol=0.02)
    volume = [*words, "--solver", "dds3d", "--prior", "ct", "--device", device]
    assert reconstruct(tmp_path / "v", *volume, file="volume.npy").exit_code == 0
    known = ["--operator", "super-resolution", "--steps", 2, "--device", device]
    done = run("restore", "photo.png", "--prior", "resshift-x4", "--out", tmp_path / "r", *known)
    assert done.exit_code == 0, done.output
    assert run("inspect", "ct", "--device", device).exit_code == 0
