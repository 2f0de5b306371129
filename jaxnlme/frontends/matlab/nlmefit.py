"""nlmefit in the manner of MATLAB's Statistics and Machine Learning Toolbox."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxnlme.errors import FitError, ModelError, OptionError
from jaxnlme.frontends.matlab.call import SHARED, Call, checked, listeners, verdict
from jaxnlme.frontends.matlab.options import Statset, choice, name_values, on_off, statset
from jaxnlme.frontends.matlab.output_functions import OutputFunctions
from jaxnlme.frontends.matlab.outputs import outputs
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.model.covariance.structures import AbstractCovariance, Blocks, LogMatrix
from jaxnlme.model.params import Params
from jaxnlme.results.record import Fit

NLMEFIT = SHARED | {
    "ApproximationType": "LME",
    "CovParameterization": None,
    "CovParametrization": None,
    "RefineBeta0": "on",
}
_OF_NLMEFITSA = (
    "Cov0", "ComputeStdErrors", "ErrorParameters", "LogLikMethod", "NBurnIn", "NChains", "NIterations",
    "NMCMCIterations", "Replicates",
)  # fmt: skip
ELSEWHERE = {name: f"{name!r} is an argument of nlmefitsa; nlmefit has none of that name." for name in _OF_NLMEFITSA}
FIELDS_ELSEWHERE = {"Streams": "Options.Streams is a field of nlmefitsa; nlmefit draws no random numbers."}
# Smallest eigenvalue of psi, effects scaled by their SDs or starting SDs, below which a fit by matrix logarithm that
# did not converge is taken to be on its way to a singular psi, and below which any is.
NEAR, AT = 1e-3, 1e-8


def nlmefit(
    X: Any, y: Any, group: Any, V: Any, modelfun: Any, beta0: Any, **options: Any
) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """Fits a nonlinear mixed-effects model by an approximated marginal likelihood, as MATLAB's nlmefit is called.

    y_ij = f(phi_i, x_ij, v_i) + error, phi_i = h(A_i beta + B_i b_i), b_i ~ N(0, psi). All indices count from 0.

    **Arguments:**

    - `X` (N, H), or (N,): predictors; `y` (N,): responses, NaN where missing (the row keeps its place, adds nothing to
      the likelihood, and its residuals are NaN); `group` (N,): labels, ordered as grp2idx does: numbers ascending, text
      by first appearance, pandas categoricals by category. `V` (M, G), (M,), a list of M arrays or a dictionary from
      label to array: group-level predictors in that order; None or [] if there are none.
    - `modelfun(phi, xfun, vfun)`, `modelfun(phi, xfun)` without V: pure JAX. phi is (P,), or (n, P) where a design
      varies by observation and the call has n rows; phi[k] with k >= P, which JAX clamps, is refused where it is seen;
      xfun is (n, H), vfun the group's row or array of V.
    - `beta0` (F,): starts, on the transformed scale.
    - `FEParamsSelect`, `REParamsSelect`: indices or truth values of the parameters with a fixed or random effect, by
      default all. `FEConstDesign` (P, F), `FEGroupDesign` (P, F, M), `FEObsDesign` (P, F, N): A; `REConstDesign`,
      `REGroupDesign`, `REObsDesign` with R columns: B. One of the four at most, for A and for B.
    - `CovPattern`: (R, R) zeros and ones, completed to a block diagonal, or (R,) labels of blocks; psi is diagonal by
      default. `CovParameterization`: full blocks by "logm" (matrix logarithm) or "chol"; the optimum is the same. Where
      psi becomes singular, which "logm" cannot hold, the fit goes on by "chol", and its status says so.
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
      "off" goes on without those groups), `OutputFcn` (a function (beta, status, state) -> stop, or a list of them),
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

    **Errors:** OptionError, DataError, ModelError for faults of the call, naming the argument, what was expected and
    what was received; FitError where the fit could not begin. A fit that did not converge warns with its status.
    **Source:** the formulas agree with the published output of the indomethacin example in the MathWorks documentation
    (dfe 57, logl 54.5882, mse 0.0066, rmse 0.0787, aic -91.1765, bic -93.0506 for N = 66, M = 6, k = 9).
    """
    given = name_values(options, NLMEFIT, ELSEWHERE)
    said = statset(given["Options"], Statset, FIELDS_ELSEWHERE)
    parametrization = _parametrization(given)
    approximation = choice("ApproximationType", given["ApproximationType"], ("LME", "RELME", "FO", "FOCE"))
    pooled = on_off("RefineBeta0", given["RefineBeta0"])
    call = checked(given, X, y, group, V, modelfun, beta0, said)
    tell = OutputFunctions(said.OutputFcn, parametrization)
    callbacks = listeners(said, tell)

    def run(family: AbstractCovariance, start: Params | None = None) -> Fit:
        return call.fit(
            call.model(family),
            _method(approximation, call.error.name),
            callbacks,
            start=start,
            starts="pooled" if pooled and start is None else None,
            max_iterations=said.MaxIter,
            tolerance=said.tolerance,
        )

    try:
        fit = run(call.designs.covariance(parametrization))
        fit = _past_singular(call, fit, run, tell)
    finally:
        interrupted = tell.close()
    return outputs(verdict("nlmefit", fit, said, interrupted), call.data)


def _parametrization(given: Mapping[str, Any]) -> str:
    both = [name for name in ("CovParameterization", "CovParametrization") if given[name] is not None]
    if len(both) == 2:
        raise OptionError("CovParameterization and CovParametrization are one argument in two spellings; give one.")
    return choice(both[0], given[both[0]], ("logm", "chol")) if both else "logm"


def _method(approximation: str, error: str) -> str:
    """The method of `jn.fit`. 'FOCE' expands at the conditional modes, so a scale that depends on the prediction is
    taken there as well; where it is constant the two rungs are one."""
    constant = error in ("constant", "exponential")
    return {"LME": "lme", "RELME": "relme", "FO": "fo", "FOCE": "foce" if constant else "focei"}[approximation]


def _past_singular(call: Call, fit: Fit, run: Callable[..., Fit], tell: OutputFunctions) -> Fit:
    """The fit, or, where a matrix logarithm ran into a singular psi, one that goes on by Cholesky factors. Where that
    one cannot begin, the model being flat or not finite where the first one ended, the first one, which says so."""
    family = fit.binding.density.covariance
    parts = family.parts if isinstance(family, Blocks) else ((range(family.size), family),)
    held = [list(effects) for effects, part in parts if isinstance(part, LogMatrix)]
    if not held or fit.stopped or fit.interrupted:
        return fit
    psi = fit.psi.to_numpy(dtype=float)
    if not all(np.isfinite(values).all() for values in (psi, fit.params.beta, fit.params.error)):
        return fit
    scale = np.sqrt(np.maximum(np.diag(psi), np.diag(call.designs.psi)))
    unit = psi / np.outer(scale, scale)
    # Another block may be singular, a single effect of variance zero: the logarithm held its own.
    least = min(float(np.linalg.eigvalsh(unit[np.ix_(block, block)])[0]) for block in held)
    if not least < (AT if fit.converged else NEAR):
        return fit
    other = call.designs.covariance("chol")
    start = Params(fit.params.beta, other.from_matrix(psi), fit.params.error, None)
    told = tell.last
    close = "CovParameterization 'logm' cannot hold a singular psi, and this one came close to it: "
    try:
        again = run(other, start)
    except (ModelError, FitError):
        if tell.last is not told:  # it had begun: the error is an output function's own
            raise
        return _saying(
            fit,
            f"{close}going on by 'chol' could not begin, because the model is flat or not finite where this fit ended. "
            "Start elsewhere, or ask for CovParameterization 'chol' from the start.",
        )
    return _saying(again, f"{close}the fit went on from there by 'chol'.")


def _saying(fit: Fit, sentence: str) -> Fit:
    """The fit with one more sentence in its status."""
    return dataclasses.replace(fit, status=dataclasses.replace(fit.status, sentences=(*fit.status.sentences, sentence)))
