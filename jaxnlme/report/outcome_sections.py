"""Sections on how a fit ended, on other fits beside it, and on what would repeat it."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.comparison.compare import Comparison, compare
from jaxnlme.errors import OptionError, Status, shown
from jaxnlme.estimators.core.model_digest import binding_digest
from jaxnlme.report.blocks import Digits, Folded, Grid, Section, Text, present
from jaxnlme.report.settings import REPORT
from jaxnlme.results import stochastic_summary
from jaxnlme.results.display import Table, number

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord

_HISTORY = {
    "iteration": "iteration",
    "log_likelihood": "log-likelihood",
    "expected_gain": "expected gain",
    "evaluations": "evaluations",
    "seconds": "seconds",
}


def convergence_section(fit: FitRecord, pictures: Sequence[Any]) -> Section:
    """The last iterations, the groups with a remark, Monte Carlo errors, and the time it took.

    **Arguments:** `pictures` of the iterations.
    """
    blocks = [
        Text(fit.at_zero),
        *pictures,
        _iterations(fit),
        _groups(fit),
        *(text_grid(table) for table in (stochastic_summary.tables(fit.sampling) if fit.sampling is not None else ())),
        _seconds(fit),
    ]
    blocks = present(blocks)
    return Section("convergence", "Convergence", blocks or (Text(("No iteration was made.",)),))


def text_grid(table: Table) -> Grid:
    """A table of text as a Grid."""
    header = table.header or [""] * (len(table.rows[0]) if table.rows else 1)
    return Grid(table.title, header, table.rows)


def _iterations(fit: FitRecord) -> Grid:
    """The last iterations."""
    columns = [name for name in _HISTORY if fit.history and name in fit.history[-1]]
    last = fit.history[-REPORT.iterations_shown :]
    few = {"expected_gain": 2, "seconds": 3}
    rows = [
        [
            Digits(entry[name], few[name]) if name in few and name in entry else _plain(entry.get(name))
            for name in columns
        ]
        for entry in last
    ]
    note = "" if len(last) == len(fit.history) else f"The last {len(last)} of {len(fit.history)}; fit.history has all."
    return Grid("Iterations", [_HISTORY[name] for name in columns], [[str(row[0]), *row[1:]] for row in rows], note, 7)


def _plain(value: Any) -> Any:
    """A whole number as an int."""
    return int(value) if isinstance(value, float) and value.is_integer() and abs(value) < 1e9 else value


def _groups(fit: FitRecord) -> Any:
    """The groups whose status is not "ok"; a sentence where there are none."""
    groups = fit.status.groups
    unusual = groups[groups["status"] != Status.ok.name]
    if not len(unusual):
        return Text((f"The likelihood of each of the {len(groups)} groups was evaluated without a remark.",))
    rows = [
        (str(label), row["status"], row["sentence"]) for label, row in unusual.iloc[: REPORT.groups_shown].iterrows()
    ]
    count = len(unusual)
    note = "" if count == len(rows) else f"The first {len(rows)} of {count}; fit.status.groups has all."
    return Grid("Groups with a remark", ("group", "status", "remark"), rows, note)


def _seconds(fit: FitRecord) -> Folded | None:
    """Seconds by phase."""
    rows = [(name, float(value)) for name, value in fit.timings.items() if name != "evaluations"]
    return Folded("Seconds by phase", [Grid("", ("", "seconds"), rows)]) if rows else None


def check_comparison(fit: Any, others: Any, names: Sequence[str] | None) -> Comparison | None:
    """The comparison of a report: `others` as it is where it is a Comparison, else that of `fit` and the other fits;
    None without any.

    **Arguments:** `others`: a fit, several, or the result of `jn.compare`; `names`: of the fits, this one first.
    **Raises:** OptionError for fits that are not comparable, and names without fits.
    """
    if isinstance(others, Comparison):
        if names is not None:
            raise OptionError("names: the comparison has names already; give them to jn.compare.")
        return others
    fits = list(others) if isinstance(others, (list, tuple)) else [others]
    if not fits:
        if names is not None:
            raise OptionError("names are those of the fits in compare, and there are none.")
        return None
    if any(each is fit for each in fits):
        raise OptionError("compare names the other fits; this one is compared with them without being listed.")
    names = names if names is not None else ["this fit", *(f"fit {k + 2}" for k in range(len(fits)))]
    if isinstance(names, str) or len(names) != len(fits) + 1:
        raise OptionError(f"names must be {len(fits) + 1}, this fit's first; received {shown(names)}.")
    return compare(fit, *fits, names=names, allow_unconverged=True)


def comparison_section(comparison: Comparison) -> Section:
    """Criteria of the fits, their likelihood ratios, and their estimates beside each other."""
    table = comparison.table
    columns = {"log_likelihood": "log-likelihood", "df": "k", "AIC": "AIC", "BIC": "BIC", "BICc": "BICc"}
    columns |= {"delta": f"delta {comparison.criterion}", "weight": "weight", "converged": "converged"}
    rows = [(str(name), *(row[column] for column in columns)) for name, row in table.iterrows()]
    ratios = [
        (f"{before} vs {name}", row["chi2"], int(row["chi2 df"]), Digits(row["p"], 3), row["distribution"])
        for before, (name, row) in zip(comparison.names, list(table.iterrows())[1:], strict=False)
        if row["distribution"]
    ]
    blocks = [
        Text(comparison.sentences),
        Grid("", ("", *columns.values()), rows, digits=6),
        Grid("Likelihood ratios", ("", "chi2", "df", "p", "distribution"), ratios),
        _estimates_beside(comparison),
    ]
    return Section("comparison", "Comparison", present(blocks))


def _estimates_beside(comparison: Comparison) -> Grid:
    """Estimates with standard errors, a column for each fit."""
    tables = [getattr(each.fit, "estimates", None) for each in comparison.candidates]
    names = [*dict.fromkeys(str(name) for table in tables if table is not None for name in table.index)]
    rows = []
    for name in names:
        cells = [None if table is None or name not in table.index else _with_error(table.loc[name]) for table in tables]
        rows.append((name, *cells))
    return Grid("Estimates (standard errors)", ("", *comparison.names), rows)


def _with_error(row: Any) -> str:
    """An estimate with its standard error in brackets."""
    error = "" if np.isnan(row["se"]) else f" ({number(row['se'], 3)})"
    return f"{number(row['estimate'])}{error}"


def settings_section(fit: FitRecord, moment: datetime.datetime) -> Section:
    """Method, options, versions and digests.

    **Arguments:** `moment`: when the report was written.
    """
    options = [(name, str(value)) for name, value in fit.options.items() if value is not None]
    versions = [(name, str(value)) for name, value in fit.versions.items()]
    digests = [("data", fit.fingerprint), ("model", binding_digest(fit.binding))]
    blocks = [
        Grid("Options", ("", "value"), options),
        Grid("Versions", ("", "version"), versions),
        Grid(
            "Digests", ("", "SHA-256"), digests, "Equal digests: the same values of the data, the same model and code."
        ),
        Text((f"Written {moment:%Y-%m-%d %H:%M} {moment:%Z}".rstrip() + ".",), small=True),
    ]
    return Section("settings", "Settings, versions and digests", present(blocks))
