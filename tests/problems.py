"""Small problems that tests share: model functions, data, and lists of covariances, residual models and approximations.

Model functions are at module level, because tests share a compiled program only if the function is the same object.
Most of the time of these tests is compilation, so `results`, `totals` and `slopes` compile with few optimisations (a
few groups run fast enough), take everything as arguments, and batch over parameters within one program.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxnlme as jn
from jaxnlme.binding.problem import Problem
from jaxnlme.likelihood.approximations import LikelihoodApproximation
from jaxnlme.likelihood.group_result import GroupResult
from jaxnlme.likelihood.log_likelihood import evaluate_groups, log_likelihood
from jaxnlme.model.params import Params
from jaxnlme.model.residual_error.base import AbstractError, ErrorParameter
from jaxnlme.numerics.compiling import compiler_options

cheap = functools.partial(jax.jit, compiler_options=compiler_options(0, jax.default_backend()))


@cheap
def results(problem: Problem, approximation: LikelihoodApproximation, params: Params) -> GroupResult:
    """The GroupResult of all groups."""
    return evaluate_groups(problem, params, approximation)


def values(problem: Problem, approximation: LikelihoodApproximation, params: Params) -> np.ndarray:
    """log p(y_i) of every group (groups,)."""
    return np.asarray(results(problem, approximation, params).value)


def _total(problem: Problem, approximation: LikelihoodApproximation, template: Params, packed: Any) -> jax.Array:
    return log_likelihood(None, template.unpack(packed), problem, approximation)


@cheap
def totals(problem: Problem, approximation: LikelihoodApproximation, template: Params, batch: Any) -> jax.Array:
    """The log-likelihood (batch,) at packed vectors (batch, n)."""
    return jax.vmap(lambda packed: _total(problem, approximation, template, packed))(batch)


@cheap
def slopes(
    problem: Problem, approximation: LikelihoodApproximation, template: Params, batch: Any
) -> tuple[jax.Array, jax.Array]:
    """The log-likelihood (batch,) and its gradient (batch, n) at packed vectors (batch, n)."""
    return jax.vmap(jax.value_and_grad(lambda packed: _total(problem, approximation, template, packed)))(batch)


@cheap
def gradients_and_hessians(
    problem: Problem, approximation: LikelihoodApproximation, template: Params, batch: Any
) -> tuple[jax.Array, jax.Array]:
    """The gradient (batch, n) and Hessian (batch, n, n) of the log-likelihood at packed vectors (batch, n)."""

    def both(packed):
        gradient = jax.grad(lambda packed: _total(problem, approximation, template, packed))
        slope, push = jax.linearize(gradient, packed)
        return slope, jax.vmap(push)(jnp.eye(packed.shape[0]))

    return jax.vmap(both)(batch)


# Central differences of fourth order: nodes and weights of the first derivative.
STENCIL = np.array([-2.0, -1.0, 1.0, 2.0])
STENCIL_WEIGHTS = np.array([1.0, -8.0, 8.0, -1.0]) / 12.0


def stencil(point: np.ndarray, step: float) -> np.ndarray:
    """`point` (n,) and its 4 n neighbours along the axes, (1 + 4 n, n)."""
    shifts = step * STENCIL[None, :, None] * np.eye(len(point))[:, None, :]
    return np.concatenate([point[None], (point + shifts).reshape(-1, len(point))])


def differences(at_stencil: np.ndarray, n: int, step: float) -> np.ndarray:
    """Derivatives (n, ...) along the axes from the values at `stencil`."""
    neighbours = at_stencil[1:].reshape(n, 4, *at_stencil.shape[1:])
    return np.einsum("s,ns...->n...", STENCIL_WEIGHTS, neighbours) / step


# ---- model functions


def linear(phi, x):
    """Linear in the parameters, and so in b: every likelihood approximation is exact."""
    return phi.a + phi.b * x.t + phi.c * x.s


def mean(phi, x):
    """The parameter itself: the regression is in the design matrices."""
    return phi.mu + 0.0 * x.t


def decay(phi, x):
    """An exponential decay to an asymptote, positive for positive parameters."""
    return phi.a + phi.b * jnp.exp(-phi.c * x.t)


def decay_rate(phi, x):
    """A decay in which only the rate is random."""
    return 3.0 * jnp.exp(-phi.c * x.t)


def wang(phi, x):
    """One-compartment bolus of Wang (2007): dose 10 at time 0."""
    return 10.0 * jnp.exp(-phi.ke * x.Time)


def log_wang(phi, x):
    """`wang` on the log scale."""
    return jnp.log(10.0) - phi.ke * x.Time


def one_compartment(phi, x, v):
    """First-order absorption and elimination, dose at time 0 in v.AMT."""
    ke = phi.cl / phi.v
    return v.AMT * phi.ka / (phi.v * (phi.ka - ke)) * (jnp.exp(-ke * x.TIME) - jnp.exp(-phi.ka * x.TIME))


def boluses(phi, x, v):
    """One-compartment boluses from the table v.doses, by superposition."""
    since = x.time[:, None] - v.doses.time[None, :]
    past = v.doses.mask[None, :] & (since >= 0)
    fraction = jnp.where(past, jnp.exp(-phi.cl / phi.v * jnp.where(past, since, 0.0)), 0.0)
    return jnp.sum(v.doses.amount[None, :] * fraction, axis=1) / phi.v


def log_rate(phi, x):
    """A linear predictor."""
    return phi.a + phi.b * x.t


def hazard(phi, x):
    """A constant hazard for every row."""
    return phi.h + 0.0 * x.t


# ---- outcomes with a log-likelihood of the user


def poisson(y, f, p, x, v):
    """Counts with mean exp(f)."""
    return y * f - jnp.exp(f) - jax.scipy.special.gammaln(y + 1.0)


def binary(y, f, p, x, v):
    """Zeros and ones with logit f."""
    return y * f - jnp.logaddexp(0.0, f)


def weibull(y, f, p, x, v):
    """Times to event y with hazard f k (f y)^(k - 1), censored where x.event is 0. A density of the whole group."""
    terms = x.event * (jnp.log(p.k * f) + (p.k - 1.0) * jnp.log(f * y)) - (f * y) ** p.k
    return jnp.sum(jnp.where(x.observed, terms, 0.0))


OUTCOMES: dict[str, AbstractError] = {
    "poisson": jn.GroupLogLikelihood(poisson),
    "binary": jn.GroupLogLikelihood(binary),
    "weibull": jn.GroupLogLikelihood(weibull, (ErrorParameter("k", 1.3, "log"),)),
}

# ---- lists that feed parametrised tests

EFFECTS = ("a", "b", "c")
_PSI = np.array([[0.30, 0.10, -0.06], [0.10, 0.25, 0.05], [-0.06, 0.05, 0.20]])
_BLOCK = np.array([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
_INTERLEAVED = np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]])

# name: (the specification, a psi of that structure)
COVARIANCES: dict[str, tuple[Any, np.ndarray]] = {
    "diagonal": ("diagonal", _PSI * np.eye(3)),
    "full": ("full", _PSI),
    "blocks": ([["b", "a"], ["c"]], _PSI * _BLOCK),
    "interleaved": (_INTERLEAVED, _PSI * _INTERLEAVED),
    "identity": ("identity", 0.25 * np.eye(3)),
    "compound symmetry": ("compound symmetry", 0.25 * (0.7 * np.eye(3) + 0.3)),
}


# The range of y in `decay_data` is about 2 to 6.
ERRORS: dict[str, AbstractError] = {
    "constant": jn.error.constant(0.3),
    "proportional": jn.error.proportional(0.1),
    "combined": jn.error.combined(0.1, 0.1),
    "combined variance": jn.error.combined_variance(0.1, 0.1),
    "power": jn.error.power(0.1, 0.8),
    "constant plus power": jn.error.constant_power(0.1, 0.1, 0.8),
    "combined by stratum": jn.error.combined(0.1, 0.1, by="kind"),
    "exponential": jn.error.exponential(0.1),
    "log of transformed": jn.error.transform_both_sides("log", jn.error.combined(0.1, 0.1), of_transformed=True),
    "box-cox": jn.error.transform_both_sides("box-cox", "constant", shape=0.4),
    "yeo-johnson": jn.error.transform_both_sides("yeo-johnson", jn.error.combined(0.1, 0.1), shape=0.6),
    "logit": jn.error.transform_both_sides("logit(0, 20)", jn.error.constant(0.2)),
    "probit": jn.error.transform_both_sides("probit(0, 20)", jn.error.proportional(0.05)),
}

APPROXIMATIONS: dict[str, LikelihoodApproximation] = {
    "FO": jn.FO(),
    "FOCE": jn.FOCE(),
    "FOCEI": jn.FOCEI(),
    "Laplace": jn.Laplace(),
    "AGQ(3)": jn.AGQ(3),
}

# ---- data and models


def ragged(sizes: tuple[int, ...], seed: int) -> tuple[np.ndarray, np.ndarray, np.random.Generator]:
    """Group labels and times (rows,) in [0, 3] of groups with these sizes."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    return group, rng.uniform(0.0, 3.0, len(group)), rng


def linear_data() -> jn.GroupedData:
    """Five groups of 1 to 7 rows, two predictors, a group weight, one missing response."""
    group, t, rng = ragged((1, 4, 7, 3, 6), 1)
    s = rng.normal(size=len(group))
    y = 1.0 + 0.5 * t - 0.3 * s + rng.normal(size=len(group))
    y[6] = np.nan
    weights = np.array([1.0, 2.0, 0.5, 0.0, 3.0])
    return jn.GroupedData.from_arrays(y, group, {"t": t, "s": s}, weights=weights)


def linear_model(covariance: Any = "diagonal") -> jn.NLMEModel:
    """`linear` with three random effects and a constant error."""
    parameters = [
        jn.Parameter(name, start, random=True, sd=0.5) for name, start in zip("abc", (1.2, 0.4, -0.2), strict=True)
    ]
    return jn.NLMEModel(linear, parameters, covariance, jn.error.constant(0.7))


def decay_data(seed: int = 2) -> jn.GroupedData:
    """Four groups of 2 to 5 positive responses, a stratum, one missing response."""
    group, t, rng = ragged((3, 5, 4, 2), seed)
    f = 2.0 * np.exp(0.2 * rng.normal(size=4))[group] + 3.0 * np.exp(-np.exp(0.2 * rng.normal(size=4))[group] * t)
    y = f * np.exp(0.1 * rng.normal(size=len(group)))
    y[4] = np.nan
    kind = np.arange(len(group)) % 2
    return jn.GroupedData.from_arrays(y, group, {"t": t, "kind": kind.astype(float)})


def decay_model(covariance: Any = "diagonal", error: str | AbstractError = "constant") -> jn.NLMEModel:
    """`decay` with three log-normal parameters."""
    parameters = [
        jn.Parameter(name, start, "log", random=True, sd=0.3)
        for name, start in zip("abc", (2.0, 3.0, 1.0), strict=True)
    ]
    return jn.NLMEModel(decay, parameters, covariance, error)
