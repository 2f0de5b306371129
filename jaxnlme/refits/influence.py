"""Influence of groups and of observations by the implicit function theorem: no fit is repeated."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.arguments import check_choice, require_host
from jaxnlme.binding.problem import Problem
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.objective import unflatten
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.row_weights import has_rows, row_slopes
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.central_differences import central_differences
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.refits.likelihood_at import information_of, require_approximation
from jaxnlme.refits.refits import check_option_names, natural_se, pack_on_host
from jaxnlme.refits.settings import BOOTSTRAP
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.evaluate import to_rows
from jaxnlme.results.inference import Information
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

BY = ("groups", "observations")


@check_option_names
@public("fit.influence")
def influence(fit: FitRecord, by: str = "groups") -> Influence:
    """Change of the estimates with the weight of each group, or of each observation.

    With t the estimates, H the observed information and g the gradient of the objective's term of a case, the implicit
    function theorem gives dt/dw = H^-1 g at w = 1, w a factor of the weight of the case. Leaving the case out changes t
    by about -dt/dw (the infinitesimal jackknife); `fit.jackknife()` refits without each group.

    **Arguments:** `by`: "groups": the log-likelihood of a group is multiplied by w; "observations": the log-density of
    a response given the random effects is multiplied by w (a weight of zero leaves the response out), through the
    conditional modes.
    **Returns:** an Influence.
    **Raises:** FitError where the fit did not converge or has no information matrix; OptionError for another `by`, a
    restricted likelihood, networks in the model, and "observations" of a fit that does not maximise a likelihood
    approximation, with correlated residuals, or with an outcome whose log-density is not a sum over rows.
    **Source:** Cook (1986), Journal of the Royal Statistical Society B 48, 133-169; Giordano, Stephenson, Liu, Jordan
    and Broderick (2019), AISTATS, 1139-1147 (the infinitesimal jackknife).

    **Example:**

    ```python
    print(fit.influence().influence.head())
    ```
    """
    require_host("fit.influence")
    check_choice("by", by, BY)
    info = information_of(fit, "influence")
    covariance = info.covariance
    assert covariance is not None
    slopes, index = _of_groups(fit, info) if by == "groups" else _of_observations(fit, info)
    moves = slopes @ covariance
    source = "groups' scores" if by == "groups" else "derivatives of the groups' scores in the weights of rows"
    sentences = [
        f"Influence of {len(index)} {by} on a fit by {fit.method}, from the information matrix and the {source}; no "
        "fit was repeated.",
        "Changes without a case are those of the tangent at weight one: for cases with a large Cook's distance compare "
        "fit.jackknife(), which refits.",
    ]
    if fit.sampling is not None:
        sentences.append("Scores and information are averages over draws and have Monte Carlo errors.")
    return Influence(fit, by, moves, np.einsum("ij,ij->i", slopes, moves), index, tuple(sentences))


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Influence(Printable):
    """The derivatives of the estimates in the weights of cases (groups or observations). It prints as sentences and a
    table of the most influential cases.

    **Fields:** `fit`; `by`: "groups" or "observations"; `moves` (cases, active): derivatives of the unconstrained
    parameters that were estimated (`fit.information.active`) in the weight of each case; `squares` (cases,): their
    squared lengths in the metric of the information, g' H^-1 g; `index`: labels of the cases; `sentences`.

    **Example:**

    ```python
    fit.influence("observations").derivatives["cl"].abs().nlargest(3)
    ```
    """

    fit: FitRecord
    by: str
    moves: np.ndarray
    squares: np.ndarray
    index: pd.Index
    sentences: tuple[str, ...]

    @functools.cached_property
    def derivatives(self) -> pd.DataFrame:
        """d value / d weight: a row for each case, a column for each value of `fit.values` that was not fixed."""
        import pandas as pd

        info = self.fit.information
        assert info is not None
        names, slope = list(self.fit.values), natural_slopes(self.fit)
        table = pd.DataFrame(self.moves @ (info.jacobian[:, info.active] * slope[:, None]).T, self.index, names)
        fixed = self.fit.estimates["fixed"]
        return table[[name for name in names if not fixed[name]]]

    @functools.cached_property
    def influence(self) -> pd.DataFrame:
        """Influence of each case, the most influential first; the columns are those of `Jackknife.influence`.

        - `displacement` = g' H^-1 g, the quadratic approximation of 2 (l(t) - l(t_i)).
        - `cook` = displacement / p, p the number of estimated parameters.
        - for each value its change without the case, -d value / d weight, in standard errors of the fit.
        """
        import pandas as pd

        assert self.fit.information is not None
        table = self.derivatives
        change = -table / natural_se(self.fit)[list(table.columns)]
        cook = self.squares / len(self.fit.information.active)
        columns = pd.DataFrame({"displacement": self.squares, "cook": cook}, self.index)
        return pd.concat([columns, change], axis=1).sort_values("displacement", ascending=False, kind="stable")

    @property
    def se(self) -> pd.Series:
        """Standard errors of the infinitesimal jackknife, the root of the sum over groups of (d value / d weight)^2;
        those of groups are the sandwich's.

        **Raises:** OptionError for observations, which are not independent.
        """
        if self.by != "groups":
            raise OptionError("observations of one group are not independent; fit.influence('groups').se has errors.")
        return (self.derivatives**2).sum(skipna=False).pow(0.5).rename("se")

    @public("influence.plot")
    def plot(self, most: int = 20, ax: Any = None) -> Any:
        """The most influential cases: likelihood displacement, Cook's distance and changes of the values.

        **Arguments:** `most`: cases drawn; `ax`: three axes, created where None.
        **Returns:** the axes (3,).
        **Raises:** OptionError for more cases than are legible, and another number of axes.
        """
        from jaxnlme.diagnostics.pictures.refit_records import draw_influence

        return draw_influence(self, most, ax)

    def _tables(self) -> list[Table]:
        rows = []
        for label, row in self.influence.head(BOOTSTRAP.influence_rows).iterrows():
            changes = row.iloc[2:].to_numpy(float)
            largest = int(np.nanargmax(np.abs(changes))) if np.isfinite(changes).any() else None
            words = "" if largest is None else f"{row.index[2 + largest]} {changes[largest]:+.2f}"
            label = ", ".join(map(str, label)) if isinstance(label, tuple) else str(label)
            rows.append([label, number(row["displacement"], 3), number(row["cook"], 3), words])
        title = f"Most influential {self.by} (of {len(self.index)}); largest change of a value in standard errors"
        return [Table(title, ("", "displacement", "Cook's D", "largest change"), rows)]


def natural_slopes(fit: FitRecord) -> np.ndarray:
    """d value / d reported (values,): |dh/dxb| of typical values h(xb), one for others."""
    slope = np.ones(len(fit.values))
    for k, transform in enumerate(fit.binding.transforms):
        if transform is not None:
            slope[k] = np.exp(-float(transform.log_slope(np.float64(list(fit.values.values())[k]))))
    return slope


def _of_groups(fit: FitRecord, info: Information) -> tuple[np.ndarray, Any]:
    """The weighted scores (groups, active) of the groups with a weight, and their labels."""
    import pandas as pd

    used = np.flatnonzero(np.asarray(fit.data.weights) != 0)
    if len(info.scores) != fit.data.n_groups:
        raise OptionError("influence runs in one process; save the fit and load it in a single process.")
    return info.scores[used], pd.Index(np.asarray(fit.data.labels)[used], name=fit.data.group_name)


def _of_observations(fit: FitRecord, info: Information) -> tuple[np.ndarray, Any]:
    """Derivatives (observations, active) of the scores in the weights of rows, and labels (group, row)."""
    import pandas as pd

    data, method = fit.data, require_approximation(fit, "by='observations'").method
    with x64():
        problem, params, modes = on_device((fit.binding.problem, fit.params, fit.modes))
        if not has_rows(problem, params):
            raise OptionError(
                f"by='observations' needs a log-density that is a sum over rows, and that of {fit.model.error.formula} "
                "is not; use by='groups'."
            )
        program = compiled(_row_slopes, problem.n_rows)
        x = pack_on_host(fit.params)

        def at(active: np.ndarray) -> np.ndarray:
            packed = x.copy()
            packed[info.active] = active
            pieces = program(problem, method, params, packed, modes)
            return to_rows(fit.binding, [np.asarray(piece) for piece in pieces])

        slopes = central_differences(at, x[info.active]).T
    weights = np.broadcast_to(np.asarray(data.weights)[:, None], data.rows.shape)
    slopes = slopes * data.rows_to_column(weights)[:, None]
    used = data.rows_to_column(data.observed & (weights != 0))
    labels = data.rows_to_column(np.broadcast_to(np.asarray(data.labels)[:, None], data.rows.shape))
    names = [data.group_name, "row"]
    return slopes[used], pd.MultiIndex.from_arrays([labels[used], data.row_labels[used]], names=names)


def _row_slopes(
    problem: Problem, method: LikelihoodApproximation, template: Params, x: jax.Array, modes: jax.Array
) -> list[jax.Array]:
    """`row_slopes` at the packed vector `x` (n,)."""
    return row_slopes(problem, method, unflatten(template, x), modes)
