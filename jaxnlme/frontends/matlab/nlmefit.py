"""nlmefit, called as in MATLAB's Statistics and Machine Learning Toolbox."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.errors import FitError, ModelError, OptionError
from jaxnlme.fitting.fit import Fit
from jaxnlme.frontends.matlab.call import SHARED_DEFAULTS, Call, checked_call, fit_callbacks, report_outcome
from jaxnlme.frontends.matlab.options import Statset, choice, name_values, on_off, statset, with_pairs
from jaxnlme.frontends.matlab.output_functions import OutputFunctions
from jaxnlme.frontends.matlab.outputs import outputs
from jaxnlme.frontends.matlab.settings import MATLAB
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks, LogMatrix
from jaxnlme.model.params import Params
from jaxnlme.signatures import public

NLMEFIT_DEFAULTS = SHARED_DEFAULTS | {
    "ApproximationType": "LME",
    "CovParameterization": None,
    "CovParametrization": None,
    "RefineBeta0": "on",
}
_OF_NLMEFITSA = (
    "Cov0", "ComputeStdErrors", "ErrorParameters", "LogLikMethod", "NBurnIn", "NChains", "NIterations",
    "NMCMCIterations", "Replicates",
)  # fmt: skip
REFUSED_ARGUMENTS = {
    name: f"{name!r} is an argument of nlmefitsa; nlmefit has none of that name." for name in _OF_NLMEFITSA
}
REFUSED_FIELDS = {"Streams": "Options.Streams is a field of nlmefitsa; nlmefit draws no random numbers."}


@public("jn.nlmefit")
def nlmefit(
    X: Any, y: Any, group: Any, V: Any, modelfun: Any, beta0: Any, *pairs: Any, **options: Any
) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """Fit a nonlinear mixed-effects model by an approximate marginal likelihood; arguments as of MATLAB's nlmefit.

    y_ij = f(phi_i, x_ij, v_i) + error, phi_i = h(A_i beta + B_i b_i), b_i ~ N(0, psi). All indices count from 0.
    Name-value arguments are keywords, or pairs after beta0 as in MATLAB: `nlmefit(..., beta0, "REParamsSelect", [0])`.

    **Arguments:**

    - `X` (N, H), or (N,): predictors; `y` (N,): responses, NaN where missing (the row keeps its place, adds nothing to
      the likelihood, and its residuals are NaN); `group` (N,): labels, ordered as grp2idx does: numbers ascending, text
      by first appearance, pandas categoricals by category. `V` (M, G), (M,), a list of M arrays or a dictionary from
      label to array: group-level predictors in that order; None or [] if there are none.
    - `modelfun(phi, xfun, vfun)`, `modelfun(phi, xfun)` without V: pure JAX. phi is (P,), or (n, P) where a design
      varies by observation and the call has n rows; phi[k] with k >= P, which JAX clamps, is refused where detected;
      xfun is (n, H), vfun the group's row or array of V.
    - `beta0` (F,): starts, on the transformed scale.
    - `FEParamsSelect`, `REParamsSelect`: indices or truth values of the parameters with a fixed or random effect, by
      default all. `FEConstDesign` (P, F), `FEGroupDesign` (P, F, M), `FEObsDesign` (P, F, N): A; `REConstDesign`,
      `REGroupDesign`, `REObsDesign` with R columns: B. One of the four at most, for A and for B.
    - `CovPattern`: (R, R) zeros and ones, completed to a block diagonal, or (R,) labels of blocks; psi is diagonal by
      default. `CovParameterization`: full blocks by "logm" (matrix logarithm) or "chol"; the optimum is the same. Where
      psi becomes singular, which "logm" cannot represent, the fit is continued by "chol", and its status reports it.
    - `ApproximationType`: "LME", "RELME", "FO", "FOCE"; "FOCE" takes the residual scale at the conditional modes where
      it depends on the prediction (our "focei"), as it expands the model there.
    - `ErrorModel`: "constant" y = f + a e, "proportional" y = f + b |f| e, "combined" y = f + (a + b |f|) e,
      "exponential" y = f exp(a e). `ParamTransform`: 0 or "identity", 1 or "log", 2 or "probit", 3 or "logit", one per
      parameter.
    - `RefineBeta0`: "on" fits the model without random effects first. `OptimFun`: "fminsearch" and "fminunc" both mean
      our quasi-Newton method on exact gradients. `Vectorization`: "SinglePhi" calls modelfun once for every observation
      (xfun (1, H)), "SingleGroup" and "Full" with the rows of a group, padded by repeating the last; all under vmap.
    - `Options`: a dictionary or record of statset fields: `TolX` and `TolFun` (1e-4 each; together a tolerance of
      min(1e-4 TolFun, TolX^2) on the log-likelihood still to be gained, never above 1e-6), `MaxIter` (200), `Display`
      ("off", "final", "iter"), `FunValCheck` ("on" refuses a model that is not finite at the start, naming the rows;
      "off" leaves those groups out), `OutputFcn` (a function (beta, status, state) -> stop, or a list of them),
      `DerivStep` (no effect: derivatives are exact).

    **Returns:** `beta` (F,), `psi` (R, R), `stats`, `b` (R, M) in group order. `stats` has, with k = number of
    estimated parameters (beta, psi and error), N observed responses and M groups that have one:

    - `logl` (of the approximation), `aic` = -2 logl + 2 k, `bic` = -2 logl + k log M (MATLAB's; `stats.fit.bic` uses
      log N), `dfe` = N - k, `errorparam` (a, b or [a, b]), `mse`, the square of its first entry, and `rmse` =
      sqrt(sum ires^2 / dfe);
    - `pres`, `ires`, `pwres`, `iwres`, `cwres` (N,) in the order of y (of log y for "exponential", so `rmse` is too);
    - `sebeta` (F,), `covb` (F, F), and beyond MATLAB `sepsi` (R, R), `seerrorparam`, `cov` (a data frame with names),
      from the information of all parameters (delta method); None where the fit has none, NaN for entries that do not
      vary;
    - `converged`, and `fit`, the `jaxnlme.Fit` with `fit.status`, plots, predictions and the rest.

    **Raises:** OptionError, DataError, ModelError for errors in the call, naming the argument, what was expected and
    what was received; FitError where the fit could not start. A fit that did not converge warns with its status.
    **Source:** the formulas agree with the published output of the indomethacin example in the MathWorks documentation
    (dfe 57, logl 54.5882, mse 0.0066, rmse 0.0787, aic -91.1765, bic -93.0506 for N = 66, M = 6, k = 9).

    **Example:**

    ```python
    def oral_matrix(phi, x):
        ke = phi[1] / phi[2]
        rise = jnp.exp(-ke * x[:, 0]) - jnp.exp(-phi[0] * x[:, 0])
        return x[:, 1] * phi[0] / (phi[2] * (phi[0] - ke)) * rise


    X, y, subject = table[["Time", "Dose"]], table["conc"], table["Subject"]
    start = np.log([1.5, 2.8, 32.0])
    beta, psi, stats, b = jn.nlmefit(X, y, subject, None, oral_matrix, start, ParamTransform=[1, 1, 1])
    ```
    """
    require_host("nlmefit", X, y, group, V, modelfun, beta0, options)
    arguments = name_values(with_pairs(pairs, options), NLMEFIT_DEFAULTS, REFUSED_ARGUMENTS)
    settings = statset(arguments["Options"], Statset, REFUSED_FIELDS)
    parametrization = _parametrization(arguments)
    approximation = choice("ApproximationType", arguments["ApproximationType"], ("LME", "RELME", "FO", "FOCE"))
    pooled = on_off("RefineBeta0", arguments["RefineBeta0"])
    call = checked_call(arguments, X, y, group, V, modelfun, beta0, settings)
    output_functions = OutputFunctions(settings.OutputFcn, parametrization)
    callbacks = fit_callbacks(settings, output_functions)

    def run(family: AbstractCovariance, start: Params | None = None) -> Fit:
        return call.fit(
            call.model(family),
            _method(approximation, call.error.name),
            callbacks,
            start=start,
            starts="pooled" if pooled and start is None else None,
            max_iterations=settings.MaxIter,
            tolerance=settings.tolerance,
        )

    try:
        fit = run(call.designs.covariance(parametrization))
        fit = _continue_by_cholesky(call, fit, run, output_functions)
    finally:
        interrupted = output_functions.close()
    return outputs(report_outcome("nlmefit", fit, settings, interrupted), call.data)


def _parametrization(arguments: Mapping[str, Any]) -> str:
    spellings = [name for name in ("CovParameterization", "CovParametrization") if arguments[name] is not None]
    if len(spellings) == 2:
        raise OptionError("CovParameterization and CovParametrization are one argument in two spellings; give one.")
    return choice(spellings[0], arguments[spellings[0]], ("logm", "chol")) if spellings else "logm"


def _method(approximation: str, error: str) -> str:
    """The method of `jn.fit`. 'FOCE' expands at the conditional modes, so a residual scale that depends on the
    prediction is evaluated there, too ("focei"); where it is constant, "foce" and "focei" are the same approximation.
    """
    constant = error in ("constant", "exponential")
    return {"LME": "lme", "RELME": "relme", "FO": "fo", "FOCE": "foce" if constant else "focei"}[approximation]


def _continue_by_cholesky(call: Call, fit: Fit, run: Callable[..., Fit], output_functions: OutputFunctions) -> Fit:
    """Continue a fit by matrix logarithm whose psi became singular, by Cholesky factors, from where it ended.

    **Returns:** the continued fit; `fit` itself if its psi is not singular; `fit` with a sentence in its status if the
    continued fit cannot start, because the model is flat or not finite there.
    """
    family = fit.binding.density.covariance
    parts = family.parts if isinstance(family, Blocks) else ((range(family.size), family),)
    logm_blocks = [list(effects) for effects, part in parts if isinstance(part, LogMatrix)]
    if not logm_blocks or fit.stopped or fit.interrupted:
        return fit
    psi = fit.psi.to_numpy(dtype=float)
    if not all(np.isfinite(values).all() for values in (psi, fit.params.beta, fit.params.error)):
        return fit
    scale = np.sqrt(np.maximum(np.diag(psi), np.diag(call.designs.psi)))
    unit = psi / np.outer(scale, scale)
    # Only the blocks by matrix logarithm: another block, such as a single effect of variance zero, may be singular.
    smallest_eigenvalue = min(float(np.linalg.eigvalsh(unit[np.ix_(block, block)])[0]) for block in logm_blocks)
    if not smallest_eigenvalue < (MATLAB.singular if fit.converged else MATLAB.nearly_singular):
        return fit
    cholesky_family = call.designs.covariance("chol")
    start = Params(fit.params.beta, cholesky_family.from_matrix(psi), fit.params.error, None)
    last_reported = output_functions.last
    reason = "CovParameterization 'logm' cannot represent a singular psi, and this one came close to it: "
    try:
        continued = run(cholesky_family, start)
    except (ModelError, FitError):
        if output_functions.last is not last_reported:  # it had started: an output function raised
            raise
        return _with_sentence(
            fit,
            f"{reason}a fit by 'chol' could not start from there, because the model is flat or not finite where this "
            "fit ended. Give other starting values, or CovParameterization 'chol' from the start.",
        )
    return _with_sentence(continued, f"{reason}the fit was continued from there by 'chol'.")


def _with_sentence(fit: Fit, sentence: str) -> Fit:
    """The fit with one more sentence in its status."""
    return dataclasses.replace(fit, status=dataclasses.replace(fit.status, sentences=(*fit.status.sentences, sentence)))
