"""Every notebook runs from top to bottom in a fresh kernel, and its numbers are those that are stored in it.

After a change that moves them on purpose: `python notebooks/store.py NAME`.
"""

from __future__ import annotations

import re
import runpy
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

FOLDER = Path(__file__).resolve().parent.parent / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))

# The printed numbers of a deterministic fit are converged to far more digits than are printed; where a variance is near
# zero or a number is a difference of two, the last printed digit may differ between machines.
RELATIVE = 1e-3
# Cells that print draws (or estimates by them): another compiler may change the order of sums, and the chains with it.
# The estimates of SAEM have a Monte Carlo error of up to 0.05 standard errors, up to a third of the estimates.
MONTE_CARLO = 0.05
DRAWN = re.compile(
    r"SAEM|IMP|NUTS|Importance|bootstrap|simulate|attainment|forecast|nlmefitsa|sampling|ordered_fit|short|several"
)
# Times, and the iteration counts and gradients of a search, are not results.
IGNORED = re.compile(
    r"gain|second|iteration|evaluation|compil|version|gradient|step|[\d.]+ m?s\b|draws|0x[0-9a-f]+", re.IGNORECASE
)
NUMBER = re.compile(r"(?<![\w.])[-+−]?\d+(?:\.\d+)?(?:e[-+]?\d+)?(?![\w])")


def text_of(output: Any) -> str:
    """The text of an output of a cell, without lines whose numbers are no results."""
    text = output.get("text", "") if output.output_type == "stream" else output.get("data", {}).get("text/plain", "")
    return "\n".join(line for line in text.splitlines() if not IGNORED.search(line))


def numbers(text: str) -> np.ndarray:
    """The numbers in a text, in its order."""
    return np.array([float(found.replace("−", "-")) for found in NUMBER.findall(text)])


def moved(stored: Any, again: Any) -> list[str]:
    """A sentence for each cell whose words or numbers differ from the stored ones by more than its tolerance."""
    sentences = []
    drawn = False  # what is computed from draws prints their numbers in later cells as well
    for old, new in zip(stored.cells, again.cells, strict=True):
        if old.cell_type != "code":
            continue
        drawn = drawn or bool(DRAWN.search(old.source))
        before, after = ("\n".join(map(text_of, cell.outputs)) for cell in (old, new))
        x, y = numbers(before), numbers(after)
        first = old.source.strip().splitlines()[-1]
        if re.sub(NUMBER, "", before).split() != re.sub(NUMBER, "", after).split() and not drawn:
            sentences.append(f"{first}: other words\n{before}\n--- now ---\n{after}")
        elif len(x) != len(y):
            sentences.append(f"{first}: {len(x)} numbers stored, {len(y)} now\n{before}\n--- now ---\n{after}")
        else:
            tolerance = MONTE_CARLO if drawn else RELATIVE
            # A number printed with few digits moves by one in the last of them.
            off = np.abs(x - y) > tolerance * np.maximum(np.abs(x), np.abs(y)) + _last_digit(before)
            if off.any():
                sentences.append(f"{first}: stored {x[off][:5]}, now {y[off][:5]}")
        pictures = [sum("image/png" in output.get("data", {}) for output in cell.outputs) for cell in (old, new)]
        if pictures[0] != pictures[1]:
            sentences.append(f"{first}: {pictures[0]} pictures stored, {pictures[1]} now")
    return sentences


def has_outputs(notebook: Any) -> bool:
    """True for a notebook that is stored executed."""
    return any(cell.get("outputs") for cell in notebook.cells if cell.cell_type == "code")


def _last_digit(text: str) -> np.ndarray:
    """One unit in the last printed digit of each number of a text."""
    digits = [found.partition("e") for found in NUMBER.findall(text)]
    return np.array(
        [10.0 ** (float(e or 0) - len(m.partition(".")[2])) * (1.01 if "." in m or e else 0.0) for m, _, e in digits]
    )


@pytest.mark.filterwarnings("default")  # Jupyter's own warnings are not ours
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The cells run, and their numbers are the stored ones."""
    pytest.importorskip("nbclient")
    nbformat = pytest.importorskip("nbformat")
    # The kernel is a process of its own: it shares the compiled programs of the tests through the environment.
    if jax.config.jax_compilation_cache_dir:
        monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", str(jax.config.jax_compilation_cache_dir))
        monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    stored = nbformat.read(path, as_version=4)
    again = runpy.run_path(str(FOLDER / "store.py"))["executed"](path)
    sentences = moved(stored, again) if has_outputs(stored) else []
    assert not sentences, f"run `python notebooks/store.py {path.stem}` if this is meant\n" + "\n".join(sentences)


def test_numbers_that_moved_are_named() -> None:
    """The comparison itself: a last digit may differ, what differs by more is named with its cell."""
    nbformat = pytest.importorskip("nbformat")

    def notebook(source: str, text: str) -> Any:
        cell = nbformat.v4.new_code_cell(source, outputs=[nbformat.v4.new_output("stream", name="stdout", text=text)])
        return nbformat.v4.new_notebook(cells=[cell])

    def compared(before: str, after: str, source: str = "print(fit.estimates)") -> list[str]:
        return moved(notebook(source, before), notebook(source, after))

    assert compared("cl 2.7531 0.24", "cl 2.7532 0.24") == []
    assert compared("took 1.2 s\ncl 2.75", "took 9.8 s\ncl 2.75") == []
    assert len(compared("cl 2.7531", "cl 2.7931")) == 1
    assert len(compared("12 groups", "13 groups")) == 1
    assert len(compared("cl 2.75", "cl 2.75 ka 1.5")) == 1
    assert len(compared("converged: 2.75", "NOT CONVERGED: 2.75")) == 1
    assert compared("cl 2.75", "cl 2.80", "jn.fit(model, data, jn.SAEM())") == []
    assert len(compared("cl 2.75", "cl 3.05", "jn.fit(model, data, jn.SAEM())")) == 1
