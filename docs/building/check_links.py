"""Links of the built site: every file, every anchor, and nothing that a page would load from elsewhere.

python docs/building/check_links.py site      # exit code 1, with a line for each link that leads nowhere
"""

from __future__ import annotations

import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

# Attributes through which a page loads a file.
LOADED = {"script": "src", "img": "src", "iframe": "src", "link": "href", "source": "src"}


class Page(HTMLParser):
    """Ids and links of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: list[tuple[str, str]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Keep the id, the name of an anchor, and what the tag leads to or loads."""
        values = {name: value for name, value in attrs if value}
        self.ids.update(values[name] for name in ("id", "name") if name in values)
        attribute = "href" if tag == "a" else LOADED.get(tag)
        if attribute in values and values.get("rel") != "canonical":
            self.links.append((tag, values[attribute]))


def dead_links(site: Path) -> list[str]:
    """A sentence for each link of a site that leads nowhere, and for each file loaded from elsewhere."""
    pages = {path.resolve(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    sentences = []
    for path, page in pages.items():
        name = path.relative_to(site.resolve())
        for tag, link in page.links:
            parts = urlsplit(link)
            if parts.scheme in ("http", "https"):
                if tag != "a":
                    sentences.append(f"{name}: loads {link}")
                continue
            if parts.scheme:  # mailto:, data:, javascript:
                continue
            target = path if not parts.path else (path.parent / unquote(parts.path)).resolve()
            target = target / "index.html" if target.is_dir() else target
            # The page for missing pages has the addresses of a server.
            if name.name == "404.html":
                continue
            if not target.exists():
                sentences.append(f"{name}: no file {link}")
            elif parts.fragment and target in pages and not _known(unquote(parts.fragment), pages[target].ids):
                sentences.append(f"{name}: no anchor {link}")
    return sentences


def _known(anchor: str, ids: set[str]) -> bool:
    return anchor in ids or anchor == "__search"


def main(folder: str) -> int:
    """The sentences, printed; 1 if there are any."""
    sentences = dead_links(Path(folder))
    print("\n".join(sentences or [f"{folder}: every link leads somewhere"]))
    return 1 if sentences else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
