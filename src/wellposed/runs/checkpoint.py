"""A folder from which a run that was killed goes on, to the same result bit for bit."""

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
    """Where a run keeps its state every few steps, and each batch of samples once it is done.

    ``run.json`` tells which run it is of; ``state.safetensors`` holds the sampler's state;
    ``samples-<n>.safetensors`` the finished batches. Each file is written under another name, on
    disk before it takes its own, so that whatever moment a run is killed at leaves the last or
    the new state, and never half of one. When the run is done the samples stay: the result is
    otherwise in memory only, until it is saved, and the same call gives it again at once. Delete
    the folder when it is of no more use. One run at a time may use it. If processes share its
    volume, process 0 writes the whole and all must see the folder.

    Args:
        path: the folder, made if missing.
        every: steps from one saved state to the next.
        part: the slices of the volume that this process holds.

    Raises:
        ArgumentError: ``every`` is no positive integer.
    """

    path: Path
    every: int = 10
    part: Part = field(default_factory=Part)

    def __post_init__(self) -> None:
        require_integer("checkpoint_every", self.every)

    def read(self) -> dict[str, Any]:
        """Return what is told about the run that the folder is of; empty if there is none.

        Raises:
            FileError: the file is truncated or of another kind, or the path is no folder.
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
        """Make the folder that of a run, or check that it is.

        Args:
            run: what identifies it.
            remembered: told by `read`, but no part of the identity.

        Raises:
            CheckpointError: it is another run's; names what differs.
            FileError: it cannot be read or written.
        """
        run, saved = json.loads(json.dumps(dict(run))), self.read()
        if not saved:
            self._write("run.json", json.dumps({**run, **remembered}, indent=1).encode())
            return
        differing = [
            f"{name} is {saved.get(name)!r} there and {run[name]!r} here"
            for name in run
            if saved.get(name) != run[name]
        ]
        if differing:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} is of another run: {'; '.join(differing)}; name "
                "another folder, or delete it"
            )

    def save_state(self, state: "DataclassInstance", facts: Facts) -> None:
        """Write a state, a dataclass of tensors and plain numbers, with facts about the run."""
        values = {field.name: getattr(state, field.name) for field in fields(state)}
        tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
        plain = {name: v for name, v in values.items() if name not in tensors}
        self._write_tensors("state", tensors, {**facts, "plain": plain})

    def load_state(self, template: State, batch: int) -> tuple[State, Facts] | None:
        """Return the saved state of a batch and its facts, or None where there is none.

        Args:
            template: a state of the kind, shapes and device that is expected.
            batch: number of the batch; the fact ``batch`` must be it.

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
                f"checkpoint: {str(self.path)!r} holds a state of {found}, accepted: {shapes}"
            )
        moved = {name: value.to(wanted[name].device) for name, value in tensors.items()}
        return replace(template, **moved, **facts["plain"]), facts

    def save_samples(self, batch: int, u: Tensor, evaluations: int) -> None:
        """Write a finished batch of samples; its state is of no more use."""
        self._write_tensors(f"samples-{batch}", {"u": u}, {"evaluations": evaluations})
        if self.part.rank == 0:
            (self.path / "state.safetensors").unlink(missing_ok=True)

    def load_samples(self, batch: int, device: torch.device) -> tuple[Tensor, int] | None:
        """Return a finished batch and its evaluations, or None where there is none.

        Raises:
            FileError: the file is truncated or of another kind.
        """
        saved = self._read_tensors(f"samples-{batch}")
        return None if saved is None else (saved[0]["u"].to(device), saved[1]["evaluations"])

    def _write_tensors(self, name: str, tensors: Mapping[str, Tensor], facts: Facts) -> None:
        tensors = {key: self.part.gather(value) for key, value in tensors.items()}
        if self.part.rank > 0:
            return
        # The format knows no complex128 and no two tensors of one storage.
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
        """Return this process's part of a file, and its facts; None if there is none."""
        saved = self._read_file(name)
        found = -1 if saved is None else saved[1].get("evaluations", 0)
        if int(self.part.sum(torch.tensor([found]))) != self.part.processes * found:
            raise CheckpointError(
                f"checkpoint: the processes find different things in {str(self.path)!r}, "
                "accepted: a folder that all see"
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
                f"checkpoint: {str(file)!r} is truncated or no saved state ({error}); delete it "
                "to go on from the last finished samples"
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
        """Yield a path to write to; what is there then takes the place of ``name`` at once."""
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
    """Return once a file, or the names in a folder, are on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def naming(step: str, folder: RunFolder | None) -> Iterator[None]:
    """Tell at which step a process was lost, and what is left of the run."""
    try:
        yield
    except ProcessLostError as error:
        left = (
            "without a checkpoint the run begins again"
            if folder is None
            else f"the checkpoint {str(folder.path)!r} is intact: any number of processes can go "
            "on from it, by the same call"
        )
        raise ProcessLostError(f"{step}: {error}; {left}") from error
