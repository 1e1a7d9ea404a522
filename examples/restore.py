"""Restore a photograph with the shipped restorers, told of the degradation and not.

It is blurred (a Gaussian of 1.5 pixels, noise .03), and reduced 4 x (bicubic, noise .01). The
restorers were trained on other photographs and on a range of blurs and noise levels; they are
given the degraded picture alone, or also the operator, by five conjugate-gradient steps towards
the data in each evaluation. Beside them stands DDS with the prior `natural`, which knows the
operator and was trained on nothing but clean photographs.

    python examples/restore.py [PHOTO] [--samples 4]

By default the photograph is a crop of Kodak's 23rd, in `data/`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from comparison import Case, run
from torch import Tensor

from wellposed import Reconstruction, operators, priors
from wellposed.datasets import read_array
from wellposed.operators import LinearOperator
from wellposed.solvers import DDS
from wellposed.solvers.restoration.restore import default_sampler, default_steps, enlarged, restore

PHOTO = Path(__file__).parent / "data" / "kodak_23.png"
RESTORERS = {"blurred": "irsde-deblur", "reduced": "resshift-x4"}
ZERO_SHOT: dict[str, dict[str, float]] = {
    "blurred": {},
    "reduced": {"gamma": 401.9, "eta": 0.8479},
}
"""Settings of DDS, as tuned in `benchmarks/restoration.py`; {} where the defaults won."""


class Methods:
    """The methods that are compared.

    Args:
        folder: of the restorers, or None for those shipped.
        samples: that each draws.
        steps: evaluations for each; by default as many as suit a sampler, 50 of DDS.
    """

    def __init__(self, folder: Path | None, samples: int, steps: int | None) -> None:
        self.samples, self.steps, self.natural = samples, steps, priors.load("natural")
        self.restorers = {
            case: priors.load(name if folder is None else folder / name)
            for case, name in RESTORERS.items()
        }

    def degraded(self, case: Case) -> Tensor:
        """Return the degraded photograph, enlarged where it was reduced."""
        return enlarged(case.y, self.restorers[case.name])

    def restored(self, case: Case, data_steps: int = 0) -> Reconstruction:
        """Restore by the sampler that suits the restorer, and the operator if there are steps."""
        restorer = self.restorers[case.name]
        cls = default_sampler(restorer)
        steps = self.steps or default_steps(restorer, cls)
        sampler = cls(steps=steps, data_steps=data_steps)
        known = case.operator if data_steps > 0 else None
        return restore(case.y, restorer, sampler, known, self.samples, seed=0)

    def told(self, case: Case) -> Reconstruction:
        """Restore with the operator."""
        return self.restored(case, data_steps=5)

    def zero_shot(self, case: Case) -> Reconstruction:
        """Reconstruct by DDS."""
        solver = DDS(steps=self.steps or 50, **ZERO_SHOT[case.name])
        return solver(case.y, case.operator, self.natural, num_samples=self.samples, seed=0)


def cases(photo: Tensor) -> list[Case]:
    """Return the problems of a photograph (1, 3, H, W), with sides in multiples of 4."""
    size = tuple(photo.shape[1:])
    found: dict[str, LinearOperator] = {
        "blurred": operators.Blur(operators.gaussian_kernel(1.5, 15), size, 0.03),
        "reduced": operators.SuperResolution(size, 4, "bicubic", 0.01),
    }
    return [Case(name, op.measure(photo, seed=0), op, photo) for name, op in found.items()]


def main() -> None:
    """Compare the methods."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("photo", type=Path, nargs="?", default=PHOTO)
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--steps", type=int, help="evaluations; default: the samplers' own")
    parser.add_argument("--restorers", type=Path, help="folder of them; default: those shipped")
    parser.add_argument("--out", type=Path, default=Path("out/restore"))
    options = parser.parse_args()
    pixels = torch.from_numpy(np.atleast_3d(read_array(options.photo))).permute(2, 0, 1)[None]
    height, width = (n - n % 4 for n in pixels.shape[-2:])
    methods = Methods(options.restorers, options.samples, options.steps)
    named = {
        "degraded": methods.degraded,
        "restorer": methods.restored,
        "restorer and operator": methods.told,
        "DDS, zero-shot": methods.zero_shot,
    }
    run(cases(pixels[..., :height, :width]), named, options.out)


if __name__ == "__main__":
    main()
