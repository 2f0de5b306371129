"""Residuals by row: raw, standardised and decorrelated, at the population and at the conditional modes.

All are on the scale of h, the response's transform: h(y) - h(f) for outcomes such as log-normal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.errors import ModelError, OptionError, near_matches
from jaxnlme.model.params import Params
from jaxnlme.results.evaluate import by_bucket, interaction, require_estimates, row_column

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import Fit

KINDS = ("pres", "ires", "iwres", "pwres", "pwresi", "cwres", "cwresi")
# Entries of the covariance matrices (groups, obs, obs) that are held at a time.
ENTRIES = 20_000_000


def residuals(fit: Fit, kinds: str | Sequence[str] = ("pres", "ires", "pwres", "iwres", "cwres")) -> pd.DataFrame:
    """Residuals of the fitted rows, one column a kind, NaN where there is no response.

    With r(b) = h(y) - h(f(b)), s(b) the residual SD, b^ the conditional mode, z its whitened form, J = d h(f) / dz:

    - `pres` = r(0); `ires` = r(b^); `iwres` = r(b^) / s(b^).
    - `pwres` = C^(-1/2) r(0), C = J0 J0' + diag(s(0)^2): the linearisation at b = 0 (NONMEM's NWRES, and its WRES
      without interaction).
    - `cwres` = C^(-1/2) (r(b^) + J z), C = J J' + diag(s^2): the linearisation at b^, s at b^, or at b = 0 for fits by
      FO and FOCE.
    - `pwresi`, `cwresi`: the same means, with s linearised in z as well, s + (ds/dz)' z, whose square has the mean
      s0^2 + |ds/dz|^2, s0 the value at z = 0 (NONMEM's WRESI and CWRESI).

    C^(-1/2) is the symmetric root, NONMEM's default ("WRESCHOL: EIGENVALUE").

    **Returns:** a data frame in row order.
    **Errors:** ModelError where the outcome has no Gaussian face; OptionError for an unknown kind; FitError where the
    fit has no estimates.
    **Source:** Hooker, Staatz and Karlsson (2007), Pharmaceutical Research 24, 2187-2197, equations 7 to 13.
    """
    import pandas as pd

    kinds = (kinds,) if isinstance(kinds, str) else tuple(kinds)
    for kind in kinds:
        if kind not in KINDS:
            raise OptionError(f"residual {kind!r} is not known; {near_matches(str(kind), KINDS)}")
    binding = fit.binding
    if not binding.density.error.has_gaussian_moments:
        raise ModelError(
            "residuals need a Gaussian residual model (a mean and a scale), and this outcome has none; compare "
            "fit.simulate() with the data instead."
        )
    require_estimates(fit)
    modes, _ = fit.conditional
    pieces = by_bucket(_moments, fit, binding, modes)
    columns: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for which, piece, bucket in zip(binding.bucket_groups, pieces, binding.problem.buckets, strict=True):
        residual, scale, jacobian, slope = (np.asarray(part) for part in piece)
        parts = _Parts(residual, scale, jacobian, slope, modes[which], interaction(fit))
        for kind in kinds:
            columns[kind].append(np.where(bucket.x.observed, getattr(parts, kind)(), np.nan))
    table = {kind: row_column(binding, parts) for kind, parts in columns.items()}
    return pd.DataFrame(table, index=binding.data.row_labels)


def _moments(problem: Problem, params: Params, modes: jax.Array) -> list[tuple[jax.Array, ...]]:
    """Per bucket, at z = 0 and at the mode: residual and scale (groups, 2, obs), and minus their derivatives in z
    (groups, 2, obs, random) for the residual, plainly for the scale. Rows without a response hold 0 and 1."""
    density = problem.density

    def one(group, mode):
        def at(z):
            f = density.predict(params, z, group)
            residual, scale, _ = density.error.moments(f, f, params.error, group)  # pyright: ignore[reportAttributeAccessIssue]
            return residual, scale

        def both(z):
            (residual, scale), push = jax.linearize(at, z)
            residual_dot, scale_dot = jax.vmap(push, out_axes=-1)(jnp.eye(z.shape[0], dtype=z.dtype))
            return residual, scale, -residual_dot, scale_dot

        if density.n_effects == 0:
            residual, scale = at(mode)
            none = jnp.zeros((2, *residual.shape, 0))
            return jnp.stack([residual, residual]), jnp.stack([scale, scale]), none, none
        return jax.vmap(both)(jnp.stack([jnp.zeros_like(mode), mode]))

    return problem.map_buckets(one, modes)


class _Parts:
    """The arrays of one bucket, and each kind of residual (groups, obs) made of them."""

    def __init__(
        self,
        residual: np.ndarray,
        scale: np.ndarray,
        jacobian: np.ndarray,
        slope: np.ndarray,
        z: np.ndarray,
        interaction: bool,
    ):
        self.residual, self.scale, self.jacobian, self.slope = residual, scale, jacobian, slope
        self.z, self.interaction = z, interaction

    def pres(self):
        return self.residual[:, 0]

    def ires(self):
        return self.residual[:, 1]

    def iwres(self):
        return self.residual[:, 1] / self.scale[:, 1]

    def pwres(self):
        return _decorrelate(self.residual[:, 0], self.jacobian[:, 0], self.scale[:, 0] ** 2)

    def pwresi(self):
        variance = self.scale[:, 0] ** 2 + np.sum(self.slope[:, 0] ** 2, axis=-1)
        return _decorrelate(self.residual[:, 0], self.jacobian[:, 0], variance)

    def _conditional(self):
        return self.residual[:, 1] + np.einsum("gok,gk->go", self.jacobian[:, 1], self.z)

    def cwres(self):
        scale = self.scale[:, 1 if self.interaction else 0]
        return _decorrelate(self._conditional(), self.jacobian[:, 1], scale**2)

    def cwresi(self):
        centre = self.scale[:, 1] - np.einsum("gok,gk->go", self.slope[:, 1], self.z)
        variance = centre**2 + np.sum(self.slope[:, 1] ** 2, axis=-1)
        return _decorrelate(self._conditional(), self.jacobian[:, 1], variance)


def _decorrelate(residual: np.ndarray, jacobian: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """C^(-1/2) residual (groups, obs) with C = J J' + diag(variance), the symmetric root, some groups at a time; NaN
    for a group whose C is not finite."""
    groups, obs = residual.shape
    out = np.full((groups, obs), np.nan)
    step = max(ENTRIES // max(obs * obs, 1), 1)
    fine = np.flatnonzero(np.isfinite(jacobian).all(axis=(1, 2)) & np.isfinite(variance).all(axis=1))
    for start in range(0, len(fine), step):
        part = fine[start : start + step]
        own = jacobian[part]
        matrix = own @ own.transpose(0, 2, 1) + variance[part][:, :, None] * np.eye(obs)
        values, vectors = np.linalg.eigh(matrix)
        rotated = np.einsum("gji,gj->gi", vectors, residual[part]) / np.sqrt(values)
        out[part] = np.einsum("gij,gj->gi", vectors, rotated)
    return out
