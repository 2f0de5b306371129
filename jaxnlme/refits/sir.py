"""Sampling importance resampling: the distribution of the estimates from the likelihood itself, without refits."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from jaxnlme.arguments import check_choice, check_number, require_host
from jaxnlme.errors import FitError, OptionError, check_level, check_whole_number, shown
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.refits.likelihood_at import group_values_at, information_of, require_approximation
from jaxnlme.refits.refits import check_option_names, pack_on_host
from jaxnlme.refits.settings import SIR
from jaxnlme.results.display import Printable, Table, number
from jaxnlme.results.record import FitRecord
from jaxnlme.signatures import public

if TYPE_CHECKING:
    import pandas as pd


@check_option_names
@public("fit.sir")
def sir(
    fit: FitRecord,
    samples: int | Sequence[int] = SIR.samples,
    resamples: int | Sequence[int] = SIR.resamples,
    *,
    seed: int = 0,
    inflation: float = 1.0,
) -> Sir:
    """The uncertainty of the estimates by sampling importance resampling (SIR): intervals that need not be symmetric,
    from evaluations of the likelihood, without a refit.

    Parameters are drawn from a normal distribution around the estimates on their unconstrained scales (typical values
    and coefficients transformed, logarithms of standard deviations, error parameters on the real line), weighted by
    likelihood (times prior) over proposal density, and resampled systematically. Each iteration takes the
    covariance of the resampled draws for the proposal of the next. The weights are those of a flat prior on the
    unconstrained scales where the model declares none.

    **Arguments:** `samples`, `resamples`: numbers of draws and of resampled draws of each iteration, or one number for
    a single iteration; `seed`; `inflation`: factor of the covariance of the first proposal.
    **Returns:** a Sir.
    **Raises:** FitError where the fit did not converge or has no information matrix, or too few draws have a finite
    likelihood; OptionError for lists of different lengths, more resampled draws than draws, and fits that do not
    maximise a likelihood approximation.
    **Source:** Dosne, Bergstrand, Harling and Karlsson (2016), Journal of Pharmacokinetics and Pharmacodynamics 43,
    583-596; Dosne, Bergstrand and Karlsson (2017), the same journal 44, 509-520 (iterations).

    **Example:**

    ```python
    print(fit.sir(200, 50).intervals(0.9))
    ```
    """
    require_host("fit.sir")
    require_approximation(fit, "SIR")
    info = information_of(fit, "SIR")
    seed = check_whole_number("seed", seed, 0)
    check_number("inflation", inflation, 0.0, above=True)
    counts = _counts(samples, resamples)
    active, centre = info.active, pack_on_host(fit.params)
    assert info.covariance is not None
    proposal, rng = inflation * info.covariance, np.random.Generator(np.random.Philox(seed))
    best, weights_of_groups = fit.log_likelihood + fit.log_prior, np.asarray(fit.data.weights)
    rows: list[dict[str, float]] = []
    for iteration, (n, m) in enumerate(counts):
        lower = np.linalg.cholesky(proposal)
        normal = rng.normal(size=(n, len(active)))
        packed = np.tile(centre, (n, 1))
        packed[:, active] += normal @ lower.T
        of_groups, prior = group_values_at(fit, packed)
        log_likelihood = np.where(weights_of_groups == 0, 0.0, weights_of_groups * of_groups).sum(axis=1)
        difference = log_likelihood + prior - best
        log_weight = difference + 0.5 * np.sum(normal**2, axis=1)
        finite = np.isfinite(log_weight)
        if finite.sum() < max(m, len(active) + 2):
            raise FitError(
                f"SIR: {int(finite.sum())} of {n} draws have a finite likelihood, fewer than the {m} to resample; use "
                "a smaller inflation=, or more samples=.",
                fit,
            )
        log_weight = np.where(finite, log_weight, -np.inf)
        weight = np.exp(log_weight - log_weight.max())
        ess = float(weight.sum() ** 2 / np.sum(weight**2))
        # Systematic resampling: a draw of weight w is taken m w or one time more; without replacement the draws in the
        # tails, whose weights are largest, would be too few.
        points = (np.arange(m) + rng.random()) / m
        chosen = np.minimum(np.searchsorted(np.cumsum(weight) / weight.sum(), points), n - 1)
        move = packed[chosen][:, active] - centre[active]
        rows.append(
            {
                "iteration": iteration + 1,
                "samples": n,
                "resamples": m,
                "ess": ess,
                "dOFV of the proposal": float(-2.0 * np.mean(difference[finite])),
                "dOFV resampled": float(-2.0 * np.mean(difference[chosen])),
            }
        )
        if iteration < len(counts) - 1:
            proposal = np.atleast_2d(move.T @ move) / m
            if np.linalg.eigvalsh(proposal)[0] <= 0:
                raise OptionError(
                    f"the {m} resampled draws of iteration {iteration + 1} do not span {len(active)} parameters; raise "
                    "resamples=."
                )
    return _record(fit, packed[chosen], difference[chosen], rows, seed)


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Sir(Printable):
    """Resampled parameters, and the statistics that follow from them. Values are on the scale of `fit.values`.

    **Fields:** `fit`; `seed`; `draws`, a row per resampled draw: the values by name, `dOFV`, minus twice its
    log-likelihood (plus log prior) less that of the estimates; `iterations`: of each, `samples`, `resamples`, the
    effective number of draws `ess`, and mean `dOFV` of draws and of resampled draws, which is near the number of
    parameters where the likelihood is normal; `sentences`.

    **Example:**

    ```python
    print(fit.sir(200, 50).iterations)
    ```
    """

    fit: FitRecord
    seed: int
    draws: pd.DataFrame
    iterations: pd.DataFrame
    sentences: tuple[str, ...]

    what = "draws of SIR"

    @property
    def values(self) -> pd.DataFrame:
        """The resampled values that were not fixed."""
        fixed = self.fit.estimates["fixed"]
        return self.draws[[name for name in self.fit.values if not fixed[name]]]

    @property
    def estimates(self) -> pd.Series:
        """Values of the fit."""
        import pandas as pd

        return pd.Series({name: self.fit.values[name] for name in self.values.columns}, name="estimate")

    @property
    def se(self) -> pd.Series:
        """Standard deviations of the resampled draws."""
        return self.values.std(ddof=1).rename("se")

    @property
    def correlation(self) -> pd.DataFrame:
        """Correlations between the estimates, over resampled draws."""
        return self.values.corr()

    def intervals(self, level: float = 0.95, kind: str = "percentile") -> pd.DataFrame:
        """Percentile intervals of the resampled draws, with columns `estimate`, `lower`, `upper`.

        **Arguments:** `level`, a probability; `kind`: "percentile".
        **Raises:** OptionError for a level outside (0, 1), and another kind.
        """
        import pandas as pd

        check_level(level)
        check_choice("kind", kind, ("percentile",))
        low, high = self.values.quantile(0.5 - level / 2.0), self.values.quantile(0.5 + level / 2.0)
        return pd.DataFrame({"estimate": self.estimates, "lower": low, "upper": high}).loc[list(self.estimates.index)]

    @public("sir.plot")
    def plot(self, level: float = 0.95, ax: Any = None) -> Any:
        """Histograms of the resampled draws with estimates and intervals, a panel per parameter.

        **Arguments:** `level`, a probability; `ax`: one axes per parameter, created where None.
        **Returns:** the axes (parameters,).
        **Raises:** OptionError for another number of axes.
        """
        from jaxnlme.diagnostics.pictures.refit_records import draw_bootstrap

        return draw_bootstrap(self, level, "percentile", ax)

    def _tables(self) -> list[Table]:
        intervals, se = self.intervals(), self.se
        rows = []
        for k, name in enumerate(intervals.index):
            estimate, lower, upper = intervals.to_numpy(float)[k]
            rows.append([str(name), number(estimate), number(se[name]), f"[{number(lower)}, {number(upper)}]"])
        table = self.iterations
        steps = [[f"{row[0]:g}", *(number(float(cell)) for cell in row[1:])] for row in table.itertuples(index=False)]
        return [
            Table("Values on their natural scale", ("", "estimate", "se", "95% percentiles"), rows),
            Table("Iterations", [str(name) for name in table.columns], steps),
        ]


def _counts(samples: Any, resamples: Any) -> list[tuple[int, int]]:
    """Pairs of the numbers of draws and resampled draws. **Raises:** OptionError as `sir`."""
    lists = [list(value) if isinstance(value, (list, tuple)) else [value] for value in (samples, resamples)]
    if len(lists[0]) != len(lists[1]) or not lists[0]:
        raise OptionError(
            "samples and resamples have one number for each iteration, and must be of one length; received "
            f"{shown(samples)} and {shown(resamples)}."
        )
    out = []
    for n, m in zip(*lists, strict=True):
        n, m = check_whole_number("samples", n, 10), check_whole_number("resamples", m, 5)
        if m > n:
            raise OptionError(f"resamples={m} of samples={n} would repeat draws: take fewer, or more samples.")
        out.append((n, m))
    return out


def _record(fit: FitRecord, packed: np.ndarray, difference: np.ndarray, rows: list[dict[str, float]], seed: int) -> Sir:
    import pandas as pd

    values = values_at(fit, packed)
    table = pd.DataFrame(values, columns=list(fit.values))
    table["dOFV"] = -2.0 * difference
    table.index.name = "draw"
    last = rows[-1]
    sentences = [
        f"SIR of a fit by {fit.method}, seed {seed}: {last['resamples']:g} of {last['samples']:g} draws resampled in "
        f"the last of {len(rows)} iterations, with an effective number of draws of {number(last['ess'], 3)}.",
    ]
    if last["ess"] < SIR.least_ess * last["samples"]:
        sentences.append(
            "That is few: the proposal is far from the likelihood. Take more iterations (samples=, resamples=), or a "
            "larger inflation=."
        )
    gain = float(np.max(difference))
    if gain > SIR.better:
        sentences.append(
            f"A draw has a log-likelihood higher than that of the estimates, by {number(gain, 3)}: they are not at the "
            "maximum; fit again from there."
        )
    return Sir(fit, seed, table, pd.DataFrame(rows), tuple(sentences))


def values_at(fit: FitRecord, packed: np.ndarray) -> np.ndarray:
    """User-scale values (points, values) at `packed` (points, n)."""
    with x64():
        template = on_device(fit.params)
        reported = np.array(compiled(_reported, 0)(fit.binding.density, template, packed))
    for k, transform in enumerate(fit.binding.transforms):
        if transform is not None:
            reported[:, k] = np.asarray([float(transform.to_natural(np.float64(v))) for v in reported[:, k]])
    return reported


def _reported(density: Any, template: Any, packed: Any) -> Any:

    return jax.vmap(lambda x: density.reported(template.unpack(x)))(packed)
