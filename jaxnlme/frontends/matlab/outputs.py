"""beta, psi, stats and b of a fit in MATLAB's shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.fitting.fit import Fit
from jaxnlme.frontends.matlab.data import MatlabData
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.model.params import Params

RESIDUALS = ("pres", "ires", "pwres", "iwres", "cwres")


def outputs(fit: Fit, data: MatlabData) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """beta (F,), psi (R, R), stats and b (R, M) of `fit`, groups ordered as in `data`, NaN for groups left out."""
    beta, psi = np.array(fit.params.beta, float), fit.psi.to_numpy(dtype=float)
    b = np.full((len(psi), data.data.n_groups), np.nan)
    column = {label: k for k, label in enumerate(data.data.labels.tolist())}
    b[:, [column[label] for label in fit.data.labels.tolist()]] = fit.random_effects.to_numpy(dtype=float).T
    return beta, psi, stats(fit, data), b


def stats(fit: Fit, data: MatlabData) -> Struct:
    """The record `stats` of a fit; its fields are described in `jaxnlme.nlmefit`."""
    residuals = _residuals(fit, data)
    count = fit.criteria.n_parameters
    dfe = int(fit.data.n_obs) - count
    squares = float(np.nansum(residuals["ires"] ** 2))
    fields = {
        "dfe": dfe,
        "logl": float(fit.log_likelihood),
        "mse": mean_square(fit.binding, fit.params),
        "rmse": float(np.sqrt(squares / dfe)) if dfe > 0 else float("nan"),
        "errorparam": error_parameters(fit.binding, fit.params),
        "aic": fit.aic,
        "bic": fit.bic_groups,
        **_standard_errors(fit),
        **residuals,
        "converged": fit.converged,
        "fit": fit,
    }
    return Struct("stats", fields)


def error_parameters(binding: Binding, params: Params) -> np.ndarray:
    """a, b or [a b] on their natural scale."""
    theta = np.asarray(params.error, float)
    entries = zip(theta, binding.density.error.parameters, strict=True)
    return np.array([float(entry.transform.to_natural(float(value))) for value, entry in entries])


def mean_square(binding: Binding, params: Params) -> float:
    """The error variance: the square of the first error parameter."""
    return float(error_parameters(binding, params)[0] ** 2)


def parametrized(psi: np.ndarray, mse: float, parametrization: str) -> np.ndarray:
    """`status.theta`: the upper triangle, by rows, of log(psi / mse) ("logm") or of the upper Cholesky factor of psi /
    mse ("chol").

    A singular psi has NaN in the logarithm's block of the singular effects, -inf on the diagonal where it is diagonal.
    """
    n = len(psi)
    with np.errstate(all="ignore"):
        scaled = psi / mse
        if not (scaled[~np.eye(n, dtype=bool)] != 0).any():
            diagonal = np.diag(scaled)
            matrix = np.diag(np.log(diagonal) if parametrization == "logm" else np.sqrt(diagonal))
        elif not np.isfinite(scaled).all():
            matrix = np.full((n, n), np.nan)
        elif parametrization == "logm":
            values, vectors = np.linalg.eigh(scaled)
            matrix = (vectors * np.log(np.where(values > 0, values, np.nan))) @ vectors.T
        else:
            # Triangular factor of a square root of psi, by QR: exists for a singular psi, too.
            values, vectors = np.linalg.eigh(scaled)
            upper = np.linalg.qr(np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T, mode="r")
            matrix = upper * np.where(np.diag(upper) < 0, -1.0, 1.0)[:, None]
    return np.asarray(matrix)[np.triu_indices(n)]


def _residuals(fit: Fit, data: MatlabData) -> dict[str, np.ndarray]:
    """Residuals (N,) in the order of y; NaN where y is missing and in groups that were left out."""
    table = fit.residuals(RESIDUALS)
    rows = np.sort(fit.data.row_index[fit.data.rows])
    out = {}
    for kind in RESIDUALS:
        column = np.full(data.n_rows, np.nan)
        column[rows] = table[kind].to_numpy()
        out[kind] = column
    return out


def _standard_errors(fit: Fit) -> dict[str, Any]:
    """`sebeta`, `covb`, `sepsi`, `seerrorparam`, `cov`: None where the fit has no (positive definite) information."""
    names = ("sebeta", "covb", "sepsi", "seerrorparam", "cov")
    reported_cov = None if fit.information is None else fit.information.reported_matrix()
    if fit.information is None or reported_cov is None:
        return dict.fromkeys(names)
    import pandas as pd

    density, reported_values = fit.binding.density, fit.information.reported
    n_beta, n, pairs = len(density.beta_names), density.n_effects, density.covariance.correlated_pairs
    sd = reported_values[n_beta : n_beta + n]
    correlation = dict(zip(pairs, reported_values[n_beta + n :], strict=False))
    entries = [(k, k) for k in range(n)] + list(pairs)
    n_error = len(density.error.parameters)
    # From SDs and correlations to variances and covariances: psi_jk = r_jk sd_j sd_k.
    jacobian = np.zeros((n_beta + len(entries) + n_error, len(reported_values)))
    jacobian[:n_beta, :n_beta] = np.eye(n_beta)
    jacobian[len(jacobian) - n_error :, len(reported_values) - n_error :] = np.eye(n_error)
    for row, (j, k) in enumerate(entries, n_beta):
        r = correlation.get((j, k), 1.0)
        jacobian[row, n_beta + j] += r * sd[k]
        jacobian[row, n_beta + k] += r * sd[j]
        if j != k:
            jacobian[row, row] = sd[j] * sd[k]  # correlations are in the order of `pairs`
    cov = jacobian @ reported_cov @ jacobian.T
    se = np.sqrt(np.maximum(np.diag(cov), 0.0))
    # A parameter that was fixed, or a variance of zero, has no standard error.
    se = np.where(se > 0, se, np.nan)
    sepsi = np.full((n, n), np.nan)
    for row, (j, k) in enumerate(entries, n_beta):
        sepsi[j, k] = sepsi[k, j] = se[row]
    labels = [f"beta[{k}]" for k in range(n_beta)] + [f"psi[{j}, {k}]" for j, k in entries]
    labels += [entry.name for entry in density.error.parameters]
    table = pd.DataFrame(cov, index=labels, columns=labels)
    values = (se[:n_beta], cov[:n_beta, :n_beta], sepsi, se[len(se) - n_error :], table)
    return dict(zip(names, values, strict=True))
