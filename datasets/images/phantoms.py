"""Synthetic images."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from wellposed.errors import require

OVERSAMPLING = 2
SMALLEST_RADIUS = 4.0
COLOUR = 0.3

SHARPNESS = 25.0
"""How nearly a pixel of a cube holds one material alone."""

BUMPS = 4
"""Of a spectrum."""


def dead_leaves(count: int, channels: int, size: int, seed: int = 0) -> Tensor:
    """Return images of overlapping discs, with statistics similar to those of photographs.

    The radii have a density proportional to r^-3, which makes the images scale-invariant (Lee,
    Mumford and Huang 2001, "Occlusion models for natural images"). Edges are antialiased, and the
    channels of a disc differ only by a random colour.

    Args:
        count: number of images.
        channels: number of channels.
        size: side in pixels.
        seed: seed of the images; image n does not depend on their number.

    Returns:
        (count, channels, size, size), float32 in [0, 1].
    """
    require(count >= 1, "count", count, "an integer of at least 1")
    require(channels >= 1, "channels", channels, "an integer of at least 1")
    require(size >= 16, "size", size, "an integer of at least 16")
    fine = [
        _leaves(np.random.default_rng((seed, n)), channels, OVERSAMPLING * size)
        for n in range(count)
    ]
    return F.avg_pool2d(torch.from_numpy(np.stack(fine)), OVERSAMPLING)


def _leaves(rng: np.random.Generator, channels: int, size: int) -> np.ndarray:
    """Paint discs until every pixel is covered."""
    y, x = np.mgrid[:size, :size]
    image, bare = np.zeros((channels, size, size), np.float32), np.ones((size, size), bool)
    smallest, largest = OVERSAMPLING * SMALLEST_RADIUS, size / 2
    while bare.any():
        # Inverse of the distribution function of r^-3 between the smallest and the largest.
        u = rng.random()
        radius = (smallest**-2 + u * (largest**-2 - smallest**-2)) ** -0.5
        row, column = rng.uniform(-radius, size + radius, 2)
        # Front to back: painted pixels are final, so that the loop ends.
        fresh = bare & ((y - row) ** 2 + (x - column) ** 2 < radius**2)
        grey = (1 - COLOUR) * rng.random()
        image[:, fresh] = grey + COLOUR * rng.random((channels, 1))
        bare &= ~fresh
    return image


def spectral_mixtures(
    count: int, bands: int, size: int, materials: int = 6, seed: int = 0
) -> Tensor:
    """Return cubes of smooth spectra that are mixed in each pixel, in sharp regions.

    The linear mixing model of hyperspectral images (Bioucas-Dias et al. 2012, "Hyperspectral
    unmixing overview", arXiv 1202.6294): ``b(p) sum_k a_k(p) s_k`` with abundances ``a_k`` that
    sum to 1 in each pixel, spectra ``s_k`` of a few broad bumps, and a brightness ``b`` of the
    light. Abundances and brightness are `dead_leaves`.

    Args:
        count: number of cubes.
        bands: number of bands.
        size: side in pixels.
        materials: number of spectra, the rank of a cube.
        seed: seed of the cubes; cube n does not depend on their number.

    Returns:
        (count, bands, size, size), float32 in [0, 1].
    """
    require(bands >= 2, "bands", bands, "an integer of at least 2")
    leaves = dead_leaves(count, materials + 1, size, seed)
    shares = leaves[:, :-1] - leaves[:, :-1].mean(1, keepdim=True)
    abundances = (SHARPNESS * shares).softmax(1)
    sources = [np.random.default_rng((seed, n, 1)) for n in range(count)]
    spectra = np.stack([_spectra(rng, materials, bands) for rng in sources])
    mixed = torch.einsum("nkhw,nkb->nbhw", abundances, torch.from_numpy(spectra))
    return (0.5 + 0.5 * leaves[:, -1:]) * mixed


def _spectra(rng: np.random.Generator, materials: int, bands: int) -> np.ndarray:
    """Return sums of Gaussian bumps (materials, bands) with maximum 1."""
    place = np.linspace(0, 1, bands)
    centre, height = rng.random((2, materials, BUMPS, 1))
    width = rng.uniform(0.05, 0.3, (materials, BUMPS, 1))
    spectra: np.ndarray = (height * np.exp(-0.5 * ((place - centre) / width) ** 2)).sum(1)
    return np.asarray(spectra / spectra.max(1, keepdims=True), np.float32)
