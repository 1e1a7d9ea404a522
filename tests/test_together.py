"""Small files of equal shape in one batch: what they are alone, and failures of one of them."""

import numpy as np
import pytest
import torch
from tests.helpers import C64, random, run, tiny_prior

from wellposed import Reconstruction, figures, operators
from wellposed.cli import solving
from wellposed.cli.batch import RECORD, Job
from wellposed.cli.groups import Groups
from wellposed.errors import ArgumentError, FileError, ShapeError
from wellposed.operators import EachItem, MultiCoilMRI

pytestmark = pytest.mark.usefixtures("single_thread")


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    folder = tmp_path_factory.mktemp("priors")
    tiny_prior(folder / "mri", 2, True)
    tiny_prior(folder / "grey", 1, False)
    return folder


@pytest.fixture
def groups(monkeypatch):
    """The sizes of the batches that are solved."""
    sizes, together = [], solving.solved_together

    def counted(tasks, *others):
        sizes.append(len(tasks))
        return together(tasks, *others)

    monkeypatch.setattr(solving, "solved_together", counted)
    monkeypatch.setattr(figures, "write_figure", lambda *given: None)  # most of the time
    return sizes


def kspace(seed):
    """Measured k-space whose maps, mask and scale are its own."""
    maps = operators.simulate_sensitivity_maps(3, 16, 12, seed=seed)
    mask = torch.ones(12)
    mask[[0, 2 + seed % 2, 9]] = 0
    image = 50 * (1 + seed) * random(1, 1, 16, 12, seed=seed).abs().to(C64)
    return MultiCoilMRI(mask, maps, 0.1).measure(image, seed)[0].numpy()


FILES = {
    "images": (
        "grey",
        ("inpainting", "--simulate", "--keep", 0.6, "--noise-sigma", 0.02),
        lambda n: np.random.default_rng(n).random((16, 12 if n % 2 else 16)).astype(np.float32),
    ),
    "k-space": ("mri", ("mri", "--noise-sigma", 0.1), kspace),
    "sinograms": (
        "grey",
        ("ct", "--noise-sigma", 0.1),
        lambda n: (1 + n) * np.random.default_rng(n).random((9, 16)).astype(np.float32),
    ),
}


@pytest.mark.parametrize(("prior", "task", "make"), FILES.values(), ids=FILES)
def test_files_are_in_a_batch_what_they_are_alone(tiny, tmp_path, groups, prior, task, make):
    for n in range(5):
        np.save(tmp_path / f"{n}.npy", make(n))
    words = ("reconstruct", tmp_path, "--operator", *task, "--prior", tiny / prior)
    words += ("--solver", "dds", "--steps", 2, "--num-samples", 2)
    done = run(*words, "--batch-size", 2, "--out", tmp_path / "together")
    assert done.exit_code == 0, done.output
    assert groups == [2, 2]  # and one alone
    assert run(*words, "--out", tmp_path / "alone").exit_code == 0
    for n in range(5):
        found, alone = (
            Reconstruction.load(tmp_path / name / str(n) / "reconstruction.h5")
            for name in ("together", "alone")
        )
        close = {"rtol": 1e-4, "atol": 1e-4 * float(alone.samples.abs().max())}
        torch.testing.assert_close(found.samples, alone.samples, **close)
        torch.testing.assert_close(found.residual, alone.residual, rtol=1e-3, atol=1e-4)
        assert (found.nfe, found.seed, found.settings["steps"]) == (alone.nfe, alone.seed, 2)
        assert found.units == alone.units
    again = run(*words, "--out", tmp_path / "together")  # the batch does not count
    assert again.output.count("finished already") == 5


def test_what_fails_does_not_stop_the_others(tmp_path):
    jobs = [Job(tmp_path / f"{n}", tmp_path, record=tmp_path / str(n) / RECORD) for n in range(6)]
    ran = []

    def prepare(job):
        if job.file.name == "1":
            raise FileError("unreadable")
        return int(job.file.name)

    def solve(group):
        ran.append(list(group))
        if 4 in group:
            raise ShapeError("four")
        return [[{"n": str(n)}] for n in group]

    run_of = Groups(prepare, solve, lambda job: "same", lambda n: n % 2, 2)
    assert run_of.run_all(jobs) == ["1: unreadable", "4: four"]
    assert ran == [[0, 2], [3, 5], [4]]
    ran.clear()
    run_of = Groups(prepare, solve, lambda job: "same", lambda n: 0, 3)
    assert run_of.run_all(jobs) == ["1: unreadable", "4: four"]  # those that failed, again
    assert ran == [[4]]
    ran.clear()
    run_of = Groups(prepare, solve, lambda job: "other", lambda n: 0, 3)
    assert run_of.run_all(jobs) == ["1: unreadable", "4: four"]
    assert ran == [[0, 2, 3], [4, 5], [4], [5]]  # which of them it is
    with pytest.raises(ShapeError):  # what every job has
        Groups(prepare, solve, lambda job: "x").run_all(jobs[4:5])


def test_few_files_of_other_kinds_wait_in_memory(tmp_path):
    jobs = [Job(tmp_path / f"{n}", tmp_path, record=tmp_path / str(n) / RECORD) for n in range(30)]
    waiting, most, ran = [], [], []

    def prepare(job):
        waiting.append(int(job.file.name))
        most.append(len(waiting))
        return waiting[-1]

    def solve(group):
        ran.append(list(group))
        for n in group:
            waiting.remove(n)
        return [[{}] for _ in group]

    Groups(prepare, solve, lambda job: "same", lambda n: n % 10, 2).run_all(jobs)
    assert max(most) == 8
    assert sorted(n for group in ran for n in group) == list(range(30))
    assert all(len({n % 10 for n in group}) == 1 for group in ran)


def test_operators_of_items_fit_each_other():
    def made(width, coils=2, sigma=0.1):
        return MultiCoilMRI(torch.ones(width), torch.ones(coils, 4, width, dtype=C64), sigma)

    both = EachItem([made(5), made(5, sigma=0.3)])
    assert both.noise_model.sigma.tolist() == pytest.approx([0.1, 0.3])
    for wrong in ([made(5)], [made(5), 3], made(5)):
        with pytest.raises(ArgumentError, match="operators: got"):
            EachItem(wrong)
    with pytest.raises(ShapeError, match="images of one size"):
        EachItem([made(5), made(6)])
    with pytest.raises(ShapeError, match="accepted: one shape"):
        EachItem([made(5), made(5, 3)])
    with pytest.raises(ArgumentError, match="parameters for 2 items"):
        EachItem([made(5), both])
