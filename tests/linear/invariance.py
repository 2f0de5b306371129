"""The same fit in other units, with another zero of its covariate, and with shuffled rows."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from tests.linear.reference_calls import call_of, method_of, records, table_of

# Reference fit: response, covariate, and the fixed effects that are slopes in the covariate.
INVARIANCE = {
    "sleepstudy_intslope_REML": ("Reaction", "Days"),
    "BodyWeight_intslope_diet_varPower_corExp_REML": ("weight", "Time"),
    "Milk_int_corCAR1_REML": ("protein", "Time"),
    "Oats_splitplot_nitro_REML": ("yield", "nitro"),
    "Oxboys_intslope_ML": ("height", "age"),
}
UNITS_OF_Y, UNITS_OF_X, ZERO_OF_X = 1e6, 1e-6, 1000.0


def differences(reference: Path, name: str) -> dict[str, float]:
    """By change of the table: log-likelihood units that the fit moves beside the known constants, and the largest
    change of a fitted value in residual standard deviations, as `predictions of ...`.

    y times c subtracts n log c from the log-likelihood, n the number of rows, by REML less that of the fixed effects.
    x times s makes k columns of X s times as large, which adds -k log s to the restricted log-likelihood.
    """
    record = records(reference)[name]
    response, covariate = INVARIANCE[name]
    table, call = table_of(reference, record["dataset"]), call_of(record)
    assert call is not None
    fit = call.fit(table, method_of(record))
    names = list(fit.beta.index)
    slopes = sum(covariate in str(effect) for effect in names) if fit.restricted else 0
    rows = fit.model.n_rows - (len(names) if fit.restricted else 0)
    order = np.random.default_rng(1).permutation(len(table))
    changed = {
        "y times 1e6": (table.assign(**{response: table[response] * UNITS_OF_Y}), -rows * math.log(UNITS_OF_Y)),
        "x times 1e-6": (table.assign(**{covariate: table[covariate] * UNITS_OF_X}), -slopes * math.log(UNITS_OF_X)),
        "x plus 1000": (table.assign(**{covariate: table[covariate] + ZERO_OF_X}), 0.0),
        "shuffled": (table.iloc[order].reset_index(drop=True), 0.0),
    }
    out: dict[str, float] = {}
    for label, (frame, constant) in changed.items():
        other = call.fit(frame, method_of(record))
        fitted = other.fitted / (UNITS_OF_Y if label == "y times 1e6" else 1.0)
        before = fit.fitted[order] if label == "shuffled" else fit.fitted
        out[label] = abs(other.log_likelihood - fit.log_likelihood - constant)
        out[f"predictions of {label}"] = float(np.max(np.abs(fitted - before))) / fit.outcome.sigma
        out[f"converged of {label}"] = float(other.converged)
    return out


def moved(result: dict[str, Any], part: str) -> float:
    """The largest entry of `differences`: of "log-likelihood" or of "predictions"."""
    labels = ("y times 1e6", "x times 1e-6", "x plus 1000", "shuffled")
    return max(result[label if part == "log-likelihood" else f"predictions of {label}"] for label in labels)
