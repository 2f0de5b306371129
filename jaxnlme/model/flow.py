"""A flow: non-Gaussian random effects b = L S(z), with a transformation S of z ~ N(0, I) that is estimated.

S is T with its mean and covariance under z ~ N(0, I) taken out, S(z) = K^-1 (T(z) - E T), K K' = Cov T, so that psi =
L L' stays the covariance matrix of b, and b has mean zero, whatever T is. The moments are computed by quadrature
at every evaluation, and differentiated with it.

T of `jn.Flow()` acts on each effect by itself, and is increasing:

    T_k(z_k) = z_k + sum over j of h_kj tanh(s_kj (z_k - c_kj)),   h, s > 0

It starts close to Gaussian (h = 0.01). Dependence between effects is that of L. A transformation of the user may mix
effects, and need not be invertible, because no density of b is used: all integrals are over z.

**Source:** Rezende and Mohamed (2015), Proceedings of ICML 37, 1530-1538, for flows; Papamakarios and others (2021),
Journal of Machine Learning Research 22(57), section 3.1.1, for sums of sigmoids.
"""

from __future__ import annotations

from typing import Any, final

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.errors import ModelError, OptionError, check_whole_number, shown
from jaxnlme.model.effect_distribution import AbstractEffectDistribution
from jaxnlme.model.networks import part_of, split_module, with_arrays
from jaxnlme.model.params import Params
from jaxnlme.model.settings import MODEL
from jaxnlme.numerics.linalg import cholesky, forward_solve
from jaxnlme.numerics.quadrature import normal_grid
from jaxnlme.signatures import check_call
from jaxnlme.typing import Vector


class SumOfSteps(eqx.Module):
    """T_k(z_k) = z_k + sum_j h_kj tanh(s_kj (z_k - c_kj)), h = softplus(height), s = softplus(steepness).

    **Fields:** `height`, `steepness`, `centre` (random, steps).
    """

    height: Any
    steepness: Any
    centre: Any

    def __call__(self, z: Vector) -> Vector:
        """T (random,) at `z` (random,)."""
        s = jax.nn.softplus(self.steepness) * (z[:, None] - self.centre)
        return z + jnp.sum(jax.nn.softplus(self.height) * jnp.tanh(s), axis=1)


@final
class Flow(AbstractEffectDistribution):
    """Random effects with an estimated distribution, `effects=` of `jn.NLMEModel`: b = L S(z), z ~ N(0, I), with S of
    mean zero and covariance I, so that psi stays the covariance matrix of b. The weights of S are in the free block of
    Params; `jn.Gradient` trains them, and so does any likelihood approximation.

    **Arguments:**

    - `transformation`: a callable Equinox module z (random,) -> (random,), for effects that depend on each other beyond
      their correlations (at most three effects); None: an increasing function of each effect by itself, a sum of steps.
    - `steps`: their number for each effect, without a `transformation`.

    A posterior of z with several modes is beyond the expansion at one mode: check an estimate by
    `jn.ImportanceSampling`, or fit by it.

    **Raises:** OptionError for steps out of range; ModelError for a transformation that is no module or has arrays
    that cannot be trained.
    **Source:** Rezende and Mohamed (2015), Proceedings of ICML 37, 1530-1538.

    **Example:**

    ```python
    flow = jn.NLMEModel(oral, [ka, cl, vol], covariance="diagonal", effects=jn.Flow())
    ```
    """

    transformation: Any = eqx.field(static=True)
    steps: int = eqx.field(static=True)
    arrays: Any = None

    def __new__(cls, *args: Any, **options: Any) -> Flow:
        """A new object. **Raises:** ArgumentError for arguments that `__init__` does not take."""
        check_call(cls, args, options)
        return super().__new__(cls)

    def __init__(self, transformation: Any = None, *, steps: int = 6):
        self.steps = check_whole_number("Flow: steps", steps, 1)
        self.transformation, self.arrays = transformation, None
        if transformation is None:
            return
        if not isinstance(transformation, eqx.Module) or not callable(transformation):
            raise ModelError(
                "Flow: transformation must be a callable Equinox module z -> T(z), such as an eqx.nn.MLP, or None; "
                f"received {shown(transformation)}."
            )
        if steps != 6:
            raise OptionError("Flow: steps is the size of the flow without a transformation; give one of them.")
        self.transformation, self.arrays = split_module(transformation, "effects")

    @property
    def description(self) -> str:
        return "the distribution of a flow"

    def resolve(self, effects: tuple[str, ...]) -> tuple[Flow, Any]:
        """The flow of a model with the random effects called `effects`.

        **Returns:** the flow, and its arrays in the free block.
        **Raises:** ModelError for a transformation of too many effects, or of another number of them.
        """
        q = len(effects)
        if self.transformation is not None:
            if q > MODEL.most_flow_effects:
                raise ModelError(
                    "Flow: a transformation is standardised by quadrature over all effects together, for at most "
                    f"{MODEL.most_flow_effects} of them; this model has {q} ({', '.join(effects)}). Use jn.Flow(), "
                    "which transforms each by itself."
                )
            out = jax.eval_shape(with_arrays(self.transformation, self.arrays), jnp.zeros(q))
            if getattr(out, "shape", None) != (q,):
                raise ModelError(
                    f"Flow: the transformation must return one value for each of {', '.join(effects)}, shape ({q},); "
                    f"it returned {out}."
                )
            return _with(self, self.transformation, None), self.arrays
        if self.arrays is not None and self.arrays.height.shape[0] == q:
            return _with(self, eqx.partition(self.arrays, eqx.is_array)[1], None), self.arrays
        # Centres at equally likely points, nearly flat steps: close to a Gaussian distribution.
        centre = np.linspace(-MODEL.flow_range, MODEL.flow_range, self.steps) if self.steps > 1 else np.zeros(1)
        shape = (q, self.steps)
        height = np.full(shape, np.log(np.expm1(MODEL.flow_start)))
        start = SumOfSteps(height, np.full(shape, np.log(np.expm1(1.0))), np.broadcast_to(centre, shape).copy())
        rest, arrays = split_module(start, "effects")
        return _with(self, rest, None), arrays

    def starting_at(self, arrays: Any) -> Flow:
        return self if arrays is None else _with(self, self.transformation, arrays)

    def transform(self, params: Params, z: Vector) -> Vector:
        function = with_arrays(self.transformation, part_of(params.free, "effects"))
        if isinstance(self.transformation, SumOfSteps):
            points = np.linspace(-MODEL.flow_reach, MODEL.flow_reach, MODEL.flow_nodes)[:, None]
            density = np.exp(-0.5 * points**2)
            weights = jnp.asarray(density / density.sum(), z.dtype)
            values = jax.vmap(function)(jnp.broadcast_to(jnp.asarray(points, z.dtype), (len(points), z.shape[0])))
            mean = jnp.sum(weights * values, axis=0)
            variance = jnp.sum(weights * (values - mean[None, :]) ** 2, axis=0)
            return (function(z) - mean) / jnp.sqrt(variance)
        points, log_weights = normal_grid(MODEL.joint_flow_nodes, z.shape[0])
        weights = jnp.asarray(np.exp(log_weights), z.dtype)[:, None]
        values = jax.vmap(function)(jnp.asarray(points, z.dtype))
        mean = jnp.sum(weights * values, axis=0)
        centred = values - mean[None, :]
        return forward_solve(cholesky((weights * centred).T @ centred), function(z) - mean)


def _with(flow: Flow, transformation: Any, arrays: Any) -> Flow:
    """`flow` with another transformation and arrays; `eqx.tree_at` does not reach static fields."""
    copy = object.__new__(Flow)
    for name, value in (("transformation", transformation), ("steps", flow.steps), ("arrays", arrays)):
        object.__setattr__(copy, name, value)
    return copy
