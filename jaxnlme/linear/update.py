"""`LinearFit.update`: the model, its data or its method changed, and fitted again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jaxnlme.arguments import check_choice
from jaxnlme.formulas.mixed import parse_lme, parse_mixed
from jaxnlme.formulas.update import updated_formula, without_random
from jaxnlme.linear.fit import fit_linear
from jaxnlme.linear.record import UNCHANGED, LinearFit
from jaxnlme.linear.residual_model import residual_error


def update(
    fit: LinearFit,
    formula: str | None = None,
    random: str | Mapping[str, str] | None = UNCHANGED,
    data: Any = None,
    *,
    method: str | None = None,
    covariance: Any = UNCHANGED,
    weights: Any = UNCHANGED,
    correlation: Any = UNCHANGED,
    missing: str | None = None,
) -> LinearFit:
    """The LinearFit with some arguments of its call replaced; see `LinearFit.update`."""
    call = dict(fit.call)
    # The table as it was given has the rows that the model leaves out, and other columns.
    frame = call.get("data", fit.model.frame) if data is None else data
    check_choice("method", method, (None, "REML", "ML"))
    check_choice("missing", missing, (None, "error", "drop"))
    if formula is not None:
        call["formula"] = updated_formula(call["formula"], formula, keep_random=random is UNCHANGED)
        if call.get("random") is not None and parse_mixed(call["formula"]).random:
            call["random"] = None  # the new formula has random effects of its own
    if random is not UNCHANGED:
        call["formula"], call["random"] = without_random(call["formula"]), random
    replaced = {"covariance": covariance, "weights": weights, "correlation": correlation}
    call |= {name: value for name, value in replaced.items() if value is not UNCHANGED}
    call |= {name: value for name, value in {"method": method, "missing": missing}.items() if value is not None}
    call["data"] = frame
    parsed = parse_lme(call["formula"], call.get("random"))
    error = residual_error(call["weights"], call["correlation"])
    structures = call.get("covariance") if parsed.random else None
    return fit_linear(parsed, frame, call["method"] == "REML", structures, call["missing"], error, call)
