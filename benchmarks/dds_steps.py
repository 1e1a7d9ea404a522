"""DDS on the demo's simulated MRI problem: quality against the number of steps.

python benchmarks/dds_steps.py [--samples 2]
"""

import argparse
import runpy
from pathlib import Path

from wellposed import priors, solvers
from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim

DEMO = Path(__file__).parent.parent / "examples" / "demo.py"


def main() -> None:
    """Run DDS with growing numbers of steps and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=2)
    samples = parser.parse_args().samples
    demo, prior = runpy.run_path(str(DEMO)), priors.load("brain-mri")
    task = demo["simulated"]()
    rows = []
    for method in ("zero_filled", "cg_sense"):
        image = demo[method](task)
        quality = f"{float(psnr(image, task.truth)):.2f}"
        rows.append([method, "0", quality, quality, f"{float(ssim(image, task.truth)):.4f}", "-"])
    for steps in (5, 10, 20, 50, 100):
        solver = solvers.DDS(steps=steps, gamma=20.0)
        result = solver(task.y, task.operator, prior, num_samples=samples, seed=0)
        one, mean = (float(psnr(x, task.truth)) for x in (result.samples[0], result.mean))
        similarity = f"{float(ssim(result.mean, task.truth)):.4f}"
        seconds = f"{result.seconds / samples:.1f}"
        rows.append(["DDS", str(steps), f"{one:.2f}", f"{mean:.2f}", similarity, seconds])
    header = ["method", "steps", "PSNR one", f"PSNR mean of {samples}", "SSIM mean", "s / sample"]
    print(format_table(header, rows))


if __name__ == "__main__":
    main()
