"""Parts shared by the scripts of the SAEM study: the cases by name, and the two results files."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import equinox as eqx
import jax

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import saem_plateau  # noqa: E402
from provenance import about_this_process  # noqa: E402
from results import Record, number  # noqa: E402

import jaxnlme as jn  # noqa: E402
from jaxnlme.numerics.settings import COMPUTATION  # noqa: E402
from tests.estimators.em import saem_problems, saem_simulated  # noqa: E402

REFERENCE = Path(os.environ.get("JAXNLME_REFERENCE") or HERE.parent.parent / "shared" / "reference")
TARGETS, STUDY = "saem_targets.json", "saem.json"
KINKED = ("yield_nocov",)  # saem_plateau.py has their exact likelihood
Maker = Callable[[], saem_problems.Case]


def makers(only: Sequence[str] | None) -> dict[str, Maker]:
    """The cases by name, made when called: those whose name contains one of `only`, or all. Without the reference
    folder, the simulated ones."""
    out: dict[str, Maker] = {}
    if REFERENCE.is_dir():
        out |= {name: lambda name=name: saem_problems.case(REFERENCE, name) for name in saem_problems.NAMES}
    else:
        print(f"the reference folder {REFERENCE} is missing (JAXNLME_REFERENCE): simulated cases only")
    out |= saem_simulated.cases()
    return {name: make for name, make in out.items() if not only or any(part in name for part in only)}


def open_record(path: Path, repeated: Sequence[str]) -> Record:
    """A results file that keeps its earlier rows, but for those of the cases `repeated`."""
    rows = read(path)
    with jax.enable_x64(True):
        about = about_this_process()
    record = Record(path, about)
    record.rows += [row for row in rows if row["case"] not in repeated]
    return record


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a results file, none where there is no such file."""
    return json.loads(path.read_text())["rows"] if path.exists() else []


@eqx.filter_jit
def _log_likelihood(
    problem: jn.Problem, params: jn.Params, method: jn.LikelihoodApproximation, modes: Any
) -> jax.Array:
    return jn.log_likelihood(None, params, problem, method, modes=modes)


def minus_two_log_likelihood(case: saem_problems.Case, params: jn.Params, nodes: int, modes: Any = None) -> float:
    """-2 log L by quadrature with `nodes` an effect, the groups' modes searched from `modes` (groups, random); of
    `KINKED` cases, with `nodes` between two kinks."""
    with jax.enable_x64(True):
        problem, params = jax.tree.map(jax.numpy.asarray, (jn.bind(case.model, case.data).problem, params))
        if case.name in KINKED:
            return float(saem_plateau.minus_two_log_likelihood(problem, params, saem_plateau.doses(case.data), nodes))
        return -2.0 * float(_log_likelihood(problem, params, jn.AGQ(nodes), modes))


def doubled(nodes: int, effects: int) -> int:
    """Twice as many nodes, or as many as a product grid may have."""
    return min(2 * nodes, math.floor(COMPUTATION.max_grid_points ** (1.0 / effects) + 1e-9))


def estimates(fit: jn.Fit) -> dict[str, dict[str, float | None]]:
    """Estimates and standard errors by reported name, typical values on their transformed scale."""
    table = fit.estimates
    return {str(name): {"estimate": number(row["estimate"]), "se": number(row["se"])} for name, row in table.iterrows()}
