"""A fit of R's nlme, lme or gls beside ours: its estimates under our names, and how far they are from a fixed point.

A `Case` holds a reference fit with the same model of ours. nlme reports the log-likelihood of the model linearised at
its last random effects; `reported_log_likelihood` computes that from its estimates of fixed and random effects.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

import jaxnlme as jn
from jaxnlme.binding.bind import Binding, bind
from jaxnlme.likelihood.lindstrom_bates import tangent_from_draws
from jaxnlme.likelihood.linear_mixed_model import linear_mixed_model
from jaxnlme.likelihood.nested_linear_mixed_model import NestedTangent, nested_linear_mixed_model
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.results.by_level import unit_index
from tests.estimators.lindstrom_bates.nlme_fits import (
    ZERO,
    FixedPointResidual,
    Problem,
    fixed_point_residual,
)

CORRELATIONS = {
    "corAR1": ("rho",),
    "corCAR1": ("rho",),
    "corCompSymm": ("rho",),
    "corARMA": ("ar1", "ma1"),
    "corExp": ("range",),
}


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A reference fit and the same model of ours.

    **Fields:** `name`; `program`: "nlme", "lme", "gls" or "alternation"; `restricted`: by REML; `model`, `data`;
    `record`: of the reference fit; `beta`: our names of the fixed effects in the reference's order; `start`: of ours
    from the reference's start; `effects`: by level, outermost first, our names of its random effects by those of the
    reference; `error_names`: our names of the parameters of variance function and correlation, in the reference's
    order; `not_trusted`: why the reference fit is no target, or "".
    """

    name: str
    program: str
    restricted: bool
    model: jn.NLMEModel
    data: jn.GroupedData
    record: dict[str, Any]
    beta: tuple[str, ...]
    start: dict[str, float] | None
    effects: dict[str, dict[str, str]]
    error_names: tuple[str, ...]
    not_trusted: str = ""

    @property
    def problem(self) -> Problem:
        """As the functions of `nlme_fits` take it."""
        return Problem(self.model, self.data, self.beta)

    @property
    def method(self) -> str:
        return "relme" if self.restricted else "lme"

    @property
    def log_likelihood(self) -> float:
        """The reference's."""
        return float(self.record["logLik"])

    @property
    def reference_se(self) -> dict[str, float]:
        """The reference's standard errors of the fixed effects, by our names."""
        return dict(zip(self.beta, self.record["se"].values(), strict=True))

    def values(self) -> dict[str, float]:
        """The reference's fixed effects and residual parameters, by our names."""
        fixed = self.record["fixef"] if "fixef" in self.record else self.record["coef"]
        values = dict(zip(self.beta, fixed.values(), strict=True))
        numbers = [self.record["sigma"], *residual_parameters(self.record)]
        return values | dict(zip(self.error_names, numbers, strict=True))

    def psi(self, binding: Binding) -> np.ndarray | None:
        """The reference's psi (random, random) in our order; variances that it cannot tell from zero are zero."""
        names = binding.density.effect_names
        if not names:
            return None
        psi = np.zeros((len(names), len(names)))
        for level, ours in self.effects.items():
            of_level = self.record["random"][level]
            at = [names.index(ours[name]) for name in of_level["names"]]
            psi[np.ix_(at, at)] = of_level["covariance"]
        small = np.sqrt(np.diag(psi)) < ZERO * self._sizes(names)
        psi[small], psi[:, small] = 0.0, 0.0
        return psi

    def _sizes(self, names: tuple[str, ...]) -> np.ndarray:
        """Sizes of the random effects: the residual SD for linear models, whose units are those of the response; one
        for others, as in `nlme_fits`."""
        return np.full(len(names), min(1.0, float(self.record["sigma"])) if self.program == "lme" else 1.0)

    def params(self) -> Params:
        """The reference's estimates as Params."""
        binding = bind(self.model, self.data)
        return binding.params(self.values(), psi=self.psi(binding))

    def random_effects(self) -> np.ndarray:
        """The reference's random effects (groups, random) of our groups and units."""
        binding = bind(self.model, self.data)
        density, data = binding.density, binding.data
        levels, parts = density.levels, []
        if levels is None:
            layout = [(data.level_names[0], 0, density.effect_names, 1)] if density.n_effects else []
        else:
            layout = [
                (level.name, level.depth, [density.effect_names[k] for k in level.effects], level.units)
                for level in levels.levels
            ]
        for name, depth, effects, units in layout:
            of_level = self.record["ranef"][name]
            theirs = {ours: effect for effect, ours in self.effects[name].items()}
            columns = np.array([of_level[theirs[effect]] for effect in effects], float)
            index, cells = unit_index(data, depth)
            part = np.zeros((data.n_groups, units, len(effects)))
            for label, cell in zip(index, cells, strict=True):
                path = "/".join(map(str, label)) if isinstance(label, tuple) else str(label)
                part[cell[0], cell[1] if depth else 0] = columns[:, of_level["groups"].index(path)]
            parts.append(part)
        if levels is not None:
            return np.asarray(levels.join(parts))
        return parts[0][:, 0] if parts else np.zeros((data.n_groups, 0))

    def fit(self, start: Any = None) -> jn.Fit:
        """Our fit, from the reference's start or another."""
        return jn.fit(self.model, self.data, self.method, start=self.start if start is None else start)

    def residual(self, params: Params, modes: np.ndarray | None = None) -> FixedPointResidual:
        """See `nlme_fits.fixed_point_residual`."""
        return fixed_point_residual(self.problem, params, self.restricted, modes)


def residual_parameters(record: dict[str, Any]) -> list[float]:
    """Parameters of the variance function and of the correlation of a reference fit, without the reference level of
    varIdent."""
    function, correlation = record.get("variance_function"), record.get("correlation")
    out: list[float] = []
    if function is not None:
        values = list(function["parameters"].values())
        out += values[1:] if function["class"] == "varIdent" else values
    if correlation is not None:
        values = correlation["parameters"]
        out += list(values.values()) if isinstance(values, dict) else list(values)
    return out


def reported_log_likelihood(case: Case) -> float:
    """The log-likelihood at the reference's estimates of the model linearised at them, its random effects included."""
    with x64():
        binding = bind(case.model, case.data)
        density, params, b = binding.density, case.params(), case.random_effects()
        z = np.asarray(b)
        if density.n_effects:
            factor = np.asarray(density.covariance.factor(params.covariance))
            whitening = np.linalg.pinv(factor, rcond=1e-12)
            z = b @ whitening.T if density.levels is None else np.asarray(density.levels.map_blocks(whitening, b))
        value, information = _linear_model_sums(binding.problem, params, jnp.asarray(z), case.restricted)
        if case.restricted:
            sign, logdet = np.linalg.slogdet(np.asarray(information))
            assert sign > 0
            value += 0.5 * len(information) * np.log(2 * np.pi) - 0.5 * logdet
        return float(value)


@eqx.filter_jit
def _linear_model_sums(problem: Any, params: Params, z: Any, restricted: bool) -> tuple[Any, Any]:
    def of_group(group: Any, z: Any) -> tuple[Any, Any]:
        tangent = tangent_from_draws(problem.density, params, group, z)
        evaluate = nested_linear_mixed_model if isinstance(tangent, NestedTangent) else linear_mixed_model
        model = evaluate(problem.density, tangent, params, group, False)
        observed = jnp.any(group.x.observed)
        return jnp.where(observed, model.value, 0.0), jnp.where(observed, model.information, 0.0)

    values, information = problem.map(of_group, z)
    return jnp.sum(values), jnp.sum(information, axis=0)


def distance(fit: jn.Fit, values: dict[str, float]) -> tuple[float, str]:
    """The largest difference of `values` (by our names, on the user's scale) from those of a fit in the fit's standard
    errors, and the name of the entry; entries without a standard error are left out
    (infinity, and no name, if none has one)."""
    se, ours = fit.estimates["se"], fit.values
    gaps = {name: abs(ours[name] - value) / se[name] for name, value in values.items() if se.get(name, 0.0) > 0.0}
    if not gaps:
        return np.inf, ""
    worst = max(gaps, key=lambda name: gaps[name])
    return float(gaps[worst]), worst


def reference_values(case: Case) -> dict[str, float]:
    """All estimates of the reference on the user's scale, by our names."""
    return bind(case.model, case.data).values(case.params())
