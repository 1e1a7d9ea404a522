"""Take rain off a photograph: a sum of two images, each with a prior of its own.

The photograph has the shipped `natural` prior, which has not seen it. The rain, grey streaks that
are the same in all colours, has a Gaussian one whose mean and power spectrum were measured on
other rain. The joint solution is compared with that of the photograph's prior alone, to which
rain is noise of the same size. The panel shows the measurement, the results and the truth.

    python examples/superposition.py --out out/rain

Data: a crop of photograph 8 of the Kodak suite, released for unrestricted use.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from wellposed import priors, solvers
from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.operators import Denoising, LinearOperator, Superposition
from wellposed.priors import GaussianPrior, Product, Stationary

PHOTO = Path(__file__).parents[1] / "tests" / "data" / "held_out" / "kodak_08.png"
NOISE = 0.01


class Grey(LinearOperator):
    """Shows a grey image (1, H, W) in all three colours."""

    def __init__(self, height: int, width: int) -> None:
        super().__init__((1, height, width), (3, height, width))

    def forward_map(self, x: Tensor) -> Tensor:
        return x.expand(-1, 3, -1, -1)

    def adjoint_map(self, y: Tensor) -> Tensor:
        return y.sum(1, keepdim=True)


def photograph(side: int) -> Tensor:
    """Return the photograph, (1, 3, side, side)."""
    pixels = np.asarray(Image.open(PHOTO).convert("RGB"), np.float32) / 255
    top, left = ((length - side) // 2 for length in pixels.shape[:2])
    return torch.from_numpy(pixels).permute(2, 0, 1)[None, :, top:, left:][..., :side, :side]


def rain(side: int, seed: int, share: float = 0.01, length: int = 15) -> Tensor:
    """Return slanted streaks of random brightness, (1, 1, side, side), all going one way."""
    rng = np.random.default_rng(seed)
    drops = rng.random((side, side)) < share
    field = torch.from_numpy(np.where(drops, rng.uniform(2, 7, (side, side)), 0)).float()
    rows = torch.arange(length) - length // 2
    streak = torch.zeros(side, side)
    streak[rows, (rows / 3).round().long()] = 1 / length
    fallen = torch.fft.ifft2(torch.fft.fft2(field) * torch.fft.fft2(streak)).real
    return fallen[None, None].clamp(min=0)


def spectrum(images: Tensor) -> Tensor:
    """Return the mean power spectrum of images (N, C, H, W) about their mean."""
    power = torch.fft.fft2(images - images.mean(), norm="ortho").abs().square().mean(0)
    return power.clamp(min=1e-3 * power.mean())


def main() -> None:
    """Solve by all methods; print the table and write the images."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/rain"))
    parser.add_argument("--side", type=int, default=128, help="of the crop, at most 192")
    parser.add_argument("--steps", type=int, default=50)
    options = parser.parse_args()
    side = options.side
    photo, fallen = photograph(side), rain(side, seed=0)
    other = torch.cat([rain(side, seed) for seed in range(1, 33)])

    operator = Superposition([Denoising((3, side, side)), Grey(side, side)], noise_sigma=NOISE)
    y = operator.measure(torch.cat([photo, fallen], 1), seed=0)
    natural = priors.load("natural")
    rainy = GaussianPrior(float(other.mean()), Stationary(spectrum(other)))
    # Units a few deviations wide in both blocks: else the misfit goes to one of them at first.
    weight = 4 * float(other.var())
    both = Product([natural, rainy], channels=(3, 1), step_weights=(1.0, weight))

    alone = Denoising((3, side, side), math.hypot(float(other.std()), NOISE))
    pir = solvers.DiffPIR(steps=options.steps, lambda_=1.0)
    dds = solvers.DDS(steps=options.steps, gamma=100.0)
    found = {
        "none": y,
        "one prior, DiffPIR": pir(y - other.mean(), alone, natural, seed=0).mean,
        "one prior, DDS": dds(y - other.mean(), alone, natural, seed=0).mean,
        "both priors, DiffPIR": operator.split(pir(y, operator, both, seed=0).mean)[0],
        "both priors, DDS": operator.split(dds(y, operator, both, seed=0).mean)[0],
    }
    options.out.mkdir(parents=True, exist_ok=True)
    rows = []
    for name, image in found.items():
        rows.append([name, f"{float(psnr(image, photo)):.2f}", f"{float(ssim(image, photo)):.4f}"])
    panel = torch.cat([*found.values(), photo], -1)[0].clamp(0, 1).permute(1, 2, 0)
    Image.fromarray((255 * panel).round().byte().numpy()).save(options.out / "rain.png")
    print(format_table(["method", "PSNR", "SSIM"], rows))


if __name__ == "__main__":
    main()
