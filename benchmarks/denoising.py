"""Denoising PSNR of a prior against deepinv's BM3D, TV and wavelet denoisers, and by image size.

    python benchmarks/denoising.py natural --data kodak24/ --count 6 --whole 512 --card
    python benchmarks/denoising.py ct --data train_slices_256.h5 --held-out --count 12 --card
    python benchmarks/denoising.py brain-mri --data studyforrest_t1.nii.gz --card
    python benchmarks/denoising.py tissue-rf --data tissue-test.h5 --size 128 --card

Images are read as the prior's training images were, RF companded; ``--held-out`` takes those that
training left out. Noise is Gaussian, its levels are in public values ([0, 1]; of RF [-1, 1]), of
complex images per real and imaginary part. The thresholds of TV and wavelets are the best of a few
for every level and these very images, which favours them; complex images go through the baselines
as two real ones. Needs the extra ``benchmarks``.

The second table gives the same pixels to the prior in pieces of several sizes: it tells whether a
network trained on crops works as well on whole images.
"""

import argparse
import math
from collections.abc import Callable
from pathlib import Path

import deepinv
import torch
from torch import Tensor

from wellposed import priors
from wellposed.datasets.images.crops import central_crop, random_phase
from wellposed.datasets.images.image_files import Collection
from wellposed.datasets.images.reading import Reading
from wellposed.datasets.ultrasound import compand
from wellposed.figures import format_table
from wellposed.noise import MEASUREMENT, ItemNoise
from wellposed.priors.stored.config import read_config
from wellposed.priors.stored.registry import WEIGHTS

LEVELS = (0.02, 0.05, 0.1, 0.2, 0.4)
PIECES = (64, 128, 256, 512)
HEADING = "## Denoising"

Denoise = Callable[[Tensor, float], Tensor]


def main() -> None:
    """Run and print both tables."""
    args = arguments()
    folder = WEIGHTS / args.prior if (WEIGHTS / args.prior).is_dir() else Path(args.prior)
    prior, config = priors.load(folder), read_config(folder)
    images = load_images(args, config, args.size)
    print(f"{len(images)} images of {tuple(images.shape[1:])}", flush=True)
    methods: dict[str, list[Denoise]] = {args.prior: [in_turn(prior)]}
    if not args.no_baselines:
        methods.update(baselines())
    header = ["PSNR (dB) at sigma", *(f"{level:g}" for level in LEVELS)]
    rows = [["noisy", *(f"{-20 * math.log10(level):.2f}" for level in LEVELS)]]
    for name, variants in methods.items():
        best = [max(psnr_at(images, v, denoise) for denoise in variants) for v in LEVELS]
        rows.append([name, *(f"{value:.2f}" for value in best)])
        print(" ".join(rows[-1]), flush=True)
    by_method = format_table(header, rows)
    side = min(images.shape[-2:])
    rows = [
        [
            f"{size} x {size}",
            *(f"{psnr_at(images, v, in_pieces(prior, size)):.2f}" for v in LEVELS),
        ]
        for size in PIECES
        if side % size == 0
    ]
    by_size = format_table(["given in pieces of", *header[1:]], rows)
    print(f"{by_method}\n\n{by_size}")
    if args.card:
        source = f"{len(images)} images of {args.size} pixels from {', '.join(args.names)}"
        held = ", held out of training" if args.held_out else ", unseen in training"
        write_card(folder / "README.md", f"{source}{held}", by_method, by_size)


def arguments() -> argparse.Namespace:
    """Return the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("prior", help="shipped prior or folder")
    parser.add_argument("--data", action="append", required=True)
    parser.add_argument("--held-out", action="store_true", help="only what training left out")
    parser.add_argument("--count", type=int, default=8, help="number of images")
    parser.add_argument("--size", type=int, default=256, help="side of their central crops")
    parser.add_argument("--whole", type=int, help="side of those given in pieces; default: size")
    parser.add_argument("--no-baselines", action="store_true")
    parser.add_argument("--card", action="store_true", help="write the tables to the model card")
    args = parser.parse_args()
    args.names = [Path(path).name for path in args.data]
    return args


def load_images(args: argparse.Namespace, config: dict, size: int) -> Tensor:
    """Return evenly spread images (N, C, H, W), cropped to their centre, in public values."""
    training = config["training"]
    known = set(Reading.__dataclass_fields__) - {"data_range"}
    reading = {k: training[k] for k in known if k in training}  # older cards lack some
    reading["window"] = reading["window"] and tuple(reading["window"])
    if not args.held_out:
        reading["group_key"] = None
    collection = Collection(args.data, Reading(**reading))
    stacks = collection.split(training["held_out"])[1] if args.held_out else collection.whole()
    places = [(stack, row) for stack in stacks for row in range(stack.shape[0])]
    if len(places) > 2 * args.count:  # the ends of a volume are empty
        margin = len(places) // 5 if len(stacks) < 3 else 0
        places = places[margin : len(places) - margin]
    step = max(1, len(places) // args.count)
    chosen = [stack.array()[row] for stack, row in places[::step][: args.count]]
    images = torch.stack([central_crop(torch.from_numpy(i).movedim(-1, 0), size) for i in chosen])
    if training.get("companding"):
        images = compand(images.clamp(-1, 1), training["companding"])
    return random_phase(images, seed=0) if config["complex"] else images


def psnr_at(images: Tensor, level: float, denoise: Denoise) -> float:
    """Return the mean PSNR over the images, of peak 1 and per real and imaginary part."""
    noise = ItemNoise(0, [(n,) for n in range(len(images))], MEASUREMENT)
    with torch.no_grad():
        estimate = denoise(images + level * noise.draw(images), level)
    error = torch.view_as_real(estimate - images) if images.is_complex() else estimate - images
    return float(-10 * error.square().flatten(1).mean(1).log10().mean())


def in_turn(denoise: Denoise) -> Denoise:
    """Denoise image by image, as memory has it."""
    return lambda x, level: torch.cat([denoise(image[None], level) for image in x])


def in_pieces(prior: priors.Prior, size: int) -> Denoise:
    """Denoise squares of an image on their own."""

    def denoise(x: Tensor, level: float) -> Tensor:
        out = torch.empty_like(x)
        for top in range(0, x.shape[-2], size):
            for left in range(0, x.shape[-1], size):
                piece = (..., slice(top, top + size), slice(left, left + size))
                out[piece] = prior(x[piece], level)
        return out

    return in_turn(denoise)


def baselines() -> dict[str, list[Denoise]]:
    """Return deepinv's classical denoisers, each with some thresholds per noise level."""
    models = deepinv.models
    wavelets = lambda: models.WaveletDictDenoiser(level=4, list_wv=["db1", "db4", "db8"])  # noqa: E731
    # A new one each time: deepinv's starts from where its last call ended.
    tv = lambda: models.TVDenoiser(n_it_max=100, tau=0.1)  # noqa: E731
    return {
        "BM3D": [thresholded(models.BM3D, 1.0)],
        "TV": [thresholded(tv, factor) for factor in (0.5, 0.7, 1.0)],
        "wavelets": [thresholded(wavelets, factor) for factor in (0.7, 1.0, 1.5)],
    }


def thresholded(make: Callable[[], deepinv.models.Denoiser], factor: float) -> Denoise:
    """Call a denoiser at a multiple of the noise level, on real and imaginary part in turn."""

    def denoise(x: Tensor, level: float) -> Tensor:
        if x.is_complex():
            return torch.complex(denoise(x.real, level), denoise(x.imag, level))
        return make()(x, factor * level)

    return in_turn(denoise)


def write_card(card: Path, source: str, by_method: str, by_size: str) -> None:
    """Put the tables at the end of a model card, instead of older ones."""
    text = card.read_text().partition(HEADING)[0].rstrip()
    card.write_text(
        f"{text}\n\n{HEADING}\n\nOf {source}, by `benchmarks/denoising.py`; noise levels in "
        f"public values.\n\n{by_method}\n\nThe same pixels, given to the prior in pieces:\n\n"
        f"{by_size}\n"
    )


if __name__ == "__main__":
    main()
