"""Reconstruct slices of a thorax from 30 views with a prior that has not seen the patient.

The slices come from a diagnostic CT series of 512 x 512 pixels. A parallel beam with Poisson
noise of 100 000 photons a ray is simulated on them as they are; FBP, TV and DDS with the shipped
`ct` prior reconstruct 256 x 256 pixels, so that no method has the model that made the data. The
prior was trained on other patients, of TCIA. The reference is the slice averaged 2 x 2.

Data: series `andrei` of github.com/FNNDSC/data, Apache-2.0. Give --data the folder of its DICOM
files, among them the slices of the instance numbers below.

    python examples/ct_sparse_views.py --data andrei_abdomen_dicom/

Units: values are Hounsfield units from -1000 to 1000 as 0 to 1, the prior's range, so 1 is twice
the attenuation of water. Lengths are given to the operators in units in which that is 1, which
makes their sinograms the dimensionless line integrals.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from comparison import Case, arguments, run, total_variation, variants, with_prior
from torch import Tensor

from wellposed import operators, priors
from wellposed.datasets import read_dicom_series
from wellposed.errors import FileError
from wellposed.operators.ct.counts import MU_WATER

# Instance numbers, a millimetre apart.
TEST, TUNING = (121, 126), (136,)
VIEWS, PHOTONS = 30, 1e5
ATTENUATION = 2 * MU_WATER  # per mm, of the value 1
# Chosen on the tuning slice by --tune, within .2 dB of the highest PSNR. The data are in units of
# their noise.
CHOSEN = {"TV": {"weight": [10.0]}}
GRID = {"TV": {"weight": [10.0, 30.0, 100.0]}}
WINDOW = (0.4, 0.65)  # -200 to 300 HU


def cases(folder: Path, instances: Sequence[int]) -> Iterator[Case]:
    """Yield the problem of each slice."""
    series = read_dicom_series(folder)
    hounsfield = {
        int(header.InstanceNumber): torch.from_numpy(values)[None, None]
        for header, values in zip(series.headers, series.values, strict=True)
    }
    if missing := set(instances) - hounsfield.keys():
        numbers = ", ".join(map(str, sorted(missing)))
        raise FileError(f"data: {folder.name} lacks the slices of instance number {numbers}")
    for instance in instances:
        fine = operators.from_hounsfield(hounsfield[instance]) / ATTENUATION
        pixel_size = series.spacing[1] * ATTENUATION
        yield case(f"slice {instance} {VIEWS} views", fine, pixel_size)


def case(name: str, fine: Tensor, pixel_size: float) -> Case:
    """Return the problem of a slice (1, 1, 2 N, 2 N) on N x N pixels."""
    side = fine.shape[-1] // 2
    operator = operators.ParallelBeamCT(side, VIEWS, pixel_size=2 * pixel_size)
    detector = operator.geometry.detector
    truth = operators.ParallelBeamCT(2 * side, VIEWS, detector, pixel_size)
    counts = operators.simulate_counts(truth.A(fine), PHOTONS, seed=0)
    whitened = operators.Whitened(operator, operators.line_integral_noise(counts))
    y = whitened.whiten(operators.to_line_integrals(counts, PHOTONS))
    return Case(name, y, whitened, F.avg_pool2d(fine, 2), WINDOW)


def fbp(case: Case) -> Tensor:
    """Return the filtered back-projection of the line integrals."""
    return case.operator.operator.fbp(case.y / case.operator.weights)


def main() -> None:
    """Compare the methods."""
    options = arguments(__doc__, "ct-sparse-views", iterations=40)
    methods = {
        "FBP": fbp,
        "TV": partial(total_variation, iterations=options.iterations),
        **with_prior(priors.load("ct"), options),
    }
    data, settings = (TUNING, GRID) if options.tune else (TEST, CHOSEN)
    print(f"All settings were chosen on slice {TUNING[0]}, by --tune.\n")
    run(cases(options.data, data), variants(methods, settings), options.out)


if __name__ == "__main__":
    main()
