"""Requirements of a method, declared by class variables and checked before a run."""

from typing import ClassVar

from wellposed.errors import ArgumentError, ShapeError
from wellposed.operators.check import is_linear_operator
from wellposed.solvers.data import is_decomposable
from wellposed.solvers.problem import Problem


class Scope:
    """Base of methods and corrections; subclasses declare the problems they accept.

    Attributes:
        linear_only: the measurement must be linear in units.
        linear_operator: the operator must be linear; a latent prior's decoder need not be.
        decomposable_only: the operator must be `Decomposable`.
        differentiates: the prior must be differentiable, as networks are.
        operators: names of the accepted operator classes; empty: all.
        volumes_only: images must be volumes (B, C, D, H, W).
        latent_only: the prior must be latent.
        encodes: a latent prior must have an encoder, not only a decoder.
    """

    linear_only: ClassVar[bool] = False
    linear_operator: ClassVar[bool] = False
    decomposable_only: ClassVar[bool] = False
    differentiates: ClassVar[bool] = False
    operators: ClassVar[tuple[str, ...]] = ()
    volumes_only: ClassVar[bool] = False
    latent_only: ClassVar[bool] = False
    encodes: ClassVar[bool] = False

    def check(self, problem: Problem) -> None:
        """Raise if the method cannot solve the problem."""
        name, kind = type(self).__name__, type(problem.operator)
        self._check_prior(problem)
        if self.linear_operator:
            require_linear_operator(problem, name)
        if self.linear_only:
            require_linear(problem, name)
        if self.decomposable_only and not is_decomposable(problem.operator):
            raise ArgumentError(
                f"operator: {kind.__name__} has no singular value decomposition, "
                f"accepted by {name}: a Decomposable operator (Denoising, Inpainting, "
                "SuperResolution, Blur, SeparableBlur, CompressedSensing, WalshHadamard)"
            )
        if self.operators and not {c.__name__ for c in kind.__mro__} & {*self.operators}:
            taken = " or ".join(self.operators)
            raise ArgumentError(f"operator: got {kind.__name__}, accepted by {name}: {taken}")
        if self.volumes_only and len(problem.image_shape) != 5:
            raise ShapeError(
                f"operator: got images of shape {tuple(problem.image_shape)}, accepted by {name}: "
                "volumes (B, C, D, H, W); see operators.Stacked"
            )

    def _check_prior(self, problem: Problem) -> None:
        """Raise unless the prior is as latent as the method asks."""
        name, prior = type(self).__name__, problem.prior
        if self.latent_only and not prior.is_latent:
            raise ArgumentError(
                f"prior: {type(prior).__name__} is a prior on images, accepted by {name}: a "
                "latent prior, see priors.Latent"
            )
        if self.encodes and not prior.has_encoder:
            raise ArgumentError(
                f"prior: the autoencoder of {type(prior).__name__} has no encode, accepted by "
                f"{name}: one that encodes; DPS, REDDiff and LatentDPS only decode"
            )


def require_linear_operator(problem: Problem, method: str) -> None:
    """Raise unless the operator is linear; see `require_linear`."""
    operator = problem.operator
    if operator is None:
        raise ArgumentError(f"operator: got None, accepted by {method}: a linear operator")
    if not is_linear_operator(operator):
        raise ArgumentError(
            f"operator: {type(operator).__name__} is not linear, accepted by {method}: a linear "
            "operator"
        )


def require_linear(problem: Problem, method: str) -> None:
    """Raise unless the measurement is linear in units.

    Args:
        problem: the problem.
        method: name of the method, for the message.
    """
    require_linear_operator(problem, method)
    if not problem.is_linear:
        raise ArgumentError(
            f"prior: {type(problem.prior).__name__} decodes its units with a network, accepted by "
            f"{method}: a prior on images; DPS, REDDiff and LatentDDS accept latent priors"
        )
