"""Pages as one HTML file, which loads nothing and is readable without JavaScript."""

from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from hashlib import sha256
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from wellposed.report import chart
from wellposed.report.parts import Part, is_number
from wellposed.writing import make_folder, write_text

HERE = Path(__file__).parent


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page.

    Attributes:
        title: its heading.
        parts: what it shows, from the top.
        note: a line below the heading.
    """

    title: str
    parts: Sequence[Part]
    note: str = ""


def as_html(page: Page) -> str:
    """Return a page as HTML; the same page gives the same text.

    All texts of the page are escaped, and browsers are told to run no other script than that of
    the template and to load nothing.
    """
    script = (HERE / "report.js").read_text(encoding="utf-8")
    mark = b64encode(sha256(script.encode()).digest()).decode()
    return _template().render(page=page, script_mark=f"sha256-{mark}", chart=chart)


def write_page(path: Path, page: Page) -> Path:
    """Write a page as an HTML file and return its path; missing folders are created.

    Raises:
        FileError: the file cannot be written.
    """
    make_folder(path.parent, "--out")
    write_text(path, as_html(page), "--out")
    return path


@cache
def _template() -> Template:
    world = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,  # the hash of the script counts every character
    )
    world.tests["number"] = is_number
    return world.get_template("report.html.j2")
