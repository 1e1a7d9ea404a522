"""Images of few wavelet coefficients, over all shifts of the transform."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Annotated, ClassVar

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Positive
from wellposed.errors import ArgumentError
from wellposed.linalg import per_item
from wellposed.solvers.estimates.sparse import Sparse
from wellposed.solvers.problem import Problem

ROOT3 = math.sqrt(3)
FILTERS = {
    "haar": (0.5, 0.5),
    "db2": ((1 + ROOT3) / 8, (3 + ROOT3) / 8, (3 - ROOT3) / 8, (1 - ROOT3) / 8),
    "db4": (
        0.162901714025620,
        0.505472857545650,
        0.446100069123190,
        -0.019787513117910,
        -0.132253583684370,
        0.021808150237390,
        0.023251800535560,
        -0.007493494665130,
    ),
}
"""Low-pass filters of sum 1 (Daubechies, Comm. Pure Appl. Math. 1988, table 1)."""

ARRAYS = 6
"""Arrays of the size of ``D x`` in an iteration."""


@dataclass(frozen=True, kw_only=True)
class Wavelet(Sparse):
    r"""The image of least wavelet coefficients that fits the data as well as their noise lets it.

    With the details ``W_s x`` of the orthonormal wavelet transform of an image shifted by s::

        |D x|_1 = mean over s of |W_s x|_1
        min_x  |D x|_1   subject to   ||A x - y|| <= sqrt(m) sigma_y            weight None
        min_x  ||A x - y||^2 / 2 + weight ||A||^2 |D x|_1                       with a weight

    The mean over all shifts avoids the blocks of a single transform. Images are periodic;
    complex coefficients count by their magnitude. ADMM as for `TotalVariation`, with a Parseval
    frame as D. Needs no prior.

    Reference: "Translation-Invariant De-Noising", Coifman and Donoho 1995, for the shifts;
    "Sparse MRI", Lustig, Donoho and Pauly, Magn. Reson. Med. 2007, for MRI.

    Args:
        steps: iterations of ADMM.
        weight: of the coefficients over ``||A||^2``; None takes the constraint.
        threshold: what one iteration takes away of coefficients, over the brightness of the
            least-squares image. It decides how fast ADMM converges, not where to.
        cg_steps: conjugate-gradient steps of an iteration.
        wavelet: "haar", or "db2" or "db4" of 2 and 4 vanishing moments.
        levels: scales of the transform; images have at least ``2^levels`` pixels along each axis.

    Example:
        >>> import torch
        >>> from wellposed import operators, solvers
        >>> operator = operators.Inpainting(operators.random_mask(16, 16, 0.5), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> result = solvers.Wavelet(steps=50)(y, operator)  # needs no prior
        >>> result.mean.shape, round(float(result.residual), 1)  # the misfit is that of the noise
        (torch.Size([1, 3, 16, 16]), 1.0)
    """

    threshold: Positive = 0.05
    wavelet: Annotated[str, Choice(*FILTERS)] = "db2"
    levels: Count = 3

    name: ClassVar[str] = "wavelet"

    @property
    def volume_arrays(self) -> int:
        """Largest number of arrays of the size of ``x`` in the solver."""
        return super().volume_arrays + ARRAYS * (7 * self.levels + 1)

    def check(self, problem: Problem) -> None:
        """Ask for images that are large enough, and whole."""
        super().check(problem)
        grid = problem.image_shape[2:]
        if min(grid) < 2**self.levels:
            most = int(math.log2(min(grid)))
            raise ArgumentError(
                f"levels: got {self.levels}, accepted for images of {tuple(grid)} pixels: "
                f"1 to {most}"
            )
        if problem.part.processes > 1:
            raise ArgumentError(
                f"operator: got a part of a volume in {problem.part.processes} processes, "
                "accepted: a whole volume; TotalVariation can be shared"
            )

    def coefficients(self, x: Tensor, problem: Problem) -> Tensor:
        """Return the coefficients of all bands, the coarse image last, (B, bands, C, ...)."""
        axes = tuple(range(2 - x.ndim, 0))
        spectrum = torch.fft.fftn(x, dim=axes)
        bands = [reduce(torch.mul, band, spectrum) for band in self._bands(x)]
        found: Tensor = torch.fft.ifftn(torch.stack(bands, 1), dim=axes)
        return found if x.is_complex() else found.real

    def adjoint(self, d: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H d``, the inverse on coefficients of an image."""
        axes = tuple(range(3 - d.ndim, 0))
        spectra = torch.fft.fftn(d, dim=axes).unbind(1)
        bands = zip(spectra, self._bands(d[:, 0]), strict=True)
        parts = [reduce(lambda a, v: a * v.conj(), band, spectrum) for spectrum, band in bands]
        found: Tensor = torch.fft.ifftn(sum(parts[1:], start=parts[0]), dim=axes)
        return found if d.is_complex() else found.real

    def gram(self, x: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H D x``, which is x."""
        return x

    def squared_norm(self, problem: Problem) -> float:
        """Return ``||D||^2``."""
        return 1.0

    def shrunk(self, d: Tensor, threshold: Tensor) -> Tensor:
        """Return coefficients whose magnitudes are smaller; the coarse image is left."""
        axes, like = d.ndim - 3, d.real
        # At level j the frame has the orthonormal coefficients of all 2^(axes j) shifts, each
        # divided by 2^(axes j / 2). Their mean over shifts is the sum, divided by it once more.
        levels = torch.arange(1, self.levels + 1).repeat_interleave(2**axes - 1)
        shares = torch.cat([2.0 ** (-axes * levels / 2), torch.zeros(1)]).to(like)
        taken = per_item(threshold, d) * shares.view(-1, *[1] * (axes + 1))
        length = d.abs()
        return d * (1 - taken / length.clamp(min=torch.finfo(like.dtype).tiny).maximum(taken))

    def _bands(self, x: Tensor) -> Iterator[tuple[Tensor, ...]]:
        """Yield each band's frequency responses along the axes of (B, C, ...)."""
        axes = x.ndim - 2
        low, high = zip(*(self._responses(x, axis) for axis in range(2 - x.ndim, 0)), strict=True)
        for level in range(self.levels):
            for choice in list(product((0, 1), repeat=axes))[1:]:
                yield tuple((high if c else low)[a][level] for a, c in enumerate(choice))
        yield tuple(one[-1] for one in low)

    def _responses(self, x: Tensor, axis: int) -> tuple[list[Tensor], list[Tensor]]:
        """Return the low and the high-pass of each level, behind those before, along an axis."""
        taps = FILTERS[self.wavelet]
        shape = [-1 if a == axis else 1 for a in range(-x.ndim, 0)]
        omega = 2 * math.pi * torch.fft.fftfreq(x.shape[axis], dtype=torch.float64)
        dtype = x.dtype if x.is_complex() else x.dtype.to_complex()
        before, low, high = torch.ones_like(omega, dtype=torch.complex128), [], []
        for level in range(self.levels):
            waves = [torch.exp(-1j * k * 2**level * omega) for k in range(len(taps))]
            smooth = sum(h * wave for h, wave in zip(taps, waves, strict=True))
            rough = sum(
                (-1) ** k * h * wave
                for k, (h, wave) in enumerate(zip(reversed(taps), waves, strict=True))
            )
            high.append((before * rough).to(x.device, dtype).view(shape))
            before = before * smooth
            low.append(before.to(x.device, dtype).view(shape))
        return low, high
