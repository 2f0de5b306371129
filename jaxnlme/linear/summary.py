"""Summary of a linear mixed model on one page, its convergence first."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme import markup
from jaxnlme.results.display import BAD, GOOD, Table, html_table, number, text_pairs, text_table, wrap

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.linear.record import LinearFit


class LinearSummary:
    """One page on a fit: text when printed, HTML in a notebook."""

    def __init__(self, fit: LinearFit):
        self.fit = fit

    def __str__(self) -> str:
        sentences = self._sentences()
        lines = [line for sentence in sentences for line in wrap(sentence)]
        lines += ["", *text_pairs(self._pairs())]
        for table in self._tables():
            lines += ["", *text_table(table)]
        for note in self.fit.model.notes:
            lines += ["", *wrap(f"Note: {note}")]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        parts = [markup.paragraphs(self._sentences(), GOOD if self.fit.converged else BAD)]
        parts += [html_table(Table("", (), self._pairs())), *(html_table(table) for table in self._tables())]
        notes = [
            f"<p style='margin:0.2em 0'><small>Note: {html.escape(note)}</small></p>" for note in self.fit.model.notes
        ]
        return f"<div>{''.join([*parts, *notes])}</div>"

    def _sentences(self) -> list[str]:
        """The sentences of the status without the notes on the data, which come last on the page."""
        return [sentence for sentence in self.fit.status.sentences if sentence not in self.fit.model.notes]

    def _pairs(self) -> list[tuple[str, str]]:
        """Pairs on model, method, data and likelihood."""
        fit, criteria = self.fit, self.fit.criteria
        formula = fit.model.formula
        kind = "restricted log-likelihood" if fit.restricted else "log-likelihood"
        minus = f" - {criteria.n_integrated}" if fit.restricted else ""
        return [
            ("model", f"{formula.response} ~ {formula.fixed}"),
            *(("random", f"{' + '.join(g.effects)} | {g.label}, {g.units.count} units") for g in fit.model.groupings),
            ("method", fit.method),
            ("data", f"{fit.model.n_rows} rows"),
            (kind, f"{fit.log_likelihood:.4f}"),
            ("criteria", f"AIC {fit.aic:.2f}   BIC {fit.bic:.2f} (N = {criteria.n_obs:g}{minus})"),
            ("parameters", f"{criteria.n_parameters} estimated"),
        ]

    def _tables(self) -> list[Table]:
        """Tables of estimates by kind."""
        table, out = self.fit.estimates, []
        for kind, title in (
            ("fixed effect", "Fixed effects"),
            ("random effect SD", "Random effects: standard deviations"),
            ("correlation", "Correlations of random effects"),
            ("error", "Residuals"),
        ):
            rows = table[table.kind == kind]
            if len(rows):
                cells = [_cells(str(name), row) for name, row in rows.iterrows()]
                out.append(Table(title, ("", "estimate", "se", "rse%", "95% interval"), cells))
        return out


def _cells(name: str, row: pd.Series) -> tuple[str, ...]:
    """Cells of a row of estimates."""
    interval = "" if np.isnan(row["lower"]) else f"[{number(row['lower'])}, {number(row['upper'])}]"
    return name, number(row["estimate"]), number(row["se"]), number(row["rse%"], 3), interval
