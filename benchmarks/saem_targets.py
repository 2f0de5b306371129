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

# Doubling the nodes moves -2 log L by less than this at the maximum.
SETTLED = 0.01
# Beside a target that quadrature cannot reach (six effects), -2 log L with so many nodes an effect.
FEW_NODES = 3
# The largest slope of -2 log L at a maximum found outside `fit`, each parameter in units of its own size.
SMALL_SLOPE = 1e-4


def make(folder: Path, only: Sequence[str] | None) -> None:
    """Finds the targets, one row a case into saem_targets.json, and prints them."""
    cases = shared.makers(only)
    record = shared.open_record(folder / shared.TARGETS, list(cases))
    for maker in cases.values():
        row = target(maker())
        record.add(row)
        print(line(row), flush=True)


def target(one: Case) -> dict[str, Any]:
    """The maximum of one case as a row: more nodes until doubling them changes nothing, a fit with each. Six effects
    are too many for that, and keep the last of the ladder; a kinked model has an exact likelihood of its own."""
    began = time.perf_counter()
    effects = len(jn.bind(one.model, one.data).density.effect_names)
    fit = jn.fit(one.model, one.data, list(one.ladder), start=one.target_start)
    if one.name in shared.KINKED:
        found = _kinked(one, fit)
    elif one.nodes is None:
        found = _reached(one, fit, None, FEW_NODES)
    else:
        nodes = one.nodes
        while True:
            fit = jn.fit(one.model, one.data, jn.AGQ(nodes), start=fit)
            found = _reached(one, fit, nodes, shared.doubled(nodes, effects))
            settled = abs(found["minus2LL_finer"] - found["minus2LL"]) < SETTLED
            if settled or found["nodes_finer"] < 2 * nodes:
                break
            nodes = found["nodes_finer"]
    return {
        "case": one.name,
        "groups": one.data.n_groups,
        "observations": int(one.data.n_obs),
        "effects": effects,
        **found,
        "truth": one.truth,
        "reference": _reference(one),
        "seconds": time.perf_counter() - began,
    }


def _reached(one: Case, fit: jn.Fit, nodes: int | None, finer: int) -> dict[str, Any]:
    """Where a fit ended, and -2 log L there with `finer` nodes."""
    return {
        "method": fit.method,
        "nodes": nodes,
        "minus2LL": -2.0 * fit.log_likelihood,
        "minus2LL_finer": shared.minus_two_log_likelihood(one, fit.params, finer),
        "nodes_finer": finer,
        "converged": bool(fit.converged),
        "sentences": list(fit.status.sentences[:2]),
        "at_zero": list(fit.at_zero),
        "estimates": shared.estimates(fit),
        "values": {name: shared.number(value) for name, value in fit.values.items()},
    }


def _kinked(one: Case, fit: jn.Fit) -> dict[str, Any]:
    """The exact maximum near a fit, and -2 log L there with twice the points."""
    found, points = saem_plateau.maximum(fit), saem_plateau.POINTS
    return {
        "method": f"{points} Gauss-Legendre points between kinks",
        "nodes": points,
        "minus2LL": found["minus2LL"],
        "minus2LL_finer": shared.minus_two_log_likelihood(one, found["params"], 2 * points),
        "nodes_finer": 2 * points,
        "converged": found["largest_slope"] < SMALL_SLOPE,
        "sentences": [f"BFGS ended where the largest slope of -2 log L is {found['largest_slope']:.1e} (scaled)."],
        "at_zero": [],
        "estimates": found["estimates"],
        "values": {name: float(value) for name, value in one.model.values(found["params"], one.data).items()},
    }


def _reference(one: Case) -> dict[str, Any] | None:
    """What other programs say of the case: saemix's estimates, -2 log L there, and the exact maximum where known."""
    if one.reference is None:
        return None
    kept = ("fixed_effects", "omega", "residual", "table_with_se", "m2ll", "minus2LL_true", "true_mle")
    return {name: one.reference[name] for name in kept}


def line(row: dict[str, Any]) -> str:
    """One target in a line."""
    verdict = "" if row["converged"] else "  NOT CONVERGED"
    known = row["reference"] or {}
    exact = (known.get("true_mle") or {}).get("minus2LL")
    beside = f"  saemix's point {known['minus2LL_true']:.3f}" if known else ""
    beside += f"  known maximum {exact:.4f}" if exact else ""
    zero = f"  {' '.join(row['at_zero'])}" if row["at_zero"] else ""
    return (
        f"{row['case']:30s} -2 log L {row['minus2LL']:12.4f} {row['method']}, "
        f"{row['minus2LL_finer'] - row['minus2LL']:+.4f} with {row['nodes_finer']} nodes{beside}{verdict}{zero}"
    )
