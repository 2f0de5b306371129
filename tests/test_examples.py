"""The examples of docstrings: every public name has one, and all run, after the lines of docs/api/index.md."""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import matplotlib
import pytest

import jaxnlme as jn

matplotlib.use("Agg")
PREAMBLE = Path(__file__).resolve().parent.parent / "docs" / "api" / "index.md"
EXAMPLE = re.compile(r"\*\*Example:\*\*\n\n```python\n(.*?)```", flags=re.DOTALL)
# Records whose methods are part of the reference, with an example each.
RECORDS = (jn.Fit, jn.LinearFit, jn.GroupedData)
# Runs of simulated methods: other tests have them. What is cached for later processes stays as the tests set it.
NOT_RUN = {"SAEM", "IMP", "NUTS", "Pathfinder", "fit_many", "ManyFits", "nlmefitsa", "enable_compilation_cache"}


def docstring(value: Any) -> str:
    """The docstring of a name, of an object (such as nlmefitoutputfcn) that of its class."""
    return inspect.getdoc(value if callable(value) or isinstance(value, types.ModuleType) else type(value)) or ""


def public_names() -> Iterator[tuple[str, Any]]:
    """Every public name, and the functions and classes of the public modules of them."""
    for room, names in (("", jn._PUBLIC), ("pkpd.", jn.pkpd._PUBLIC)):
        for name in names:
            value = getattr(jn.pkpd if room else jn, name)
            yield f"{room}{name}", value
            if name in ("datasets", "error", "variance", "models"):
                for inner, function in vars(value).items():
                    a_table = name == "datasets" and inspect.isfunction(function)
                    here = getattr(function, "__module__", "") == value.__name__ and not inner.startswith("_")
                    if here and (a_table or hasattr(function, "__wrapped__")):
                        yield f"{name}.{inner}", function


def examples() -> Iterator[tuple[str, str]]:
    """(name, code) of the examples of public names and of the methods of the records."""
    for name, value in public_names():
        for code in EXAMPLE.findall(docstring(value)):
            yield name, code
    for record in (*RECORDS, type(jn.Fit.plot.fget(None))):
        for name in dir(record):
            member = inspect.getattr_static(record, name)
            if not name.startswith("_"):
                for code in EXAMPLE.findall(inspect.getdoc(member) or ""):
                    yield f"{record.__name__}.{name}", code


@pytest.mark.parametrize("name, value", list(public_names()), ids=lambda value: value if isinstance(value, str) else "")
def test_every_public_name_has_an_example(name: str, value: Any) -> None:
    found = EXAMPLE.findall(docstring(value))
    assert found, f"jn.{name} has no **Example:** in its docstring"
    compile("".join(found), name, "exec")


def test_methods_of_records_have_examples() -> None:
    """Methods that users call; what serves other rooms stands in the list."""
    internal = {
        *("from_record", "with_unknown_sections", "qualified_names", "refit_log_likelihoods", "bucket_indices"),
        *("pad_to", "rows_to_column", "with_event_records", "with_table", "throw", "summary"),
    }
    without = [
        f"{record.__name__}.{name}"
        for record in RECORDS
        for name, member in inspect.getmembers(
            record, lambda member: inspect.isfunction(member) or inspect.ismethod(member)
        )
        if not name.startswith("_") and name not in internal and not EXAMPLE.search(inspect.getdoc(member) or "")
    ]
    assert not without


def test_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Each example with the lines of the reference before it; the examples share one fit."""
    import matplotlib.pyplot as plt

    monkeypatch.chdir(tmp_path)
    start = re.search(r"^```python\n(.*?)^```", PREAMBLE.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert start is not None
    shared: dict[str, Any] = {}
    exec(start[1], shared)
    assert shared["fit"].converged
    seen, failures = set(), []
    for name, code in examples():
        if name in NOT_RUN or code in seen:
            continue
        seen.add(code)
        try:
            exec(compile(code, f"<example of {name}>", "exec"), dict(shared))
        except Exception as error:
            failures.append(f"the example of {name} fails:\n{code}{type(error).__name__}: {error}")
        plt.close("all")
    assert not failures, "\n\n".join(failures)
    assert len(seen) > 100
    assert jax.config.jax_enable_x64


def test_help_says_what_the_reference_says() -> None:
    """A method that hands its arguments on names each argument of the function it calls."""
    for name, arguments in {
        "simulate": ("n", "key", "level"),
        "bootstrap": ("kind", "seed", "by"),
        "profile": ("level",),
    }.items():
        text = inspect.getdoc(getattr(jn.Fit, name)) or ""
        assert all(f"`{argument}`" in text for argument in arguments), name
