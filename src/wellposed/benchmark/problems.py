"""The problems of a card, refused if they are not those that it was frozen with.

A measurement is identified by the sha256 of its bytes. As another processor may round otherwise, a
sketch of it, its products with four fixed noise images, is kept too: it decides within a relative
`TOLERANCE`.
"""

import hashlib
from collections.abc import Iterator, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wellposed import operators
from wellposed.benchmark.card import Card, Frozen, PriorFacts
from wellposed.benchmark.instance import Instance
from wellposed.benchmark.truths import DATA, truths
from wellposed.errors import ArgumentError, FileError, require, require_choice
from wellposed.integrity import bytes_of, file_sha256
from wellposed.linalg import as_real
from wellposed.metrics import sliced_wasserstein
from wellposed.noise import MEASUREMENT, ItemNoise, item_generator
from wellposed.priors import Prior, Product, SpatioSpectral, load
from wellposed.priors.spatio_spectral.prior import NAME as SPATIO_SPECTRAL
from wellposed.reconstruction import Reconstruction
from wellposed.runs.fingerprint import fingerprint
from wellposed.validation.levy import levy_problem, levy_scores
from wellposed.validation.mixtures import MixtureProblem, mixture_problem

SIDES = ("channels", "height", "width")
"""Names that stand for the shape of an image in the arguments of an operator."""

SKETCH, TOLERANCE = 4, 1e-4


def instances(card: Card, folder: Path | None = None) -> list[Instance]:
    """Return the problems of a card.

    Args:
        card: the card.
        folder: other images for it, such as the published test set; by default the package's.

    Raises:
        FileError: images are missing or unreadable.
        ArgumentError: images, prior or measurements are not those of the card.

    Example:
        >>> from wellposed.benchmark import instances, read_card
        >>> problem = instances(read_card("mixture"))[0]
        >>> problem.name, problem.y.shape
        ('8, 2: 0', torch.Size([1, 2]))
    """
    if card.kind == "mixture":
        return list(_mixtures(card))
    if card.kind == "levy":
        return [_walks(card, name) for name in card.cells]
    assert card.prior is not None
    prior, kept = prior_of(card.prior), card.frozen if folder is None else None
    if card.frozen is not None:
        _require_weights(card, prior)
    if kept is not None:
        _require_files(kept)

    @cache
    def operator(*shape: int) -> Any:
        return built(card.operator, dict(zip(SIDES, shape, strict=True)))

    found = []
    for index, truth in enumerate(truths(card, prior, folder)):
        own = operator(*truth.image.shape[1:])
        y = own.measure(truth.image, seed=card.noise_seed + index)
        if kept is not None:
            _require_same(f"{card.name}: {truth.name}", kept.measurements[index], y)
        found.append(truth.problem(y, own, prior))
    return found


def prior_of(facts: PriorFacts) -> Prior:
    """Return the prior of a card: a shipped one, their product, or one fitted to each image."""
    if facts.name == SPATIO_SPECTRAL:
        return SpatioSpectral(**facts.settings)
    blocks = [load(name) for name in (facts.name, *facts.others)]
    return Product(blocks) if facts.others else blocks[0]


def _require_weights(card: Card, prior: Prior) -> None:
    assert card.frozen is not None and card.prior is not None
    found = fingerprint(prior)
    got, accepted = (
        f"{card.prior.name} with the weights {found}",
        f"{card.frozen.prior} of the card",
    )
    require(found == card.frozen.prior, f"{card.name}: prior", got, accepted)


def _require_files(kept: Frozen) -> None:
    for name, wanted in kept.files.items():
        path = DATA / name
        if not path.is_file():
            raise FileError(f"data: the package has no file {name!r}; install it again")
        found = file_sha256(path)
        require(found == wanted, f"data: sha256 of {name}", found, wanted)


def built(made: Any, sides: Mapping[str, int] | None = None) -> Any:
    """Return what a table with the key "make" describes; other values are themselves.

    Args:
        made: a table, a list of them, or another value.
        sides: numbers in place of names, see `SIDES`.
    """
    known = sides or {}
    if isinstance(made, list):
        return [built(value, known) for value in made]
    if isinstance(made, str):
        return known.get(made, made)
    if not (isinstance(made, dict) and "make" in made):
        return made
    name = require_choice("make", made["make"], dir(operators))
    arguments = {key: built(value, known) for key, value in made.items() if key != "make"}
    try:
        return getattr(operators, name)(**arguments)
    except TypeError as error:
        raise ArgumentError(f"make: {name}: {error}") from error


def sketch(y: Tensor) -> list[float]:
    """Return the products of a measurement with fixed noise, over the norm of the noise."""
    flat = as_real(y).reshape(1, -1).double()
    noise = ItemNoise(0, [(n,) for n in range(SKETCH)], MEASUREMENT)
    kernels = noise.draw(flat.expand(SKETCH, -1))
    return [float(v) for v in (kernels @ flat[0]) / flat.shape[1] ** 0.5]


def frozen(y: Tensor) -> dict[str, Any]:
    """Return what a card keeps of a measurement."""
    return {"sha256": hashlib.sha256(bytes_of(y)).hexdigest(), "sketch": sketch(y)}


def _require_same(place: str, kept: Mapping[str, Any], y: Tensor) -> None:
    if frozen(y)["sha256"] == kept["sha256"]:
        return
    found, wanted = torch.tensor(sketch(y)), torch.tensor(kept["sketch"])
    size = as_real(y).square().mean().sqrt()
    if bool(((found - wanted).abs() > TOLERANCE * size).any()):
        raise ArgumentError(
            f"{place}: got a measurement with the sketch {_rounded(found)}, accepted: "
            f"{_rounded(wanted)}; the operator has changed since the card was frozen"
        )


def _rounded(values: Tensor) -> list[float]:
    return [round(v, 4) for v in values.tolist()]


def _mixtures(card: Card) -> Iterator[Instance]:
    for d, measured in card.cells:
        for seed in range(card.problems):
            case = mixture_problem(d, measured, seed)
            score = partial(_distance, case, (d, measured), seed)
            name = f"{d}, {measured}: {seed}"
            yield Instance(name, case.y, case.operator, case.prior, score)


def _distance(
    case: MixtureProblem, cell: tuple[int, int], seed: int, found: Reconstruction
) -> dict[str, float]:
    """Return the sliced Wasserstein distance to exact samples, and that of exact samples."""
    samples = found.samples[:, 0].flatten(1)
    rng = item_generator(seed, (*cell, 1), MEASUREMENT)
    exact, second = (case.posterior_samples(len(samples), rng) for _ in range(2))
    own, floor = (float(sliced_wasserstein(x, exact, 1000, seed)) for x in (samples, second))
    return {"distance": own, "floor": floor}


def _walks(card: Card, name: str) -> Instance:
    y, operator, prior = levy_problem(name, card.problems)
    return Instance(name, y, operator, prior, partial(levy_scores, name, card.problems))
