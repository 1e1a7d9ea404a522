"""Images with small wavelet coefficients, over all shifts of the transform."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Annotated, ClassVar, NamedTuple

import torch
from torch import Tensor

from wellposed.checks import Choice, Count, Positive
from wellposed.errors import ArgumentError
from wellposed.linalg import per_item
from wellposed.solvers.data import exact_damped_inverse
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

ARRAYS = 8
"""Arrays of an iteration for each band, of the size of ``x``."""


class Band(NamedTuple):
    """A band of the transform.

    Attributes:
        responses: frequency responses along axes; their product is the filter.
        share: factor of its thresholds.
    """

    responses: tuple[Tensor, ...]
    share: float


@dataclass(frozen=True)
class Bands:
    """Makes the bands of a problem's images, the coarse image last.

    At level j the frame has the orthonormal coefficients of all ``2^(axes j)`` shifts, each
    divided by ``2^(axes j / 2)``. The mean of their magnitudes over the shifts is the sum of
    those of the frame, divided by it once more: the share.
    """

    wavelet: str
    levels: int

    def __call__(self, problem: Problem) -> tuple[Band, ...]:
        """Return the bands; an axis of n pixels takes part in ``log2(n)`` levels at most."""
        grid = problem.image_shape[2:]
        lines = [self._line(axis - len(grid), problem) for axis in range(len(grid))]
        found, halvings = [], 0
        for level in range(self.levels):
            split = [a for a, pairs in enumerate(lines) if level < len(pairs)]
            coarser = [pairs[-1][0] for pairs in lines if 0 < len(pairs) <= level]
            halvings += len(split)
            for choice in list(product((0, 1), repeat=len(split)))[1:]:
                parts = [lines[a][level][c] for a, c in zip(split, choice, strict=True)]
                found.append(Band((*parts, *coarser), 2.0 ** (-halvings / 2)))
        coarse = tuple(pairs[-1][0] for pairs in lines if pairs)
        return (*found, Band(coarse, 0.0))

    def _line(self, axis: int, problem: Problem) -> list[tuple[Tensor, Tensor]]:
        """Return low and high-pass of each level along an axis, after the low-passes before."""
        n, taps, x = problem.image_shape[axis], FILTERS[self.wavelet], problem.zeros()
        half = axis == -1 and not x.is_complex()
        frequencies = torch.fft.rfftfreq if half else torch.fft.fftfreq
        omega = 2 * math.pi * frequencies(n, dtype=torch.float64)
        before, found = torch.ones_like(omega, dtype=torch.complex128), []
        for level in range(min(self.levels, int(math.log2(n)))):
            waves = [torch.exp(-1j * k * 2**level * omega) for k in range(len(taps))]
            low = before * _combined(taps, waves)
            signed = [(-1) ** k * h for k, h in enumerate(reversed(taps))]
            pair = torch.stack([low, before * _combined(signed, waves)])
            pair = pair.to(x.device, x.real.dtype.to_complex())
            smooth, detail = pair.view(2, -1, *[1] * (-axis - 1))
            found.append((smooth, detail))
            before = low
        return found


@dataclass(frozen=True, kw_only=True)
class Wavelet(Sparse):
    r"""The image with the smallest wavelet coefficients that fits the data as noise lets it.

    With the details ``W_s x`` of the orthonormal wavelet transform of an image shifted by s::

        |D x|_1 = mean over s of |W_s x|_1
        min_x  |D x|_1   subject to   ||A x - y|| <= sqrt(m) sigma_y            weight None
        min_x  ||A x - y||^2 / 2 + weight ||A||^2 |D x|_1                       with a weight

    The mean over all shifts avoids the blocks of a single transform. Images are taken as
    periodic, channels one by one; complex coefficients count by their magnitude. Solved as
    `TotalVariation` is, by ADMM with a Parseval frame as D. Needs no prior.

    Reference: "Translation-Invariant De-Noising", Coifman and Donoho 1995, for the shifts;
    "Sparse MRI", Lustig, Donoho and Pauly, Magn. Reson. Med. 2007, for MRI; C-SALSA, Afonso et
    al. 2011, arXiv 0912.3481, for ADMM.

    Args:
        steps: iterations of ADMM.
        weight: of the coefficients over ``||A||^2``; None takes the constraint.
        threshold: what one iteration takes away of coefficients, over the brightness of the
            least-squares image. It decides how fast ADMM converges, not where to.
        cg_steps: conjugate-gradient steps of an iteration, where A has no closed form.
        wavelet: "haar", or "db2" or "db4" of 2 and 4 vanishing moments.
        levels: scales of the transform; an axis of n pixels takes part in log2(n) at most.

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
        """Ask for volumes that are not shared between processes."""
        super().check(problem)
        if problem.part.processes > 1:
            raise ArgumentError(
                f"operator: got a part of a volume in {problem.part.processes} processes, "
                "accepted: a whole volume; TotalVariation can be shared"
            )

    def coefficients(self, x: Tensor, problem: Problem) -> Tensor:
        """Return the coefficients of all bands, (B, bands, C, ...)."""
        return _through_spectrum(lambda spectrum: self._parts(spectrum, problem), x, x.ndim - 2)

    def adjoint(self, d: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H d``, the inverse on coefficients of an image."""
        return _through_spectrum(lambda spectra: self._whole(spectra, problem), d, d.ndim - 3)

    def solved(self, b: Tensor, mu: Tensor, start: Tensor, problem: Problem) -> Tensor:
        """Return ``(mu A^H A + I)^-1 b``, as ``D^H D`` is the identity."""
        exact = exact_damped_inverse(problem, b / per_item(mu, b), 1 / mu)
        return super().solved(b, mu, start, problem) if exact is None else exact

    def gram(self, x: Tensor, problem: Problem) -> Tensor:
        """Return ``D^H D x``, which is x."""
        return x

    def frame_norm2(self, problem: Problem) -> float:
        """Return ``||D||^2``."""
        return 1.0

    def shrunk(self, d: Tensor, threshold: Tensor, problem: Problem) -> Tensor:
        """Return coefficients of smaller magnitude; the coarse image is left."""
        shares = torch.tensor([band.share for band in self._bands(problem)]).to(threshold)
        taken = per_item(threshold, d) * shares.view(-1, *[1] * (d.ndim - 2))
        length = d.abs().clamp_(min=torch.finfo(threshold.dtype).tiny)
        kept = torch.div(taken, torch.maximum(length, taken, out=length), out=length)
        return d * kept.neg_().add_(1)

    def _bands(self, problem: Problem) -> tuple[Band, ...]:
        return problem.once(Bands(self.wavelet, self.levels))

    def _parts(self, spectrum: Tensor, problem: Problem) -> Tensor:
        """Return the spectra of all bands of an image's spectrum."""
        bands = self._bands(problem)
        batch, *rest = spectrum.shape
        parts = spectrum.new_empty(batch, len(bands), *rest)
        for part, band in zip(parts.unbind(1), bands, strict=True):
            part.copy_(spectrum)
            for response in band.responses:
                part.mul_(response)
        return parts

    def _whole(self, spectra: Tensor, problem: Problem) -> Tensor:
        """Return the adjoint of `_parts`."""
        whole = torch.zeros_like(spectra[:, 0])
        for part, band in zip(spectra.unbind(1), self._bands(problem), strict=True):
            whole += reduce(_conjugated, band.responses, part)
        return whole


def _through_spectrum(change: Callable[[Tensor], Tensor], values: Tensor, axes: int) -> Tensor:
    """Return the values of the changed spectrum over the last axes; of real values half of it."""
    dim, grid = tuple(range(-axes, 0)), values.shape[-axes:]
    found: Tensor
    if values.is_complex():
        found = torch.fft.ifftn(change(torch.fft.fftn(values, dim=dim)), dim=dim)
    else:
        found = torch.fft.irfftn(change(torch.fft.rfftn(values, dim=dim)), s=grid, dim=dim)
    return found


def _combined(taps: Sequence[float], waves: list[Tensor]) -> Tensor:
    """Return the frequency response of a filter."""
    parts = [h * wave for h, wave in zip(taps, waves, strict=True)]
    return sum(parts[1:], start=parts[0])


def _conjugated(spectrum: Tensor, response: Tensor) -> Tensor:
    return spectrum * response.conj()
