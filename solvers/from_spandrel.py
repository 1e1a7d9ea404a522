"""Supervised restorers of other projects as solvers, for comparisons."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import torch
from deepinv.physics import Physics
from torch import Tensor

from wellposed.checks import checked, require_path
from wellposed.errors import ArgumentError, FileError, SamplingError, ShapeError, require
from wellposed.integrity import file_sha256
from wellposed.priors.flat import Flat
from wellposed.priors.prior import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.solvers.plausible import warn_of_misfit
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import misfit, noisy_numbers

if TYPE_CHECKING:
    from spandrel import ImageModelDescriptor


@checked
def from_spandrel(path: str | Path) -> "SpandrelRestorer":
    """Return a trained network that spandrel recognises, e.g. of Real-ESRGAN, SwinIR or NAFNet.

    It is called as ``solver(y, operator, prior)`` and needs no prior: ``y`` is a degraded image
    (B, C, h, w) in [0, 1], which it restores in one evaluation. What it was trained for must fit
    the operator; its residual shows whether the result explains the data. spandrel reads pickles
    with ``weights_only``.

    Args:
        path: the file of its weights, .pth, .pt, .ckpt or .safetensors.

    Raises:
        FileError: no such file, or a network that spandrel does not know.
        ArgumentError: spandrel is not installed, or the network does not restore single images.

    Example:
        >>> from wellposed import solvers
        >>> solver = solvers.from_spandrel("RealESRGAN_x4plus.pth")  # weights # doctest: +SKIP
        >>> solver(y, operator).mean  # doctest: +SKIP
    """
    path = require_path("path", path)
    if not path.is_file():
        raise FileError(f"path: no such file {str(path)!r}")
    try:
        from spandrel import ImageModelDescriptor, ModelLoader
    except ImportError:
        raise ArgumentError(
            "path: networks of other projects need spandrel: pip install 'wellposed[restorers]'"
        ) from None
    try:
        network = ModelLoader().load_from_file(path)
    except Exception as error:  # every architecture has its own
        raise FileError(f"path: spandrel cannot read {str(path)!r}: {error}") from error
    accepted = "a network from an image to an image"
    require(isinstance(network, ImageModelDescriptor), "path", path.name, accepted)
    assert isinstance(network, ImageModelDescriptor)
    return SpandrelRestorer(path.name, file_sha256(path), network.eval())


@dataclass(frozen=True)
class SpandrelRestorer:
    """A supervised restorer with our interface; made by `from_spandrel`.

    Attributes:
        name: of its file.
        sha256: of its file.
        network: what spandrel made of it.
    """

    name: str
    sha256: str
    network: "ImageModelDescriptor"

    deterministic: ClassVar[bool] = True

    def __repr__(self) -> str:
        return f"SpandrelRestorer({self.name!r}, sha256={self.sha256!r})"

    @torch.no_grad()
    def __call__(
        self,
        y: Tensor,
        operator: Physics,
        prior: Prior | None = None,
        *,
        num_samples: int = 1,
        seed: int | None = None,
    ) -> Reconstruction:
        """Restore ``y``; for the arguments see `Solver.__call__`. The seed has no effect.

        Raises:
            ShapeError: ``y`` is no image for it, or the result no image of the operator.
            SamplingError: the result is not finite.
        """
        require(num_samples == 1, "num_samples", num_samples, "1, as it makes one estimate")
        problem = Problem.create(y, operator, Flat() if prior is None else prior)
        channels, scale = self.network.input_channels, self.network.scale
        shape = tuple(problem.image_shape)
        fits = y.ndim == 4 and not y.is_complex() and y.shape[1] == channels
        if not fits or (*y.shape[:2], *(scale * n for n in y.shape[2:])) != shape:
            raise ShapeError(
                f"y: got {tuple(y.shape)} for images {shape}, accepted by {self.name}: real "
                f"images of {channels} channels that are {scale} times smaller"
            )
        started = time.perf_counter()
        x = self.network.to(y.device)(y.float().clamp(0, 1)).to(y.dtype)
        if not bool(x.isfinite().all()):
            raise SamplingError(f"{self.name}: non-finite values in the result")
        measured = noisy_numbers(problem)
        residual = misfit(problem, problem.prior.to_units(x), measured)[None]
        warn_of_misfit(problem, residual)
        return Reconstruction(
            samples=x[None],
            residual=residual,
            nfe=1,
            seconds=time.perf_counter() - started,
            solver=f"spandrel:{self.network.architecture.name}",
            settings={"file": self.name, "sha256": self.sha256},
            measured=measured,
        )
