"""README.md and docs/*.md: every Python block runs, every named command and picture exists."""

from __future__ import annotations

import re
import runpy
import tomllib
from pathlib import Path

import matplotlib
import pytest

matplotlib.use("Agg")
ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(page: Path, language: str) -> list[tuple[int, str]]:
    """(line, text) of every fenced block of a page in `language`."""
    text = page.read_text(encoding="utf-8")
    matches = re.finditer(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    return [(text.count("\n", 0, match.start(1)) + 1, match[1]) for match in matches]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_python_blocks_run(page: Path) -> None:
    """Blocks of one page share a namespace; a traceback shows the page's own line numbers."""
    namespace: dict[str, object] = {"__name__": page.stem}
    for line, text in blocks(page, "python"):
        exec(compile("\n" * (line - 1) + text, str(page), "exec"), namespace)
    import matplotlib.pyplot as plt

    plt.close("all")


def test_shell_lines_are_supported() -> None:
    """Extras, commands and Python version in the pasted lines are those of pyproject.toml and the command line."""
    from jaxnlme.frontends.cli.commands import app

    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    shell = "".join(text for page in PAGES for _, text in blocks(page, "sh"))
    extras = re.findall(r"pip install -e '\.\[(.+?)\]'", shell)
    assert extras == ["plot", "test"]
    assert set(extras) <= set(project["optional-dependencies"])
    assert "-n 2" in shell and "pytest-xdist" in project["optional-dependencies"]["test"]
    assert "jaxnlme" in project["scripts"]
    commands = {command.name or getattr(command.callback, "__name__", "") for command in app.registered_commands}
    named = {word for page in PAGES for word in re.findall(r"`jaxnlme (\w+)", page.read_text(encoding="utf-8"))}
    named |= set(re.findall(r"bin/jaxnlme (\w+)", shell))
    assert named == commands
    version = project["requires-python"].removeprefix(">=")
    assert f"Python {version} or newer" in (ROOT / "README.md").read_text(encoding="utf-8")


def test_links_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert "://" in target or (page.parent / target).exists(), f"{page.name}: {target}"


def test_the_picture_is_what_its_script_draws(tmp_path: Path) -> None:
    import matplotlib.image

    draw = runpy.run_path(str(ROOT / "docs" / "make_images.py"))["main"]
    for drawn in draw(tmp_path):
        stored = ROOT / "docs" / "images" / drawn.name
        assert stored.exists(), f"run docs/make_images.py: {stored.name} is missing"
        height, width = matplotlib.image.imread(drawn).shape[:2]
        assert matplotlib.image.imread(stored).shape[1] == pytest.approx(width, rel=0.05)
        assert matplotlib.image.imread(stored).shape[0] == pytest.approx(height, rel=0.05)
        # The letters depend on the fonts of the machine, the curves do not.
        assert stored.stat().st_size == pytest.approx(drawn.stat().st_size, rel=0.3)
