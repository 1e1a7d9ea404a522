"""Unrolled: a few data-consistent DDIM steps, trained end to end for the operator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from wellposed.checks import Whole
from wellposed.errors import ArgumentError, require
from wellposed.noise import NoiseSource
from wellposed.operators import LinearOperator
from wellposed.priors.networks.unrolled import Fidelity, UnrolledNetwork
from wellposed.priors.stored.config import Config
from wellposed.priors.stored.store import load_network
from wellposed.solvers.base import State
from wellposed.solvers.estimates.base import PointEstimate
from wellposed.solvers.problem import Problem


@dataclass(frozen=True, kw_only=True)
class Unrolled(PointEstimate):
    """An unrolled network of `wellposed train-unrolled`, for operators like those of its training.

    One deterministic estimate in one call of the network, without a prior; see `UnrolledNetwork`.
    It is as good as its training: with other operators, noise or images it is worse than a solver
    with a prior, and nothing tells.

    Reference: "Invertible Diffusion Models for Compressed Sensing", Chen et al., 2024,
    arXiv:2403.17006.

    Args:
        steps: 1; the steps of the network are those of its training.
        weights: folder of `wellposed train-unrolled`.

    Example:
        >>> from wellposed import solvers
        >>> solver = solvers.Unrolled(weights="out/unrolled")  # of train-unrolled # doctest: +SKIP
        >>> solver(y, operator).mean  # doctest: +SKIP
    """

    steps: Annotated[int, Whole(1, 1)] = 1
    weights: str = ""

    name: ClassVar[str] = "unrolled"
    linear_only: ClassVar[bool] = True
    uses_prior: ClassVar[bool] = False

    def check(self, problem: Problem) -> None:
        """Raise unless the weights can be read and fit the problem."""
        super().check(problem)
        network, config = self._network()
        operator, channels = problem.known, problem.image_shape[1]
        channels *= 2 if problem.image_dtype.is_complex else 1
        wanted = network.settings["channels"]
        accepted = f"one trained on images of {channels} real channel(s), as the operator's"
        require(wanted == channels, "weights", f"{self.weights} of {wanted}", accepted)
        if len(problem.image_shape) != 4 or not isinstance(operator, LinearOperator):
            raise ArgumentError(
                f"operator: got {type(operator).__name__}, accepted by Unrolled: a linear "
                f"operator on images, as {config['unrolled']['operator']}"
            )

    def step(
        self, state: State, t: float, s: float, problem: Problem, noise: NoiseSource
    ) -> State:
        """Call the network."""
        network, config = self._network()
        scale = config["data_range"][1]
        assert isinstance(problem.known, LinearOperator)
        assert not isinstance(scale, list)
        data = Fidelity.of(problem.y / scale, problem.known)
        x = scale * network.to(problem.y.device)(data)
        return State(x, x)

    def _network(self) -> tuple[UnrolledNetwork, Config]:
        require(self.weights != "", "weights", self.weights, "a folder of train-unrolled")
        network, config = load_network(Path(self.weights))
        if not isinstance(network, UnrolledNetwork):
            raise ArgumentError(
                f"weights: {self.weights!r} holds a prior, accepted: a folder of "
                "`wellposed train-unrolled`; use a prior with another solver"
            )
        return network.eval().requires_grad_(False), config
