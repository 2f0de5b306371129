"""Bootstrap of a linear mixed model: refits of responses drawn from the fit, or of resampled units."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jaxnlme.arguments import check_choice, check_progress
from jaxnlme.errors import DataError, FitError, ModelError, OptionError, check_whole_number
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.linear.estimates import reported_names, reported_values
from jaxnlme.linear.refits.refit import Refit, refit, simulate
from jaxnlme.linear.refits.resampled_rows import ResampledRows
from jaxnlme.refits.bootstrap import Bootstrap, bootstrap_sentences
from jaxnlme.refits.jobs import NO_INFORMATION
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit

KINDS = ("parametric", "case")


class LinearBootstrap(Bootstrap):
    """A Bootstrap of a linear mixed model: values are those of `fit.estimates`."""

    @property
    def _free_names(self) -> list[str]:
        return [name for name, value in self.fit.values.items() if not np.isnan(value)]


@public("fit.bootstrap")
def bootstrap(
    fit: LinearFit, n: int = 500, *, seed: int = 0, kind: str = "parametric", progress: bool | None = None
) -> LinearBootstrap:
    """Refit the model to `n` bootstrap samples, by the criterion of the fit (REML or ML). Refits start from the
    estimates (`refit`).

    **Arguments:** `kind`: "parametric" draws responses from the fitted model with new random effects, as
    `fit.simulate`; "case" draws the units of the outermost grouping factor with replacement, as many as there are, each
    with its rows; `seed`: replicate r depends only on (seed, r); `progress` as in `fit`.
    **Returns:** a Bootstrap: `.replicates`, `.se`, `.bias`, `.intervals(level, kind)`, `.plot()`.
    **Raises:** FitError where the fit did not converge; OptionError for an unknown `kind`, "case" with crossed grouping
    factors or without any, and a variance function of the fitted values.
    **Source:** Efron and Tibshirani (1993), An Introduction to the Bootstrap, Chapman and Hall; for mixed models Thai,
    Mentre, Holford, Veyrat-Follet and Comets (2013), Pharmaceutical Statistics 12, 129-140.
    """
    check_choice("kind", kind, KINDS)
    progress = check_progress(progress)
    n = check_whole_number("n", n, 2, "the number of replicates")
    seed = check_whole_number("seed", seed, 0)
    if not fit.converged:
        raise FitError(f"a bootstrap begins at a maximum, and the fit has not converged. {fit.status}", fit)
    if kind == "case" and not (fit.model.groupings and fit.model.nested):
        have = "they are crossed" if fit.model.groupings else "the model has none"
        raise OptionError(f"kind='case' draws units of the outermost grouping factor, and {have}: use 'parametric'.")
    names = reported_names(fit)
    rows = [[np.nan] * (len(names) + 1) + ["not run"] for _ in range(n)]
    with ProgressLine(progress, "bootstrap", n) as line:
        try:
            for r in range(n):
                line.show("refits", r)
                rows[r] = _replicate(fit, _sampler(fit, kind, np.random.default_rng([seed, r])))
        except KeyboardInterrupt:
            pass  # the rows say which replicates were run, and the record that it was interrupted
    table = pd.DataFrame(rows, columns=[*names, "log_likelihood", "status"])
    table.index.name = "replicate"
    case = kind == "case"
    drawn = (
        f"units of {fit.model.groupings[0].label} drawn with replacement" if case else "responses drawn from the fit"
    )
    opening = f"Bootstrap of a fit by {fit.method}: {drawn}, seed {seed}"
    groups = fit.model.groupings[0].units.count if case else None
    sentences = bootstrap_sentences(opening, table, groups=groups)
    return LinearBootstrap(fit, kind, seed, (), table, tuple(sentences))  # pyright: ignore[reportArgumentType]


def _sampler(fit: LinearFit, kind: str, rng: np.random.Generator) -> Callable[[], Refit]:
    """The refit to one sample."""
    if kind == "parametric":
        return lambda: refit(fit, simulate(fit, 1, rng)[0])
    return lambda: refit(fit, rows=ResampledRows.drawn(fit.model.groupings[0].units.codes, rng))


def _replicate(fit: LinearFit, run: Callable[[], Refit]) -> list:
    """The row of a replicate: values, log-likelihood and status; NaN where the refit failed."""
    missing = [np.nan] * (len(reported_names(fit)) + 1)
    try:
        found = run()
    except (DataError, ModelError):
        # A sample without some category, or without spread in a column: it does not determine the model.
        return [*missing, NO_INFORMATION]
    if not np.isfinite(found.log_likelihood):
        return [*missing, "not finite"]
    if not found.converged:
        return [*missing, "not converged"]
    return [*reported_values(fit, found), found.log_likelihood, "converged"]
