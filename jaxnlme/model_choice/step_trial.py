"""One change of a model in a stepwise search: fitted, compared with the model before, and judged."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

from jaxnlme.comparison.comparable import Candidate, candidate
from jaxnlme.comparison.compare import closed_form
from jaxnlme.comparison.nesting import nesting
from jaxnlme.comparison.refusals import check_comparable
from jaxnlme.comparison.settings import RATIO
from jaxnlme.errors import DataError, FitError, ModelError, OptionError
from jaxnlme.model_choice.settings import STEP
from jaxnlme.model_choice.step_terms import Change, Screened, Search, Structure
from jaxnlme.results.display import number


class Interrupted(Exception):
    """A fit was ended by Ctrl-C."""


@dataclasses.dataclass(frozen=True, eq=False)
class Trial:
    """A change that was tried.

    **Fields:** `step`; `change`; `candidate`, None where there is no fit that can be compared; `delta`: of the
    criterion, against the model before by the same likelihood; `p`, `chi2`, `distribution` of the likelihood ratio,
    NaN and empty where the models are not nested; `reason`: why it cannot be chosen, empty where it can; `added`: the
    change in the number of parameters; `screened`; `decision`.
    """

    step: int
    change: Change
    candidate: Candidate | None = None
    delta: float = np.nan
    p: float = np.nan
    chi2: float = np.nan
    distribution: str = ""
    reason: str = ""
    added: int = 0
    screened: Screened | None = None
    decision: str = ""


def criterion_of(each: Candidate, criterion: str) -> float:
    """The value of a criterion; that of AIC for a search by p values."""
    values = {
        "AIC": each.criteria.aic,
        "BIC": each.criteria.bic,
        "BIC groups": each.criteria.bic_groups,
        "BICc": each.bicc,
    }
    return float(values.get(criterion, each.criteria.aic))


class Fits:
    """Fits of the models of a search, each made once for each likelihood.

    **Arguments:** `search`; `fit`, the first.
    """

    def __init__(self, search: Search, fit: Any):
        self.search, self.restricted = search, bool(fit.restricted)
        self.fits: dict[tuple[Structure, bool], Any] = {(search.start, not self.restricted): fit}
        self.failures: dict[tuple[Structure, bool], str] = {}
        self.count = 0

    def get(self, structure: Structure, ml: bool, near: Structure) -> Any:
        """A fit of a structure from the estimates of the model `near`; `ml`: not restricted.

        **Raises:** DataError, ModelError, FitError, OptionError where there is none.
        """
        ml = ml or not self.restricted
        key = (structure, ml)
        if key in self.failures:
            raise FitError(self.failures[key])
        if key not in self.fits:
            sources = [(structure, not ml), (near, ml), (near, not ml)]
            source = next(known for known in sources if known in self.fits)
            try:
                self.fits[key] = self._fit(structure, source, ml)
            except (DataError, ModelError, FitError, OptionError) as error:
                self.failures[key] = str(error)
                raise
        return self.fits[key]

    def _fit(self, structure: Structure, source: tuple[Structure, bool], ml: bool) -> Any:
        fit = self._refit(structure, source, ml, False)
        if not fit.converged:
            again = self._refit(structure, source, ml, True)
            fit = again if again is not None and again.converged else fit
        return fit

    def _refit(self, structure: Structure, source: tuple[Structure, bool], ml: bool, again: bool) -> Any:
        fit = self.search.refit(structure, self.fits[source], source[0], ml, again)
        if fit is not None and getattr(fit, "interrupted", False):
            raise Interrupted
        self.count += fit is not None
        return fit

    def again(self, structure: Structure, ml: bool, near: Structure) -> bool:
        """Fit a structure again from several starts; True where that has a higher log-likelihood."""
        ml = ml or not self.restricted
        before = self.fits[structure, ml]
        fit = self._refit(structure, (near, ml), ml, True)
        if fit is None or not fit.converged or not fit.log_likelihood > before.log_likelihood:
            return False
        self.fits[structure, ml] = fit
        return True


def tried(fits: Fits, change: Change, current: Structure, criterion: str, step: int) -> Trial:
    """The Trial of a change of the model `current`."""
    trial = Trial(step, change)
    try:
        before = candidate(fits.get(current, change.fixed_effects, current), "the model before", 1)
        after = candidate(fits.get(change.structure, change.fixed_effects, current), "this model", 2)
    except (DataError, ModelError, FitError, OptionError) as error:
        return dataclasses.replace(trial, reason=f"not fitted: {_first_sentence(str(error))}")
    for each, words in ((before, "the model before "), (after, "")):
        if not each.converged:
            kept = after if np.isfinite(after.log_likelihood) else None
            return dataclasses.replace(trial, candidate=kept, reason=f"{words}not converged: {_why(each.fit)}")
    try:
        check_comparable([before, after], allow_unconverged=False)
    except OptionError as error:
        return dataclasses.replace(trial, reason=f"not comparable: {_first_sentence(str(error))}")
    added = after.criteria.n_parameters - before.criteria.n_parameters
    smaller, larger = (before, after) if added > 0 else (after, before)
    nested = nesting(smaller, larger) if added else "the models have the same number of parameters."
    chi2, p, distribution, reason = np.nan, np.nan, "", ""
    if not isinstance(nested, str) and not (before.has_priors or after.has_priors):
        difference = larger.log_likelihood - smaller.log_likelihood
        slack = max(RATIO.lower_by, 3.0 * float(np.hypot(smaller.mc_se, larger.mc_se)))
        if difference < -slack and added > 0 and fits.again(change.structure, change.fixed_effects, current):
            return tried(fits, change, current, criterion, step)
        if difference < -slack and added > 0:
            reason = (
                f"not at its maximum: its log-likelihood is {number(-difference, 3)} below that of the model before, "
                "which it contains"
            )
        else:
            law, distribution = closed_form(nested)
            chi2 = max(2.0 * difference, 0.0)
            p = law.tail(chi2)
    elif criterion == "p":
        why = nested if isinstance(nested, str) else "fits with priors have no likelihood ratio."
        reason = f"no p value: {why}"
    delta = criterion_of(after, criterion) - criterion_of(before, criterion)
    return dataclasses.replace(
        trial, candidate=after, delta=delta, p=p, chi2=chi2, distribution=distribution, reason=reason, added=added
    )


def _first_sentence(text: str) -> str:
    """The first sentence of a message, so that a table keeps short rows."""
    return text.split(". ")[0].splitlines()[0].rstrip(".")


def _why(fit: Any) -> str:
    """The reason why a fit did not converge."""
    sentences = [s for s in str(fit.status).splitlines() if s.strip()]
    first = next((s for s in sentences if s.strip().upper() not in ("NOT CONVERGED.", "NOT CONVERGED")), "")
    return _first_sentence(first.removeprefix("NOT CONVERGED").lstrip(".: ")) or "see its status"


def choose(trials: list[Trial], criterion: str, forward: bool, backward: bool, enter: float, remove: float) -> int:
    """The position of the trial to choose, -1 where none is better.

    By a criterion: the smallest delta below zero, among changes in an allowed direction. By p values: forward the
    smallest below `enter`, backward the largest above `remove`.
    """
    best, best_value = -1, 0.0
    for k, trial in enumerate(trials):
        if trial.candidate is None or trial.reason or trial.decision:
            continue
        if (trial.added > 0 and not forward) or (trial.added < 0 and not backward):
            continue
        if criterion != "p":
            value = trial.delta if trial.delta < -STEP.better else 0.0
        elif trial.added > 0:
            # Statistics decide between p values that are zero by underflow.
            value = trial.p - 1.0 - 1e-12 * trial.chi2 if trial.p < enter else 0.0
        else:
            value = -1.0 - trial.p if trial.p > remove else 0.0
        if value < best_value:
            best, best_value = k, value
    return best
