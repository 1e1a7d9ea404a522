"""Host memory that is free to this process, within the limits of containers and batch systems."""

from collections.abc import Iterator
from pathlib import Path

import psutil

ROOT = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def free_host_bytes() -> int:
    """Return the bytes available on the host, or less where a control group has less left."""
    available = int(psutil.virtual_memory().available)
    listing = OWN_GROUPS.read_text() if OWN_GROUPS.is_file() else ""
    return min([available, *left_in_groups(listing, ROOT)])


def left_in_groups(listing: str, root: Path) -> Iterator[int]:
    """Yield the bytes left to each control group that limits this process's memory.

    Docker and SLURM set limits so. Pages of files that the kernel can drop do not count as used.
    Source: the Linux kernel's cgroup-v1/memory.rst and cgroup-v2.rst.

    Args:
        listing: ``/proc/self/cgroup``, the groups of this process.
        root: where the kernel shows control groups.
    """
    for line in filter(None, listing.splitlines()):
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, used, cached = root, "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            base, limit, used = root / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
            cached = "total_inactive_file"
        else:
            continue
        group = base / path.lstrip("/")
        for folder in (group, *(p for p in group.parents if p.is_relative_to(base))):
            size, taken = _number(folder / limit), _number(folder / used)
            if size is not None and taken is not None:
                yield max(0, size - taken + _droppable(folder / "memory.stat", cached))


def _number(file: Path) -> int | None:
    """Return a file's number; None where there is none, as without a limit."""
    try:
        return int(file.read_text())
    except (OSError, ValueError):
        return None


def _droppable(file: Path, name: str) -> int:
    try:
        facts = dict(line.split() for line in file.read_text().splitlines())
        return int(facts.get(name, 0))
    except (OSError, ValueError):
        return 0
