"""Run the notebooks and store them with their outputs, pictures included.

python notebooks/store.py                 # all
python notebooks/store.py saem limits     # these

tests/test_notebooks.py runs them again and compares the numbers with the stored ones.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent
LARGEST = 500_000  # bytes of a stored notebook
# What a kernel runs before the first cell, in no cell of the notebook: pictures of a size for a page.
SETUP = "%config InlineBackend.figure_format = 'png'\n%config InlineBackend.print_figure_kwargs = {'dpi': 80}"
PROGRESS = "<IPython.core.display.HTML object>"
# Representations that are kept, the best last: a page shows a table as HTML, a comparison reads the text.
KINDS = ("text/plain", "text/html", "image/png", "text/markdown")


def executed(path: Path, timeout: int = 900) -> Any:
    """The notebook with the outputs of a fresh kernel. **Raises:** CellExecutionError where a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(SETUP))
    client = NotebookClient(
        notebook, kernel_name="python3", timeout=timeout, resources={"metadata": {"path": str(path.parent)}}
    )
    client.execute()
    del notebook.cells[0]
    for count, cell in enumerate((cell for cell in notebook.cells if cell.cell_type == "code"), start=1):
        cell.execution_count = count
        cell.metadata.pop("execution", None)  # times of a run
        cell.outputs = [output for output in map(_kept, cell.outputs) if output is not None]
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    return notebook


def _kept(output: Any) -> Any:
    """An output without what changes from run to run; None for warnings and progress lines."""
    if output.output_type == "stream":
        return output if output.name == "stdout" else None
    if "data" in output:
        # The line that shows the progress of a fit, if it takes more than two seconds.
        if output.output_type == "display_data" and output.data.get("text/plain") == PROGRESS:
            return None
        output.data = {kind: output.data[kind] for kind in KINDS if kind in output.data}
        output.metadata = {}
        # The text beside a picture is its Python type.
        if "image/png" in output.data:
            output.data.pop("text/plain", None)
    return output


def store(path: Path) -> int:
    """Run a notebook and write it with its outputs; its size in bytes."""
    notebook = executed(path)
    for number, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{number}"
    notebook.nbformat_minor = max(notebook.nbformat_minor, 5)
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    text = nbformat.writes(notebook)
    if len(text.encode()) > LARGEST:
        raise SystemExit(f"{path.name}: {len(text.encode())} bytes, at most {LARGEST}; draw fewer or smaller pictures")
    path.write_text(text + "\n", encoding="utf-8")
    return len(text.encode())


def main(names: list[str]) -> None:
    """Store the notebooks with these names, or all."""
    for path in [FOLDER / f"{name}.ipynb" for name in names] or sorted(FOLDER.glob("*.ipynb")):
        print(f"{path.name}: {store(path)} bytes")


if __name__ == "__main__":
    main(sys.argv[1:])
