"""A folder from which an interrupted run resumes, with the same result bit for bit."""

import json
import os
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
from wellposed.parallel.part import Part

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

State = TypeVar("State", bound="DataclassInstance")


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
    leaves a complete state. The folder is kept after the run, so that the same call returns the
    result again at once; delete it when it is no longer needed. Only one run at a time may use the
    folder. If processes share a volume, process 0 writes the whole, and all must see the folder.

    Args:
        path: the folder, created if missing.
        every: steps between saved states.
        part: the slices of the volume that this process holds.

    Raises:
        ArgumentError: ``every`` is not a positive integer.
    """

    path: Path
    every: int = 10
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        require_integer("checkpoint_every", self.every)

    def read(self) -> dict[str, Any]:
        """Return the facts about the folder's run; empty if there is none.

        Raises:
            FileError: the file is truncated or of another kind, or the path is not a folder.
        """
        file = self.path / "run.json"
        try:
            run = json.loads(file.read_text())
            return dict(run)
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
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

    def save_state(self, state: "DataclassInstance", facts: Facts) -> None:
        """Write a state, a dataclass of tensors and plain numbers, with facts about the run."""
        values = {field.name: getattr(state, field.name) for field in fields(state)}
        tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
        plain = {name: v for name, v in values.items() if name not in tensors}
        self._write_tensors("state", tensors, {**facts, "plain": plain})

    def load_state(self, template: State, batch: int) -> tuple[State, Facts] | None:
        """Return the saved state of a batch and its facts, or ``None`` if there is none.

        Args:
            template: a state of the expected class, shapes and device.
            batch: number of the batch; the fact ``batch`` must equal it.

        Raises:
            CheckpointError: the saved state has other fields or shapes.
            FileError: the file is truncated or of another kind.
        """
        saved = self._read_tensors("state")
        if saved is None or saved[1]["batch"] != batch:
            return None
        tensors, facts = saved
        wanted = {f.name: getattr(template, f.name) for f in fields(template)}
        shapes = {n: tuple(v.shape) for n, v in wanted.items() if isinstance(v, Tensor)}
        found = {n: tuple(v.shape) for n, v in tensors.items()}
        if shapes != found or wanted.keys() != found.keys() | facts["plain"].keys():
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} has a state of shapes {found}, accepted: {shapes}"
            )
        moved = {name: value.to(wanted[name].device) for name, value in tensors.items()}
        return replace(template, **moved, **facts["plain"]), facts

    def save_samples(self, batch: int, u: Tensor, evaluations: int) -> None:
        """Write a finished batch of samples, and delete its state."""
        self._write_tensors(f"samples-{batch}", {"u": u}, {"evaluations": evaluations})
        if self.part.rank == 0:
            (self.path / "state.safetensors").unlink(missing_ok=True)

    def load_samples(self, batch: int, device: torch.device) -> tuple[Tensor, int] | None:
        """Return a finished batch and its evaluations, or ``None`` if there is none.

        Raises:
            FileError: the file is truncated or of another kind.
        """
        saved = self._read_tensors(f"samples-{batch}")
        return None if saved is None else (saved[0]["u"].to(device), saved[1]["evaluations"])

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
        metadata = {"facts": json.dumps({**facts, "complex": kinds})}
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
                facts: Facts = json.loads(opened.metadata()["facts"])
                tensors = {
                    key: self._own(opened.get_tensor(key), key in facts["complex"])
                    for key in opened.keys()
                }
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
            raise FileError(
                f"checkpoint: {str(file)!r} is truncated or not a saved state ({error}); delete "
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
        temporary = self.path / f"{name}.part"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush(temporary)
            temporary.replace(self.path / name)
            _flush(self.path)
        except (OSError, SafetensorError) as error:
            raise FileError(f"checkpoint: cannot write {str(temporary)!r}: {error}") from error


def _flush(path: Path) -> None:
    """Return once a file, or the list of names in a folder, is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


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
