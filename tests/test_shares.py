"""Which inputs a process takes, by the variables of launchers, and what it skips."""

import json

import numpy as np
import pytest
from tests.helpers import run

from wellposed.cli.batch import RECORD, Job, finished, write_table
from wellposed.cli.groups import run_all
from wellposed.cli.names import distinct_names
from wellposed.cli.shares import Share, own_share, parse_shard
from wellposed.errors import ArgumentError, FileError

ARRAY = {"SLURM_ARRAY_TASK_MIN": "3", "SLURM_ARRAY_TASK_MAX": "9", "SLURM_ARRAY_TASK_STEP": "3"}
LAUNCHERS = {
    "none": ({}, 0, 1),
    "torchrun": ({"RANK": "1", "WORLD_SIZE": "4"}, 1, 4),
    "srun": ({"SLURM_PROCID": "2", "SLURM_NTASKS": "3"}, 2, 3),
    "srun in a job": (
        {"SLURM_PROCID": "2", "SLURM_NTASKS": "3", "SLURM_JOB_ID": "7", "SLURM_STEP_ID": "0"},
        *(2, 3),
    ),
    "batch script": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_JOB_ID": "7"}, 0, 1),
    "torchrun by srun": (
        {"RANK": "1", "WORLD_SIZE": "4", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"},
        *(1, 4),
    ),
    "array": ({"SLURM_ARRAY_TASK_ID": "6", "SLURM_ARRAY_TASK_COUNT": "3", **ARRAY}, 1, 3),
    "array of processes": (
        {"SLURM_ARRAY_TASK_ID": "6", **ARRAY, "SLURM_PROCID": "1", "SLURM_NTASKS": "2"},
        *(3, 6),
    ),
}


@pytest.mark.parametrize(("env", "index", "count"), LAUNCHERS.values(), ids=LAUNCHERS.keys())
def test_launchers_tell_the_share(env, index, count):
    assert own_share(None, env) == Share(index, count)
    assert own_share(Share(0, 2), env) == Share(0, 2)  # --shard is meant


def test_shares_are_disjoint_and_complete():
    jobs = list(range(11))
    for count in (1, 2, 3, 4, 20):
        parts = [parse_shard("--shard", f"{i}/{count}").of(jobs) for i in range(1, count + 1)]
        assert sorted(job for part in parts for job in part) == jobs


@pytest.mark.parametrize("text", ["", "3", "0/4", "5/4", "a/b", "-1/2", "1/0"])
def test_other_shards_are_refused(text):
    with pytest.raises(ArgumentError, match="--shard: got"):
        parse_shard("--shard", text)


def test_numbers_out_of_range_are_named():
    with pytest.raises(ArgumentError, match="SLURM_PROCID"):
        own_share(None, {"SLURM_PROCID": "4", "SLURM_NTASKS": "2"})
    with pytest.raises(ArgumentError, match="RANK: got 'x'"):
        own_share(None, {"RANK": "x", "WORLD_SIZE": "2"})


def test_a_list_of_tasks_is_refused_as_inputs_would_be_left_out():
    listed = {"SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "2", **ARRAY}
    with pytest.raises(ArgumentError, match=r"array: got 2 tasks from 3 to 9.*--shard"):
        own_share(None, listed)
    assert own_share(Share(2, 4), listed) == Share(2, 4)


@pytest.mark.parametrize("task", [3, 6, 9])
def test_the_tasks_of_an_array_do_all_inputs_once(tmp_path, monkeypatch, task):
    """As SLURM starts them, one after the other, in any order."""
    for n in range(5):
        np.save(tmp_path / f"{n}.npy", np.full((16, 16), 0.1 * n, np.float32))
    words = ("reconstruct", tmp_path / "*.npy", "--operator", "inpainting", "--simulate")
    words += ("--noise-sigma", 0.1, "--solver", "tikhonov", "--out", tmp_path / "out")
    monkeypatch.setattr("wellposed.figures.write_figure", lambda *given: None)
    for name, value in {**ARRAY, "SLURM_JOB_ID": "1", "SLURM_ARRAY_TASK_COUNT": "3"}.items():
        monkeypatch.setenv(name, value)
    for each in (task, *({3, 6, 9} - {task})):
        monkeypatch.setenv("SLURM_ARRAY_TASK_ID", str(each))
        done = run(*words)
        assert done.exit_code == 0, done.output
        assert "finished already" not in done.output
    lines = (tmp_path / "out" / "results.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in lines] == [f"{n}.npy" for n in range(5)]
    assert all(line.endswith("done") for line in lines)


def test_finished_jobs_are_skipped_and_failures_collected(tmp_path):
    folders = [tmp_path / "out" / str(n) for n in range(3)]
    jobs = [Job(tmp_path / f"{f.name}.npy", f, record=f / RECORD) for f in folders]
    ran = []

    def attempt(job):
        ran.append(job.file.stem)
        if job.file.stem == "1":
            raise FileError("broken")
        return [{"PSNR": "30"}]

    failures = run_all(jobs, attempt, lambda job: "same")
    assert failures == ["1.npy: broken"]
    assert [finished(job, "same") for job in jobs] == [True, False, True]
    assert not finished(jobs[0], "other settings")
    run_all(jobs, attempt, lambda job: "same")
    assert ran == ["0", "1", "2", "1"]
    lines = write_table(tmp_path / "out", jobs).read_text().splitlines()
    assert lines[0] == "input,PSNR,status"
    assert lines[1:] == ["0.npy,30,done", "1.npy,,failed: broken", "2.npy,30,done"]
    with pytest.raises(FileError):  # a single job says so itself
        run_all(jobs[1:2], attempt, lambda job: "same")
    jobs[0].record.write_text(json.dumps([1]))
    assert not finished(jobs[0], "same")


def test_results_of_equal_names_can_be_told_apart(tmp_path):
    a, b, c = tmp_path / "a" / "x.png", tmp_path / "a" / "x.h5", tmp_path / "b" / "x.png"
    assert distinct_names([a, tmp_path / "y.png"]) == ["x", "y"]
    assert distinct_names([a, b, tmp_path / "y.png"]) == ["x.png", "x.h5", "y"]
    assert distinct_names([a, c]) == ["a-x.png", "b-x.png"]
    with pytest.raises(ArgumentError, match="INPUT"):
        distinct_names([a, a])
