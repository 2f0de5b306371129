"""`Fit.update`: fit a changed model, starting from the estimates of an earlier fit."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxnlme.arguments import check_names, require_host
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.estimators.marginal.method import REML
from jaxnlme.fitting.fit import Fit
from jaxnlme.fitting.fit import fit as fit_model
from jaxnlme.fitting.model_changes import ModelChange
from jaxnlme.fitting.settings import RESTART
from jaxnlme.likelihood.lindstrom_bates import Linearised
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.signatures import public

# Options recorded in a fit that an update uses again.
INHERITED_OPTIONS = ("standard_errors", "on_bad_group", "devices", "chunk_groups")


@public("fit.update")
def update(
    fit: Fit,
    *,
    data: GroupedData | None = None,
    random: str | Sequence[str] | None = None,
    drop: str | Sequence[str] | None = None,
    covariance: Any = None,
    covariates: Mapping[str, Any] | None = None,
    error: Any = None,
    fixed: Mapping[str, float | None] | Sequence[str] | str | None = None,
    method: Any = None,
    **options: Any,
) -> Fit:
    """Change the model, data, method or options of a fit, and fit again from its estimates.

    **Arguments:**

    - `random`: the random effects from now on, all of them: names of parameters, with nested levels also "cl|Occasion";
      `drop`: random effects to leave out ("vol"), or covariates ("cl ~ log(Wt / 70)"), by the names in `fit.estimates`.
    - `covariance`, `error`: as in NLMEModel. A covariance given by blocks, a pattern or a family object is restricted
      to the effects that remain; a new effect is independent of the others.
    - `covariates`: parameter to its covariates from now on, `{"cl": ["log(Wt / 70)"], "vol": []}`.
    - `fixed`: values to hold fixed, by reported name, `{"sd(ka)": 0.3}`; None in the place of a value estimates it from
      now on; names only, `["sd(ka)"]`, are held at their estimates. What the fit holds stays held.
    - `data`, `method`, and every option of `fit`, among them `start`: values by name that replace estimates. Anything
      not named stays as in the fit (except `callbacks`, `progress`, `throw` and `checkpoint`, never taken over).
      A restricted fit stays restricted by another method, too, unless `restricted=False` (or "lme" after "relme").

    Starting values: the estimates of the parameters that remain; psi of the effects that remain, or the nearest member
    of the new covariance; the model's starts for new parameters; a small positive value for SDs estimated as zero.
    `start=` a Params or a Fit, or `starts=`, replaces them all. Priors on quantities that were removed are dropped.

    **Returns:** a Fit.
    **Raises:** OptionError for names that the model does not have, and for effects defined by the user's design or
    individual-parameter function, which has to be changed in the model. FitError where the fit has no estimates.
    """
    option_names = list(inspect.signature(fit_model).parameters)[2:]
    for name in options:
        if name not in option_names:
            further_names = ["data", "random", "drop", "covariance", "covariates", "error", "fixed"]
            raise OptionError(f"update has no option {name!r}; {near_matches(name, [*option_names, *further_names])}")
    require_host("fit.update", options.get("start"), data)
    if covariates is not None and not isinstance(covariates, Mapping):
        raise OptionError(
            "covariates must be a dictionary from parameters to their covariates, as in {'cl': ['log(Wt / 70)']}; "
            f"received {shown(covariates)}."
        )
    require_estimates(fit)
    dropped = [] if drop is None else check_names("drop", drop, "random effects or covariates")
    random_names = None if random is None else check_names("random", random, "parameters")
    named_twice = [name for name in dropped if random_names is not None and name in random_names]
    if named_twice:
        raise OptionError(f"{named_twice[0]!r} is named in drop= and in random=; name it in one of them.")
    change = ModelChange(fit)
    change.drop(dropped)
    if covariates is not None:
        change.covariates(covariates)
    if random_names is not None:
        change.random(random_names)
    if fixed is not None:
        change.hold(fixed)
    model = change.model(covariance, error)
    data = fit.data if data is None else data
    restricted_given = "restricted" in options
    estimator = _estimator(fit, method, options)
    user_options = dict(options)
    options = {name: fit.options[name] for name in INHERITED_OPTIONS if name in fit.options} | options
    if "devices" not in user_options and options.get("devices") is not None:
        options["devices"] = min(options["devices"], len(jax.local_devices()))  # as many as this machine has
    start = options.get("start")
    if options.get("starts") is None and (start is None or isinstance(start, Mapping)):
        options["start"] = _start(fit, bind(model, data), change, error) | dict(start or {})
    try:
        return fit_model(model, data, estimator, **options)
    except OptionError as error:
        if restricted_given or not options.get("restricted") or not str(error).startswith("restricted=True"):
            raise
        raise OptionError(
            f"the fit is of a restricted likelihood ({fit.estimator.name}), and an update keeps restricted=True, which "
            "this method does not take: pass restricted=False with it, or method='relme' for the restricted form of "
            f"'lme'. ({error})"
        ) from None


def _estimator(fit: Fit, method: Any, options: dict[str, Any]) -> Any:
    """The fit's estimator with the tolerance and iterations in `options`, which are removed there; or `method`, if
    given.

    Sets `restricted` in `options` where the new fit is to stay restricted.  **Raises:** OptionError for
    restricted=False without a method that allows it.
    """
    names = ("max_iterations", "tolerance")
    if isinstance(fit.estimator, REML):
        # The fit stays restricted, also by another method.
        if options.setdefault("restricted", True) is False and method is None:
            method = fit.estimator.method
    elif fit.restricted and method is not None:
        # 'lme' and 'relme' determine it by their names; any other method stays restricted.
        last = method[-1] if isinstance(method, (list, tuple)) and method else method
        if not (isinstance(last, Linearised) or str(last).lower() == "lme"):
            options.setdefault("restricted", True)
    elif fit.restricted and options.get("restricted") is False:
        raise OptionError(f"the fit is by {fit.method}, which is restricted: name a method that is not, such as 'lme'.")
    if method is not None:
        for name in names:
            options.setdefault(name, fit.options[name])
        return method
    new_settings = {name: options.pop(name) for name in names if name in options}
    return dataclasses.replace(fit.estimator, **new_settings) if new_settings else fit.estimator


def _start(fit: Fit, binding: Binding, change: ModelChange, error: Any) -> dict[str, float]:
    """Starting values by name: estimates of the parameters that remain. Those of a new residual model are left out:
    `fit` scales them to the data."""
    old, density = fit.values, binding.density
    parameter_names = [*density.beta_names, *(() if error is not None else density.error_names)]
    values_by_name = {name: old[name] for name in parameter_names if name in old and name not in binding.held}
    params = binding.params(values_by_name)
    theta = np.asarray(params.covariance, float)
    if density.n_effects:
        with x64():
            theta = density.covariance.from_matrix(_psi(fit, binding, change))
    values = binding.values(Params(params.beta, theta, params.error, params.free))
    covariance_names = density.reported_names[len(density.beta_names) : len(values) - len(density.error_names)]
    return {name: values[name] for name in (*density.beta_names, *covariance_names)} | values_by_name


def _psi(fit: Fit, binding: Binding, change: ModelChange) -> np.ndarray:
    """Starting psi (random, random): the estimate for effects that remain, starting SDs for new effects and those at
    zero."""
    sd = np.sqrt(np.diag(psi_of(binding.density, binding.start.covariance)))
    kept = np.asarray(change.kept_effects, int)
    if len(kept) != len(sd):  # effects whose standard deviation is now held at zero are no effects
        names = binding.density.effect_names
        kept = np.array([change.effects.index(name) if name in change.effects else -1 for name in names], int)
    psi = np.diag(sd**2)
    remaining = np.flatnonzero(kept >= 0)
    old_psi = fit.psi.to_numpy()[np.ix_(kept[remaining], kept[remaining])]
    if binding.model.fix_psi:
        return old_psi
    psi[np.ix_(remaining, remaining)] = old_psi
    zero = np.diag(psi) <= 0
    psi[zero, :] = psi[:, zero] = 0.0
    psi[zero, zero] = (RESTART.sd_fraction * sd[zero]) ** 2
    unit = np.sqrt(np.diag(psi))
    if np.linalg.eigvalsh(psi / np.outer(unit, unit))[0] < RESTART.nearly_singular:
        psi = (1.0 - RESTART.diagonal_weight) * psi + RESTART.diagonal_weight * np.diag(np.diag(psi))
    return psi
