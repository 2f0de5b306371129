"""Residuals by row: raw, standardised and decorrelated, at b = 0 and at the conditional modes.

All are on the scale of h, the response's transform: h(y) - h(f) for outcomes such as log-normal ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_names, require_host
from jaxnlme.binding.problem import Problem
from jaxnlme.diagnostics.settings import DIAGNOSTICS
from jaxnlme.errors import ModelError, OptionError, near_matches
from jaxnlme.model.derivatives import linearise
from jaxnlme.model.params import Params
from jaxnlme.results.evaluate import evaluate_by_bucket, has_interaction, require_estimates, to_rows

if TYPE_CHECKING:
    import pandas as pd

    from jaxnlme.results.record import FitRecord

KINDS = ("pres", "ires", "iwres", "pwres", "pwresi", "cwres", "cwresi")


def residuals(fit: FitRecord, kinds: str | Sequence[str] = ("pres", "ires", "pwres", "iwres", "cwres")) -> pd.DataFrame:
    """Residuals of the fitted rows, one column per kind, NaN where there is no response.

    With r(b) = h(y) - h(f(b)), s(b) the residual SD, b^ the conditional mode, z its whitened form, J = d h(f) / dz:

    - `pres` = r(0); `ires` = r(b^); `iwres` = r(b^) / s(b^).
    - `pwres` = C^(-1/2) r(0), C = J0 J0' + diag(s(0)^2): the linearisation at b = 0 (NONMEM's NWRES, and its WRES
      without interaction).
    - `cwres` = C^(-1/2) (r(b^) + J z), C = J J' + diag(s^2): the linearisation at b^, with s at b^, or at b = 0 for
      fits by FO and FOCE.
    - `pwresi`, `cwresi`: the same numerators, with s linearised in z as well, s + (ds/dz)' z, whose square has the mean
      s0^2 + |ds/dz|^2, s0 the linearised value at z = 0 (NONMEM's WRESI and CWRESI).

    C^(-1/2) is the symmetric root, NONMEM's default ("WRESCHOL: EIGENVALUE").

    **Arguments:** `kinds`: one or several of `KINDS`.
    **Returns:** a data frame in row order.
    **Raises:** ModelError where the outcome has no Gaussian moments; OptionError for an unknown kind; FitError where
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
    if not binding.density.error.has_gaussian_moments:
        raise ModelError(
            "residuals need a Gaussian residual model (a mean and a scale), and this outcome has none; compare "
            "fit.simulate() with the data instead."
        )
    require_estimates(fit)
    modes, _ = fit.conditional
    pieces = evaluate_by_bucket(_moments, fit, binding, modes)
    columns: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    for which, piece, bucket in zip(binding.bucket_groups, pieces, binding.problem.buckets, strict=True):
        residual, scale, jacobian, slope = (np.asarray(part) for part in piece)
        parts = _Parts(residual, scale, jacobian, slope, modes[which], has_interaction(fit))
        for kind in kinds:
            columns[kind].append(np.where(bucket.x.observed, getattr(parts, kind)(), np.nan))
    table = {kind: to_rows(binding, parts) for kind, parts in columns.items()}
    return pd.DataFrame(table, index=binding.data.row_labels)


def _moments(problem: Problem, params: Params, modes: jax.Array) -> list[tuple[jax.Array, ...]]:
    """For each bucket, at z = 0 and at the mode: residual and scale (groups, 2, obs), minus the derivative of the
    residual in z and the derivative of the scale in z (groups, 2, obs, random). Rows without a response have residual 0
    and scale 1."""
    density = problem.density

    def per_group(group, mode):
        def moments(z):
            f = density.predict(params, z, group)
            residual, scale, _ = density.error.moments(f, f, params.error, group)  # pyright: ignore[reportAttributeAccessIssue]
            return residual, scale

        def moments_and_slopes(z):
            (residual, scale), push = linearise(moments, z)
            residual_dot, scale_dot = jax.vmap(push, out_axes=-1)(jnp.eye(z.shape[0], dtype=z.dtype))
            return residual, scale, -residual_dot, scale_dot

        if density.n_effects == 0:
            residual, scale = moments(mode)
            none = jnp.zeros((2, *residual.shape, 0))
            return jnp.stack([residual, residual]), jnp.stack([scale, scale]), none, none
        return jax.vmap(moments_and_slopes)(jnp.stack([jnp.zeros_like(mode), mode]))

    return problem.map_buckets(per_group, modes)


class _Parts:
    """Arrays of one bucket, and a method for each kind of residual (groups, obs).

    **Arguments:** `residual`, `scale` (groups, 2, obs) and `jacobian`, `slope` (groups, 2, obs, random): minus the
    derivative of the residual and the derivative of the scale in z, at z = 0 and at the mode (see `_moments`); `z`
    (groups, random), whitened modes; `has_interaction`: see `evaluate.has_interaction`.
    """

    def __init__(
        self,
        residual: np.ndarray,
        scale: np.ndarray,
        jacobian: np.ndarray,
        slope: np.ndarray,
        z: np.ndarray,
        has_interaction: bool,
    ):
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

    def pwres(self):
        """Decorrelated r(0), the scale at b = 0."""
        return _decorrelate(self.residual[:, 0], self.jacobian[:, 0], self.scale[:, 0] ** 2)

    def pwresi(self):
        """As `pwres`, the scale linearised in z."""
        variance = self.scale[:, 0] ** 2 + np.sum(self.slope[:, 0] ** 2, axis=-1)
        return _decorrelate(self.residual[:, 0], self.jacobian[:, 0], variance)

    def _conditional(self):
        """r(b^) + J z."""
        return self.residual[:, 1] + np.einsum("gok,gk->go", self.jacobian[:, 1], self.z)

    def cwres(self):
        """Decorrelated r(b^) + J z."""
        scale = self.scale[:, 1 if self.interaction else 0]
        return _decorrelate(self._conditional(), self.jacobian[:, 1], scale**2)

    def cwresi(self):
        """As `cwres`, the scale linearised in z."""
        centre = self.scale[:, 1] - np.einsum("gok,gk->go", self.slope[:, 1], self.z)
        variance = centre**2 + np.sum(self.slope[:, 1] ** 2, axis=-1)
        return _decorrelate(self._conditional(), self.jacobian[:, 1], variance)


def _decorrelate(residual: np.ndarray, jacobian: np.ndarray, variance: np.ndarray) -> np.ndarray:
    """C^(-1/2) residual (groups, obs) with C = J J' + diag(variance) and the symmetric root; NaN for a group whose C is
    not finite.

    **Arguments:** `residual`, `variance` (groups, obs); `jacobian` J (groups, obs, random).
    """
    groups, obs = residual.shape
    out = np.full((groups, obs), np.nan)
    step = max(DIAGNOSTICS.matrix_entries // max(obs * obs, 1), 1)
    finite = np.flatnonzero(np.isfinite(jacobian).all(axis=(1, 2)) & np.isfinite(variance).all(axis=1))
    for start in range(0, len(finite), step):
        part = finite[start : start + step]
        j = jacobian[part]
        matrix = j @ j.transpose(0, 2, 1) + variance[part][:, :, None] * np.eye(obs)
        values, vectors = np.linalg.eigh(matrix)
        rotated = np.einsum("gji,gj->gi", vectors, residual[part]) / np.sqrt(values)
        out[part] = np.einsum("gij,gj->gi", vectors, rotated)
    return out
