"""A fit of ours beside a reference fit of R's lme, gls or lmer, with the likelihood at the estimates of both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from jaxnlme.linear.record import LinearFit
from tests.linear.reference_calls import by_r_names, program_of, random_effects_of, residual_parameters_of

# Agreement: log-likelihood relative; fixed effects relative to the larger of estimate and standard error; covariances
# relative to the product of standard deviations, sigma relative; residual parameters relative to the larger of one
# and their size; random effects relative to their standard deviation.
LOG_LIKELIHOOD, FIXED, VARIANCE, RESIDUAL, EFFECTS = 1e-5, 1e-5, 1e-4, 1e-3, 1e-4
# Standard deviations of an effect times the root mean square of its column below this part of sigma are zero: nlme has
# logarithms of variances as parameters.
ZERO = 2e-3
# Log-likelihood units that rounding may make.
ROUNDING = 1e-9


def residual_correlation(record: dict[str, Any], rows: np.ndarray, times: np.ndarray) -> np.ndarray:
    """The correlation matrix of residuals of one series of a reference fit.

    **Arguments:** `rows`: positions in the series; `times` of its rows.
    """
    correlation = record["correlation"]
    kind, values = correlation["class"], correlation["parameters"]
    numbers = [float(value) for value in (values.values() if isinstance(values, dict) else values)]
    distance = np.abs(times[:, None] - times[None, :])
    if kind in ("corCAR1", "corAR1"):
        return numbers[0] ** distance
    if kind == "corExp":
        return np.exp(-distance / numbers[0])
    count = len(rows)
    if kind == "corCompSymm":
        return np.where(np.eye(count, dtype=bool), 1.0, numbers[0])
    if kind == "corSymm":
        out = np.eye(count)
        out[np.triu_indices(count, 1)] = numbers
        return out + np.triu(out, 1).T
    raise NotImplementedError(kind)


def _residual_scale(record: dict[str, Any], frame: Any, fitted: np.ndarray) -> np.ndarray:
    """g of the rows (rows,), the residual standard deviation over sigma."""
    variance = record["variance_function"]
    if not variance:
        return np.ones(len(fitted))
    if variance["class"] == "varPower":
        return np.abs(fitted) ** variance["parameters"]["power"]
    if variance["class"] == "varIdent":
        column = variance["formula"].partition("|")[2].strip()
        return np.array([float(variance["parameters"][str(value)]) for value in frame[column]])
    raise NotImplementedError(variance["class"])


def dense_log_likelihood(
    fit: LinearFit, record: dict[str, Any], psi: list[np.ndarray], sigma: float, fitted: np.ndarray
) -> float:
    """The log-likelihood, or the restricted one, from the covariance matrices of dependent rows, with the fixed effects
    at their maximum for them.

    **Arguments:** `fit`: for its design matrices; `record`, for the residual covariance; `psi` by level; `sigma`;
    `fitted` (rows,), which the variance is a function of.
    """
    model = fit.model
    X, y, n = model.fixed.matrix, model.y, model.n_rows
    scale = _residual_scale(record, model.frame, fitted)
    labels, times = np.arange(n).astype(str), np.arange(n, dtype=float)
    if record["correlation"]:
        formula, _, group = record["correlation"]["formula"].partition("|")
        labels = model.frame[group.strip()].astype(str).to_numpy()
        time = formula.replace("~", "").strip()
        times = times if time == "1" else model.frame[time].to_numpy(float)
    # Rows of different outermost units are independent; those of crossed factors are not.
    if model.groupings:
        blocks = model.groupings[0].units.codes if model.nested else np.zeros(n, int)
    else:
        blocks = np.unique(labels, return_inverse=True)[1]
    value, white = 0.0, np.empty((n, X.shape[1] + 1))
    for block in np.unique(blocks):
        rows = np.flatnonzero(blocks == block)
        correlation = np.equal.outer(labels[rows], labels[rows]).astype(float)
        if record["correlation"]:
            for label in np.unique(labels[rows]):
                at = np.flatnonzero(labels[rows] == label)
                correlation[np.ix_(at, at)] = residual_correlation(record, at, times[rows[at]])
        covariance = sigma**2 * correlation * scale[rows, None] * scale[None, rows]
        for grouping, of_level in zip(model.groupings, psi, strict=True):
            codes, matrix = grouping.units.codes[rows], grouping.matrix[rows]
            covariance += (matrix @ of_level @ matrix.T) * np.equal.outer(codes, codes)
        root = np.linalg.cholesky(covariance)
        white[rows] = np.linalg.solve(root, np.column_stack([X[rows], y[rows]]))
        value += 2.0 * float(np.sum(np.log(np.diag(root))))
    Q, R = np.linalg.qr(white[:, :-1])
    residual = white[:, -1] - Q @ (Q.T @ white[:, -1])
    residual -= Q @ (Q.T @ residual)
    value += residual @ residual
    count = n
    if fit.restricted:
        count -= X.shape[1]
        value += 2.0 * np.sum(np.log(np.abs(np.diag(R))))
    return float(-0.5 * (value + count * np.log(2.0 * np.pi)))


def ours_as_record(fit: LinearFit, record: dict[str, Any]) -> dict[str, Any]:
    """`record` with our parameters of the residual covariance in the place of the reference's."""
    if fit.residual is None:
        return record
    theta = fit.outcome.estimation.theta
    numbers = [float(x) for x in fit.residual.natural(theta[len(theta) - fit.residual.rows.n_residual :])]
    out = dict(record)
    if record["variance_function"]:
        names = list(record["variance_function"]["parameters"])
        kept = [1.0] if record["variance_function"]["class"] == "varIdent" else []
        own, numbers = [*kept, *numbers[: len(names) - len(kept)]], numbers[len(names) - len(kept) :]
        out["variance_function"] = record["variance_function"] | {"parameters": dict(zip(names, own, strict=True))}
    if record["correlation"]:
        out["correlation"] = record["correlation"] | {"parameters": numbers}
    return out


def compared(fit: LinearFit, record: dict[str, Any]) -> dict[str, Any]:
    """Differences of a fit from a reference fit, as parts of what `LOG_LIKELIHOOD` ... `EFFECTS` allow, and the
    log-likelihoods at the estimates of both.

    **Returns:** a dictionary: `log_likelihood`, `reference_log_likelihood`; `fixed`, `variances`, `residual`,
    `effects`: the largest difference over its limit; `at_ours`, `at_theirs`: by `dense_log_likelihood`; `zeros`:
    standard deviations that are zero in both; `standard_errors`: the largest relative difference; `counts`: what
    differs of df, nobs, AIC, BIC.
    """
    record = {"variance_function": None, "correlation": None, "random": {}, "ranef": {}} | record
    theirs = random_effects_of(fit, record)
    beta = {key.replace(" ", ""): float(value) for key, value in (record.get("fixef") or record["coef"]).items()}
    own = by_r_names(fit.beta)
    assert list(own) == list(beta) or sorted(own) == sorted(beta), (list(own), list(beta))
    se = dict(zip(own, np.sqrt(np.diag(fit.outcome.beta_covariance)), strict=True))
    reference_se = {key.replace(" ", ""): float(value) for key, value in record["se"].items()}
    # gls multiplies the covariance matrix of the fixed effects by N / (N - p), also by ML; lme and lmer do not.
    inflated = program_of(record) == "gls" and not fit.restricted
    factor = math.sqrt(fit.model.n_rows / (fit.model.n_rows - len(se))) if inflated else 1.0
    fixed = max((abs(own[name] - beta[name]) / max(abs(beta[name]), se[name]) for name in beta), default=0.0) / FIXED
    sigma = float(record["sigma"])
    variances, effects, zeros = abs(fit.sigma / sigma - 1.0) / VARIANCE, 0.0, []
    levels = zip(fit.model.groupings, fit.outcome.psi, fit.outcome.effects, theirs, strict=True)
    for grouping, psi, values, reference in levels:
        size = np.sqrt(np.mean(grouping.matrix**2, axis=0))
        # A variance function makes sigma another thing than the residual standard deviation.
        least = ZERO * fit.outcome.sigma / size
        sds, own_sds = np.sqrt(np.diag(reference.psi)), np.sqrt(np.diag(psi))
        zero = (sds < least) & (own_sds < least)
        zeros += [f"{name} | {grouping.label}" for name, is_zero in zip(grouping.effects, zero, strict=True) if is_zero]
        kept = np.flatnonzero(~zero)
        if len(kept):
            scale = np.maximum(sds, least)[kept]
            difference = np.abs(psi - reference.psi)[np.ix_(kept, kept)] / scale[:, None] / scale[None, :]
            variances = max(variances, float(difference.max()) / VARIANCE)
            apart = np.abs(values - reference.values)[:, kept] / scale
            effects = max(effects, float(apart.max()) / EFFECTS)
    residual = 0.0
    if fit.residual is not None:
        theta = fit.outcome.estimation.theta
        numbers = fit.residual.natural(theta[len(theta) - fit.residual.rows.n_residual :])
        reference_numbers = residual_parameters_of(record)
        assert len(numbers) == len(reference_numbers), (fit.residual.names, reference_numbers)
        residual = max(
            abs(a - b) / max(abs(b), 1.0) for a, b in zip(numbers, reference_numbers, strict=True)
        ) / RESIDUAL  # fmt: skip
    innermost = np.asarray(list(record["fitted"].values())[-1], float)
    return {
        "log_likelihood": float(fit.log_likelihood),
        "reference_log_likelihood": float(record["logLik"]),
        "fixed": float(fixed),
        "variances": float(variances),
        "residual": float(residual),
        "effects": float(effects),
        "zeros": zeros,
        "at_ours": dense_log_likelihood(
            fit, ours_as_record(fit, record), list(fit.outcome.psi), fit.sigma, np.asarray(fit.fitted)
        ),
        "at_theirs": dense_log_likelihood(fit, record, [level.psi for level in theirs], sigma, innermost),
        "standard_errors": max((abs(factor * se[name] / reference_se[name] - 1.0) for name in se), default=0.0),
        "counts": different_counts(fit, record),
    }


def different_counts(fit: LinearFit, record: dict[str, Any]) -> list[str]:
    """What differs of df, nobs, AIC and BIC; lmer's BIC has log(rows) also by REML."""
    criteria = fit.criteria
    bic = fit.bic
    if program_of(record) == "lmer":
        bic = -2.0 * fit.log_likelihood + criteria.n_parameters * math.log(fit.model.n_rows)
    out = []
    for name, value in (("df", criteria.n_parameters), ("nobs", fit.model.n_rows)):
        if value != record[name]:
            out.append(f"{name} {value} (R {record[name]})")
    allowed = 2.0 * LOG_LIKELIHOOD * abs(record["logLik"])
    for name, value in (("AIC", fit.aic), ("BIC", bic)):
        if not abs(value - record[name]) <= allowed:
            out.append(f"{name} {value:.4f} (R {record[name]:.4f})")
    return out


def outcome_of(row: dict[str, Any]) -> str:
    """ "agree", "R short" or "ours short" from what `compared` returns and `converged`."""
    theirs, allowed = row["reference_log_likelihood"], LOG_LIKELIHOOD * max(1.0, abs(row["reference_log_likelihood"]))
    same = all(row[name] <= 1.0 for name in ("fixed", "variances", "residual", "effects"))
    own_value = abs(row["at_ours"] - row["log_likelihood"]) <= allowed / 100.0
    if row["converged"] and own_value and same and abs(row["log_likelihood"] - theirs) <= allowed:
        return "agree"
    higher = row["at_theirs"] is not None and row["at_ours"] > row["at_theirs"] - ROUNDING * abs(theirs)
    return "R short" if row["converged"] and own_value and higher else "ours short"


def nonlinear_compared(fit: Any, record: dict[str, Any]) -> dict[str, Any]:
    """The same of a nonlinear model without random effects; its only variance is that of the residuals."""
    beta, values = record["coef"], fit.values
    table = fit.estimates
    fixed = max(abs(values[name] - beta[name]) / max(abs(beta[name]), table.se[name]) for name in beta) / FIXED
    n, p = record["nobs"], len(beta)
    # gnls divides by n - p, the likelihood by n.
    sigma = record["sigma"] * math.sqrt((n - p) / n)
    factor = math.sqrt(n / (n - p))
    criteria = fit.criteria
    own = {"df": criteria.n_parameters, "nobs": criteria.n_obs, "AIC": fit.aic, "BIC": fit.bic}
    return {
        "log_likelihood": float(fit.log_likelihood),
        "reference_log_likelihood": float(record["logLik"]),
        "fixed": float(fixed),
        "variances": abs(values["a"] / sigma - 1.0) / VARIANCE,
        "residual": 0.0,
        "effects": 0.0,
        "zeros": [],
        "at_ours": float(fit.log_likelihood),
        "at_theirs": None,
        "standard_errors": max(abs(factor * table.se[name] / record["se"][name] - 1.0) for name in beta),
        "counts": [f"{k} {v:.4f} (R {record[k]:.4f})" for k, v in own.items() if abs(v - record[k]) > 1e-4 * abs(v)],
    }
