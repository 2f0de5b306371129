"""Results of a stochastic fit beside its estimates: traces, Monte Carlo errors, conditional distributions."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results import stochastic_summary
from jaxnlme.results.by_level import effects_by_level, unit_index
from jaxnlme.results.display import Printable, Table
from jaxnlme.results.settings import REPLICATES

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.inference import Information


@dataclasses.dataclass(frozen=True, eq=False)
class Replicate:
    """One of several runs from dispersed starts.

    **Fields:** `params` and user-scale `values` at its end; `log_likelihood` there (NaN where it was not computed) and
    its Monte Carlo error `log_likelihood_se`; `converged`; `modes` (groups, random), whitened; `information`, None
    where it was not requested.
    """

    params: Params
    values: dict[str, float]
    log_likelihood: float
    converged: bool
    modes: np.ndarray
    log_likelihood_se: float
    information: Information | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sampling(Printable):
    """Trajectories and Monte Carlo errors of a stochastic fit, and the conditional distributions at its estimates. It
    prints as sentences and tables: the run, Monte Carlo errors by parameter, kernels, replicates.

    **Fields:**

    - `packed` (iterations, replicates, packed): parameters after every iteration, burn-in included, on their
      unconstrained scales; `burn_in`, the number of these iterations that are burn-in; `phases`: name to (first, last)
      iteration, counted from 0 after burn-in; `chains` of each group.
    - `replicates`; `best`, the index of the one whose estimates are reported; `m_step`, a description of the M step;
      `likelihood`, "is", "gq", "lin" or "none", and `log_likelihood_se`, its Monte Carlo error.
    - `accept` (iterations, replicates, updates) and `kernels` (updates,): the fraction of chains that accepted each
      update.
    - `errors`: a table by packed parameter, None where the run ended before Monte Carlo errors were computed:
      `estimate`, `se`, `monte carlo se`, `last step` (the Newton step to the maximum from draws at fixed parameters;
      the estimate includes it, up to one standard error), `geweke z` (difference of the scores between the halves of
      the last phase, in its standard errors), and with replicates `rhat` and `spread` (their SD).
    - `mean` (groups, random), `covariance` (groups, random, random): conditional moments of b given y; `draws` (groups,
      draws, random) of b. With nested levels these are the effects of all units of a group; tables are dictionaries by
      level, and those of the individual parameters have a row for each unit of the innermost level with random effects.
    """

    binding: Binding
    packed: np.ndarray
    burn_in: int
    phases: dict[str, tuple[int, int]]
    chains: int
    replicates: tuple[Replicate, ...]
    best: int
    m_step: str
    likelihood: str
    log_likelihood_se: float
    accept: np.ndarray
    kernels: tuple[str, ...]
    errors: Any
    mean: np.ndarray
    covariance: np.ndarray
    draws: np.ndarray

    @functools.cached_property
    def trajectory(self) -> pd.DataFrame:
        """Reported values (transformed scale for beta, SDs, correlations, error parameters) after every iteration, by
        replicate and iteration; burn-in has negative numbers."""
        import pandas as pd

        n, r, p = self.packed.shape
        with x64():
            template = on_device(self.replicates[0].params)
            rows = np.asarray(
                compiled(_reported, 0)(self.binding.density, template, np.swapaxes(self.packed, 0, 1).reshape(n * r, p))
            )
        index = pd.MultiIndex.from_product([range(r), np.arange(n) - self.burn_in], names=["replicate", "iteration"])
        return pd.DataFrame(rows, index=index, columns=list(self.binding.density.reported_names))

    @property
    def monte_carlo_se(self) -> pd.Series | None:
        """Monte Carlo error of each estimate, by packed parameter; None where it was not computed."""
        return None if self.errors is None else self.errors["monte carlo se"]

    @property
    def geweke_z(self) -> pd.Series | None:
        """Geweke's test of stationarity by packed parameter: difference of the scores between the halves of the last
        phase, in its standard errors; None where it was not computed."""
        return None if self.errors is None else self.errors["geweke z"]

    @property
    def rhat(self) -> pd.Series | None:
        """Gelman and Rubin's potential scale reduction of the replicates' estimates; None for one replicate."""
        return self.errors["rhat"] if self.errors is not None and "rhat" in self.errors else None

    @property
    def spread_of_replicates(self) -> pd.Series | None:
        """Standard deviation of the replicates' estimates; None for one replicate."""
        return self.errors["spread"] if self.errors is not None and "spread" in self.errors else None

    @property
    def reached(self) -> np.ndarray | None:
        """True (replicates,) for replicates that reached the best log-likelihood, up to Monte Carlo error; None without
        log-likelihoods."""
        values = np.array([replicate.log_likelihood for replicate in self.replicates])
        if not np.isfinite(values).any():
            return None
        errors = np.array([replicate.log_likelihood_se for replicate in self.replicates])
        return reached_best(values, errors, self.best)

    @property
    def acceptance(self) -> pd.Series:
        """Fraction of chains that accepted an update, by kernel, over the last half of the iterations."""
        import pandas as pd

        late = self.accept[len(self.accept) // 2 :, self.best].mean(axis=0)
        names = [name for name in dict.fromkeys(self.kernels) if name]
        fractions = [late[[k for k, kernel in enumerate(self.kernels) if kernel == name]].mean() for name in names]
        return pd.Series(fractions, index=pd.Index(names, name="kernel"), name="accepted")

    @functools.cached_property
    def effects_mean(self) -> Any:
        """Conditional means of b given y (groups x effects), on the transformed scale; with random effects at nested
        levels a dictionary of such tables by level, a row for each unit."""
        return effects_by_level(self.binding, self.mean)

    @functools.cached_property
    def effects_sd(self) -> Any:
        """Conditional standard deviations of b given y, tables like `effects_mean`."""
        variances = np.diagonal(self.covariance, axis1=1, axis2=2)
        return effects_by_level(self.binding, np.sqrt(np.maximum(variances, 0.0)))

    @property
    def samples(self) -> np.ndarray:
        """Draws of b (groups, draws, random) from its conditional distribution given y, at the estimates."""
        return self.draws

    @functools.cached_property
    def parameter_samples(self) -> np.ndarray:
        """Draws of the individual parameters (groups, draws, phi), on their natural scale; the first row of a group
        where a parameter varies within it. With nested levels (units, draws, phi), the units of all groups in the order
        of `parameters_mean`, and the first row of a unit."""
        return self._phi

    @functools.cached_property
    def parameters_mean(self) -> pd.DataFrame:
        """Conditional means of the individual parameters (groups x parameters), natural scale; with nested levels
        (units x parameters)."""
        return self._by_unit(self._over_draws(np.mean), self._phi_names)

    @functools.cached_property
    def parameters_sd(self) -> pd.DataFrame:
        """Conditional standard deviations of the individual parameters, a table like `parameters_mean`."""
        return self._by_unit(self._over_draws(np.std), self._phi_names)

    def _over_draws(self, summary: Any) -> np.ndarray:
        """A summary over draws (units, phi); NaN where an interrupted run has no draws."""
        phi = self._phi
        return summary(phi, axis=1) if phi.shape[1] else np.full((phi.shape[0], phi.shape[2]), np.nan)

    @property
    def _phi_names(self) -> tuple[str, ...]:
        return self._phi_and_names[1]

    @property
    def _phi(self) -> np.ndarray:
        return self._phi_and_names[0]

    @functools.cached_property
    def _phi_and_names(self) -> tuple[np.ndarray, tuple[str, ...]]:
        """Draws of the individual parameters (units, draws, phi), natural scale, and the names of these; without nested
        levels the units are the groups."""
        binding, params = self.binding, self.replicates[self.best].params
        levels, cells = binding.density.levels, self._units[1]
        out: np.ndarray | None = None
        names: list[tuple[str, ...]] = []

        def phi(density, params, bucket, b):
            def per_draw(group, b):
                record = density.phi_given(params.beta, b, group, params.free)
                names[:] = [record.names]
                first = np.zeros(1, int) if levels is None else group.units[levels.innermost.depth - 1].first_row
                values = [jax.numpy.asarray(value) for value in record.values]
                return jax.numpy.stack(
                    [jax.numpy.broadcast_to(v.reshape(-1)[first] if v.ndim else v, first.shape) for v in values], axis=1
                )

            return jax.vmap(lambda group, b: jax.vmap(lambda b: per_draw(group, b))(b))(bucket, b)

        with x64():
            for bucket, which in zip(binding.problem.buckets, binding.bucket_groups, strict=True):
                values = np.asarray(jax.jit(phi)(*on_device((binding.density, params, bucket, self.draws[which]))))
                out = np.full((len(cells), values.shape[1], values.shape[3]), np.nan) if out is None else out
                position = np.full(binding.data.n_groups, -1)
                position[which] = np.arange(len(which))
                here = position[cells[:, 0]] >= 0
                out[here] = values[position[cells[here, 0]], :, cells[here, 1]]
        assert out is not None
        return out, names[0]

    @functools.cached_property
    def _units(self) -> tuple[pd.Index, np.ndarray]:
        """Labels and positions (units, 2) of the units of the innermost level with random effects."""
        levels = self.binding.density.levels
        return unit_index(self.binding.data, 0 if levels is None else levels.innermost.depth)

    # --- text ---

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The run, the M step, Monte Carlo errors and replicates."""
        errors = stochastic_summary.describe_errors(self)
        replicates = stochastic_summary.describe_replicates(self)
        out = [f"Simulation with {stochastic_summary.describe_run(self)}.", f"Maximised: {self.m_step}."]
        out += [f"Monte Carlo error: {errors}."] if errors else []
        out += [f"Replicates: {replicates}."] if replicates else []
        return tuple(out)

    def _tables(self) -> list[Table]:
        return stochastic_summary.tables(self)

    def _by_unit(self, values: np.ndarray, names: Any) -> pd.DataFrame:
        import pandas as pd

        return pd.DataFrame(values, index=self._units[0], columns=list(names))


def reached_best(values: np.ndarray, errors: np.ndarray, best: int) -> np.ndarray:
    """True (replicates,) for log-likelihoods `values` equal to that of the replicate `best` up to
    `ReplicateCriteria.same_maximum` and their Monte Carlo standard `errors` (replicates,), NaN for none."""
    with np.errstate(invalid="ignore"):
        mc_error = REPLICATES.mc_errors * np.nan_to_num(errors[best] + errors)
        return values[best] - values < REPLICATES.same_maximum + mc_error


def _reported(density: Any, template: Params, packed: Any) -> Any:
    """Reported values (rows, reported) of packed vectors (rows, packed)."""
    return jax.vmap(lambda row: density.reported(template.unpack(row)))(packed)
