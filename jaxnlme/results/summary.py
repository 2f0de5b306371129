"""Summary of a fit on one page, its convergence first; plain text, and HTML in a notebook."""

from __future__ import annotations

import dataclasses
import html
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme import markup
from jaxnlme.errors import some
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.model.covariance.specification import family_name
from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks
from jaxnlme.results import stochastic_summary
from jaxnlme.results.advice import advice
from jaxnlme.results.display import BAD, GOOD, Table, html_table, number, text_pairs, text_table, wrap
from jaxnlme.results.inference import Information, is_fixed
from jaxnlme.results.settings import SUMMARY

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


class Summary:
    """One page on a fit: `str(summary)` is plain text of fewer than 100 columns, `_repr_html_` the same for notebooks.

    Order: convergence (with reasons, before any number, for a fit that did not converge), method and model, data,
    likelihood, tables of estimates, source of the standard errors. A fit that did not begin has no estimates to show.
    """

    def __init__(self, fit: FitRecord):
        self.fit = fit

    @property
    def has_estimates(self) -> bool:
        """True if the fit has estimates to show."""
        return bool(np.isfinite(np.asarray(self.fit.params.beta)).all())

    def __str__(self) -> str:
        lines = [line for sentence in self._status_sentences() for line in wrap(sentence)]
        lines += ["", *text_pairs(self._model())]
        if self.has_estimates:
            lines += ["", *text_pairs(self._criteria())]
            for table in self._tables():
                lines += ["", *text_table(table)]
        notes = self.notes
        if notes:
            lines.append("")
            lines += [line for note in notes for line in wrap(note)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        sentences = self._status_sentences()
        parts = [markup.paragraphs(sentences, GOOD if self.fit.converged else BAD)]
        parts.append(html_table(Table("", (), self._model())))
        if self.has_estimates:
            parts.append(html_table(Table("", (), self._criteria())))
            parts += [html_table(table) for table in self._tables()]
        parts += [f"<p style='margin:0.2em 0'><small>{html.escape(note)}</small></p>" for note in self.notes]
        return "<div>" + "".join(parts) + "</div>"

    # --- contents ---

    def _status_sentences(self) -> list[str]:
        """The sentences of the status, without the notes on the data, which come last on the page."""
        notes = self.fit.data.notes
        return [sentence for sentence in self.fit.status.sentences if sentence not in notes]

    def _model(self) -> list[tuple[str, str]]:
        """Pairs on method, model and data."""
        fit = self.fit
        density, data = fit.binding.density, fit.data
        structure = fit.model.structure
        name = getattr(structure, "__name__", type(structure).__name__)
        effects = describe_psi(density.covariance, density.effect_names) if density.n_effects else "none"
        columns = f"y {data.y_name}" + "".join(
            f"; {role} {', '.join(names)}"
            for role, names in (
                ("x", [*data.x, *(n for n, c in data.text.items() if c.ndim == 2)]),
                ("v", [*data.v, *(n for n, c in data.text.items() if c.ndim == 1)]),
                ("tables", [*data.tables]),
            )
            if names
        )
        method = f"{fit.method}, restricted likelihood" if fit.restricted else fit.method
        units = "".join(f", {int(level.counts.sum())} units inside ({level.name})" for level in data.nested)
        censored = "" if data.limits is None else f" ({int(data.limits.censored.sum())} of them censored)"
        groups = f"{data.n_groups} groups ({data.group_name}){units}"
        return [
            ("method", f"{method}, {fit.iterations} iterations, {number(fit.timings.get('total', np.nan))} s"),
            ("model", f"{name}; {density.error.formula}"),
            ("random effects", effects),
            *self._held(),
            ("data", f"{groups}, {data.n_obs} observations{censored} in {data.n_rows} rows"),
            ("columns", columns),
            *self._simulation(),
        ]

    def _held(self) -> list[tuple[str, str]]:
        """A pair on the values that the model holds fixed; none where it holds none."""
        effects = [f"sd({name})" for name in self.fit.binding.density.effect_names]
        values = []
        for name, value in self.fit.binding.held.items():
            without = " (no random effect)" if name.startswith("sd(") and name not in effects else ""
            values.append(f"{name} = {number(value)}{without}")
        return [("held fixed", "; ".join(values))] if values else []

    def _simulation(self) -> list[tuple[str, str]]:
        """Pairs on the run of a stochastic fit; none for other fits."""
        sampling, posterior = self.fit.sampling, self.fit.posterior
        if posterior is not None:
            flat = [("flat priors", ", ".join(posterior.flat))] if posterior.flat else []
            return [("posterior", posterior.describe()), *flat]
        if sampling is None:
            return []
        rows = [
            ("simulation", stochastic_summary.describe_run(sampling)),
            ("maximised", sampling.m_step),
            ("Monte Carlo error", stochastic_summary.describe_errors(sampling, self.fit.options["tolerance"])),
            ("replicates", stochastic_summary.describe_replicates(sampling)),
        ]
        return [(name, text) for name, text in rows if text]

    def _criteria(self) -> list[tuple[str, str]]:
        """Pairs on the likelihood and the criteria."""
        c = self.fit.criteria
        counts = ("parameters", f"{c.n_parameters} estimated, {c.n_fixed} fixed")
        sampling = self.fit.sampling
        if sampling is not None and np.isnan(c.log_likelihood):
            reason = "likelihood='none'" if sampling.likelihood == "none" else "the run ended before"
            return [("log-likelihood", f"not computed ({reason}), nor are criteria"), counts]
        integrated = f" (restricted: {c.n_integrated} fixed effects integrated out)" if self.fit.restricted else ""
        minus = f" - {c.n_integrated}" if self.fit.restricted else ""
        without = f", N without {c.n_censored:g} censored responses" if c.n_censored else ""
        method = "" if sampling is None else f" ({stochastic_summary.INTEGRALS[sampling.likelihood]})"
        out = [
            ("log-likelihood", f"{c.log_likelihood:.4f}{integrated}{method}"),
            ("objective", f"{c.objective:.4f} (NONMEM's: -2 log L - N log 2 pi{without})"),
            (
                "criteria",
                f"AIC {c.aic:.2f}   BIC {c.bic:.2f} (N = {c.n_obs:g}{minus} observations)   BIC {c.bic_groups:.2f} "
                f"(N = {c.n_groups:g} groups)",
            ),
            counts,
        ]
        error = float(np.sqrt(np.sum(self.fit.data.weights**2 * self.fit.monte_carlo_variance)))
        if error > 0:
            out.insert(1, ("Monte Carlo SE", f"{number(error)} of the log-likelihood{self._draws()}"))
        if self.fit.posterior is not None:
            at = f"at the posterior means, by {self.fit.posterior.approximation.name}"
            out[0] = (out[0][0], f"{out[0][1]} ({at})")
        elif self.fit.log_prior != 0:
            out.insert(1, ("log prior", f"{self.fit.log_prior:.4f} (added to the log-likelihood: posterior maximum)"))
        return out

    def _draws(self) -> str:
        """Text: the group with the smallest effective number of draws; empty without draws."""
        ess = np.where(self.fit.data.weights != 0, self.fit.ess, np.nan)
        if not np.isfinite(ess).any():
            return ""
        least = int(np.nanargmin(ess))
        return f"; smallest effective number of draws {number(ess[least], 3)} (group {self.fit.data.labels[least]})"

    def _tables(self) -> list[Table]:
        """Tables of estimates and of priors."""
        table = self.fit.estimates
        out = [self._fixed_effects(table[table.kind == "fixed effect"])]
        sds = table[table.kind == "random effect SD"]
        if len(sds):
            out.append(self._random_effects(sds))
        correlations = table[table.kind == "correlation"]
        if len(correlations):
            out.append(Table("Correlations of random effects", _HEADER, [_row(n, r) for n, r in _items(correlations)]))
        errors = table[table.kind == "error"]
        if len(errors):
            title = f"Residual error: {self.fit.binding.density.error.formula}"
            out.append(Table(title, _HEADER, [_row(name, row) for name, row in _items(errors)]))
        priors = self.fit.binding.density.priors
        if priors:
            rows = [(name, _prior(prior)) for name, prior in priors]
            out.append(Table("Priors", ("", "density"), rows))
        return out

    def _fixed_effects(self, table: pd.DataFrame) -> Table:
        """Table of the fixed effects, with natural values where a scale is not the identity."""
        binding = self.fit.binding
        names = binding.density.beta_names
        scales = {n: t.name for n, t in zip(names, binding.transforms, strict=True) if t is not None}
        kinds = set(scales.values())
        if kinds <= {"identity"}:
            return Table("Fixed effects", _HEADER, [_row(name, row) for name, row in _items(table)])
        rows = []
        for name, row in _items(table):
            shown = f"{name} ({scales[name]})" if name in scales and len(kinds) > 1 else name
            natural = (number(row["value"]), _interval(row["value_lower"], row["value_upper"]))
            rows.append((*_row(shown, row), *natural))
        scale = "the scales named" if len(kinds) > 1 else f"{kinds.pop()} scale"
        title = f"Fixed effects on {scale}; value: typical value on the natural scale"
        return Table(title, (*_HEADER, "value", "95% interval"), rows)

    def _random_effects(self, table: pd.DataFrame) -> Table:
        """Table of the SDs of the random effects, with coefficients of variation and shrinkage."""
        shrinkage = self.fit.shrinkage
        rows = []
        for (name, row), shrunk in zip(_items(table), shrinkage, strict=True):
            if row["estimate"] == 0:
                cells = (name, "0", "zero", "", "", "", "")
            else:
                cells = (*_row(name, row), number(row["cv%"], 3), number(shrunk, 3))
            rows.append(cells)
        return Table("Random effects: SD on the transformed scale", (*_HEADER, "cv%", "shrinkage%"), rows)

    @property
    def notes(self) -> list[str]:
        """Sentences on the standard errors, hints (`advice`), and notes on the data."""
        fit, notes = self.fit, []
        if self.has_estimates:
            if fit.posterior is not None:
                notes.append(
                    "estimate, se: posterior mean and standard deviation; intervals are equal-tailed. Quantiles, R-hat "
                    "and effective draws of each value are in fit.estimates and fit.posterior."
                )
            elif fit.information is None:
                notes.append("Standard errors were not computed.")
            elif not fit.information.positive_definite:
                notes.append("No standard errors: the observed information is singular (see the first sentences).")
            else:
                source = "the observed information of all parameters (beta, psi, error)"
                if isinstance(getattr(fit.estimator, "method", None), Linearised):
                    source = "the information of the final linearised model"
                elif fit.sampling is not None:
                    louis = f"{source}, by Louis' method from the draws"
                    linearised = "the information of the model linearised at the conditional modes"
                    source = louis if fit.estimator.information == "louis" else linearised
                notes.append(
                    f"se: from {source}; robust (sandwich) ones "
                    "are in fit.estimates. rse%: relative se, for typical values on their natural scale."
                )
                notes += self._correlation_sentences()
            if fit.criteria.n_free:
                notes.append(
                    f"{fit.criteria.n_free} weights of the structural model were estimated; they are not in the "
                    "information matrix."
                )
            notes += advice(fit)
        return notes + [f"Note: {note}" for note in fit.data.notes]

    def _correlation_sentences(self) -> list[str]:
        """A sentence on the condition number of the estimates' correlation matrix and on large correlations."""
        assert self.fit.information is not None
        matrix, known = self.fit.information.correlations(is_fixed(self.fit.binding))
        if len(known) < 2:
            return []
        names = [self.fit.binding.density.reported_names[k] for k in known]
        pairs = [
            f"{names[j]} and {names[k]} ({matrix[j, k]:.2f})"
            for j, k in zip(*np.tril_indices(len(known), -1), strict=True)
            if abs(matrix[j, k]) > SUMMARY.large_correlation
        ]
        large = f"; above {SUMMARY.large_correlation:g}: {some(pairs)}" if pairs else ""
        return [
            f"Correlations of the estimates: condition number {number(Information.condition_number(matrix))}{large}."
        ]


_HEADER = ("", "estimate", "se", "rse%", "95% interval")


def _items(table: pd.DataFrame) -> list[tuple[str, pd.Series]]:
    return [(str(name), row) for name, row in table.iterrows()]


def _row(name: str, row: pd.Series) -> tuple[str, ...]:
    """Cells of a row of estimates: name, estimate, se, rse%, interval."""
    if row["fixed"]:
        return (name, number(row["estimate"]), "fixed", "", "")
    interval = _interval(row["lower"], row["upper"])
    return (name, number(row["estimate"]), number(row["se"]), number(row["rse%"], 3), interval)


def _interval(lower: float, upper: float) -> str:
    """An interval as text."""
    if lower > 0 and upper > SUMMARY.largest_ratio * lower:
        return "not determined"
    return "" if np.isnan(lower) or np.isnan(upper) else f"[{number(lower)}, {number(upper)}]"


def describe_psi(covariance: AbstractCovariance, effects: Sequence[str]) -> str:
    """The structure of psi with the names of the effects, such as "full psi of ka, cl" or, for blocks,
    "psi of blocks: ka, cl (full); vol"."""
    covariance = covariance.unwrapped
    if not isinstance(covariance, Blocks):
        return f"{_family_text(covariance)} psi of {', '.join(effects)}"
    blocks = []
    for indices, part in covariance.parts:
        names = ", ".join(effects[k] for k in indices)
        blocks.append(names if len(indices) == 1 else f"{names} ({_family_text(part)})")
    return f"psi of blocks: {'; '.join(blocks)}"


def _family_text(covariance: AbstractCovariance) -> str:
    """The name by which users declare a family, or else that of its class in words: RandomWalk -> random walk."""
    declared = family_name(covariance)
    if declared is not None:
        return declared
    name = type(covariance).__name__
    return "".join(f" {c.lower()}" if c.isupper() else c for c in name).strip()


def _prior(prior: object) -> str:
    """A prior as text, such as "Normal(mean=0.4000, sd=0.3000)"."""
    values = ", ".join(f"{f.name}={number(getattr(prior, f.name))}" for f in dataclasses.fields(prior))  # pyright: ignore[reportArgumentType]
    return f"{type(prior).__name__}({values})"
