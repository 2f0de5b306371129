"""The linear mixed model of one group with random effects at nested levels, for a given linearisation.

As in `linear_mixed_model.py`, with sums over rows for each unit o and M_o, c_o, A_o, B_o, Z_o = B_o L those of its
rows and of the effects of the unit and the levels around it (E_o selects them from those of the group):

    H = I + sum E_o' Z_o' M_o Z_o E_o,    z = H^-1 sum E_o' Z_o' (c_o - M_o t_o),    t_o = A_o (beta - beta0) - B_o b0_o
    w_o = t_o + Z_o E_o z,    s_o = c_o - M_o w_o,    S_o = E_o H^-1 E_o'
    in beta           sum A_o' s_o,         in L   sum B_o' (s_o z_o' - M_o Z_o S_o)
    X' V^-1 X         sum A_o' M_o A_o - R' H^-1 R,   R = sum E_o' Z_o' M_o A_o
    D_o               A_o - Z_o E_o H^-1 R,           B' Q A = sum E_o' B_o' M_o D_o

H is a block arrow (`numerics/block_arrow.py`). A group whose rows depend on effects of several units is one unit with
the effects of all.
"""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.likelihood.linear_mixed_model import (
    LinearMixedResult,
    error_score,
    slopes_of_information,
    whitened_rows,
)
from jaxnlme.likelihood.nested import NestedGroup, is_nested
from jaxnlme.likelihood.unit_layout import UnitLayout, by_unit
from jaxnlme.model import derivatives
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.block_arrow import Nesting, dense, factored
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.linalg import cholesky
from jaxnlme.typing import Vector


class NestedTangent(eqx.Module):
    """A group with nested levels linearised at (beta0, b0).

    **Fields:** `prediction` (obs,): f there; `slopes`: its derivatives (obs,) in each of the coordinates u of the row's
    unit; `fixed` (units, coordinates, fixed), `random` (units, coordinates, effects): A and B of each unit; `index`
    (obs,): the unit of each row; `nesting`: of the units; `beta` (fixed,) and `b` (units, effects): beta0 and b0;
    `by_unit`: false for a group that is one unit with the effects of all.
    """

    prediction: Any
    slopes: list[Any]
    fixed: Any
    random: Any
    index: Any
    nesting: Nesting
    beta: Any
    b: Any
    by_unit: bool = eqx.field(static=True)


def nested_tangent(density: Density, params: Params, group: Group, z: Vector) -> NestedTangent:
    """One group linearised at `params` and the whitened effects `z` (random,)."""
    assert density.levels is not None
    b = density.effects(params, z)
    p, size = params.beta.shape[0], density.n_effects
    if is_nested(density, 1):
        at = NestedGroup(None, density, params, group)
        jet = at.jet(at.on_rows(at.parameters_of_units(params, z)), 1)
        slopes = [jet.partial(k) for k in range(at.n)]
        units, nesting = at.layout.units, at.layout.nesting
        fixed, random = (by_unit(m, units, at.n, k, z.dtype) for m, k in ((at.fixed, p), (at.random, at.q)))
        local = nesting.local(at.layout.parts(b))
        return NestedTangent(jet.partial(), slopes, fixed, random, at.layout.index, nesting, params.beta, local, True)

    def predict(beta, b):
        return density.structural(params.free, density.phi_given(beta, b, group), group.x, group.v)

    prediction, push = derivatives.linearise(predict, params.beta, b)
    slopes = derivatives.tangents(lambda axis: push(axis[:p], axis[p:]), p + size, z.dtype)
    identity = jnp.eye(p + size, dtype=z.dtype)[None]
    index = jnp.zeros(group.y.shape, int)
    return NestedTangent(
        prediction, slopes, identity[:, :, :p], identity[:, :, p:], index, Nesting((size,), ()), params.beta, b[None],
        False,
    )  # fmt: skip


def nested_linear_mixed_model(
    density: Density, tangent: NestedTangent, params: Params, group: Group, with_slopes: bool
) -> LinearMixedResult:
    """Likelihood, score and information of one group at `params`, for a linearisation that is held constant.

    **Arguments:** as for `linear_mixed_model`.
    """
    levels, nesting = density.levels, tangent.nesting
    assert levels is not None
    units = nesting.units[-1]

    def factor_of(theta: Vector) -> Any:
        factor = density.covariance.factor(theta)
        return factor if tangent.by_unit else levels.expanded(factor)

    e, columns, logs = barrier(whitened_rows(density, tangent, group, params.error, tangent.slopes))
    rows = jnp.stack(columns, axis=1)
    m = jax.ops.segment_sum(rows[:, :, None] * rows[:, None, :], tangent.index, units)
    c = jax.ops.segment_sum(rows * e[:, None], tangent.index, units)
    a, b = tangent.fixed, tangent.random
    t = jnp.einsum("unp,p->un", a, params.beta - tangent.beta) - jnp.einsum("unq,uq->un", b, tangent.b)
    z_matrix = b @ factor_of(params.covariance)
    zm = jnp.einsum("unq,unm->uqm", z_matrix, m)
    blocks = zm @ z_matrix
    arrow = factored(nesting, blocks)
    right = jnp.einsum("unq,un->uq", z_matrix, c) - jnp.einsum("uqm,um->uq", zm, t)
    parts = arrow.solve(nesting.add_up(right))
    z = nesting.local(parts)
    w = t + jnp.einsum("unq,uq->un", z_matrix, z)
    s = c - jnp.einsum("unm,um->un", m, w)
    fitted = jnp.sum(rows * w[tangent.index], axis=1)
    squares = jnp.sum((e - fitted) ** 2) + sum(jnp.sum(part**2) for part in parts)
    value = logs - 0.5 * squares - arrow.half_logdet

    inverse = arrow.local_inverse()
    in_z_matrix = s[:, :, None] * z[:, None, :] - jnp.swapaxes(zm, 1, 2) @ inverse
    in_factor = jnp.einsum("unq,unr->qr", b, in_z_matrix)
    score = [
        jnp.einsum("unp,un->p", a, s),
        jnp.einsum("qr,qrt->t", in_factor, jax.jacfwd(factor_of)(params.covariance)),
    ]
    if params.error.shape[0]:
        root = jax.vmap(cholesky)(inverse)
        v = jnp.einsum("unq,uqk->unk", z_matrix, root)  # P_o = V_o V_o'
        in_rows = [_combined(tangent, w), *(_combined(tangent, v[:, :, k]) for k in range(v.shape[2]))]
        score.append(error_score(density, tangent, group, params.error, in_rows))

    ma = jnp.einsum("unm,ump->unp", m, a)
    reduced = jnp.einsum("unq,unp->uqp", z_matrix, ma)
    solved = nesting.local(arrow.solve(nesting.add_up(reduced)))
    information = jnp.einsum("unp,unr->pr", a, ma) - jnp.einsum("uqp,uqr->pr", reduced, solved)
    cross_products, information_slopes = None, None
    if with_slopes:
        d = a - jnp.einsum("unq,uqp->unp", z_matrix, solved)
        bqa = nesting.add_up(jnp.einsum("unq,unp->uqp", b, jnp.einsum("unm,ump->unp", m, d)))
        cross_products = _cross_products(density, bqa, tangent.by_unit)
        in_rows = [_combined(tangent, d[:, :, k]) for k in range(d.shape[2])]
        information_slopes = slopes_of_information(density, tangent, group, params, in_rows)
    layout = UnitLayout(levels, group.units)
    hessian = layout.dense(blocks) if tangent.by_unit else dense(nesting, blocks)
    return LinearMixedResult(value, jnp.concatenate(score), hessian, information, cross_products, information_slopes)


def _combined(tangent: NestedTangent, units: Any) -> Vector:
    """The product (obs,) of the slopes of each row with the coordinates `units` (units, coordinates) of its unit."""
    return sum(slope * units[:, k][tangent.index] for k, slope in enumerate(tangent.slopes))


def _cross_products(density: Density, parts: list[Any], by_unit: bool) -> Any:
    """Products (effects, effects, fixed, fixed) of the entries of B' Q A, added over the units of each level; zero for
    effects of different levels.

    **Arguments:** `parts`: B' Q A by level (units, effects, fixed); if not `by_unit`, of all effects in one unit.
    """
    levels, q, p = density.levels, density.covariance.size, parts[0].shape[-1]
    assert levels is not None
    if not by_unit:
        parts = [jnp.moveaxis(part, 0, -1) for part in levels.split(parts[0][0].T)]
    elif levels.levels[0].depth:
        parts = parts[1:]
    out = jnp.zeros((q, q, p, p), parts[0].dtype)
    for level, part in zip(levels.levels, parts, strict=True):
        at = np.ix_(level.effects, level.effects)
        out = out.at[at].set(jnp.einsum("ujp,ukr->jkpr", part, part))
    return out
