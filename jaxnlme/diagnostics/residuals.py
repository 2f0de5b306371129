"""Residuals by row: raw, standardised and decorrelated, at b = 0 and at the conditional modes.

All are on the scale of h, the response's transform: h(y) - h(f) for outcomes such as log-normal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_names, require_host
from jaxnlme.binding.endpoints import endpoint_codes
from jaxnlme.binding.problem import Problem
from jaxnlme.data.grouped import GroupedData
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.errors import ModelError, OptionError, near_matches
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import linearise
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.censoring import uncensored
from jaxnlme.model.residual_error.endpoints import EndpointErrors
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.linalg import accurate_eigh
from jaxnlme.precision import x64
from jaxnlme.results.evaluate import compile_once, evaluate_by_bucket, has_interaction, require_estimates, to_rows

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

KINDS = ("pres", "ires", "iwres", "normalized", "pwres", "pwresi", "cwres", "cwresi")


def residuals(fit: FitRecord, kinds: str | Sequence[str] = ("pres", "ires", "pwres", "iwres", "cwres")) -> pd.DataFrame:
    """Residuals of the fitted rows, one column per kind, NaN where there is no response.

    With r(b) = h(y) - h(f(b)), s(b) the residual SD, S = diag(s), K the correlation of the residuals (the identity if
    they are independent), b^ the conditional mode, z its whitened form, J = d h(f) / dz:

    - `pres` = r(0); `ires` = r(b^); `iwres` = r(b^) / s(b^).
    - `normalized` = T r(b^) / s(b^) with T' T = K^-1, T triangular in the order of a series: independent where the
      correlation holds (nlme's "normalized"); `iwres` for independent residuals.
    - `pwres` = C^(-1/2) r(0), C = J0 J0' + S(0) K S(0): the linearisation at b = 0 (NONMEM's NWRES, and its WRES
      without interaction).
    - `cwres` = C^(-1/2) (r(b^) + J z), C = J J' + S K S: the linearisation at b^, with s at b^, or at b = 0 for
      fits by FO and FOCE.
    - `pwresi`, `cwresi`: the same numerators, with s linearised in z as well, s + (ds/dz)' z, whose square has the mean
      s0^2 + |ds/dz|^2, s0 the linearised value at z = 0 (NONMEM's WRESI and CWRESI).

    C^(-1/2) is the symmetric root, NONMEM's default ("WRESCHOL: EIGENVALUE").

    Censored rows have no residual: NaN, and true in the column "censored", which data with censored rows add. Those of
    the other rows, CWRES too, are computed from these rows.

    **Arguments:** `kinds`: one or several of `KINDS`.
    **Returns:** a data frame in row order, with the column of endpoints where the data have one; NaN in rows of an
    endpoint whose outcome has no Gaussian moments.
    **Raises:** ModelError where no outcome has Gaussian moments; OptionError for an unknown kind; FitError where
    the fit has no estimates.
    **Source:** Hooker, Staatz and Karlsson (2007), Pharmaceutical Research 24, 2187-2197, equations 7 to 13.
    """
    import pandas as pd

    require_host("fit.residuals")
    kinds = tuple(check_names("kinds", kinds, "residuals"))
    if not kinds:
        raise OptionError(f"kinds is an empty list; name at least one of {', '.join(map(repr, KINDS))}.")
    for kind in kinds:
        if kind not in KINDS:
            raise OptionError(f"residual {kind!r} is not known; {near_matches(str(kind), KINDS)}")
    binding = fit.binding
    if not binding.density.error.has_residuals:
        raise ModelError(
            "residuals need a Gaussian residual model (a mean and a scale), and this outcome has none; compare "
            "fit.simulate() with the data instead."
        )
    require_estimates(fit)
    modes, _ = fit.conditional
    pieces = evaluate_by_bucket(_moments, fit, binding, modes)
    columns: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for which, piece, bucket in zip(binding.bucket_groups, pieces, binding.problem.buckets, strict=True):
        residual, scale, jacobian, slope, normalized = (np.asarray(part) for part in piece)
        correlation = correlation_matrices(fit, bucket)
        has_residual = np.asarray(uncensored(bucket)) & gaussian_rows(binding.density.error, bucket)
        parts = _Parts(residual, scale, jacobian, slope, modes[which], has_interaction(fit), normalized, correlation)
        for kind in kinds:
            columns[kind].append(np.where(has_residual, getattr(parts, kind)(), np.nan))
    table = {kind: to_rows(binding, parts) for kind, parts in columns.items()}
    limits, of_endpoints = binding.data.limits, endpoint_column(binding.data)
    if limits is not None and limits.censored.any():
        table["censored"] = binding.data.rows_to_column(limits.censored)
    return pd.DataFrame(of_endpoints | table, index=binding.data.row_labels)


def gaussian_rows(error: AbstractError, bucket: Group) -> np.ndarray:
    """True (groups, obs) for the rows of endpoints with Gaussian moments."""
    if not isinstance(error, EndpointErrors):
        return np.ones(bucket.y.shape, bool)
    has = np.array([member.has_location_and_scale for member in error.members])
    return has[np.asarray(bucket.endpoints)]


def endpoint_rows(fit: FitRecord) -> list[tuple[str | None, np.ndarray]]:
    """The endpoints with Gaussian moments, each with its label and True (rows,) for its rows with a response; one for
    all rows, without a label, for a model with one residual model."""
    error, data = fit.binding.density.error, fit.binding.data
    if not isinstance(error, EndpointErrors):
        return [(None, np.ones(data.n_rows, bool))]
    codes = endpoint_codes(data, error.labels)
    rows = [data.rows_to_column(data.observed & (codes == k)) for k in range(len(error.members))]
    has = [member.has_location_and_scale for member in error.members]
    return [(error.labels[k], rows[k]) for k in range(len(rows)) if has[k]]


def endpoint_column(data: GroupedData) -> dict[str, np.ndarray]:
    """The labels of endpoints (rows,) by the name of their column; empty for data without endpoints."""
    if data.endpoint is None:
        return {}
    return {data.endpoint: data.rows_to_column((data.x | data.text)[data.endpoint])}


def _moments(problem: Problem, params: Params, modes: jax.Array) -> list[tuple[jax.Array, ...]]:
    """For each bucket, at z = 0 and at the mode: residual and scale (groups, 2, obs), minus the derivative of the
    residual in z and the derivative of the scale in z (groups, 2, obs, random); and the normalized residuals (groups,
    obs) at the mode. Rows without a response have residual 0 and scale 1."""
    density = problem.density

    def per_group(group, mode):
        def moments(z):
            f = density.predict(params, z, group)
            residual, scale, _ = density.error_at(params).moments(f, f, params.error, group)  # pyright: ignore[reportAttributeAccessIssue]
            return residual, scale

        def moments_and_slopes(z):
            (residual, scale), push = linearise(moments, z)
            residual_dot, scale_dot = jax.vmap(push, out_axes=-1)(jnp.eye(z.shape[0], dtype=z.dtype))
            return residual, scale, -residual_dot, scale_dot

        if density.n_effects == 0:
            residual, scale = moments(mode)
            none = jnp.zeros((2, *residual.shape, 0))
            parts = jnp.stack([residual, residual]), jnp.stack([scale, scale]), none, none
        else:
            parts = jax.vmap(moments_and_slopes)(jnp.stack([jnp.zeros_like(mode), mode]))
        factor = density.error.factor(params.error, group)  # pyright: ignore[reportAttributeAccessIssue]
        return *parts, factor.whiten(parts[0][1] / parts[1][1])

    return problem.map_buckets(per_group, modes)


def correlation_matrices(fit: FitRecord, bucket: Group) -> Callable[[np.ndarray], np.ndarray]:
    """A function of the positions (n,) of groups in a bucket that returns the correlation matrices (n, obs, obs) of
    their residuals."""
    if not fit.binding.density.error.n_correlation:
        identity = np.eye(fit.binding.data.y.shape[1])
        return lambda positions: identity[None]
    density, theta = fit.binding.density, np.asarray(fit.params.error)

    def matrices(positions: np.ndarray) -> np.ndarray:
        with x64():
            chosen = on_device(jax.tree.map(lambda leaf: leaf[positions], bucket))
            roots = np.asarray(compile_once(_roots, fit.binding)(density, on_device(theta), chosen))
        inverse = np.linalg.inv(roots)
        return inverse @ inverse.transpose(0, 2, 1)

    return matrices


def _roots(density: Density, theta: jax.Array, groups: Group) -> jax.Array:
    """T (groups, obs, obs) of stacked groups."""
    obs = groups.y.shape[1]

    def per_group(group):
        return jax.vmap(density.error.factor(theta, group).whiten, 1, 1)(jnp.eye(obs, dtype=theta.dtype))

    return jax.vmap(per_group)(groups)


class _Parts:
    """Arrays of one bucket, and a method for each kind of residual (groups, obs).

    **Arguments:** `residual`, `scale` (groups, 2, obs) and `jacobian`, `slope` (groups, 2, obs, random): minus the
    derivative of the residual and the derivative of the scale in z, at z = 0 and at the mode (see `_moments`); `z`
    (groups, random), whitened modes; `has_interaction`: see `evaluate.has_interaction`; `normalized` (groups, obs);
    `correlation`: from `correlation_matrices`.
    """

    def __init__(
        self,
        residual: np.ndarray,
        scale: np.ndarray,
        jacobian: np.ndarray,
        slope: np.ndarray,
        z: np.ndarray,
        has_interaction: bool,
        normalized: np.ndarray,
        correlation: Callable[[np.ndarray], np.ndarray],
    ):
        self.of_normalized, self.correlation = normalized, correlation
        self.residual, self.scale, self.jacobian, self.slope = residual, scale, jacobian, slope
        self.z, self.interaction = z, has_interaction

    def pres(self):
        """r(0)."""
        return self.residual[:, 0]

    def ires(self):
        """r(b^)."""
        return self.residual[:, 1]

    def iwres(self):
        """r(b^) / s(b^)."""
        return self.residual[:, 1] / self.scale[:, 1]

    def normalized(self):
        """T r(b^) / s(b^)."""
        return self.of_normalized

    def pwres(self):
        """Decorrelated r(0), the scale at b = 0."""
        return self._decorrelate(self.residual[:, 0], 0, self.scale[:, 0])

    def pwresi(self):
        """As `pwres`, the scale linearised in z."""
        return self._decorrelate(self.residual[:, 0], 0, self.scale[:, 0], self.slope[:, 0])

    def _conditional(self):
        """r(b^) + J z."""
        return self.residual[:, 1] + np.einsum("gok,gk->go", self.jacobian[:, 1], self.z)

    def cwres(self):
        """Decorrelated r(b^) + J z."""
        return self._decorrelate(self._conditional(), 1, self.scale[:, 1 if self.interaction else 0])

    def cwresi(self):
        """As `cwres`, the scale linearised in z."""
        centre = self.scale[:, 1] - np.einsum("gok,gk->go", self.slope[:, 1], self.z)
        return self._decorrelate(self._conditional(), 1, centre, self.slope[:, 1])

    def _decorrelate(self, residual: np.ndarray, at: int, scale: np.ndarray, slope: np.ndarray | None = None):
        return _decorrelate(residual, self.jacobian[:, at], scale, slope, self.correlation)


def _decorrelate(
    residual: np.ndarray,
    jacobian: np.ndarray,
    scale: np.ndarray,
    slope: np.ndarray | None,
    correlation: Callable[[np.ndarray], np.ndarray],
) -> np.ndarray:
    """C^(-1/2) residual (groups, obs) with C = J J' + R and the symmetric root; NaN for a group whose C is not finite.
    R is the mean of S K S, with the scale `scale` + `slope`' z.

    **Arguments:** `residual`, `scale` (groups, obs); `jacobian` J, `slope` (groups, obs, random) or None;
    `correlation`: K of groups, from `correlation_matrices`.
    """
    groups, obs = residual.shape
    out = np.full((groups, obs), np.nan)
    step = max(DIAGNOSTICS.matrix_entries // max(obs * obs, 1), 1)
    is_finite = np.isfinite(jacobian).all(axis=(1, 2)) & np.isfinite(scale).all(axis=1)
    finite = np.flatnonzero(is_finite if slope is None else is_finite & np.isfinite(slope).all(axis=(1, 2)))
    for start in range(0, len(finite), step):
        part = finite[start : start + step]
        j, s, k = jacobian[part], scale[part], correlation(part)
        moments = s[:, :, None] * s[:, None, :]
        if slope is not None:
            moments = moments + slope[part] @ slope[part].transpose(0, 2, 1)
        values, vectors = accurate_eigh(j @ j.transpose(0, 2, 1) + moments * k[:, :obs, :obs])
        rotated = np.einsum("gji,gj->gi", vectors, residual[part]) / np.sqrt(values)
        out[part] = np.einsum("gij,gj->gi", vectors, rotated)
    return out
