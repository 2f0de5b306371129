"""Sections on the estimates of a fit and its criteria."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.errors import some
from jaxnlme.report.blocks import Digits, Folded, Grid, Pairs, Section, Text, present
from jaxnlme.report.settings import REPORT
from jaxnlme.results.display import number
from jaxnlme.results.settings import SUMMARY

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

_COLUMNS = {"estimate": "estimate", "se": "se", "rse%": "RSE %", "lower": "lower", "upper": "upper"}
_NATURAL = {"value": "value", "value_lower": "lower", "value_upper": "upper"}


def estimates_section(fit: FitRecord, notes: Sequence[str]) -> Section:
    """Estimates with standard errors and intervals by kind, psi, what the estimates have in common, random effects.

    **Arguments:** `notes` of the summary, on the source of the standard errors.
    """
    table = fit.estimates
    names = fit.binding.density.beta_names
    scales = {n: t.name for n, t in zip(names, fit.binding.transforms, strict=True) if t is not None}
    blocks = [
        _fixed_effects(table[table.kind == "fixed effect"], scales),
        _random_effects(fit, table[table.kind == "random effect SD"]),
        estimates_grid("Correlations of random effects", table[table.kind == "correlation"]),
        estimates_grid("Residual error", table[table.kind == "error"]),
        Text(notes, small=True),
        Text(joint_precision(fit.covariance), small=True),
        _psi(fit),
        _folded_effects(fit),
    ]
    return Section("estimates", "Estimates", present(blocks))


def estimates_grid(title: str, table: pd.DataFrame, more: Mapping[str, Sequence[Any]] | None = None) -> Grid:
    """Rows of a table of estimates: estimate, se, RSE, 95% interval, then further columns.

    **Arguments:** `more`: further columns by name, a cell for each row.
    """
    more = more or {}
    robust = ("robust se",) if "robust se" in table and np.isfinite(table["robust se"].to_numpy(float)).any() else ()
    rows = []
    for k, (name, row) in enumerate(table.iterrows()):
        cells = [row[column] for column in _COLUMNS]
        cells[2] = Digits(row["rse%"], 3)
        if row.get("fixed", False):
            cells[1] = "fixed"
        elif row["lower"] > 0 and row["upper"] > SUMMARY.largest_ratio * row["lower"]:
            cells[3:] = ["not determined", None]
        rows.append((str(name), *cells, *(row[column] for column in robust), *(values[k] for values in more.values())))
    return Grid(title, ("", *_COLUMNS.values(), *robust, *more), rows, "lower, upper: of the 95% interval")


def _fixed_effects(table: pd.DataFrame, scales: dict[str, str]) -> Grid:
    """The fixed effects, with typical values on the natural scale where theirs is another one."""
    if set(scales.values()) <= {"identity"}:
        return estimates_grid("Fixed effects", table)
    natural = {
        "scale": [scales.get(str(name), "") for name in table.index],
        "typical value": list(table["value"]),
        "lower (value)": list(table["value_lower"]),
        "upper (value)": list(table["value_upper"]),
    }
    title = "Fixed effects on the scale named, with typical values on the natural scale"
    return estimates_grid(title, table, natural)


def _random_effects(fit: FitRecord, table: pd.DataFrame) -> Grid:
    """The SDs of the random effects, with coefficients of variation and shrinkage."""
    more = {"CV %": table["cv%"], "shrinkage %": fit.shrinkage}
    more = {name: [Digits(value, 3) for value in values] for name, values in more.items()}
    if not np.isfinite(table["cv%"].to_numpy(float)).any():
        del more["CV %"]
    return estimates_grid("Random effects: standard deviations on the transformed scale", table, more)


def joint_precision(covariance: pd.DataFrame | None) -> list[str]:
    """Sentences on the correlations between estimates: the strong ones, and the condition number of their matrix.

    **Arguments:** `covariance` of the estimates; None where it was not computed.
    """
    if covariance is None:
        return []
    sd = np.sqrt(np.diag(covariance.to_numpy(float)))
    kept = np.flatnonzero(np.isfinite(sd) & (sd > 0))
    if len(kept) < 2:
        return []
    names = [str(name) for name in covariance.index[kept]]
    matrix = covariance.to_numpy(float)[np.ix_(kept, kept)] / np.outer(sd[kept], sd[kept])
    values = np.linalg.eigvalsh(matrix)
    condition = f"{number(values[-1] / values[0], 3)}" if values[0] > 0 else "infinite"
    upper = np.triu_indices(len(kept), 1)
    strong = [
        f"{names[a]} and {names[b]} ({matrix[a, b]:.2f})"
        for a, b in zip(*upper, strict=True)
        if abs(matrix[a, b]) >= REPORT.strong_correlation
    ]
    first = f"Condition number of the correlation matrix of the estimates: {condition}."
    if not strong:
        return [f"{first} No two estimates are correlated by {REPORT.strong_correlation:g} or more."]
    return [f"{first} Estimates that the data hardly tell apart: {some(strong)}."]


def _psi(fit: FitRecord) -> Grid | None:
    """The covariance matrix of the random effects."""
    psi = fit.psi
    if len(psi) < 2:
        return None
    rows = [(str(name), *row) for name, row in zip(psi.index, psi.to_numpy(float).tolist(), strict=True)]
    return Grid("Covariance matrix of the random effects (psi)", ("", *map(str, psi.columns)), rows)


def _folded_effects(fit: FitRecord) -> Folded | None:
    """Conditional modes of the random effects with their standard errors, the first units of each level."""
    effects = fit.random_effects
    try:
        errors = fit.random_effects_se
    except np.linalg.LinAlgError:  # a fit that did not converge may have a singular curvature
        errors = None
    if not isinstance(effects, dict):
        effects, errors = {fit.data.group_name: effects}, {fit.data.group_name: errors}
    errors = dict.fromkeys(effects) if errors is None else errors
    grids = [effects_grid(level, effects[level], errors[level]) for level in effects if len(effects[level].columns)]
    return Folded("Random effects of each unit (conditional modes)", grids) if grids else None


def effects_grid(level: str, effects: pd.DataFrame, errors: pd.DataFrame | None = None) -> Grid:
    """Random effects of the units of a level, with standard errors where there are."""
    count = min(len(effects), REPORT.effects_shown)
    header = [
        label for name in effects.columns for label in ((str(name), "se") if errors is not None else (str(name),))
    ]
    rows = []
    for k in range(count):
        label = effects.index[k]
        values = effects.iloc[k].to_list()
        spread = errors.iloc[k].to_list() if errors is not None else []
        cells = [cell for pair in zip(values, spread, strict=True) for cell in pair] if spread else values
        rows.append((", ".join(map(str, label)) if isinstance(label, tuple) else str(label), *cells))
    note = "" if count == len(effects) else f"The first {count} of {len(effects)}; fit.random_effects has all."
    return Grid(f"By {level}", ("", *header), rows, note)


def criteria_section(fit: Any, pairs: Sequence[tuple[str, str]]) -> Section:
    """The log-likelihood and the criteria, and what they count.

    **Arguments:** `pairs` of the summary on the likelihood.
    """
    criteria = fit.criteria
    rows = [
        ("log-likelihood", criteria.log_likelihood, "restricted" if fit.restricted else ""),
        ("objective", criteria.objective, "-2 log L - N log(2 pi), as NONMEM's"),
        ("AIC", criteria.aic, f"-2 log L + 2 k, k = {criteria.n_parameters} estimated parameters"),
        ("BIC", criteria.bic, f"-2 log L + k log N, N = {criteria.n_used:g} responses"),
        ("BIC groups", criteria.bic_groups, f"-2 log L + k log m, m = {criteria.n_groups:g} groups"),
    ]
    shown = [row for row in rows if np.isfinite(row[1])]
    grid = Grid("", ("", "value", "definition"), shown, digits=7)
    return Section("criteria", "Likelihood and criteria", present([grid, Pairs(list(pairs))]))
