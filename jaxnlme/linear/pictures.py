"""Pictures of a fitted linear mixed model, as `fit.plot`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

import numpy as np

from jaxnlme.arguments import check_choice
from jaxnlme.drawing.marks import boxes, dots, identity_line, limits_around, normal_quantiles, smooth
from jaxnlme.drawing.panels import Panels, axes_in_grid, natural_order, one_or_panels, write_title
from jaxnlme.drawing.style import DARK, picture, plain_text, pyplot, style_axes
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.linear.frames import covariate_columns

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit

KINDS = ("response", "pearson", "normalized")
PICTURES = ("gof", "observed_predicted", "residuals", "qq", "vpc")


@final
class LinearPlots:
    """Pictures of `fit`, a LinearFit, as `fit.plot`; `fit.plot()` is the standard page. Methods return matplotlib axes,
    or an array of them that prints in one line, and draw into `ax` where it is given.

    **Raises:** ImportError naming the extra to install, where matplotlib is missing.
    """

    def __init__(self, fit: LinearFit):
        pyplot()
        self.fit = fit

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        raise AttributeError(
            f"fit.plot of a linear mixed model has no {name!r}; it has {', '.join(PICTURES)}, and fit.plot() is the "
            "standard page. Fits of jn.fit and jn.glmer have the others."
        )

    @picture("fit.plot")
    def __call__(self) -> Panels:
        """The standard page: the four panels of `gof`, Pearson residuals against the first covariate, and normal
        quantiles of each random effect.

        **Returns:** the axes (panels,).
        """
        columns, effects = list(map(str, covariate_columns(self.fit)))[:1], self._effects()
        panels = axes_in_grid(None, 4 + len(columns) + len(effects), 2, (3.5, 2.7))
        self._four_panels(panels)
        for panel, column in zip(panels[4:], columns, strict=False):
            self._residuals(panel, "pearson", column)
        for panel, (name, values) in zip(panels[4 + len(columns) :], effects.items(), strict=True):
            _quantiles(panel, values, name)
        self._title(panels, f"{self.fit.method}: {self.fit.model.n_rows} rows", True)
        return panels

    @picture("fit.plot.gof")
    def gof(self, ax: Any = None) -> Panels:
        """The four panels of goodness of fit: observations against predictions without and with random effects, Pearson
        residuals against the fitted values, and their normal quantiles.

        **Arguments:** `ax`: one axes per panel.
        **Returns:** the axes (4,).
        **Raises:** OptionError for another number of axes.
        """
        panels = axes_in_grid(ax, 4, 2, (3.5, 2.9))
        self._four_panels(panels)
        self._title(panels, f"Goodness of fit by {self.fit.method}", ax is None)
        return panels

    @picture("fit.plot.observed_predicted")
    def observed_predicted(self, level: str = "both", ax: Any = None) -> Any:
        """Observations against predictions, with the line of identity and a smooth curve.

        **Arguments:** `level`: "population", X beta; "group", with the random effects of all grouping factors; or
        "both" (two panels); `ax`: one axes per panel.
        **Returns:** the axes of one panel, or an array of axes.
        **Raises:** OptionError for another level or number of axes.
        """
        check_choice("level", level, ("population", "group", "both"))
        levels = ("population", "group") if level == "both" else (level,)
        panels = axes_in_grid(ax, len(levels), 2, (3.4, 3.2))
        for panel, name in zip(panels, levels, strict=True):
            self._observed_predicted(panel, name)
        self._title(panels, f"Observed and predicted by {self.fit.method}", ax is None)
        return one_or_panels(panels)

    @picture("fit.plot.residuals")
    def residuals(self, kind: str = "pearson", against: str = "fitted", ax: Any = None) -> Any:
        """Residuals against the fitted values or a column of the formula, with a smooth curve; boxes for categories.

        **Arguments:** `kind`: of `fit.residuals()`; `against`: "fitted" or the name of a column; `ax`: the axes.
        **Returns:** the axes.
        **Raises:** OptionError for an unknown kind or column.
        """
        check_choice("kind", kind, KINDS)
        panels = axes_in_grid(ax, 1, 1, (4.8, 2.9))
        self._residuals(panels[0], kind, against)
        self._title(panels, f"Residuals by {self.fit.method}", ax is None)
        return panels[0]

    @picture("fit.plot.qq")
    def qq(self, what: str = "normalized", ax: Any = None) -> Any:
        """Normal quantiles with pointwise 95% bands.

        **Arguments:** `what`: "pearson" or "normalized" residuals, or "effects", the conditional means of each random
        effect over its SD (which shrinkage makes flatter than the line); `ax`: one axes per panel.
        **Returns:** the axes of one panel, or an array of axes.
        **Raises:** OptionError for another word, another number of axes, and a model without random effects.
        """
        check_choice("what", what, ("pearson", "normalized", "effects"))
        values = self._effects() if what == "effects" else {f"residual ({what})": self.fit.residuals(what)}
        if not values:
            raise OptionError("the model has no random effects whose variance is not zero; what='pearson' is there.")
        panels = axes_in_grid(ax, len(values), 2, (3.4, 2.9))
        for panel, (name, part) in zip(panels, values.items(), strict=True):
            _quantiles(panel, part, name)
        self._title(panels, f"Normal quantiles by {self.fit.method}", ax is None)
        return one_or_panels(panels)

    def vpc(self, **options: Any) -> Any:
        """A visual predictive check.

        **Arguments:** `options`: of `fit.vpc`.
        **Returns:** the axes of one panel, or an array of axes.
        """
        return self.fit.vpc(**options).plot()

    def _effects(self) -> dict[str, np.ndarray]:
        """Conditional means of each random effect over its SD, by name; with several grouping factors with theirs."""
        out = {}
        for label, table in self.fit.random_effects.items():
            sd = np.sqrt(np.diag(self.fit.psi[label].to_numpy(float)))
            of = "" if len(self.fit.psi) == 1 else f" | {label}"
            out |= {f"{n}{of}": table[n].to_numpy(float) / s for n, s in zip(table, sd, strict=True) if s > 0.0}
        return out

    def _four_panels(self, panels: Panels) -> None:
        self._observed_predicted(panels[0], "population")
        self._observed_predicted(panels[1], "group")
        self._residuals(panels[2], "pearson", "fitted")
        _quantiles(panels[3], self.fit.residuals("pearson"), "residual (pearson)")

    def _observed_predicted(self, ax: Any, level: str) -> None:
        y, response = self.fit.model.y, plain_text(self.fit.model.formula.response)
        prediction = self.fit.predict(level="population") if level == "population" else self.fit.fitted
        identity_line(ax, y, prediction)
        dots(ax, prediction, y)
        smooth(ax, prediction, y)
        words = "population" if level == "population" else "individual"
        ax.set(xlabel=f"predicted {response}, {words}", ylabel=f"observed {response}")
        style_axes(ax)

    def _residuals(self, ax: Any, kind: str, against: str) -> None:
        columns = covariate_columns(self.fit)
        if against != "fitted" and against not in columns:
            raise OptionError(
                f"against: no column {against!r} in the formula; {near_matches(against, list(map(str, columns)))}"
            )
        values = self.fit.residuals(kind)
        horizontal = self.fit.fitted if against == "fitted" else columns[against].to_numpy()
        ax.axhline(0.0, color=DARK, lw=1.0, zorder=1)
        if horizontal.dtype.kind in "iuf":
            dots(ax, horizontal, values)
            smooth(ax, horizontal, values)
        else:
            text = np.array([str(value) for value in horizontal], object)
            found = list(dict.fromkeys(text.tolist()))
            levels = [found[k] for k in natural_order(found)]
            boxes(ax, [values[text == level] for level in levels], levels)
        ax.set(xlabel=plain_text(against), ylabel=f"residual ({kind})")
        ax.set_ylim(limits_around(values))
        style_axes(ax)

    def _title(self, panels: Panels, text: str, created: bool) -> None:
        write_title(panels, text, created, self.fit.converged)


def _quantiles(ax: Any, values: np.ndarray, name: str) -> None:
    normal_quantiles(ax, np.asarray(values, float))
    ax.set_ylabel(plain_text(name))
    style_axes(ax)
