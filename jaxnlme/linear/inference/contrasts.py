"""Linear combinations of fixed effects: estimates, tests, intervals, and the joint F test."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from jaxnlme.errors import OptionError, check_level, near_matches, shown
from jaxnlme.linear.inference.anova import p_text, zero_variances
from jaxnlme.linear.inference.degrees_of_freedom import degrees_of_freedom
from jaxnlme.linear.inference.expressions import linear_combination
from jaxnlme.linear.inference.wald import contrast_table, f_test
from jaxnlme.results.display import Printable, Table, number

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Contrast(Printable):
    """Linear combinations of fixed effects.

    **Fields:** `table`: a row per combination with estimate, se, df, t, p, lower and upper; t and p test that it equals
    `rhs`; `joint`: num_df, den_df, F and p of all together; `L`: the coefficients (combinations, fixed); `rhs`
    (combinations,); `df`: the method; `level` of the intervals; `sentences`.
    """

    table: pd.DataFrame
    joint: pd.Series
    L: pd.DataFrame
    rhs: np.ndarray
    df: str
    level: float
    sentences: tuple[str, ...]

    def _tables(self) -> list[Table]:
        tables = [estimates(self.table, "Linear combinations of fixed effects", self.level)]
        if len(self.table) > 1:
            joint = self.joint
            cells = ("all", f"{joint['num_df']:g}", number(joint["den_df"]), number(joint["F"]), p_text(joint["p"]))
            tables.append(Table("Joint F test", ("", "num df", "den df", "F", "p"), [cells]))
        return tables


def estimates(table: pd.DataFrame, title: str, level: float) -> Table:
    """A table of estimates and tests as text."""
    rows = []
    for name, row in table.iterrows():
        label = ", ".join(map(str, name)) if isinstance(name, tuple) else str(name)
        interval = f"[{number(row['lower'])}, {number(row['upper'])}]"
        cells = (number(row["estimate"]), number(row["se"]), number(row["df"]), interval)
        tests = (number(row["t"]), p_text(row["p"])) if "t" in table else ()
        rows.append((label, *cells, *tests))
    header = ("", "estimate", "se", "df", f"{100 * level:g}% interval", *(("t", "p") if "t" in table else ()))
    return Table(title, header, rows)


def contrast(fit: LinearFit, L: Any, df: str | None, level: float, rhs: Any) -> Contrast:
    """The Contrast of `LinearFit.contrast`."""
    check_level(level)
    names = list(fit.model.fixed.names)
    method = degrees_of_freedom(fit, df)
    labels, rows, values = combinations_of(L, names)
    if rhs is not None:
        if values.any():
            raise OptionError("rhs is written twice: in the expressions ('a = 1') and as rhs=; leave one out.")
        given = np.asarray(rhs, float)
        if given.shape not in ((), (len(rows),)) or not np.isfinite(given).all():
            raise OptionError(
                f"rhs must be one number, or one for each of the {len(rows)} rows; received {shown(rhs)}."
            )
        values = np.broadcast_to(given, (len(rows),)).astype(float)
    beta = fit.outcome.beta
    table = contrast_table(method, rows, rows @ beta - values, labels, level)
    table[["estimate", "lower", "upper"]] += values[:, None]
    joint = f_test(method, rows, rows @ beta - values)
    sentences = (f"Denominator degrees of freedom: {method.name}.", *zero_variances(fit))
    return Contrast(table, joint, pd.DataFrame(rows, labels, names), values, method.name, level, sentences)


def combinations_of(L: Any, names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, coefficients (rows, fixed) and right-hand sides (rows,) of the combinations that `L` describes.

    **Raises:** OptionError for unknown coefficients, and matrices of other shapes.
    """
    if L is None or (not isinstance(L, str) and not np.size(L)):
        raise OptionError(f"contrast needs at least one combination of {', '.join(names)}; received {shown(L)}.")
    if isinstance(L, str):
        L = [L]
    if isinstance(L, Mapping):
        of_coefficients = all(isinstance(value, (int, float, np.number)) for value in L.values())
        if of_coefficients and L:
            return [_text(L)], _row(L, names)[None, :], np.zeros(1)
        parts = [(str(label), *_combination(value, names)) for label, value in L.items()]
    elif isinstance(L, (list, tuple)) and L and all(isinstance(part, (str, Mapping)) for part in L):
        parts = [(part if isinstance(part, str) else _text(part), *_combination(part, names)) for part in L]
    else:
        return _matrix(L, names)
    return [label for label, _, _ in parts], np.stack([row for _, row, _ in parts]), np.array([v for _, _, v in parts])


def _combination(value: Any, names: Sequence[str]) -> tuple[np.ndarray, float]:
    """Coefficients and right-hand side of one combination."""
    if isinstance(value, str):
        return linear_combination(value, names)
    if isinstance(value, Mapping):
        return _row(value, names), 0.0
    _, rows, _ = _matrix(value, names)
    if len(rows) != 1:
        raise OptionError(f"expected one row of {len(names)} coefficients for each label; received {len(rows)} rows.")
    return rows[0], 0.0


def _row(coefficients: Mapping[str, Any], names: Sequence[str]) -> np.ndarray:
    """The row of coefficients by name."""
    out = np.zeros(len(names))
    for name, value in coefficients.items():
        if name not in names:
            raise OptionError(f"contrast: {name!r} is no coefficient; {near_matches(str(name), names)}")
        out[names.index(name)] = float(value)
    return _checked(out[None, :])[0]


def _text(coefficients: Mapping[str, Any]) -> str:
    """A combination as text."""
    parts = [f"{float(value):+g}*{name}" for name, value in coefficients.items()]
    return " ".join(parts).replace("+1*", "+").replace("-1*", "-").lstrip("+")


def _matrix(L: Any, names: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Labels, rows and right-hand sides of a matrix of coefficients."""
    labels = None
    if isinstance(L, pd.DataFrame):
        unknown = [name for name in L.columns if name not in names]
        if not unknown:
            labels = [str(label) for label in L.index]
            L = L.reindex(columns=list(names), fill_value=0.0)
        elif list(L.columns) != list(range(len(names))):
            raise OptionError(f"contrast: {unknown[0]!r} is no coefficient; {near_matches(str(unknown[0]), names)}")
    try:
        rows = np.atleast_2d(np.asarray(L, float))
    except (TypeError, ValueError):
        raise OptionError(
            "contrast takes a matrix with a column for each coefficient, a dictionary of coefficients by name, or "
            f"expressions such as {names[-1] + ' - 2*' + names[0]!r}; received {shown(L)}."
        ) from None
    if rows.ndim != 2 or rows.shape[1] != len(names) or not len(rows):
        raise OptionError(
            f"a matrix of contrasts has {len(names)} columns, one for each of {', '.join(names)}; received the shape "
            f"{np.shape(L)}."
        )
    rows = _checked(rows)
    return labels or [f"row {k + 1}" for k in range(len(rows))], rows, np.zeros(len(rows))


def _checked(rows: np.ndarray) -> np.ndarray:
    """**Raises:** OptionError for rows that are zero or not finite."""
    if not np.isfinite(rows).all():
        raise OptionError("the coefficients of a contrast must be finite numbers.")
    zero = np.flatnonzero(~rows.any(axis=1))
    if zero.size:
        raise OptionError(
            f"row {int(zero[0]) + 1} of the contrasts is zero; expected a combination of the coefficients."
        )
    return rows
