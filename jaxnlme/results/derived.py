"""`derive`: functions of the parameters of a fit (half-lives, ratios, contrasts) by the delta method or by draws."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import check_choice, check_flag, require_host
from jaxnlme.errors import OptionError, check_level, check_whole_number, near_matches, some
from jaxnlme.model.params import Params
from jaxnlme.model.transforms import AbstractTransform, Identity
from jaxnlme.model.transforms import transform as named_transform
from jaxnlme.precision import x64
from jaxnlme.results.derived_evaluation import Evaluation
from jaxnlme.results.derived_functions import named_functions
from jaxnlme.results.derived_inputs import covariate_rows
from jaxnlme.results.derived_record import Derived, in_words
from jaxnlme.results.evaluate import require_estimates
from jaxnlme.results.parameter_draws import covariance_of_estimates, determined, normal_draws
from jaxnlme.results.settings import DERIVED
from jaxnlme.signatures import public

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


@public("fit.derive")
def derive(
    fit: FitRecord,
    fn: Callable[..., Any] | Mapping[str, Callable[..., Any]],
    at: Any = None,
    *,
    method: str = "delta",
    transform: str | AbstractTransform | Mapping[str, str | AbstractTransform] = "identity",
    level: float = 0.95,
    robust: bool = False,
    draws: int | None = None,
    seed: int | None = None,
) -> Derived:
    """Functions of the parameters of a fit, with standard errors, intervals and their joint covariance.

    **Arguments:**

    - `fn`: a function of `p`, the record of `fit.values` by name: `p.cl`, `p["cl ~ log(Wt / 70)"]`, `p["sd(ka)"]`,
      error parameters; `p.psi` is the covariance matrix of the random effects, `p.phi` the parameters of the structural
      model without random effects. Written with jax.numpy; it returns a number, an array, or a dictionary of these. Or
      a dictionary from names to such functions.
    - `at`: covariates, a data frame or a dictionary of columns, with one derived value for each row: `p.phi` is at the
      covariates of the row (`p.cl` stays the typical value at zero in all columns of the formulas), and a function
      `fn(p, x)` reads the numeric columns of the row as `x.Wt`.
    - `method`: "delta", first-order propagation of the covariance of the estimates by exact derivatives; "draws",
      standard deviations and percentiles over draws of all estimated parameters from their asymptotic normal
      distribution on the unconstrained scales; a standard deviation that the data do not determine (standard error on
      the log scale above 5) is held at its estimate, with a warning.
    - `transform`: the scale on which the interval of the delta method is symmetric: "identity", "log" for positive
      values, "logit(0, 1)", ..., or a dictionary from names of quantities to scales.
    - `level` of the intervals.
    - `robust`: the covariance of the estimates is the sandwich.
    - `draws` (10,000), `seed` (0): of the method "draws".

    **Returns:** Derived; `.table` is a data frame, `.covariance` the joint covariance.
    **Raises:** OptionError for arguments that do not fit; FitError for a fit without standard errors; ModelError for a
    function that is not pure JAX; DataError for a table `at` that does not fit the model.
    **Source:** Oehlert (1992), The American Statistician 46, 27-29, for the delta method; Mandel (2013), The American
    Statistician 67, 76-81, for the draws.
    """
    require_host("fit.derive", at, level, draws, seed)
    check_choice("method", method, ("delta", "draws"))
    check_level(level)
    check_flag("robust", robust)
    if method == "delta" and not (draws is None and seed is None):
        raise OptionError("draws and seed belong to method='draws'; method='delta' does not draw.")
    if method == "draws" and transform != "identity":
        raise OptionError("transform belongs to method='delta': percentiles of draws are the same on every scale.")
    n = DERIVED.draws if draws is None else check_whole_number("draws", draws, 2)
    seed = 0 if seed is None else check_whole_number("seed", seed, 0)
    require_estimates(fit)
    covariance, active = covariance_of_estimates(fit, robust, "fit.derive")
    rows = None if at is None else covariate_rows(fit.binding, at)
    evaluation = Evaluation(fit, named_functions(fn, at is not None), not isinstance(fn, Mapping), rows, active)
    with x64():
        estimate, derivatives = evaluation.value_and_jacobian()
        sample = evaluation.at_draws(_steps(fit, covariance, active, n, seed)) if method == "draws" else None
    quantities = tuple(evaluation.labels)
    scales = scales_of(transform, quantities)
    frame = None if rows is None else rows.frame
    derived = Derived(quantities, frame, estimate, derivatives, covariance, sample, scales, float(level), ())
    _check_domains(derived)
    return dataclasses.replace(derived, sentences=_sentences(fit, derived, robust))


def _steps(fit: FitRecord, covariance: np.ndarray, active: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Differences (n, active) of drawn parameters from the estimates: of a posterior its draws, else normal ones, zero
    for entries on a log scale that the data do not determine."""
    if fit.posterior is None:
        given, drawn = determined(fit, covariance, active, "fit.derive")
        steps = np.zeros((n, len(active)))
        steps[:, np.isin(active, drawn)] = normal_draws(given, n, seed)
        return steps
    dense = Params(fit.params.beta, fit.params.covariance, fit.params.error, None)
    return (fit.posterior.kept[fit.posterior.choose(n, seed)] - np.asarray(dense.pack(), float))[:, active]


def scales_of(given: Any, quantities: tuple[str, ...]) -> tuple[AbstractTransform, ...]:
    """The scale of the interval of each quantity.

    **Raises:** OptionError for an unknown transform or quantity, and a transform with an exponent.
    """
    if isinstance(given, Mapping):
        for name in given:
            if name not in quantities:
                raise OptionError(
                    f"transform: no derived quantity is called {name!r}; {near_matches(name, quantities)}"
                )
        named = [given.get(name, "identity") for name in quantities]
    else:
        named = [given] * len(quantities)
    scales = tuple(named_transform(entry) for entry in named)
    for scale in scales:
        if scale.has_shape:
            raise OptionError(
                f"transform {scale.name!r} has an exponent of its own; use 'log', 'logit(low, high)', ..."
            )
    return scales


def _check_domains(derived: Derived) -> None:
    """**Raises:** OptionError for a finite estimate outside the domain of the scale of its interval."""
    rows = len(derived.estimate) // len(derived.quantities)
    for k, (value, name) in enumerate(zip(derived.estimate, derived.index, strict=True)):
        scale = derived.transforms[k // rows]
        low, high = scale.domain
        if np.isfinite(value) and not low < value < high:
            raise OptionError(
                f"{in_words([name])} is {value:g}, outside ({low:g}, {high:g}), the domain of transform "
                f"{scale.name!r}; choose another scale for its interval."
            )


def _sentences(fit: FitRecord, derived: Derived, robust: bool) -> tuple[str, ...]:
    """Sentences on the derived values, the most serious first."""
    out = []
    if not fit.converged:
        out.append(f"The fit has NOT converged, and what follows from it is not reliable. {fit.status.sentences[0]}")
    source = "the sandwich" if robust else "the observed information"
    if fit.posterior is not None:
        source = "the posterior draws"
    scales = sorted({s.name for s in derived.transforms if not isinstance(s, Identity)})
    if derived.draws is None:
        on = f"; intervals on the scale {some(scales)}" if scales else ""
        out.append(f"Standard errors by the delta method, from {source}{on}.")
    else:
        out.append(f"Standard errors and percentiles of {len(derived.draws)} draws of the parameters, from {source}.")
    if fit.at_zero:
        out.append(f"{' '.join(fit.at_zero)} What is zero is taken as known.")

    def which(mask: np.ndarray) -> list[Any]:
        return [derived.index[int(k)] for k in np.flatnonzero(mask)]

    finite = np.isfinite(derived.estimate)
    if not finite.all():
        out.append(
            f"Not finite at the estimates: {in_words(which(~finite))}. Look for a logarithm, a root or a division of "
            "zero or of a negative number."
        )
    slopes = np.isfinite(derived.jacobian).all(axis=1)
    if derived.draws is None and (finite & ~slopes).any():
        out.append(
            f"The derivative of {in_words(which(finite & ~slopes))} is not finite, so that there is no standard error: "
            "the function has a kink or a root of zero at the estimates, such as a standard deviation of zero."
        )
    constant = finite & np.isnan(derived.standard_errors) & (slopes | (derived.draws is not None))
    if derived.draws is not None:
        undefined = np.isnan(derived.draws)
        constant &= ~undefined.any(axis=0)
        if undefined[:, finite].any():
            counts = undefined.sum(axis=0)
            listed = [f"{in_words([derived.index[int(k)]])} ({counts[k]})" for k in np.flatnonzero(counts)]
            out.append(
                f"Not a number in some draws, so that there is no standard error: {some(listed)}. Use method='delta', "
                "or a function that is defined for all parameter values."
            )
        infinite = finite & np.isinf(derived.draws).any(axis=0)
        if infinite.any():
            out.append(f"Infinite in some draws, so that there is no standard error: {in_words(which(infinite))}.")
        constant &= ~infinite
    if constant.any():
        out.append(f"Without a standard error, for no estimated parameter changes it: {in_words(which(constant))}.")
    return tuple(out)
