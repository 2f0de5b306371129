"""The fit of a generalised linear mixed model: the engine's Fit with predictions and simulations for tables, on the
scale of the response."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_choice
from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.pictures.plots import Plots
from jaxnlme.errors import DataError, OptionError
from jaxnlme.fitting.fit import Fit
from jaxnlme.formulas.frames import as_table, complete_rows
from jaxnlme.formulas.mixed import used_columns
from jaxnlme.formulas.text import columns_in, tokens_of
from jaxnlme.linear.glmm.declaration import Declaration
from jaxnlme.linear.glmm.densities import PROBABILITIES, OutcomeDensity
from jaxnlme.linear.glmm.frames import augment, diagnostics, predict_interval
from jaxnlme.linear.glmm.links import link_of
from jaxnlme.linear.glmm.model import LINKS, LinearPredictor
from jaxnlme.linear.glmm.residuals import KINDS, residuals
from jaxnlme.linear.glmm.response import Response, read_response
from jaxnlme.linear.glmm.settings import GLMM
from jaxnlme.results.by_level import level_depth
from jaxnlme.signatures import public


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class GeneralisedLinearFit(Fit):
    """A fitted generalised linear mixed model: a Fit, of which coefficients are called after their columns.

    `predict` and `simulate` also take tables with the columns of the formula, and answer on the scale of the response.
    """

    @property
    def _predictor(self) -> LinearPredictor:
        structure = self.model.structure
        assert isinstance(structure, LinearPredictor)
        return structure

    @property
    def declaration(self) -> Declaration:
        """Formula and table."""
        return self._predictor.declaration

    @property
    def _outcome(self) -> OutcomeDensity:
        return self.model.error.density  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def trials_column(self) -> str | None:
        """The column of numbers of trials in the data of the fit, None for one a row."""
        return self._outcome.trials

    @property
    def family(self) -> str:
        """The name of the family."""
        return self._outcome.family

    @property
    def link(self) -> str:
        """The name of the link."""
        return self._outcome.link

    def update(self, formula: str | None = None, **changes: Any) -> Any:
        """The model with `changes` other than of its formula; see `jaxnlme.fitting.update.update`."""
        if formula is not None:
            raise OptionError(
                "update of a generalised linear mixed model takes no formula: call jn.glmer with it. It takes method=, "
                "covariance=, data=, fixed= and the options of jn.fit."
            )
        return super().update(**changes)

    # --- what a comparison asks for ---

    @property
    def fixed_effect_names(self) -> tuple[str, ...]:
        """Names of the coefficients of the fixed effects."""
        return tuple(self.declaration.fixed.names)

    @property
    def fixed_columns(self) -> dict[str, np.ndarray]:
        """The column (rows,) of each fixed effect."""
        return dict(zip(self.declaration.fixed.names, self.declaration.fixed.matrix.T, strict=True))

    @property
    def level_designs(self) -> dict[str, tuple[np.ndarray, dict[str, np.ndarray]]]:
        """By grouping factor the unit of each row (rows,), counted by first appearance, and the effects' columns."""
        return {
            part.label: (part.units.codes, dict(zip(part.effects, part.matrix().T, strict=True)))
            for part in self.declaration.parts
        }

    @property
    def outcome_model(self) -> tuple[str, str, bytes, dict[str, float]]:
        """Family, link, offset, and coefficients held at other values than zero, the same in nested models."""
        held = self.estimates["fixed"].to_numpy(bool)
        values = {name: float(self.values[name]) for name in self.estimates.index[held] if self.values[name] != 0.0}
        return self.family, self.link, self.declaration.offset(self.declaration.frame).tobytes(), values

    @public("fit.predict")
    def predict(self, data: Any = None, level: str | int = "group", *, scale: str = "response", **interval: Any) -> Any:
        """Predictions at every row of a table, with interval=0.95 also intervals.

        **Arguments:** `data`: None for the fitted rows, or a table with the columns of the formula; the response may be
        absent, the grouping factors too at level "population"; `level`: of the random effects, as in
        `jaxnlme.results.predict.predict`: "population" has none, "group" those of all units; a unit that the fit lacks
        gets the mode of its effects where the table has responses of it; `scale`: "response", the mean given the random
        effects (a probability for a binomial outcome; for an ordinal one a column for each category), or "link", the
        linear predictor; `interval`, `uncertainty`, `draws`, `seed`: as in `jaxnlme.results.predict.predict`. With
        "residual" among the `uncertainty` the intervals, and the prediction beside them, are those of a response as the
        data hold it (successes of a binomial outcome).
        **Returns:** a pandas Series "prediction" (rows,), or a data frame of probabilities (rows, categories); NaN for
        combinations of categories that the fitted data lack, so that no coefficient of them was estimated; with
        `interval` a data frame of prediction, lower and upper.
        **Raises:** as `jaxnlme.results.predict.predict`; OptionError for another scale, and for intervals with
        "residual" on the scale of the link; ModelError for intervals of an ordinal outcome.
        """
        check_choice("scale", scale, ("response", "link"))
        if interval:
            return predict_interval(self, data, level, scale, super().predict, interval)
        eta = super().predict(self.grouped(data, level), level)
        fixed = self.declaration.fixed
        if data is not None and not isinstance(data, GroupedData) and fixed.aliased:
            eta = eta.mask(fixed.not_estimable(self.declaration.frame, data))
        if scale == "link":
            return eta
        link = link_of(self.link, self.family in PROBABILITIES)
        if self.family != "ordinal":
            with np.errstate(all="ignore"):
                inside = np.where(link.within(eta.to_numpy()), eta.to_numpy(), np.nan)
                return pd.Series(link.inverse(inside), index=eta.index, name=eta.name)
        thresholds = np.array([self.values[name] for name in self.binding.density.error_names])
        below = link.inverse(thresholds[None, :] - eta.to_numpy()[:, None])
        cumulative = np.concatenate([np.zeros((len(eta), 1)), below, np.ones((len(eta), 1))], axis=1)
        categories = list(self.declaration.response.categories)
        return pd.DataFrame(np.diff(cumulative, axis=1), index=eta.index, columns=categories)

    @public("fit.simulate")
    def simulate(self, n: int = 1, key: Any = 0, data: Any = None, level: str | int = "population") -> np.ndarray:
        """Responses drawn from the fitted model; see `jaxnlme.results.simulate.simulate`.

        **Arguments:** `data`: None, or a table with the columns of the formula; others as there.
        **Returns:** (n, rows): successes of a binomial outcome, counts, numbers; of an ordinal outcome the positions of
        the categories, from 0 on.
        """
        return super().simulate(n, key, self.grouped(data, "group", trials=True), level)

    def residuals(self, kinds: str | Sequence[str] = KINDS) -> pd.DataFrame:
        """Residuals by row; see `jaxnlme.linear.glmm.residuals.residuals`."""
        return residuals(self, kinds)

    @public("fit.diagnostics")
    def diagnostics(self) -> pd.DataFrame:
        """One table by row, ready to plot; see `jaxnlme.linear.glmm.frames.diagnostics`."""
        return diagnostics(self)

    @public("fit.augment")
    def augment(self, data: Any = None) -> Any:
        """The table of the fit, or another one, with `.fitted`, `.resid` and `.fixed` beside its columns; see
        `jaxnlme.linear.glmm.frames.augment`."""
        return augment(self, data)

    @property
    def plot(self) -> Any:
        """Pictures, with expected responses (counts of successes, mean positions of categories) for predictions."""
        return Plots(_OnScaleOfData(self))  # pyright: ignore[reportArgumentType]

    def parameters(self, level: str | int = "group", data: Any = None) -> pd.DataFrame:
        """Coefficients with the random effects of each unit; see `jaxnlme.results.predict.parameters`."""
        return super().parameters(level, self.grouped(data, level))

    def grouped(self, data: Any, level: Any, trials: bool = False) -> Any:
        """The engine's data of a table; None and GroupedData unchanged.

        **Arguments:** `trials`: the number of trials is needed.
        """
        if data is None or isinstance(data, GroupedData):
            return data
        declaration = self.declaration
        given = set(data.columns if hasattr(data, "columns") else data)
        groups = [name for part in declaration.parts for name in part.group]
        known_groups = level_depth(self.data, level) > 0 or set(groups) <= given
        of_response = used_columns(declaration.formula.response)
        names = [
            *used_columns(declaration.formula.fixed),
            *(n for p in declaration.formula.random for n in used_columns(p.formula)),
        ]
        names += [name for text in declaration.offsets for name in columns_in(tokens_of(text))]
        names += groups if known_groups else []
        has_response = set(of_response) <= given
        if trials and declaration.response.trials is not None and not has_response:
            raise DataError(
                f"the numbers of trials are those of {declaration.response.name}; the table lacks "
                f"{', '.join(repr(name) for name in of_response if name not in given)}."
            )
        frame = as_table(data, [*names, *(of_response if has_response else ())], "the formula of the fit")
        return self._predictor.grouped_data(
            frame, self._response(frame, of_response) if has_response else None, known_groups
        )

    def response_of(self, data: Any) -> Response | None:
        """The response of a table, NaN in rows that lack it; None where the table lacks a column of it."""
        names = used_columns(self.declaration.formula.response)
        present = set(names) <= set(data.columns if hasattr(data, "columns") else data)
        return self._response(as_table(data, names, "the formula of the fit"), names) if present else None

    def _response(self, frame: pd.DataFrame, names: Any) -> Response:
        """The response of a new table, NaN in rows that lack it."""
        own = self.declaration.response
        observed = complete_rows(frame, names)
        y, trials = np.full(len(frame), np.nan), np.ones(len(frame))
        if observed.any():
            rows = np.flatnonzero(observed)
            found = read_response(self.declaration.formula.response, frame[observed], self.family, rows, own.categories)
            y[rows] = found.y
            if found.trials is not None:
                trials[rows] = found.trials
        return Response(own.name, y, None if own.trials is None else trials, own.categories)


class _OnScaleOfData:
    """A fit whose predictions are expected values of the responses as the data hold them, for pictures."""

    on_scale_of_data = True

    def __init__(self, fit: GeneralisedLinearFit):
        self._fit = fit

    def __getattr__(self, name: str) -> Any:
        return getattr(self._fit, name)

    def predict(self, data: Any = None, level: str | int = "group") -> pd.Series:
        """Expected responses (rows,)."""
        fit = self._fit
        grouped = fit.data if data is None else fit.grouped(data, level)
        mean = fit.predict(grouped, level)
        if fit.family == "ordinal":
            return pd.Series(mean.to_numpy() @ np.arange(mean.shape[1]), index=mean.index)
        trials = fit._outcome.trials
        return mean if trials is None else mean * grouped.rows_to_column(grouped.x[trials])


def with_notes(fit: GeneralisedLinearFit) -> GeneralisedLinearFit:
    """The fit with sentences on the data, on links that bound the linear predictor where it did not converge, and on a
    negative binomial that is a Poisson distribution, at the end of its status."""
    family, link = fit.family, fit.link
    notes = list(fit.declaration.notes)
    low, high = link_of(link, family in PROBABILITIES).bounds
    if not fit.converged and (np.isfinite(low) or np.isfinite(high)):
        others = [name for name in LINKS[family] if link_of(name, family in PROBABILITIES).bounds == (-np.inf, np.inf)]
        notes.append(
            f"The {link} link needs a linear predictor {'> 0' if low == 0.0 else '< 0'} in every row, which normal "
            f"random effects do not keep: rows may lie at that bound. Try link={others[0]!r}."
        )
    if family == "negative binomial":
        size = fit.values[fit.binding.density.error_names[0]]
        if size > GLMM.poisson_size * max(float(np.mean(fit.declaration.response.y)), 1.0):
            notes.append(
                f"The size runs off ({size:.3g}): given the random effects, the counts vary no more than those of a "
                "Poisson distribution; family='poisson' fits as well."
            )
    if not notes:
        return fit
    status = dataclasses.replace(fit.status, sentences=(*fit.status.sentences, *notes))
    return dataclasses.replace(fit, status=status)
