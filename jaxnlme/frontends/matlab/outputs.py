"""beta, psi, stats and b of a fit in MATLAB's shapes."""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.frontends.matlab.data import MatlabData
from jaxnlme.frontends.matlab.struct import Struct
from jaxnlme.model.params import Params
from jaxnlme.results.record import Fit

RESIDUALS = ("pres", "ires", "pwres", "iwres", "cwres")


def outputs(fit: Fit, data: MatlabData) -> tuple[np.ndarray, np.ndarray, Struct, np.ndarray]:
    """beta (F,), psi (R, R), stats and b (R, M) of a fit; groups that the fit left out have NaN in b."""
    beta, psi = np.array(fit.params.beta, float), fit.psi.to_numpy(dtype=float)
    b = np.full((len(psi), data.data.n_groups), np.nan)
    position = {label: k for k, label in enumerate(data.data.labels.tolist())}
    b[:, [position[label] for label in fit.data.labels.tolist()]] = fit.random_effects.to_numpy(dtype=float).T
    return beta, psi, stats(fit, data), b


def stats(fit: Fit, data: MatlabData) -> Struct:
    """The record of a fit; `jaxnlme.nlmefit` says what each field is."""
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
    """The upper triangle, by rows, of log(psi / mse) ("logm") or of the upper Cholesky factor of psi / mse ("chol").

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
            # The triangular factor of any root of psi: a singular psi has one, too.
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
    reported = None if fit.information is None else fit.information.reported_matrix()
    if fit.information is None or reported is None:
        return dict.fromkeys(names)
    import pandas as pd

    density, value = fit.binding.density, fit.information.reported
    n_beta, n, related = len(density.beta_names), density.n_effects, density.covariance.related
    sd = value[n_beta : n_beta + n]
    correlation = dict(zip(related, value[n_beta + n :], strict=False))
    entries = [(k, k) for k in range(n)] + list(related)
    n_error = len(density.error.parameters)
    # From SDs and correlations to variances and covariances: psi_jk = r_jk sd_j sd_k.
    slope = np.zeros((n_beta + len(entries) + n_error, len(value)))
    slope[:n_beta, :n_beta] = np.eye(n_beta)
    slope[len(slope) - n_error :, len(value) - n_error :] = np.eye(n_error)
    for row, (j, k) in enumerate(entries, n_beta):
        r = correlation.get((j, k), 1.0)
        slope[row, n_beta + j] += r * sd[k]
        slope[row, n_beta + k] += r * sd[j]
        if j != k:
            slope[row, row] = sd[j] * sd[k]  # the correlations stand in the order of `related`
    cov = slope @ reported @ slope.T
    se = np.sqrt(np.maximum(np.diag(cov), 0.0))
    # What did not move, or a variance at zero, has no standard error.
    se = np.where(se > 0, se, np.nan)
    sepsi = np.full((n, n), np.nan)
    for row, (j, k) in enumerate(entries, n_beta):
        sepsi[j, k] = sepsi[k, j] = se[row]
    labels = [f"beta[{k}]" for k in range(n_beta)] + [f"psi[{j}, {k}]" for j, k in entries]
    labels += [entry.name for entry in density.error.parameters]
    table = pd.DataFrame(cov, index=labels, columns=labels)
    found = (se[:n_beta], cov[:n_beta, :n_beta], sepsi, se[len(se) - n_error :], table)
    return dict(zip(names, found, strict=True))
