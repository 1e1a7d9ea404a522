"""Make the images of the package's benchmark cards from their sources.

    python benchmarks/card_data.py DATA src/wellposed/benchmark/data

DATA has ``natural/kodak24/NN.png`` (Kodak lossless suite, released for unrestricted usage),
``mri/studyforrest_t1.nii.gz`` (PDDL) and ``ct/andrei_abdomen_256.nii.gz`` (FNNDSC, Apache-2.0).
"""

import sys
from pathlib import Path

import numpy as np
import torch
from torch.nn.functional import avg_pool2d

from wellposed.datasets import load_nifti, read_array
from wellposed.datasets.images.crops import central_crop
from wellposed.figures import write_png

PHOTOGRAPHS, HEADS, BODIES = (4, 15, 23), (235, 250, 265), (90, 120, 150)


def main(data: Path, out: Path) -> None:
    """Write photographs of 256 pixels, head slices of 192 and whole body slices."""
    out.mkdir(parents=True, exist_ok=True)
    for number in PHOTOGRAPHS:
        pixels = torch.from_numpy(read_array(data / "natural" / "kodak24" / f"{number:02}.png"))
        crop = central_crop(pixels.float().movedim(-1, 0), 512)
        write_png(avg_pool2d(crop, 2), out / f"kodak_{number:02}.png")
    head = load_nifti(data / "mri" / "studyforrest_t1.nii.gz").volume[0, 0]
    body = load_nifti(data / "ct" / "andrei_abdomen_256.nii.gz").volume[0, 0]
    for name, volume, places, side in (
        ("studyforrest", head, HEADS, 192),
        ("andrei_abdomen", body, BODIES, 256),
    ):
        for place in places:
            values = central_crop(volume[place][None], side)[0].numpy().round().astype(np.int16)
            np.save(out / f"{name}_{place}.npy", values)
    brightest = torch.quantile(head[head > 0][:: 1 + int((head > 0).sum()) // 1_000_000], 0.998)
    print(f"window of the heads: 0 to {float(brightest):.0f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
