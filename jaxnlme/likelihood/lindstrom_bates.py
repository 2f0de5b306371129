"""LME and RELME: the linear mixed model that a nonlinear one becomes at given fixed and random effects.

At a point (beta0, b0) the transformed mean is replaced by its tangent; what is left is a linear mixed model
(linear_mixed_model.py). The random effects b0 solve the penalised least squares problem at beta0, with the weights
held at their own predictions, which are found by reweighting. A fixed point of Lindstrom and Bates' alternation is a point where
the gradient of the mixed model's likelihood vanishes, taken with the linearisation held at that same point.

**Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Pinheiro and Bates (2000), Mixed-Effects Models in S and
S-PLUS, sections 7.2.1 and 7.5.2 (variance functions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.errors import OptionError
from jaxnlme.likelihood.approximations import GroupResult, group_result, mode_search, require_gaussian_moments
from jaxnlme.likelihood.integrals import exact_integral
from jaxnlme.likelihood.linear_mixed_model import Mixed, Tangent, mixed
from jaxnlme.likelihood.mode import ModeSearch, search_mode
from jaxnlme.likelihood.one_pass import Local, written_out
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import as_number
from jaxnlme.numerics.implicit import along_axes, barrier
from jaxnlme.numerics.jets import Jet, jet
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.numerics.tracing import depends
from jaxnlme.typing import Vector

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

    @property
    def name(self) -> str:
        """LME, or RELME where it is restricted."""
        return "RELME" if self.restricted else "LME"

    def check(self, density: Density) -> None:
        """**Errors:** ModelError where the outcome has no Gaussian face."""
        require_gaussian_moments(self.name, density)


def LME(*, mode_steps: int = 100, mode_tolerance: float = 1e-6, reweightings: int = 50) -> Linearised:
    """Maximum likelihood of the linearised mixed model (nlme's and nlmefit's default)."""
    return _linearised(False, mode_steps, mode_tolerance, reweightings)


def RELME(*, mode_steps: int = 100, mode_tolerance: float = 1e-6, reweightings: int = 50) -> Linearised:
    """Restricted maximum likelihood of the linearised mixed model."""
    return _linearised(True, mode_steps, mode_tolerance, reweightings)


def _linearised(restricted: bool, mode_steps: int, mode_tolerance: float, reweightings: int) -> Linearised:
    if not reweightings >= 1:
        raise OptionError(f"reweightings must be at least 1; received {reweightings!r}.")
    return Linearised(restricted, mode_search(mode_steps, mode_tolerance), reweightings)


class LinearisedResult(eqx.Module):
    """What the linearised model says of one group: `result`, the GroupResult; `mixed`, the linear mixed model."""

    result: GroupResult
    mixed: Mixed


def linearised(
    method: Linearised, density: Density, about: Params, params: Params, group: Group, z0: Vector
) -> LinearisedResult:
    """One group linearised at `about`, and the linear mixed model there at `params`.

    **Arguments:** `z0` (random,): where the search of the whitened effects at `about` starts.
    """
    z, found, at = linearise(method, density, about, group, z0)
    model = mixed(density, settled(at), params, group, method.restricted)
    result = group_result(model.value, z, model.hessian, exact_integral(), found, group)
    seen = jnp.any(group.x.observed)
    return LinearisedResult(result, jax.tree.map(lambda leaf: jnp.where(seen, leaf, 0.0), model))


# --- where to linearise ---


def linearise(
    method: Linearised, density: Density, params: Params, group: Group, z0: Vector
) -> tuple[Vector, NewtonResult | None, Tangent]:
    """The whitened effects (random,), how their search went, and the group linearised there."""
    known = written_out(method, density, params, group, 2)
    if known is not None:

        def mode(f, z):
            known.frozen = Jet((f,), ((),))
            found = known.mode(z)
            known.frozen = None  # a tracer of the loop that calls this
            return found

        z, found = _reweighted(method, density, params, group, lambda z: known.predict(*known.at(z)), mode, z0)
        return z, found, tangent(density, params, group, z, known)

    z, found = z0, None
    if density.n_effects:

        def mode(f, z):
            return search_mode(method.search, density, params, group, f, z)

        z, found = _reweighted(method, density, params, group, lambda z: density.predict(params, z, group), mode, z0)
    return z, found, tangent(density, params, group, z, None)


def tangent(density: Density, params: Params, group: Group, z: Vector, known: Local | None) -> Tangent:
    """One group linearised at `params` and the whitened effects z (random,): in the parameters on their transformed
    scale where `known`, of the same Params, has them linear in beta and b, else in beta and b themselves."""
    b = density.effects(params, z)
    if known is not None:
        at = jet(known.predict, known.at(z), 1)
        slopes = [at.partial(k) for k in range(known.n)]
        return Tangent(at.partial(), slopes, known.fixed, known.random, params.beta, b)

    def predict(beta, b):
        phi = density.individual.phi(beta, b, group)
        return density.structural(params.free, phi, group.x, group.v)

    prediction, push = jax.linearize(predict, params.beta, b)
    p, q = params.beta.shape[0], density.n_effects
    slopes = along_axes(lambda axis: push(axis[:p], axis[p:]), p + q, params.beta.dtype)
    fixed, random = {(k, k): 1.0 for k in range(p)}, {(p + k, k): 1.0 for k in range(q)}
    return Tangent(prediction, slopes, fixed, random, params.beta, b)


def tangent_at(density: Density, params: Params, group: Group, z: Vector) -> Tangent:
    """`tangent` with the Local found here, and what the model makes of z computed once."""
    found = tangent(density, params, group, z, written_out(None, density, params, group, 1))
    return settled(found)


def settled(tangent: Tangent) -> Tangent:
    """The same group, its rows computed once."""
    return eqx.tree_at(lambda t: (t.prediction, t.slopes), tangent, barrier((tangent.prediction, tangent.slopes)))


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

    `mode(f, z)` minimises from `z` with weights at the prediction f. Without weights that move, once is enough, and any
    prediction will do."""

    def log_scale(f):
        return jnp.log(density.error.moments(f, f, params.error, group)[1])

    if not depends(log_scale, group.y):
        return mode(group.y, z0)
    first = predict(z0)
    # A start that is not finite has no weights: those of the population then.
    f0 = jnp.where(jnp.all(jnp.isfinite(log_scale(first))), first, predict(jnp.zeros_like(z0)))
    z, found = mode(f0, z0)

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
