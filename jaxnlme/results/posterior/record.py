"""The posterior distribution of a fit: draws of parameters and random effects, and what follows from them."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.inference import estimates_table

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Posterior(Printable):
    """Draws from the posterior distribution. It prints as sentences, and a table by parameter.

    **Fields:**

    - `method`: "NUTS" or "Pathfinder"; `density`: "joint" (of parameters and random effects) or "collapsed" (effects
      integrated out by `approximation`).
    - `packed` (chains, draws, packed): parameters on their unconstrained scales.
    - `z` (chains, kept, groups, random): whitened random effects of every `effect_every`-th draw; None where they were
      integrated out.
    - `stats`: by name, (chains, draws): "lp" (log posterior density up to a constant), "diverging", "acceptance_rate",
      "energy", "tree_depth", "n_steps"; of Pathfinder "lp" only.
    - `step_size` (chains,); `warmup`, steps before the draws, and the number of them that diverged,
      `warmup_divergent`; `seconds` of "warmup" and "draws".
    - `rhat`, `ess_bulk`, `ess_tail` (reported,), NaN where they are not defined; `effects_rhat`: the largest one of the
      random effects, NaN where it was not computed; `bfmi` (chains,).
    - `pareto_k`: of the importance ratios of Pathfinder, None for chains.
    - `flat`: names of the reported values with a flat prior.
    """

    binding: Binding
    approximation: LikelihoodApproximation
    method: str
    density: str
    packed: np.ndarray
    z: np.ndarray | None
    effect_every: int
    stats: dict[str, np.ndarray]
    step_size: np.ndarray
    warmup: int
    warmup_divergent: int
    seconds: dict[str, float]
    rhat: np.ndarray
    ess_bulk: np.ndarray
    ess_tail: np.ndarray
    effects_rhat: float
    bfmi: np.ndarray
    pareto_k: float | None
    flat: tuple[str, ...]

    @property
    def chains(self) -> int:
        """Number of chains."""
        return self.packed.shape[0]

    @property
    def n_draws(self) -> int:
        """Draws of each chain."""
        return self.packed.shape[1]

    # --- draws of the parameters ---

    @functools.cached_property
    def reported(self) -> np.ndarray:
        """Reported values (chains, draws, reported): beta on the transformed scale, standard deviations and
        correlations, residual parameters."""
        chains, n, p = self.packed.shape
        with x64():
            start = self.binding.start
            template = on_device(Params(start.beta, start.covariance, start.error, None))
            flat = jnp.asarray(self.packed.reshape(chains * n, p))
            values = np.asarray(compiled(_reported, 0)(self.binding.density, template, flat))
        return values.reshape(chains, n, values.shape[-1])

    @functools.cached_property
    def user_scale(self) -> np.ndarray:
        """Values (chains, draws, reported) on the user's scale: `reported`, typical values on their natural scale."""
        out = self.reported.copy()
        with np.errstate(over="ignore"):
            for k, transform in enumerate(self.binding.transforms):
                if transform is not None:
                    out[..., k] = np.asarray(transform.to_natural(self.reported[..., k]))
        return out

    @functools.cached_property
    def draws(self) -> pd.DataFrame:
        """The draws, a row for each by chain and draw, on the user's scale: typical values on their natural scale,
        covariate coefficients, standard deviations and correlations (transformed scale), residual parameters."""
        import pandas as pd

        index = pd.MultiIndex.from_product([range(self.chains), range(self.n_draws)], names=["chain", "draw"])
        rows = self.user_scale.reshape(len(index), -1)
        return pd.DataFrame(rows, index=index, columns=list(self.binding.density.reported_names))

    def table(self, level: float = 0.95) -> pd.DataFrame:
        """The table of estimates: columns as of `FitRecord.confidence_intervals`, with posterior means as estimates,
        posterior standard deviations as `se`, and equal-tailed intervals; also quantiles on the user's scale (`5%`,
        `50%`, `95%`), `rhat`, `ess bulk` and `ess tail`.

        **Arguments:** `level` of the intervals.
        """
        binding = self.binding
        table = estimates_table(binding, binding.start, None, level)
        rows, natural = (v.reshape(-1, v.shape[-1]) for v in (self.reported, self.user_scale))
        tails = [0.5 * (1.0 - level), 0.5 * (1.0 + level)]
        free = ~table["fixed"].to_numpy()
        if not len(rows):
            table.loc[:, ["estimate", "value", "cv%"]] = np.nan
            return table
        table["estimate"] = rows.mean(axis=0)
        table["se"] = np.where(free, rows.std(axis=0, ddof=1) if len(rows) > 1 else np.nan, np.nan)
        limits = np.where(free, np.quantile(rows, tails, axis=0), np.nan)
        table["lower"], table["upper"] = limits
        typical = np.array([t is not None for t in binding.transforms], bool)
        typical = np.concatenate([typical, np.zeros(len(table) - len(typical), bool)])
        outer = np.where(free, np.quantile(natural, tails, axis=0), np.nan)
        mean, spread = natural.mean(axis=0), natural.std(axis=0, ddof=1) if len(rows) > 1 else np.nan
        table["value"] = np.where(typical, mean, np.nan)
        table["value_lower"], table["value_upper"] = np.where(typical, outer, np.nan)
        with np.errstate(divide="ignore", invalid="ignore"):
            table["rse%"] = np.where(free, 100.0 * spread / np.abs(mean), np.nan)
        has_cv = ~np.isnan(table["cv%"].to_numpy())
        with np.errstate(over="ignore"):
            table["cv%"] = np.where(has_cv, 100.0 * np.sqrt(np.expm1(rows**2)).mean(axis=0), np.nan)
        for probability in (0.05, 0.5, 0.95):
            quantile = np.quantile(natural, probability, axis=0)
            table[f"{round(100 * probability)}%"] = np.where(free, quantile, np.nan)
        table["rhat"], table["ess bulk"], table["ess tail"] = self.rhat, self.ess_bulk, self.ess_tail
        return table

    @property
    def covariance(self) -> np.ndarray:
        """Posterior covariance (reported, reported) of the reported values."""
        rows = self.reported.reshape(-1, self.reported.shape[-1])
        return np.atleast_2d(np.cov(rows, rowvar=False))

    def covariance_table(self) -> pd.DataFrame:
        """`covariance` with the names of the values."""
        import pandas as pd

        names = list(self.binding.density.reported_names)
        return pd.DataFrame(self.covariance, index=names, columns=names)

    def packed_covariance(self) -> tuple[np.ndarray, np.ndarray]:
        """Posterior covariance (active, active) of the free packed parameters, and their positions."""
        active = np.flatnonzero(~self.binding.fixed)
        rows = self.packed.reshape(-1, self.packed.shape[-1])[:, active]
        return np.atleast_2d(np.cov(rows, rowvar=False)), active

    # --- draws in an order of their own, for predictions ---

    @functools.cached_property
    def kept(self) -> np.ndarray:
        """Packed parameters (kept of all chains, packed) of the draws whose effects are kept; all draws where none
        are."""
        every = self.effect_every if self.z is not None else 1
        return self.packed[:, ::every].reshape(-1, self.packed.shape[-1])

    def choose(self, n: int, seed: int) -> np.ndarray:
        """Positions (n,) in `kept`, a random order repeated as often as needed; the first ones are the same for any
        `n`."""
        order = np.random.default_rng([seed, len(self.kept)]).permutation(len(self.kept))
        return order[np.arange(n) % len(order)]

    def effects_at(self, positions: np.ndarray) -> np.ndarray | None:
        """Whitened effects (n, groups, random) of the draws at `positions` of `kept`; None where there are none."""
        return None if self.z is None else self.z.reshape(-1, *self.z.shape[2:])[positions]

    # --- log-likelihoods ---

    @functools.cached_property
    def group_log_likelihood(self) -> np.ndarray:
        """log p(y_i | parameters) (chains, draws, groups) by the approximation, the random effects integrated out: the
        terms of leave-one-group-out cross-validation. Computed when it is first asked for."""
        from jaxnlme.results.posterior.likelihood import log_likelihoods_at

        chains, n, p = self.packed.shape
        values = log_likelihoods_at(self.binding, self.approximation, self.packed.reshape(chains * n, p))
        return values.reshape(chains, n, -1)

    def to_arviz(self) -> Any:
        """The posterior as the container of the installed ArviZ: InferenceData before version 1, DataTree from then on;
        see `jaxnlme.results.posterior.arviz_export.to_arviz`.

        **Example:**

        ```python
        arviz.summary(fit.posterior.to_arviz())
        ```
        """
        from jaxnlme.results.posterior.arviz_export import to_arviz

        return to_arviz(self)

    # --- text ---

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The run, and the priors that are flat."""
        return tuple(sentence for sentence in (f"Posterior by {self.describe()}.", self.flat_sentence) if sentence)

    @property
    def flat_sentence(self) -> str:
        """Sentence on flat priors; empty where there are none."""
        if not self.flat:
            return ""
        return f"Flat prior, on the scale of the table of estimates: {', '.join(self.flat)}."

    def describe(self) -> str:
        """The run in words."""
        over = "parameters and random effects" if self.density == "joint" else "parameters"
        integrated = "" if self.density == "joint" else f", effects integrated out by {self.approximation.name}"
        if self.pareto_k is not None:
            return f"{self.method}: {self.n_draws} draws of the {over}{integrated}; Pareto k {self.pareto_k:.2f}"
        seconds = sum(self.seconds.values())
        return (
            f"{self.method}: {self.chains} chains of {self.n_draws} draws of the {over}{integrated}, after "
            f"{self.warmup} steps of warm-up; {seconds:.3g} s"
        )

    def _tables(self) -> list[Table]:
        header = ("", "mean", "sd", "5%", "50%", "95%", "R-hat", "ESS bulk", "ESS tail")
        table, names = self.table(), self.binding.density.reported_names
        natural = self.user_scale.reshape(-1, self.user_scale.shape[-1])
        rows = []
        for k, name in enumerate(names):
            if table["fixed"].iloc[k] or not len(natural):
                rows.append((name, number(table["estimate"].iloc[k]), *("fixed", "", "", "", "", "", "")))
                continue
            cells = [natural[:, k].mean(), natural[:, k].std(ddof=1), *table.iloc[k][["5%", "50%", "95%"]]]
            checks = (f"{self.rhat[k]:.3f}", f"{self.ess_bulk[k]:.0f}", f"{self.ess_tail[k]:.0f}")
            shown = ("", "", "") if np.isnan(self.rhat[k]) else checks
            rows.append((name, *(number(float(cell)) for cell in cells), *shown))
        return [Table("Posterior, typical values on their natural scale", header, rows)]


def _reported(density: Density, template: Params, packed: jax.Array) -> jax.Array:
    """Reported values (rows, reported) of packed vectors (rows, packed)."""
    return jax.vmap(lambda row: density.reported(template.unpack(row)))(packed)
