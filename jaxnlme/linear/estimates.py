"""The table of estimates of a linear mixed model, with standard errors and intervals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from jaxnlme.estimators.linear.outcome import covariances
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.numerics.central_differences import central_differences

if TYPE_CHECKING:
    from jaxnlme.linear.record import LinearFit
    from jaxnlme.linear.refits.refit import Refit


def reported_names(fit: LinearFit, labels: Mapping[str, str] | None = None) -> list[str]:
    """Names of all parameters in the order of the table; with `labels` those of random effects always have their
    grouping factor, called as `labels` says."""
    return [*fit.model.fixed.names, *(name for name, _, _ in variance_quantities(fit, labels))]


def estimates_table(fit: LinearFit, level: float) -> pd.DataFrame:
    """The table of `LinearFit.intervals`."""
    z = NormalDist().inv_cdf(0.5 + level / 2.0)
    outcome, errors = fit.outcome, np.sqrt(np.maximum(np.diag(fit.covariance), 0.0))
    rows = []
    for name, value, error in zip(fit.model.fixed.names, outcome.beta, errors, strict=False):
        rows.append((name, "fixed effect", value, error, value - z * error, value + z * error))
    point = variance_point(fit, outcome.estimation.theta, outcome.sigma)
    for (name, kind, fn), error in zip(variance_quantities(fit), errors[len(rows) :], strict=True):
        value = fn(point)
        rows.append((name, kind, value, error, *_interval(interval_scale(fit, name, kind), value, error, z)))
    table = pd.DataFrame(rows, columns=["name", "kind", "estimate", "se", "lower", "upper"]).set_index("name")
    with np.errstate(divide="ignore", invalid="ignore"):
        table["rse%"] = 100.0 * table["se"] / table["estimate"].abs()
    table["kind"] = table.pop("kind")
    table.index.name = None
    return table


def reported_values(fit: LinearFit, source: LinearFit | Refit) -> np.ndarray:
    """The values (parameters,) in the order of `reported_names(fit)` of a fit or refit of its model."""
    point = variance_point(source, source.outcome.estimation.theta, source.outcome.sigma)
    return np.array([*source.outcome.beta, *(fn(point) for _, _, fn in variance_quantities(fit))])


class VariancePoint(NamedTuple):
    """Variance parameters: psi by level, the natural values of the parameters of the residual covariance, and sigma."""

    psi: Sequence[np.ndarray]
    residual: np.ndarray
    sigma: float


Quantity = Callable[[VariancePoint], float]


def variance_point(source: LinearFit | Refit, theta: np.ndarray, sigma: float) -> VariancePoint:
    """The VariancePoint at other variance parameters of a fit or refit.

    The likelihood takes a variance function g over its geometric mean over the rows, so that its sigma does not move
    with the parameters of g; that reported is the factor of g itself, and is divided by this mean.

    **Arguments:** `theta` (parameters,), unconstrained; `sigma`: that of the likelihood.
    **Returns:** the point; its sigma is infinite where the mean of g is zero in floating-point numbers.
    """
    residual = source.residual
    psi = covariances(source.problem, theta, sigma)
    if residual is None:
        return VariancePoint(psi, np.zeros(0), sigma)
    delta = residual.delta(theta)
    scale = residual.scale(delta)[1]
    return VariancePoint(psi, residual.natural(delta), sigma / scale if scale > 0.0 else np.inf)


def variance_quantities(fit: LinearFit, labels: Mapping[str, str] | None = None) -> list[tuple[str, str, Quantity]]:
    """Name, kind and function of the point, of each reported variance parameter; sigma is the last."""
    out: list[tuple[str, str, Quantity]] = []
    several = len(fit.model.groupings) > 1 or labels is not None
    for k, grouping in enumerate(fit.model.groupings):
        label = (labels or {}).get(grouping.label, grouping.label)
        names = [f"{effect}|{label}" if several else effect for effect in grouping.effects]
        for effects in _distinct_scales(grouping.structure):
            shown = names[effects[0]] if len(effects) == 1 else ", ".join(names[j] for j in effects)
            out.append((f"sd({shown})", "random effect SD", _sd(k, effects[0])))
        for i, j in _distinct_pairs(grouping.structure):
            out.append((f"corr({names[i]}, {names[j]})", "correlation", _correlation(k, i, j)))
    for k, name in enumerate([] if fit.residual is None else fit.residual.names):
        out.append((name, "error", _residual(k)))
    return [*out, ("sigma", "error", lambda point: point.sigma)]


def variance_terms(fit: LinearFit) -> list[tuple[str | None, str]]:
    """Grouping factor (None: residual) and term, as R's broom.mixed writes it, of each variance parameter."""
    out: list[tuple[str | None, str]] = []
    for grouping in fit.model.groupings:
        names, label = grouping.effects, grouping.label
        scales = _distinct_scales(grouping.structure)
        out += [(label, f"sd__{'.'.join(names[j] for j in effects)}") for effects in scales]
        out += [(label, f"cor__{names[i]}.{names[j]}") for i, j in _distinct_pairs(grouping.structure)]
    return [*out, *((None, name) for name in (() if fit.residual is None else fit.residual.names)), (None, "sigma")]


def _residual(k: int) -> Quantity:
    return lambda point: float(point.residual[k])


def _distinct_scales(structure: AbstractCovariance) -> list[tuple[int, ...]]:
    """The effects that share a standard deviation, for each standard deviation."""
    if structure.log_scales:
        return sorted(effects for _, effects, _ in structure.log_scales)
    return [(k,) for k in range(structure.size)]


def _distinct_pairs(structure: AbstractCovariance) -> list[tuple[int, int]]:
    """The pairs of effects with a correlation of their own: one of those that share a parameter."""
    scales, pairs = _distinct_scales(structure), structure.correlated_pairs
    shared = structure.n_unconstrained - len(scales) < len(pairs)
    return list(pairs[: structure.n_unconstrained - len(scales)]) if shared else list(pairs)


def _sd(k: int, effect: int) -> Quantity:
    return lambda point: float(np.sqrt(point.psi[k][effect, effect]))


def _correlation(k: int, i: int, j: int) -> Quantity:
    def fn(point: VariancePoint) -> float:
        psi = point.psi[k]
        scale = np.sqrt(psi[i, i] * psi[j, j])
        return float(psi[i, j] / scale) if scale > 0 else float("nan")

    return fn


def _variance_covariance(fit: LinearFit) -> np.ndarray:
    """Covariance of the reported variance parameters (parameters, parameters) by the delta method; NaN where the
    information is not positive definite, and for a value without derivatives (a variance of zero)."""
    parameters = variance_quantities(fit)
    estimation = fit.outcome.estimation
    count = fit.model.n_rows - (len(fit.outcome.beta) if fit.restricted else 0)
    information = estimation.information(float(count))
    out = np.full((len(parameters),) * 2, np.nan)
    if not np.isfinite(information).all() or np.linalg.eigvalsh(information)[0] <= 0:
        return out
    covariance = np.linalg.inv(information)
    free = np.flatnonzero(estimation.free)

    def at(point: np.ndarray) -> np.ndarray:
        theta = estimation.theta.copy()
        theta[free] = point[:-1]
        sigma = float(np.exp(point[-1]))
        at_theta = variance_point(fit, theta, sigma)
        return np.array([fn(at_theta) for _, _, fn in parameters])

    center = np.append(estimation.theta[free], np.log(fit.outcome.sigma))
    jacobian = central_differences(at, center, least_size=1e-3).T
    values = at(center)
    kinds = np.array([kind for _, kind, _ in parameters])
    # A correlation of 1 or -1 stays there while entries of theta are held: its derivatives are rounding.
    bound = (kinds == "correlation") & (1.0 - np.abs(values) <= np.sqrt(np.finfo(float).eps))
    without = np.isnan(values) | bound | (np.abs(jacobian).max(axis=1) == 0.0)
    out = jacobian @ covariance @ jacobian.T
    out[without] = out[:, without] = np.nan
    return out


def reported_covariance(fit: LinearFit) -> pd.DataFrame:
    """Covariance of all reported values: fixed effects, independent of the variance parameters, and these by the delta
    method; NaN where a value has no standard error."""
    names = reported_names(fit)
    p = len(fit.outcome.beta)
    out = np.zeros((len(names),) * 2)
    out[:p, :p] = fit.outcome.beta_covariance
    out[p:, p:] = _variance_covariance(fit)
    return pd.DataFrame(out, index=names, columns=names)


def interval_scale(fit: LinearFit, name: str, kind: str) -> Any:
    """The scale that the interval of a parameter is made on: the transform of one of the residual covariance, else its
    kind."""
    if kind != "error" or fit.residual is None:
        return kind
    return next(p.transform for p in fit.residual.error.parameters if p.name == name)


def _interval(kind: Any, value: float, error: float, z: float) -> tuple[float, float]:
    """Limits on the scale of the kind: logarithm, Fisher's z for correlations, or that of a transform."""
    if not np.isfinite(error) or not np.isfinite(value):
        return float("nan"), float("nan")
    if isinstance(kind, AbstractTransform):
        real = float(kind.to_real(value))
        spread = z * error * float(np.exp(kind.log_slope(value)))
        return float(kind.to_natural(real - spread)), float(kind.to_natural(real + spread))
    if kind == "correlation":
        if abs(value) >= 1:
            return float("nan"), float("nan")
        middle, spread = np.arctanh(value), z * error / (1.0 - value**2)
        return float(np.tanh(middle - spread)), float(np.tanh(middle + spread))
    if value <= 0:
        return float("nan"), float("nan")
    ratio = float(np.exp(min(z * error / value, np.log(np.finfo(float).max) / 2)))
    return value / ratio, value * ratio
