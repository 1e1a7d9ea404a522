"""Reconstruct a volume of a head from 8 x undersampled multi-coil k-space, slice by slice.

The volume is of T1-weighted magnitudes. It gets a smooth random phase, eight simulated coils and
noise, and of every slice the same lines of k-space are kept, at random and 4 % in the centre, as
fastMRI has them. Zero-filled slices, total variation in 3-D, DDS of the slices by themselves and
DDS3D with the shipped `brain-mri` prior are compared by magnitude, DiffusionMBIR by option. The
prior has seen two other heads and nothing of this one.

Data: the de-faced T1-weighted scan of studyforrest.org, published as
github.com/datalad/example-dicom-structural, PDDL (public domain); a NIfTI file of its 384 x 384 x
274 voxels, e.g. by dcm2niix.

    python examples/volume_mri.py --data studyforrest_t1.nii.gz
    python examples/volume_mri.py --data ... --slices 0:384 --side 274

The first command takes twelve slices of half the resolution, the second the whole volume.

Units: 1 is the 99.8 percentile of the positive values of the volume, as in training; written in
the file's.
"""

import torch
from comparison import Case, Settings, variants
from torch import Tensor
from volume_comparison import arguments, run, slab, volume_methods

from wellposed import operators, priors
from wellposed.datasets import load_nifti
from wellposed.datasets.images.crops import random_phase

# Places along the third axis of the file, .67 mm apart.
TEST, TUNING = "240:252", "216:224"
ACCELERATION, CENTRE, COILS, NOISE = 8, 0.04, 8, 0.01
# Chosen on the tuning slices by --tune --side 68 --steps 20: the highest axial PSNR, within .2 dB
# the better SSIM. DiffusionMBIR is as published.
CHOSEN: Settings = {
    "3-D TV": {"lam": [3e-4]},
    "DDS, slices": {"gamma": [20.0]},
    "DDS3D": {"rho": [0.1], "lam": [0.005]},
    "DiffusionMBIR": {"rho": [0.01], "lam": [0.005 / 2]},  # of the data range, 2
}
GRID: Settings = {
    "3-D TV": {"lam": [3e-4, 1e-3, 3e-3]},
    "DDS, slices": {"gamma": [5.0, 20.0]},
    "DDS3D": {"rho": [0.01, 0.1], "lam": [3e-4, 1e-3, 5e-3]},
}


def case(magnitude: Tensor) -> Case:
    """Return the problem of magnitudes (1, 1, D, H, W), with one phase for all slices."""
    depth, height, width = magnitude.shape[2:]
    phase = random_phase(torch.ones(1, 1, height, width), seed=0)
    truth = magnitude * phase[:, :, None]
    maps = operators.simulate_sensitivity_maps(COILS, height, width, seed=0)
    mask = operators.fastmri_lines("random", width, ACCELERATION, CENTRE, seed=0)
    operator = operators.Stacked(operators.MultiCoilMRI(mask, maps, NOISE), depth)
    y = operator.measure(truth, seed=0)
    return Case(f"{ACCELERATION} x", y, operator, truth, (0.0, 0.9))


def zero_filled(case: Case) -> Tensor:
    """Return the volume ``A^H y``."""
    return case.operator.A_adjoint(case.y)


def main() -> None:
    """Compare the methods."""
    options = arguments(__doc__, "volume-mri", TEST, side=137, steps=50)
    volume = load_nifti(options.data)
    positive = volume.volume[volume.volume > 0]
    brightest = torch.quantile(positive[:: 1 + len(positive) // 1_000_000], 0.998)
    place = slab(volume, TUNING if options.tune else options.slices, options.side)
    methods = {"zero-filled": zero_filled, **volume_methods(priors.load("brain-mri"), options)}
    if options.tune:
        methods = {name: methods[name] for name in GRID}
    chosen = variants(methods, GRID if options.tune else CHOSEN)
    problems = [(case(place.volume / brightest), chosen)]
    # The file counts upwards and forwards.
    run(problems, place, options.out, (0.0, float(brightest)), upside_down=(2, 3))


if __name__ == "__main__":
    main()
