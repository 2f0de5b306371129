"""The frozen record of an estimation: its fields, and the tables and predictions that follow from them."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.model import NLMEModel
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import FitError, check_level
from jaxnlme.model.networks import Networks, trained
from jaxnlme.model.params import Params
from jaxnlme.results.by_level import effect_columns, effects_by_level
from jaxnlme.results.criteria import Criteria, HasCriteria, criteria
from jaxnlme.results.fit_status import FitStatus
from jaxnlme.results.inference import Information, estimates_table
from jaxnlme.signatures import documented_by

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.posterior.record import Posterior
    from jaxnlme.results.stochastic import Sampling
    from jaxnlme.results.training import TrainingRecord


@dataclasses.dataclass(frozen=True, eq=False)
class FitRecord(HasCriteria):
    """An estimation's outcome. What was not computed is None.

    **Fields:** `binding` (model, data and the problem they make); `method`, the name of the likelihood;
    `estimator`, the method with its options; `params` at the end (numpy); `converged`, which `status` explains;
    `interrupted` by Ctrl-C, `stopped` by a callback; `status`; `modes` (groups, random), whitened; `curvature`
    (groups, random, random) of minus log_joint there; `group_log_likelihood` (groups,); `monte_carlo_variance`
    (groups,); `ess` (groups,), the effective number of draws, NaN without draws; `log_likelihood`, weighted sum;
    `log_prior`; `information`, the observed information and standard errors; `at_zero`, sentences on variances
    estimated as zero; `history`, one dict an iteration of the minimiser; `options`, `versions`; `timings`, seconds
    by phase and the count of `evaluations`; `fingerprint` of the data; `totals`, weighted observations and groups
    with one of all the data where several processes fitted them together, each with its own groups (None
    otherwise); `restricted`: beta was integrated out, and `log_likelihood` is the restricted one
    (`group_log_likelihood` is that of each group at the estimates, whose sum leaves the integral out); `sampling`,
    the record of the draws of a stochastic method, `training`, that of a training by `jn.Gradient`, and `posterior`,
    that of a posterior sampler, whose `params` are posterior means and whose tables are those of the draws (None for
    others).
    """

    binding: Binding
    method: str
    estimator: Any
    params: Params
    converged: bool
    interrupted: bool
    stopped: bool
    status: FitStatus
    modes: np.ndarray
    curvature: np.ndarray
    group_log_likelihood: np.ndarray
    monte_carlo_variance: np.ndarray
    ess: np.ndarray
    log_likelihood: float
    log_prior: float
    information: Information | None
    at_zero: tuple[str, ...]
    history: tuple[dict[str, float], ...]
    options: dict[str, Any]
    versions: dict[str, str]
    timings: dict[str, float]
    fingerprint: str
    totals: tuple[float, ...] | None = None
    restricted: bool = False
    sampling: Sampling | None = None
    posterior: Posterior | None = None
    training: TrainingRecord | None = None

    # --- what was fitted ---

    @property
    def model(self) -> NLMEModel:
        """The model, as declared."""
        assert isinstance(self.binding.model, NLMEModel)
        return self.binding.model

    @property
    def data(self) -> GroupedData:
        """The data that were fitted (groups left out at the user's request are not among them)."""
        return self.binding.data

    @property
    def iterations(self) -> int:
        """Iterations of the minimiser, of the alternation, or of a simulation (all but its burn-in; draws at fixed
        parameters included); 0 where the fit did not begin."""
        if self.posterior is not None:
            return self.posterior.n_draws
        if self.sampling is not None:
            return max(len(self.sampling.packed) - self.sampling.burn_in, 0)
        return int(self.history[-1]["iteration"]) if self.history else 0

    def throw(self) -> Self:
        """This fit, if it converged. **Raises:** FitError with the status otherwise.

        **Example:**

        ```python
        fit = fit.throw()
        ```
        """
        if not self.converged:
            raise FitError(str(self.status), self)
        return self

    # --- estimates ---

    @functools.cached_property
    def values(self) -> dict[str, float]:
        """User-scale values by name: typical values on their natural scale, coefficients, SDs, correlations, error."""
        return self.binding.values(self.params)

    @functools.cached_property
    def estimates(self) -> pd.DataFrame:
        """Estimates, standard errors, relative ones (%) and 95% intervals; see `confidence_intervals`."""
        return self.confidence_intervals()

    def confidence_intervals(self, level: float = 0.95) -> pd.DataFrame:
        """The table of estimates with Wald intervals at `level`.

        Rows: beta on the transformed scale (with `value`, `value_lower`, `value_upper` on the natural scale), SDs
        (interval on the log scale, `cv%` for log-normal parameters), correlations (Fisher z), error parameters (on
        their unconstrained scale). Standard errors by the delta method from the observed information. `rse%` is
        100 se / |estimate|, and for typical values that of `value`: 100 se |dh/dxb| / |value| with value = h(xb), which
        is 100 se for log-scale parameters and does not depend on units.

        **Arguments:** `level`, a probability.
        **Returns:** a data frame, a row per reported value.
        **Raises:** OptionError for a level outside (0, 1).

        **Example:**

        ```python
        fit.confidence_intervals(0.9)[["estimate", "lower", "upper"]]
        ```
        """
        check_level(level)
        if self.posterior is not None:
            return self.posterior.table(level)
        return estimates_table(self.binding, self.params, self.information, level)

    @property
    def covariance(self) -> pd.DataFrame | None:
        """Covariance matrix of the reported values (delta method); None where the information is not available."""
        if self.posterior is not None:
            return self.posterior.covariance_table()
        return None if self.information is None else self.information.reported_covariance(self.binding)

    @property
    def beta(self) -> pd.Series:
        """Fixed effects, on the transformed scale."""
        import pandas as pd

        return pd.Series(np.asarray(self.params.beta), index=list(self.binding.density.beta_names), name="beta")

    @functools.cached_property
    def psi(self) -> pd.DataFrame:
        """Covariance of the random effects, on the transformed scale."""
        import pandas as pd

        names = list(self.binding.density.effect_names)
        return pd.DataFrame(self._psi, index=names, columns=names)

    @functools.cached_property
    def _psi(self) -> np.ndarray:
        return psi_of(self.binding.density, self.params.covariance)

    @functools.cached_property
    def _factor(self) -> np.ndarray:
        return np.asarray(self.binding.density.covariance.factor(np.asarray(self.params.covariance)))

    @functools.cached_property
    def _b(self) -> np.ndarray:
        """Conditional modes of the random effects (groups, random), or their posterior means."""
        if self.posterior is not None:
            return self._effect_moments[0]
        return self.binding.density.effects_at(self.params, self.conditional[0])

    @functools.cached_property
    def _effect_moments(self) -> tuple[np.ndarray, np.ndarray]:
        """Posterior means and standard deviations of the random effects (groups, random)."""
        from jaxnlme.results.posterior.effects import posterior_moments

        return posterior_moments(self)

    @functools.cached_property
    def conditional(self) -> tuple[np.ndarray, np.ndarray]:
        """Whitened conditional modes (groups, random) and the curvature of minus log_joint there. A method that expands
        at zero (FO) leaves zeros in `modes`; its conditional modes are searched when they are first asked for."""
        from jaxnlme.results.evaluate import conditional_modes

        return conditional_modes(self)

    @functools.cached_property
    def random_effects(self) -> Any:
        """Conditional modes b (groups x effects), of a posterior sampler posterior means, on the transformed scale, by
        group label; with random effects at nested levels a dictionary of such tables by level, a row for each unit."""
        return effects_by_level(self.binding, self._b)

    @functools.cached_property
    def random_effects_se(self) -> Any:
        """Standard errors of b given the parameters: sqrt of diag(J H^-1 J'), H the curvature at the mode, J = db/dz, L
        for Gaussian effects; of a posterior sampler posterior standard deviations. A table like `random_effects`."""
        if self.posterior is not None:
            return effects_by_level(self.binding, self._effect_moments[1])
        if not self._b.shape[1]:
            return effects_by_level(self.binding, self._b)
        modes, curvature = self.conditional
        slopes = self.binding.density.effect_slopes(self.params, modes)
        spread = np.einsum("...ij,...jk,...ik->...i", slopes, np.linalg.inv(curvature), slopes)
        return effects_by_level(self.binding, np.sqrt(spread))

    @property
    def shrinkage(self) -> pd.Series:
        """Shrinkage of the modes towards zero in percent, 100 (1 - SD(b) / sd), SD over the informative groups (or
        units of a nested level): those with an observed response and a weight; with carry-over between units all units
        of such groups. NaN for an effect of zero variance.

        **Source:** Savic and Karlsson (2009), AAPS Journal 11, 558-569.
        """
        import pandas as pd

        sd = np.sqrt(np.diag(self._psi))
        columns = effect_columns(self.binding, self._b)
        spread = np.array([np.std(b, ddof=1) if len(b) > 1 else np.nan for b in columns])
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = spread / sd
        return pd.Series(100.0 * (1.0 - ratio), index=list(self.binding.density.effect_names), name="shrinkage %")

    @property
    def networks(self) -> Networks | None:
        """The Equinox modules of the model with their estimated weights, by their place in it (`structure`,
        `individual`, `error`, `effects`); None where it has none."""
        free, model = self.params.free, self.model
        if free is None:
            return None
        error, effects = getattr(model.error, "scale", None), self.binding.density.effect_distribution
        modules = {"structure": model.structure, "individual": model.individual, "error": error}
        modules["effects"] = getattr(effects, "transformation", None)
        return Networks(**{place: trained(modules[place], arrays) for place, arrays in free.parts.items()})

    # --- criteria ---

    @functools.cached_property
    def criteria(self) -> Criteria:
        """Log-likelihood, AIC, BIC and the counts behind them."""
        integrated = len(self.binding.density.beta_names) if self.restricted else 0
        used = self.binding.used_data
        return criteria(self.log_likelihood, self.binding.fixed, self.params.free, used, self.totals, integrated)

    # --- tables and predictions ---

    def summary(self) -> Any:
        """The fit in a page: text when printed, HTML in a notebook.

        **Example:**

        ```python
        print(fit.summary())
        ```
        """
        from jaxnlme.results.summary import Summary

        return Summary(self)

    @documented_by("results.predict.predict")
    def predict(self, data: Any = None, level: str | int = "group", **interval: Any) -> Any:
        """Predictions, with interval=0.95 also intervals; see `jaxnlme.results.predict.predict`.

        **Example:**

        ```python
        fit.predict(level="population")
        fit.predict({"Subject": [1, 1], "Time": [30.0, 36.0], "Dose": [319.0, 319.0], "Wt": [79.6, 79.6]})
        ```
        """
        from jaxnlme.results.predict import predict

        return predict(self, data, level, **interval)

    @documented_by("results.predict.parameters")
    def parameters(self, level: str | int = "group", data: Any = None) -> pd.DataFrame:
        """Individual parameters on their natural scale; see `jaxnlme.results.predict.parameters`.

        **Example:**

        ```python
        fit.parameters()
        ```
        """
        from jaxnlme.results.predict import parameters

        return parameters(self, level, data)

    @documented_by("results.simulate.simulate")
    def simulate(
        self, n: int = 1, key: Any = 0, data: Any = None, level: str | int = "population", *, limits: bool = False
    ) -> np.ndarray:
        """Simulated responses; see `jaxnlme.results.simulate.simulate`.

        **Example:**

        ```python
        drawn = fit.simulate(100, key=1)  # (100, rows)
        ```
        """
        from jaxnlme.results.simulate import simulate

        return simulate(self, n, key, data, level, limits=limits)

    def __repr__(self) -> str:
        outcome = "converged" if self.converged else "NOT CONVERGED"
        kind = "restricted log-likelihood" if self.restricted else "log-likelihood"
        value = "not computed" if np.isnan(self.log_likelihood) else f"{self.log_likelihood:.4f}"
        return (
            f"<Fit by {self.method}: {outcome}, {kind} {value}, {self.data.n_groups} groups, "
            f"{self.data.n_obs} observations>"
        )

    def _repr_html_(self) -> str:
        return self.summary()._repr_html_()
