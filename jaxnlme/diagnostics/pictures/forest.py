"""Effects of covariates on the parameters: ratios to a reference subject, and their forest plot."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_names
from jaxnlme.diagnostics.pictures.plotter import AbstractPlotter, categories, level_text
from jaxnlme.drawing.panels import axes_in_row
from jaxnlme.drawing.style import BLUE, DARK, GREY, SKY, picture, style_axes
from jaxnlme.errors import OptionError, check_level, near_matches, shown
from jaxnlme.results.derived import derive

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

QUANTILES = (0.05, 0.95)
# The range usually taken for no relevant difference in exposure (bioequivalence).
NO_DIFFERENCE = (0.8, 1.25)


def covariate_effects(
    fit: FitRecord,
    parameters: str | Sequence[str] | None = None,
    reference: Mapping[str, Any] | None = None,
    quantiles: Sequence[float] = QUANTILES,
    level: float = 0.95,
) -> pd.DataFrame:
    """Ratios of the typical parameters at other values of one covariate to those of a reference subject, with intervals
    by the delta method on the log scale.

    **Arguments:** `parameters`: those with covariates where None; `reference`: values of the reference subject by
    column; where a column is not named, the median over groups of a numeric column, the first level of categories,
    and the most frequent value of a number with at most five values; `quantiles` over groups at which
    numeric columns are taken, one at a time; other categories are taken at each level; `level` of the intervals.
    **Returns:** a data frame with the columns `parameter`, `covariate`, `value`, `reference`, `ratio`, `se_log`,
    `lower`, `upper`.
    **Raises:** OptionError for a model without covariates, unknown names, and parameters of changing sign; FitError for
    a fit without standard errors.
    **Source:** Marier, Teuscher and Mouksassi (2022), CPT: Pharmacometrics and Systems Pharmacology 11, 1283-1293.
    """
    import pandas as pd
    from scipy.special import ndtri

    check_level(level)
    sources = {name: list(columns.source_columns) for name, columns in fit.binding.covariates.items()}
    sources = {name: columns for name, columns in sources.items() if columns}
    if not sources:
        raise OptionError("the model has no covariates whose effects could be drawn.")
    chosen = list(sources) if parameters is None else check_names("parameters", parameters, "parameters")
    for name in chosen:
        if name not in sources:
            raise OptionError(f"{name!r} is no parameter with covariates; {near_matches(name, list(sources))}")
    columns = list(dict.fromkeys(column for names in sources.values() for column in names))
    base, others = _values(fit, columns, dict(reference or {}), quantiles)
    cases = [(column, value) for column in columns for value in others[column]]
    rows = [base] + [{**base, column: value} for column, value in cases]
    derived = derive(fit, {name: _reader(name) for name in chosen}, pd.DataFrame(rows))
    estimate = derived.estimate.reshape(len(chosen), len(rows))
    covariance = derived.covariance.to_numpy()
    half, table = float(ndtri(0.5 + level / 2.0)), []
    for k, name in enumerate(chosen):
        at = k * len(rows)
        for j, (column, value) in enumerate(cases, 1):
            if column not in sources[name]:
                continue
            this, first = estimate[k, j], estimate[k, 0]
            if not this * first > 0:
                raise OptionError(
                    f"parameter {name!r} is {first:g} at the reference and {this:g} at {column} = {value}: no ratio."
                )
            gradient = np.array([1.0 / this, -1.0 / first])
            pair = [at + j, at]
            se = float(np.sqrt(max(gradient @ covariance[np.ix_(pair, pair)] @ gradient, 0.0)))
            log = float(np.log(this / first))
            ends = np.exp([log - half * se, log + half * se])
            table.append((name, column, value, base[column], np.exp(log), se, *ends))
    names = ["parameter", "covariate", "value", "reference", "ratio", "se_log", "lower", "upper"]
    return pd.DataFrame(table, columns=names)


def _reader(name: str) -> Callable[[Any], Any]:
    """The function of the parameters that reads a parameter of the structural model."""

    def read(p: Any) -> Any:
        return p.phi[name]

    return read


def _values(
    fit: FitRecord, columns: list[str], reference: dict[str, Any], quantiles: Sequence[float]
) -> tuple[dict[str, Any], dict[str, list[Any]]]:
    """The values of the reference subject, and the other values of each column. **Raises:** OptionError."""
    for name in reference:
        if name not in columns:
            raise OptionError(f"reference: {name!r} is no covariate of the model; {near_matches(str(name), columns)}")
    quantiles = list(np.atleast_1d(np.asarray(quantiles, float)))
    if not all(0.0 < q < 1.0 for q in quantiles):
        raise OptionError(f"quantiles must lie between 0 and 1; received {shown(quantiles)}.")
    data = fit.data
    declared = {k: v for columns_k in fit.binding.covariates.values() for k, v in columns_k.known_levels.items()}
    base, others = {}, {}
    for name in columns:
        source = (data.x | data.v | data.text)[name]
        values = source[data.rows] if source.ndim == 2 else source
        levels = categories(values, data.levels.get(name))
        if levels is None and name in declared:  # numbers that a formula takes as categories
            levels = sorted(declared[name])
        if levels is None:
            base[name] = reference.get(name, float(np.median(values)))
            others[name] = [float(q) for q in np.quantile(values, quantiles)]
            continue
        common = levels[0] if values.dtype == object else max(levels, key=lambda level: int((values == level).sum()))
        base[name] = reference.get(name, common)
        if base[name] not in levels:
            raise OptionError(f"reference: {name!r} has the levels {', '.join(map(str, levels))}, not {base[name]!r}.")
        others[name] = [level for level in levels if level != base[name]]
    return base, others


class AbstractForestPictures(AbstractPlotter):
    """The forest plot."""

    @picture("fit.plot.forest")
    def forest(
        self,
        record: Any = None,
        parameters: str | Sequence[str] | None = None,
        *,
        reference: Mapping[str, Any] | None = None,
        quantiles: Sequence[float] = QUANTILES,
        level: float = 0.95,
        band: tuple[float, float] | None = NO_DIFFERENCE,
        ax: Any = None,
    ) -> Any:
        """Forest plot of the effects of covariates: ratio of each parameter at other values of one covariate to that of
        the reference subject, with its interval; or of the values of `fit.derive`.

        **Arguments:** `record`: None for the ratios of `covariate_effects` (`parameters`, `reference`, `quantiles`,
        `level`: as there), or a record of `fit.derive()`, whose values and intervals are drawn as they are; `band`: the
        shaded range of ratios, None for none; `ax`: the axes to draw into.
        **Returns:** the axes.
        **Raises:** OptionError for a model without covariates, unknown names, options beside a record.

        **Example:**

        ```python
        fit.plot.forest(fit.derive(lambda p: jnp.log(2.0) * p.vol / p.cl))
        ```
        """
        if record is not None:
            given = (parameters, reference, tuple(quantiles)) != (None, None, QUANTILES)
            if given or not hasattr(record, "intervals") or not hasattr(record, "quantities"):
                raise OptionError(
                    "record must be that of fit.derive(), without parameters, reference and quantiles; received "
                    f"{type(record).__name__}."
                )
            table = record.intervals(level)
            labels = [": ".join(map(str, n)) if isinstance(n, tuple) else str(n) for n in table.index]
            values, heads = table[["estimate", "lower", "upper"]].to_numpy(float), [""] * len(table)
        else:
            table = covariate_effects(self.fit, parameters, reference, quantiles, level)
            labels = [f"{row.covariate} {_text(row.value)} (ref. {_text(row.reference)})" for row in table.itertuples()]
            values, heads = table[["ratio", "lower", "upper"]].to_numpy(float), table["parameter"].tolist()
        return self._forest(values, labels, heads, record is None, level, band, ax)

    def _forest(
        self, values: np.ndarray, labels: list[str], heads: list[str], ratios: bool, level: float, band: Any, ax: Any
    ) -> Any:
        """Rows of estimate, lower and upper limit, with their numbers on the right; a line above each new head."""
        created = ax is None
        places, ticks, names, place = [], [], [], 0.0
        for k, (label, head) in enumerate(zip(labels, heads, strict=True)):
            if head and (k == 0 or head != heads[k - 1]):
                ticks.append(place)
                names.append(head)
                place -= 0.9
            places.append(place)
            ticks.append(place)
            names.append(label)
            place -= 1.0
        panels = axes_in_row(ax, 1, (6.8, 1.3 + 0.27 * max(-place, 3.0)))
        ax, at = panels[0], np.array(places)
        if ratios:
            if band is not None:
                ax.axvspan(*band, color=SKY, alpha=0.18, lw=0, zorder=0)
            ax.axvline(1.0, color=GREY, lw=1.0, ls="--", zorder=1)
            ax.set_xscale("log")
            _plain_log_ticks(ax)
        style_axes(ax)
        ax.grid(False, axis="y")
        ax.hlines(at, values[:, 1], values[:, 2], color=BLUE, lw=1.8)
        ax.plot(values[:, 0], at, "s", ms=5.5, color=BLUE, mec="white", mew=0.5)
        for row, (estimate, lower, upper) in zip(at, values, strict=True):
            text = f"{_digits(estimate)} [{_digits(lower)}, {_digits(upper)}]"
            ax.text(1.02, row, text, transform=ax.get_yaxis_transform(), va="center", ha="left", fontsize=8, color=DARK)
        ax.set_yticks(ticks, names)
        for tick, name in zip(ax.get_yticklabels(), names, strict=True):
            tick.set_fontweight("bold" if name in heads and name else "normal")
        ax.tick_params(axis="y", length=0)
        ax.set_ylim(place + 0.4, 0.7)
        ax.spines["left"].set_visible(False)
        words = "ratio to the reference subject" if ratios else "value"
        ax.set_xlabel(f"{words}, {100 * level:g}% interval")
        title = "Effects of covariates" if ratios else "Derived values"
        self._title(panels, f"{title} by {self.fit.method}", created)
        return ax


def _text(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else level_text(value)


def _digits(value: float) -> str:
    """Three digits, zeros at the end too."""
    return f"{value:#.3g}".rstrip(".")


def _plain_log_ticks(ax: Any) -> None:
    """Ticks of a logarithmic axis as plain numbers, also within one decade."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    ax.xaxis.set_major_locator(LogLocator(subs=(1.0, 1.25, 1.6, 2.0, 2.5, 4.0, 5.0, 8.0)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
