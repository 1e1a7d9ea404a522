"""Blur kernels: Gaussian, uniform, camera shake. All are centred, float64, with sum 1."""

import math

import numpy as np
import torch
from torch import Tensor

from wellposed.checks import Count, Seed, checked, require_integer
from wellposed.errors import ArgumentError, require


@checked
def gaussian_kernel(sigma: float, size: Count = 61) -> Tensor:
    """Return a (size, size) Gaussian kernel of standard deviation ``sigma`` pixels, sum 1.

    Example:
        >>> from wellposed import operators
        >>> kernel = operators.gaussian_kernel(1.5, size=9)
        >>> kernel.shape, round(float(kernel.sum()), 4)
        (torch.Size([9, 9]), 1.0)
    """
    require(0 < sigma < math.inf, "sigma", sigma, "a positive number of pixels")
    require_integer("size", size)
    u = torch.arange(size, dtype=torch.float64) - size // 2
    line = torch.exp(-0.5 * (u / sigma) ** 2)
    line = line / line.sum()
    return torch.outer(line, line)


@checked
def uniform_kernel(size: Count = 9) -> Tensor:
    """Return a (size, size) kernel of equal weights, sum 1.

    Example:
        >>> from wellposed import operators
        >>> operators.uniform_kernel(2)
        tensor([[0.2500, 0.2500],
                [0.2500, 0.2500]], dtype=torch.float64)
    """
    require_integer("size", size)
    return torch.full((size, size), 1 / size**2, dtype=torch.float64)


@checked
def random_kernels(count: Count, size: Count = 21, seed: Seed = 0) -> Tensor:
    """Return different kernels (count, size, size), sum 1: Gaussian and camera shake in turn.

    Standard deviations are from .5 pixels to a sixth of the size, shakes of any length up to the
    size. They are examples for a prior of unknown kernels, see `priors.Examples`.

    Example:
        >>> from wellposed import operators, priors
        >>> kernels = operators.random_kernels(10, size=9, seed=0)
        >>> kernels.shape
        torch.Size([10, 9, 9])
        >>> prior = priors.Examples(kernels[:, None])  # of an unknown kernel
    """
    rng, kernels = np.random.default_rng((seed, 3)), torch.zeros(count, size, size).double()
    for index in range(count):
        if index % 2 == 0:
            kernels[index] = gaussian_kernel(rng.uniform(0.5, max(0.5, size / 6)), size)
            continue
        side = int(rng.integers(1, size + 1))
        shake = motion_kernel(side, rng.uniform(0.1, 1), int(rng.integers(2**31)))
        corner = size // 2 - side // 2
        kernels[index, corner : corner + side, corner : corner + side] = shake
    return kernels


@checked
def motion_kernel(size: Count = 61, intensity: float = 0.5, seed: Seed = 0) -> Tensor:
    """Return a (size, size) random camera-shake kernel, sum 1.

    It is a smooth random walk of the camera, rendered bilinearly. ``intensity`` in (0, 1] is its
    deviation from a straight line.

    Example:
        >>> from wellposed import operators
        >>> kernel = operators.motion_kernel(size=15, intensity=0.5, seed=3)
        >>> kernel.shape, round(float(kernel.sum()), 4)
        (torch.Size([15, 15]), 1.0)
    """
    if not 0 < intensity <= 1:
        raise ArgumentError(f"intensity: got {intensity!r}, accepted: a number in (0, 1]")
    require_integer("size", size)
    rng, count = np.random.default_rng(seed), 512
    turns = np.cumsum(rng.normal(0, 0.35 * intensity, count)) + rng.uniform(0, 2 * np.pi)
    path = np.cumsum(np.stack([np.sin(turns), np.cos(turns)]), 1)
    path -= path.mean(1, keepdims=True)
    path *= min(0.4 * size, (size - 1) // 2) / np.abs(path).max()
    points = np.clip(path + size // 2, 0, size - 1)
    low = np.floor(points).astype(int)
    u, kernel = points - low, np.zeros((size, size))
    for dy in (0, 1):
        for dx in (0, 1):
            weight = np.abs(1 - dy - u[0]) * np.abs(1 - dx - u[1])
            # On the last row or column the neighbour outside has no weight.
            at = np.minimum([low[0] + dy, low[1] + dx], size - 1)
            np.add.at(kernel, tuple(at), weight)
    return torch.from_numpy(kernel / kernel.sum())
