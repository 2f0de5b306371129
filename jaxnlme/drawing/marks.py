"""Marks of data: dots and lines that stay legible for any number of them, smooth curves, boxes, identity lines."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxnlme.drawing.style import BLUE, DARK, GREY, SKY, VERMILLION, plain_text

# Points from which on dots are smaller and paler.
MANY, VERY_MANY = 400, 4000
# Points of a smooth curve, fewest points it is drawn for, and most it is computed from (a random part beyond).
SMOOTH_POINTS, FEWEST, MOST_SMOOTHED = 80, 8, 20_000
# Marker by the kind of a response: observed, below a limit, above one, in an interval.
CENSORED = {1: ("v", "below the limit"), 2: ("^", "above the limit"), 3: ("d", "in an interval")}


def dots(ax: Any, x: Any, y: Any, color: str = BLUE, **options: Any) -> Any:
    """Dots at `x`, `y`, smaller and paler the more there are; the line."""
    n = len(np.atleast_1d(np.asarray(x)))
    look: dict[str, Any] = {"ms": 4.5, "alpha": 0.75, "mec": "white", "mew": 0.5}
    if n > MANY:
        look = {"ms": 2.6 if n <= VERY_MANY else 2.0, "alpha": float(np.clip(600.0 / n, 0.06, 0.5)), "mec": "none",
                "rasterized": n > VERY_MANY}  # fmt: skip
    return ax.plot(x, y, "o", ls="", color=color, **(look | options))[0]


def responses(
    ax: Any, x: Any, y: Any, kind: Any = None, color: str = BLUE, label: str | None = None, **options: Any
) -> None:
    """Dots of responses; those of censored rows are hollow triangles at the limit, pointing to where the value is.

    **Arguments:** `kind` (rows,): 0 observed, 1 below, 2 above, 3 in an interval; None: all observed; `options` of the
    dots.
    """
    x, y = np.asarray(x), np.asarray(y)
    kind = np.zeros(len(y), int) if kind is None else np.asarray(kind)
    dots(ax, x[kind == 0], y[kind == 0], color, label=label, **options)
    for code, (marker, words) in CENSORED.items():
        if (kind == code).any():
            n = int((kind == code).sum())
            ax.plot(
                x[kind == code], y[kind == code], marker, ls="", mfc="none", mec=VERMILLION, mew=0.9,
                ms=5 if n <= MANY else 3, alpha=0.9 if n <= MANY else 0.5, label=words,
            )  # fmt: skip


def pale_lines(ax: Any, pieces: Sequence[np.ndarray], color: str = BLUE, label: str | None = None) -> Any:
    """Lines through the points (points, 2) of each of `pieces`, paler and thinner the more there are."""
    from matplotlib.collections import LineCollection

    n = len(pieces)
    alpha, width = (0.75, 1.0) if n <= 20 else (0.4, 0.8) if n <= 100 else (float(np.clip(40.0 / n, 0.04, 0.3)), 0.6)
    lines = LineCollection(list(pieces), colors=color, alpha=alpha, linewidths=width, label=label, rasterized=n > 500)
    ax.add_collection(lines)
    ax.autoscale_view()
    return lines


def counts(ax: Any, x: np.ndarray, y: np.ndarray, color: str = BLUE) -> None:
    """A circle for each pair of values, with an area in proportion to how often it occurs, and the number where few
    pairs leave room for it."""
    pairs, number = np.unique(np.stack([x, y], axis=1), axis=0, return_counts=True)
    ax.scatter(pairs[:, 0], pairs[:, 1], s=420.0 * number / number.max(), color=color, alpha=0.45, linewidths=0)
    for (at, value), count in zip(pairs, number, strict=True) if len(pairs) <= 60 else ():
        ax.text(at, value, str(count), ha="center", va="center", fontsize=7, color=DARK)
    values = np.unique(y)
    ax.set_yticks(values, [f"{value:g}" for value in values])
    ax.set_ylim(values[0] - 0.5, values[-1] + 0.5)


def local_regression(x: np.ndarray, y: np.ndarray, at: np.ndarray, span: float = 0.75) -> np.ndarray:
    """Local linear regression with tricube weights on the nearest `span` of the points, at the points `at`.

    **Source:** Cleveland (1979), Journal of the American Statistical Association 74, 829-836 (without robust steps).
    """
    count = max(int(np.ceil(span * len(x))), 3)
    out = np.full(len(at), np.nan)
    for k, centre in enumerate(at):
        distance = np.abs(x - centre)
        reach = np.partition(distance, min(count, len(x)) - 1)[min(count, len(x)) - 1]
        if reach <= 0:
            out[k] = y[distance == 0].mean()
            continue
        weight = np.clip(1.0 - (distance / (reach * (1.0 + 1e-9))) ** 3, 0.0, None) ** 3
        total = weight.sum()
        mean_x, mean_y = weight @ x / total, weight @ y / total
        spread = weight @ (x - mean_x) ** 2
        slope = 0.0 if spread <= 1e-12 * total * reach**2 else weight @ ((x - mean_x) * (y - mean_y)) / spread
        out[k] = mean_y + slope * (centre - mean_x)
    return out


def smooth(ax: Any, x: Any, y: Any, log: bool = False, label: str | None = None) -> Any:
    """A smooth curve through the finite points, where there are enough at different `x`; the line, or None.

    **Arguments:** `log`: the smoothing is over log x, and log y.
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    keep = np.isfinite(x) & np.isfinite(y) & ((x > 0) & (y > 0) if log else True)
    x, y = (np.log(x[keep]), np.log(y[keep])) if log else (x[keep], y[keep])
    if len(x) < FEWEST or len(np.unique(x)) < 4:
        return None
    if len(x) > MOST_SMOOTHED:  # not every k-th row: rows may have an order in which that is one of few times
        part = np.random.default_rng(0).choice(len(x), MOST_SMOOTHED, replace=False)
        x, y = x[part], y[part]
    # At points of the data only: between clusters of them local lines would be extrapolations.
    at = np.unique(np.quantile(x, np.linspace(0.0, 1.0, SMOOTH_POINTS), method="nearest"))
    curve = local_regression(x, y, at)
    if log:
        at, curve = np.exp(at), np.exp(curve)
    return ax.plot(at, curve, color=VERMILLION, lw=1.6, zorder=4, label=label)[0]


def boxes(ax: Any, values: Sequence[np.ndarray], names: Sequence[str]) -> None:
    """A box for each category: quartiles, whiskers to 1.5 times their distance, every value as a dot beside it."""
    ax.boxplot(
        list(values), positions=np.arange(len(values)), widths=0.5, showfliers=False, patch_artist=True,
        boxprops={"facecolor": SKY, "alpha": 0.35, "edgecolor": BLUE}, medianprops={"color": BLUE, "lw": 1.6},
        whiskerprops={"color": BLUE}, capprops={"color": BLUE}, manage_ticks=False,
    )  # fmt: skip
    many = sum(map(len, values)) > MANY
    look = {"ms": 1.5, "alpha": 0.25, "mec": "none"} if many else {"ms": 2.5, "alpha": 0.6}
    for k, part in enumerate(values):
        # Spread from side to side by rank, so that equal values do not hide each other; the same in every run.
        offset = (
            0.36 * (np.argsort(np.argsort(np.sin(np.arange(len(part)) * 12.9898))) + 0.5) / max(len(part), 1) - 0.18
        )
        dots(ax, k + offset, part, DARK, **look)
    texts = [f"{plain_text(name)}\nn = {len(part)}" for name, part in zip(names, values, strict=True)]
    ax.set_xticks(range(len(names)), texts)
    ax.set_xlim(-0.6, len(names) - 0.4)


def identity_line(ax: Any, *values: np.ndarray, log: bool = False) -> None:
    """Both axes over the range of all finite `values` (above zero on logarithmic axes), with the line y = x."""
    together = np.concatenate([np.asarray(part, float) for part in values])
    together = together[np.isfinite(together) & ((together > 0) if log else True)]
    if not len(together):
        together = np.array([1.0, 10.0] if log else [0.0, 1.0])
    if log:
        low, high = np.log(together.min()), np.log(together.max())
        margin = 0.04 * ((high - low) or 1.0)
        ends = (float(np.exp(low - margin)), float(np.exp(high + margin)))
        ax.set(xscale="log", yscale="log")
    else:
        margin = 0.04 * (float(np.ptp(together)) or 1.0)
        ends = (float(together.min()) - margin, float(together.max()) + margin)
    ax.plot(ends, ends, color=GREY, lw=1.2, zorder=1)
    ax.set(xlim=ends, ylim=ends)
    ax.set_aspect("equal", adjustable="box")


def note(ax: Any, text: str) -> None:
    """A remark in the upper left corner of a panel."""
    ax.text(0.02, 0.98, text, transform=ax.transAxes, ha="left", va="top", fontsize=7.5, color=GREY)


def normal_density(ax: Any, sd: float, low: float, high: float, mean: float = 0.0) -> None:
    """The density of a normal distribution between `low` and `high`."""
    grid = np.linspace(low, high, 201)
    ax.plot(
        grid, np.exp(-0.5 * ((grid - mean) / sd) ** 2) / (sd * np.sqrt(2.0 * np.pi)), color=VERMILLION, lw=1.5,
        label="normal density",
    )  # fmt: skip


def histogram(ax: Any, values: np.ndarray, label: str | None = None) -> None:
    """A histogram of finite `values` on the scale of a density; 5 to 60 bins by Freedman and Diaconis."""
    values = values[np.isfinite(values)]
    count = int(np.clip(len(np.histogram(values, "fd")[0]), 5, 60))
    ax.hist(values, bins=count, density=True, color=SKY, alpha=0.55, edgecolor="white", lw=0.6, label=label)


def normal_quantiles(ax: Any, values: np.ndarray, color: str = BLUE) -> None:
    """Ordered finite `values` against quantiles of the standard normal distribution, the line y = x, and pointwise 95%
    intervals of the order statistics of a standard normal sample."""
    from scipy.stats import beta, norm

    values = np.sort(values[np.isfinite(values)])
    n = len(values)
    rank = np.arange(1, n + 1)
    expected = norm.ppf((rank - 0.375) / (n + 0.25))
    low, high = (norm.ppf(beta.ppf(p, rank, n + 1 - rank)) for p in (0.025, 0.975))
    ax.fill_between(expected, low, high, color=GREY, alpha=0.2, lw=0, label="95% of normal samples")
    ends = np.array([expected[0], expected[-1]])
    ax.plot(ends, ends, color=GREY, lw=1.2, zorder=1)
    dots(ax, expected, values, color)
    ax.set(xlabel="standard normal quantile")


def limits_around(values: np.ndarray, least: float = 0.0) -> tuple[float, float]:
    """Symmetric limits around zero that hold all finite `values`, and `least`."""
    finite = np.abs(np.asarray(values, float))[np.isfinite(values)]
    limit = 1.1 * max(float(finite.max(initial=0.0)), least) or 1.0
    return -limit, limit
