"""nlmefitsa, called as in MATLAB's Statistics and Machine Learning Toolbox."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.arguments import require_host
from jaxnlme.estimators.em.settings import START
from jaxnlme.frontends.matlab.call import SHARED_DEFAULTS, checked_call, fit_callbacks, report_outcome
from jaxnlme.frontends.matlab.live_plot import default_output_functions
from jaxnlme.frontends.matlab.options import StatsetSA, name_values, on_off, statset, with_pairs
from jaxnlme.frontends.matlab.output_functions import OutputFunctions
from jaxnlme.frontends.matlab.replicates import replicate_outputs
from jaxnlme.frontends.matlab.saem_options import SIMULATION_DEFAULTS, replicate_starts, saem, start_columns
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.signatures import public

NLMEFITSA_DEFAULTS = (
    SHARED_DEFAULTS | SIMULATION_DEFAULTS | {"Cov0": None, "ComputeStdErrors": False, "ErrorParameters": None}
)
REFUSED_ARGUMENTS = {
    "ApproximationType": "'ApproximationType' is an argument of nlmefit; nlmefitsa maximises the likelihood itself.",
    "CovParameterization": "'CovParameterization' is an argument of nlmefit; nlmefitsa holds psi by Cholesky factors.",
    "CovParametrization": "'CovParametrization' is an argument of nlmefit; nlmefitsa holds psi by Cholesky factors.",
    "RefineBeta0": "'RefineBeta0' is an argument of nlmefit; nlmefitsa starts from beta0 itself.",
}
REFUSED_FIELDS = {
    "TolFun": "Options.TolFun is a field of nlmefit; nlmefitsa does not monitor the likelihood. Give Options.TolX, "
    "which bounds the Monte Carlo error."
}


@public("jn.nlmefitsa")
def nlmefitsa(
    X: Any, y: Any, group: Any, V: Any, modelfun: Any, beta0: Any, *pairs: Any, **options: Any
) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """Fit a nonlinear mixed-effects model by maximum likelihood, using stochastic approximation EM (SAEM);
    arguments as of MATLAB's nlmefitsa.

    y_ij = f(phi_i, x_ij, v_i) + error, phi_i = h(A_i beta + B_i b_i), b_i ~ N(0, psi). Nothing is linearised. All
    indices count from 0.

    **Arguments:** as of `nlmefit`: `X`, `y`, `group`, `V`, `modelfun`, the designs (every kind, also those that
    MATLAB's nlmefitsa refuses: by observation, random slopes, a coefficient for several parameters), `CovPattern`,
    `ParamTransform`, `ErrorModel`, `OptimFun` (both names mean our exact derivatives in the M-step) and
    `Vectorization`. Further:

    - `beta0` (F,), or (F, REPS): a fit for each column, all in one batched run; on the transformed scale. `Replicates`:
      the number of fits, by default that of the columns of beta0; with one column, the starts are dispersed around it.
    - `Cov0` (R, R), symmetric and positive definite: starting value of psi, within CovPattern. By default diagonal,
      from beta0: an effect of SD 1 on a transformed scale, 0.6 |beta0| on the identity, divided by the size of its
      entries in B (chains reach the region of the data more easily from a psi that is too large than from one that is
      too small).
    - `ErrorParameters`: starts of a, b or [a, b], all positive; by default from the misfit at beta0.
    - `NIterations`: [150, 150, 100], iterations of simulated annealing, of full steps and of decreasing steps, or one
      number that is split in these proportions. After them the chains continue at fixed parameters, which gives a
      final step to the maximum and its Monte Carlo error, until that error is small enough (`TolX`) or `MaxIter`
      iterations have been made. `NBurnIn`: 5, iterations before them that only simulate.
    - `NChains`: chains per group, by default so many that groups x chains is about 100. `NMCMCIterations`: [2, 2, 2],
      Metropolis updates per iteration: proposals from the population, of single coordinates, of several coordinates; a
      single number is used for all three. A fourth is the number of independence proposals around the conditional
      modes, a kernel that MATLAB does not have and that is on by default; with 0 there are MATLAB's three only.
    - `LogLikMethod`: "is" (importance sampling, the default here), "gq" (adaptive Gauss-Hermite quadrature), "lin"
      (linearised at the conditional means), "none".
    - `ComputeStdErrors`: False; True fills `sebeta`, `covb` and what goes with them.
    - `Options`: a dictionary or record of statset fields: `Streams` (a seed or a JAX key, default 0: the same seed, the
      same numbers), `TolX` (1e-4; the Monte Carlo standard error of every estimate shall be below 500 TolX of its
      standard error, that is 0.05, within 0.01 and 0.2), `MaxIter` (20000), `Display`, `FunValCheck`, `DerivStep` as of
      nlmefit, and `OutputFcn`: a function (beta, status, state) -> stop, or a list of them. If it is not given,
      `jaxnlme.nlmefitoutputfcn` plots in a window or a notebook, if there is one; None or [] means no output function.
      Burn-in iterations count from -NBurnIn to -1; `status.fval` is NaN, because SAEM does not compute the likelihood
      while it runs; `status.procedure` is "SAEM". Replicates run in parallel: functions are called with the first one,
      and `status.replicate` is 0.

    **Returns:** `beta` (F,), `psi` (R, R), `stats`, `b` (R, M), conditional modes in group order; of several replicates
    (F, REPS), (R, R, REPS) and (R, M, REPS). `stats` has the fields and formulas of nlmefit, with a trailing axis where
    there are several replicates (numbers become vectors; `dfe` is the same for all); None for what was not computed
    (`logl`, `aic`, `bic` with "none", standard errors without ComputeStdErrors); and

    - `logl_se`, the Monte Carlo standard error of logl, None but for "is";
    - `best`, the replicate with the highest logl, to which `fit` and `cov` belong; `converged`, its convergence, which
      is False if no other replicate reached its maximum; `spread` and `rhat`, series over the packed parameters: SD
      between replicates and Gelman and Rubin's ratio; None for one replicate.
    - `fit`, the `jaxnlme.Fit`; `fit.sampling` has trajectories, Monte Carlo errors and conditional distributions.

    **Raises:** as nlmefit. A fit that did not converge warns with its status.
    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038.

    **Example:**

    ```python
    def oral_matrix(phi, x):
        ke = phi[1] / phi[2]
        rise = jnp.exp(-ke * x[:, 0]) - jnp.exp(-phi[0] * x[:, 0])
        return x[:, 1] * phi[0] / (phi[2] * (phi[0] - ke)) * rise


    X, y, subject = table[["Time", "Dose"]], table["conc"], table["Subject"]
    start = np.log([1.5, 2.8, 32.0])
    beta, psi, stats, b = jn.nlmefitsa(X, y, subject, None, oral_matrix, start, ParamTransform=[1, 1, 1])
    ```
    """
    require_host("nlmefitsa", X, y, group, V, modelfun, beta0, options)
    arguments = name_values(with_pairs(pairs, options), NLMEFITSA_DEFAULTS, REFUSED_ARGUMENTS)
    settings = statset(arguments["Options"], StatsetSA, REFUSED_FIELDS)
    starts, replicates = start_columns(beta0, arguments)
    method = saem(arguments, settings, replicates)
    standard_errors = on_off("ComputeStdErrors", arguments["ComputeStdErrors"])
    call = checked_call(arguments, X, y, group, V, modelfun, starts[:, 0], settings, START.sd_factor)
    family = call.designs.covariance("chol")
    output_functions = OutputFunctions(
        default_output_functions() if settings.OutputFcn is None else settings.OutputFcn, "logm"
    )
    start = replicate_starts(call, family, starts)
    try:
        fit = call.fit(
            call.model(family),
            method,
            fit_callbacks(settings, output_functions),
            start=start,
            standard_errors=standard_errors,
        )
        if fit.sampling is not None:
            output_functions.set_final_params(fit.sampling.replicates[0].params)
    finally:
        interrupted = output_functions.close()
    return replicate_outputs(report_outcome("nlmefitsa", fit, settings, interrupted), call.data)
