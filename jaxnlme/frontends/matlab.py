"""The doors in the manner of MATLAB's Statistics and Machine Learning Toolbox: they rename, check and refuse."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.data._rows import name_rows
from jaxnlme.errors import DataError, FitError, ModelError, OptionError
from jaxnlme.estimators.fitting import fit as native_fit
from jaxnlme.frontends._matlab_data import MatlabData, matlab_data
from jaxnlme.frontends._matlab_designs import Designs, designs
from jaxnlme.frontends._matlab_model import model_function
from jaxnlme.frontends._matlab_options import Statset, choice, name_values, on_off, statset
from jaxnlme.frontends._matlab_output import outputs
from jaxnlme.frontends._matlab_reads import check_reads
from jaxnlme.frontends._matlab_record import Struct
from jaxnlme.frontends.output_functions import Display, OutputFunctions
from jaxnlme.model.covariance import AbstractCovariance, Blocks, LogMatrix
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.fit import Fit

ERRORS = ("constant", "proportional", "combined", "exponential")
# The arguments of both doors, with their defaults: None stands for what `designs` makes of it.
SHARED = {
    "FEParamsSelect": None,
    "FEConstDesign": None,
    "FEGroupDesign": None,
    "FEObsDesign": None,
    "REParamsSelect": None,
    "REConstDesign": None,
    "REGroupDesign": None,
    "REObsDesign": None,
    "CovPattern": None,
    "ErrorModel": "constant",
    "OptimFun": "fminsearch",
    "ParamTransform": None,
    "Vectorization": "SinglePhi",
    "Options": None,
}
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
    said = statset(given["Options"])
    parametrization = _parametrization(given)
    error = choice("ErrorModel", given["ErrorModel"], ERRORS)
    method = _method(choice("ApproximationType", given["ApproximationType"], ("LME", "RELME", "FO", "FOCE")), error)
    choice("OptimFun", given["OptimFun"], ("fminsearch", "fminunc"))
    pooled = on_off("RefineBeta0", given["RefineBeta0"])
    data = matlab_data(X, y, group, V)
    if error == "exponential":
        _positive(data)
    vectorization = choice("Vectorization", given["Vectorization"], ("SinglePhi", "SingleGroup", "Full"))
    structure = model_function(modelfun, vectorization, data.shapes)
    wanted = designs(given, beta0, data)
    check_reads(structure, wanted, data)
    call = _Call(data, structure, wanted, error, method, said, pooled)
    tell = OutputFunctions(said.OutputFcn, parametrization)
    callbacks = ([tell] if said.OutputFcn else []) + ([Display()] if said.Display == "iter" else [])
    try:
        fit = call.fit(wanted.covariance(parametrization), callbacks)
        fit = _past_singular(call, fit, callbacks, tell)
    finally:
        interrupted = tell.close()
    if interrupted:
        fit = dataclasses.replace(fit, interrupted=True)
    if said.Display != "off":
        print(fit.status)
    if not fit.converged and not fit.stopped and not fit.interrupted:
        warnings.warn(f"nlmefit: {fit.status}", RuntimeWarning, stacklevel=2)
    return outputs(fit, data)


def _positive(data: MatlabData) -> None:
    """**Errors:** DataError with the rows, counted as in X, whose response has no logarithm."""
    table = data.data
    bad = np.sort(table.row_index[table.observed & ~(table.y > 0)])
    if len(bad):
        raise DataError(
            f"ErrorModel 'exponential', y = f exp(a e), needs positive responses; y is zero or negative in "
            f"{name_rows(bad)}. Mend or leave out those rows, or choose another ErrorModel."
        )


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


@dataclasses.dataclass(frozen=True, eq=False)
class _Call:
    """A checked call of a door: what all of its fits have in common."""

    data: MatlabData
    structure: Any
    designs: Designs
    error: str
    method: str
    said: Statset
    pooled: bool

    def model(self, family: AbstractCovariance) -> NLMEModel:
        return NLMEModel(
            self.structure,
            self.designs.parameters,
            family,
            self.error,
            fixed_design=self.designs.fixed,
            random_design=self.designs.random,
            beta=self.designs.beta,
            psi=self.designs.psi,
        )

    def fit(self, family: AbstractCovariance, callbacks: list[Any], start: Params | None = None) -> Fit:
        """**Errors:** as `nlmefit`."""
        try:
            fit = native_fit(
                self.model(family),
                self.data.data,
                self.method,
                start=start,
                starts="pooled" if self.pooled and start is None else None,
                max_iterations=self.said.MaxIter,
                tolerance=self.said.tolerance,
                callbacks=callbacks,
                progress=False,
                on_bad_group="stop" if self.said.FunValCheck else "leave out",
            )
        except ModelError as error:
            if "padding of short groups" not in str(error):
                raise
            raise ModelError(
                "the predictions of real rows change with the padding of short groups (the last row, repeated): "
                "modelfun mixes rows (a mean, a cumulative sum, the last row). Write it for each row by itself; for "
                "doses and the like use V, or jn.fit, whose x.mask marks the real rows."
            ) from error
        if not np.isfinite(fit.params.beta).all():
            self._not_begun(fit)
        return fit

    def _not_begun(self, fit: Fit) -> None:
        """Raises with the rows where the model is not finite at the start, or with the status of the fit."""
        rows = _rows_not_finite(fit)
        if not rows:
            raise FitError(str(fit.status), fit)
        raise ModelError(
            f"modelfun is not finite in {name_rows(np.array(rows))} of X at beta0, with random effects zero. Start "
            "elsewhere, mend the model or those rows; Options.FunValCheck = 'off' goes on without their groups."
        )


def _rows_not_finite(fit: Fit) -> list[int]:
    """Rows of X, counted from 0, with a response and a prediction that is not finite at the starting values."""
    density, start = fit.binding.density, fit.binding.start
    rows: list[int] = []
    with x64():
        for bucket, which in zip(fit.binding.problem.buckets, fit.binding.bucket_groups, strict=True):
            for place, index in enumerate(which):
                group = jax.tree.map(lambda leaf, place=place: jnp.asarray(leaf[place]), bucket)
                f = np.asarray(density.predict(start, jnp.zeros(density.n_effects), group))
                bad = np.asarray(group.x.observed) & ~np.isfinite(f)
                rows += fit.data.row_index[index, : len(bad)][bad].tolist()
    return sorted(rows)


def _past_singular(call: _Call, fit: Fit, callbacks: list[Any], tell: OutputFunctions) -> Fit:
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
        again = call.fit(other, callbacks, start)
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
