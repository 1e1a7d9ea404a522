"""The images of a card, of files or simulated, and how a reconstruction of one is scored."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from deepinv.physics import Physics
from torch import Tensor

from wellposed.benchmark.card import Card, Data
from wellposed.benchmark.instance import Instance, Pictures, Scores, image_scores
from wellposed.datasets.files import READABLE_SUFFIXES, read_array, suffix_of
from wellposed.datasets.images.crops import central_crop, random_phase
from wellposed.datasets.images.hyperspectral import load_hyperspectral
from wellposed.datasets.images.phantoms import spectral_mixtures
from wellposed.datasets.ultrasound import (
    b_mode,
    dehazing_scores,
    envelope,
    load_recording,
    simulate_echoes,
)
from wellposed.errors import ArgumentError, FileError, ShapeError, require
from wellposed.metrics import SSIM_WINDOW, band_quality, spectral_angle
from wellposed.operators.companding import compand, expand
from wellposed.priors import Prior
from wellposed.reconstruction import Reconstruction

T = TypeVar("T")

DATA = Path(__file__).parent / "data"
"""Images of the package."""

WHITE = 0.999
"""Quantile of a measured cube that becomes 1, as few pixels are far brighter than the others."""

DYNAMIC_RANGE = 60.0
"""Of grey values of echoes, in dB."""


@dataclass(frozen=True, eq=False)
class Truth:
    """An image (1, C, H, W), and the problem of its measurement."""

    name: str
    image: Tensor

    def problem(self, y: Tensor, operator: Physics, prior: Prior) -> Instance:
        """Return the problem of a measurement."""
        return Instance.known(self.name, self.image, y, operator, prior)


@dataclass(frozen=True, eq=False)
class Cube(Truth):
    """A cube of many bands, scored band by band and by the angle of spectra."""

    def problem(self, y: Tensor, operator: Physics, prior: Prior) -> Instance:
        plain = super().problem(y, operator, prior)
        score, pictures = partial(_cube_scores, self.image), partial(_colours, plain.pictures)
        return replace(plain, score=score, pictures=pictures)


def _cube_scores(truth: Tensor, found: Reconstruction) -> Scores:
    """Return the scores of images, with MPSNR, MSSIM and SAM (degrees) of the mean."""
    scores = image_scores(truth, 1, found)
    if min(truth.shape[-2:]) >= SSIM_WINDOW:
        psnr, ssim = band_quality(found.mean, truth)
        scores |= {"MPSNR": float(psnr), "MSSIM": float(ssim)}
    return scores | {"SAM": float(spectral_angle(found.mean, truth))}


def _colours(pictures: Callable[[Reconstruction], Pictures], found: Reconstruction) -> Pictures:
    """Return three bands of each picture, the longest as red."""
    return {name: _three(image) for name, image in pictures(found).items()}


def _three(image: Tensor) -> Tensor:
    bands = len(image)
    return image[[int(share * (bands - 1)) for share in (0.75, 0.5, 0.25)]]


@dataclass(frozen=True, eq=False)
class Echoes(Truth):
    """Companded tissue and haze (1, 2, depths, beams), of which the tissue is scored.

    Attributes:
        tissue: linear RF (1, 1, depths, beams).
        regions: the masks ``cavity`` and ``myocardium``, if they are known.
    """

    tissue: Tensor
    regions: dict[str, Tensor]

    def problem(self, y: Tensor, operator: Physics, prior: Prior) -> Instance:
        """Return the problem of a measurement, companded RF."""
        score = partial(_echo_scores, self)
        return Instance(self.name, y, operator, prior, score, partial(_echo_pictures, self, y))


def _tissue_of(samples: Tensor) -> Tensor:
    """Return the linear tissue of companded samples (N, 1, 2, depths, beams), their mean."""
    return expand(samples[:, :, :1]).mean(0)


def _echo_scores(truth: Echoes, found: Reconstruction) -> Scores:
    own = dehazing_scores(_tissue_of(found.samples), truth.tissue, **truth.regions)
    named = {"psnr_rf": "PSNR", "psnr_b_mode": "PSNR, B-mode", "gcnr": "gCNR", "ks": "KS"}
    return {named[name]: float(value) for name, value in own.items()}


def _echo_pictures(truth: Echoes, y: Tensor, found: Reconstruction) -> Pictures:
    peak = envelope(truth.tissue).flatten(1).amax(1)
    name = "mean" if len(found.samples) > 1 else "sample"
    shown = {"truth": truth.tissue, "hazy": expand(y.cpu()), name: _tissue_of(found.samples)}
    return {each: b_mode(rf, DYNAMIC_RANGE, peak)[0] for each, rf in shown.items()}


def truths(card: Card, prior: Prior, folder: Path | None) -> Iterator[Truth]:
    """Yield the images of a card, or those of a folder in their place.

    Raises:
        FileError: images are missing or unreadable.
        ArgumentError: a folder without images of the card's kind.
    """
    assert card.data is not None
    if card.kind == "cubes":
        return _cubes(card.data, folder)
    if card.kind == "echoes":
        return _echoes(card.data, folder)
    return _images(card.data, prior, folder)


def _files(folder: Path, suffixes: tuple[str, ...]) -> list[Path]:
    if not folder.is_dir():
        raise FileError(f"--data: no such folder {str(folder)!r}")
    paths = sorted(p for p in folder.iterdir() if suffix_of(p) in suffixes)
    require(len(paths) > 0, "--data", str(folder), f"a folder of {', '.join(suffixes)}")
    return paths


def _images(data: Data, prior: Prior, folder: Path | None) -> Iterator[Truth]:
    own = [DATA / name for name in data.files]
    for index, path in enumerate(own if folder is None else _files(folder, READABLE_SUFFIXES)):
        yield Truth(path.stem, _image(path, data, prior, index))


def _image(path: Path, data: Data, prior: Prior, index: int) -> Tensor:
    """Return an image (1, C, H, W) in the units of the card; complex for a complex prior."""
    array = np.asarray(read_array(path), dtype=np.float32)
    pixels = torch.from_numpy(array)
    pixels = pixels[None] if array.ndim == 2 else pixels.permute(2, 0, 1)
    low, high = data.window
    image = ((pixels - low) / (high - low))[None].contiguous()
    if data.crop:
        least = min(image.shape[-2:])
        if least < data.crop:
            got = tuple(image.shape[-2:])
            raise ShapeError(f"{path.name}: got {got}, accepted: {data.crop} pixels or more")
        image = central_crop(image, data.crop)
    return random_phase(image, seed=index) if prior.is_complex else image


def _cubes(data: Data, folder: Path | None) -> Iterator[Truth]:
    """Yield `spectral_mixtures`, or the cubes of MATLAB files."""
    if folder is None:
        for index, cube in enumerate(_simulated(spectral_mixtures, data)):
            yield Cube(f"cube-{index}", cube[None])
        return
    for path in _files(folder, (".mat",)):
        image = load_hyperspectral(path).image
        values = image.flatten().sort().values
        yield Cube(path.stem, image / values[int(WHITE * (len(values) - 1))])


def _echoes(data: Data, folder: Path | None) -> Iterator[Truth]:
    """Yield simulated hearts at each haze level, or recordings whose tissue is known."""
    if folder is None:
        yield from _simulated(_hearts, data)
        return
    for path in _files(folder, (".h5", ".hdf5")):
        stored = load_recording(path)
        known = dict(stored.known)
        if "tissue" not in known:
            raise FileError(
                f"{path.name}: no data set 'tissue', accepted: RF whose truth is known"
            )
        tissue = known.pop("tissue")
        for n, (rf, clean) in enumerate(zip(stored.rf.split(1), tissue.split(1), strict=True)):
            regions = {name: mask[n : n + 1] for name, mask in known.items()}
            yield _echo(f"{path.stem}-{n}", clean, rf - clean, regions)


def _hearts(items: list[int], split: str, levels: list[float]) -> Iterator[Truth]:
    """Yield hearts of `simulate_echoes`, each behind haze of each level in dB."""
    for item in items:
        heart = simulate_echoes([item], split)
        regions = {"cavity": heart.cavity, "myocardium": heart.myocardium}
        for level in levels:
            haze = 10 ** (level / 20) * heart.haze
            yield _echo(f"heart-{item}, {level:g} dB", heart.tissue, haze, regions)


def _echo(name: str, tissue: Tensor, haze: Tensor, regions: dict[str, Tensor]) -> Echoes:
    return Echoes(name, torch.cat([compand(tissue), compand(haze)], 1), tissue, regions)


def _simulated(make: Callable[..., T], data: Data) -> T:
    """Return what the card's arguments make."""
    try:
        return make(**data.simulated)
    except TypeError as error:
        raise ArgumentError(f"data: simulated: {error}") from error
