"""Reconstruct a volume of a thorax from 8 views, and from 120 views of a limited angle.

As in the papers of DiffusionMBIR and DDS, a parallel beam sees every slice, from 8 views over 180
degrees or from 120 views at 0 to 119 degrees, without noise and by the operator that also
reconstructs. FBP, total variation in 3-D, DDS of the slices by themselves, DDS3D and DiffusionMBIR
with the shipped `ct` prior are compared; the prior was trained on other patients.

Data: andrei_abdomen_256.nii.gz, a volume of 275 slices of 256 x 256 pixels in Hounsfield units,
made of the series `andrei` of github.com/FNNDSC/data, Apache-2.0, by averaging 2 x 2 pixels.

    python examples/volume_ct.py --data andrei_abdomen_256.nii.gz
    python examples/volume_ct.py --data ... --slices 120:128 --side 64 --steps 50 --mbir-steps 2000
    python examples/volume_ct.py --data ... --slices 0:275 --side 256 --steps 50 --mbir-steps 2000

The first command takes 64 slices of 128 x 128 pixels without DiffusionMBIR, and the second
compares with all its published steps on eight slices of 64 x 64, both in reach of two cores; the
third takes the whole volume.

Units: Hounsfield units from -1000 to 1000 as 0 to 1, the prior's range; written as HU.
"""

import math
from collections.abc import Iterator

import torch
from comparison import Case, Settings, variants
from torch import Tensor
from volume_comparison import arguments, run, slab, volume_methods

from wellposed import operators, priors
from wellposed.datasets import load_nifti

# Slices of the file, a millimetre apart.
TEST, TUNING = "100:164", "200:208"
SCANS = {"8 views": (8, 180.0), "0 to 119 degrees": (120, 120.0)}  # views, and their arc
AIR, DENSE = -1000.0, 1000.0  # HU of 0 and 1
WINDOW = (0.4, 0.65)  # -200 to 300 HU
# TV and DDS of slices: chosen on the tuning slices by --tune --side 64 --steps 20, the highest
# axial PSNR. The others are as published, DDS3D with 20 conjugate-gradient steps too.
CHOSEN: dict[str, Settings] = {
    "8 views": {
        "3-D TV": {"lam": [3e-4]},
        "DDS, slices": {"gamma": [math.inf]},
        "DDS3D": {"lam": [0.04 / 390], "cg_steps": [5, 20]},
        "DiffusionMBIR": {"lam": [0.04 / 390]},
    },
    "0 to 119 degrees": {
        "3-D TV": {"lam": [1e-4]},
        "DDS, slices": {"gamma": [math.inf]},
        "DDS3D": {"lam": [0.4 / 390], "cg_steps": [5, 20]},
        "DiffusionMBIR": {"lam": [0.4 / 390]},
    },
}
GRID: Settings = {
    "3-D TV": {"lam": [3e-5, 1e-4, 3e-4, 1e-3]},
    "DDS, slices": {"gamma": [0.01, 0.1, math.inf]},
}


def cases(truth: Tensor) -> Iterator[Case]:
    """Yield the problem of each scan of a volume (1, 1, D, H, W) in the prior's units."""
    for name, (views, arc) in SCANS.items():
        angles = torch.arange(views, dtype=torch.float64) * arc / views
        planar = operators.ParallelBeamCT(truth.shape[-2:], angles)
        operator = operators.Stacked(planar, truth.shape[2])
        yield Case(name, operator.A(truth), operator, truth, WINDOW)


def fbp(case: Case) -> Tensor:
    """Return the filtered back-projection of every slice, over the angles seen."""
    slices = case.operator.operator.fbp(case.y[0, 0][:, None])
    return slices[:, 0][None, None]


def main() -> None:
    """Compare the methods."""
    options = arguments(__doc__, "volume-ct", TEST, side=128, steps=20)
    place = slab(
        load_nifti(options.data), TUNING if options.tune else options.slices, options.side
    )
    methods = {"FBP": fbp, **volume_methods(priors.load("ct"), options)}
    if options.tune:
        methods = {name: methods[name] for name in GRID}
    problems = (
        (case, variants(methods, GRID if options.tune else CHOSEN[case.name]))
        for case in cases((place.volume - AIR) / (DENSE - AIR))
    )
    run(problems, place, options.out, (AIR, DENSE), upside_down=(2,))  # slices count upwards


if __name__ == "__main__":
    main()
