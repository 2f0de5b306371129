"""`Fit.update`: a fit's model with a change or two, fitted again from the estimates."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.bind import Binding, bind
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, near_matches
from jaxnlme.estimators.marginal.method import REML
from jaxnlme.fitting.fit import fit as fit_again
from jaxnlme.fitting.model_changes import Change
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.results.record import Fit

# An SD that was estimated as zero starts again at this share of its default start.
OPENED = 0.3
# Options that a fit keeps on record and an update takes over.
KEPT = ("standard_errors", "on_bad_group", "devices", "chunk_groups")


def update(
    fit: Fit,
    *,
    data: GroupedData | None = None,
    random: str | Sequence[str] | None = None,
    drop: str | Sequence[str] | None = None,
    covariance: Any = None,
    covariates: Mapping[str, Any] | None = None,
    error: Any = None,
    method: Any = None,
    **options: Any,
) -> Fit:
    """The fit's model with some changes, fitted again from the estimates.

    **Arguments:**

    - `random`: the parameters that have a random effect, all of them; `drop`: random effects to leave out ("vol"), or
      covariates ("cl ~ log(Wt / 70)"), by the names in `fit.estimates`.
    - `covariance`, `error`: as in NLMEModel. A covariance given by blocks, a pattern or a family object keeps what
      concerns the effects that remain; a new effect stands by itself.
    - `covariates`: parameter to its covariates from now on, `{"cl": ["log(Wt / 70)"], "vol": []}`.
    - `data`, `method`, and every option of `fit`, among them `start`: values by name that replace estimates. What is
      not named stays as the fit had it (`callbacks`, `progress`, `throw` and `checkpoint` are never taken over). So a
      restricted fit stays restricted by another method, too, unless `restricted=False` (or "lme" after "relme").

    Where it starts: values of parameters that remain are the estimates; psi is that of the effects that remain, as near
    as the covariance allows; new ones have the model's starts, SDs estimated as zero a small one. `start=` a Params or
    a Fit, or `starts=`, begins there instead. Priors on values that are gone are gone.

    **Returns:** a Fit.
    **Errors:** OptionError for names that the model does not have, and where a design or a function of the user's own
    says what the effects are: it has to be changed by hand. FitError where the fit has no estimates.
    """
    known = list(inspect.signature(fit_again).parameters)[2:]
    for name in options:
        if name not in known:
            more = ["data", "random", "drop", "covariance", "covariates", "error"]
            raise OptionError(f"update has no option {name!r}; {near_matches(name, [*known, *more])}")
    require_estimates(fit)
    dropped = [] if drop is None else [drop] if isinstance(drop, str) else list(drop)
    wanted = None if random is None else [random] if isinstance(random, str) else list(random)
    both = [name for name in dropped if wanted is not None and name in wanted]
    if both:
        raise OptionError(f"{both[0]!r} stands in drop= and in random=; name it in one of them.")
    change = Change(fit)
    change.drop(dropped)
    if covariates is not None:
        change.covariates(covariates)
    if wanted is not None:
        change.random(wanted)
    model = change.model(covariance, error)
    data = fit.data if data is None else data
    asked = "restricted" in options
    estimator = _estimator(fit, method, options)
    given = dict(options)
    options = {name: fit.options[name] for name in KEPT if name in fit.options} | options
    if "devices" not in given and options.get("devices") is not None:
        options["devices"] = min(options["devices"], len(jax.local_devices()))  # as many as this machine has
    start = options.get("start")
    if options.get("starts") is None and (start is None or isinstance(start, Mapping)):
        options["start"] = _start(fit, bind(model, data), change, error) | dict(start or {})
    try:
        return fit_again(model, data, estimator, **options)
    except OptionError as error:
        if asked or not options.get("restricted") or not str(error).startswith("restricted=True"):
            raise
        raise OptionError(
            f"the fit is of a restricted likelihood ({fit.estimator.name}), and an update keeps restricted=True, which "
            "this method does not take: say restricted=False beside it, or method='relme' for the restricted form of "
            f"'lme'. ({error})"
        ) from None


def _estimator(fit: Fit, method: Any, options: dict[str, Any]) -> Any:
    """The fit's estimator with other numbers of `options` (taken out there), or the `method` asked for."""
    names = ("max_iterations", "tolerance")
    if isinstance(fit.estimator, REML):
        # Restricted as it was, also by another method.
        if options.setdefault("restricted", True) is False and method is None:
            method = fit.estimator.method
    elif fit.restricted and method is not None:
        # Of 'lme' and 'relme' the name itself says which; any other method stays restricted.
        last = method[-1] if isinstance(method, (list, tuple)) and method else method
        if not (isinstance(last, Linearised) or str(last).lower() == "lme"):
            options.setdefault("restricted", True)
    elif fit.restricted and options.get("restricted") is False:
        raise OptionError(f"the fit is by {fit.method}, which is restricted: name a method that is not, such as 'lme'.")
    if method is not None:
        for name in names:
            options.setdefault(name, fit.options[name])
        return method
    changed = {name: options.pop(name) for name in names if name in options}
    return dataclasses.replace(fit.estimator, **changed) if changed else fit.estimator


def _start(fit: Fit, binding: Binding, change: Change, error: Any) -> dict[str, float]:
    """Starting values by name: the estimates of what remains. A residual model that is new is left out, for `fit` to
    scale it to the data."""
    old, density = fit.values, binding.density
    carried = [*density.beta_names, *(() if error is not None else density.error_names)]
    named = {name: old[name] for name in carried if name in old}
    params = binding.params(named)
    theta = np.asarray(params.covariance, float)
    if density.n_effects:
        with x64():
            theta = density.covariance.from_matrix(_psi(fit, binding, change))
    values = binding.values(Params(params.beta, theta, params.error, params.free))
    spreads = density.reported_names[len(density.beta_names) : len(values) - len(density.error_names)]
    return {name: values[name] for name in (*density.beta_names, *spreads)} | named


def _psi(fit: Fit, binding: Binding, change: Change) -> np.ndarray:
    """Psi (random, random) of the effects that remain, new ones and those at zero at starts of their own."""
    sd = np.sqrt(np.diag(_default_psi(binding)))
    kept = np.asarray(change.kept, int)
    psi = np.diag(sd**2)
    at = np.flatnonzero(kept >= 0)
    found = fit.psi.to_numpy()[np.ix_(kept[at], kept[at])]
    if binding.model.fix_psi:
        return found
    psi[np.ix_(at, at)] = found
    zero = np.diag(psi) <= 0
    psi[zero, :] = psi[:, zero] = 0.0
    psi[zero, zero] = (OPENED * sd[zero]) ** 2
    # A singular psi would start at its boundary as well.
    unit = np.sqrt(np.diag(psi))
    if np.linalg.eigvalsh(psi / np.outer(unit, unit))[0] < 1e-6:
        psi = 0.95 * psi + 0.05 * np.diag(np.diag(psi))
    return psi


def _default_psi(binding: Binding) -> np.ndarray:
    factor = np.asarray(binding.density.covariance.factor(np.asarray(binding.start.covariance, float)), float)
    return factor @ factor.T
