"""Standard errors and intervals from the observed information of all unfixed parameters."""

from __future__ import annotations

import dataclasses
from statistics import NormalDist
from typing import TYPE_CHECKING

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.user_scale import message_names
from jaxnlme.model.covariance.held import fixed_elements
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.model.transforms import Identity, Log
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.numerics.linalg import unit_diagonal
from jaxnlme.precision import x64
from jaxnlme.results.settings import INFORMATION

if TYPE_CHECKING:
    import pandas as pd


@dataclasses.dataclass(frozen=True, eq=False)
class Information:
    """The observed information at the estimate.

    **Fields:** `matrix` (active, active): the observed information, the Hessian of the objective (minus log-likelihood
    and log prior) in the packed entries `active` (indices); `scores` (groups, active): weighted gradients of the
    groups' log-likelihoods, for the sandwich; `singular`: directions without information, each a dict from parameter
    name to its coefficient; `reported`, `jacobian` (reported, packed): the values that a fit reports and their
    derivatives.

    The scores of a restricted fit are centred, w_i (s_i - sum w s / sum w): at its estimates the groups' scores of
    theta sum to minus the gradient of the term that integrating beta out adds. That term belongs to no group and does
    not vary with the sample as they do, so the variance of the sum is that of centred scores.
    """

    matrix: np.ndarray
    active: np.ndarray
    scores: np.ndarray
    singular: tuple[dict[str, float], ...]
    reported: np.ndarray
    jacobian: np.ndarray

    @property
    def positive_definite(self) -> bool:
        """True if the matrix is positive definite beyond rounding."""
        return not self.singular

    @property
    def covariance(self) -> np.ndarray | None:
        """Inverse information (active, active); None where a direction is singular."""
        return None if self.singular else np.linalg.inv(self.matrix)

    @property
    def sandwich(self) -> np.ndarray | None:
        """H^-1 (sum of score outer products) H^-1 (active, active), robust to misspecification;
        None where a direction is singular.

        **Source:** White (1982), Econometrica 50, 1-25.
        """
        inverse = self.covariance
        return None if inverse is None else inverse @ (self.scores.T @ self.scores) @ inverse

    def reported_matrix(self, robust: bool = False) -> np.ndarray | None:
        """Covariance of the reported values (reported, reported) by the delta method, from the sandwich where `robust`;
        None where a direction is singular."""
        inverse = self.sandwich if robust else self.covariance
        if inverse is None:
            return None
        jacobian = self.jacobian[:, self.active]
        return jacobian @ inverse @ jacobian.T

    def reported_covariance(self, binding: Binding) -> pd.DataFrame | None:
        """`reported_matrix()` with the names of the values."""
        import pandas as pd

        matrix = self.reported_matrix()
        names = list(binding.density.reported_names)
        return None if matrix is None else pd.DataFrame(matrix, index=names, columns=names)

    def correlations(self, fixed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The correlation matrix (k, k) of the k reported values that have a standard error, and their positions (k,)
        among all; empty where a direction is singular.

        **Arguments:** `fixed` (reported,) bool: values that are not estimated.
        """
        matrix = self.reported_matrix()
        if matrix is None:
            return np.zeros((0, 0)), np.zeros(0, int)
        known = np.flatnonzero(np.isfinite(_standard_errors(self, self.reported, fixed, False)))
        chosen = matrix[np.ix_(known, known)]
        return (chosen if not len(known) else unit_diagonal(chosen)[0]), known

    @staticmethod
    def condition_number(correlations: np.ndarray) -> float:
        """The largest over the smallest eigenvalue of a correlation matrix (k, k); NaN for k = 0."""
        if not len(correlations):
            return np.nan
        values = np.linalg.eigvalsh(correlations)
        return float(values[-1] / values[0]) if values[0] > 0 else np.inf


def _reported(density: Density, template: Params, packed: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Reported values (reported,) and their Jacobian (reported, packed)."""

    def fn(packed):
        return density.reported(template.unpack(packed))

    return fn(packed), jax.jacfwd(fn)(packed)


def information(
    binding: Binding, params: Params, matrix: np.ndarray, active: np.ndarray, scores: np.ndarray
) -> Information:
    """The Information record at `params`.

    **Arguments:** `matrix` (active, active), symmetric; `active` packed indices; `scores` (groups, active), weighted.
    """
    with x64():
        dense = Params(params.beta, params.covariance, params.error, None)
        template = on_device(dense)
        reported, jacobian = compiled(_reported, 0)(binding.density, template, dense.pack())
    # Derivatives with respect to the logarithm of a variance of exactly zero are zero, and NaN where divided by it.
    jacobian = np.nan_to_num(np.asarray(jacobian), nan=0.0, posinf=0.0, neginf=0.0)
    names = message_names(binding, active)
    return Information(matrix, active, scores, singular_directions(matrix, names), np.asarray(reported), jacobian)


def singular_directions(matrix: np.ndarray, names: list[str]) -> tuple[dict[str, float], ...]:
    """Directions in which a symmetric (n, n) matrix, scaled to unit diagonal, has no positive curvature.

    **Arguments:** `matrix` (n, n); `names` (n,) of its parameters.
    **Returns:** for each direction a dict from the name of a parameter to its coefficient, largest first, without
    coefficients below `INFORMATION.least_coefficient`; all `names` with coefficient 1 for a matrix that is not finite.
    """
    if not len(matrix):
        return ()
    if not np.isfinite(matrix).all():
        return ({name: 1.0 for name in names},)
    values, vectors = np.linalg.eigh(unit_diagonal(matrix)[0])
    directions = []
    for value, vector in zip(values, vectors.T, strict=True):
        if value <= INFORMATION.singular_eigenvalue:
            least = INFORMATION.least_coefficient
            coefficients = {name: float(v) for name, v in zip(names, vector, strict=True) if abs(v) > least}
            directions.append(dict(sorted(coefficients.items(), key=lambda item: -abs(item[1]))))
    return tuple(directions)


def direction_words(direction: dict[str, float]) -> str:
    """A direction of `singular_directions` as text, its largest coefficients, such as "+0.71 a -0.70 b"."""
    largest = list(direction.items())[: INFORMATION.coefficients_shown]
    return " ".join(f"{coefficient:+.2f} {name}" for name, coefficient in largest)


def estimates_table(binding: Binding, params: Params, info: Information | None, level: float) -> pd.DataFrame:
    """The table behind `FitRecord.estimates`; values that are not available are NaN.

    **Arguments:** `info`, None where it was not computed; `level` of the Wald intervals.
    """
    import pandas as pd

    density = binding.density
    p = len(density.beta_names)
    if info is None:
        values = np.array([*np.asarray(params.beta), *list(binding.values(params).values())[p:]], float)
    else:
        values = info.reported
    fixed = is_fixed(binding)
    se, robust_se = (_standard_errors(info, values, fixed, robust) for robust in (False, True))
    kinds = _kinds(density)
    lower, upper = _wald_limits(density, kinds, values, float(NormalDist().inv_cdf(0.5 + level / 2.0)) * se)
    table = pd.DataFrame(
        {
            "estimate": values,
            "se": se,
            "lower": lower,
            "upper": upper,
            "rse%": _relative_se(binding, values, se),
            "robust se": robust_se,
        },
        index=pd.Index(density.reported_names, name="parameter"),
    )
    natural, cv = _on_natural_scale(binding, values, lower, upper)
    table["value"], table["value_lower"], table["value_upper"], table["cv%"] = *natural.T, cv
    table["kind"], table["fixed"] = kinds, fixed
    return table


def _standard_errors(info: Information | None, values: np.ndarray, fixed: np.ndarray, robust: bool) -> np.ndarray:
    """Standard errors of the reported `values` (reported,), from the sandwich where `robust`; NaN where they are
    `fixed` (reported,) bool, or there is no information."""
    matrix = None if info is None else info.reported_matrix(robust)
    with np.errstate(invalid="ignore"):
        se = np.full(len(values), np.nan) if matrix is None else np.sqrt(np.diag(matrix))
    # A value with zero derivatives (a correlation of one) has no standard error, but for rounding.
    rounding = INFORMATION.rounding * np.maximum(np.abs(values), np.finfo(float).tiny)
    return np.where(fixed | (se <= rounding), np.nan, se)


def _kinds(density: Density) -> list[str]:
    """The kind of each reported value (reported,), in words."""
    kinds = ["fixed effect"] * len(density.beta_names) + ["random effect SD"] * len(density.effect_names)
    kinds += ["correlation"] * len(density.covariance.correlated_pairs)
    return kinds + ["error"] * (len(density.reported_names) - len(kinds))


def _wald_limits(
    density: Density, kinds: list[str], values: np.ndarray, half_width: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper limits (reported,) of Wald intervals: `values` -+ `half_width`, for SDs on the log scale, for
    correlations by Fisher's z, for error parameters on the scale of their transform.

    **Arguments:** `kinds` (reported,), from `_kinds`; `half_width` (reported,): normal quantile times standard error.
    """
    lower, upper = values - half_width, values + half_width
    errors = {name: r.transform for name, r in zip(density.error_names, density.error.parameters, strict=True)}
    for k, name in enumerate(density.reported_names):
        if kinds[k] == "error" and not isinstance(errors[name], (Identity, Log)):
            with np.errstate(all="ignore"):
                real = errors[name].to_real(values[k])
                slope = half_width[k] * np.exp(errors[name].log_slope(values[k]))
                lower[k], upper[k] = (errors[name].to_natural(real + side * slope) for side in (-1.0, 1.0))
        elif kinds[k] == "random effect SD" or (kinds[k] == "error" and isinstance(errors[name], Log)):
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                factor = np.exp(half_width[k] / values[k])
            lower[k], upper[k] = values[k] / factor, values[k] * factor
        elif kinds[k] == "correlation" and abs(values[k]) < 1:
            slope = half_width[k] / (1.0 - values[k] ** 2)
            lower[k], upper[k] = np.tanh(np.arctanh(values[k]) - slope), np.tanh(np.arctanh(values[k]) + slope)
    return lower, upper


def _on_natural_scale(
    binding: Binding, values: np.ndarray, lower: np.ndarray, upper: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Typical values with their limits on the natural scale (reported, 3), and coefficients of variation in percent
    (reported,) of log-normal parameters; NaN for others."""
    density, p = binding.density, len(binding.density.beta_names)
    natural = np.full((len(values), 3), np.nan)
    cv = np.full(len(values), np.nan)
    logs = {p.name for p in binding.model.parameters if isinstance(p.transform, Log) and p.distribution is None}
    # A limit of a very wide interval may overflow; it is then infinite.
    with np.errstate(over="ignore", under="ignore"):
        for k, transform in enumerate(binding.transforms):
            if transform is not None:
                natural[k] = [float(transform.to_natural(v)) for v in (values[k], lower[k], upper[k])]
        owners = binding.random.parameters
        for k, effect in enumerate(density.effect_names):
            parameter = effect if owners is None else binding.model.parameters[owners[k]].name
            if parameter in logs and binding.model.individual is None:
                cv[p + k] = 100.0 * np.sqrt(np.expm1(values[p + k] ** 2))
    return natural, cv


def _relative_se(binding: Binding, values: np.ndarray, se: np.ndarray) -> np.ndarray:
    """Standard errors in percent (reported,): 100 se / |value|, for a typical value on its natural scale,
    100 se |dh/dxb| / |h(xb)| with phi = h(xb). For h = exp that is 100 se, whatever the unit."""
    size, slope = np.abs(values), np.ones(len(values))
    with np.errstate(all="ignore"):
        for k, transform in enumerate(binding.transforms):
            if transform is not None:
                value = np.float64(transform.to_natural(values[k]))
                size[k], slope[k] = abs(value), np.exp(-transform.log_slope(value))
        return 100.0 * se * slope / np.where(size == 0, np.nan, size)


def is_fixed(binding: Binding) -> np.ndarray:
    """True (reported,) for values that were fixed: beta, psi or elements of it, error parameters."""
    density = binding.density
    p, n_theta = len(density.beta_names), density.covariance.n_unconstrained
    psi = bool(n_theta) and bool(binding.fixed[p : p + n_theta].all())
    sds, correlations = fixed_elements(density.covariance)
    middle = np.array([*sds, *correlations], bool) | psi
    return np.concatenate([binding.fixed[:p], middle, binding.fixed[p + n_theta :]]).astype(bool)
