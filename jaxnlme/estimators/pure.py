"""`estimate`: a whole fit as a pure function of arrays, to vmap over starts, weights or responses."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError
from jaxnlme.estimators.marginal import Marginal
from jaxnlme.estimators.objective import flatten, unflatten
from jaxnlme.likelihood.named import Rung, rung
from jaxnlme.model.binding import bind
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.precision import require_x64


class Estimate(eqx.Module):
    """What `estimate` returns: `params`; `log_likelihood`, the weighted sum there; `modes` (groups, random);
    `expected_gain`, what a further step is predicted to gain; `ended`, true where that is below the tolerance (not
    DESIGN's full contract, which `fit` checks); `iterations`."""

    params: Params
    log_likelihood: Any
    modes: Any
    expected_gain: Any
    ended: Any
    iterations: Any


def estimate(
    model: NLMEModel | None,
    params0: Params,
    data: GroupedData | Problem,
    method: str | Rung = "focei",
    weights: Any = None,
    *,
    fixed: Any = None,
    max_iterations: Any = 500,
    tolerance: Any = 1e-8,
) -> Estimate:
    """Maximises a rung from `params0`: pure, so whole fits run under jit and vmap, each lane ending on its own.

    **Arguments:** `weights` (groups,), the data's where None: multinomial ones are a case bootstrap, zeros delete
    cases; `fixed` (packed,) bool, entries that stay (the model's own where None and `data` is GroupedData, none for a
    Problem); `max_iterations`, `tolerance` as in `fit`.
    **Errors:** PrecisionError where 64-bit floats are off.
    """
    require_x64("estimate")
    estimator = Marginal(rung(method), max_iterations, tolerance)
    if isinstance(data, Problem):
        problem = data
    elif model is None:
        raise ModelError("a model is needed beside GroupedData; only a Problem carries its own.")
    else:
        binding = bind(model, data)
        problem, fixed = binding.problem, binding.fixed if fixed is None else fixed
    estimator.method.check(problem.density)
    if weights is not None:
        problem = eqx.tree_at(lambda p: p.weights, problem, weights)
    params0 = jax.tree.map(jnp.asarray, params0)
    x = flatten(params0)
    free = jnp.ones(x.shape, bool)
    if fixed is not None:
        free = free.at[: len(fixed)].set(~jnp.asarray(fixed))
    modes = jnp.zeros((problem.n_groups, problem.density.n_effects))
    state = estimator.run(problem, params0, x, modes, free)
    bfgs = state.bfgs
    ended = (bfgs.decrement < tolerance) & jnp.isfinite(bfgs.value)
    return Estimate(
        unflatten(params0, bfgs.x), state.log_likelihood, state.modes, bfgs.decrement, ended, bfgs.iterations
    )
