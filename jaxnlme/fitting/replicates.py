"""Convergence over replicates: the same fit from several starts and seeds, and how far the results differ.

**Source:** Gelman and Rubin (1992), Statistical Science 7, 457-472, on replicates from dispersed starts.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_number, check_progress, require_host
from jaxnlme.errors import check_whole_number, some
from jaxnlme.fitting.settings import AGREEMENT
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.stochastic import Sampling


@public("fit.replicates")
def replicates(
    fit: FitRecord,
    n: int | None = None,
    *,
    spread: float = 0.5,
    around: str = "estimates",
    seed: int = 0,
    progress: bool | None = False,
    refit: Callable[..., FitRecord],
) -> Replicates:
    """The model fitted again to the same data, by the same method, from `n` dispersed starts and, for a method that
    simulates, with `n` seeds.

    **Arguments:**

    - `n`: number of fits; None: the replicates that a stochastic fit has already (`jn.SAEM(replicates=...)`), where it
      has several, and otherwise 5.
    - `spread`: standard deviation of the starts on the scale of each parameter's transform, absolute on a log or logit
      scale, relative to the size of others; standard deviations and residual parameters vary on the log scale,
      correlations keep their value.
    - `around`: "estimates", or "start", the starting values of the model.
    - `seed` of the starts; the seeds of a stochastic method are `seed` + 1, `seed` + 2, ...
    - `progress` as in `jn.fit`.
    - `refit`: the function `jn.fit`.

    **Returns:** Replicates, with the estimates and -2 log L of each, and their spread beside the standard errors.
    **Raises:** OptionError for options that do not fit; FitError where the fit has no estimates.
    """
    require_host("fit.replicates", n, seed)
    check_choice("around", around, ("estimates", "start"))
    spread = check_number("spread", spread, 0.0)
    seed, progress = check_whole_number("seed", seed, 0), check_progress(progress)
    require_estimates(fit)
    if n is None and fit.sampling is not None and len(fit.sampling.replicates) > 1:
        return _of_sampling(fit, fit.sampling)
    n = AGREEMENT.replicates if n is None else check_whole_number("n", n, 2, "the number of replicates")
    rng = np.random.default_rng(seed)
    seeded = hasattr(fit.estimator, "with_seed")
    rows, fits = [], []
    for k in range(n):
        start = _start(fit, around, spread, rng)
        estimator = fit.estimator.with_seed(seed + k + 1) if seeded else fit.estimator
        began = time.perf_counter()
        found = refit(fit.model, fit.data, estimator, start=start, standard_errors=False, progress=progress)
        row = {"seed": seed + k + 1 if seeded else None, "converged": found.converged}
        row |= {"-2 log L": -2.0 * found.log_likelihood, "status": found.status.sentences[0]}
        row |= {"iterations": found.iterations, "seconds": time.perf_counter() - began}
        rows.append(row | dict(zip(found.estimates.index, found.estimates["estimate"], strict=True)))
        fits.append(found)
    words = f"{n} fits by {fit.method} from starts around the {'estimates' if around == 'estimates' else 'start'}"
    words += f" (spread {spread:g}, seed {seed}{', each with a seed of its own' if seeded else ''})"
    return _record(fit, rows, words, tuple(fits))


def _start(fit: FitRecord, around: str, spread: float, rng: np.random.Generator) -> dict[str, float]:
    """Starting values by name on the user's scale, drawn around the estimates or the model's start."""
    binding, density = fit.binding, fit.binding.density
    centre = fit.values if around == "estimates" else binding.values(binding.start)
    fixed, p, q = fit.estimates["fixed"].to_numpy(bool), len(density.beta_names), len(density.effect_names)
    transforms = [*binding.transforms, *(None,) * q]
    out = {}
    for k, (name, value) in enumerate(centre.items()):
        step = spread * rng.standard_normal()
        if fixed[k] or not np.isfinite(value):
            continue
        if k < p:
            transform = transforms[k]
            real = value if transform is None else float(transform.to_real(value))
            plain = transform is None or transform.name == "identity"
            real += step * (max(abs(real), AGREEMENT.least_size) if plain else 1.0)
            out[name] = real if transform is None else float(transform.to_natural(real))
        elif k < p + q:
            if value > 0:
                out[name] = value * float(np.exp(step))
        elif k >= len(centre) - len(density.error_names):
            transform = density.error.parameters[k - (len(centre) - len(density.error_names))].transform
            if np.isfinite(real := float(transform.to_real(value))):
                out[name] = float(transform.to_natural(real + step))
    return out


def _of_sampling(fit: FitRecord, sampling: Sampling) -> Replicates:
    """The replicates within a stochastic fit."""
    density = fit.binding.density
    rows = []
    for replicate in sampling.replicates:
        with x64():
            values = np.asarray(density.reported(on_device(replicate.params)))
        row = {"seed": None, "converged": replicate.converged, "-2 log L": -2.0 * replicate.log_likelihood}
        row |= {"status": "", "iterations": fit.iterations, "seconds": np.nan}
        rows.append(row | dict(zip(density.reported_names, values, strict=True)))
    return _record(fit, rows, f"{len(rows)} replicates from dispersed starts inside the fit by {fit.method}", ())


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Replicates(Printable):
    """Replicated fits. It prints as sentences, then the spread of estimates beside their standard errors.

    **Fields:** `fit`; `table`, a row for each replicate: seed (missing where the method does not simulate), converged,
    -2 log L, status, iterations, seconds, and the estimates by name (as in `fit.estimates`); `words`: what was run;
    `fits`: those of the replicates, empty for replicates inside a stochastic fit.
    """

    fit: FitRecord
    table: pd.DataFrame
    words: str
    fits: tuple[FitRecord, ...]

    @functools.cached_property
    def summary(self) -> pd.DataFrame:
        """By parameter: `estimate` and `se` of the fit; `mean` and `sd` over the replicates that converged; `sd/se`;
        and `largest/se`, the largest difference of a replicate from the estimate, in standard errors. NaN where the fit
        has no standard error, and for a spread over less than two replicates."""
        import pandas as pd

        estimates = self.fit.estimates
        values = self.table.loc[self.table["converged"].to_numpy(bool), list(estimates.index)].to_numpy(float)
        estimate, se = estimates["estimate"].to_numpy(float), estimates["se"].to_numpy(float)
        n = len(values)
        missing = np.full(len(estimate), np.nan)
        sd = np.std(values, axis=0, ddof=1) if n > 1 else missing
        out = pd.DataFrame({"estimate": estimate, "se": se, "mean": values.mean(axis=0) if n else missing, "sd": sd})
        out["sd/se"] = sd / se
        out["largest/se"] = np.abs(values - estimate).max(axis=0) / se if n else missing
        return out.set_index(estimates.index)

    @functools.cached_property
    def agree(self) -> bool:
        """True where all replicates converged, their -2 log L differ from that of the fit by no more than
        `AgreementCriteria.same_objective`, and no estimate by more than `AgreementCriteria.same_estimate` standard
        errors."""
        largest = self.summary["largest/se"].to_numpy(float)
        far = bool((largest[np.isfinite(largest)] > AGREEMENT.same_estimate).any())
        return bool(self.table["converged"].all()) and not far and self._objective_range() <= AGREEMENT.same_objective

    def _objective_range(self) -> float:
        """The largest difference from the -2 log L of the fit among the replicates that converged; 0 without any."""
        objective = self.table.loc[self.table["converged"].to_numpy(bool), "-2 log L"].to_numpy(float)
        difference = np.abs(objective + 2.0 * self.fit.log_likelihood)
        return float(np.nanmax(difference)) if np.isfinite(difference).any() else 0.0

    @functools.cached_property
    def sentences(self) -> tuple[str, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sentences on the runs, whether they converged, and how far the results differ."""
        converged = self.table["converged"].to_numpy(bool)
        out = [f"{self.words}: {int(converged.sum())} of {len(converged)} converged."]
        out[0] = out[0][0].upper() + out[0][1:]
        if not converged.any():
            return tuple(out)
        difference = self.table["-2 log L"].to_numpy(float)[converged] + 2.0 * self.fit.log_likelihood
        if np.isfinite(difference).any():
            low, high = np.nanmin(difference), np.nanmax(difference)
            out.append(f"-2 log L less that of the fit: {number(low, 3)} to {number(high, 3)}.")
            if low < -AGREEMENT.same_objective:
                out.append("A BETTER MAXIMUM than the fit's was found: see `.fits` and `.table`.")
        largest = self.summary["largest/se"].dropna()
        if len(largest):
            name, value = largest.idxmax(), float(largest.max())
            out.append(f"Largest difference from an estimate: {number(value, 2)} standard errors ({name}).")
        far = [str(name) for name in largest.index[largest > AGREEMENT.same_estimate]]
        if far:
            out.append(f"The replicates DISAGREE in {some(far)}.")
        return tuple(out)

    def _tables(self) -> list[Table]:
        names = list(self.summary.columns)
        rows = [[str(name), *(number(row[column]) for column in names)] for name, row in self.summary.iterrows()]
        return [Table("Replicates that converged, beside the fit", ("", *names), rows)]


def _record(fit: FitRecord, rows: list[dict[str, Any]], words: str, fits: tuple[FitRecord, ...]) -> Replicates:
    import pandas as pd

    table = pd.DataFrame(rows, index=pd.RangeIndex(1, len(rows) + 1, name="replicate"))
    return Replicates(fit, table, words, fits)
