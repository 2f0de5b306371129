"""The rows of a fit that a predictive check uses, and their replicates."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.endpoints import endpoint_codes
from jaxnlme.data._columns import read_column
from jaxnlme.diagnostics.simulations import simulated_responses
from jaxnlme.diagnostics.vpc.cells import Observations
from jaxnlme.diagnostics.vpc.reading import numbers, observations_of
from jaxnlme.diagnostics.vpc.replicates import SameRows
from jaxnlme.diagnostics.vpc.settings import VPC
from jaxnlme.diagnostics.vpc.strata import Specification
from jaxnlme.errors import DataError, OptionError, check_whole_number, near_matches, shown
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.results.simulate import check_sampler, simulated_block

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True, eq=False)
class FitRows:
    """The rows of a fit that a check uses. **Fields:** `fit`; `frame`, its data; `use` (rows,): those of the endpoint
    asked for."""

    fit: FitRecord
    frame: pd.DataFrame
    use: np.ndarray
    one_endpoint: bool

    @classmethod
    def of(cls, fit: FitRecord, endpoint: Any) -> FitRows:
        """**Raises:** OptionError for an unknown endpoint."""
        data, error = fit.binding.data, fit.binding.density.error
        use = data.rows_to_column(data.observed)
        if not isinstance(error, EndpointErrors):
            if endpoint is not None:
                raise OptionError(f"endpoint={shown(endpoint)}: the model has one residual model; leave it out.")
            return cls(fit, _table(fit), use, True)
        codes = data.rows_to_column(endpoint_codes(data, error.labels))
        if endpoint is None:
            return cls(fit, _table(fit), use, len(np.unique(codes[use])) == 1)
        if str(endpoint) not in error.labels:
            raise OptionError(f"no endpoint {shown(endpoint)}; {near_matches(str(endpoint), error.labels)}")
        return cls(fit, _table(fit), use & (codes == error.labels.index(str(endpoint))), True)

    @property
    def kind(self) -> str:
        """The kind of check: continuous for a Gaussian residual model; for another outcome categorical where the
        responses are whole numbers with few distinct values.

        **Raises:** OptionError where the endpoints are of several kinds.
        """
        data, error = self.fit.binding.data, self.fit.binding.density.error
        members = error.members if isinstance(error, EndpointErrors) else (error,)
        codes = np.zeros(self.use.shape, int)
        if isinstance(error, EndpointErrors):
            codes = data.rows_to_column(endpoint_codes(data, error.labels))
        kinds = {}
        for k in np.unique(codes[self.use]):
            y = np.unique(self.response[self.use & (codes == k)])
            is_whole = np.all(y == np.round(y)) and y.size <= VPC.most_categories
            kinds[int(k)] = "categorical" if is_whole and not members[k].has_location_and_scale else "continuous"
        if len(set(kinds.values())) > 1 and isinstance(error, EndpointErrors):
            labels = ", ".join(f"{error.labels[k]} {kind}" for k, kind in kinds.items())
            raise OptionError(f"the endpoints need checks of several kinds ({labels}); ask for each by endpoint=.")
        return next(iter(kinds.values()))

    @property
    def response(self) -> np.ndarray:
        """The responses (rows,), NaN where missing."""
        return self.frame[self.fit.data.y_name].to_numpy(float)

    def strata(self, given: Specification) -> Specification:
        """The strata asked for, with those of several endpoints first."""
        name = self.fit.binding.data.endpoint
        if self.one_endpoint or name is None or name in [own for own, _ in given]:
            return given
        return [(name, None), *given]

    def horizontal(self, x: Any) -> tuple[str, np.ndarray]:
        """Name and values (rows,) of the horizontal variable: a column of the data, values, or where None the time of
        the doses, or the first column of x.

        **Raises:** OptionError for unknown columns.
        """
        data = self.fit.binding.data
        if x is not None and not isinstance(x, str):
            values = read_column(x, "x").values
            if values.shape != self.use.shape or values.dtype == object:
                raise DataError(
                    f"x has {values.size} values and the data {self.use.size} rows; expected a number for each."
                )
            return str(getattr(x, "name", None) or "x"), values
        if x is None:
            names = [data.events.facts.time] if data.events is not None else [n for n in data.x if n != data.endpoint]
            own = getattr(getattr(self.fit, "declaration", None), "frame", ())
            names = [name for name in names if name in own] or names  # not a column of a design matrix
            if not names:
                raise OptionError("the data have no x column; give the horizontal variable, values (rows,), as x=.")
            x = names[0]
        if x not in self.frame:
            raise OptionError(f"x: the data have no column {x!r}; {near_matches(x, map(str, self.frame.columns))}")
        return x, numbers(self.frame, x, "x")

    def observations(
        self, x_name: str, at: np.ndarray, specification: Specification, prediction: np.ndarray | None
    ) -> tuple[Observations, np.ndarray]:
        """The observations, and the mask (rows,) of them."""
        data = self.fit.binding.data
        limits = None
        if data.limits is not None:
            arrays = {name: data.rows_to_column(values) for name, values in data.limits.arrays.items()}
            limits = dataclasses.replace(data.limits, **arrays)
        return observations_of(self.response, at, limits, self.frame[data.group_name].tolist(), specification,
                               self.frame, prediction, (x_name, data.y_name, data.group_name), self.use)  # fmt: skip

    def replicates(self, count: int, seed: int, use: np.ndarray, by_block: bool = True) -> SameRows:
        """The replicates simulated from the fit, in the rows of a mask. **Arguments:** `by_block`: many responses are
        simulated when a block of them is needed, and not kept."""
        count = check_whole_number("replicates", count, 1, "the number of simulated data sets")
        seed = check_whole_number("seed", seed, 0, "which the random numbers follow from")
        if by_block and count * use.size > VPC.cells_kept:
            fit = self.fit
            check_sampler(fit.binding.density)

            def draw(start: int, stop: int) -> np.ndarray:
                return simulated_block(fit, fit.binding, seed, count, start, stop)[:, use]

            return SameRows(count, int(use.sum()), draw)
        return SameRows.of_matrix(simulated_responses(self.fit, count, seed)[:, use])


def _table(fit: FitRecord) -> pd.DataFrame:
    """The data of a fit; that of a model made from a formula also with the columns of its table."""
    frame = fit.data.to_frame()
    own = getattr(getattr(fit, "declaration", None), "frame", None)
    if own is None or len(own) != len(frame):
        return frame
    return frame.assign(**{name: own[name].to_numpy() for name in own if name not in frame})
