"""What the site does to the pages of the repository and to the docstrings.

Links to files outside this folder lead to the repository. Classes show the fields of their bases.
A name in backticks in a docstring leads to its page where the name is unique.
"""

import builtins
import re
import sys
from dataclasses import fields, is_dataclass
from inspect import cleandoc, signature
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils.nodes import Element, reference
from sphinx.addnodes import pending_xref
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.nodes import make_refnode
from sphinx_gallery.scrapers import figure_rst

from wellposed.panel import Picture

if TYPE_CHECKING:
    from sphinx.application import Sphinx
    from sphinx.environment import BuildEnvironment

OUTSIDE = re.compile(r"(\]\()\.\./((?:\.\./)?)([^)\s]+)")
RANGE = re.compile(r"(?:~?\w+\.)?Annotated\[((?:(?!Annotated)[^<])+), <(.*?)>\]")
FUNCTION = re.compile(r"<function (\w+)(?: at 0x\w+)?>")
RANGED = re.compile(rf"(?:typing\.Optional\[)?{RANGE.pattern}(?: \| None|\])?")
GALLERY = Path(__file__).parent.parent / "examples" / "gallery"
LINKED = {"class", "function", "exception", "data", "attribute", "method", "property"}


def connect(app: "Sphinx", home: str) -> None:
    """Register the hooks of this module."""
    app.connect("source-read", lambda _, page, text: _lead_outside(home, page, text))
    app.connect("autodoc-process-signature", _shorten)
    app.connect("autodoc-process-docstring", _describe_constants, priority=80)
    app.connect("autodoc-process-docstring", _describe_forward, priority=80)
    app.connect("autodoc-process-docstring", _escape_stars, priority=90)
    app.connect("autodoc-process-docstring", _part_attributes, priority=95)
    app.connect("autodoc-process-docstring", _add_ranges, priority=110)
    app.connect("autodoc-process-docstring", _add_fields_of_bases, priority=100)
    app.connect("autodoc-skip-member", _skip_fields_of_tuples)
    app.connect("missing-reference", _by_last_name)


def scrape_pictures(block: object, variables: dict[str, Any], settings: dict[str, Any]) -> str:
    """Save the pictures of results that a block of a gallery script has made."""
    made = {v for v in variables["example_globals"].values() if isinstance(v, Picture)}
    paths = []
    for picture in made:
        if not hasattr(picture, "in_gallery"):
            paths.append(next(variables["image_path_iterator"]))
            picture.savefig(paths[-1], dpi=110)
            picture.in_gallery = True
    return str(figure_rst(paths, settings["src_dir"]))


def locate(settings: dict[str, Any], script: str) -> None:
    """Give a script of the gallery its ``__file__``, which sphinx-gallery leaves undefined."""
    builtins.__file__ = str(GALLERY / Path(script).name)  # type: ignore[attr-defined]


def _shorten(
    app: "Sphinx", what: str, name: str, found: object, options: object, args: str, returned: str
) -> tuple[str, str] | None:
    """Leave out the accepted ranges, which `_add_ranges` states, and what is no Python."""
    if not args:
        return None
    return FUNCTION.sub(r"\1", RANGE.sub(r"\1", args)).replace("<factory>", "..."), returned


def _add_ranges(
    app: "Sphinx", what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """State which values a class or function accepts, as its annotations declare."""
    if what not in ("class", "function", "method", "exception"):
        return
    try:
        parameters = signature(found).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return
    ranges: dict[str, list[str]] = {}
    for parameter in parameters:
        match = RANGED.fullmatch(str(parameter.annotation))
        if match:
            ranges.setdefault(match[2], []).append(f"``{parameter.name}``")
    told = [f"{', '.join(names)}: {accepted}" for accepted, names in ranges.items()]
    if told:
        _add(lines, f"Accepted values: {'; '.join(told)}.")


def _add(lines: list[str], *more: str) -> None:
    """Add lines to a docstring, before its example."""
    place = lines.index("Example:") if "Example:" in lines else len(lines)
    lines[place:place] = ["", *more, ""]


def _describe_constants(
    app: "Sphinx", what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Describe a constant as the module does that defines it, instead of as its type does."""
    if what != "data":
        return
    key = ("", name.rpartition(".")[2])
    for module in [m for m in sys.modules if m.startswith("wellposed.")]:
        if getattr(sys.modules[module], key[1], None) is found:
            told = ModuleAnalyzer.for_module(module).find_attr_docs()
            lines[:] = told.get(key, lines)


def _describe_forward(
    app: "Sphinx", what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Say of the method of a module that it is what ``__call__`` runs."""
    if what == "method" and name.endswith(".forward"):
        _add(lines, "Calling the object, ``__call__``, runs this.")


def _part_attributes(
    app: "Sphinx", what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Describe each of several attributes that share a line, which Sphinx takes for a type."""
    if "Attributes:" not in lines:
        return
    start = lines.index("Attributes:") + 1
    end = next((n for n in range(start, len(lines)) if re.match(r"\S", lines[n])), len(lines))
    entries = re.split(r"^ {4}(?=\S)", "\n".join(lines[start:end]), flags=re.M)
    parted: list[str] = []
    for entry in entries:
        names, colon, told = entry.partition(":")
        several = re.fullmatch(r"\w+(?:, \w+)+", names)
        parted += [f"{n}{colon}{told}" for n in names.split(", ")] if several else [entry]
    lines[start:end] = "    ".join(parted).split("\n")


def _skip_fields_of_tuples(
    app: "Sphinx", what: str, name: str, found: object, skip: bool, options: object
) -> bool | None:
    """Leave out fields of named tuples, which the class describes."""
    return True if type(found).__name__ == "_tuplegetter" else None


def _lead_outside(home: str, page: str, text: list[str]) -> None:
    """Make links to files outside ``docs`` absolute, those to examples links to the gallery."""
    inner = page.count("/")

    def absolute(found: re.Match[str]) -> str:
        start, up, path = found.groups()
        levels = 1 + up.count("../")
        if levels <= inner:
            return found.group(0)
        example = re.fullmatch(r"examples/gallery/(plot_\w+)\.py", path)
        if example:
            return f"{start}{'../' * inner}gallery/{example[1]}.rst"
        kind = "tree" if path.endswith("/") else "blob"
        return f"{start}{home}/{kind}/main/{path}"

    text[0] = OUTSIDE.sub(absolute, text[0])


def _escape_stars(
    app: "Sphinx", what: str, name: str, found: object, options: object, lines: list[str]
) -> None:
    """Escape the star of a shape such as (B, *sides), which would begin emphasis."""
    text = lines.index("Example:") if "Example:" in lines else len(lines)
    for number, line in enumerate(lines[:text]):
        parts = re.split(r"(`+[^`]*`+)", line)
        parts[::2] = [re.sub(r"(?<=[ (])\*(?!\*)", r"\*", part) for part in parts[::2]]
        lines[number] = "".join(parts)


def _add_fields_of_bases(
    app: "Sphinx", what: str, name: str, cls: type, options: object, lines: list[str]
) -> None:
    """Add the arguments that the bases of a settings class describe to its docstring."""
    if what != "class" or not is_dataclass(cls):
        return
    described = _arguments("\n".join(lines))
    inherited: list[str] = []
    for base in cls.__mro__[1:]:
        if is_dataclass(base) and base.__doc__:
            for field, text in _arguments(cleandoc(base.__doc__)).items():
                names = [part.strip() for part in field.split(",")]
                if field not in described and set(names) <= set(cls.__dataclass_fields__):
                    described[field] = text
                    inherited.append(f"    {field}: {text}")
    inherited = [line for line in inherited if ": see `" not in line]
    helped = {field.name: field.metadata.get("help") for field in fields(cls)}
    inherited += [f"    {n}: {told}" for n, told in helped.items() if told and n not in described]
    if inherited:
        _add(lines, "Keyword Args:", *inherited)


def _arguments(text: str) -> dict[str, str]:
    """Return the descriptions of a Google-style ``Args`` section by name."""
    section = re.search(r"^Args:\n((?:(?: {4}.*)?\n?)*)", text, re.M)
    if section is None:
        return {}
    entries = re.split(r"^ {4}(?=\S)", section.group(1), flags=re.M)
    pairs = (entry.split(":", 1) for entry in entries if ":" in entry)
    return {name.strip(): " ".join(told.split()) for name, told in pairs}


def _by_last_name(
    app: "Sphinx", env: "BuildEnvironment", node: pending_xref, content: Element
) -> reference | None:
    """Resolve a Python name by its last part if exactly one documented object has it."""
    if node.get("refdomain") != "py" or app.builder is None:
        return None
    target = node["reftarget"].rsplit(".", 2)
    objects = env.get_domain("py").get_objects()
    exact = [o for o in objects if o[0].split(".")[-len(target) :] == target and o[2] in LINKED]
    top = [o for o in exact if o[2] in {"class", "function", "exception", "data"}] or exact
    if len(top) != 1:
        return None
    _, _, _, page, anchor, _ = top[0]
    return make_refnode(app.builder, node["refdoc"], page, anchor, content, top[0][0])
