"""LME and RELME: the linear mixed model that linearises a nonlinear one at given fixed and random effects.

At a point (beta0, b0) the transformed mean is replaced by its tangent, which gives a linear mixed model
(linear_mixed_model.py). The random effects b0 solve the penalised least squares problem at beta0 whose weights are
computed from their own predictions, by iterative reweighting. At a fixed point of Lindstrom and Bates' alternation the
gradient of the mixed model's likelihood vanishes when the linearisation is held constant at that point.

**Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Pinheiro and Bates (2000), Mixed-Effects Models in S and
S-PLUS, sections 7.2.1 and 7.5.2 (variance functions).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.arguments import check_count
from jaxnlme.likelihood.approximations import mode_search
from jaxnlme.likelihood.conditional_mode import search_mode
from jaxnlme.likelihood.group_result import GroupResult, group_result
from jaxnlme.likelihood.integrals import no_monte_carlo_error
from jaxnlme.likelihood.linear_mixed_model import LinearMixedResult, Tangent, linear_mixed_model
from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.likelihood.nested import NestedGroup, is_nested
from jaxnlme.likelihood.nested_linear_mixed_model import NestedTangent, nested_linear_mixed_model, nested_tangent
from jaxnlme.likelihood.one_pass import OnePassGroup, one_pass_to_order
from jaxnlme.likelihood.requirements import require_linearisable
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.model import derivatives
from jaxnlme.model.density import Density, Group
from jaxnlme.model.effects import require_untransformed
from jaxnlme.model.params import Params
from jaxnlme.numerics.arrays import number_to_array
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.jets import Jet
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.numerics.tracing import depends
from jaxnlme.signatures import public
from jaxnlme.typing import Vector


class Linearised(eqx.Module):
    """The likelihood of the linearised mixed model; `LME` and `RELME` make these.

    **Arguments:** `restricted`: the likelihood integrated over beta (RELME); `search`: limits of the search of the
    random effects; `reweightings`: the most reweightings for a group, where the residual scale depends on the
    prediction. The last two are traced.
    """

    restricted: bool = eqx.field(static=True, default=False)
    search: ModeSearch = ModeSearch()
    reweightings: Any = eqx.field(default=50, converter=number_to_array)

    at_mode = True

    @property
    def name(self) -> str:
        """LME, or RELME for the restricted likelihood."""
        return "RELME" if self.restricted else "LME"

    def check(self, density: Density) -> None:
        """Check that the outcome has Gaussian moments. **Raises:** ModelError where it has none."""
        require_linearisable(self.name, density)
        require_untransformed(self.name, density)


@public("jn.LME")
def LME(*, mode_steps: int = 100, mode_tolerance: float = 1e-6, reweightings: int = 50) -> Linearised:
    """Maximum likelihood for the linearised mixed model (the default of R's nlme and MATLAB's nlmefit).

    **Arguments:** `mode_steps`: most evaluations in a search of the random effects of a group; `mode_tolerance`: length
    of a Newton step, in whitened units, that ends it; `reweightings`: the most for a group, where the residual scale
    depends on the prediction.
    **Returns:** a Linearised, a method of `jn.fit`.
    **Raises:** OptionError for numbers out of range.
    **Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687.

    **Example:**

    ```python
    jn.fit(model, data, jn.LME(reweightings=100), standard_errors=False)
    ```
    """
    return _linearised(False, mode_steps, mode_tolerance, reweightings)


@public("jn.RELME")
def RELME(*, mode_steps: int = 100, mode_tolerance: float = 1e-6, reweightings: int = 50) -> Linearised:
    """Restricted maximum likelihood (REML) for the linearised mixed model; see `LME` for arguments and source.

    **Example:**

    ```python
    jn.fit(model, data, jn.RELME(), standard_errors=False)
    ```
    """
    return _linearised(True, mode_steps, mode_tolerance, reweightings)


def _linearised(restricted: bool, mode_steps: int, mode_tolerance: float, reweightings: int) -> Linearised:
    check_count("reweightings", reweightings, 1)
    return Linearised(restricted, mode_search(mode_steps, mode_tolerance), reweightings)


class LinearisedResult(eqx.Module):
    """Likelihood of one group of the linearised model: `result`, a GroupResult; `linear_mixed`, score and information
    of the linear mixed model."""

    result: GroupResult
    linear_mixed: LinearMixedResult


def linearised_likelihood(
    method: Linearised, density: Density, expansion: Params, params: Params, group: Group, z0: Vector
) -> LinearisedResult:
    """Likelihood at `params` of one group linearised at `expansion`.

    **Arguments:** `method`: LME or RELME; `expansion`: the Params at which the random effects are searched and the
    model is linearised; `z0` (random,): start of that search, whitened.
    **Returns:** a LinearisedResult, all zero in `linear_mixed` for a group without an observed response.
    """
    z, search, tangent = linearise(method, density, expansion, group, z0)
    model = model_of_tangent(density, computed_once(tangent), params, group, method.restricted)
    # I + Z' M Z is positive definite wherever it is finite; nested levels make it too large to be factored once more.
    definite = None if density.levels is None else jnp.all(jnp.isfinite(model.hessian))
    result = group_result(model.value, z, model.hessian, no_monte_carlo_error(), search, group, definite)
    observed = jnp.any(group.x.observed)
    return LinearisedResult(result, jax.tree.map(lambda leaf: jnp.where(observed, leaf, 0.0), model))


# --- the point of linearisation ---


def linearise(
    method: Linearised, density: Density, params: Params, group: Group, z0: Vector
) -> tuple[Vector, NewtonResult | None, Tangent | NestedTangent]:
    """The random effects of one group at `params`, and the group linearised there.

    **Arguments:** `z0` (random,): start of the search, whitened.
    **Returns:** the whitened effects (random,), the NewtonResult of their search (None without random effects), and the
    Tangent.
    """
    expansion = one_pass_to_order(method, density, params, group, 2)
    if expansion is not None:

        def mode(f, z):
            expansion.frozen = Jet((f,), ((),))
            result = expansion.mode(z)
            expansion.frozen = None  # a tracer of the loop that calls this
            return result

        z, search = _reweighted(method, density, params, group, lambda z: expansion.predict(*expansion.at(z)), mode, z0)
        return z, search, tangent_at(density, params, group, z, expansion)

    z, search = z0, None
    if density.n_effects:
        by_unit = is_nested(density, 2)

        def mode(f, z):
            if by_unit:
                return NestedGroup(method, density, params, group).mode(method.search, f, z)
            return search_mode(method.search, density, params, group, f, z)

        z, search = _reweighted(method, density, params, group, lambda z: density.predict(params, z, group), mode, z0)
    return z, search, tangent_at(density, params, group, z, None)


def tangent_at(
    density: Density, params: Params, group: Group, z: Vector, expansion: OnePassGroup | None
) -> Tangent | NestedTangent:
    """One group linearised at `params` and the whitened effects `z` (random,).

    **Arguments:** `expansion`: the group at `params` with derivatives in the individual parameters on their transformed
    scale, where these are linear in beta and b; None: the derivatives are those in beta and b.
    """
    if density.levels is not None:
        return nested_tangent(density, params, group, z)
    b = density.effects(params, z)
    if expansion is not None:
        prediction_jet = derivatives.partial_derivatives(expansion.predict, expansion.at(z), 1)
        slopes = [prediction_jet.partial(k) for k in range(expansion.n)]
        return Tangent(prediction_jet.partial(), slopes, expansion.fixed, expansion.random, params.beta, b)

    def predict(beta, b):
        phi = density.phi_given(beta, b, group)
        return density.structural(params.free, phi, group.x, group.v)

    prediction, push = derivatives.linearise(predict, params.beta, b)
    p, q = params.beta.shape[0], density.n_effects
    slopes = derivatives.tangents(lambda axis: push(axis[:p], axis[p:]), p + q, params.beta.dtype)
    fixed, random = {(k, k): 1.0 for k in range(p)}, {(p + k, k): 1.0 for k in range(q)}
    return Tangent(prediction, slopes, fixed, random, params.beta, b)


def model_of_tangent(
    density: Density, tangent: Tangent | NestedTangent, params: Params, group: Group, with_slopes: bool
) -> LinearMixedResult:
    """The linear mixed model of one linearised group, without nested levels or with them; arguments as for
    `linear_mixed_model`."""
    if isinstance(tangent, NestedTangent):
        return nested_linear_mixed_model(density, tangent, params, group, with_slopes)
    return linear_mixed_model(density, tangent, params, group, with_slopes)


def tangent_from_draws(density: Density, params: Params, group: Group, z: Vector) -> Any:
    """One group linearised at `params` and the whitened effects `z` (random,), for likelihoods from draws."""
    return computed_once(tangent_at(density, params, group, z, one_pass_to_order(None, density, params, group, 1)))


def computed_once(tangent: Any) -> Any:
    """The tangent behind a compiler barrier, so that prediction and derivatives are computed once."""
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
    """The minimiser of the penalised sum of squares with weights computed from its own prediction.

    If the weights do not depend on the prediction, one minimisation is enough, with weights at any prediction.

    **Arguments:** `predict(z)`: the prediction; `mode(f, z)`: minimises from `z` with weights at the prediction f; `z0`
    (random,): start.
    **Returns:** the minimiser (random,) and the NewtonResult of the searches, converged only if the weights are.
    """

    def log_scale(f):
        return jnp.log(density.error.moments(f, f, params.error, group)[1])

    if not depends(log_scale, group.y):
        return mode(group.y, z0)
    first = predict(z0)
    # If the prediction at z0 is not finite, start from the weights at z = 0.
    f0 = jnp.where(jnp.all(jnp.isfinite(log_scale(first))), first, predict(jnp.zeros_like(z0)))
    z, search = mode(f0, z0)

    def weights_changed(old, z):
        change = jnp.abs(log_scale(predict(z)) - log_scale(old))
        return jnp.max(jnp.where(jnp.isfinite(change), change, jnp.inf)) > INTEGRATION.reweighting_tolerance

    def reweight(state):
        f, z, search, _, count = state
        f = predict(z)
        next_z, next_search = mode(f, z)
        evaluations = search.evaluations + next_search.evaluations
        search = eqx.tree_at(lambda r: r.evaluations, next_search, evaluations)
        return f, next_z, search, weights_changed(f, next_z), count + 1

    def not_done(state):
        *_, search, changed, count = state
        return changed & search.converged & (count < method.reweightings)

    start = (f0, z, search, weights_changed(f0, z), jnp.zeros((), int))
    _, z, search, changed, _ = jax.lax.while_loop(not_done, reweight, start)
    return z, eqx.tree_at(lambda r: r.converged, search, search.converged & ~changed)
