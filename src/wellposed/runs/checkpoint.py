"""A folder from which a run that was killed goes on, to the same result bit for bit."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from wellposed.checks import require_integer
from wellposed.errors import CheckpointError, FileError, ProcessLostError
from wellposed.integrity import all_finite, bytes_of, checksum, locked, read_json
from wellposed.parallel.part import Part
from wellposed.writing import replacing

State = TypeVar("State", bound=Any)


@dataclass(frozen=True)
class RunFolder:
    """Where a run keeps its state every few steps, and each batch of samples once it is done.

    ``run.json`` tells which run it is of; ``state.safetensors`` holds the sampler's state;
    ``samples-<n>.safetensors`` the finished batches. Whatever moment a run is killed at leaves
    the last or the new state, and never half of one; files that changed since are refused. When
    the run is done the samples stay: the result is
    otherwise in memory only, until it is saved, and the same call gives it again at once. Delete
    the folder when it is of no more use. One run at a time may use it, see `held`. If processes
    share its volume, process 0 writes the whole and all must see the folder.

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
        """Return what is told about the run that the folder is of; empty if there is none.

        Raises:
            CheckpointError: the file is truncated or of another kind.
            FileError: it cannot be read, or the path is no folder.
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

    def claim(self, run: Mapping[str, Any], **remembered: Any) -> None:
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

    def save_state(self, state: Any, facts: Mapping[str, Any]) -> None:
        """Write a state, a dataclass of tensors and plain numbers, with facts about the run."""
        values = {field.name: getattr(state, field.name) for field in fields(state)}
        tensors = {name: v for name, v in values.items() if isinstance(v, Tensor)}
        plain = {name: v for name, v in values.items() if name not in tensors}
        self._write_tensors("state", tensors, {**facts, "plain": plain})

    def load_state(self, template: State, batch: int) -> tuple[State, dict[str, Any]] | None:
        """Return the saved state of a batch and its facts, or None where there is none.

        Args:
            template: a state of the kind, shapes and device that is expected.
            batch: number of the batch; the fact ``batch`` must be it.

        Raises:
            CheckpointError: the saved state was damaged, or has other fields, shapes or dtypes.
        """
        saved = self._read_tensors("state")
        if saved is None or saved[1]["batch"] != batch:
            return None
        tensors, facts = saved
        wanted = {f.name: getattr(template, f.name) for f in fields(template)}
        kinds = {n: _kind(v) for n, v in wanted.items()}
        found = {n: _kind(v) for n, v in (tensors | facts["plain"]).items()}
        if kinds != found:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} holds a state of {found}, accepted: {kinds}"
            )
        moved = {name: value.to(wanted[name].device) for name, value in tensors.items()}
        return replace(template, **moved, **facts["plain"]), facts

    def save_samples(self, batch: int, u: Tensor, evaluations: int) -> None:
        """Write a finished batch of samples; its state is of no more use."""
        self._write_tensors(f"samples-{batch}", {"u": u}, {"evaluations": evaluations})
        if self.part.rank == 0:
            (self.path / "state.safetensors").unlink(missing_ok=True)

    def load_samples(self, batch: int, like: Tensor) -> tuple[Tensor, int] | None:
        """Return a finished batch and its evaluations, or None where there is none.

        Args:
            batch: its number.
            like: of the shape, dtype and device that is expected.

        Raises:
            CheckpointError: the file was damaged, or has another shape or dtype.
        """
        saved = self._read_tensors(f"samples-{batch}")
        if saved is None:
            return None
        found = {name: _kind(value) for name, value in saved[0].items()}
        if found != {"u": _kind(like)}:
            raise CheckpointError(
                f"checkpoint: {str(self.path)!r} holds samples of {found}, accepted: {_kind(like)}"
            )
        return saved[0]["u"].to(like.device), saved[1]["evaluations"]

    def _write_tensors(
        self, name: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]
    ) -> None:
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
        told = json.dumps({**facts, "complex": kinds})
        metadata = {"facts": told, "sha256": checksum({"facts": told, **own})}
        with self._replacing(f"{name}.safetensors") as temporary:
            save_file(own, temporary, metadata)

    def _read_tensors(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        """Return this process's part of a file, and its facts; None if there is none."""
        saved = self._read_file(name)
        found = -1 if saved is None else saved[1].get("evaluations", 0)
        if int(self.part.sum(torch.tensor([found]))) != self.part.processes * found:
            raise CheckpointError(
                f"checkpoint: the processes find different things in {str(self.path)!r}, "
                "accepted: a folder that all see"
            )
        return saved

    def _read_file(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
        file = self.path / f"{name}.safetensors"
        try:
            with safe_open(file, framework="pt") as opened:
                told = opened.metadata()
                stored = {key: opened.get_tensor(key) for key in opened.keys()}
            facts = json.loads(told["facts"])
            if told["sha256"] != checksum({"facts": told["facts"], **stored}):
                raise ValueError("its checksum is wrong")
            if not all_finite(stored):
                raise ValueError("it holds NaN or infinite values")
            _check_counts(facts)
            tensors = {k: self._own(v, k in facts["complex"]) for k, v in stored.items()}
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
            raise CheckpointError(
                f"checkpoint: {str(file)!r} is damaged or no saved state ({error}); delete it "
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
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replacing(self.path / name, "checkpoint") as temporary:
                yield temporary
        except (OSError, SafetensorError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"checkpoint: cannot write {str(self.path)!r}: {error}") from error


def _kind(value: Any) -> str:
    """Return shape and dtype of a tensor, the type of another value."""
    if isinstance(value, Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    return type(value).__name__


def _check_counts(facts: Mapping[str, Any]) -> None:
    """Raise unless steps, draws and evaluations that were counted can be."""
    for name in ("step", "position", "evaluations"):
        if name in facts:
            require_integer(name, facts[name], least=0)


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


def digest(y: Tensor, part: Part) -> dict[str, Any]:
    """Return shape, dtype and a hash of a measurement that processes may share along axis 2."""
    slices = y.unbind(2) if y.ndim > 2 else (y,)
    hashes = [hashlib.sha256(b"%d " % k) for k in range(part.start, part.start + len(slices))]
    for one, values in zip(hashes, slices, strict=True):
        one.update(bytes_of(values))
    # Sums of 40 bits are exact in a float64.
    own = sum(int.from_bytes(one.digest()[:5], "big") for one in hashes)
    depth, total = part.sum(torch.tensor([len(slices), own], device=y.device)).tolist()
    shape = [*y.shape[:2], *([depth] if y.ndim > 2 else []), *y.shape[3:]]
    return {"y.shape": shape, "y.dtype": str(y.dtype), "y": f"{total:x}"}
