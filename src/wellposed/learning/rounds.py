"""Learning a prior from measurements: expectation maximisation with a diffusion model."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from wellposed.checks import Count, Seed, check_fields
from wellposed.errors import CheckpointError, FileError, require
from wellposed.integrity import locked, read_json
from wellposed.learning.measurements import Measurement, has_sample, write_sample
from wellposed.learning.start import seed_of, stationary_start
from wellposed.priors.analytic import GaussianPrior
from wellposed.priors.covariance import Stationary
from wellposed.priors.prior import Prior
from wellposed.priors.stored.registry import load
from wellposed.priors.stored.store import load_prior
from wellposed.priors.training.loop import train
from wellposed.priors.training.settings import TrainingSettings
from wellposed.priors.training.trainer import starting_network
from wellposed.solvers.base import Solver
from wellposed.solvers.mmps import MMPS
from wellposed.writing import write_array, write_text

Report = Callable[[str, int, int], None]
"""``(what, number done, number in all)``."""


@dataclass(frozen=True, kw_only=True)
class RoundSettings:
    """Settings of `learn_from_measurements`.

    Args:
        rounds: rounds of sampling and training; more continue a finished run.
        start_rounds: rounds of the Gaussian from which the first samples come, without
            ``init_from``.
        solver: the posterior sampler.
        seed: seed of the samples.

    Example:
        >>> from wellposed import solvers
        >>> from wellposed.learning import RoundSettings
        >>> RoundSettings(rounds=6, solver=solvers.MMPS(steps=20)).start_rounds
        8
    """

    rounds: Count = 4
    start_rounds: Count = 8
    solver: Solver = field(default_factory=lambda: MMPS(steps=30, spacing="karras"))
    seed: Seed = 0

    def __post_init__(self) -> None:
        check_fields(self)
        samples = isinstance(self.solver, Solver) and not self.solver.deterministic
        accepted = "a solver that samples, such as MMPS"
        require(samples, "solver", type(self.solver).__name__, accepted)


def learn_from_measurements(
    measurements: Sequence[Measurement],
    training: TrainingSettings,
    settings: RoundSettings | None = None,
    device: str = "cpu",
    report: Report | None = None,
) -> Path:
    """Learn a prior from measurements alone; return the folder of the last round's prior.

    Each round draws one posterior sample of every image with the prior of the round before (E),
    and trains the network on the samples, from the weights before (M). The first samples come
    from the prior ``training.init_from``, which is thus adapted to what was measured, or, if there
    is none, from `stationary_start`. Samples of complex images are trained on by magnitude, with
    random smooth phases. A killed run goes on with the next sample or training step: the same call
    ends with the same weights.

    Reference: "Learning Diffusion Priors from Observations by Expectation Maximization", NeurIPS
    2024, arXiv 2405.13712. It starts from a Gaussian of low rank, and its conjugate gradients
    couple the items of a batch; here each image is sampled alone.

    Args:
        measurements: measurements of images of one shape, in about [0, 1]; see
            `Measurement.normalised`.
        training: the settings of every round's training; ``out`` is the folder of the run,
            ``data`` is not used.
        settings: rounds and sampler.
        device: ``cpu`` or ``cuda``.
        report: called as ``report(what, done, total)``.

    Raises:
        ArgumentError and subclasses: no measurement, two of one name, or other shapes.
        CheckpointError: the folder holds another run, or what it holds is damaged.
        FileError: the folder cannot be written.

    Example:
        >>> from wellposed.learning import RoundSettings, learn_from_measurements
        >>> from wellposed.priors.training import TrainingSettings
        >>> training = TrainingSettings(data=(), out="learned", image_size=(64,), steps=2000)
        >>> rounds = RoundSettings(rounds=4)
        >>> folder = learn_from_measurements(scans, training, rounds)  # hours # doctest: +SKIP
    """
    settings, out = settings or RoundSettings(), Path(training.out)
    require(len(measurements) > 0, "measurements", "none", "one or more")
    names = [measurement.name for measurement in measurements]
    require(len({*names}) == len(names), "measurements", "equal names", "different names")
    if out.exists() and not out.is_dir():
        raise FileError(f"out: {str(out)!r} is a file, accepted: a folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out, "out"):
        _claim(out, names, training, settings)
        source, prior = training.init_from, _start(measurements, training, settings).to(device)
        for number in range(1, settings.rounds + 1):
            place = out / f"round-{number:02d}"
            _sample_all(measurements, prior, settings, place, report)
            data, folder = (str(place / "samples"),), str(place / "prior")
            own = replace(training, data=data, out=folder, init_from=source)
            train(own, device, _steps_of(report, number, own.steps))
            source = str(place / "prior")
            prior = load_prior(place / "prior").to(device)
    return place / "prior"


def _claim(
    out: Path, names: list[str], training: TrainingSettings, settings: RoundSettings
) -> None:
    """Assign the folder to the run, or raise if it belongs to another."""
    solver = {"solver": type(settings.solver).__name__, **settings.solver.settings}
    others = {"seed": settings.seed, "start_rounds": settings.start_rounds}
    run = {"measurements": names, "training": training.decisive(), **others, "sampling": solver}
    run, file = json.loads(json.dumps(run)), out / "run.json"
    if not file.exists():
        write_text(file, json.dumps(run, indent=1), "out")
        return
    try:
        saved = dict(read_json(file))
    except (ValueError, TypeError, OSError) as error:
        raise CheckpointError(f"out: cannot read {str(file)!r}: {error}") from error
    differing = [name for name in run if saved.get(name) != run[name]]
    if differing:
        raise CheckpointError(
            f"out: {str(out)!r} holds a run with other {', '.join(differing)}, accepted: the "
            "same settings, or another folder"
        )


def _start(
    measurements: Sequence[Measurement], training: TrainingSettings, settings: RoundSettings
) -> Prior:
    """Return the prior of the first samples."""
    if training.init_from is not None:
        _require_trainable(training)
        return load(training.init_from).with_range(*training.data_range)
    return _gaussian(measurements, settings, Path(training.out) / "start.npy")


def _require_trainable(training: TrainingSettings) -> None:
    """Raise now, not after the first samples, if training cannot start from the prior."""
    assert training.init_from is not None
    settings = starting_network(training.init_from).settings
    for name in ("widths", "layers", "block"):
        got, own = settings.get(name), getattr(training, name)
        own = list(own) if isinstance(own, tuple) else own
        if got != own:
            raise CheckpointError(
                f"init_from: {training.init_from!r} has the network with {name} {got}, accepted: "
                f"{own}, as set"
            )


def _gaussian(
    measurements: Sequence[Measurement], settings: RoundSettings, file: Path
) -> GaussianPrior:
    """Return the Gaussian of the first round, computed now or by an earlier call."""
    if not has_sample(file):
        found = stationary_start(measurements, settings.start_rounds, settings.seed)
        assert isinstance(found.covariance, Stationary)
        spectrum = found.covariance.spectrum
        both = torch.stack([found.mean.expand_as(spectrum), spectrum.to(found.mean)])
        write_array(file, both.cpu().numpy(), "out")
    first = measurements[0].image
    mean, spectrum = torch.from_numpy(np.load(file)).to(first.device)
    covariance = Stationary(spectrum.real if spectrum.is_complex() else spectrum)
    return GaussianPrior(mean[:, :1, :1], covariance, is_complex=first.is_complex())


def _sample_all(
    measurements: Sequence[Measurement],
    prior: Prior,
    settings: RoundSettings,
    place: Path,
    report: Report | None,
) -> None:
    """Write one posterior sample of every image that has none yet."""
    for number, name in enumerate(m.name for m in measurements):
        path = place / "samples" / f"{name}.npy"
        if not has_sample(path):
            found = measurements[number]
            seed = seed_of(settings.seed, int(place.name.split("-")[1]), number, 1)
            result = settings.solver(found.y, found.operator, prior, seed=seed)
            write_sample(result.samples[0], path)
        if report is not None:
            report(f"{place.name}, sampling", number + 1, len(measurements))


def _steps_of(
    report: Report | None, number: int, total: int
) -> Callable[[int, float], None] | None:
    if report is None:
        return None
    told = report
    return lambda step, loss: told(f"round-{number:02d}, training", step, total)
