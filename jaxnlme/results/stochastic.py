"""What a stochastic fit leaves beside its estimates: traces, Monte Carlo errors, conditional distributions."""

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
from jaxnlme.results import stochastic_summary as simulation
from jaxnlme.results.display import Printable, Table

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.inference import Information

# Replicates' log-likelihoods further apart than this, and than their noise, are different maxima.
APART = 0.5


@dataclasses.dataclass(frozen=True, eq=False)
class Replicate:
    """One of several runs: `params` and user-scale `values` at its end, `log_likelihood` there (NaN where none was
    computed), `converged`, whitened conditional `modes` (groups, random), `log_likelihood_se`, the Monte Carlo error of
    the log-likelihood, and the `information` there, None where it was not asked for."""

    params: Params
    values: dict[str, float]
    log_likelihood: float
    converged: bool
    modes: np.ndarray
    log_likelihood_se: float
    information: Information | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sampling(Printable):
    """How a stochastic fit went, and the conditional distributions that it ended with. Printed, it is a page: how it
    ran, Monte Carlo errors by parameter, kernels, replicates.

    **Fields:** `packed` (iterations, replicates, packed): parameters after every iteration, burn-in included, on their
    unconstrained scales; `burn_in`, how many of them; `phases`: name to (first, last) iteration, counted from 0 after
    burn-in; `chains` of each group; `replicates`; `best`, which of them the estimates are of; `m_step`, in words, how
    parameters were maximised; `likelihood`, "is", "gq", "lin" or "none", and `log_likelihood_se`, its Monte Carlo
    error; `accept` (iterations, replicates, updates) and `kernels` (updates,): the share of chains that took each
    update; `errors`, a table by packed parameter: `estimate`, `se`, `monte carlo se`, `last step` (how far the settling
    runs said that the maximum was; the estimate moved along it, by a standard error at most), `drift` (of the scores
    over the last phase, in its standard errors), and with replicates `rhat` and `spread` (their SD); None where the run
    did not come to that; `mean`, `spread`: conditional means (groups, random) and covariances (groups, random, random)
    of b given y; `draws` (groups, draws, random) of b."""

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
    spread: np.ndarray
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
        """Monte Carlo error of each estimate, by packed parameter; None where the run did not come to that."""
        return None if self.errors is None else self.errors["monte carlo se"]

    @property
    def drift(self) -> pd.Series | None:
        """Difference of the scores of the halves of the last phase, in its standard errors."""
        return None if self.errors is None else self.errors["drift"]

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
        """Which replicates ended at the best log-likelihood, but for its noise (replicates,); None where it is not
        known."""
        values = np.array([one.log_likelihood for one in self.replicates])
        if not np.isfinite(values).any():
            return None
        return reached(values, np.array([one.log_likelihood_se for one in self.replicates]), self.best)

    @property
    def acceptance(self) -> pd.Series:
        """Share of chains that took an update, by kernel, over the last half of the iterations."""
        import pandas as pd

        late = self.accept[len(self.accept) // 2 :, self.best].mean(axis=0)
        names = [name for name in dict.fromkeys(self.kernels) if name]
        shares = [late[[k for k, own in enumerate(self.kernels) if own == name]].mean() for name in names]
        return pd.Series(shares, index=pd.Index(names, name="kernel"), name="accepted")

    @functools.cached_property
    def effects_mean(self) -> pd.DataFrame:
        """Conditional means of b given y (groups x effects), on the transformed scale."""
        return self._by_group(self.mean, self.binding.density.effect_names)

    @functools.cached_property
    def effects_sd(self) -> pd.DataFrame:
        """Conditional standard deviations of b given y (groups x effects)."""
        variances = np.diagonal(self.spread, axis1=1, axis2=2)
        return self._by_group(np.sqrt(np.maximum(variances, 0.0)), self.binding.density.effect_names)

    @property
    def samples(self) -> np.ndarray:
        """Draws of b (groups, draws, random) from its conditional distribution given y, at the estimates."""
        return self.draws

    @functools.cached_property
    def parameter_samples(self) -> np.ndarray:
        """Draws of the individual parameters (groups, draws, phi), on their natural scale; the first row of a group
        where a parameter varies within it."""
        return self._phi

    @functools.cached_property
    def parameters_mean(self) -> pd.DataFrame:
        """Conditional means of the individual parameters (groups x parameters), natural scale."""
        return self._by_group(self._over_draws(np.mean), self._phi_names)

    @functools.cached_property
    def parameters_sd(self) -> pd.DataFrame:
        """Conditional standard deviations of the individual parameters (groups x parameters), natural scale."""
        return self._by_group(self._over_draws(np.std), self._phi_names)

    def _over_draws(self, summary: Any) -> np.ndarray:
        """A summary of the draws (groups, phi); NaN where a run that was broken off left none."""
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
        binding, params = self.binding, self.replicates[self.best].params
        out: np.ndarray | None = None
        names: list[tuple[str, ...]] = []

        def phi(density, params, bucket, b):
            def one(group, b):
                record = density.individual.phi(params.beta, b, group)
                names[:] = [record.names]
                return jax.numpy.stack([jax.numpy.ravel(jax.numpy.asarray(value))[0] for value in record.values])

            return jax.vmap(lambda group, b: jax.vmap(lambda b: one(group, b))(b))(bucket, b)

        with x64():
            for bucket, which in zip(binding.problem.buckets, binding.bucket_groups, strict=True):
                found = np.asarray(jax.jit(phi)(*on_device((binding.density, params, bucket, self.draws[which]))))
                out = np.full((binding.data.n_groups, *found.shape[1:]), np.nan) if out is None else out
                out[which] = found
        assert out is not None
        return out, names[0]

    # --- how it reads ---

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """How the fit ran, in words."""
        error = simulation.errors_in_words(self)
        replicates = simulation.replicates_in_words(self)
        out = [f"Simulation with {simulation.run_in_words(self)}.", f"Maximised: {self.m_step}."]
        out += [f"Monte Carlo error: {error}."] if error else []
        out += [f"Replicates: {replicates}."] if replicates else []
        return tuple(out)

    def _tables(self) -> list[Table]:
        return simulation.tables(self)

    def _by_group(self, values: np.ndarray, names: Any) -> pd.DataFrame:
        import pandas as pd

        data = self.binding.data
        return pd.DataFrame(values, index=pd.Index(data.labels, name=data.group_name), columns=list(names))


def reached(values: np.ndarray, errors: np.ndarray, best: int) -> np.ndarray:
    """Which log-likelihoods (replicates,) are those of the maximum that number `best` found, given their Monte Carlo
    `errors` (NaN: none)."""
    with np.errstate(invalid="ignore"):
        return values[best] - values < APART + 3.0 * np.nan_to_num(errors[best] + errors)


def _reported(density: Any, template: Params, packed: Any) -> Any:
    return jax.vmap(lambda one: density.reported(template.unpack(one)))(packed)
