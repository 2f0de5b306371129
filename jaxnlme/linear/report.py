"""The page of a fitted linear mixed model for `fit.report`."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.diagnostics.effects.hypothesis_tests import normality_tests
from jaxnlme.drawing.marks import dots, identity_line, normal_quantiles, smooth
from jaxnlme.drawing.panels import Panels, axes_in_row, write_title
from jaxnlme.drawing.style import DARK, in_style, style_axes
from jaxnlme.errors import JaxnlmeError
from jaxnlme.estimators.core.record import versions
from jaxnlme.markup import formula
from jaxnlme.report.blocks import Digits, Folded, Formulas, Grid, Page, Pairs, Section, Text, present
from jaxnlme.report.contents import ReportOptions, records_of
from jaxnlme.report.estimate_sections import criteria_section, effects_grid, estimates_grid, joint_precision
from jaxnlme.report.outcome_sections import comparison_section
from jaxnlme.report.pictures import chosen, draw_by, missing_library
from jaxnlme.report.settings import REPORT

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit

_KINDS = {
    "fixed effect": "Fixed effects",
    "random effect SD": "Random effects: standard deviations",
    "correlation": "Correlations of random effects",
    "error": "Residuals",
}
PICTURES = {"residuals": ("Residuals", {})}


def page_of_linear(fit: LinearFit, options: ReportOptions) -> Page:
    """The page of a LinearFit; its one picture is "residuals"."""
    wanted = chosen(options.pictures, PICTURES)
    absent = missing_library() if wanted else None
    drawn: list[Any] = [absent] if absent is not None else []
    if wanted and absent is None:
        drawn = [draw_by(lambda: residual_panels(fit), "Residuals")]
    sections = [_model(fit), _data(fit), _estimates(fit), criteria_section(fit, ()), _diagnostics(fit, drawn)]
    sections.append(_convergence(fit))
    if options.comparison is not None:
        sections.append(comparison_section(options.comparison))
    sections.append(_settings(fit, options))
    text = fit.model.formula
    criteria = fit.criteria
    name = "restricted log-likelihood" if fit.restricted else "log-likelihood"
    values = [(name, fit.log_likelihood), ("AIC", criteria.aic), ("BIC", criteria.bic)]
    figures: list[tuple[str, Any]] = [(label, Digits(float(v), 6)) for label, v in values if np.isfinite(v)]
    return Page(
        options.title or f"{text.response} ~ {text.fixed}, fitted by {fit.method}",
        f"Linear model of {fit.model.n_rows} rows" + "".join(_units(fit, ", ")),
        "good" if fit.converged else "bad",
        [sentence for sentence in fit.status.sentences if sentence not in fit.model.notes],
        [*figures, ("parameters estimated", criteria.n_parameters)],
        sections,
        _record(fit),
    )


def _units(fit: LinearFit, mark: str) -> list[str]:
    """Numbers of units by grouping factor."""
    return [f"{mark}{grouping.units.count} units of {grouping.label}" for grouping in fit.model.groupings]


def _model(fit: LinearFit) -> Section:
    """Formula and equations."""
    text = fit.model.formula
    pairs = [("fixed effects", f"{text.response} ~ {text.fixed}")]
    pairs += [("random effects", f"{' + '.join(g.effects)} | {g.label}") for g in fit.model.groupings]
    terms = ["<i>X&beta;</i>", *(f"<i>Z</i><sub>{html.escape(g.label)}</sub><i>b</i>" for g in fit.model.groupings)]
    lines = [f"<i>{html.escape(str(text.response))}</i> = {' + '.join(terms)} + <i>e</i>"]
    lines += [
        f"<i>b</i> ~ N(0, <i>&Psi;</i><sub>{html.escape(g.label)}</sub>) for each unit of {html.escape(g.label)}"
        for g in fit.model.groupings
    ]
    if fit.residual is None:
        lines.append("<i>e</i> ~ N(0, <i>&sigma;</i><sup>2</sup>)")
    else:
        lines.append(f"residuals: {formula(fit.residual.error.formula)}")
    return Section("model", "Model", [Pairs(pairs), Formulas(lines)])


def _data(fit: LinearFit) -> Section:
    """Rows, units, and the response."""
    y = np.asarray(fit.model.y, float)
    pairs = [("rows", str(fit.model.n_rows))]
    for grouping in fit.model.groupings:
        sizes = np.bincount(np.asarray(grouping.units.codes))
        pairs.append((f"units of {grouping.label}", f"{grouping.units.count}, of {sizes.min()} to {sizes.max()} rows"))
    row = (str(fit.model.formula.response), y.mean(), y.std(ddof=1), y.min(), float(np.median(y)), y.max())
    response = Grid("Response", ("", "mean", "SD", "min", "median", "max"), [row])
    notes = Text([f"Note: {note}" for note in fit.model.notes], small=True)
    return Section("data", "Data", present([Pairs(pairs), response, notes]))


def _estimates(fit: LinearFit) -> Section:
    """Estimates by kind, tests of the fixed effects, psi, random effects."""
    table = fit.estimates
    blocks: list[Any] = [estimates_grid(title, table[table.kind == kind]) for kind, title in _KINDS.items()]
    try:
        tests = fit.coefficients()
    except JaxnlmeError as error:  # tests need the information of the variance parameters
        blocks.append(Text((f"No tests of the fixed effects: {error}",)))
    else:
        columns = [name for name in ("estimate", "se", "df", "t", "p") if name in tests]
        rows = [(str(name), *(row[column] for column in columns)) for name, row in tests.iterrows()]
        blocks.append(Grid("Tests of the fixed effects", ("", *columns), rows))
    blocks.append(Text(joint_precision(fit.covariance), small=True))
    for label, psi in fit.psi.items():
        if len(psi) > 1:
            rows = [(str(n), *values) for n, values in zip(psi.index, psi.to_numpy(float).tolist(), strict=True)]
            blocks.append(Grid(f"Covariance matrix of the random effects of {label}", ("", *psi.columns), rows))
    effects = [effects_grid(label, table) for label, table in fit.random_effects.items()]
    blocks.append(Folded("Random effects of each unit (conditional means)", effects) if effects else None)
    return Section("estimates", "Estimates", present(blocks))


def _diagnostics(fit: LinearFit, pictures: list[Any]) -> Section:
    """Tests of the residuals and their pictures."""
    rows = [(kind, *tests_of(np.asarray(fit.residuals(kind), float))) for kind in ("pearson", "normalized")]
    large = f"beyond {REPORT.large_residual:g}"
    header = ("", "n", "mean", "p (mean 0)", "SD", "skewness", "kurtosis", "p (normal)", large)
    meaning = (
        "pearson: divided by the residual standard deviation; normalized: also independent, where the model's "
        "correlation holds. Residuals at the conditional means of the random effects vary less than those of the model."
    )
    blocks = [Grid("Residuals", header, rows), Text((meaning,), small=True), *pictures]
    return Section("diagnostics", "Diagnostics", present(blocks))


def tests_of(values: np.ndarray) -> tuple[Any, ...]:
    """n, mean, p of the test of mean zero, SD, skewness, excess kurtosis, p of the test of normality (those of
    `normality_tests`), and the number of values beyond `REPORT.large_residual`."""
    from scipy.stats import kurtosis

    values = values[np.isfinite(values)]
    n, spread = len(values), float(np.std(values, ddof=1))
    large = int((np.abs(values) > REPORT.large_residual).sum())
    if spread == 0 or n < 8:  # too few for a test, or all the same
        return n, float(values.mean()), None, spread, None, None, None, large
    mean, shape = normality_tests(values)
    p_mean, p_normal = Digits(mean["p"], 3), Digits(shape["p"], 3)
    return n, mean["estimate"], p_mean, spread, shape["estimate"], float(kurtosis(values)), p_normal, large


def _convergence(fit: LinearFit) -> Section:
    """The end of the search."""
    minimum = fit.outcome.estimation.minimum
    rows = [("iterations", minimum.iterations), ("expected gain of a further step", float(minimum.decrement))]
    return Section("convergence", "Convergence", present([Text(fit.at_zero), Grid("", ("", "value"), rows)]))


def _settings(fit: LinearFit, options: ReportOptions) -> Section:
    """Arguments of the call, versions, digest of the responses."""
    given = {name: value for name, value in fit.call.items() if name != "data" and value is not None}
    blocks = [
        Grid("Arguments", ("", "value"), [(name, str(value)) for name, value in given.items()]),
        Grid("Versions", ("", "version"), list(versions().items())),
        Grid("Digests", ("", "SHA-256"), [("responses", fit.fingerprint), ("fixed effects", fit.fixed_effects_design)]),
        Text((f"Written {options.moment:%Y-%m-%d %H:%M %Z}.",), small=True),
    ]
    return Section("settings", "Settings, versions and digests", present(blocks))


@in_style
def residual_panels(fit: LinearFit) -> Panels:
    """Observations and Pearson residuals against fitted values, and the normal quantiles of the residuals."""
    panels = axes_in_row(None, 3, (9.6, 3.3))
    fitted, residual = np.asarray(fit.fitted, float), np.asarray(fit.residuals("pearson"), float)
    y = fitted + np.asarray(fit.residuals("response"), float)
    dots(panels[0], fitted, y)
    identity_line(panels[0], fitted, y)
    panels[0].set(xlabel="fitted", ylabel=str(fit.model.formula.response))
    panels[1].axhline(0.0, color=DARK, lw=1.0, zorder=1)
    dots(panels[1], fitted, residual)
    smooth(panels[1], fitted, residual)
    panels[1].set(xlabel="fitted", ylabel="residual (Pearson)")
    normal_quantiles(panels[2], residual)
    panels[2].set_ylabel("residual (Pearson)")
    for ax in panels:
        style_axes(ax)
    write_title(panels, f"Residuals by {fit.method}", True, fit.converged)
    return panels


def _record(fit: LinearFit) -> dict[str, Any]:
    """The numbers of the fit for programs."""
    criteria = fit.criteria
    return {
        "method": fit.method,
        "converged": fit.converged,
        "status": list(fit.status.sentences),
        "rows": fit.model.n_rows,
        "log_likelihood": fit.log_likelihood,
        "aic": criteria.aic,
        "bic": criteria.bic,
        "n_parameters": criteria.n_parameters,
        "sigma": fit.sigma,
        "estimates": records_of(fit.estimates),
        "psi": {label: {str(n): row.to_dict() for n, row in psi.iterrows()} for label, psi in fit.psi.items()},
        "versions": versions(),
    }
