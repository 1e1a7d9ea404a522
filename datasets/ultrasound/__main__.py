"""Write training frames: ``python -m wellposed.datasets.ultrasound tissue tissue.h5``.

Train on them with ``wellposed train --data tissue.h5 --data-range -1 1 --companding 255 --polarity
--gain 0.7 1.4 --image-size 64 --aspect 2 --flips sideways --out tissue-rf``; likewise for haze.
``hazy hazy.h5 --frames 8 --beat --split test`` writes an input for ``wellposed dehaze``.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from wellposed.datasets.ultrasound.recordings import write_hazy_frames
from wellposed.datasets.ultrasound.simulation.training_frames import write_training_frames
from wellposed.errors import WellposedError


def write(
    kind: Annotated[str, typer.Argument(help="tissue or haze for training; hazy for dehazing.")],
    out: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    frames: Annotated[int, typer.Option(help="Number of frames; 0.26 MB each.")] = 500,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
    level: Annotated[
        float | None, typer.Option(help="Haze level in dB, for hazy.", show_default="-34")
    ] = None,
    beat: Annotated[bool, typer.Option(help="Frames of one heartbeat, for hazy.")] = False,
) -> None:
    """Write simulated RF frames (1024 depths x 128 beams), for training or dehazing."""
    try:
        if kind == "hazy":
            hearts, length = (1, frames) if beat else (frames, None)
            write_hazy_frames(out, hearts, -34.0 if level is None else level, split, length)
            return
        if level is not None or beat:
            raise typer.BadParameter(f"--level and --beat are for hazy frames, not for {kind}")
        with Progress() as bar:
            task = bar.add_task(kind, total=frames)
            write_training_frames(
                out, kind, frames, split, progress=lambda done: bar.update(task, completed=done)
            )
    except WellposedError as error:
        raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(write)
