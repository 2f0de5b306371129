"""`step`: stepwise choice of random effects, covariates, covariances and residual models."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.arguments import check_choice, check_count, check_number, check_progress
from jaxnlme.comparison.comparable import candidate
from jaxnlme.errors import DataError, FitError, ModelError, OptionError, shown, some
from jaxnlme.estimators.core.progress import ProgressLine
from jaxnlme.fitting.fit import Fit
from jaxnlme.linear.record import LinearFit
from jaxnlme.model_choice.settings import STEP
from jaxnlme.model_choice.step_linear import linear_search
from jaxnlme.model_choice.step_nonlinear import nonlinear_search
from jaxnlme.model_choice.step_result import Steps, frame_of, ties_of
from jaxnlme.model_choice.step_terms import Change, Search, Structure
from jaxnlme.model_choice.step_trial import Fits, Interrupted, Trial, choose, tried
from jaxnlme.results.display import number
from jaxnlme.signatures import public

DIRECTIONS = ("both", "forward", "backward")
BETTER = "better, but less than the chosen"
CRITERIA = ("AIC", "BIC", "BIC groups", "BICc", "p")


@public("jn.step")
def step(
    fit: Any,
    scope: Mapping[str, Any],
    *,
    direction: str = "both",
    criterion: str = "AIC",
    enter: float = STEP.enter,
    remove: float = STEP.remove,
    screen: bool | float = False,
    max_steps: int = STEP.max_steps,
    progress: bool | None = None,
) -> Steps:
    """Choose a model step by step: each step fits every change that the scope allows, from the estimates of the model
    before, and makes the best one, until none is better.

    By a criterion, a step adds and leaves out. By p values, effects are added while the likelihood ratio has
    p < `enter`, and then left out while it has p > `remove`. One variance at zero is tested by the mixture
    0.5 chi2(r) + 0.5 chi2(r + 1); of several the p value of the chi-square distribution is an upper bound, and marked.

    A product of covariates is added after its factors, and none of these is left out beneath it; powers are terms by
    themselves. In a search from a restricted fit, fixed effects are compared by maximum likelihood and all else by
    restricted likelihood, and the last fit is restricted. A model that is not fitted, does not converge or cannot be
    compared is in the table with the reason, and never chosen.

    **Arguments:**

    - `fit`: of `jn.fit`, `jn.lme` or `jn.gls`, converged.
    - `scope`: what may change; anything else stays. For `jn.fit`: {"random": ["ka", "cl"], "covariates": {"cl":
      ["log(Wt / 70)", "Sex"]}, "covariance": ["diagonal", "full", [["cl", "vol"], ["ka"]]], "error": ["constant",
      "combined"]}. For linear models: {"fixed": ["age", "Sex", "age:Sex"], "random": ["~ 1 | Subject",
      "~ age | Subject"], "covariance": ..., "weights": [None, jn.variance.power()], "correlation": ...}. Alternatives
      may have names: {"power": jn.variance.power(), "none": None}.
    - `direction`: "both", "forward" (more parameters, or as many) or "backward" (fewer, or as many).
    - `criterion`: "AIC", "BIC", "BIC groups" or "BICc", as of `jn.compare`, or "p".
    - `enter`, `remove`: limits of p values.
    - `screen`: True, or a p value for True's 0.2: a covariate is fitted only if a regression on it has a smaller p
      value, of the modes of the random effect that it would shift (in linear models without one, of the residuals).
    - `max_steps`; `progress`: a line while it runs. Ctrl-C returns the way so far.

    **Returns:** Steps.
    **Raises:** OptionError, DataError, ModelError for a scope that does not fit, before anything is fitted; OptionError
    for a fit that did not converge.
    **Source:** Pinheiro and Bates (2000), Mixed-Effects Models in S and S-PLUS, sections 2.4 and 4.3; Jonsson and
    Karlsson (1998), Pharmaceutical Research 15, 1463-1468 (covariates); Venables and Ripley (2002), Modern Applied
    Statistics with S, section 6.8 (margins); Burnham and Anderson (2002), Model Selection and Multimodel Inference.

    **Example:**

    ```python
    small = jn.lme("distance ~ age", "~ 1 | Subject", jn.datasets.orthodont(), method="ML")
    jn.step(small, {"fixed": ["age", "Sex", "age:Sex"]})
    ```
    """
    check_choice("direction", direction, DIRECTIONS)
    check_choice("criterion", criterion, CRITERIA)
    check_number("enter", enter, 0.0, 1.0, above=True)
    check_number("remove", remove, 0.0, 1.0, above=True)
    max_steps = check_count("max_steps", max_steps, 1)
    progress = check_progress(progress)
    limit = _screen_limit(screen)
    if isinstance(fit, Fit):
        search: Search = nonlinear_search(fit, scope)
    elif isinstance(fit, LinearFit):
        search = linear_search(fit, scope)
    else:
        raise OptionError(f"step takes a fit of jn.fit, jn.lme or jn.gls; received {shown(fit)}.")
    first = candidate(fit, "the fit", 1)
    if not first.converged or not np.isfinite(first.log_likelihood):
        raise OptionError(f"the fit did not converge, so there is nothing to compare with: fit it again. {fit.status}")
    if criterion == "BICc" and not np.isfinite(first.bicc):
        raise OptionError("BICc is not known for this fit, which does not say what varies between groups; use BIC.")
    if criterion == "p" and first.has_priors:
        raise OptionError("fits with priors have no likelihood ratio; use criterion='AIC', or leave the priors out.")
    with ProgressLine(progress, "step") as line:
        walk = Walk(search, fit, criterion, enter, remove, limit, line)
        return walk.run(direction, max_steps)


def _screen_limit(screen: Any) -> float | None:
    """The p value of a screening; None for none. **Raises:** OptionError."""
    if isinstance(screen, (bool, np.bool_)):
        return STEP.screen if screen else None
    return float(check_number("screen", screen, 0.0, 1.0, above=True))


class Walk:
    """A search in progress: the model that it has reached, its fits, and the trials so far."""

    def __init__(
        self,
        search: Search,
        fit: Any,
        criterion: str,
        enter: float,
        remove: float,
        limit: float | None,
        line: ProgressLine,
    ):
        self.search, self.fits, self.criterion = search, Fits(search, fit), criterion
        self.enter, self.remove, self.limit, self.line = enter, remove, limit, line
        self.current: Structure = search.start
        self.visited = {search.start}
        self.path = [self._start(fit)]
        self.tried: list[Trial] = []
        self.steps = 0
        self.ended = ""

    def _start(self, fit: Any) -> Trial:
        return Trial(0, Change("start", self.current, 0), candidate(fit, "the fit", 1), decision="start")

    def run(self, direction: str, max_steps: int) -> Steps:
        """All steps, and the outcome."""
        forward, backward = direction != "backward", direction != "forward"
        both = forward and backward and self.criterion == "p"
        phases = [(True, False), (False, True)] if both else [(forward, backward)]
        interrupted = False
        try:
            for phase in phases:
                while self.steps < max_steps and self._step(*phase):
                    pass
            if self.steps >= max_steps and self._open():
                self.ended = f"Ended after max_steps={max_steps} steps; more changes may be better."
            else:
                self._exchange()
        except (KeyboardInterrupt, Interrupted):
            interrupted = True
        return self._outcome(interrupted)

    def _exchange(self) -> None:
        """Fit models in which a term that was better at some step has the place of one that was chosen, for the ties:
        of two covariates that say the same, the one is seldom better after the other."""
        wanted = {trial.change.label for trial in self.tried if trial.decision == BETTER}
        for change in self.search.exchanges(self.current, wanted):
            self.line.show(f"models as good, {change.label}")
            tried(self.fits, change, self.current, self.criterion, self.steps)

    def _open(self) -> bool:
        """True if the last step made a change."""
        return any(trial.decision == "chosen" and trial.step == self.steps for trial in self.tried)

    def _step(self, forward: bool, backward: bool) -> bool:
        """One step; False where no change is better."""
        self.steps += 1
        changes = self.search.changes(self.current, self._fit())
        changes = [c for c in changes if not ((c.direction > 0 and not forward) or (c.direction < 0 and not backward))]
        trials: list[Trial] = []
        try:
            for k, change in enumerate(changes):
                self.line.show(f"step {self.steps}, {change.label} ({k + 1} of {len(changes)})")
                trials.append(self._trial(change))
        except BaseException:
            self.tried += [dataclasses.replace(t, decision=t.decision or "not decided") for t in trials]
            raise
        chosen = -1
        while (chosen := choose(trials, self.criterion, forward, backward, self.enter, self.remove)) >= 0:
            problem = self._take(trials[chosen].change.structure)
            if not problem:
                break
            trials[chosen] = dataclasses.replace(trials[chosen], reason=problem)
        trials = [self._decided(trial, k == chosen, forward, backward) for k, trial in enumerate(trials)]
        self.tried += trials
        if chosen < 0:
            return False
        self.path.append(trials[chosen])
        return True

    def _trial(self, change: Change) -> Trial:
        screened = self.search.screened(self._fit(), change) if self.limit is not None else None
        if screened is not None and self.limit is not None and screened.p >= self.limit:
            return Trial(self.steps, change, screened=screened, decision=f"screened out, p = {number(screened.p, 2)}")
        trial = tried(self.fits, change, self.current, self.criterion, self.steps)
        # Likelihoods of two kinds could lead round in a circle; p values forward, then backward, cannot.
        again = self.criterion != "p" and change.structure in self.visited and trial.delta < -STEP.better
        return dataclasses.replace(trial, screened=screened, decision="visited before" if again else "")

    def _fit(self) -> Any:
        """The fit of the current model by the method of the first."""
        return self.fits.get(self.current, False, self.current)

    def _take(self, structure: Structure) -> str:
        """Make a model the current one, unless it does not converge by the method of the first: then the reason."""
        try:
            fit = self.fits.get(structure, False, self.current)
        except (DataError, ModelError, FitError, OptionError) as error:
            return f"not fitted by {self._fit().method}: {error}"
        if not fit.converged:
            return f"not converged by {fit.method}"
        self.current = structure
        self.visited.add(structure)
        return ""

    def _decided(self, trial: Trial, chosen: bool, forward: bool, backward: bool) -> Trial:
        """The trial with a word on what became of it."""
        if chosen:
            return dataclasses.replace(trial, decision="chosen")
        if trial.decision or trial.reason:
            return trial
        if (trial.added > 0 and not forward) or (trial.added < 0 and not backward):
            return dataclasses.replace(trial, decision="other direction")
        if self.criterion == "p":
            good = trial.p < self.enter if trial.added > 0 else trial.p > self.remove
            other = "not significant" if trial.added > 0 else "significant, stays"
        else:
            good, other = trial.delta < -STEP.better, "not better"
        return dataclasses.replace(trial, decision=BETTER if good else other)

    def _outcome(self, interrupted: bool) -> Steps:
        """The Steps so far."""
        fit = self._fit()
        ties = ties_of(self.search, self.fits, self.current, self.criterion)
        path, candidates = (frame_of(trials, self.criterion) for trials in (self.path, self.tried))
        steps = Steps(fit, path, candidates, ties, self.criterion, interrupted, ())
        return dataclasses.replace(steps, sentences=tuple(self._sentences(steps)))

    def _sentences(self, steps: Steps) -> list[str]:
        made = [trial.change.label for trial in self.path[1:]]
        first = "Interrupted: the search did not end." if steps.interrupted else self.ended
        out = [first] if first else []
        by = f"p values (enter < {self.enter:g}, stay < {self.remove:g})" if self.criterion == "p" else self.criterion
        out.append(
            f"By {by}, {self.fits.count} fits: {', '.join(made) if made else 'no change'}. The model: "
            f"{'; '.join(self.search.describe(self.current))}."
        )
        if self.fits.restricted:
            out.append("Fixed effects are compared by maximum likelihood, all else by restricted likelihood.")
        if not steps.interrupted and not self.ended:
            name = "AIC" if self.criterion == "p" else self.criterion
            beyond = [
                str(name) for name, delta in zip(steps.ties["change"], steps.ties["delta"], strict=True) if delta < 0
            ]
            if beyond:
                out.append(f"Of lower {name}, though no step led there: {some(_quoted(beyond))}.")
            if steps.as_good:
                out.append(f"As good, within {STEP.tie:g} units of {name}: {some(_quoted(steps.as_good))}.")
            else:
                out.append(f"No other model that was fitted is as good (within {STEP.tie:g} units of {name}).")
        failed = [f"{t.change.label} ({t.reason})" for t in self.tried if t.step == self.steps and t.reason]
        if failed:
            out.append(f"Not compared in the last step: {some(failed)}.")
        out += self._screening()
        return out

    def _screening(self) -> list[str]:
        """A sentence on what was screened, and one on shrinkage."""
        screened = [trial for trial in self.tried if trial.screened is not None]
        if not screened:
            return []
        last = [t.change.label for t in screened if t.candidate is None and not t.reason and t.step == self.steps]
        out = [
            f"Screened by regressions with p < {self.limit:g}"
            f"{f'; not fitted in the last step: {some(last)}' if last else ''}."
        ]
        by_modes = {t.screened.on: t.screened.shrinkage for t in screened if t.screened is not None}
        shrunk = {on: value for on, value in by_modes.items() if np.isfinite(value)}
        if shrunk:
            parts = [f"{on} {value if abs(value) >= 0.5 else 0.0:.0f}%" for on, value in shrunk.items()]
            out.append(f"Shrinkage: {some(parts)}.")
        high = [on for on, value in shrunk.items() if value > STEP.shrinkage]
        if high:
            out.append(
                f"Beyond {STEP.shrinkage:g}% of shrinkage such regressions miss effects and find others: search again "
                f"with screen=False, for {some(high)}."
            )
        return out


def _quoted(names: list[str]) -> list[str]:
    return [f"'{name}'" for name in names]
