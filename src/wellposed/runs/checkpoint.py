"""A folder from which an interrupted run resumes, with the same result bit for bit."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import CheckpointError, FileError, ProcessLostError
from wellposed.integrity import all_finite, checksum, locked, read_json
from wellposed.parallel.part import Part
from wellposed.remote import require_local
from wellposed.writing import replacing

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

State = TypeVar("State", bound="DataclassInstance")

MEMORY = "memory."
"""Beginning of the names of what a prior has learnt, in the file of a state."""


class Facts(TypedDict, total=False):
    """What is told of a run beside its tensors."""

    batch: int
    step: int
    position: int
    evaluations: int
    plain: dict[str, object]  # fields of the state that are no tensors
    complex: list[str]  # names of the tensors that are


@dataclass(frozen=True)
class RunFolder:
    """Folder in which a run saves its state every few steps, and each finished batch of samples.

    ``run.json`` identifies the run, ``state.safetensors`` holds the sampler's state, and
    ``samples-<n>.safetensors`` hold the finished batches. Writes are atomic: an interrupted run
    leaves a complete state. Files that have changed since are refused. The folder is kept after
    the run, so that the same call returns the result again at once; delete it when it is no longer
    needed. Only one run at a time may use the folder, see `held`. If processes share a volume,
    process 0 writes the whole, and all must see the folder.

    Args:
        path: the folder, created if missing.
        every: steps between saved states.
        part: the slices of the volume that this process holds.

    Raises:
        ArgumentError: ``every`` is not a positive integer.
        FileError: the folder is not on this machine.

    Example:
        >>> import torch
        >>> from pathlib import Path
        >>> from wellposed import operators, priors, solvers
        >>> from wellposed.runs.checkpoint import RunFolder
        >>> operator, prior = operators.Denoising((1, 8, 8), 0.1), priors.GaussianPrior(0.5, 0.1)
        >>> y = torch.rand(1, 1, 8, 8)
        >>> result = solvers.DDS(steps=5)(y, operator, prior, seed=7, checkpoint="run")
        >>> RunFolder(Path("run")).read()["seed"]
        7
    """

    path: Path
    every: int = 10
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        require_integer("checkpoint_every", self.every)
        require_local("checkpoint", self.path)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other runs out of the folder.

        Raises:
            CheckpointError: another run is in it.
        """
        if self.part.rank > 0:  # process 0 holds it for all
            yield
            return
        with locked(self.path, "checkpoint"):
            yield

    def read(self) -> dict[str, Any]:
        """Return the facts about the folder's run; empty if there is none.

        Raises:
            CheckpointError: the file is truncated or of another kind.
            FileError: it cannot be read, or the path is not a folder.
        """
        file = self.path / "run.json"
        try:
            return dict(read_json(file))
        except FileNotFoundError:
            return {}
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"checkpoint: {str(file)!r} is damaged ({error}); delete the folder"
            ) from error
        except OSError as error:
            raise FileError(f"checkpoint: cannot read {str(file)!r}: {error}") from error

    def claim(self, run: Mapping[str, object], **remembered: object) -> None:
        """Assign the folder to a run, or check that it belongs to this run.

        Args:
            run: the identity of the run.
            remembered: further facts that `read` returns, which are not part of the identity.

        Raises:
            CheckpointError: the folder belongs to another run; names the differences.
            FileError: the folder cannot be read or written.
        """
        run, saved = json.loads(json.dumps(dict(run))), self.read()
        if not saved:
            self._write("run.json", json.dumps({**run, **remembered}, indent=1).encode())
            return
        differing = [
            f"{name} is {saved.get(name)!r} there but {run[name]!r} here"
            for name in run
            if saved.get(name) != run[name]
        ]
        if differing:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} belongs to another run: {'; '.join(differing)}; "
                "use another folder, or delete this one"
            )

    def save_state(
        self, state: "DataclassInstance", facts: Facts, memory: Mapping[str, Tensor] | None = None
    ) -> None:
        """Write a state, a dataclass of tensors and plain numbers, with facts about the run.

        ``memory`` is what a prior has learnt during the run, see `Prior.memory`.
        """
        values = {field.name: getattr(state, field.name) for field in fields(state)}
        tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
        plain = {name: v for name, v in values.items() if name not in tensors}
        learnt = {MEMORY + name: value for name, value in (memory or {}).items()}
        self._write_tensors("state", {**tensors, **learnt}, {**facts, "plain": plain})

    def load_state(
        self, template: State, batch: int
    ) -> tuple[State, Facts, dict[str, Tensor]] | None:
        """Return the saved state of a batch, its facts and the prior's memory.

        ``None`` if there is none.

        Args:
            template: a state of the expected class, shapes and device.
            batch: number of the batch; the fact ``batch`` must equal it.

        Raises:
            CheckpointError: the saved state was damaged, or has other fields, shapes or dtypes.
        """
        saved = self._read_tensors("state")
        if saved is None or saved[1]["batch"] != batch:
            return None
        (found_tensors, facts), length = saved, len(MEMORY)
        learnt = {k[length:]: v for k, v in found_tensors.items() if k.startswith(MEMORY)}
        tensors = {k: v for k, v in found_tensors.items() if not k.startswith(MEMORY)}
        wanted = {f.name: getattr(template, f.name) for f in fields(template)}
        kinds = {n: _kind(v) for n, v in wanted.items()}
        found = {n: _kind(v) for n, v in (tensors | facts["plain"]).items()}
        if kinds != found:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} has a state of {found}, accepted: {kinds}"
            )
        # Copied: matrix products may differ in rounding where memory is not aligned, as in a file.
        moved = {n: value.to(wanted[n].device, copy=True) for n, value in tensors.items()}
        return replace(template, **moved, **facts["plain"]), facts, learnt

    def save_samples(self, batch: int, found: Mapping[str, Tensor], evaluations: int) -> None:
        """Write a finished batch, its samples ``u`` and what else there is; delete its state."""
        self._write_tensors(f"samples-{batch}", found, {"evaluations": evaluations})
        if self.part.rank == 0:
            (self.path / "state.safetensors").unlink(missing_ok=True)

    def load_samples(self, batch: int, like: Tensor) -> tuple[dict[str, Tensor], int] | None:
        """Return a finished batch and its evaluations, or ``None`` if there is none.

        Args:
            batch: its number.
            like: of the shape, dtype and device that is expected of the samples ``u``.

        Raises:
            CheckpointError: the file was damaged, or has another shape or dtype.
        """
        saved = self._read_tensors(f"samples-{batch}")
        if saved is None:
            return None
        tensors = saved[0]
        found = _kind(tensors["u"]) if "u" in tensors else "none"
        if found != _kind(like):
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} holds samples of {found}, accepted: {_kind(like)}"
            )
        moved = {name: value.to(like.device) for name, value in tensors.items()}
        return moved, saved[1]["evaluations"]

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        tensors = {key: self.part.gather(value) for key, value in tensors.items()}
        if self.part.rank > 0:
            return
        # The format has neither complex128 nor tensors that share storage.
        kinds = [key for key, value in tensors.items() if value.is_complex()]
        seen: set[int] = set()
        own: dict[str, Tensor] = {}
        for key, value in tensors.items():
            value = torch.view_as_real(value.resolve_conj()) if key in kinds else value
            value = value.detach().cpu().contiguous()
            place = value.untyped_storage().data_ptr()
            own[key] = value.clone() if place in seen else value
            seen.add(place)
        told = json.dumps({**facts, "complex": kinds})
        metadata = {"facts": told, "sha256": checksum({"facts": told, **own})}
        with self._replacing(f"{name}.safetensors") as temporary:
            save_file(own, temporary, metadata)

    def _read_tensors(self, name: str) -> tuple[dict[str, Tensor], Facts] | None:
        """Return this process's part of a file and its facts, or ``None`` if there is none."""
        saved = self._read_file(name)
        found = -1 if saved is None else saved[1].get("evaluations", 0)
        if int(self.part.sum(torch.tensor([found]))) != self.part.processes * found:
            raise CheckpointError(
                f"checkpoint: the processes read different content in {str(self.path)!r}, "
                "accepted: a folder that all processes see"
            )
        return saved

    def _read_file(self, name: str) -> tuple[dict[str, Tensor], Facts] | None:
        file = self.path / f"{name}.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                told = opened.metadata()
                stored = {key: opened.get_tensor(key) for key in opened.keys()}
            facts: Facts = json.loads(told["facts"])
            if told["sha256"] != checksum({"facts": told["facts"], **stored}):
                raise ValueError("its checksum is wrong")
            if not all_finite(stored):
                raise ValueError("it has NaN or infinite values")
            _check_counts(facts)
            tensors = {k: self._own(v, k in facts["complex"]) for k, v in stored.items()}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: {str(file)!r} is damaged or not a saved state ({error}); delete "
                "it to resume from the last finished samples"
            ) from error
        return tensors, facts

    def _own(self, value: Tensor, is_complex: bool) -> Tensor:
        return self.part.cut(torch.view_as_complex(value) if is_complex else value)

    def _write(self, name: str, content: bytes) -> None:
        if self.part.rank > 0:
            return
        with self._replacing(name) as temporary:
            temporary.write_bytes(content)

    @contextmanager
    def _replacing(self, name: str) -> Iterator[Path]:
        """Yield a temporary path, whose file then replaces ``name`` atomically."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / name, "checkpoint") as temporary:
                yield temporary
        except (OSError, SafetensorError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"checkpoint: cannot write {str(self.path)!r}: {error}") from error


def _kind(value: object) -> str:
    """Return shape and dtype of a tensor, the type of another value."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def _check_counts(facts: Facts) -> None:
    """Raise unless the numbers of steps, draws and evaluations are possible."""
    for name in ("step", "position", "evaluations"):
        if name in facts:
            require_integer(name, facts[name], least=0)


@contextmanager
def naming(step: str, folder: RunFolder | None) -> Iterator[None]:
    """Add to the loss of a process the step, and whether the run can be resumed."""
    try:
        yield
    except ProcessLostError as error:
        left = (
            "without a checkpoint the run starts again"
            if folder is None
            else f"the checkpoint {str(folder.path)!r} is intact: the same call resumes the run, "
            "with any number of processes"
        )
        raise ProcessLostError(f"{step}: {error}; {left}") from error
