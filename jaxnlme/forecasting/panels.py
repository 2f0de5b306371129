"""Areas under curves by adaptive quadrature, extremes, and the time above a threshold.

1. The window of a subject is cut at doses and at the ends of infusions, and each piece into panels.
2. In each panel the curve is computed at the 15 nodes of Kronrod's rule and at both ends, just after what happens at
   the first end and just before what happens at the last one. The area is that of Kronrod's rule; its difference from
   Gauss' rule with 7 of the nodes, and the difference of the ends from the polynomial through the nodes, bound the
   error. Panels whose difference is too large are halved: where a lag puts a
   jump inside a panel, until the jump is in a panel too short to matter.
3. Extremes and crossings of a threshold are searched between the nodes, on the model's own curve, by cutting the
   bracket around each again and again.

**Source:** Piessens, de Doncker-Kapenga, Ueberhuber and Kahaner (1983), QUADPACK, for the rules.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from jaxnlme.forecasting.curves import AFTER, BEFORE, Curves
from jaxnlme.forecasting.settings import CURVES

_NODES = np.array([
    0.991455371120812639206854697526329, 0.949107912342758524526189684047851, 0.864864423359769072789712788640926,
    0.741531185599394439863864773280788, 0.586087235467691130294144691693014, 0.405845151377397166906606412076961,
    0.207784955007898467600689403773245, 0.0,
])  # fmt: skip
_KRONROD = np.array([
    0.022935322010529224963732008058970, 0.063092092629978553290700663189204, 0.104790010322250183839876322541518,
    0.140653259715525918745189590510238, 0.169004726639267902826583426598550, 0.190350578064785409913256402421014,
    0.204432940075298892414161999234649, 0.209482141084727828012999174891714,
])  # fmt: skip
_GAUSS = np.array([
    0.0, 0.129484966168869693270611432679082, 0.0, 0.279705391489276667901467771423780,
    0.0, 0.381830050505118944950369775488975, 0.0, 0.417959183673469387755102040816327,
])  # fmt: skip
# On (-1, 1), with both ends: 17 points.
POINTS = np.concatenate([[-1.0], -_NODES, _NODES[-2::-1], [1.0]])
KRONROD = np.concatenate([[0.0], _KRONROD, _KRONROD[-2::-1], [0.0]])
GAUSS = np.concatenate([[0.0], _GAUSS, _GAUSS[-2::-1], [0.0]])


def _at_ends() -> np.ndarray:
    """Weights (2, 17) of the polynomial through the nodes, at the two ends."""
    nodes = POINTS[1:-1]
    differences = nodes[:, None] - nodes[None, :] + np.eye(len(nodes))
    barycentric = 1.0 / differences.prod(axis=1)
    out = np.zeros((2, len(POINTS)))
    for row, end in zip(out, (-1.0, 1.0), strict=True):
        terms = barycentric / (end - nodes)
        row[1:-1] = terms / terms.sum()
    return out


# Value at an end less that of the polynomial: not zero where there is a jump between the end and the node next to it.
END_JUMP = np.eye(len(POINTS))[[0, -1]] - _at_ends()
END_GAP = 1.0 - _NODES[0]
SIDES = np.array([AFTER] * 16 + [BEFORE])
PAIR = 2  # panels of one curve in all calls but the first
ZOOM = PAIR * len(POINTS)  # points of a bracket, so that one program serves both


@dataclasses.dataclass(frozen=True, eq=False)
class Panels:
    """Panels of the windows of all subjects, by subject and time.

    **Fields:** `subject`, `begin`, `end` (panels,); `times`, `values` (panels, 17); `n`: number of subjects.
    """

    subject: np.ndarray
    begin: np.ndarray
    end: np.ndarray
    times: np.ndarray
    values: np.ndarray
    n: int

    @property
    def area(self) -> np.ndarray:
        """Area of each panel, by Kronrod's rule."""
        return 0.5 * (self.end - self.begin) * (self.values @ KRONROD)

    @property
    def error(self) -> np.ndarray:
        """Difference of the two rules in each panel, and what a jump next to an end would change."""
        rules = np.abs(self.values @ (KRONROD - GAUSS))
        return 0.5 * (self.end - self.begin) * (rules + END_GAP * np.abs(self.values @ END_JUMP.T).sum(axis=1))

    def by_subject(self, values: np.ndarray) -> np.ndarray:
        """Sums (subjects,) of `values` (panels,)."""
        return np.bincount(self.subject, weights=values, minlength=self.n)

    def of(self, chosen: np.ndarray) -> Panels:
        """Some of the panels."""
        subject, begin, end = self.subject[chosen], self.begin[chosen], self.end[chosen]
        return Panels(subject, begin, end, self.times[chosen], self.values[chosen], self.n)


def joined(parts: list[Panels]) -> Panels:
    """All panels of `parts`, by subject and time."""
    subject, begin, end = (np.concatenate([getattr(p, name) for p in parts]) for name in ("subject", "begin", "end"))
    times, values = (np.concatenate(columns) for columns in zip(*((p.times, p.values) for p in parts), strict=True))
    return Panels(subject, begin, end, times, values, parts[0].n).of(np.lexsort((begin, subject)))


def adaptive_panels(curves: Curves, begin: np.ndarray, end: np.ndarray) -> Panels:
    """Panels of the windows [begin, end] (subjects,) whose areas are found to `CURVES.tolerance`."""
    subject, first, last = _starting_panels(curves, begin, end)
    most = int(np.bincount(subject, minlength=1).max(initial=1))
    current = _evaluated(curves, subject, first, last, most)
    width = np.maximum(end - begin, np.finfo(float).tiny)
    done: list[Panels] = []
    for _ in range(CURVES.passes):
        total = sum((part.by_subject(np.abs(part.area)) for part in [*done, current]), np.zeros(curves.n))
        share = np.maximum((current.end - current.begin) / width[current.subject], 0.02)
        with np.errstate(invalid="ignore"):
            fine = ~(current.error > CURVES.tolerance * total[current.subject] * share)
        done.append(current.of(fine))
        rest = current.of(~fine)
        if not len(rest.subject):
            break
        middle = 0.5 * (rest.begin + rest.end)
        subject = np.repeat(rest.subject, 2)
        first, last = (np.stack(pair, axis=1).ravel() for pair in ((rest.begin, middle), (middle, rest.end)))
        current = _evaluated(curves, subject, first, last, PAIR)
    else:
        done.append(current)
    return joined(done)


def _starting_panels(curves: Curves, begin: np.ndarray, end: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Subject, begin and end of the first panels: the window cut at its breaks, each piece into some panels."""
    which, breaks = curves.breaks
    columns = np.stack([which[curves.group], begin, end], axis=1)
    kinds, kind = np.unique(columns, axis=0, return_inverse=True)
    kind, all_ends = kind.ravel(), []
    for k, a, b in kinds:
        inside = breaks[int(k)]
        ends = np.concatenate([[a], inside[(inside > a) & (inside < b)], [b]])
        cuts = np.array(CURVES.starting_panels)
        points = ends[:-1, None] + np.diff(ends)[:, None] * cuts[None, :-1]
        all_ends.append(np.append(points.ravel(), b))
    counts = np.array([len(ends) - 1 for ends in all_ends])
    subject = np.repeat(np.arange(curves.n), counts[kind])
    return subject, np.concatenate([all_ends[k][:-1] for k in kind]), np.concatenate([all_ends[k][1:] for k in kind])


def _evaluated(curves: Curves, subject: np.ndarray, begin: np.ndarray, end: np.ndarray, most: int) -> Panels:
    """The panels with the values of the curves; `most` panels of a subject are in one row of the computation.

    **Arguments:** `subject`, `begin`, `end` (panels,), by subject and time.
    """
    order = np.lexsort((begin, subject))
    subject, begin, end = subject[order], begin[order], end[order]
    times = 0.5 * (begin + end)[:, None] + 0.5 * (end - begin)[:, None] * POINTS[None, :]
    times[:, 0], times[:, -1] = begin, end
    number = np.arange(len(subject)) - np.searchsorted(subject, subject)
    column = number % most
    row = np.cumsum(column == 0) - 1
    size, k = int(row[-1]) + 1, len(POINTS)
    in_row = np.bincount(row, minlength=size)
    last = np.cumsum(in_row) - 1
    # Rows with fewer panels repeat the last point of their last one.
    grid = np.repeat(end[last][:, None, None], most, axis=1).repeat(k, axis=2)
    side = np.full((size, most, k), BEFORE)
    grid[row, column], side[row, column] = times, SIDES
    values = curves(subject[last], grid.reshape(size, -1), side.reshape(size, -1)).reshape(size, most, k)
    return Panels(subject, begin, end, times, values[row, column], curves.n)


# --- extremes ---


def highest(curves: Curves, panels: Panels, sign: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """The largest value of each subject in its window, and its time (the first, where it is reached several times);
    the smallest with a `sign` of -1."""
    values = sign * panels.values
    best = values.max(axis=1)
    rank_order = np.lexsort((panels.begin, -best, panels.subject))
    subject = panels.subject[rank_order]
    rank = np.arange(len(subject)) - np.searchsorted(subject, subject)
    # Between nodes the curve rises above them by little: panels that are well below the best have not the peak.
    top = np.full(curves.n, -np.inf)
    np.maximum.at(top, panels.subject, best)
    bottom = np.full(curves.n, np.inf)
    np.minimum.at(bottom, panels.subject, values.min(axis=1))
    close = best >= top[panels.subject] - CURVES.close * (top - bottom)[panels.subject]
    chosen = rank_order[(rank < CURVES.candidates) & (close[rank_order] | (rank == 0))]
    at = values[chosen].argmax(axis=1)
    rows = np.arange(len(chosen))
    low = panels.times[chosen, np.maximum(at - 1, 0)]
    high = panels.times[chosen, np.minimum(at + 1, len(POINTS) - 1)]
    value, time = values[chosen, at], panels.times[chosen, at]

    def bracket(times: np.ndarray, of_curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal value, time
        k = (sign * of_curve).argmax(axis=1)
        found = (sign * of_curve)[rows, k]
        # Beyond rounding, so that the time of a flat maximum is that of its first point.
        better = found > value + 1e-13 * np.abs(value)
        value, time = np.where(better, found, value), np.where(better, times[rows, k], time)
        return times[rows, np.maximum(k - 1, 0)], times[rows, np.minimum(k + 1, ZOOM - 1)]

    _zoom(curves, panels.subject[chosen], low, high, bracket)
    order = np.lexsort((time, -value, panels.subject[chosen]))
    first = order[np.unique(panels.subject[chosen][order], return_index=True)[1]]
    return sign * value[first], time[first]


def _zoom(
    curves: Curves,
    subject: np.ndarray,
    low: np.ndarray,
    high: np.ndarray,
    bracket: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]],
) -> None:
    """Cut the brackets [low, high] again and again: `bracket(times, values)` (brackets, points) gives the next ones."""
    if not len(subject):
        return
    side = np.broadcast_to(np.array([AFTER] * (ZOOM - 1) + [BEFORE]), (len(subject), ZOOM))
    part = np.linspace(0.0, 1.0, ZOOM)
    for _ in range(CURVES.zooms):
        times = low[:, None] + (high - low)[:, None] * part[None, :]
        times[:, -1] = high
        low, high = bracket(times, curves(subject, times, side))


# --- time above a threshold ---


def time_above(curves: Curves, panels: Panels, threshold: float) -> np.ndarray:
    """The time (subjects,) in the window for which the curve is above the threshold."""
    above = panels.values > threshold
    width = np.diff(panels.times, axis=1)
    total = np.where(above[:, :-1] & above[:, 1:], width, 0.0).sum(axis=1)
    panel, k = np.nonzero(above[:, :-1] != above[:, 1:])
    begin, end = panels.times[panel, k].copy(), panels.times[panel, k + 1].copy()
    rising = above[panel, k + 1]
    low, high = begin.copy(), end.copy()
    crossing = 0.5 * (begin + end)
    rows = np.arange(len(panel))

    def bracket(times: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        nonlocal crossing
        beyond = (values > threshold) == rising[:, None]
        j = np.clip(beyond.argmax(axis=1), 1, ZOOM - 1)
        a, b = times[rows, j - 1], times[rows, j]
        u, w = values[rows, j - 1] - threshold, values[rows, j] - threshold
        with np.errstate(divide="ignore", invalid="ignore"):
            part = np.where(u == w, 0.5, u / (u - w))
        crossing = a + np.clip(part, 0.0, 1.0) * (b - a)
        return a, b

    _zoom(curves, panels.subject[panel], low, high, bracket)
    total += np.bincount(panel, weights=np.where(rising, end - crossing, crossing - begin), minlength=len(total))
    lost = ~np.isfinite(panels.values).all(axis=1)
    return panels.by_subject(np.where(lost, np.nan, total))
