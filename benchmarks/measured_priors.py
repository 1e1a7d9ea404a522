"""Priors learnt from measurements alone against the prior of the clean images.

    python benchmarks/measured_priors.py --data FOLDER --out bench/measured [--settings mri-4x ct]

Slices of `mri/brain_mri_256.h5` and `ct/train_slices_256.h5`, reduced to 64 x 64 pixels, are
measured: k-space under a mask of random lines for each slice, or sinograms whose first angle
differs from slice to slice. The same small network is trained on

- the clean slices,
- the posterior samples of rounds of expectation maximisation (`learn_from_measurements`), from a
  Gaussian and from the prior of total variation,
- plain images (zero-filled, FBP) and total variation, as if they were clean,
- k-space by ambient diffusion, and by GSURE projected on what was measured (MRI only),

with as many steps each. Slices of patients without any part in this are denoised, at two noise
levels of values in [-1, 1], and reconstructed by `HQS` from measurements of the same kind. A
killed run goes on with the same command.
"""

import argparse
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import h5py
import numpy as np
import torch
import torch.nn.functional as F
from projected_losses import AMBIENT, PROJECTED_GSURE, train_projected
from torch import Tensor

from wellposed.datasets.images.crops import random_phase
from wellposed.figures import format_table
from wellposed.learning import Measurement, RoundSettings, learn_from_measurements
from wellposed.metrics import psnr
from wellposed.noise import ItemNoise
from wellposed.operators import ParallelBeamCT, SingleCoilMRI, uniform_random_lines
from wellposed.operators.base import LinearOperator
from wellposed.operators.plain import plain_image
from wellposed.priors import Prior, load
from wellposed.priors.training import TrainingSettings, train
from wellposed.solvers import HQS, MMPS, TotalVariation
from wellposed.writing import write_text

SIDE, SLICES, HELD = 64, 160, 24
ROUNDS, MORE, STEPS = 4, 2, 500
LEVELS = (0.1, 0.3)
HOUNSFIELD = (-1000.0, 1000.0)


@dataclass(frozen=True)
class Setting:
    """Slices and how each is measured.

    Attributes:
        title: for the table.
        file: HDF5 in the data folder.
        values, group: data sets of the slices and of their patients.
        operator: the measurement of the slice of a number.
    """

    title: str
    file: str
    values: str
    group: str
    operator: Callable[[int], LinearOperator]

    @property
    def is_complex(self) -> bool:
        """Whether the images have a phase."""
        return self.values == "magnitude"


def lines(acceleration: float, number: int) -> SingleCoilMRI:
    """Return k-space under the mask of a slice."""
    mask = uniform_random_lines(SIDE, acceleration, seed=number).expand(SIDE, -1)
    return SingleCoilMRI(mask[None], noise_sigma=0.01)


def views(count: int, number: int) -> ParallelBeamCT:
    """Return the sinogram of a slice, turned by an angle of its own."""
    first = np.random.default_rng((7, number)).uniform(0, 180 / count)
    return ParallelBeamCT(SIDE, torch.arange(count) * (180 / count) + first, noise_sigma=0.3)


MRI = ("mri/brain_mri_256.h5", "magnitude", "subject")
CT = ("ct/train_slices_256.h5", "hu", "patient")
SETTINGS = {
    "mri-2x": Setting("k-space, 2 x", *MRI, partial(lines, 2.0)),
    "mri-4x": Setting("k-space, 4 x", *MRI, partial(lines, 4.0)),
    "mri-6x": Setting("k-space, 6 x", *MRI, partial(lines, 6.0)),
    "ct": Setting("sinograms, 15 views (60 at 256 pixels)", *CT, partial(views, 15)),
}


def main() -> None:
    """Train what is missing, measure it and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/measured"))
    parser.add_argument("--settings", nargs="*", default=list(SETTINGS), choices=SETTINGS)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    results = args.out / "results.json"
    found = json.loads(results.read_text()) if results.exists() else {}
    for name in args.settings:
        setting = SETTINGS[name]
        images, held = slices(args.data / setting.file, setting)
        for method, prior in learnt(setting, images, args.out / name):
            if method not in found.setdefault(name, {}):
                found[name][method] = figures(prior(), held, setting)
                write_text(results, json.dumps(found, indent=1) + "\n")
                print(name, method, found[name][method], flush=True)
    print(table(found))


def slices(path: Path, setting: Setting) -> tuple[Tensor, Tensor]:
    """Return slices for training and of other patients, (N, 1, SIDE, SIDE) in [0, 1]."""
    with h5py.File(path) as file:
        patients = np.asarray(file[setting.group][:])
        values = torch.from_numpy(np.asarray(file[setting.values][:], np.float32))[:, None]
    if setting.is_complex:
        top = values.flatten(1).quantile(0.998, dim=1).clamp(min=1e-6)
        scaled = (values / top[:, None, None, None]).clamp(0, 1.5)
    else:
        low, high = HOUNSFIELD
        scaled = ((values - low) / (high - low)).clamp(0, 1)
    small = F.interpolate(scaled, (SIDE, SIDE), mode="area")
    names = np.unique(patients)
    others = torch.from_numpy(np.isin(patients, names[-len(names) // 6 :]))
    full = small.flatten(1).mean(1) > 0.05
    train_, held = small[full & ~others], small[full & others]
    return evenly(train_, SLICES), evenly(held, HELD)


def evenly(x: Tensor, count: int) -> Tensor:
    """Return ``count`` items at equal distances."""
    return x[torch.linspace(0, len(x) - 1, count).long()]


def learnt(
    setting: Setting, images: Tensor, out: Path
) -> Iterator[tuple[str, Callable[[], Prior]]]:
    """Yield each method and a function that trains its prior, or loads it."""
    measurements = [measured(setting, x, number) for number, x in enumerate(images)]
    fitted = partial(trained, setting)
    yield "clean", lambda: fitted(images, out / "clean")
    for number in range(1, ROUNDS + 1):
        yield f"EM, round {number}", partial(rounds, setting, measurements, number, out / "em")
    plain = [plain_image(m.y, m.operator)[1] for m in measurements]
    yield "plain images", lambda: fitted(torch.cat(plain), out / "plain")
    yield "total variation", lambda: fitted(variation(measurements), out / "variation")
    for number in range(1, MORE + 1):
        name = f"EM from total variation, round {number}"
        start = out / "variation" / "prior"
        yield name, partial(rounds, setting, measurements, number, out / "em-variation", start)
    if setting.is_complex:
        for loss in (PROJECTED_GSURE, AMBIENT):
            place = out / f"{loss.name}.pt"
            yield loss.name, partial(train_projected, loss, measurements, ROUNDS * STEPS, place)


def measured(setting: Setting, x: Tensor, number: int) -> Measurement:
    """Return the measurement of a slice (1, SIDE, SIDE)."""
    image = random_phase(x[None], seed=number) if setting.is_complex else x[None]
    operator = setting.operator(number)
    return Measurement(f"{number:04d}", operator.measure(image, seed=number), operator)


def variation(measurements: Sequence[Measurement]) -> Tensor:
    """Return the reconstructions by total variation, (N, 1, SIDE, SIDE)."""
    solver = TotalVariation()
    return torch.cat([solver(m.y, m.operator, None).mean for m in measurements])


def settings_of(setting: Setting, data: Path, out: Path, steps: int) -> TrainingSettings:
    """Return the settings of every training."""
    low = -1.0 if setting.is_complex else 0.0
    return TrainingSettings(
        data=(str(data),),
        out=str(out),
        complex_phase=setting.is_complex,
        data_range=(low, 1.0),
        widths=(32, 64),
        block="gated",
        batch_size=8,
        learning_rate=1e-3,
        steps=steps,
        ema=0.99,
        image_every=10**6,
    )


def trained(setting: Setting, images: Tensor, out: Path) -> Prior:
    """Return the prior of images, trained now or before."""
    folder = out / "images"
    folder.mkdir(parents=True, exist_ok=True)
    for number, x in enumerate(images):
        values = x[0].abs() if x.is_complex() else x[0]
        np.save(folder / f"{number:04d}.npy", values.numpy())
    train(settings_of(setting, folder, out / "prior", ROUNDS * STEPS), "cpu")
    return load(out / "prior")


def rounds(
    setting: Setting,
    measurements: Sequence[Measurement],
    number: int,
    out: Path,
    start: Path | None = None,
) -> Prior:
    """Return the prior after some rounds of expectation maximisation, from a prior if there is."""
    init = None if start is None else str(start)
    training = replace(settings_of(setting, out, out, STEPS), init_from=init)
    solver = MMPS(steps=20, spacing="karras", isotropic_above=0.3, preconditioned=True)
    chosen = RoundSettings(rounds=number, start_rounds=3, solver=solver)
    return load(learn_from_measurements(measurements, training, chosen))


@torch.no_grad()
def figures(prior: Prior, held: Tensor, setting: Setting) -> dict[str, float]:
    """Return the PSNR of denoised and of reconstructed slices that no training has met."""
    numbers = range(10**6, 10**6 + len(held))
    clean = random_phase(held, seed=1) if setting.is_complex else held
    found = {}
    for level in LEVELS:
        t = prior.schedule.time_at(level)
        alpha, sigma = prior.schedule(t)
        units = prior.to_units(clean)
        eps = ItemNoise(0, [(number,) for number in numbers]).draw(units)
        x0 = prior.denoise(alpha * units + sigma * eps, t)
        found[f"denoised, {level}"] = quality(prior.to_public(x0), clean)
    values = []
    for number, x in zip(numbers, clean, strict=True):
        operator = setting.operator(number)
        y = operator.measure(x[None], seed=number)
        values.append(quality(HQS()(y, operator, prior).mean, x[None]))
    found["reconstructed"] = float(np.mean(values))
    return {key: round(value, 3) for key, value in found.items()}


def quality(x: Tensor, truth: Tensor) -> float:
    """Return the mean PSNR of magnitudes."""
    return float(psnr(x.abs(), truth.abs()).mean())


def table(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return the tables in Markdown."""
    parts = []
    for name, methods in found.items():
        keys = list(next(iter(methods.values())))
        rows = [
            [method, *(f"{values[key]:.2f}" for key in keys)] for method, values in methods.items()
        ]
        parts.append(f"{SETTINGS[name].title}\n\n{format_table(['trained on', *keys], rows)}")
    return "\n\n".join(parts)


if __name__ == "__main__":
    main()
