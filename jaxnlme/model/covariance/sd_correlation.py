"""A full psi with chosen standard deviations and correlations as entries of theta, so that they can be held fixed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import AbstractCovariance
from jaxnlme.model.settings import MODEL
from jaxnlme.numerics.arrays import xp
from jaxnlme.numerics.linalg import cholesky, cholesky_solve, semidefinite_cholesky


class SDCorrelation(AbstractCovariance):
    """A full psi = L L' in which the standard deviations of some effects and the correlations of some pairs are entries
    of theta. Every theta gives a psi, whatever the correlations of different pairs, where these can occur together.

    The effects are taken in an order in which, for each effect a, the earlier ones whose correlation with it is an
    entry (K) have entries for all correlations among themselves. The row of a in L is then sd_a u_a, with

        u_a = U_K' C^-1 r + sqrt(1 - r' C^-1 r) n,    C = U_K U_K',

    where the rows of U_K are those of the effects in K, r their correlations with a, and n the unit vector along
    (w, 1), w free but for its entries in K, which make U_K n = 0. For effects without such entries the row is that of
    log-Cholesky, (w, 1) with an own diagonal.

    theta: for each effect log sd (log L_aa in a row of log-Cholesky); then, by rows in that order, for each earlier
    effect atanh of the correlation, or the entry of w.

    **Arguments:** `size`: the number of random effects; `order`: the effects in that order; `pairs`: pairs (j, k),
    j < k, whose correlations are entries; `scaled`: effects whose standard deviations are entries, among them those of
    the pairs.
    **Source:** Paulsen, Power and Smith (1989), Journal of Functional Analysis 85, 151-178: positive definite
    completions of every set of values exist if the graph of the given entries is chordal, which this order expresses.
    """

    size: int = eqx.field(static=True)
    order: tuple[int, ...] = eqx.field(static=True)
    pairs: tuple[tuple[int, int], ...] = eqx.field(static=True)
    scaled: tuple[int, ...] = eqx.field(static=True)

    @property
    def n_unconstrained(self) -> int:
        return self.size * (self.size + 1) // 2

    def _entry(self, row: int, column: int) -> int:
        """Index in theta of the entry below the diagonal, by positions in the order."""
        return self.size + row * (row - 1) // 2 + column

    def _given(self, row: int) -> list[int]:
        """Earlier positions whose correlation with that of `row` is an entry of theta."""
        effect = self.order[row]
        return [c for c in range(row) if tuple(sorted((effect, self.order[c]))) in self.pairs]

    def factor(self, theta):
        n, x = self.size, xp(theta)
        zero, one = x.zeros_like(theta[0]), x.ones_like(theta[0])
        units: dict[int, list[Any]] = {}
        rows: list[Any] = [None] * n
        for a, effect in enumerate(self.order):
            scale = x.exp(theta[effect])
            below = [theta[self._entry(a, c)] for c in range(a)]
            if effect in self.scaled:
                units[a] = _unit_row(x, below, self._given(a), units, one)
                row = [scale * entry for entry in units[a]]
            else:
                row = [*below, scale]
            rows[effect] = x.stack(row + [zero] * (n - 1 - a))
        return x.stack(rows)

    def apply(self, theta, z):
        return self.factor(theta) @ z

    def from_matrix(self, psi):
        order = list(self.order)
        lower = semidefinite_cholesky(np.asarray(psi, float)[np.ix_(order, order)])
        sd = np.linalg.norm(lower, axis=1)
        units = np.where((sd > 0)[:, None], lower / np.where(sd > 0, sd, 1.0)[:, None], np.eye(self.size))
        theta, least = np.zeros(self.n_unconstrained), 1.0 / np.cosh(MODEL.largest_z)
        with np.errstate(divide="ignore"):
            for a, effect in enumerate(order):
                entries = [self._entry(a, c) for c in range(a)]
                if effect not in self.scaled:
                    theta[effect], theta[entries] = np.log(lower[a, a]), lower[a, :a]
                    continue
                given = self._given(a)
                r = units[given] @ units[a]
                projection = units[given].T @ np.linalg.lstsq(units[given] @ units[given].T, r, rcond=None)[0]
                theta[effect] = np.log(sd[a])
                theta[entries] = (units[a] - projection)[:a] / max(float(units[a, a]), least)
                limit = np.tanh(MODEL.largest_z)
                theta[[entries[c] for c in given]] = np.arctanh(np.clip(r, -limit, limit))
        return theta

    def with_elements(self, sds, pairs):
        return sd_correlation(self.size, [*self.scaled, *sds], [*self.pairs, *pairs])

    @property
    def log_scales(self):
        out = []
        for a, effect in enumerate(self.order):
            # As in LogCholesky, what is below the diagonal; of a row with a standard deviation also the row itself.
            below = [(b, a) for b in range(a + 1, self.size)]
            row = [(a, c) for c in range(a)] if effect in self.scaled else []
            free = [(b, c) for b, c in [*row, *below] if c not in self._given(b)]
            out.append((effect, (effect,), tuple(self._entry(b, c) for b, c in free)))
        return tuple(sorted(out))

    @property
    def correlated_pairs(self):
        return tuple((j, k) for k in range(self.size) for j in range(k))


def _unit_row(x: Any, below: list[Any], given: list[int], units: dict[int, list[Any]], one: Any) -> list[Any]:
    """The row u_a of SDCorrelation, a list of scalars.

    **Arguments:** `x`: numpy or jax.numpy; `below`: the entries of theta below the diagonal; `given`: the positions K;
    `units`: the rows of the earlier effects; `one`: 1 in the precision of theta.
    """
    w = [*below, one]
    for k in given:  # U_K is triangular in these columns: n is orthogonal to its rows one after the other
        w[k] = -sum((units[k][c] * w[c] for c in range(k)), 0.0 * one) / units[k][k]
    norm = x.sqrt(sum((entry * entry for entry in w), 0.0 * one))
    n = [entry / norm for entry in w]
    if not given:
        return n
    r = [x.tanh(below[k]) for k in given]
    if len(given) == 1:
        weights, rest = r, 1.0 / x.cosh(below[given[0]])
    else:
        products = x.stack([x.stack([_product(units[j], units[k]) for k in given]) for j in given])
        right = x.stack(r)
        solved = np.linalg.solve(products, right) if x is np else cholesky_solve(cholesky(products), right)
        with np.errstate(invalid="ignore"):
            weights, rest = [solved[k] for k in range(len(given))], x.sqrt(1.0 - solved @ right)
    row = [rest * entry for entry in n]
    for weight, k in zip(weights, given, strict=True):
        for c, entry in enumerate(units[k]):
            row[c] = row[c] + weight * entry
    return row


def _product(a: list[Any], b: list[Any]) -> Any:
    """Inner product of two rows, of which one may be shorter."""
    return sum(p * q for p, q in zip(a, b, strict=False))


def sd_correlation(size: int, sds: Sequence[int], pairs: Sequence[tuple[int, int]]) -> SDCorrelation:
    """The SDCorrelation of `size` effects with the standard deviations `sds` and the correlations `pairs` as entries.

    **Raises:** OptionError where there is no order of the effects as it needs (a cycle of four or more pairs).
    """
    known = {(min(pair), max(pair)) for pair in pairs}
    neighbours = {j: {k for k in range(size) if (min(j, k), max(j, k)) in known} for j in range(size)}
    order: list[int] = []
    chosen = {*sds, *(j for pair in known for j in pair)}
    while len(order) < size:  # the effect with most correlations given with the ones before: first the chosen ones
        rest = [j for j in range(size) if j not in order]
        order.append(max(rest, key=lambda j: (len(neighbours[j] & set(order)), j in chosen, -j)))
    for a, effect in enumerate(order):
        before = sorted(neighbours[effect] & set(order[:a]))
        if any(k not in neighbours[j] for j in before for k in before if j < k):
            raise OptionError(
                "the correlations held fixed form a ring of four or more random effects, without those across it; hold "
                "one across the ring too, or fewer of them."
            )
    return SDCorrelation(size, tuple(order), tuple(sorted(known)), tuple(sorted(chosen)))
