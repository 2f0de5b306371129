"""nlmefitsa in the manner of MATLAB's Statistics and Machine Learning Toolbox."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.estimators.em.pipeline import WIDER
from jaxnlme.frontends.matlab.call import SHARED, checked, listeners, verdict
from jaxnlme.frontends.matlab.live_plot import default_output_functions
from jaxnlme.frontends.matlab.options import StatsetSA, name_values, on_off, statset
from jaxnlme.frontends.matlab.output_functions import OutputFunctions
from jaxnlme.frontends.matlab.replicates import replicate_outputs
from jaxnlme.frontends.matlab.saem_options import SIMULATION, replicate_starts, saem, start_columns
from jaxnlme.frontends.matlab.struct import Struct

NLMEFITSA = SHARED | SIMULATION | {"Cov0": None, "ComputeStdErrors": False, "ErrorParameters": None}
ELSEWHERE = {
    "ApproximationType": "'ApproximationType' is an argument of nlmefit; nlmefitsa maximises the likelihood itself.",
    "CovParameterization": "'CovParameterization' is an argument of nlmefit; nlmefitsa holds psi by Cholesky factors.",
    "CovParametrization": "'CovParametrization' is an argument of nlmefit; nlmefitsa holds psi by Cholesky factors.",
    "RefineBeta0": "'RefineBeta0' is an argument of nlmefit; nlmefitsa starts from beta0 itself.",
}
FIELDS_ELSEWHERE = {
    "TolFun": "Options.TolFun is a field of nlmefit, and nlmefitsa does not watch the likelihood; give Options.TolX, "
    "which bounds the Monte Carlo error."
}


def nlmefitsa(
    X: Any, y: Any, group: Any, V: Any, modelfun: Any, beta0: Any, **options: Any
) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """Fits a nonlinear mixed-effects model by maximum likelihood, through stochastic approximation EM (SAEM), as
    MATLAB's nlmefitsa is called.

    y_ij = f(phi_i, x_ij, v_i) + error, phi_i = h(A_i beta + B_i b_i), b_i ~ N(0, psi). Nothing is linearised. All
    indices count from 0.

    **Arguments:** as of `nlmefit`: `X`, `y`, `group`, `V`, `modelfun`, the designs (every kind, also those that
    MATLAB's nlmefitsa refuses: by observation, random slopes, a coefficient for several parameters), `CovPattern`,
    `ParamTransform`, `ErrorModel`, `OptimFun` (both names mean our exact derivatives in the M-step) and
    `Vectorization`. Further:

    - `beta0` (F,), or (F, REPS): a fit for each column, all in one batched run; on the transformed scale.
      `Replicates`: how many fits, by default the columns of beta0; with one column, the starts are spread about it.
    - `Cov0` (R, R), symmetric and positive definite: where psi starts, within CovPattern. By default diagonal, from
      beta0: an effect of SD 1 on a transformed scale, 0.6 |beta0| on the identity, divided by the size of its entries
      in B (chains find their way from wide populations more easily than into them).
    - `ErrorParameters`: starts of a, b or [a, b], all positive; by default from the misfit at beta0.
    - `NIterations`: [150, 150, 100], iterations of simulated annealing, of full steps and of decreasing steps, or one
      number that is split in these proportions. After them the chains go on at standing parameters, which gives the
      last step to the maximum and its Monte Carlo error, until that is small enough (`TolX`) or `MaxIter` iterations
      are made. `NBurnIn`: 5, iterations before them that only simulate.
    - `NChains`: chains a group, by default as many as make groups x chains about 100. `NMCMCIterations`: [2, 2, 2],
      Metropolis updates an iteration: proposals from the population, of single coordinates, of several coordinates; a
      single number is all three. A fourth says how many propose about the conditional modes, a kernel of our own that
      is on by default; 0 leaves MATLAB's three.
    - `LogLikMethod`: "is" (importance sampling, the default here), "gq" (adaptive Gauss-Hermite quadrature), "lin"
      (linearised at the conditional means), "none".
    - `ComputeStdErrors`: False; True fills `sebeta`, `covb` and what goes with them.
    - `Options`: a dictionary or record of statset fields: `Streams` (a seed or a JAX key, default 0: the same seed, the
      same numbers), `TolX` (1e-4; the Monte Carlo standard error of every estimate shall be below 500 TolX of its
      standard error, that is 0.05, within 0.01 and 0.2), `MaxIter` (5000), `Display`, `FunValCheck`, `DerivStep` as of
      nlmefit, and `OutputFcn`: a function (beta, status, state) -> stop, or a list of them. Where nothing is said of
      it, `jaxnlme.nlmefitoutputfcn` plots in a window or a notebook, if there is one; None or [] silences. Burn-in
      iterations count from -NBurnIn to -1; `status.fval` is NaN, because SAEM does not know the likelihood while it
      runs; `status.procedure` is "SAEM". Replicates run side by side: functions are told of the first one, and
      `status.replicate` (0) says so.

    **Returns:** `beta` (F,), `psi` (R, R), `stats`, `b` (R, M), conditional modes in group order; of several replicates
    (F, REPS), (R, R, REPS) and (R, M, REPS). `stats` has the fields and formulas of nlmefit, with a trailing axis where
    there are several replicates (numbers become vectors; `dfe` is the same for all); None for what was not computed
    (`logl`, `aic`, `bic` with "none", standard errors without ComputeStdErrors); and

    - `logl_se`, the Monte Carlo standard error of logl, None but for "is";
    - `best`, the replicate of the highest logl, which `fit` holds, and of which `cov` is; `converged`, the verdict on
      it, which is no if none of the others reached its maximum; `spread` and `rhat`, data series over the packed
      parameters: SD between replicates and Gelman and Rubin's ratio; None for one.
    - `fit`, the `jaxnlme.Fit`; `fit.sampling` has trajectories, Monte Carlo errors and conditional distributions.

    **Errors:** as nlmefit. A fit that did not converge warns with its status.
    **Source:** Kuhn and Lavielle (2005), Computational Statistics and Data Analysis 49, 1020-1038.
    """
    given = name_values(options, NLMEFITSA, ELSEWHERE)
    said = statset(given["Options"], StatsetSA, FIELDS_ELSEWHERE)
    starts, replicates = start_columns(beta0, given)
    method = saem(given, said, replicates)
    standard_errors = on_off("ComputeStdErrors", given["ComputeStdErrors"])
    call = checked(given, X, y, group, V, modelfun, starts[:, 0], said, WIDER)
    family = call.designs.covariance("chol")
    tell = OutputFunctions(default_output_functions() if said.OutputFcn is None else said.OutputFcn, "logm")
    start = replicate_starts(call, family, starts)
    try:
        fit = call.fit(call.model(family), method, listeners(said, tell), start=start, standard_errors=standard_errors)
        if fit.sampling is not None:
            tell.ends_at(fit.sampling.replicates[0].params)
    finally:
        interrupted = tell.close()
    return replicate_outputs(verdict("nlmefitsa", fit, said, interrupted), call.data)
