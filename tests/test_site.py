"""The site: every page and public name is in it, links of other places become its own, and a dead link is found."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest

import jaxnlme as jn

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"


def test_every_page_and_notebook_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    named = set(re.findall(r"[\w/]+\.(?:md|ipynb)", navigation))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    notebooks = {path.relative_to(ROOT).as_posix() for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert pages | notebooks <= named
    assert named - pages - notebooks == {"index.md", "benchmarks/index.md", "contributing.md", "changelog.md"}


def test_every_public_name_is_in_the_reference() -> None:
    text = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "api").glob("*.md"))
    listed = set(re.findall(r"^::: jn\.([\w.]+)", text, flags=re.MULTILINE))
    rooms = {"covariances", "transforms", "priors", "error", "variance", "correlation", "models", "effects"}
    rooms |= {"pkpd.inputs"}
    names = {*jn._PUBLIC, *(f"pkpd.{name}" for name in jn.pkpd._PUBLIC)}
    assert names - rooms <= listed
    assert all(any(name.startswith(f"{room}.") for name in listed) for room in rooms)


def test_docstrings_become_markdown() -> None:
    pytest.importorskip("griffe")
    as_markdown = runpy.run_path(str(DOCS / "building" / "docstrings.py"))["as_markdown"]
    text = as_markdown("A sum.\n\n**Arguments:** `x`.\n**Returns:** a number.  **Raises:** nothing; as in\n- a list")
    assert text == ("A sum.\n\n**Arguments:** `x`.\n\n**Returns:** a number.\n\n**Raises:** nothing; as in\n\n- a list")


def test_dead_links_are_found(tmp_path: Path) -> None:
    dead_links = runpy.run_path(str(DOCS / "building" / "check_links.py"))["dead_links"]
    (tmp_path / "sub").mkdir()
    (tmp_path / "a.html").write_text(
        '<h1 id="top">A</h1><a href="sub/b.html#there">b</a><a href="#top">up</a><a href="https://example.org">out</a>'
    )
    (tmp_path / "sub" / "b.html").write_text('<p id="there"></p><a href="../a.html">a</a>')
    assert dead_links(tmp_path) == []
    (tmp_path / "c.html").write_text(
        '<a href="none.html">x</a><a href="a.html#none">y</a><script src="https://example.org/x.js"></script>'
    )
    assert dead_links(tmp_path) == [
        "c.html: no file none.html",
        "c.html: no anchor a.html#none",
        "c.html: loads https://example.org/x.js",
    ]


def test_links_of_readme_become_those_of_the_site() -> None:
    pytest.importorskip("mkdocs")
    hooks = runpy.run_path(str(DOCS / "building" / "hooks.py"))
    assert hooks["site_uri"]("docs/models.md") == "models.md"
    assert hooks["site_uri"]("README.md") == "index.md"
    assert hooks["site_uri"]("notebooks/saem.ipynb") == "notebooks/saem.ipynb"
    assert hooks["repository_path"]("benchmarks/index.md") == "benchmarks/README.md"
