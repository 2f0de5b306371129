"""The order of the rooms, the words, and the docstrings."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import json
import re
import textwrap
import tokenize
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import jaxnlme as jn

ROOT = Path(__file__).resolve().parent.parent
LONGEST_MODULE, MOST_MODULES = 330, 25

# Words of a private metaphor, and the words for what they meant. Whole words, in identifiers too (`rung_of`, `Rung`).
RETIRED = {
    "rung": "likelihood approximation",
    "rungs": "likelihood approximations",
    "ladder": "likelihood approximations",
    "door": "entry point",
    "doors": "entry points",
    "edge": "boundary of the parameter space",
    "edges": "boundaries",
    "told": "reported, notified, observed",
    "heard": "summed up",
    "listening": "accumulating scores",
    "settling": "draws at fixed parameters",
    "settled": "stationary, decided",
    "standing": "state",
    "stretches": "blocks",
    "abreast": "in one batch",
    "lane": "slot",
    "lanes": "batch",
    "fault": "error",
    "faults": "convergence failures, errors",
    "stillborn": "failed start",
    "alone": "single, by itself, only",
    "meeting": "scheduler",
    "vague": "imprecise",
    "patience": "limit, delay",
    "mend": "fix",
    "mended": "fixed",
    "verdict": "convergence",
    "verdicts": "convergence",
    "audience": "callbacks",
}
# (file, word): why it may stand there.
ALLOWED = {
    ("tests/test_architecture.py", "*"): "the list itself",
    ("CHANGELOG.md", "*"): "the table of renames names the old words",
    ("benchmarks/reporting/first_fit.py", "rung"): "a key of results measured before version 0.2.0",
    ("benchmarks/study_gradients.py", "rung"): "a column of results measured before version 0.2.0",
    ("benchmarks/reporting/saem.py", "alone"): "a name in results measured before version 0.2.0",
    ("jaxnlme/estimators/gradient/algorithm.py", "patience"): "early stopping: the field's name of the option",
    ("jaxnlme/estimators/gradient/method.py", "patience"): "early stopping: the field's name of the option",
    ("tests/estimators/gradient/test_training.py", "patience"): "early stopping: the field's name of the option",
    ("benchmarks/study_networks.py", "patience"): "early stopping: the field's name of the option",
    ("docs/research.md", "patience"): "early stopping: the field's name of the option",
    ("notebooks/network_inside.ipynb", "patience"): "early stopping: the field's name of the option",
    ("benchmarks/README.md", "edge"): "a status that results measured before version 0.2.0 hold",
}
QUESTIONS = re.compile(r"(What|Whether|How|Where|When|Which|Who|Why)\b")


@pytest.fixture(scope="module")
def architecture() -> ModuleType:
    """docs/make_architecture.py."""
    spec = importlib.util.spec_from_file_location("make_architecture", ROOT / "docs" / "make_architecture.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_no_module_imports_a_later_room(architecture: ModuleType) -> None:
    assert not architecture.later_imports()


def test_an_import_of_a_later_room_is_found(architecture: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check sees imports inside functions: with two rooms exchanged it fails."""
    rooms = list(architecture.ROOMS)
    k, j = rooms.index("model"), rooms.index("numerics")
    rooms[k], rooms[j] = rooms[j], rooms[k]
    monkeypatch.setattr(architecture, "ROOMS", tuple(rooms))
    assert architecture.later_imports()


def test_the_drawing_is_of_these_imports(architecture: ModuleType) -> None:
    page = architecture.PAGE.read_text()
    assert page == architecture.page_with(page, architecture.drawing()), "run: python docs/make_architecture.py"


def test_files_that_pages_name_exist() -> None:
    """Paths in the guides for newcomers lead somewhere."""
    for page in ("CONTRIBUTING.md", "docs/architecture.md"):
        for name in re.findall(r"`((?:jaxnlme|tests|docs|benchmarks)/[\w/]+\.(?:py|md))`", (ROOT / page).read_text()):
            assert (ROOT / name).exists(), f"{page}: {name}"
        for name in re.findall(
            r"`((?:estimators|fitting|binding|likelihood|model|numerics)/[\w/]+\.py)", (ROOT / page).read_text()
        ):
            assert (ROOT / "jaxnlme" / name).exists(), f"{page}: {name}"


def test_rooms_are_small() -> None:
    for folder in {path.parent for path in (ROOT / "jaxnlme").rglob("*.py")}:
        modules = list(folder.glob("*.py"))
        assert len(modules) <= MOST_MODULES, folder
        for path in modules:
            text = re.sub(r" *\*\*Example:\*\*\n\n *```.*?```\n", "", path.read_text(), flags=re.DOTALL)
            assert len(text.splitlines()) <= LONGEST_MODULE, path  # examples in docstrings not counted


# ---- derivatives of the user's function

DERIVATIVES = {"grad", "value_and_grad", "jacfwd", "jacrev", "hessian", "linearize", "jvp", "vjp"}
# Modules that differentiate without the user's function in between.
WITHOUT_F = {
    "numerics": "functions of any kind, handed in",
    "model.derivatives": "the room itself",
    "pkpd.solver": "right-hand sides of differential equations, inside the rule of their solution",
    "binding.separability": "residual densities in f",
    "model.residual_error.censoring": "residual densities in f",
    "model.residual_error.expanded_factor": "the factor of a correlation in its parameter",
    "likelihood.nested": "residual densities in f, and jets that hold f's derivatives already",
    "likelihood.transformed_group": "residual densities in f, and jets that hold f's derivatives already",
    "likelihood.nested_linear_mixed_model": "the factor of psi",
    "likelihood.one_pass": "residual densities in f, the factor of psi, and jets that hold f's derivatives already",
    "likelihood.linear_mixed_model": "residual densities in f, and the factor of psi",
    "estimators.core.objective": "the log prior",
    "estimators.linear": "log-determinants and sums of squares of linear models",
    "linear.derive": "functions of parameters",
    "estimators.lindstrom_bates": "psi",
    "estimators.em.complete_data": "psi",
    "estimators.em.sufficient_statistics": "psi",
    "estimators.core.linearised_information": "the log prior",
    "estimators.em.m_step": "the complete-data log-likelihood in its sufficient statistics, and the log prior",
    "estimators.em.louis": "the complete-data log-likelihood in its sufficient statistics, and the log prior",
    "results.inference": "reported values in the packed parameters",
}


def test_public_names_are_imported_as_they_are_listed() -> None:
    """What type checkers read as imports of the package is what the package imports when a name is first used."""
    tree = ast.parse((ROOT / "jaxnlme" / "__init__.py").read_text())
    checked = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {
        alias.asname: (str(node.module).removeprefix("jaxnlme."), alias.name)
        for node in checked.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert imported == jn._PUBLIC


def test_the_users_function_is_differentiated_in_one_module(architecture: ModuleType) -> None:
    found = []
    for module, path in architecture.modules().items():
        if any(module == known or module.startswith(f"{known}.") for known in WITHOUT_F):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in DERIVATIVES and ast.unparse(node.value) == "jax":
                found.append(f"{module}:{node.lineno}: jax.{node.attr}; use jaxnlme.model.derivatives")
    assert not found, found


# ---- words


def words_of(text: str) -> set[str]:
    """Lower-case words; identifiers are taken apart at underscores and capitals."""
    apart = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", " ", text.replace("_", " "))
    return set(re.findall(r"[a-z]+", apart.lower()))


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """(line, text) of the names, strings and comments of a module, of the lines of a page or notebook."""
    if path.suffix == ".py":
        for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
            if token.type in (tokenize.NAME, tokenize.STRING, tokenize.COMMENT):
                yield token.start[0], token.string
    elif path.suffix == ".ipynb":
        for k, cell in enumerate(json.loads(path.read_text())["cells"]):
            yield k, "".join(cell["source"])
    else:
        yield from enumerate(path.read_text().splitlines(), 1)


def pages() -> list[Path]:
    """All that people read: code, tests, benchmarks, guides, notebooks."""
    kinds = ("jaxnlme/**/*.py", "tests/**/*.py", "benchmarks/**/*.py", "docs/*.py", "docs/*.md", "notebooks/*.ipynb")
    found = [path for kind in kinds for path in sorted(ROOT.glob(kind))]
    return [*found, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "benchmarks/README.md"))]


def test_retired_words_are_gone() -> None:
    found = []
    for path in pages():
        name = path.relative_to(ROOT).as_posix()
        if "site-packages" in name or (name, "*") in ALLOWED:
            continue
        for line, text in texts(path):
            for word in sorted(words_of(text) & RETIRED.keys()):
                if (name, word) not in ALLOWED:
                    found.append(f"{name}:{line}: {word!r}; say: {RETIRED[word]}")
    assert not found, "\n".join(found[:40])


# ---- docstrings


def documented() -> Iterator[tuple[str, str]]:
    """Every docstring of the package, with the place."""
    for path in sorted((ROOT / "jaxnlme").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                text = ast.get_docstring(node)
                if text:
                    yield f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}", text


def test_no_docstring_opens_with_a_question() -> None:
    assert not [f"{place}: {text.splitlines()[0]}" for place, text in documented() if QUESTIONS.match(text)]


def test_every_docstring_names_errors_alike() -> None:
    assert not [place for place, text in documented() if "**Errors:**" in text]


def public() -> Iterator[tuple[str, object]]:
    """The functions, classes and methods that `import jaxnlme` offers."""
    for name in dir(jn):
        value = getattr(jn, name)
        if name.startswith("_") or inspect.ismodule(value):
            continue
        if inspect.isfunction(value) or inspect.isclass(value):
            yield name, value
        if inspect.isclass(value):
            for method, function in vars(value).items():
                function = getattr(function, "__func__", function)
                if not method.startswith("_") and inspect.isfunction(function):
                    yield f"{name}.{method}", function


def _own_class(annotation: object) -> bool:
    """True for the annotation of a single class of the package, or of a vector or matrix."""
    return isinstance(annotation, str) and re.fullmatch(r"[A-Z]\w+", annotation) is not None and annotation != "Any"


@pytest.mark.parametrize("name, value", [pytest.param(name, value, id=name) for name, value in public()])
def test_public_docstrings_say_what_goes_in_and_comes_out(name: str, value: object) -> None:
    """Arguments where there are any, in a section or named in the text; Returns where something comes back; Raises
    where the function itself raises. Methods that only forward say where to read on ("see `...`")."""
    text = inspect.getdoc(value) or ""
    assert text, f"{name} has no docstring"
    if inspect.isclass(value) or "see `" in text:
        return
    assert inspect.isfunction(value)
    # An argument of one of the package's own classes is documented by that class.
    parameters = inspect.signature(value).parameters.items()
    arguments = [p for p, entry in parameters if p not in ("self", "cls") and not _own_class(entry.annotation)]
    unnamed = [p for p in arguments if f"`{p}`" not in text]
    assert not unnamed or "**Arguments:**" in text, f"{name}: nothing is said of {unnamed}"
    source = ast.parse(textwrap.dedent(inspect.getsource(value)))
    raises = any(isinstance(node, ast.Raise) and node.exc is not None for node in ast.walk(source))
    assert not raises or "Raises:**" in text, f"{name} raises, and does not say what"
    returns = inspect.signature(value).return_annotation
    if arguments and returns not in (None, "None", inspect.Signature.empty) and len(text.splitlines()) > 3:
        assert "Returns:**" in text, f"{name} does not say what it returns"
