"""Names of schedules, for the command line and files of settings."""

import ast
from collections.abc import Callable

import torch

from wellposed.errors import ArgumentError, require_choice
from wellposed.priors.processes import DenoisingProcess, MeanReverting, rddm, resshift
from wellposed.priors.schedule import VE, Flow, Schedule, Tabulated


def scaled_linear(T: int = 1000, start: float = 8.5e-4, end: float = 0.012) -> Tabulated:
    """Betas whose square roots are linear, of latent diffusion (Rombach et al. 2022)."""
    return Tabulated.from_betas(torch.linspace(start**0.5, end**0.5, T, dtype=torch.float64) ** 2)


def sigmoid(
    T: int = 1000, start: float = -3.0, end: float = 3.0, max_beta: float = 0.999
) -> Tabulated:
    """Sigmoid schedule of Jabri et al. (2022, arXiv 2212.11972), betas capped at ``max_beta``."""
    u = torch.linspace(start, end, T + 1, dtype=torch.float64).sigmoid()
    alpha_bar = (u[-1] - u) / (u[-1] - u[0])
    return Tabulated.from_betas((1 - alpha_bar[1:] / alpha_bar[:-1]).clamp(max=max_beta))


SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": Tabulated.linear,
    "cosine": Tabulated.cosine,
    "scaled-linear": scaled_linear,
    "sigmoid": sigmoid,
    "ve": VE,
    "flow": Flow,
    "ir-sde": MeanReverting,
    "ir-sde-denoising": DenoisingProcess,
    "resshift": resshift,
    "rddm": rddm,
}


def as_schedule(value: object) -> Schedule:
    """Return a schedule itself, or by its name: ``cosine``, ``ve(100)``, ``ir-sde(T=50)``.

    Raises:
        UnknownNameError: no such name; the error suggests the nearest one.
        ArgumentError: neither a schedule nor a name, or invalid arguments.
    """
    if isinstance(value, Schedule):
        return value
    if not isinstance(value, str):
        accepted = f"a Schedule, or its name: {', '.join(SCHEDULES)}"
        raise ArgumentError(f"schedule: got {value!r}, accepted: {accepted}")
    name, bracket, arguments = value.partition("(")
    make = SCHEDULES[require_choice("schedule", name.strip(), SCHEDULES)]
    try:
        call = ast.parse(f"f({arguments if bracket else ')'}", mode="eval").body
        assert isinstance(call, ast.Call)
        given = [ast.literal_eval(each) for each in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        return make(*given, **named)
    except ArgumentError:
        raise
    except (SyntaxError, TypeError, ValueError, AssertionError) as error:
        accepted = f"{name}, or {name}(...) with its arguments"
        raise ArgumentError(f"schedule: got {value!r}, accepted: {accepted}: {error}") from error
