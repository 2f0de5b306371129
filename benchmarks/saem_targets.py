"""The maxima that SAEM is measured against: by the adaptive quadrature of this project, from the case's own starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import saem_cases as shared
import saem_plateau

import jaxnlme as jn
from tests.estimators.em.saem_problems import Case

# Change of -2 log L at the maximum on doubling the nodes, below which quadrature counts as exact.
QUADRATURE_TOLERANCE = 0.01
# Beside a target that quadrature cannot reach (six effects), -2 log L with so many nodes an effect.
FEW_NODES = 3
# The largest slope of -2 log L at a maximum found outside `fit`, each parameter in units of its own size.
SMALL_SLOPE = 1e-4


def make(folder: Path, only: Sequence[str] | None) -> None:
    """Find the targets, one row per case into saem_targets.json, and prints them."""
    cases = shared.makers(only)
    record = shared.open_record(folder / shared.TARGETS, list(cases))
    for maker in cases.values():
        row = target(maker())
        record.add(row)
        print(line(row), flush=True)


def target(case: Case) -> dict[str, Any]:
    """The maximum of one case as a row: more nodes until doubling them changes nothing, a fit with each. Six effects
    are too many for that, and keep the fit before; a kinked model has an exact likelihood of its own."""
    began = time.perf_counter()
    effects = len(jn.bind(case.model, case.data).density.effect_names)
    fit = jn.fit(case.model, case.data, list(case.methods), start=case.target_start)
    if case.name in shared.KINKED:
        maximum = _kinked(case, fit)
    elif case.nodes is None:
        maximum = _row_of_fit(case, fit, None, FEW_NODES)
    else:
        nodes = case.nodes
        while True:
            fit = jn.fit(case.model, case.data, jn.AGQ(nodes), start=fit)
            maximum = _row_of_fit(case, fit, nodes, shared.doubled(nodes, effects))
            exact_enough = abs(maximum["minus2LL_finer"] - maximum["minus2LL"]) < QUADRATURE_TOLERANCE
            if exact_enough or maximum["nodes_finer"] < 2 * nodes:
                break
            nodes = maximum["nodes_finer"]
    return {
        "case": case.name,
        "groups": case.data.n_groups,
        "observations": int(case.data.n_obs),
        "effects": effects,
        **maximum,
        "truth": case.truth,
        "reference": _reference(case),
        "seconds": time.perf_counter() - began,
    }


def _row_of_fit(case: Case, fit: jn.Fit, nodes: int | None, finer: int) -> dict[str, Any]:
    """The estimates of a fit as a row, with -2 log L at them by `finer` nodes."""
    return {
        "method": fit.method,
        "nodes": nodes,
        "minus2LL": -2.0 * fit.log_likelihood,
        "minus2LL_finer": shared.minus_two_log_likelihood(case, fit.params, finer),
        "nodes_finer": finer,
        "converged": bool(fit.converged),
        "sentences": list(fit.status.sentences[:2]),
        "at_zero": list(fit.at_zero),
        "estimates": shared.estimates(fit),
        "values": {name: shared.number(value) for name, value in fit.values.items()},
    }


def _kinked(case: Case, fit: jn.Fit) -> dict[str, Any]:
    """The exact maximum near a fit, and -2 log L there with twice the points."""
    maximum, points = saem_plateau.maximum(fit), saem_plateau.POINTS
    return {
        "method": f"{points} Gauss-Legendre points between kinks",
        "nodes": points,
        "minus2LL": maximum["minus2LL"],
        "minus2LL_finer": shared.minus_two_log_likelihood(case, maximum["params"], 2 * points),
        "nodes_finer": 2 * points,
        "converged": maximum["largest_slope"] < SMALL_SLOPE,
        "sentences": [f"BFGS ended where the largest slope of -2 log L is {maximum['largest_slope']:.1e} (scaled)."],
        "at_zero": [],
        "estimates": maximum["estimates"],
        "values": {name: float(value) for name, value in case.model.values(maximum["params"], case.data).items()},
    }


def _reference(case: Case) -> dict[str, Any] | None:
    """Results of other programs: saemix's estimates, -2 log L at them, and the exact maximum where known."""
    if case.reference is None:
        return None
    kept = ("fixed_effects", "omega", "residual", "table_with_se", "m2ll", "minus2LL_true", "true_mle")
    return {name: case.reference[name] for name in kept}


def line(row: dict[str, Any]) -> str:
    """One target in a line."""
    convergence = "" if row["converged"] else "  NOT CONVERGED"
    reference = row["reference"] or {}
    exact = (reference.get("true_mle") or {}).get("minus2LL")
    beside = f"  saemix's point {reference['minus2LL_true']:.3f}" if reference else ""
    beside += f"  known maximum {exact:.4f}" if exact else ""
    zero = f"  {' '.join(row['at_zero'])}" if row["at_zero"] else ""
    return (
        f"{row['case']:30s} -2 log L {row['minus2LL']:12.4f} {row['method']}, "
        f"{row['minus2LL_finer'] - row['minus2LL']:+.4f} with {row['nodes_finer']} nodes{beside}{convergence}{zero}"
    )
