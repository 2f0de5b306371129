"""Limits of quantification: which responses are known only to lie below, above or between limits."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np

OBSERVED, LEFT, RIGHT, INTERVAL = 0, 1, 2, 3
# Names of the columns of `to_frame` where the table had none.
DEFAULT_NAMES = ("CENS", "LIMIT", "LLOQ", "ULOQ")


@dataclass(frozen=True, eq=False)
class Limits:
    """Limits of the responses, each (rows,) or (groups, obs).

    **Fields:** `kind`: 0 observed, 1 left (y < upper), 2 right (y > lower), 3 interval (lower < y < upper); `lower`,
    `upper`: of a censored row, -inf and inf where open and in observed rows; `lloq`, `uloq`: limits of quantification
    that a row has whether or not it is censored, -inf and inf where none is known; `names`: of the columns CENS, LIMIT,
    LLOQ and ULOQ.
    """

    kind: np.ndarray
    lower: np.ndarray
    upper: np.ndarray
    lloq: np.ndarray
    uloq: np.ndarray
    names: tuple[str, str, str, str] = DEFAULT_NAMES

    @property
    def censored(self) -> np.ndarray:
        """True in censored rows."""
        return self.kind > 0

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays by name of their field."""
        return {f.name: getattr(self, f.name) for f in fields(self) if f.name != "names"}

    def at(self, index: Any) -> Limits:
        """The limits of the rows `index`, an index of all arrays."""
        return Limits(**{name: values[index] for name, values in self.arrays.items()}, names=self.names)

    def of_rows(self, rows: np.ndarray) -> Limits | None:
        """The limits of the rows of the mask `rows` only; None where they have none."""
        fill = {"kind": OBSERVED, "lower": -np.inf, "upper": np.inf, "lloq": -np.inf, "uloq": np.inf}
        arrays = {name: np.where(rows, values, fill[name]) for name, values in self.arrays.items()}
        has = (arrays["kind"] > 0) | (arrays["lloq"] > -np.inf) | (arrays["uloq"] < np.inf)
        return Limits(**arrays, names=self.names) if has.any() else None

    def where(self, rows: np.ndarray) -> Limits:
        """The limits with no row censored but those of the mask `rows`."""
        keep = rows & self.censored
        lower, upper = np.where(keep, self.lower, -np.inf), np.where(keep, self.upper, np.inf)
        return Limits(np.where(keep, self.kind, OBSERVED), lower, upper, self.lloq, self.uloq, self.names)

    def of_responses(self, y: np.ndarray, before: np.ndarray) -> tuple[np.ndarray, Limits]:
        """Other responses `y` with the limits of quantification of the rows applied: those below `lloq` or above `uloq`
        are censored there. A row that was censored in an interval whose end is its `lloq` keeps the other end.

        **Arguments:** `before`: the responses that the limits belong to. A response at a limit is censored where it was
        before, or was another value before.
        **Returns:** the responses, a limit where they are censored, and the Limits.
        """
        y, kind, lower, upper = censor(y, before, self, np)
        return y, Limits(kind, lower, upper, self.lloq, self.uloq, self.names)

    def columns(self) -> dict[str, np.ndarray]:
        """The columns CENS (1 below, -1 above), LIMIT (the other end of an interval), LLOQ and ULOQ of a table, by
        name; the last three only where a row has one. Beside them the response is the limit."""
        cens, limit, lloq, uloq = self.names
        at_upper = np.isin(self.kind, (LEFT, INTERVAL))
        out = {cens: np.where(at_upper, 1, np.where(self.kind == RIGHT, -1, 0))}
        if (self.kind == INTERVAL).any():
            out[limit] = np.where(self.kind == INTERVAL, self.lower, np.nan)
        for name, values in ((lloq, self.lloq), (uloq, self.uloq)):
            if np.isfinite(values).any():
                out[name] = np.where(np.isfinite(values), values, np.nan)
        return out


def censor(y: Any, before: Any, limits: Any, xnp: Any) -> tuple[Any, Any, Any, Any]:
    """Responses with limits of quantification applied, and their kind, lower and upper limits; see
    `Limits.of_responses`.

    **Arguments:** `limits`: has the fields of Limits; `xnp`: the module of the arrays, numpy or jax.numpy.
    """
    new = (limits.kind > 0) | (y != before)
    # Comparisons with NaN are false: a missing response is not censored.
    low = (y < limits.lloq) | ((y == limits.lloq) & new)
    high = (y > limits.uloq) | ((y == limits.uloq) & new)
    inner = (limits.kind == INTERVAL) & low & (limits.upper == limits.lloq)
    kind = xnp.where(inner, INTERVAL, xnp.where(low, LEFT, xnp.where(high, RIGHT, OBSERVED)))
    upper = xnp.where(low, limits.lloq, np.inf)
    lower = xnp.where(inner, limits.lower, xnp.where(high, limits.uloq, -np.inf))
    return xnp.where(low, limits.lloq, xnp.where(high, limits.uloq, y)), kind, lower, upper
