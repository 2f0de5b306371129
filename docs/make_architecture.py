"""The order of the package's rooms, read from its own imports: the drawing in docs/architecture.md, and a check.

python docs/make_architecture.py          # write the drawing again
python docs/make_architecture.py --check  # exit code 1 where a module imports a later room
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = Path(__file__).resolve().parent / "architecture.md"
BEGIN, END = "<!-- drawing: written by make_architecture.py -->", "<!-- end of the drawing -->"

# A room may use itself and the rooms above it.
ROOMS = (
    "errors",
    "markup",
    "signatures",
    "arguments",
    "precision",
    "typing",
    "records",
    "files",
    "drawing",
    "numerics",
    "data",
    "formulas",
    "model",
    "binding",
    "structural_models",
    "pkpd",
    "likelihood",
    "sampling",
    "results",
    "diagnostics",
    "estimators.core",
    "estimators.two_stage",
    "estimators.setup",
    "estimators.marginal",
    "estimators.lindstrom_bates",
    "estimators.em",
    "estimators.bayes",
    "estimators.gradient",
    "estimators.pipeline",
    "estimators.linear",
    "refits",
    "comparison",
    "report",
    "fitting",
    "forecasting",
    "linear",
    "model_choice",
    "frontends.cache",
    "frontends.matlab",
    "frontends.cli",
    "frontends.linear",
)
# Modules that see every room: the public names (those of `jn.pkpd` too), and `python -m jaxnlme`.
ABOVE_ALL = ("", "__main__", "estimators", "frontends", "pkpd")


def modules() -> dict[str, Path]:
    """The modules of the package by name, "jaxnlme." left out."""
    found = {}
    for path in sorted((ROOT / "jaxnlme").rglob("*.py")):
        parts = path.relative_to(ROOT / "jaxnlme").with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str | None:
    """The room of a module; None for those above all rooms.

    **Raises:** ValueError for a module outside every room.
    """
    if module in ABOVE_ALL:
        return None
    for room in ROOMS:
        if module == room or module.startswith(f"{room}."):
            return room
    raise ValueError(f"jaxnlme.{module} is in no room; add its room to ROOMS in {Path(__file__).name}.")


def imports() -> Iterator[tuple[str, int, str]]:
    """Every import of the package by itself, also inside functions and for type checkers: (module, line, imported)."""
    known = modules()
    for module, path in known.items():
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                # `from jaxnlme.data import datasets` imports a module, `from jaxnlme.errors import Status` a name.
                joined = [f"{node.module}.{alias.name}" for alias in node.names]
                names = [name if name.removeprefix("jaxnlme.") in known else node.module for name in joined]
            for name in names:
                if name.startswith("jaxnlme.") and name.removeprefix("jaxnlme.") in known:
                    yield module, node.lineno, name.removeprefix("jaxnlme.")


def later_imports() -> list[str]:
    """A sentence for each import of a later room; none where the order holds."""
    out = []
    for module, line, imported in imports():
        room, used = room_of(module), room_of(imported)
        if room is not None and used is not None and ROOMS.index(used) > ROOMS.index(room):
            out.append(f"jaxnlme.{module}, line {line}: imports jaxnlme.{imported}, a later room ({used} after {room})")
    return out


def arrows() -> list[tuple[str, str]]:
    """Pairs (room, room that it uses), those left out that follow from others."""
    uses: dict[str, set[str]] = {room: set() for room in ROOMS}
    for module, _, imported in imports():
        room, used = room_of(module), room_of(imported)
        if room is not None and used is not None and ROOMS.index(used) < ROOMS.index(room):
            uses[room].add(used)

    def reach(room: str) -> set[str]:
        return uses[room].union(*(reach(used) for used in uses[room])) if uses[room] else set()

    kept = []
    for room in ROOMS:
        for used in sorted(uses[room], key=ROOMS.index):
            if not any(used in reach(other) for other in uses[room] - {used}):
                kept.append((room, used))
    return kept


def drawing() -> str:
    """The rooms and their uses as a Mermaid graph; the number is that of a room's modules."""
    count = dict.fromkeys(ROOMS, 0)
    for module in modules():
        room = room_of(module)
        if room is not None:
            count[room] += 1
    lines = ["```mermaid", "graph BT"]
    lines += [f'  {room.replace(".", "_")}["{room.replace(".", "/")} ({count[room]})"]' for room in ROOMS]
    lines += [f"  {room.replace('.', '_')} --> {used.replace('.', '_')}" for room, used in arrows()]
    return "\n".join([*lines, "```"])


def page_with(text: str, picture: str) -> str:
    """The page with `picture` between its marks."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{picture}\n{END}{after}"


def main() -> None:
    if "--check" in sys.argv[1:]:
        found = later_imports()
        print("\n".join(found) or "No module imports a later room.")
        sys.exit(bool(found))
    PAGE.write_text(page_with(PAGE.read_text(), drawing()))
    print(f"wrote {PAGE}")


if __name__ == "__main__":
    main()
