"""Check the links between the pages of a built site: ``python docs/check_links.py out/docs``."""

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit


class Page(HTMLParser):
    """The links of a page and the places that links can lead to."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.links: set[str] = set()
        self.places: set[str] = set()
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect ``href``, ``src`` and ``id``."""
        for name, value in attrs:
            if value and name in ("href", "src"):
                self.links.add(value)
            elif value and name in ("id", "name"):
                self.places.add(value)


def broken(site: Path) -> list[str]:
    """Return the links to files or places of the site that do not exist."""
    # Sphinx makes the listings of the source, and some of their ways back lead to no place.
    made = {"_static", "_modules"}
    files = [path for path in sorted(site.rglob("*.html")) if not made & {*path.parts}]
    pages = {path.resolve(): Page(path) for path in files}
    found = []
    for path, page in pages.items():
        for link in sorted(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            place = unquote(parts.fragment)
            missing = not target.exists()
            nowhere = place and target in pages and place not in pages[target].places
            if missing or nowhere:
                found.append(f"{path.relative_to(site.resolve())}: {link}")
    return found


if __name__ == "__main__":
    bad = broken(Path(sys.argv[1]))
    print(*bad, sep="\n")  # noqa: T201
    print(f"{len(bad)} broken links")  # noqa: T201
    sys.exit(bool(bad))
