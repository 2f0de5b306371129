"""F tests of the terms of a formula: sequential, marginal, and of type III."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_choice
from jaxnlme.errors import OptionError, shown, some
from jaxnlme.linear.inference.degrees_of_freedom import degrees_of_freedom
from jaxnlme.linear.inference.reference_grid import ReferenceGrid, reference_grid
from jaxnlme.linear.inference.settings import INFERENCE
from jaxnlme.linear.inference.wald import f_test
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    from jaxnlme.formulas.term_factors import TermFactors
    from jaxnlme.linear.record import LinearFit

TYPES = ("sequential", "marginal", "III")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Anova(Printable):
    """F tests of the terms of a formula.

    **Fields:** `table`: a row per term with num_df, den_df, F and p; `hypotheses`: for each term the matrix L of L
    beta = 0; `type`; `df`: the method of the denominator degrees of freedom; `sentences`.
    """

    table: pd.DataFrame
    hypotheses: dict[str, pd.DataFrame]
    type: str
    df: str
    sentences: tuple[str, ...]

    def _tables(self) -> list[Table]:
        rows = [
            (str(name), f"{row['num_df']:g}", number(row["den_df"]), number(row["F"]), p_text(row["p"]))
            for name, row in self.table.iterrows()
        ]
        return [Table("F tests", ("", "num df", "den df", "F", "p"), rows)]


def p_text(value: float) -> str:
    """A p value with three digits; below 1e-16 a bound."""
    return "<1e-16" if value < 1e-16 else number(value, 3)


def anova(fit: LinearFit, type: str, df: str | None, weighted: bool | None) -> Anova:
    """The Anova of `LinearFit.anova`."""
    check_choice("type", type, TYPES)
    if weighted is not None and not isinstance(weighted, bool):
        raise OptionError(f"weighted must be True, False or None; received {shown(weighted)}.")
    if weighted is not None and type != "sequential":
        raise OptionError(f"weighted={weighted} is an option of type='sequential'; leave it out for type={type!r}.")
    if not fit.model.fixed.names:
        raise OptionError(f"{fit.call['formula']!r} has no fixed effects, so that there is no term to test.")
    method = degrees_of_freedom(fit, df)
    terms = fit.model.fixed.terms
    if type == "sequential":
        weighted = method.name not in ("satterthwaite", "kenward-roger") if weighted is None else weighted
        hypotheses, sentence = sequential(fit, weighted), _SEQUENTIAL[weighted]
    elif type == "marginal":
        identity = np.eye(len(fit.outcome.beta))
        hypotheses, sentence = {label: identity[columns] for label, columns in terms}, _MARGINAL
    else:
        hypotheses, sentence = type_three(fit), _TYPE_THREE
    beta, names = fit.outcome.beta, list(fit.model.fixed.names)
    table = pd.DataFrame({label: f_test(method, rows, rows @ beta, label) for label, rows in hypotheses.items()}).T
    sentences = (sentence, f"Denominator degrees of freedom: {method.name}.", *zero_variances(fit))
    frames = {label: pd.DataFrame(rows, columns=names) for label, rows in hypotheses.items()}
    return Anova(table, frames, type, method.name, sentences)


def zero_variances(fit: LinearFit) -> tuple[str, ...]:
    """The sentences on variances estimated as zero, and on a fit that did not converge, of a fit."""
    return (*(() if fit.converged else fit.status.sentences[:1]), *fit.at_zero)


_SEQUENTIAL = {
    False: "Sequential (type I) tests: each term after those above it, by least squares.",
    True: "Sequential tests: each term after those above it, by generalised least squares.",
}
_MARGINAL = (
    "Marginal tests: the coefficients of each term are zero; of a term that interactions contain these are its effects "
    "where the other variables are zero or at their first category."
)
_TYPE_THREE = (
    "Type III tests: the effects of each term averaged, with equal weights, over the categories of the terms that "
    "contain it."
)


def sequential(fit: LinearFit, weighted: bool) -> dict[str, np.ndarray]:
    """Hypotheses of each term after those before it, with the terms after it ignored: the rows of the triangular factor
    of X'X, or of X'V^-1 X where `weighted`."""
    if weighted:
        inverse = np.linalg.inv(fit.outcome.beta_covariance)
        R = np.linalg.cholesky(0.5 * (inverse + inverse.T)).T
    else:
        R = fit.problem.R
    R = R / np.diag(R)[:, None]
    return {label: R[columns] for label, columns in fit.model.fixed.terms}


def type_three(fit: LinearFit) -> dict[str, np.ndarray]:
    """Hypotheses of type III, from the rows of the design at all combinations of categories.

    Terms with the same numeric factors are coefficients of these as a function of the categories; the effect of a term
    in its categories is the contrast among them, averaged with equal weights over all other categories.

    **Raises:** OptionError where combinations of categories do not occur, so that type III is not unique.
    """
    grid, fixed = reference_grid(fit), fit.model.fixed
    if fixed.aliased:
        raise OptionError(
            f"type='III' is not unique where columns are left out because others determine them "
            f"({some(list(fixed.aliased))}), as where the data lack combinations of categories: use type='marginal' or "
            "'sequential', or fit.contrast."
        )
    return {term.label: _of_term(fit, grid, term) for term in grid.predictors.terms}


def _of_term(fit: LinearFit, grid: ReferenceGrid, term: TermFactors) -> np.ndarray:
    """The hypotheses of one term (columns of the term, fixed)."""
    same = [other for other in grid.predictors.terms if other.numeric == term.numeric]
    used = np.zeros(len(fit.outcome.beta), bool)
    for other in same:
        used[other.columns] = True
    among = {other.categorical for other in same}
    weights = np.ones((1, 1))
    for name, levels in grid.levels.items():
        count = len(levels)
        if name not in term.categorical:
            part = np.full((1, count), 1.0 / count)
        elif term.categorical - {name} in among:
            part = np.eye(count)[1:] - np.eye(count)[:1]
        else:
            part = np.eye(count)
        weights = np.kron(weights, part)
    size = term.columns.stop - term.columns.start
    rows_of_data = INFERENCE.numeric_rows if term.numeric else 1
    available = len(grid.numeric) if term.numeric else 1
    while True:
        found = [weights @ (grid.design(values) * used) for values in grid.numeric_rows(rows_of_data)]
        stacked = np.concatenate(found)
        scale = np.abs(stacked).max()
        _, values, vectors = np.linalg.svd(stacked / (scale or 1.0), full_matrices=False)
        rank = int(np.sum(values > INFERENCE.rank_tolerance * values[0])) if values[0] > 0 else 0
        if rank >= size or rows_of_data >= available:
            break
        rows_of_data *= 8
    if rank != size:
        raise OptionError(
            f"type='III': the effects of {term.label!r} averaged over the other categories have {rank} degrees of "
            f"freedom, and the term has {size} coefficients; use type='marginal', or fit.contrast."
        )
    return vectors[:rank]
