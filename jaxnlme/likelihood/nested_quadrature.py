"""Adaptive Gauss-Hermite quadrature over nested levels: inner levels are integrated given each node of the outer ones.

With z_0 the effects of the group and z_o those of unit o, and H the curvature at the mode, of which D_o is the block of
unit o and S what elimination of all units leaves for the group,

    log p(y) = log int N(z_0; 0, I) prod_o [ int N(z_o; 0, I) p(y_o | z_0, z_o) dz_o ] dz_0.

The nodes of z_0 are placed at the mode by S^-1, those of z_o around the mean of z_o given z_0 in the Gaussian with
curvature H, by D_o^-1. All units share a node, so that n nodes per effect need n^(q_0 + q_1) evaluations of the model
rather than n^(q_0 + units q_1); further levels nest in the same way. One node is Laplace's approximation.

**Source:** Pinheiro and Chao (2006), Journal of Computational and Graphical Statistics 15, 58-81, multilevel adaptive
Gaussian quadrature.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp

from jaxnlme.errors import OptionError
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.likelihood.unit_layout import UnitLayout
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.block_arrow import BlockArrow, add_to_parents
from jaxnlme.numerics.linalg import backward_solve
from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.typing import Scalar, Vector


def check_nodes(nodes: int, density: Density, by_moments: bool = False) -> None:
    """Check that quadrature with `nodes` per effect is possible for a model with nested levels.

    **Raises:** OptionError for too many points, for units that are not separable, and for nodes placed `by_moments`.
    """
    levels = density.levels
    assert levels is not None
    if by_moments:
        raise OptionError(
            "AGQ: centre='moments' is for one level of random effects, and this model has "
            f"{len(levels.levels)}; use jn.AGQ({nodes}) with centre='mode'."
        )
    if not levels.separable:
        raise OptionError(
            f"AGQ({nodes}) integrates the units of {levels.innermost.name!r} one by one, which this model does not "
            f"allow: {levels.coupling}. Use 'laplace', 'focei' or importance sampling."
        )
    q = density.covariance.size
    if nodes**q > COMPUTATION.max_grid_points:
        raise OptionError(
            f"AGQ: {nodes} nodes on {q} random effects of {len(levels.levels)} levels make {nodes**q:,} points, more "
            f"than {COMPUTATION.max_grid_points:,}; use fewer nodes, or importance sampling."
        )


def nested_quadrature(
    density: Density, params: Params, group: Group, z: Vector, arrow: BlockArrow, layout: UnitLayout, nodes: int
) -> Scalar:
    """log p(y) of one group.

    **Arguments:** `z` (random,): the mode; `arrow`: the factored curvature there; `layout`: of the group; `nodes`: per
    effect.
    **Raises:** OptionError for an outcome whose log-density has no terms by row.
    """
    nesting, last = layout.nesting, len(layout.nesting.sizes) - 1
    modes = layout.parts(z)
    backward = jax.vmap(backward_solve)

    def of_units(deviations: list[Any]) -> tuple[Any, Scalar]:
        """Log-densities of the responses of the innermost units (units,) at deviations from the mode by level."""
        at = layout.vector([mode + d for mode, d in zip(modes, deviations, strict=True)])
        f = density.predict(params, at, group)
        if not density.error_at(params).has_row_terms(f, params.error, group):
            raise OptionError(
                "AGQ with nested levels needs the log-density of each row, and this outcome returns one number for the "
                "group; let its density return one value for each row, or use 'laplace'."
            )
        rows, constant = density.error_at(params).row_terms(f, params.error, group)
        return jax.ops.segment_sum(rows, layout.index, layout.units), constant

    def integral(level: int, deviations: list[Any], around: Any) -> tuple[Any, Scalar]:
        """Log-integrals (units,) over the effects of `level` and of those inside, given the `deviations` of the levels
        before; `around` (units, ...): these by unit."""
        lower, q = arrow.factors[level], nesting.sizes[level]
        centre = jnp.zeros_like(modes[level])
        if level:
            centre = -backward(lower, jnp.sum(arrow.couplings[level - 1] * around[:, None, :], axis=2))

        def term(u: Vector) -> tuple[Any, Scalar]:
            deviation = centre + jax.vmap(lambda lower: backward_solve(lower, u))(lower)
            inside = [*deviations, deviation]
            if level == last:
                values, constant = of_units(inside)
            else:
                local = jnp.concatenate([around, deviation], axis=1)
                parent = nesting.parents[level]
                values, constant = integral(level + 1, inside, local[parent])
                values = add_to_parents(values, parent, nesting.units[level])
            penalty = -0.5 * jnp.sum((modes[level] + deviation) ** 2, axis=1)
            return values + penalty + 0.5 * jnp.sum(u**2), constant

        if q == 0:
            return term(jnp.zeros((0,), z.dtype))
        points, log_weights = normal_grid(nodes, q)
        points = jnp.asarray(points, z.dtype)
        if level < last:
            values, constants = jax.lax.map(term, points, batch_size=_batch(nodes, nesting.sizes[level + 1 :]))
        else:
            values, constants = jax.vmap(term)(points)
        half_logdets = jnp.sum(jnp.log(jnp.diagonal(lower, axis1=1, axis2=2)), axis=1)
        return logsumexp(values + log_weights[:, None], axis=0) - half_logdets, constants[0]

    value, constant = integral(0, [], jnp.zeros((1, 0), z.dtype))
    return value[0] + constant


def _batch(nodes: int, inner: tuple[int, ...]) -> int:
    """Nodes of an outer level that are computed at a time, so that points do not exceed INTEGRATION.batch by much."""
    return max(INTEGRATION.batch // nodes ** sum(inner), 1)
