"""Correlation C of the standardised residuals of one group, R = S C S with S = diag(scale).

A user of a Gaussian residual model needs four operations, all of which a factor T of C^-1 = T' T gives:

| operation | of |
|---|---|
| `whiten(r)` = T r | densities, Gauss-Newton curvatures (columns of a Jacobian), linear mixed models |
| `half_logdet` = log abs(C) / 2 | densities |
| `interaction(d)` | the term of the residual scale in FOCEI's curvature |
| `color(noise)` | simulation |

With d_k = d log scale / dz_k, (1/2) tr(R^-1 R_k R^-1 R_l) = d_k' (I + C^-1 o C) d_l, o the elementwise product; without
correlation it is 2 sum d_k d_l. Rows without a response, and padding, are independent of all others.
"""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError, OptionError, shown, some
from jaxnlme.model.residual_error.error_parameter import ErrorParameter
from jaxnlme.model.settings import MODEL
from jaxnlme.typing import Scalar, Vector

# Vectors (obs,) whose products with others are summed over rows and vectors.
Vectors = tuple[Vector, ...]


class AbstractFactor(eqx.Module):
    """The inverse factor T of the correlation of one group at given parameters."""

    @property
    @abc.abstractmethod
    def half_logdet(self) -> Scalar:
        """log|C| / 2."""

    @abc.abstractmethod
    def whiten(self, residual: Vector) -> Vector:
        """T r for standardised residuals r (obs,); linear in r."""

    @abc.abstractmethod
    def interaction(self, slopes: Vector) -> tuple[Vectors, Vectors]:
        """Vectors l_k and r_k of `slopes` d_k (obs,), such that the sum of the products of l_k and r_m over vectors and
        rows is d_k' (I + C^-1 o C) d_m."""


class Independent(AbstractFactor):
    """The factor of independent residuals: T = I."""

    @property
    def half_logdet(self) -> Scalar:
        return jnp.zeros(())

    def whiten(self, residual: Vector) -> Vector:
        return residual

    def interaction(self, slopes: Vector) -> tuple[Vectors, Vectors]:
        part = (2.0**0.5 * slopes,)
        return part, part


@dataclasses.dataclass(frozen=True)
class Bound:
    """A parameter of a correlation at a bound: its `name`; `independent`: true where residuals are then independent (a
    model with one parameter less); `inside`: values of its entry of theta off the bound, where the likelihood may be
    higher; `regular`: true where C is positive definite at the bound and the likelihood has its maximum there (a moving
    average that is not invertible). Otherwise C is singular, or a process has no stationary distribution."""

    name: str
    independent: bool
    inside: tuple[float, ...] = ()
    regular: bool = False

    @property
    def attained(self) -> bool:
        """True where an estimate at the bound is a result."""
        return self.independent or self.regular


@dataclasses.dataclass(frozen=True, eq=False)
class Series:
    """Series of correlated rows of a data set, on the host: what a correlation learns from data.

    **Fields:** `time` (groups, obs): position or time of each row; `code` (groups, obs): number of the series of each
    row in its group; `observed`, `rows` (groups, obs) bool: rows with a response, and real rows; `previous` (groups,
    obs): the row of the observed row before it in its series, -1 for the first and for other rows; `lag` (groups, obs):
    the distance to that row, 1 where there is none; `column`: name of the column of times, None for positions.
    """

    time: np.ndarray
    code: np.ndarray
    observed: np.ndarray
    rows: np.ndarray
    previous: np.ndarray
    lag: np.ndarray
    column: str | None

    @property
    def linked(self) -> np.ndarray:
        """True (groups, obs) for rows with a previous one in their series."""
        return self.previous >= 0

    @property
    def median_lag(self) -> float:
        """The median distance of a row with a response to the one before it in its series; 1 where there is none."""
        return float(np.median(self.lag[self.linked])) if self.linked.any() else 1.0

    @property
    def extent(self) -> int:
        """The largest distance of two times of a series, rounded up to a whole number."""
        distance = 0.0
        for number in np.unique(self.code[self.rows]):
            of_series = self.rows & (self.code == number)
            last = np.max(np.where(of_series, self.time, -np.inf), axis=1)
            first = np.min(np.where(of_series, self.time, np.inf), axis=1)
            distance = max(distance, float(np.max(last - first)))
        return int(np.ceil(distance))

    @property
    def largest(self) -> int:
        """The number of rows with a response in the largest series."""
        sizes = [np.sum(self.observed & (self.code == number), axis=1).max() for number in np.unique(self.code)]
        return int(max(sizes, default=0))

    def together(self, occasions: Sequence[float]) -> np.ndarray:
        """True (occasions, occasions) for pairs of which some series has responses at both."""
        codes = np.unique(self.code)
        has = [
            np.any(self.observed & (self.code == code) & (self.time == t), axis=1) for t in occasions for code in codes
        ]
        flat = np.stack(has).reshape(len(occasions), -1).astype(float)
        return flat @ flat.T > 0

    def numbered(self, occasions: Sequence[float]) -> Series:
        """The series with the number of each row's occasion for its time.

        **Raises:** ModelError for an occasion of an observed row that is not among `occasions`.
        """
        known = np.asarray(occasions)
        index = np.minimum(np.searchsorted(known, self.time), max(len(known) - 1, 0))
        unknown = known[index] != self.time
        bad = unknown & (self.observed if self.observed.any() else self.rows)
        if bad.any():
            raise ModelError(
                f"column {self.column!r} has occasions that the fitted data lacked: "
                f"{some([f'{t:g}' for t in np.unique(self.time[bad])])}; known: {some([f'{t:g}' for t in known])}."
            )
        code = np.where(unknown, -1, self.code)
        return dataclasses.replace(self, time=index.astype(float), code=code)


class SeriesLayout(eqx.Module):
    """Series of correlated rows of one group (or, stacked, of all groups).

    **Fields:** `time` (obs,): position or time; `code` (obs,): number of the series, -1 in rows without a response;
    `row_code` (obs,): the same in all real rows, -1 in padding; `offset` (obs,): the distance in rows of the table to
    the response before it, 0 without one; `lag` (obs,): that distance in time; `offsets`, `lags`: the distances in rows
    and in time that occur, None if these are many; `extent`: an upper bound of the distance of two positions.
    """

    time: Any
    code: Any
    row_code: Any
    offset: Any
    lag: Any
    offsets: tuple[int, ...] | None = eqx.field(static=True)
    lags: tuple[float, ...] | None = eqx.field(static=True)
    extent: int = eqx.field(static=True, default=0)


class AbstractCorrelation(eqx.Module):
    """A correlation of residuals within series of rows. The functions of `jn.correlation` make these.

    A subclass has the fields `parameters` (a tuple of ErrorParameter), `time` (name of a column, or None for the
    position of a row in its series), `within` (name of a column in whose levels rows are correlated, or None), and
    defines `formula`, `factor` and `color`.
    """

    if TYPE_CHECKING:

        @property
        def parameters(self) -> tuple[ErrorParameter, ...]:
            """The parameters, one for each entry of theta; a field of every final class."""
            ...

        @property
        def time(self) -> str | None:
            """Name of the column of times or positions; None: the position of a row in its series."""
            ...

        @property
        def within(self) -> str | None:
            """Name of the column in whose levels rows are correlated; None: the whole group."""
            ...

    @property
    @abc.abstractmethod
    def formula(self) -> str:
        """The correlation as a formula in one line, for summaries."""

    @property
    def description(self) -> str:
        """The formula with the columns that it is over."""
        within = f" within {self.within}" if self.within else ""
        return f"{self.formula} over {self.time or 'position'}{within}"

    @abc.abstractmethod
    def factor(self, theta: Vector, layout: SeriesLayout) -> AbstractFactor:
        """The factor of one group from `theta` (parameters,), unconstrained."""

    @abc.abstractmethod
    def color(self, noise: Vector, theta: Vector, layout: SeriesLayout) -> Vector:
        """Correlated standard normal residuals (obs,) of all real rows from independent ones, `noise` (obs,)."""

    @property
    def whole_numbers(self) -> bool:
        """True if times must be whole numbers (occasions)."""
        return False

    @property
    def allows_ties(self) -> bool:
        """True if two responses of a series may have the same time."""
        return False

    def natural(self, theta: Vector) -> tuple[Any, ...]:
        """The reported values of the parameters, from `theta` (parameters,)."""
        return tuple(p.transform.to_natural(theta[k]) for k, p in enumerate(self.parameters))

    def unconstrained(self, values: Sequence[float]) -> np.ndarray:
        """`theta` (parameters,) from reported values, on the host.

        **Raises:** OptionError for values that are no correlation.
        """
        for p, value in zip(self.parameters, values, strict=True):
            low, high = p.transform.domain
            if not low < value < high:
                raise OptionError(f"{p.name} must be inside ({low:g}, {high:g}); received {shown(value)}.")
        return np.array([float(p.transform.to_real(float(v))) for p, v in zip(self.parameters, values, strict=True)])

    @property
    def is_joint(self) -> bool:
        """True if a reported value depends on several entries of theta."""
        return False

    def at_bounds(self, theta: np.ndarray, series: Series) -> list[Bound]:
        """The parameters that are at a bound of what a correlation can be, at `theta` (parameters,), on the host."""
        return [
            Bound(p.name, False)
            for k, p in enumerate(self.parameters)
            if not p.fix and p.transform.name.startswith("logit") and abs(theta[k]) > MODEL.bound_logit
        ]

    def resolve(self, series: Series) -> AbstractCorrelation:
        """The correlation with starting values, bounds and occasions from the data."""
        return self

    def reportable(self, series: Series, named: Collection[str]) -> AbstractCorrelation:
        """The correlation with parameters whose values can be reported in the unit of time of the data.

        **Arguments:** `named`: names of parameters that the model holds fixed or gives a prior, which stay.
        """
        return self

    def place(self, series: Series) -> Series:
        """The series with times as `factor` takes them (occasions by number, for example).

        **Raises:** ModelError for times that the fitted data lacked.
        """
        return series


def range_bounds(parameter: ErrorParameter, log_range: float, series: Series, power: int = 1) -> list[Bound]:
    """The Bound of a range, from the correlation at the median distance of two responses."""
    ratio = (series.median_lag * np.exp(-log_range)) ** power
    independent = bool(ratio > -np.log(MODEL.bound_correlation))
    logs = -np.log(np.array(MODEL.inner_correlations))
    inside = tuple((np.log(series.median_lag) - np.log(logs) / power).tolist())
    return [Bound(parameter.name, independent, inside)] if independent or ratio < MODEL.bound_correlation else []


def with_start(parameter: ErrorParameter, start: float) -> ErrorParameter:
    """The parameter with another starting value."""
    return ErrorParameter(parameter.name, start, parameter.transform, parameter.fix)


def check_correlation(correlation: Any) -> None:
    """**Raises:** OptionError for what is neither None nor an object of `jn.correlation`."""
    if correlation is not None and not isinstance(correlation, AbstractCorrelation):
        advice = " Call it, with parentheses." if callable(correlation) else ""
        raise OptionError(
            "correlation must be an object of jn.correlation, such as jn.correlation.CAR1('Time'); received "
            f"{shown(correlation)}.{advice}"
        )
