"""Draws of the random effects of all groups from their conditional distributions given the data.

By importance sampling: proposals from a t distribution around the conditional mode with Laplace's covariance, weighted
by the joint density and resampled; exact up to the Monte Carlo error of the effective number of draws. By Laplace's
approximation: normal around the mode with the inverse curvature.

With draws of the population parameters theta, the mode of a group is searched at each of them, z(theta), and the
deviation of a draw from the mode at the estimates, standardised by Laplace's covariance there, is added in units of
that at theta.

**Source:** Geweke (1989), Econometrica 57, 1317-1339, for importance sampling; Booth and Hobert (1998), Journal of the
American Statistical Association 93, 262-272, for the two parts of the uncertainty of conditional predictions.
"""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import jax.scipy.linalg as jsp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.likelihood.conditional_mode import search_mode
from jaxnlme.likelihood.curvature import exact
from jaxnlme.likelihood.integrals import chi_squared, log_t_density
from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled
from jaxnlme.precision import x64
from jaxnlme.results.evaluate import has_interaction
from jaxnlme.results.settings import DRAWS
from jaxnlme.sampling.importance import normalised_weights, systematic_resample

if TYPE_CHECKING:
    from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True, eq=False)
class EffectDraws:
    """Draws of whitened random effects.

    **Fields:** `z` (groups, draws, random); `mean` (groups, random), `covariance` (groups, random, random): conditional
    moments, weighted over all proposals; `ess` (groups,): the effective number of proposals, NaN where there were none;
    `by_laplace` (groups,): true where the draws are those of Laplace's approximation.
    """

    z: np.ndarray
    mean: np.ndarray
    covariance: np.ndarray
    ess: np.ndarray
    by_laplace: np.ndarray


def effect_draws(
    fit: FitRecord,
    binding: Binding,
    modes: tuple[np.ndarray, np.ndarray],
    n: int,
    seed: int,
    method: str = "importance",
    which: np.ndarray | None = None,
) -> EffectDraws:
    """Draws at the estimates for the groups of `binding`. The random numbers of a group are a function of seed and
    label.

    **Arguments:** `modes` (groups, random) and the curvature there (groups, random, random); `n` draws; `seed`;
    `method`: "importance" (Laplace's approximation for groups with few effective draws) or "laplace"; `which`
    (groups,): the groups that need draws, None: all; others have NaN.
    **Raises:** OptionError for more draws than fit into memory.
    """
    mode, curvature = modes
    m, q = mode.shape
    if m * n * q > DRAWS.most_effects:
        raise OptionError(
            f"{n} draws of {q} random effects of {m} groups do not fit into memory; use fewer draws, or ask for some "
            "of the groups at a time (data=data.select(...))."
        )
    out = EffectDraws(
        np.full((m, n, q), np.nan), np.full((m, q), np.nan), np.full((m, q, q), np.nan), np.full(m, np.nan),
        np.full(m, method == "laplace"),
    )  # fmt: skip
    if q == 0:
        return out
    factors, covariance = _laplace_factors(curvature)
    proposals = DRAWS.proposals * n if method == "importance" else 0
    with x64():
        params, key = on_device(fit.params), jax.random.fold_in(jax.random.key(seed), 1)
        for count, groups, stack in chunks(binding, max(proposals, n), which):
            program = compiled(_draws, stack.y.size * max(proposals, n), once=True)
            at = mode[groups], factors[groups]
            pieces = program(binding.density, params, stack, *on_device(at), key, n, proposals)
            for field, piece in zip(("z", "mean", "covariance", "ess", "by_laplace"), pieces, strict=True):
                getattr(out, field)[groups[:count]] = np.asarray(piece)[:count]
    exact = out.by_laplace & (np.ones(m, bool) if which is None else which)
    out.mean[exact], out.covariance[exact] = mode[exact], covariance[exact]
    return out


def draws_at(
    fit: FitRecord, binding: Binding, modes: tuple[np.ndarray, np.ndarray], packed: np.ndarray,
    deviations: np.ndarray | None, which: np.ndarray | None = None,
) -> np.ndarray:  # fmt: skip
    """Random effects (groups, draws, random) given the data at drawn parameters `packed` (draws, packed): the modes
    there, plus `deviations` (groups, draws, random) from the mode at the estimates, None for none; other arguments as
    for `effect_draws`. A draw of parameters at which a mode is not found has the effects at the estimates, with a
    warning."""
    mode, curvature = modes
    m, q = mode.shape
    out = np.full((m, len(packed), q), np.nan)
    if q == 0:
        return out
    factors, _ = _laplace_factors(curvature)
    standard = np.zeros((m, 1, q))
    if deviations is not None:
        standard = np.einsum("gjk,gdk->gdj", np.linalg.inv(factors), deviations)
    failed = total = 0
    with x64():
        params, draws = on_device(fit.params), on_device(packed)
        for count, groups, stack in chunks(binding, 4 * (1 + q) * len(packed), which):
            program = compiled(_at_parameters, stack.y.size * len(packed), once=True)
            at = on_device((mode[groups], factors[groups], standard[groups]))
            values, found = program(binding.density, params, draws, stack, *at, has_interaction(fit))
            out[groups[:count]] = np.asarray(values)[:count]
            failed, total = failed + int(np.sum(~np.asarray(found)[:count])), total + count * len(packed)
    if failed > DRAWS.most_failed * total:
        warnings.warn(
            f"{failed} of {total} conditional modes at drawn parameters were not found; these draws have the random "
            "effects at the estimates.",
            stacklevel=6,
        )
    return out


def chunks(binding: Binding, times: int, which: np.ndarray | None = None) -> Any:
    """The groups of a binding in chunks whose rows, `times` over, are at most `DRAWS.cells_per_call`.

    **Arguments:** `which` (groups,): those to include, None: all.
    **Returns:** triples: how many groups of the chunk count; their positions among all groups (chunk,), the last one
    repeated so that all chunks of a bucket have one size; the stacked groups.
    """
    for members, bucket in zip(binding.bucket_groups, binding.problem.buckets, strict=True):
        inside = np.arange(len(members)) if which is None else np.flatnonzero(which[np.asarray(members)])
        if not len(inside):
            continue
        size = max(1, min(len(inside), DRAWS.cells_per_call // max(bucket.y.shape[1] * times, 1)))
        for start in range(0, len(inside), size):
            part = inside[np.minimum(np.arange(start, start + size), len(inside) - 1)]
            stack = on_device(jax.tree.map(lambda leaf, part=part: leaf[part], bucket))
            yield min(size, len(inside) - start), np.asarray(members)[part], stack


def laplace_deviations(curvature: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Deviations (groups, n, random) from the modes, drawn from Laplace's approximation with `curvature` (groups,
    random, random)."""
    factors, _ = _laplace_factors(curvature)
    normal = np.random.default_rng(seed).standard_normal((len(curvature), n, curvature.shape[-1]))
    return np.einsum("gjk,gdk->gdj", factors, normal)


def _laplace_factors(curvature: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lower factors (groups, random, random) of Laplace's covariances, and these; NaN where a curvature is not positive
    definite."""
    factors, covariance = np.full_like(curvature, np.nan), np.full_like(curvature, np.nan)
    finite = np.isfinite(curvature).all(axis=(1, 2))
    values = np.full(curvature.shape[:2], np.nan)
    values[finite] = np.linalg.eigvalsh(curvature[finite])
    good = finite & (values > 0).all(axis=1)
    covariance[good] = np.linalg.inv(curvature[good])
    factors[good] = np.linalg.cholesky(covariance[good])
    return factors, covariance


def _draws(
    density: Density, params: Params, groups: Any, modes: Any, factors: Any, key: Any, n: int, proposals: int
) -> tuple[Any, ...]:
    """For stacked groups: draws (groups, n, random), their weighted means and covariances, effective numbers of
    proposals, and true where Laplace's approximation was used."""
    q = modes.shape[1]

    def per_group(group: Any, mode: Any, factor: Any) -> tuple[Any, ...]:
        own = jax.random.fold_in(key, group.key)
        normal, mixing, resampling, order = jax.random.split(own, 4)
        plain = mode[None, :] + jax.random.normal(jax.random.fold_in(own, 1), (n, q), modes.dtype) @ factor.T
        if not proposals:
            return plain, mode, factor @ factor.T, jnp.nan, True
        df = DRAWS.degrees_of_freedom
        scale = jnp.sqrt(df / chi_squared(mixing, df, proposals, modes.dtype))
        u = jax.random.normal(normal, (proposals, q), modes.dtype) * scale[:, None]
        z = mode[None, :] + u @ factor.T
        joint = jax.vmap(lambda row: density.log_joint(params, row, group))(z)
        weights, ess = normalised_weights(joint - log_t_density(u, df))
        chosen = systematic_resample(weights, n, jax.random.uniform(resampling, (), modes.dtype))
        mean = weights @ z
        spread = z - mean[None, :]
        covariance = (spread * weights[:, None]).T @ spread
        few = ~(ess >= DRAWS.least_effective)
        return jnp.where(few, plain, z[jax.random.permutation(order, chosen)]), mean, covariance, ess, few

    return jax.vmap(per_group)(groups, modes, factors)


def _at_parameters(
    density: Density, params: Params, packed: Any, groups: Any, modes: Any, factors: Any, standard: Any,
    interaction: bool,
) -> tuple[Any, Any]:  # fmt: skip
    """Random effects (groups, draws, random) of stacked groups at the parameters `packed` (draws, packed), and true
    where their mode was found (groups, draws).

    **Arguments:** `modes`, `factors` of Laplace's covariances, at the estimates; `standard` (groups, draws or 1,
    random): deviations from the mode, standardised by these factors.
    """
    search, number = ModeSearch(), jnp.arange(packed.shape[0])
    eye = jnp.eye(modes.shape[1])

    def per_group(group: Any, mode: Any, factor: Any, standard: Any) -> tuple[Any, Any]:
        def at(k: Any) -> tuple[Any, Any]:
            moved, own = params.unpack(packed[k]), standard[k if standard.shape[0] > 1 else 0]
            at_zero = None if interaction else density.predict(moved, jnp.zeros_like(mode), group)
            z, result = search_mode(search, density, moved, group, at_zero, mode)
            # Laplace's covariance is the inverse of C C' with C the lower factor of the curvature.
            lower = jnp.linalg.cholesky(exact(density, moved, z, group, at_zero))
            root = jnp.linalg.cholesky(jsp.cho_solve((lower, True), eye))
            found = result.converged & result.finite & jnp.isfinite(root).all()
            return jnp.where(found, z + root @ own, mode + factor @ own), found

        return jax.vmap(at)(number)

    return jax.vmap(per_group)(groups, modes, factors, standard)
