"""Hooks of mkdocs: files that lie outside docs/ become pages, links between them are those of the site, and nothing is
loaded from elsewhere."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent.parent
# Pages of the site that lie elsewhere in the repository.
ELSEWHERE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks/index.md",
}
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)")


def repository_path(uri: str) -> str:
    """Where in the repository a file of the site lies."""
    for path, page in ELSEWHERE.items():
        if uri == page:
            return path
    return uri if uri.startswith(("notebooks/", "benchmarks/")) else f"docs/{uri}"


def site_uri(path: str) -> str:
    """Where on the site a file of the repository lies."""
    return ELSEWHERE.get(path, path.removeprefix("docs/"))


@event_priority(100)  # before mkdocs-jupyter looks for notebooks
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the notebooks, README and its like, and the pictures of the benchmarks."""
    for path, uri in ELSEWHERE.items():
        files.append(File.generated(config, uri, content=(ROOT / path).read_text(encoding="utf-8")))
    for pattern in ("notebooks/*.ipynb", "benchmarks/images/*.svg"):
        for found in sorted(ROOT.glob(pattern)):
            uri = found.relative_to(ROOT).as_posix()
            files.append(File(uri, str(ROOT), config.site_dir, config.use_directory_urls))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links as the site has them; lines `::: jn.name` of the reference become directives of mkdocstrings."""
    here = page.file.src_uri
    folder = posixpath.dirname(repository_path(here))

    def link(match: re.Match[str]) -> str:
        image, text, target = match.groups()
        path, hash_mark, anchor = target.partition("#")
        if "://" in target or not path:
            return match[0]
        uri = site_uri(posixpath.normpath(posixpath.join(folder, path)))
        file = files.get_file_from_path(uri)
        if file is None or file.inclusion.is_excluded():
            # A file of the repository that is no page of the site is named, not linked.
            return text if not image and (ROOT / folder / path).exists() else match[0]
        return f"{image}[{text}]({posixpath.relpath(uri, posixpath.dirname(here) or '.')}{hash_mark}{anchor})"

    blocks = re.split(r"(^```.*?^```$)", markdown, flags=re.DOTALL | re.MULTILINE)
    text = "".join(block if block.startswith("```") else LINK.sub(link, block) for block in blocks)
    text = re.sub(r"^```mermaid\n(.*?)^```$", _uses, text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"^::: jn\.(\S+)(?: \((.*)\))?$", _directive, text, flags=re.MULTILINE)


def _directive(match: re.Match[str]) -> str:
    """`::: jn.name` in the spelling of mkdocstrings; `(a, b)` behind it names the members to show, `()` none."""
    name, members = match.groups()
    lines = [f"::: jaxnlme.{name}", "    options:", f"      heading: jn.{name}"]
    if members is not None:
        lines.append(f"      members: {[member.strip() for member in members.split(',') if member.strip()] or 'false'}")
    return "\n".join([*lines, ""])


def _uses(match: re.Match[str]) -> str:
    """The drawing of the rooms as a table: a browser would have to load a program to draw it."""
    names = dict(re.findall(r'^ *(\w+)\["(.+?)"\]', match[1], flags=re.MULTILINE))
    uses: dict[str, list[str]] = {name: [] for name in names}
    for room, used in re.findall(r"(\w+) --> (\w+)", match[1]):
        uses[room].append(names[used].partition(" (")[0])
    rows = [f"| `{names[room]}` | {', '.join(f'`{used}`' for used in uses[room])} |" for room in names]
    return "\n".join(["| room (modules) | uses, and what these use |", "|---|---|", *rows])


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Notebooks: links as the site has them, ids of headings as in the table of contents, no scripts from elsewhere."""
    here = page.file.src_uri
    if not here.endswith(".ipynb"):
        return html

    def link(match: re.Match[str]) -> str:
        path, hash_mark, anchor = match[1].partition("#")
        uri = site_uri(posixpath.normpath(posixpath.join(posixpath.dirname(repository_path(here)), path)))
        file = files.get_file_from_path(uri)
        return match[0] if file is None else f'href="{file.url_relative_to(page.file)}{hash_mark}{anchor}"'

    ids = iter([item.id for top in page.toc for item in (top, *_below(top))])
    html = re.sub(
        r'(<h[1-6]\b[^>]*?\bid=")[^"]*(".*?</h[1-6]>)', lambda heading: heading[1] + next(ids, "") + heading[2], html
    )
    html = re.sub(r'<a class="anchor-link".*?</a>', "", html)
    html = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)
    return re.sub(r'href="((?!https?:|#)[^"]+)"', link, html)


def _below(item: Any) -> list[Any]:
    """The entries below an entry of a table of contents, in the order of the page."""
    return [found for child in item.children for found in (child, *_below(child))]
