"""Submit a comparison of solvers as a SLURM job array with submitit.

    pip install submitit
    python examples/cluster/submit.py mri-4x --solvers "hqs,mmps" --out out/mri --jobs 8

Each job takes its share of the runs, see `wellposed benchmark --shard`; the table in OUT is that
of all that are finished. Without SLURM, ``--cluster local`` runs the jobs as processes here.
"""

import argparse
import subprocess
import sys
from pathlib import Path

import submitit


def run(card: str, solvers: str, out: str, part: int, parts: int) -> None:
    """Run a share of the comparison."""
    words = ["benchmark", card, "--solvers", solvers, "--out", out, "--shard", f"{part}/{parts}"]
    subprocess.run([sys.executable, "-m", "wellposed", *words], check=True)


def main() -> None:
    """Submit the jobs, and wait for them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("card")
    parser.add_argument("--solvers", required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--jobs", type=int, default=4)
    parser.add_argument("--minutes", type=int, default=240)
    parser.add_argument("--gpus", type=int, default=0, help="of each job")
    parser.add_argument("--partition", help="of SLURM")
    parser.add_argument("--cluster", default="auto", choices=["auto", "slurm", "local"])
    o = parser.parse_args()
    cluster = None if o.cluster == "auto" else o.cluster
    executor = submitit.AutoExecutor(folder=o.out / "jobs", cluster=cluster)
    executor.update_parameters(
        timeout_min=o.minutes,
        gpus_per_node=o.gpus,
        cpus_per_task=4,
        name=f"wellposed-{Path(o.card).stem}",
        slurm_partition=o.partition,
    )
    parts = range(1, o.jobs + 1)
    jobs = executor.map_array(
        run, *zip(*((o.card, o.solvers, str(o.out), n, o.jobs) for n in parts), strict=True)
    )
    for job in jobs:
        job.result()
    print((o.out / "table.md").read_text())


if __name__ == "__main__":
    main()
