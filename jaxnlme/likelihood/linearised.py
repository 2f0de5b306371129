"""LME and RELME: the linear mixed model that a nonlinear one becomes at given fixed and random effects.

At a point (beta0, b0) the transformed mean h(f) is replaced by its tangent in coordinates u that parameters move in,
u = A beta + B b. With J the Jacobian of h(f), e = h(y) - h(f) and W = S^-2 the weights there,

    h(y) - J t  ~  N(J B b, S^2) + ...,      t = A (beta - beta0) - B b0,      b = L z ~ N(0, psi),

so a group's likelihood as a function of (beta, psi, error parameters), the linearisation held, is that of a linear
mixed model. All it needs of the rows are the sums M = J' W J, c = J' W e, e' W e and the log-scales:

    log p = logs - (e' W e - 2 c' t + t' M t - g' H^-1 g) / 2 - log|H| / 2,
    Z = B L,    H = I + Z' M Z,    g = Z' (c - M t).

The random effects b0 solve the penalised least squares problem at beta0 with the weights held at their own
predictions, which are found by reweighting. A fixed point of Lindstrom and Bates' alternation is a point where the
gradient of this likelihood vanishes, taken with the linearisation held at that same point.

**Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Pinheiro and Bates (2000), Mixed-Effects Models in S and
S-PLUS, sections 7.2.1 and 7.5.2 (variance functions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.errors import ModelError
from jaxnlme.likelihood.local import written_out
from jaxnlme.likelihood.marginal import exact_integral
from jaxnlme.likelihood.mode import ModeSearch, search_mode
from jaxnlme.likelihood.named import GroupResult, group_result, mode_search
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import as_number
from jaxnlme.numerics.constants import HALF_LOG_2PI
from jaxnlme.numerics.entries import Entries, added, as_matrix, as_vector, column, product, symmetric, transposed
from jaxnlme.numerics.implicit import along_axes, settle
from jaxnlme.numerics.jets import Jet, jet
from jaxnlme.numerics.linalg import cholesky, cholesky_solve, half_logdet
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.numerics.tracing import depends
from jaxnlme.typing import Scalar, Vector

# Weights count as found when no log-scale moves by more than this in a reweighting.
STILL = 1e-9


class Linearised(eqx.Module):
    """The likelihood of the linearised mixed model.

    **Fields:** `restricted`: integrated over beta (RELME); `search`, how the random effects are searched;
    `reweightings`, the most a group may use where the residual scale moves with the prediction. The last two are
    traced.
    """

    restricted: bool = eqx.field(static=True, default=False)
    search: ModeSearch = ModeSearch()
    reweightings: Any = eqx.field(default=50, converter=as_number)

    at_mode = True
    interaction = True

    @property
    def name(self) -> str:
        """ "LME" or "RELME"."""
        return "RELME" if self.restricted else "LME"

    def check(self, density: Density) -> None:
        """**Errors:** ModelError where the outcome has no Gaussian face."""
        if not density.error.gaussian_face:
            raise ModelError(
                f"{self.name} needs a Gaussian residual model (a mean and a scale), and this outcome has none; "
                "use 'laplace', jn.AGQ(...) or jn.ImportanceSampling(...)."
            )


def LME(*, mode_steps: int = 100, mode_tolerance: float = 1e-6, reweightings: int = 50) -> Linearised:
    """Maximum likelihood of the linearised mixed model (nlme's and nlmefit's default)."""
    return Linearised(False, mode_search(mode_steps, mode_tolerance), reweightings)


def RELME(*, mode_steps: int = 100, mode_tolerance: float = 1e-6, reweightings: int = 50) -> Linearised:
    """Restricted maximum likelihood of the linearised mixed model."""
    return Linearised(True, mode_search(mode_steps, mode_tolerance), reweightings)


class Tangent(eqx.Module):
    """A group linearised: `prediction` (obs,) f at (beta0, b0); `slopes`, its derivatives (obs,) in the coordinates u;
    `fixed`, `random`, A and B as Entries; `beta`, `b`, where."""

    prediction: Any
    slopes: list[Any]
    fixed: Entries
    random: Entries
    beta: Any
    b: Any


class LinearisedResult(eqx.Module):
    """What the linearised model says of one group: `result`, the GroupResult; `score` (n,), the gradient of its value
    in the dense vector with the linearisation held; `information` (fixed, fixed), X' V^-1 X; `slopes`
    (n - fixed, fixed, fixed), its derivatives in covariance and error parameters (None unless restricted)."""

    result: GroupResult
    score: Any
    information: Any
    slopes: Any


def linearised_score(
    method: Linearised,
    density: Density,
    unpack: Callable[[Vector], Params],
    about: Vector,
    x: Vector,
    group: Group,
    z0: Vector,
) -> LinearisedResult:
    """The linearised model of one group at `unpack(about)`, its likelihood and score at `x` (n,).

    **Arguments:** `z0` (random,): where the search of the whitened effects at `about` starts.
    """
    params = unpack(about)
    z, found, tangent = _linearise(method, density, params, group, z0)
    tangent = eqx.tree_at(lambda t: (t.prediction, t.slopes), tangent, settle((tangent.prediction, tangent.slopes)))
    (value, hessian), score = jax.value_and_grad(
        lambda x: _log_likelihood(density, tangent, unpack(x), group), has_aux=True
    )(x)
    p = params.beta.shape[0]
    information = _information(density, tangent, unpack(x), group)
    slopes = None
    if method.restricted:
        slopes = jax.jacfwd(lambda rest: _information(density, tangent, unpack(x.at[p:].set(rest)), group))(x[p:])
        slopes = jnp.moveaxis(slopes, -1, 0)
    result = group_result(value, z, hessian, exact_integral(), found, group)
    seen = jnp.any(group.x.observed)
    score, information, slopes = jax.tree.map(lambda leaf: jnp.where(seen, leaf, 0.0), (score, information, slopes))
    return LinearisedResult(result, score, information, slopes)


# --- where to linearise ---


def _linearise(
    method: Linearised, density: Density, params: Params, group: Group, z0: Vector
) -> tuple[Vector, NewtonResult | None, Tangent]:
    """The whitened effects (random,), how their search went, and the group linearised there."""
    known = written_out(method, density, params, group, 2)
    if known is not None:

        def mode(f, z):
            known.frozen = Jet((f,), ((),))
            return known.mode(z)

        z, found = _reweighted(method, density, params, group, lambda z: known.predict(*known.at(z)), mode, z0)
        at = jet(known.predict, known.at(z), 1)
        slopes = [at.partial(k) for k in range(known.n)]
        b = density.effects(params, z)
        return z, found, Tangent(at.partial(), slopes, known.fixed, known.random, params.beta, b)

    def predict(beta, b):
        phi = density.individual.phi(beta, b, group)
        return density.structural(params.free, phi, group.x, group.v)

    z, found = z0, None
    if density.n_effects:

        def mode(f, z):
            return search_mode(method.search, density, params, group, f, z)

        z, found = _reweighted(
            method, density, params, group, lambda z: predict(params.beta, density.effects(params, z)), mode, z0
        )
    b = density.effects(params, z)
    prediction, push = jax.linearize(predict, params.beta, b)
    p, q = params.beta.shape[0], density.n_effects
    slopes = along_axes(lambda axis: push(axis[:p], axis[p:]), p + q, params.beta.dtype)
    fixed, random = {(k, k): 1.0 for k in range(p)}, {(p + k, k): 1.0 for k in range(q)}
    return z, found, Tangent(prediction, slopes, fixed, random, params.beta, b)


def _reweighted(
    method: Linearised,
    density: Density,
    params: Params,
    group: Group,
    predict: Callable[[Vector], Any],
    mode: Callable[[Any, Vector], tuple[Vector, NewtonResult]],
    z0: Vector,
) -> tuple[Vector, NewtonResult]:
    """The minimiser of the penalised sum of squares whose weights are those of its own prediction.

    `mode(f, z)` minimises from `z` with weights at the prediction f. Without weights that move, once is enough."""

    def log_scale(f):
        return jnp.log(density.error.moments(f, f, params.error, group)[1])

    first = predict(z0)
    # A start that is not finite has no weights: those of the population then.
    f0 = jnp.where(jnp.all(jnp.isfinite(log_scale(first))), first, predict(jnp.zeros_like(z0)))
    z, found = mode(f0, z0)
    if not depends(log_scale, f0):
        return z, found

    def moved(old, z):
        change = jnp.abs(log_scale(predict(z)) - log_scale(old))
        return jnp.max(jnp.where(jnp.isfinite(change), change, jnp.inf)) > STILL

    def again(state):
        f, z, found, _, count = state
        f = predict(z)
        next_z, next_found = mode(f, z)
        evaluations = found.evaluations + next_found.evaluations
        found = eqx.tree_at(lambda r: r.evaluations, next_found, evaluations)
        return f, next_z, found, moved(f, next_z), count + 1

    def going(state):
        *_, found, more, count = state
        return more & found.converged & (count < method.reweightings)

    start = (f0, z, found, moved(f0, z), jnp.zeros((), int))
    _, z, found, more, _ = jax.lax.while_loop(going, again, start)
    return z, eqx.tree_at(lambda r: r.converged, found, found.converged & ~more)


# --- the likelihood, linearisation held ---


def _sums(density: Density, tangent: Tangent, error: Vector, group: Group) -> tuple[list, list[Any], Any, Any]:
    """M (a lower triangle), c, e' W e and the log terms of the rows, at the error parameters `error`."""
    f = tangent.prediction

    def residual_at(f_mean):
        residual, scale, slope = density.error.moments(f_mean, f, error, group)
        return residual, (scale, slope)

    residual, bent, (scale, slope) = jax.jvp(residual_at, (f,), (jnp.ones_like(f),), has_aux=True)
    precision = 1.0 / scale
    e = residual * precision
    rows = [-bent * precision * one for one in tangent.slopes]
    n = len(rows)
    m = [[jnp.sum(rows[j] * rows[k]) for k in range(j + 1)] for j in range(n)]
    logs = jnp.sum(jnp.where(group.x.observed, slope - HALF_LOG_2PI - jnp.log(scale), 0.0))
    return m, [jnp.sum(row * e) for row in rows], jnp.sum(e**2), logs


def _shift(tangent: Tangent, beta: Vector) -> Entries:
    """t = A (beta - beta0) - B b0."""
    moved = product(tangent.fixed, column([beta[k] - tangent.beta[k] for k in range(beta.shape[0])]))
    back = product(tangent.random, column([-tangent.b[k] for k in range(tangent.b.shape[0])]))
    return added(moved, back)


def _spread(density: Density, tangent: Tangent, params: Params) -> Entries:
    """Z = B L."""
    q = density.n_effects
    if not q:
        return {}
    factor = density.covariance.factor(params.covariance)
    return product(tangent.random, {(i, j): factor[i, j] for i in range(q) for j in range(q)})


def _log_likelihood(density: Density, tangent: Tangent, params: Params, group: Group) -> tuple[Scalar, Any]:
    """log p(y) of the linearised model at `params`, and H."""
    q, dtype = density.n_effects, params.beta.dtype
    m, c, squares, logs = _sums(density, tangent, params.error, group)
    t, c = _shift(tangent, params.beta), column(c)
    mt = product(symmetric(m), t)
    zero = jnp.zeros((), dtype)
    quadratic = squares - 2.0 * _inner(c, t, zero) + _inner(mt, t, zero)
    value = logs - 0.5 * quadratic
    if not q:
        return value, jnp.zeros((0, 0), dtype)
    spread = _spread(density, tangent, params)
    across = transposed(spread)
    hessian = jnp.eye(q) + as_matrix(product(across, product(symmetric(m), spread)), q, dtype)
    pull = as_vector(product(across, added(c, {place: -entry for place, entry in mt.items()})), q, dtype)
    lower = cholesky(hessian)
    value = value + 0.5 * jnp.sum(pull * cholesky_solve(lower, pull)) - half_logdet(lower)
    return value, hessian


def _information(density: Density, tangent: Tangent, params: Params, group: Group) -> Any:
    """X' V^-1 X (fixed, fixed), X = J A, V = S^2 + J Z Z' J': A' (M - M Z H^-1 Z' M) A."""
    p, q, dtype = params.beta.shape[0], density.n_effects, params.beta.dtype
    m = symmetric(_sums(density, tangent, params.error, group)[0])
    ma = product(m, tangent.fixed)
    plain = as_matrix(product(transposed(tangent.fixed), ma), p, dtype)
    if not q:
        return plain
    spread = _spread(density, tangent, params)
    hessian = jnp.eye(q) + as_matrix(product(transposed(spread), product(m, spread)), q, dtype)
    lower = cholesky(hessian)
    cross = product(transposed(spread), ma)  # Z' M A, (random, fixed)
    columns = [as_vector({(i, 0): cross[i, k] for i in range(q) if (i, k) in cross}, q, dtype) for k in range(p)]
    solved = [cholesky_solve(lower, one) for one in columns]
    taken = [[jnp.sum(columns[j] * solved[k]) for k in range(p)] for j in range(p)]
    return plain - jnp.stack([jnp.stack(row) for row in taken]) if p else plain


def _inner(a: Entries, b: Entries, zero: Scalar) -> Scalar:
    return sum((a[place] * b[place] for place in a if place in b), zero)
