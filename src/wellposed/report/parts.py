"""The parts of a page. They hold plain texts, which the template escapes."""

import re
from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, NamedTuple, Protocol

from wellposed.errors import FileError

NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?[!*%]?|-")
"""Cells that are set as numbers, of which "-" is a missing one."""


class Part(Protocol):
    """A part of a page.

    Attributes:
        kind: the macro of the template that shows it.
        title: its heading.
    """

    kind: ClassVar[str]

    @property
    def title(self) -> str: ...


class Link(NamedTuple):
    """A text that leads to a part of the page."""

    text: str
    anchor: str


def is_number(cell: str | Link) -> bool:
    """Return whether a cell is set as a number."""
    return isinstance(cell, str) and NUMBER.fullmatch(cell) is not None


@dataclass(frozen=True, kw_only=True)
class Facts:
    """Names and what they are."""

    kind: ClassVar[str] = "facts"
    title: str
    facts: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table that readers sort by its columns.

    Attributes:
        header: names of the columns.
        rows: cells, as many as columns.
        note: a line below the title.
        folded: whether it is shown only when it is opened.
    """

    kind: ClassVar[str] = "table"
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str | Link]]
    note: str = ""
    folded: bool = False


@dataclass(frozen=True, kw_only=True)
class Group:
    """Parts under one heading, side by side where there is space if they are narrow."""

    kind: ClassVar[str] = "group"
    title: str
    parts: Sequence[Part] = field(default=())
    note: str = ""
    narrow: bool = True


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A drawing.

    Attributes:
        uri: the picture itself, see `png_uri`.
        text: what it shows, for readers who do not see it.
    """

    kind: ClassVar[str] = "figure"
    title: str
    uri: str
    text: str

    @classmethod
    def of_file(cls, title: str, path: Path, text: str) -> "Figure":
        """Return the drawing of a PNG file.

        Raises:
            FileError: it cannot be read.
        """
        try:
            return cls(title=title, uri=png_uri(path.read_bytes()), text=text)
        except OSError as error:
            raise FileError(f"path: cannot read {str(path)!r}: {error}") from error


def png_uri(content: bytes) -> str:
    """Return the address of a PNG that holds the picture itself."""
    return f"data:image/png;base64,{b64encode(content).decode()}"
