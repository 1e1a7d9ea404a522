"""Reconstruct slices of a head from 4 x and 8 x undersampled multi-coil k-space.

The slices are of a T1-weighted volume of magnitudes. Each gets a smooth random phase, eight
simulated coils and noise, and only some of its lines of k-space are kept, the masks being
fastMRI's random ones. Zero-filled and CG-SENSE images, TV and DDS with the shipped `brain-mri`
prior are compared by magnitude. The prior has seen two other heads and nothing of this one.

Data: the de-faced T1-weighted scan of studyforrest.org, published as
github.com/datalad/example-dicom-structural, PDDL (public domain); a NIfTI file of its 384 x 384 x
274 voxels, e.g. by dcm2niix.

    python examples/mri_multicoil.py --data studyforrest_t1.nii.gz

Units: 1 is the 99.8 percentile of the positive values of the volume, as in training.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
from comparison import Case, arguments, run, total_variation, variants, with_prior
from torch import Tensor

from wellposed import operators, priors
from wellposed.datasets import load_nifti
from wellposed.datasets.images.crops import random_phase

# Places along the third axis of the file, .67 mm apart.
TEST, TUNING = (240, 280), (220,)
LINES = ((4, 0.08), (8, 0.04))  # acceleration and share of central lines, as fastMRI has them
COILS, NOISE = 8, 0.01
# Chosen on the tuning slice by --tune: within .2 dB of the highest PSNR of both accelerations.
CHOSEN = {
    "CG-SENSE": {"weight": [0.01]},
    "TV": {"weight": [0.001]},
}
GRID = {
    "CG-SENSE": {"weight": [0.003, 0.01, 0.03, 0.1]},
    "TV": {"weight": [0.0003, 0.001, 0.003]},
}


def cases(path: Path, places: Sequence[int]) -> Iterator[Case]:
    """Yield the problems of each slice."""
    volume = load_nifti(path).volume[0, 0]
    positive = volume[volume > 0]
    volume = volume / torch.quantile(positive[:: 1 + len(positive) // 1_000_000], 0.998)
    for place in places:
        magnitude = volume[place].flip(0)[None, None]  # forehead up
        for acceleration, centre in LINES:
            yield case(f"slice {place} {acceleration} x", magnitude, acceleration, centre)


def case(name: str, magnitude: Tensor, acceleration: int, centre: float) -> Case:
    """Return the problem of a slice (1, 1, H, W) of magnitudes."""
    height, width = magnitude.shape[-2:]
    image = random_phase(magnitude, seed=0)
    maps = operators.simulate_sensitivity_maps(COILS, height, width, seed=0)
    mask = operators.fastmri_lines("random", width, acceleration, centre, seed=0)
    operator = operators.MultiCoilMRI(mask, maps, NOISE)
    return Case(name, operator.measure(image, seed=0), operator, image)


def zero_filled(case: Case) -> Tensor:
    """Return the image ``A^H y``."""
    return case.operator.A_adjoint(case.y)


def cg_sense(case: Case, weight: float) -> Tensor:
    """Return ``(A^H A + weight)^-1 A^H y``."""
    return case.operator.prox_l2(torch.zeros_like(case.reference), case.y, 1 / weight)


def main() -> None:
    """Compare the methods."""
    options = arguments(__doc__, "mri-multicoil", iterations=15)
    methods = {
        "zero-filled": zero_filled,
        "CG-SENSE": cg_sense,
        "TV": partial(total_variation, iterations=options.iterations),
        **with_prior(priors.load("brain-mri"), options),
    }
    data, settings = (TUNING, GRID) if options.tune else (TEST, CHOSEN)
    print(f"All settings were chosen on slice {TUNING[0]}, by --tune.\n")
    run(cases(options.data, data), variants(methods, settings), options.out)


if __name__ == "__main__":
    main()
