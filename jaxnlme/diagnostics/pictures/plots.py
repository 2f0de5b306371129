"""Pictures of a fit, with matplotlib; the title of each states if the fit did not converge."""

from __future__ import annotations

from typing import Any, final

from jaxnlme.diagnostics.pictures.convergence import AbstractConvergencePictures
from jaxnlme.diagnostics.pictures.effects import AbstractEffectPictures
from jaxnlme.diagnostics.pictures.forest import AbstractForestPictures
from jaxnlme.diagnostics.pictures.goodness_of_fit import AbstractFitPictures
from jaxnlme.diagnostics.pictures.individual import AbstractIndividualPictures
from jaxnlme.diagnostics.pictures.refit_records import AbstractRefitPictures
from jaxnlme.diagnostics.pictures.simulation_checks import AbstractSimulationPictures
from jaxnlme.drawing.marks import normal_quantiles
from jaxnlme.drawing.panels import Panels, axes_in_grid
from jaxnlme.drawing.style import picture, style_axes


@final
class Plots(
    AbstractIndividualPictures,
    AbstractFitPictures,
    AbstractEffectPictures,
    AbstractSimulationPictures,
    AbstractRefitPictures,
    AbstractForestPictures,
    AbstractConvergencePictures,
):
    """Pictures of `fit`, as `fit.plot`; `fit.plot()` is the standard page. Methods return matplotlib axes, or an array
    of them that prints in one line (`fit.plot.gof().figure.savefig("name.png")`), and draw into `ax` where it is given.

    **Raises:** ImportError naming the extra to install, where matplotlib is missing.
    """

    @picture("fit.plot")
    def __call__(self) -> Panels:
        """The standard page. Of an outcome with residuals: the four panels of `gof` (for each endpoint), normal
        quantiles of CWRES (of each endpoint), and the random effects. Of another one, for which these do not exist: the
        data, the random effects, and the progress of the fit.

        **Returns:** the axes (panels,).
        """
        has_residuals = self.fit.binding.density.error.has_residuals
        effects = len(self.fit.binding.density.effect_names) > 0
        if has_residuals:
            count = len(self._endpoints)
            panels = axes_in_grid(None, 5 * count + effects, 2, (3.5, 2.7))
            for k, (endpoint, rows) in enumerate(self._endpoints):
                quantiles = panels[4 * count + k]
                self._four_panels(panels[4 * k : 4 * k + 4], endpoint, rows, "cwres", self._x_name(None), False)
                normal_quantiles(quantiles, self._residual("cwres")[0][rows])
                quantiles.set_ylabel("CWRES" if endpoint is None else f"CWRES of {endpoint}")
                style_axes(quantiles)
        else:
            history = bool(self.fit.history) and "log_likelihood" in self.fit.history[-1]
            n_data = len(self._data_endpoints())
            panels = axes_in_grid(None, n_data + history + effects, 2, (3.5, 2.7))
            self.data(ax=panels[:n_data])
            if history:
                self.history(ax=panels[n_data])
        if effects:
            self.random_effects(ax=panels[-1])
        for panel in panels:
            panel.set_title("")
        data = self.fit.data
        self._title(panels, f"{self.fit.method}: {data.n_groups} groups, {data.n_obs} responses", True)
        return panels

    def _data_endpoints(self) -> list[Any]:
        """The endpoints that `data` draws a panel for."""
        from jaxnlme.data._pictures import endpoint_names

        return [None] if self.fit.data.endpoint is None else list(endpoint_names(self.fit.data))
