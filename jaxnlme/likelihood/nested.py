"""A group with random effects at nested levels whose log-density is a sum over the units of the innermost level.

With u_o = A_o beta + B_o L z_o the parameters of the rows of unit o on the transformed scale, and z_o the whitened
effects of the unit and of the levels around it, the log-density is sum_o l_o(u_o). All that mode, curvature and score
need are derivatives of the l_o in u_o: f is differentiated along the parameters of all units at once, since rows depend
on those of their own unit only, and sums over rows are sums over the rows of each unit. The Hessians in z are blocks of
a few rows for each unit (`numerics/block_arrow.py`), so that costs grow with the number of units.

Mode, value and score follow `score.py`, with the prediction replaced by its jet at the mode: differentiating a jet
costs sums of products, not evaluations of the model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxnlme.likelihood.group_result import GroupResult, group_result
from jaxnlme.likelihood.integrals import GaussHermite, Gaussian, no_monte_carlo_error
from jaxnlme.likelihood.mode import ModeSearch, newton_from_starts
from jaxnlme.likelihood.nested_quadrature import nested_quadrature
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.likelihood.transformed_group import TransformedGroup, by_row
from jaxnlme.likelihood.unit_layout import UnitLayout, by_unit
from jaxnlme.model.density import Density, Group
from jaxnlme.model.derivatives import directional_slope, partial_derivatives, value_and_gradient
from jaxnlme.model.individual_parameters import LinearIndividual
from jaxnlme.model.params import Params
from jaxnlme.numerics.block_arrow import factored, guarded
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.jets import Jet, count_partials
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.numerics.settings import COMPUTATION
from jaxnlme.numerics.written_out import Entries, column, product, transposed
from jaxnlme.typing import Scalar, Vector


def is_nested(density: Density, order: int) -> bool:
    """True if groups are computed unit by unit: there are separable levels and linear parameters, and a jet of `order`
    in them is not too large."""
    individual = density.individual
    return (
        density.levels is not None
        and density.levels.separable
        and isinstance(individual, LinearIndividual)
        and count_partials(len(individual.names), order) <= INTEGRATION.most_partials
    )


class NestedGroup(TransformedGroup):
    """One group at given Params, computed unit by unit. Used within one trace.

    **Fields:** those of TransformedGroup; `layout`: the UnitLayout; `q`: effects of a unit with those around it;
    `fixed`, `random`: A and B by entries, each a number or (units,).
    """

    def __init__(self, method: Any, density: Density, params: Params, group: Group):
        super().__init__(method, density, params, group)
        assert density.levels is not None
        self.layout = UnitLayout(density.levels, group.units)
        self.q = density.covariance.size
        of_units = tuple(c[self.layout.first_row] if jnp.ndim(c) else c for c in group.covariates)
        self.fixed = self.individual.fixed.entries_of_units(of_units)
        self.random = self.individual.random.entries_of_units(of_units)

    # --- rows and units ---

    def scaled_design(self, params: Params) -> Entries:
        """Z = B L by entries, (n, q), each (units,) or ()."""
        factor = self.density.covariance.factor(params.covariance)
        positions = [(j, k) for j in range(self.q) for k in range(self.q)]
        return product(self.random, {entry: factor[entry] for entry in positions})

    def parameters_of_units(self, params: Params, z: Vector) -> list[Any]:
        """u, one for each parameter, at the whitened effects `z` (random,): (units,), or () for parameters that are the
        same in all units, as the model function knows them."""
        parts = self.layout.parts(z)
        local, root = self.layout.nesting.local(parts), parts[0][0]
        factor = self.density.covariance.factor(params.covariance)
        b: list[Any] = [None] * self.q
        for level in self.layout.levels.levels:
            for j in level.effects:
                z_of = [root[k] if level.depth == 0 else local[:, k] for k in level.effects]
                b[j] = sum(factor[j, k] * value for k, value in zip(level.effects, z_of, strict=True))
        beta = column([params.beta[k] for k in range(params.beta.shape[0])])
        fixed, random = product(self.fixed, beta), product(self.random, column(b))
        zero = jnp.zeros((), z.dtype)
        return [zero + fixed.get((k, 0), 0.0) + random.get((k, 0), 0.0) for k in range(self.n)]

    def on_rows(self, units: list[Any]) -> list[Any]:
        """Values of units (units,) on their rows (obs,); values () of the group as they are."""
        return [value[self.layout.index] if jnp.ndim(value) else value for value in units]

    def jet(self, u: list[Any], order: int) -> Jet:
        """The jet of the prediction in the parameters of the rows' units, at `u`, each () or (obs,).

        Shifting a parameter of all units at once gives the derivative of each row in that of its own unit.
        """

        def shifted(*shifts: Any) -> Any:
            return self.predict(*(value + shift for value, shift in zip(u, shifts, strict=True)))

        return partial_derivatives(shifted, [jnp.zeros((), u[0].dtype)] * self.n, order)

    def frozen(self, params: Params, order: int) -> tuple[Jet, Vector] | None:
        """For a residual scale at z = 0: the jet of the prediction there, None where the scale depends on z."""
        if self.method is None or self.method.interaction:
            return None
        zero = jnp.zeros((self.density.n_effects,), params.beta.dtype)
        return self.jet(self.on_rows(self.parameters_of_units(params, zero)), order), zero

    def at_zero(self, frozen: tuple[Jet, Vector] | None, params: Params) -> Any:
        """The prediction at z = 0 from its jet, as a differentiable function of `params`."""
        if frozen is None:
            return None
        jet, zero = frozen
        return jet(*self.on_rows(self.parameters_of_units(params, zero)))

    # --- mode ---

    def blocks(self, uu: list[list[Any]], params: Params) -> Any:
        """Z_o' M_o Z_o (units, q, q), from the lower triangle of M with entries (units,)."""
        z = self.scaled_design(params)
        m = {(j, k): uu[max(j, k)][min(j, k)] for j in range(self.n) for k in range(self.n)}
        k = product(transposed(z), product(m, z))
        return by_unit(k, self.layout.units, self.q, self.q, params.beta.dtype)

    def expand(self, g: Any) -> Callable[[Vector], tuple[Scalar, Vector, Any]]:
        """The function of z (random,) that returns minus the log joint density, its gradient (random,), and the blocks
        (units, q, q) of its Hessian, without the identity of the prior.

        **Arguments:** `g` (obs,): the prediction from which the residual scale is computed, None: that at z.
        """
        layout, params = self.layout, self.params

        def at(z: Vector) -> tuple[Scalar, Vector, Any]:
            jet = self.jet(self.on_rows(self.parameters_of_units(params, z)), 2)
            value, slopes, rows = self.second_order(jet, g)
            lower = [(j, k) for j in range(self.n) for k in range(j + 1)]
            sums = layout.sum_rows([by_row(f) for f in slopes] + [by_row(rows[j][k]) for j, k in lower])
            in_u, flat = sums[: self.n], dict(zip(lower, sums[self.n :], strict=True))
            uu = [[-flat[j, k] for k in range(j + 1)] for j in range(self.n)]
            in_z = self.gradient_in_z(in_u, params)
            joint = value - 0.5 * jnp.sum(z**2) - self.density.n_effects * HALF_LOG_2PI
            return -joint, z - in_z, self.blocks(uu, params)

        return at

    def gradient_in_z(self, in_u: list[Any], params: Params) -> Vector:
        """The gradient (random,) in z from the gradients (units,) in each parameter."""
        in_local = product(transposed(self.scaled_design(params)), column(in_u))
        local = by_unit(in_local, self.layout.units, self.q, 1, params.beta.dtype)
        return self.layout.vector(self.layout.nesting.add_up(local[:, :, 0]))

    def solve(self, blocks: Any, right: Vector, floor: float = COMPUTATION.least_pivot) -> tuple[Vector, Scalar]:
        """The solution (random,) for a Hessian with these `blocks` (units, q, q), and whether it had to be modified;
        `right` where the blocks are not finite."""
        arrow, repaired = guarded(self.layout.nesting, jnp.where(jnp.all(jnp.isfinite(blocks)), blocks, 0.0), floor)
        # The effects of units that no group here has: their Hessian is the identity.
        outside = right - self.layout.vector(self.layout.parts(right))
        return self.layout.vector(arrow.solve(self.layout.parts(right))) + outside, repaired

    def mode(self, search: ModeSearch, g: Any, z0: Vector) -> tuple[Vector, NewtonResult]:
        """The conditional mode (random,), searched from `z0` (random,) or (starts, random), and the NewtonResult; `g`:
        as for `expand`."""
        return newton_from_starts(search, self.expand(g), z0, self.solve)

    # --- value and score ---

    def information(self, jet: Jet, u: list[Any], g: Any, theta: Vector) -> list[list[Any]]:
        """The lower triangle of M (`curvature_products`), entries (units,): the curvature in the parameters of each
        unit, as a differentiable function of `u`, each () or (obs,), `g` and `theta`."""
        lower = self.curvature_products(jet, u, g, theta)
        sums = iter(self.layout.sum_rows([by_row(entry) for row in lower for entry in row]))
        return [[next(sums) for _ in row] for row in lower]

    def functions_at(self, z: Vector, frozen: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
        """The log joint density and the value, as differentiable functions of (params, z) at the point `z` (random,),
        from the jet of the prediction there. The value comes with the blocks of the curvature."""
        density, integral = self.density, self.method.integral
        order = 3 if self.method.curvature == "exact" else 2
        jet = self.jet(self.on_rows(self.parameters_of_units(self.params, z)), order)

        def log_joint(params: Params, z: Vector) -> Scalar:
            f = jet(*self.on_rows(self.parameters_of_units(params, z)))
            prior = -0.5 * jnp.sum(z**2) - self.density.n_effects * HALF_LOG_2PI
            return prior + self.rows(f, self.at_zero(frozen, params), params.error)

        def value(params: Params, z: Vector) -> tuple[Scalar, Any]:
            u = self.on_rows(self.parameters_of_units(params, z))
            m = barrier(self.information(jet, u, self.at_zero(frozen, params), params.error))
            blocks = self.blocks(m, params)
            arrow = factored(self.layout.nesting, blocks)
            if isinstance(integral, GaussHermite):
                return nested_quadrature(density, params, self.group, z, arrow, self.layout, integral.nodes), blocks
            return log_joint(params, z) + density.n_effects * HALF_LOG_2PI - arrow.half_logdet, blocks

        return log_joint, value


def nested_value_and_score(
    method: Any,
    density: Density,
    unpack: Callable[[Vector], Params],
    x: Vector,
    group: Group,
    z0: Vector,
) -> tuple[GroupResult, Vector] | None:
    """`score.value_and_score` of a group with separable nested levels; None where it is not computed unit by unit.

    **Arguments:** `method`: a LikelihoodApproximation; others as for `score.value_and_score`.
    """
    order = 3 if method.curvature == "exact" else 2
    integral = method.integral
    if not (method.at_mode and isinstance(integral, (Gaussian, GaussHermite)) and is_nested(density, order)):
        return None
    params = unpack(x)
    group_at = NestedGroup(method, density, params, group)
    frozen = barrier(group_at.frozen(params, 1))
    g = group_at.at_zero(frozen, params)
    z, search = group_at.mode(method.search, g, z0)
    z = barrier(z)
    log_joint, value_at = group_at.functions_at(z, frozen)
    (value, blocks), (in_x, in_z) = value_and_gradient(
        lambda x, z: value_at(unpack(x), z), argnums=(0, 1), has_aux=True
    )(x, z)
    in_x, in_z = barrier((in_x, in_z))
    _, _, hessian_blocks = group_at.expand(g)(z)
    w = barrier(group_at.solve(barrier(hessian_blocks), in_z, floor=0.0)[0])
    through_mode = directional_slope(lambda x, z: log_joint(unpack(x), z), x, z, w)
    curvature = group_at.layout.dense(blocks)
    definite = jnp.isfinite(factored(group_at.layout.nesting, jax.lax.stop_gradient(blocks)).half_logdet)
    result = group_result(value, z, curvature, no_monte_carlo_error(), search, group, definite)
    return result, in_x + through_mode
