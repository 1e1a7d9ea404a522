"""Write frames to train on: ``python -m wellposed.datasets.ultrasound tissue tissue.h5``.

Then ``wellposed train --data tissue.h5 --data-range -1 1 --companding 255 --polarity --gain 0.7
1.4 --image-size 64 --aspect 2 --flips sideways --out tissue-rf``, and the same with haze.
"""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress

from wellposed.datasets.ultrasound.training_frames import write_training_frames
from wellposed.errors import WellposedError


def write(
    kind: Annotated[str, typer.Argument(help="tissue or haze.")],
    out: Annotated[Path, typer.Argument(help="HDF5 file to write.")],
    frames: Annotated[int, typer.Option(help="Their number; 0.26 MB each.")] = 500,
    split: Annotated[str, typer.Option(help="train, validation or test.")] = "train",
) -> None:
    """Write simulated RF frames (1024 depths x 128 beams) to train a prior on."""
    with Progress() as bar:
        task = bar.add_task(kind, total=frames)
        try:
            write_training_frames(
                out, kind, frames, split, progress=lambda done: bar.update(task, completed=done)
            )
        except WellposedError as error:
            raise typer.BadParameter(str(error)) from error


if __name__ == "__main__":
    typer.run(write)
