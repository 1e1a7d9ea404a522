"""Sharpen a photograph of which neither the sharp image nor the blur is known.

A photograph is blurred by the shake of a camera. `BlindHQS` finds image and kernel. It is compared
with what the true kernel would give (HQS, total variation), and with what a Gaussian kernel gives,
which is where it starts. The picture shows the kernels in the corner, each from black to white.

    python examples/blind_deblurring.py --out out/blind

Data: a crop of photograph 8 of the Kodak suite, released for unrestricted use.
"""

import argparse
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from wellposed import priors, solvers
from wellposed.datasets import read_array
from wellposed.datasets.images.crops import central_crop
from wellposed.figures import format_table
from wellposed.metrics import psnr, ssim
from wellposed.operators import BlindBlur, Blur, gaussian_kernel, motion_kernel
from wellposed.panel import draw_panel

PHOTO = Path(__file__).parents[1] / "tests" / "data" / "held_out" / "kodak_08.png"
NOISE = 0.01


def photograph(side: int) -> Tensor:
    """Return the middle of the photograph, (1, 3, side, side)."""
    return central_crop(torch.from_numpy(read_array(PHOTO)).permute(2, 0, 1)[None], side)


def with_kernel(image: Tensor, kernel: Tensor) -> Tensor:
    """Return images (1, 3, H, W) with a kernel (h, w) in the corner, twice as large."""
    shown = interpolate((kernel / kernel.max())[None, None], scale_factor=2).clamp(min=0)
    image = image.clone()
    image[..., : shown.shape[2], : shown.shape[3]] = shown
    return image


def main() -> None:
    """Solve by all methods; print the table and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("out/blind"))
    parser.add_argument("--side", type=int, default=128, help="of the crop, at most 192")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--starts", type=int, default=4)
    options = parser.parse_args()
    photo, size = photograph(options.side), 13
    shake = motion_kernel(size, intensity=0.6, seed=6).float()
    middle = gaussian_kernel(size / 6, size).float()
    shape, natural = photo.shape[1:], priors.load("natural")
    known, guess = Blur(shake, shape, NOISE), Blur(middle, shape, NOISE)
    y = known.measure(photo, seed=0)

    operator = BlindBlur(shape, size, NOISE)
    simplex = priors.Simplex(operator.canvas(middle)[0, 0])
    kernels = priors.Proximal(simplex, data_range=(-0.1, 0.1), channels=1)
    prior = priors.Product([natural, kernels])
    solver = solvers.BlindHQS(steps=options.steps, starts=options.starts)
    result = solver(y, operator, prior, seed=0)
    image, kernel = operator.split(result.mean)

    found = {
        "blurred": (y, middle),
        "TV, Gaussian kernel": (solvers.TotalVariation()(y, guess).mean, middle),
        "BlindHQS": (image, operator.window(kernel)[0, 0]),
        "TV, true kernel": (solvers.TotalVariation()(y, known).mean, shake),
        "HQS, true kernel": (solvers.HQS()(y, known, natural).mean, shake),
    }
    rows = [
        [
            name,
            f"{float(psnr(x, photo)):.2f}",
            f"{float(ssim(x, photo)):.3f}",
            f"{float((k - shake).norm() / shake.norm()):.2f}",
        ]
        for name, (x, k) in found.items()
    ]
    table = format_table(["method", "PSNR", "SSIM", "error of the kernel"], rows)
    print(table)
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / "table.md").write_text(table + "\n", encoding="utf-8")
    pictures = {name: with_kernel(x, k)[0].clamp(0, 1) for name, (x, k) in found.items()}
    pictures["truth"] = with_kernel(photo, shake)[0]
    draw_panel(pictures, {}).savefig(options.out / "blind.png", dpi=100)


if __name__ == "__main__":
    main()
