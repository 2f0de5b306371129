"""Denominator degrees of freedom of tests of fixed effects: containment, residual, normal; choice of a method."""

from __future__ import annotations

import abc
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from jaxnlme.arguments import check_choice
from jaxnlme.errors import OptionError
from jaxnlme.linear.inference.settings import INFERENCE

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit

METHODS = ("satterthwaite", "kenward-roger", "containment", "residual", "normal")


class DegreesOfFreedom(abc.ABC):
    """Covariance of the fixed effects and denominator degrees of freedom of linear combinations L beta.

    **Fields:** `name` of the method; `covariance` (fixed, fixed), from which standard errors are computed.
    """

    name: str
    covariance: np.ndarray

    @abc.abstractmethod
    def of_contrast(self, row: np.ndarray) -> float:
        """The degrees of freedom of the t test of one combination (fixed,)."""

    @abc.abstractmethod
    def of_joint(self, rows: np.ndarray) -> tuple[float, float]:
        """The factor of the F statistic and its denominator degrees of freedom, for `rows` (rank, fixed) of full rank
        and uncorrelated estimates."""

    def of_column(self, column: int) -> float:
        """The degrees of freedom of the t test of one fixed effect."""
        return self.of_contrast(np.eye(len(self.covariance))[column])

    def of_term(self, label: str, rows: np.ndarray) -> tuple[float, float]:
        """As `of_joint`, for the hypothesis `rows` of the term `label` of the formula."""
        return self.of_joint(rows)


class FixedNumber(DegreesOfFreedom):
    """One number for every test: rows less fixed effects, or infinity."""

    def __init__(self, name: str, covariance: np.ndarray, value: float):
        self.name, self.covariance, self.value = name, covariance, value

    def of_contrast(self, row: np.ndarray) -> float:
        return self.value

    def of_joint(self, rows: np.ndarray) -> tuple[float, float]:
        return 1.0, self.value


class Containment(DegreesOfFreedom):
    """Degrees of freedom of the stratum that a column or term is estimated in.

    With nested levels 1, ..., K of m_1, ..., m_K units, m_0 = 1 with an intercept and 0 without, and m_K+1 rows, a
    column belongs to the innermost level within whose next outer units it varies, and a term to that of its innermost
    column. Level k with p_k columns has m_k - m_(k-1) - p_k degrees of freedom; the intercept has the largest number of
    all. A linear combination of several coefficients has the smallest of theirs; in it the intercept counts as
    estimated between the units of the outermost level, m_1 - 1.

    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, section 2.4.2.
    """

    name = "containment"

    def __init__(
        self,
        covariance: np.ndarray,
        columns: np.ndarray,
        terms: Mapping[str, float],
        intercept: int | None,
        groups: int,
    ):
        self.covariance, self.columns, self.terms = covariance, columns, terms
        self.intercept, self.groups = intercept, groups

    def of_column(self, column: int) -> float:
        return float(self.columns[column])

    def of_contrast(self, row: np.ndarray) -> float:
        return self.of_joint(np.atleast_2d(row))[1]

    def of_joint(self, rows: np.ndarray) -> tuple[float, float]:
        size = np.abs(rows)
        used = (size > INFERENCE.least_coefficient * size.max(axis=1, keepdims=True)).any(axis=0)
        values = self.columns.copy()
        if self.intercept is not None and self.groups:
            values[self.intercept] = self.groups - 1
        return 1.0, float(values[used].min()) if used.any() else float("nan")

    def of_term(self, label: str, rows: np.ndarray) -> tuple[float, float]:
        return 1.0, self.terms[label]


def containment(fit: LinearFit) -> Containment:
    """The Containment of a fit with nested levels."""
    problem, fixed = fit.problem, fit.model.fixed
    X, p = problem.X, problem.n_fixed
    varies = np.stack([_varies(X, np.zeros(1, int)), *(_varies(X, level.starts) for level in problem.levels)])
    stratum = np.array([np.flatnonzero(varies[:, k]).max(initial=-1) for k in range(p)], int)
    counts = [*(len(level.starts) for level in problem.levels), len(X)]
    constant = np.flatnonzero(stratum < 0)
    intercept = int(constant[0]) if constant.size else None
    differences = np.diff([1 if constant.size else 0, *counts]).astype(float)
    if not constant.size:
        # Without an intercept the columns of the outermost level span one.
        differences = np.diff([0, *counts]).astype(float)
        differences[1:] += 1.0
    by_column = _strata(stratum, np.ones(p), differences)
    term_stratum = np.array([stratum[columns].max() for _, columns in fixed.terms], int)
    sizes = np.array([columns.stop - columns.start for _, columns in fixed.terms], float)
    by_term = _strata(term_stratum, sizes, differences)
    terms = {label: float(value) for (label, _), value in zip(fixed.terms, by_term, strict=True)}
    return Containment(fit.outcome.beta_covariance, by_column, terms, intercept, counts[0] if problem.levels else 0)


def _varies(X: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """True for the columns that vary within some unit (fixed,)."""
    spread = np.maximum.reduceat(X, starts, axis=0) - np.minimum.reduceat(X, starts, axis=0)
    return spread.max(axis=0) > INFERENCE.constant * np.abs(X).max(axis=0)


def _strata(stratum: np.ndarray, sizes: np.ndarray, differences: np.ndarray) -> np.ndarray:
    """The degrees of freedom of columns or terms in their strata; -1 is that of the intercept."""
    values = differences.copy()
    np.subtract.at(values, stratum[stratum >= 0], sizes[stratum >= 0])
    return np.where(stratum >= 0, values[stratum], values.max())


def degrees_of_freedom(fit: LinearFit, method: str | None) -> DegreesOfFreedom:
    """The DegreesOfFreedom of a fit by the name of the method; None is "satterthwaite", without random effects
    "residual". Each is computed once for a fit.

    **Raises:** OptionError for an unknown method, one that is not defined for the fit, and models without fixed
    effects; FitError where the information of the variance parameters is not positive definite.
    """
    check_choice("df", method, (*METHODS, None))
    if not len(fit.outcome.beta):
        raise OptionError("the formula has no fixed effects, so that there is nothing to test.")
    if method is None:
        method = "satterthwaite" if fit.model.groupings else "residual"
    known = fit._df_methods
    if method not in known:
        known[method] = _made(fit, method)
    return known[method]


def _made(fit: LinearFit, method: str) -> DegreesOfFreedom:
    """The DegreesOfFreedom by the name of the method."""
    from jaxnlme.linear.inference.kenward_roger import kenward_roger
    from jaxnlme.linear.inference.satterthwaite import satterthwaite

    covariance = fit.outcome.beta_covariance
    if method == "normal":
        return FixedNumber(method, covariance, float("inf"))
    if method == "residual":
        return FixedNumber(method, covariance, float(fit.model.n_rows - len(covariance)))
    if method == "satterthwaite":
        return satterthwaite(fit)
    if method == "kenward-roger":
        return kenward_roger(fit)
    if not fit.model.nested:
        raise OptionError(
            "df='containment' needs nested grouping factors, and those of this model are crossed: use "
            "df='satterthwaite', or 'kenward-roger' after REML."
        )
    return containment(fit)


def uncorrelated(
    rows: np.ndarray, estimates: np.ndarray, covariance: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Combinations of `rows` (hypotheses, fixed) with uncorrelated estimates, as many as their rank, their estimates,
    and their variances.

    Satterthwaite's degrees of freedom of several hypotheses depend on the combinations that are tested separately: as
    in lmerTest these are the eigenvectors of the covariance of the rows as they are; of rows over their standard errors
    where some depend on others, or where their sizes differ too much.
    """
    size = np.sqrt(np.maximum(np.einsum("ij,jk,ik->i", rows, covariance, rows), np.finfo(float).tiny))
    scaled, found = rows / size[:, None], estimates / size
    values, vectors = np.linalg.eigh(scaled @ covariance @ scaled.T)
    kept = values > INFERENCE.rank_tolerance * values[-1]
    if kept.all() and (size.min() / size.max()) ** 2 > INFERENCE.rank_tolerance:
        scaled, found = rows, estimates
        values, vectors = np.linalg.eigh(scaled @ covariance @ scaled.T)
    return vectors[:, kept].T @ scaled, vectors[:, kept].T @ found, values[kept]


def weighted_df(values: Sequence[float] | np.ndarray) -> float:
    """Denominator degrees of freedom of a mean of squares of independent t variables, by matching the expectation
    sum nu / (nu - 2) of an F variable.

    **Source:** Fai and Cornelius (1996), Journal of Statistical Computation and Simulation 54; Kuznetsova, Brockhoff
    and Christensen (2017), Journal of Statistical Software 82(13), appendix.
    """
    nu = np.asarray(values, float)
    if len(nu) == 1 or np.all(np.abs(np.diff(nu)) < INFERENCE.equal_df):
        return float(nu.mean())
    if np.any(nu <= 2.0):
        return 2.0
    expected = float(np.sum(nu / (nu - 2.0)))
    return 2.0 * expected / (expected - len(nu))
