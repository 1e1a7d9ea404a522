"""Tune the hyper-parameters of all solvers on images, at the same budget for every one.

    python benchmarks/tune.py --data FOLDER [--trials 5] [--nfe 50] [--size 64] [--out tuned.json]

For each family of tasks of `image_problems` and each method of `image_methods` a number of
settings is tried on images that no table uses: the published ones and a seeded Latin hypercube of
the ranges. The objective is the PSNR of one sample, averaged over the images. What is in the file
already is not tried again; ``null`` marks methods that do not take such problems.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from image_methods import METHODS, Method
from image_problems import TASKS, Case, build_case

from wellposed.errors import ArgumentError, FileError, SamplingError
from wellposed.metrics import psnr
from wellposed.writing import write_text

TUNED = Path(__file__).parent / "tuned.json"


def main() -> None:
    """Tune what is not tuned yet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--trials", type=int, default=5)
    parser.add_argument("--nfe", type=int, default=50)
    parser.add_argument("--size", type=int, default=64, help="side of the images")
    families = list(dict.fromkeys(task.family for task in TASKS.values()))
    parser.add_argument("--tasks", nargs="*", default=families, choices=families)
    parser.add_argument("--out", type=Path, default=TUNED)
    args = parser.parse_args()
    protocol = {"nfe": args.nfe, "trials": args.trials, "size": args.size}
    for family in args.tasks:
        try:
            case = build_case(family, args.data, "tuning", args.size)
        except FileError as error:
            print(f"{family} left out: {error}")
            continue
        tune(family, case, protocol, args.out)


def tune(family: str, case: Case, protocol: dict[str, int], out: Path) -> None:
    """Add the settings of every method for one family of tasks to a file."""
    for name, method in METHODS.items():
        if name in read(out, protocol)["results"].get(family, {}):
            continue
        found = search(method, case, protocol["nfe"], protocol["trials"])
        add(out, protocol, (family, name), found)
        print(family, name, found and (found["settings"], found["psnr"]), flush=True)


def search(method: Method, case: Case, nfe: int, trials: int) -> dict[str, Any] | None:
    """Return the best settings, their PSNR and all that was tried; None if it takes no such case.

    A trial that diverges has no PSNR.
    """
    tried: list[dict[str, Any]] = []
    for settings in method.draw(case, trials, seed=0):
        try:
            result = method.run(case, settings, nfe)
        except SamplingError:
            tried.append({"settings": settings, "psnr": None})
            continue
        except ArgumentError:
            if not settings:
                return None
            raise
        quality = float(psnr(result.samples[0], case.truth).mean())
        tried.append({"settings": settings, "psnr": round(quality, 3)})
    best = max(tried, key=lambda trial: -1e9 if trial["psnr"] is None else trial["psnr"])
    return {**best, "tried": tried}


def read(path: Path, protocol: dict[str, int]) -> dict[str, Any]:
    """Return a record, or an empty one where there is none.

    Raises:
        ArgumentError: it was made by another protocol.
    """
    empty = {"protocol": protocol, "results": {}}
    record: dict[str, Any] = json.loads(path.read_text()) if path.exists() else empty
    if record["protocol"] != protocol:
        raise ArgumentError(
            f"protocol: got {protocol}, accepted: {record['protocol']}, as {path} has it, or "
            "another file"
        )
    return record


def add(path: Path, protocol: dict[str, int], place: tuple[str, str], row: Any) -> None:
    """Add a row to the record in a file, which is written as a whole or not at all."""
    # Read anew, because another run may have added to it meanwhile.
    record = read(path, protocol)
    record["results"].setdefault(place[0], {})[place[1]] = row
    write_text(path, json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
