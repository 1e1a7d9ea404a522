"""Which of the inputs this process of several takes: torchrun, srun, job arrays, --shard."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wellposed.errors import ArgumentError

Job = TypeVar("Job")


@dataclass(frozen=True)
class Share:
    """Part ``index`` of ``count`` equal parts of the inputs, from 0."""

    index: int = 0
    count: int = 1

    def of(self, jobs: Sequence[Job]) -> list[Job]:
        """Return this part."""
        return list(jobs[self.index :: self.count])

    def within(self, outer: "Share") -> "Share":
        """Return this part of a part."""
        return Share(outer.index * self.count + self.index, outer.count * self.count)


def parse_shard(option: str, text: str) -> Share:
    """Return the part that ``i/n`` names, i from 1 to n."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdecimal() and count.isdecimal() and 1 <= int(index) <= int(count)):
        raise ArgumentError(f"{option}: got {text!r}, accepted: i/n with 1 <= i <= n, as 1/4")
    return Share(int(index) - 1, int(count))


def own_share(shard: Share | None, env: Mapping[str, str] | None = None) -> Share:
    """Return the part of this process, of those that a launcher started on the same inputs.

    Processes are counted within the tasks of a job array. With ``shard`` no variable counts.

    Args:
        shard: what --shard says.
        env: the variables of torchrun (RANK, WORLD_SIZE), srun (SLURM_PROCID, SLURM_NTASKS) and
            SLURM's job arrays; by default those of this process.
    """
    env = os.environ if env is None else env
    if shard is not None:
        return shard
    return _of_processes(env).within(_of_array(env))


def _of_processes(env: Mapping[str, str]) -> Share:
    if "RANK" in env:
        return _numbered(env, "RANK", "WORLD_SIZE")
    # In a batch script itself, before any srun, the job has tasks but the script is the only one.
    in_script = "SLURM_JOB_ID" in env and "SLURM_STEP_ID" not in env
    return Share() if in_script else _numbered(env, "SLURM_PROCID", "SLURM_NTASKS")


def _of_array(env: Mapping[str, str]) -> Share:
    if "SLURM_ARRAY_TASK_ID" not in env:
        return Share()
    first, last, step = (
        _number(env, f"SLURM_ARRAY_TASK_{name}", default)
        for name, default in (("MIN", 0), ("MAX", -1), ("STEP", 1))
    )
    index = (_number(env, "SLURM_ARRAY_TASK_ID", 0) - first) // max(step, 1)
    spread = max((last - first) // max(step, 1) + 1, 1)
    count = _number(env, "SLURM_ARRAY_TASK_COUNT", spread)
    if spread > 1 and count != spread:  # of a list as 1,4,5 no task can know the others
        raise ArgumentError(
            f"array: got {count} tasks from {first} to {last}, accepted: tasks at equal steps, as "
            "0-15; for a list of tasks give each its part by --shard"
        )
    return _checked(index, count, "array")


def _numbered(env: Mapping[str, str], index: str, count: str) -> Share:
    return _checked(_number(env, index, 0), _number(env, count, 1), index)


def _checked(index: int, count: int, name: str) -> Share:
    if not 0 <= index < count:
        raise ArgumentError(f"{name}: got number {index} of {count}, accepted: 0 to {count - 1}")
    return Share(index, count)


def _number(env: Mapping[str, str], name: str, default: int) -> int:
    text = env.get(name, str(default))
    try:
        return int(text)
    except ValueError:
        raise ArgumentError(f"{name}: got {text!r}, accepted: an integer") from None
