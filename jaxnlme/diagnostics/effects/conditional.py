"""Conditional distributions of the random effects given the data, at the estimates."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, require_host
from jaxnlme.errors import FitError, OptionError, check_whole_number, some
from jaxnlme.results.by_level import effects_by_level, unit_index
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.effect_draws import effect_draws
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.results.settings import DRAWS

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

METHODS = ("sampling", "importance", "laplace")


def conditional_distribution(
    fit: FitRecord, draws: int | None = None, method: str | None = None, seed: int | None = None
) -> ConditionalDistribution:
    """The distribution of every group's random effects given its responses, at the estimates.

    **Arguments:** `draws` of each group (1000); `method`: "sampling", the draws that a stochastic fit (SAEM, IMP)
    already has, all of them; "importance", importance sampling around the conditional modes, by Laplace's approximation
    in groups with few effective draws; "laplace", normal around the modes. None: "sampling" where there are such draws
    and neither `draws` nor `seed` is given, else "importance". `seed` (0): the numbers of a group are a function of it
    and the label.
    **Returns:** a ConditionalDistribution.
    **Raises:** OptionError for options that do not fit; FitError where the fit has no estimates.
    """
    require_host("fit.conditional_distribution", draws, seed)
    check_choice("method", method, (None, *METHODS))
    require_estimates(fit)
    sampling, free = fit.sampling, draws is None and seed is None
    has_draws = sampling is not None and sampling.draws.shape[1] > 0
    if method == "sampling" and not (has_draws and free):
        reason = "has no such draws" if not has_draws else "has as many as it drew, with the seed of its method"
        raise OptionError(
            f"method='sampling' takes the draws of a stochastic fit, and this one {reason}; leave it out."
        )
    if has_draws and sampling is not None and method in (None, "sampling") and free:
        missing = np.full(fit.data.n_groups, np.nan)
        return ConditionalDistribution(fit, "sampling", sampling.draws, sampling.mean, sampling.covariance, missing)
    n = DRAWS.draws if draws is None else check_whole_number("draws", draws, 2, "the draws of each group")
    seed = 0 if seed is None else check_whole_number("seed", seed, 0)
    method = "importance" if method is None else method
    modes = fit.conditional
    failed = ~(np.isfinite(modes[0]).all(axis=1) & np.isfinite(modes[1]).all(axis=(1, 2)))
    if failed.any():
        labels = some([str(label) for label in fit.data.labels[failed]])
        raise FitError(
            f"the conditional mode of group {labels} was not found, so that nothing can be drawn there.", fit
        )
    found = effect_draws(fit, fit.binding, modes, n, seed, method)
    density = fit.binding.density
    b = density.effects_at(fit.params, found.z)
    if density.effect_distribution is None:
        full = density.effect_slopes(fit.params, found.mean)
        covariance = np.einsum("ij,gjk,lk->gil", full, found.covariance, full)
        mean = density.effects_at(fit.params, found.mean)
    else:  # moments of z do not give those of b
        mean = b.mean(axis=1)
        deviation = b - mean[:, None]
        covariance = np.einsum("gdi,gdj->gij", deviation, deviation) / (b.shape[1] - 1)
    return ConditionalDistribution(
        fit, method, np.asarray(b), np.asarray(mean), covariance, found.ess, found.by_laplace
    )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ConditionalDistribution(Printable):
    """Conditional distributions of the random effects b given the data. It prints as sentences and a table by effect.

    **Fields:** `fit`; `method`; `samples` (groups, draws, random): draws of b on the transformed scale, with nested
    levels the effects of all units of a group; `means` (groups, random), `covariances` (groups, random, random); `ess`
    (groups,): effective number of importance draws, NaN for other methods; `by_laplace` (groups,): true for groups
    whose draws are those of Laplace's approximation.
    """

    fit: FitRecord
    method: str
    samples: np.ndarray
    means: np.ndarray
    covariances: np.ndarray
    ess: np.ndarray
    by_laplace: np.ndarray | None = None

    @functools.cached_property
    def mean(self) -> Any:
        """Conditional means, a table of units by effects; with random effects at nested levels a dictionary of tables
        by level."""
        return effects_by_level(self.fit.binding, self.means)

    @functools.cached_property
    def sd(self) -> Any:
        """Conditional standard deviations, tables like `mean`."""
        variances = np.diagonal(self.covariances, axis1=1, axis2=2)
        return effects_by_level(self.fit.binding, np.sqrt(np.maximum(variances, 0.0)))

    @functools.cached_property
    def draws(self) -> Any:
        """Draws as a table: labels of the unit, `draw` from 1 on, and a column for each effect; with random effects at
        nested levels a dictionary of such tables by level."""
        binding = self.fit.binding
        levels = binding.density.levels
        if levels is None:
            return self._long(0, self.samples[:, :, None, :], list(binding.density.effect_names))
        out = {}
        for level, part in zip(levels.levels, levels.split(self.samples), strict=True):
            names = [binding.density.effect_names[k] for k in level.effects]
            values = np.asarray(part)
            values = values if level.depth else values.reshape(*values.shape[:2], 1, -1)
            out[level.name] = self._long(level.depth, values, names)
        return out

    def _long(self, depth: int, values: np.ndarray, names: list[str]) -> pd.DataFrame:
        """The table of draws (groups, draws, units, effects) of one level."""
        import pandas as pd

        index, cells = unit_index(self.fit.data, depth)
        n = values.shape[1]
        table = index.to_frame(index=False)
        table = table.loc[np.repeat(np.arange(len(cells)), n)].reset_index(drop=True)
        table["draw"] = np.tile(np.arange(1, n + 1), len(cells))
        chosen = values[cells[:, 0], :, cells[:, 1]].reshape(-1, len(names))
        return pd.concat([table, pd.DataFrame(chosen, columns=names)], axis=1)

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The method, and the groups with few effective draws."""
        n, words = self.samples.shape[1], {"sampling": "the chains of the fit", "laplace": "Laplace's approximation"}
        out = [f"Random effects given the data: {n} draws of each of {len(self.means)} groups by "
               f"{words.get(self.method, 'importance sampling')}."]  # fmt: skip
        if not self.fit.converged:
            out.insert(0, "The fit has NOT converged, and what follows from it is not reliable.")
        if self.method == "importance":
            least = np.nanmin(self.ess) if np.isfinite(self.ess).any() else np.nan
            out.append(f"Effective numbers of proposals: {least:.0f} at least, of {DRAWS.proposals * n}.")
            if self.by_laplace is not None and self.by_laplace.any():
                labels = [str(label) for label in self.fit.data.labels[self.by_laplace]]
                out.append(
                    f"Fewer than {DRAWS.least_effective:.0f} effective draws, so that Laplace's approximation was "
                    f"used: group {some(labels)}."
                )
        return tuple(out)

    def _tables(self) -> list[Table]:
        means, sds = (table if isinstance(table, dict) else {"": table} for table in (self.mean, self.sd))
        psi = dict(zip(self.fit.binding.density.effect_names, np.sqrt(np.diag(self.fit._psi)), strict=True))
        rows = [
            [name, str(level), number(psi[name]), number(float(np.nanstd(means[level][name], ddof=1))),
             number(float(np.sqrt(np.nanmean(sds[level][name] ** 2))))]
            for level in means for name in means[level]
        ]  # fmt: skip
        header = ("", "level", "sd", "SD of conditional means", "mean conditional SD")
        return [Table("Random effects, transformed scale", header, rows)] if rows else []
