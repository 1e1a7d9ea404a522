"""Task cards: everything that a comparison of solvers must hold fixed, in a TOML file."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

from wellposed.errors import ArgumentError, FileError, require, require_choice

CARDS = Path(__file__).parent / "cards"
"""Cards of the package."""

OF_IMAGES, RANDOM = ("images", "cubes", "echoes"), ("mixture", "levy")
"""Kinds of cards: those of images, and random problems whose posterior is known."""

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Data:
    """The images of a card.

    Attributes:
        source, licence, split: where the files are from, their terms, and their part in tests.
        units: what the values of an image mean.
        window: values of the files that become 0 and 1.
        crop: side of the central crop in pixels; 0 takes whole images.
        files: names of the package's images.
        simulated: what simulates images in place of files: the arguments of
            `phantoms.spectral_mixtures` for cubes; hearts ("items"), their "split" and haze
            "levels" in dB for echoes.
    """

    source: str
    licence: str
    split: str
    units: str
    window: tuple[float, float] = (0.0, 1.0)
    crop: int = 0
    files: tuple[str, ...] = ()
    simulated: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class PriorFacts:
    """The prior of a card.

    Attributes:
        name: of a shipped prior, or "spatio-spectral", which is fitted to each image.
        saw_test_data: whether it was trained on images of the card.
        others: shipped priors of the further components of a sum.
        settings: of "spatio-spectral".
    """

    name: str
    saw_test_data: bool
    others: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Frozen:
    """What the problems of a card were when it was made.

    Attributes:
        prior: fingerprint of the weights.
        files: sha256 of each image of the package, by name.
        measurements: "sha256" and "sketch" of each measurement, see `problems.sketch`.
    """

    prior: str
    files: Mapping[str, str]
    measurements: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A row that a run of the card must reproduce.

    Attributes:
        solver: as on the command line.
        scores: mean of each score over the images.
        tolerance: largest difference of each.
    """

    solver: str
    scores: Mapping[str, float]
    tolerance: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Card:
    """A frozen task.

    Attributes:
        id, version: its name; any change of what is computed needs another version.
        title, protocol: what it is, in a line, and the published protocol that it follows.
        kind: "images", "cubes" of many bands or "echoes" of ultrasound, see `truths`; "mixture" or
            "levy", which are random problems with a known posterior, see `problems`.
        evaluations: network evaluations that a sample may take; rows beyond are marked.
        num_samples: posterior samples of each image.
        seed: of all solvers.
        data: the images; ``None`` for random problems.
        operator: "make" names a class of `wellposed.operators`; other keys are its arguments,
            which may be made by functions of that package in the same way. The texts "channels",
            "height" and "width" stand for the shape of the image.
        noise_seed: of the noise in the measurements.
        prior: the prior; ``None`` if the random problem has its own.
        cells: of random problems.
        problems: number of random problems of each cell.
        tuning: range of each hyper-parameter, by solver, for `wellposed tune`.
        reference: rows that a run must reproduce.
        frozen: what the problems must be; ``None`` in a card that is being written.

    Example:
        >>> from wellposed.benchmark import read_card
        >>> card = read_card("mri-4x")
        >>> card.kind, card.operator["make"], card.evaluations
        ('images', 'MultiCoilMRI', 50)
    """

    id: str
    version: int
    title: str
    protocol: str
    kind: str = "images"
    evaluations: int
    num_samples: int
    seed: int = 0
    data: Data | None = None
    operator: Mapping[str, Any] = field(default_factory=dict)
    noise_seed: int = 0
    prior: PriorFacts | None = None
    cells: tuple[Any, ...] = ()
    problems: int = 0
    tuning: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    reference: tuple[Reference, ...] = ()
    frozen: Frozen | None = None

    @property
    def name(self) -> str:
        """The id with the version."""
        return f"{self.id}, version {self.version}"


def card_names() -> list[str]:
    """Return the names of the package's cards.

    Example:
        >>> from wellposed.benchmark import card_names
        >>> "mri-4x" in card_names()
        True
    """
    return sorted(path.stem for path in CARDS.glob("*.toml"))


def read_card(name: str | Path) -> Card:
    """Return a card of the package by its id, or of a TOML file.

    Raises:
        UnknownNameError: no such card; the nearest is suggested.
        FileError: the file is missing or no TOML.
        ArgumentError: a key is missing, unknown, or has a wrong type.

    Example:
        >>> from wellposed.benchmark import read_card
        >>> read_card("mixture").title
        'Mixture of 25 Gaussians from a few projections'
    """
    text = str(name)
    path = Path(text)
    if not text.endswith(".toml"):
        path = CARDS / f"{require_choice('card', text, card_names())}.toml"
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileError(f"card: no such file {text!r}") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise FileError(f"card: cannot read {text!r}: {error}") from error
    card = _filled(Card, content, path.name)
    require_choice(f"{path.name}: kind", card.kind, (*OF_IMAGES, *RANDOM))
    complete = card.data is not None and card.prior is not None and card.operator
    usable = card.kind in RANDOM or bool(complete)
    require(usable, path.name, "images without data, operator or prior", "all three")
    return card


def _filled(cls: type[T], content: Mapping[str, Any], place: str) -> T:
    """Return a dataclass with the values of a table; nested ones too."""
    kinds = get_type_hints(cls)
    known = {f.name: f for f in fields(cls)}  # type: ignore[arg-type]
    for key in content:
        require_choice(f"{place}: key", key, known)
    values = {key: _value(kinds[key], value, f"{place}: {key}") for key, value in content.items()}
    try:
        return cls(**values)
    except TypeError as error:
        what = str(error).partition("__init__() ")[2]
        raise ArgumentError(f"{place}: {what}, accepted: a card with them") from None


def _value(kind: Any, value: Any, place: str) -> Any:
    tables = {Data | None: Data, PriorFacts | None: PriorFacts, Frozen | None: Frozen}
    if kind in tables:
        require(isinstance(value, dict), place, value, "a table")
        return _filled(tables[kind], value, place)
    if kind == tuple[Reference, ...]:
        return tuple(_filled(Reference, each, place) for each in value)
    if isinstance(value, list):
        return tuple(value)
    plain = kind if isinstance(kind, type) else object
    require(isinstance(value, plain), place, value, getattr(plain, "__name__", "another type"))
    return value
