"""``wellposed train-measured``: a prior from measurements alone."""

from collections.abc import Sequence
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import overload

import typer
from rich import progress
from rich.console import Console

from wellposed.cli.names import distinct_names, find_class, make, parse_assignments, use_device
from wellposed.cli.tasks import build_task, check_options_of
from wellposed.cli.train_settings import TrainMeasured
from wellposed.datasets.reading import inputs_of
from wellposed.learning import Measurement, RoundSettings, learn_from_measurements
from wellposed.priors.training.settings import RunSettings, TrainingSettings
from wellposed.solvers import Solver
from wellposed.solvers.catalogue import named_solvers


def train_measured(o: TrainMeasured) -> None:
    """Learn a prior with a progress bar and print its folder."""
    check_options_of(o.operator, o)
    device, settings = use_device(o.device), _rounds(o)
    files = Files(o)
    training = _training(o, files[0].image.is_complex())
    with progress.Progress(console=Console(stderr=True)) as bar:
        report = partial(_told, bar, bar.add_task("reading"))
        folder = learn_from_measurements(files, training, settings, device, report)
    typer.echo(f"wrote the prior to {folder}; use it with --prior {folder}")


class Files(Sequence[Measurement]):
    """The measurements of the files, each read when it is asked for."""

    def __init__(self, o: TrainMeasured) -> None:
        self.options, self.files = o, inputs_of(o.inputs)
        self.names = distinct_names(self.files)

    def __len__(self) -> int:
        return len(self.files)

    @overload
    def __getitem__(self, number: int) -> Measurement: ...
    @overload
    def __getitem__(self, number: slice) -> list[Measurement]: ...
    def __getitem__(self, number: int | slice) -> Measurement | list[Measurement]:
        if isinstance(number, slice):
            return [self[k] for k in range(*number.indices(len(self)))]
        if not 0 <= number < len(self):
            raise IndexError(number)
        # Simulated masks and noise differ from file to file.
        o = replace(self.options, seed=self.options.seed + number)
        task = build_task(self.files[number], o.operator, o).on(o.device)
        found = Measurement(self.names[number], task.y, task.operator)
        return found.normalised() if task.in_scanner_units else found


def _rounds(o: TrainMeasured) -> RoundSettings:
    cls = find_class("--solver", o.solver, named_solvers(), Solver)
    solver = make("--solver", cls, parse_assignments("--solver-set", o.solver_set), "--solver-set")
    return RoundSettings(rounds=o.rounds, start_rounds=o.start_rounds, solver=solver, seed=o.seed)


def _training(o: TrainMeasured, is_complex: bool) -> TrainingSettings:
    """Return the settings of every training; magnitudes of complex images get random phases."""
    own = {f.name: getattr(o, f.name) for f in fields(RunSettings)}
    for name in ("image_size", "sigma_data", "held_out", "name", "licence"):
        own[name] = getattr(o, name)
    if is_complex:
        own |= {"complex_phase": True, "data_range": (-1.0, 1.0)}
    return TrainingSettings(data=(str(Path(o.out)),), out=str(o.out), **own)


def _told(bar: progress.Progress, task: progress.TaskID, what: str, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total, description=what)
