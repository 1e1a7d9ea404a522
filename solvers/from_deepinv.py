"""deepinv's samplers with our interface, and our solvers with deepinv's interface."""

import copy
import inspect
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import deepinv
import torch
from deepinv.models import Reconstructor
from deepinv.physics import Physics
from torch import Tensor, nn

from wellposed.checks import Count, Seed, checked, require_integer, require_samples
from wellposed.errors import (
    SamplingError,
    UnknownNameError,
    require,
    require_choice,
    unknown_name,
)
from wellposed.noise import SAMPLING, item_generator
from wellposed.priors.prior import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.solvers.base import Solver
from wellposed.solvers.plausible import warn_of_misfit, warn_of_range
from wellposed.solvers.problem import Problem
from wellposed.solvers.residual import misfit, noisy_numbers

DENOISER = {"DDRM": "denoiser", "DiffPIR": "model", "DPS": "denoiser"}
"""deepinv's samplers, with the name of the denoiser argument of each."""

_OURS = {"self", "denoiser", "model", "data_fidelity", "device", "verbose", "rng", "kwargs"}


@checked
def from_deepinv(name: str, **options: object) -> "DeepinvSolver":
    """Return one of deepinv's samplers as a solver of ours, for comparisons.

    It is called as ``solver(y, operator, prior, num_samples=, seed=)``. Its hyper-parameters,
    their defaults and their meaning are deepinv's; it assumes images in [0, 1]. A sample of an
    item does not depend on the number of samples; the items of a batch share a stream of noise.

    Args:
        name: "DDRM", "DiffPIR" or "DPS" of ``deepinv.sampling``.
        options: hyper-parameters of the sampler, e.g. ``max_iter`` of DiffPIR.

    Raises:
        ArgumentError: an unknown name or option; the nearest is suggested.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Inpainting(operators.random_mask(16, 16, 0.5), noise_sigma=0.05)
        >>> y = operator.measure(torch.rand(1, 3, 16, 16), seed=0)
        >>> solver = solvers.from_deepinv("DiffPIR", max_iter=10)
        >>> solver(y, operator, priors.GaussianPrior(0.5, 1 / 12), seed=0).mean.shape
        torch.Size([1, 3, 16, 16])
    """
    require_choice("name", name, DENOISER)
    parameters = inspect.signature(getattr(deepinv.sampling, name).__init__).parameters
    known = [option for option in parameters if option not in _OURS]
    for option in options:
        if option not in known:
            raise UnknownNameError(unknown_name(name, option, known))
    return DeepinvSolver(name, options)


@dataclass(frozen=True)
class DeepinvSolver:
    """A sampler of deepinv with our interface; made by `from_deepinv`.

    Attributes:
        name: class of the sampler in ``deepinv.sampling``.
        options: hyper-parameters that differ from deepinv's defaults.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)

    def __call__(
        self,
        y: Tensor,
        operator: Physics,
        prior: Prior,
        *,
        num_samples: int = 1,
        seed: int | None = None,
    ) -> Reconstruction:
        """Reconstruct ``x`` from ``y = A(x) + n``; for the arguments see `Solver.__call__`.

        The operator and the global random generator are not changed.

        Raises:
            ArgumentError and subclasses: before the first network call.
            SamplingError: a sample is not finite.
            Exception: errors of deepinv, e.g. for operators that it does not support.
        """
        num_samples = require_samples(num_samples)
        seed = secrets.randbits(31) if seed is None else seed
        seed = require_integer("seed", seed, 0)
        problem = Problem.create(y, operator, prior)
        self._check(problem)
        warn_of_range(y, operator, prior, problem.space)
        started, denoiser = time.perf_counter(), CountedDenoiser(prior)
        samples = [self._sample(y, operator, denoiser, (seed, n)) for n in range(num_samples)]
        if not all(bool(x.isfinite().all()) for x in samples):
            raise SamplingError(f"{self.name} of deepinv: non-finite values in a sample")
        measured = noisy_numbers(problem)
        residual = torch.stack([misfit(problem, prior.to_units(x), measured) for x in samples])
        warn_of_misfit(problem, residual)
        return Reconstruction(
            samples=torch.stack(samples),
            residual=residual,
            nfe=denoiser.calls // num_samples,
            seconds=time.perf_counter() - started,
            solver=f"deepinv:{self.name}",
            settings=dict(self.options),
            seed=seed,
            measured=measured,
        )

    def _check(self, problem: Problem) -> None:
        """Raise for problems on which deepinv fails silently or with an unclear error."""
        prior, operator = problem.prior, problem.known
        plain = prior.is_affine and not problem.image_dtype.is_complex
        require(plain, "prior", type(prior).__name__, "a prior on real images")
        kind, sigma = type(operator).__name__, getattr(operator.noise_model, "sigma", None)
        if self.name == "DDRM":
            parts = all(hasattr(operator, part) for part in ("U_adjoint", "V", "mask"))
            require(parts, "operator", kind, "for DDRM a decomposable operator with a mask")
        if self.name == "DiffPIR" and sigma is not None:
            one = torch.as_tensor(sigma).numel() == 1 and float(sigma) > 0
            require(one, "operator", f"noise {sigma}", "for DiffPIR one positive noise level")

    def _sample(
        self, y: Tensor, operator: Physics, denoiser: nn.Module, identity: tuple[int, int]
    ) -> Tensor:
        """Return one sample of every item; deepinv draws from a fork of the global generator."""
        seed, n = identity
        word = int(item_generator(seed, (n,), SAMPLING).integers(2**63))
        with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
            torch.manual_seed(word)
            # Copies, because deepinv's samplers write into measurements and operators.
            x = self._build(denoiser, y.device)(y.detach().clone(), _own_settings(operator))
        return x.detach().to(y.dtype)

    def _build(self, denoiser: nn.Module, device: torch.device) -> Callable[..., Tensor]:
        settings: dict[str, Any] = {DENOISER[self.name]: denoiser, **self.options}
        if self.name == "DiffPIR":
            settings["data_fidelity"] = deepinv.optim.L2()
        if self.name != "DDRM":
            settings["device"] = device
        sampler: Callable[..., Tensor] = getattr(deepinv.sampling, self.name)(**settings)
        return sampler


def _own_settings(operator: Physics) -> Physics:
    """Return a copy whose settings may be changed; it shares the tensors."""
    shared = {id(tensor): tensor for tensor in (*operator.buffers(), *operator.parameters())}
    return copy.deepcopy(operator, shared)


class CountedDenoiser(nn.Module):
    """A prior as a deepinv denoiser that counts its calls.

    Args:
        prior: a prior on real images.
    """

    def __init__(self, prior: Prior) -> None:
        super().__init__()
        self.prior = prior
        self.calls = 0

    def forward(self, x: Tensor, sigma: float | Tensor) -> Tensor:
        """Denoise public images of noise level ``sigma``; see `Prior.forward`."""
        self.calls += 1
        x0: Tensor = self.prior(x, sigma)
        return x0


class SolverReconstructor(Reconstructor):
    """A solver and its prior as one model; made by `as_reconstructor`.

    Attributes:
        drawn: seed of the last call.
    """

    def __init__(self, solver: Solver, prior: Prior, num_samples: int, seed: int | None) -> None:
        super().__init__()
        self.solver, self.prior = solver, prior
        self.num_samples, self.seed = num_samples, seed
        self.drawn: int | None = None

    def forward(self, y: Tensor, physics: Physics, **kwargs: object) -> Tensor:
        """Return the mean of the samples, (B, C, ...); deepinv's ``kwargs`` are not used."""
        result = self.solver(y, physics, self.prior, num_samples=self.num_samples, seed=self.seed)
        self.drawn = result.seed
        return result.mean


@checked
def as_reconstructor(
    solver: Solver, prior: Prior, *, num_samples: Count = 1, seed: Seed | None = None
) -> Reconstructor:
    """Return a solver as a deepinv ``Reconstructor``: ``model(y, physics) -> x``.

    ``x`` is the mean of the samples, (B, C, ...), in public values.

    Args:
        solver: a solver of ours.
        prior: the prior, a submodule of the model.
        num_samples: number of samples that are averaged.
        seed: seed of the draws, the same in every call; ``None`` draws a new seed per call,
            which the attribute ``drawn`` of the model tells.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> operator = operators.Denoising((1, 8, 8), noise_sigma=0.1)
        >>> y = operator.measure(torch.rand(1, 1, 8, 8), seed=0)
        >>> prior = priors.GaussianPrior(0.5, 1 / 12)
        >>> model = solvers.as_reconstructor(solvers.DDS(steps=5), prior, seed=0)
        >>> model(y, operator).shape
        torch.Size([1, 1, 8, 8])
    """
    return SolverReconstructor(solver, prior, num_samples, seed)
