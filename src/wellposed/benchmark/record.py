"""Runs of solvers on problems, each kept in a file, so that a stopped comparison goes on."""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from wellposed import __version__
from wellposed.benchmark.instance import Instance, Pictures, Scores
from wellposed.errors import WellposedError
from wellposed.integrity import read_json
from wellposed.parallel.part import Part
from wellposed.priors.prior import Prior
from wellposed.reconstruction import Reconstruction
from wellposed.runs.fingerprint import digest, fingerprint
from wellposed.solvers.base import Solver
from wellposed.writing import make_folder, replacing, write_text


class Sampling(Protocol):
    """What is compared: a solver, or what is called like one."""

    def __call__(
        self, y: Any, operator: Any, prior: Prior, *, num_samples: int, seed: int
    ) -> Reconstruction:
        """Return samples."""


@dataclass(frozen=True, kw_only=True)
class Record:
    """The result of a solver on a problem.

    Attributes:
        solver, instance: what they are called.
        identity: hash of all that the result depends on.
        scores: by name; empty if the solver failed.
        samples: number of samples.
        evaluations: network evaluations of a sample.
        seconds: wall time.
        method, settings: class and hyper-parameters of the solver.
        error: why it failed, or an empty text.

    Example:
        >>> import torch
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.benchmark import Instance, measured
        >>> truth, operator = torch.rand(1, 3, 16, 16), operators.Denoising((3, 16, 16), 0.1)
        >>> y, prior = operator.measure(truth, seed=0), priors.GaussianPrior(0.5, 0.1)
        >>> problem = Instance.known("mine", truth, y, operator, prior)
        >>> record = measured(problem, "HQS", solvers.HQS(steps=5), num_samples=1, seed=0)
        >>> record.evaluations, record.scores["PSNR"] > 20
        (5, True)
    """

    solver: str
    instance: str
    identity: str
    scores: Scores = field(default_factory=dict)
    samples: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    method: str = ""
    settings: Mapping[str, Any] = field(default_factory=dict)
    error: str = ""


def place_of(folder: Path, label: str, instance: str) -> Path:
    """Return the file of a record; the pictures beside it end in .npz."""
    return folder / "records" / _plain(label) / f"{_plain(instance)}.json"


def _plain(name: str) -> str:
    """Return a name of a file; different names stay different."""
    short = re.sub(r"[^\w.=-]+", "-", name)[:80].strip("-.")
    return short if short == name else f"{short}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"


def measured(
    instance: Instance,
    label: str,
    solver: Sampling,
    num_samples: int,
    seed: int,
    folder: Path | None = None,
) -> Record:
    """Return the record of a solver on a problem, made now or kept in a folder.

    Failures are returned with their error, and tried again by the next call.

    Args:
        instance: the problem.
        label: what the solver is called in tables.
        solver: the solver.
        num_samples: posterior samples; point estimates return one image.
        seed: of the solver.
        folder: where records are kept; None keeps none.

    Raises:
        FileError: the folder cannot be written.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.benchmark import Instance, measured
        >>> truth, operator = torch.rand(1, 3, 16, 16), operators.Denoising((3, 16, 16), 0.1)
        >>> y, prior = operator.measure(truth, seed=0), priors.GaussianPrior(0.5, 0.1)
        >>> problem = Instance.known("mine", truth, y, operator, prior)
        >>> record = measured(problem, "HQS", solvers.HQS(steps=5), 1, seed=0, folder=Path("out"))
        >>> record.scores["PSNR"] > 20  # kept in the folder
        True
    """
    solver, count = _fitted(solver, num_samples)
    mark = _identity(instance, solver, count, seed)
    path = None if folder is None else place_of(folder, label, instance.name)
    kept = None if path is None else read_record(path)
    if kept is not None and kept.identity == mark and not kept.error:
        return kept
    record = Record(solver=label, instance=instance.name, identity=mark)
    try:
        found = solver(
            instance.y, instance.operator, instance.prior, num_samples=count, seed=seed
        ).cpu()
        scores = instance.score(found)
    except Exception as error:
        # Solvers of other packages may raise anything; faults of ours must not be hidden.
        if isinstance(solver, Solver) and not isinstance(error, WellposedError):
            raise
        record = replace(record, error=" ".join(str(error).split()) or type(error).__name__)
    else:
        record = replace(
            record,
            scores=scores,
            samples=len(found.samples),
            evaluations=found.nfe,
            seconds=found.seconds,
            method=found.solver,
            settings=found.settings,
        )
        if path is not None:
            write_pictures(path.with_suffix(".npz"), instance.pictures(found))
    if path is not None:
        make_folder(path.parent)
        write_text(path, json.dumps(asdict(record), indent=1, default=str) + "\n")
    return record


def _fitted(solver: Sampling, count: int) -> tuple[Sampling, int]:
    """Return the solver and the number of its samples: 1 of a point estimate."""
    if not isinstance(solver, Solver):
        return solver, 1 if getattr(solver, "deterministic", False) else count
    few = solver.most_samples is not None and solver.most_samples < count
    return (solver.populated(count) if few else solver), 1 if solver.deterministic else count


def _identity(instance: Instance, solver: Sampling, count: int, seed: int) -> str:
    facts = {
        "version": __version__,
        "solver": repr(solver),
        "num_samples": count,
        "seed": seed,
        **digest(instance.y, Part()),
        "operator": fingerprint(instance.operator),
        "prior": fingerprint(instance.prior),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]


def read_record(path: Path) -> Record | None:
    """Return a record that is kept, or ``None``."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    known = {f.name for f in fields(Record)}
    whole = isinstance(content, dict) and known == set(content)
    return Record(**content) if whole else None


def write_pictures(path: Path, pictures: Pictures) -> None:
    """Write pictures (C, H, W) as arrays of half precision."""
    if not pictures:
        return
    make_folder(path.parent)
    arrays: dict[str, Any] = {n: image.numpy().astype(np.float16) for n, image in pictures.items()}
    with replacing(path) as part, part.open("wb") as file:
        np.savez_compressed(file, **arrays)


def read_pictures(path: Path) -> dict[str, np.ndarray]:
    """Return the pictures of a record, (C, H, W), by name; none if it has none."""
    if not path.is_file():
        return {}
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name].astype(np.float32) for name in content.files}
