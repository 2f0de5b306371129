"""Likelihood approximations (FO, FOCE, FOCEI, Laplace, AGQ, importance sampling): each combines a point of expansion, a
curvature, and a way to integrate over the random effects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from jaxnlme.arguments import check_choice, check_count, check_number
from jaxnlme.errors import OptionError, check_whole_number, near_matches, shown
from jaxnlme.likelihood.conditional_mode import conditional_mode
from jaxnlme.likelihood.curvature import exact, gauss_newton
from jaxnlme.likelihood.group_result import GroupResult, group_result
from jaxnlme.likelihood.integrals import (
    AbstractIntegral,
    GaussHermite,
    Gaussian,
    ImportanceIntegral,
    MonteCarloError,
    no_monte_carlo_error,
)
from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.likelihood.nested_quadrature import check_nodes, nested_quadrature
from jaxnlme.likelihood.requirements import require_gaussian_moments, require_linearisable
from jaxnlme.likelihood.settings import INTEGRATION
from jaxnlme.likelihood.unit_layout import UnitLayout
from jaxnlme.model.density import Density, Group
from jaxnlme.model.effects import require_untransformed
from jaxnlme.model.params import Params
from jaxnlme.numerics.block_arrow import factored_dense
from jaxnlme.numerics.implicit import barrier
from jaxnlme.signatures import public
from jaxnlme.typing import Scalar, Vector


class LikelihoodApproximation(eqx.Module):
    """An approximation of the log-likelihood of a group. `FO`, `FOCE`, `FOCEI`, `Laplace`, `AGQ` and
    `ImportanceSampling` make these.

    **Arguments:**

    - `name`: for summaries.
    - `at_mode`: expand at the conditional mode of z (else at z = 0).
    - `interaction`: the residual scale depends on z (else it is that at z = 0, in mode, density and curvature).
    - `curvature`: "gauss-newton" or "exact".
    - `integral`: how the integral over z is approximated.
    - `search`: limits of the search of modes.

    **Raises:** OptionError for an unknown curvature.

    **Example:**

    ```python
    isinstance(jn.FOCEI(), jn.LikelihoodApproximation)
    ```
    """

    name: str = eqx.field(static=True)
    at_mode: bool = eqx.field(static=True)
    interaction: bool = eqx.field(static=True)
    curvature: str = eqx.field(static=True)
    integral: AbstractIntegral
    search: ModeSearch

    def __check_init__(self):
        check_choice("curvature", self.curvature, ("gauss-newton", "exact"))

    @property
    def needs_gaussian_moments(self) -> bool:
        """True if the approximation needs an outcome with Gaussian moments (mean and scale)."""
        return self.curvature == "gauss-newton" or not self.interaction

    def check(self, density: Density) -> None:
        """Check that the outcome suits the approximation.

        **Raises:** ModelError where Gaussian moments are needed and it has none; OptionError for quadrature over nested
        levels that is not possible.
        """
        if self.needs_gaussian_moments:
            (require_gaussian_moments if self.at_mode else require_linearisable)(self.name, density)
        if not self.at_mode:
            require_untransformed(self.name, density)
        if density.levels is not None and isinstance(self.integral, GaussHermite) and self.integral.nodes > 1:
            check_nodes(self.integral.nodes, density, self.integral.passes > 0)

    def scale_prediction(self, density: Density, params: Params, group: Group) -> Any:
        """The prediction at z = 0, from which the residual scale is computed; None where the scale depends on z."""
        return None if self.interaction else density.predict(params, jnp.zeros(density.n_effects), group)

    def integrate(self, density: Density, params: Params, z: Vector, group: Group) -> tuple[Scalar, tuple]:
        """log p(y) of one group expanded at `z` (random,), and (curvature, MonteCarloError); differentiable in z as
        well."""
        at_zero = self.scale_prediction(density, params, group)

        def log_joint(z):
            return density.log_joint_given(params, z, group, at_zero)

        if density.n_effects == 0:
            return log_joint(z), (jnp.zeros((0, 0)), MonteCarloError(jnp.zeros(()), jnp.full((), jnp.nan)))
        curvature = exact if self.curvature == "exact" else gauss_newton
        hessian = barrier(curvature(density, params, z, group, at_zero))
        if density.levels is not None and density.levels.separable and isinstance(self.integral, GaussHermite):
            layout = UnitLayout(density.levels, group.units)
            arrow = factored_dense(layout.nesting, hessian[np.ix_(layout.positions, layout.positions)])
            value = nested_quadrature(density, params, group, z, arrow, layout, self.integral.nodes)
            return value, (hessian, no_monte_carlo_error())
        value, monte_carlo = self.integral(log_joint, z, hessian, group.key, at_mode=self.at_mode)
        return value, (hessian, monte_carlo)

    def evaluate(self, density: Density, params: Params, group: Group, z0: Vector) -> GroupResult:
        """Likelihood of one group, with exact derivatives of every order in `params` (implicit ones through the mode).

        **Arguments:** `density`; `params`; `group`; `z0` (random,): start of the search of the mode, whitened;
        or (starts, random), of which the best end is taken.
        **Returns:** a GroupResult.
        """
        if self.at_mode and density.n_effects:
            at_zero = self.scale_prediction(density, params, group)
            z, search = conditional_mode(self.search, density, params, group, at_zero, z0)
        else:
            z, search = jnp.zeros(density.n_effects), None
        value, (hessian, monte_carlo) = self.integrate(density, params, z, group)
        return group_result(value, z, hessian, monte_carlo, search, group)


def mode_search(mode_steps: int, mode_tolerance: float) -> ModeSearch:
    """The ModeSearch of an approximation's options. **Raises:** OptionError for numbers out of range."""
    check_count("mode_steps", mode_steps, 1)
    check_number("mode_tolerance", mode_tolerance, 0.0, above=True)
    return ModeSearch(mode_steps, mode_tolerance)


@public("jn.FO")
def FO(*, mode_steps: int = 100, mode_tolerance: float = 1e-6) -> LikelihoodApproximation:
    """First order (FO): the prediction is linearised at z = 0, and the residual scale is that at z = 0.

    **Arguments:** `mode_steps`, `mode_tolerance`: not used for the likelihood, which needs no modes.
    **Returns:** a LikelihoodApproximation, a method of `jn.fit`.
    **Source:** Beal and Sheiner (1982), CRC Critical Reviews in Biomedical Engineering 8, 195-222.

    **Example:**

    ```python
    jn.fit(model, data, jn.FO(), standard_errors=False)
    ```
    """
    return LikelihoodApproximation(
        "FO", False, False, "gauss-newton", Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


@public("jn.FOCE")
def FOCE(*, mode_steps: int = 100, mode_tolerance: float = 1e-6) -> LikelihoodApproximation:
    """First order conditional estimation (FOCE), without interaction: the residual scale is that at z = 0 in the mode,
    the quadratic form, the log-scale and the curvature.

    **Arguments:** `mode_steps`: most evaluations in the search of a mode; `mode_tolerance`: length of a Newton step, in
    whitened units, that ends it.
    **Returns:** a LikelihoodApproximation, a method of `jn.fit`.
    **Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Wang (2007), J Pharmacokinet Pharmacodyn 34,
    575-593, section "FOCE".

    **Example:**

    ```python
    jn.log_likelihood(model, fit.params, data, jn.FOCE())
    ```
    """
    return LikelihoodApproximation(
        "FOCE", True, False, "gauss-newton", Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


@public("jn.FOCEI")
def FOCEI(*, mode_steps: int = 100, mode_tolerance: float = 1e-6) -> LikelihoodApproximation:
    """First order conditional estimation with interaction (FOCEI): Laplace's approximation with the Gauss-Newton
    curvature, including the term of the residual scale.

    **Arguments:** `mode_steps`: most evaluations in the search of a mode; `mode_tolerance`: length of a Newton step, in
    whitened units, that ends it.
    **Returns:** a LikelihoodApproximation, a method of `jn.fit`.
    **Source:** Wang (2007), J Pharmacokinet Pharmacodyn 34, 575-593, equations 26 to 31.

    **Example:**

    ```python
    jn.fit(model, data, jn.FOCEI(mode_steps=200))
    ```
    """
    return LikelihoodApproximation(
        "FOCEI", True, True, "gauss-newton", Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


@public("jn.Laplace")
def Laplace(
    *, curvature: str = "exact", mode_steps: int = 100, mode_tolerance: float = 1e-6
) -> LikelihoodApproximation:
    """Laplace's approximation at the conditional mode.

    **Arguments:** `curvature`: "exact" (the Hessian) or "gauss-newton"; `mode_steps`: most evaluations in the search of
    a mode; `mode_tolerance`: length of a Newton step, in whitened units, that ends it.
    **Returns:** a LikelihoodApproximation, a method of `jn.fit`.
    **Source:** Tierney and Kadane (1986), JASA 81, 82-86; Wolfinger (1993), Biometrika 80, 791-795.

    **Example:**

    ```python
    jn.log_likelihood(model, fit.params, data, jn.Laplace())
    ```
    """
    return LikelihoodApproximation(
        "Laplace", True, True, curvature, Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


@public("jn.AGQ")
def AGQ(
    nodes: int = 5,
    *,
    centre: str = "mode",
    curvature: str = "exact",
    mode_steps: int = 100,
    mode_tolerance: float = 1e-6,
) -> LikelihoodApproximation:
    """Adaptive Gauss-Hermite quadrature (AGQ); with one node it is Laplace's approximation.

    **Arguments:** `nodes`: per random effect, nodes ** random points for each group; `centre`: "mode", nodes around the
    conditional mode, spread by the curvature there; or "moments", two more passes with nodes around the posterior mean,
    spread by the posterior covariance, each by the nodes before: three times the cost, and fewer nodes where a
    posterior has a long tail or several modes; `curvature`: "exact" or "gauss-newton", for the scaling of the nodes
    around modes; `mode_steps`, `mode_tolerance`: as for `Laplace`.
    **Returns:** a LikelihoodApproximation, a method of `jn.fit`.
    **Raises:** OptionError unless nodes is a whole number of at least 1, or 3 with "moments"; for more than 50,000
    points, and for "moments" with nested levels, when evaluated.
    **Source:** Pinheiro and Bates (1995), J Comput Graph Stat 4, 12-35, section 2.4; Naylor and Smith (1982), Applied
    Statistics 31, 214-225, and Rabe-Hesketh, Skrondal and Pickles (2005), Journal of Econometrics 128, 301-323, for
    moments.

    **Example:**

    ```python
    jn.log_likelihood(model, fit.params, data, jn.AGQ(3))
    ```
    """
    nodes = check_whole_number("AGQ: nodes", nodes, 1)
    check_choice("AGQ: centre", centre, ("mode", "moments"))
    name, passes = f"AGQ({nodes})", 0
    if centre == "moments":
        if nodes < INTEGRATION.moment_nodes:
            raise OptionError(
                f"AGQ: centre='moments' takes a covariance from the nodes, and needs {INTEGRATION.moment_nodes} or "
                f"more for each effect; received nodes={nodes}."
            )
        name, passes = f"AGQ({nodes}, centre='moments')", INTEGRATION.moment_passes
    search = mode_search(mode_steps, mode_tolerance)
    return LikelihoodApproximation(name, True, True, curvature, GaussHermite(nodes, passes=passes), search)


@public("jn.ImportanceSampling")
def ImportanceSampling(
    draws: int = 1000,
    *,
    df: float = 5.0,
    seed: int = 0,
    curvature: str = "exact",
    mode_steps: int = 100,
    mode_tolerance: float = 1e-6,
) -> LikelihoodApproximation:
    """Importance sampling around the conditional mode; results include the Monte Carlo error and effective sample size.

    **Arguments:** `draws`: per group, at least 2, from a multivariate t; `df`: its degrees of freedom (0: Gaussian);
    `seed`: of the random numbers; `curvature`: "exact" or "gauss-newton", the inverse of the scale matrix of the t;
    `mode_steps`, `mode_tolerance`: as for `Laplace`.
    **Returns:** a LikelihoodApproximation, a method of `jn.fit`.
    **Raises:** OptionError for numbers out of range.
    **Source:** Kloek and van Dijk (1978), Econometrica 46, 1-19; Geweke (1989), Econometrica 57, 1317-1339.

    **Example:**

    ```python
    jn.log_likelihood(model, fit.params, data, jn.ImportanceSampling(500))
    ```
    """
    draws = check_whole_number("ImportanceSampling: draws", draws, 2)
    df = check_number("ImportanceSampling: df", df, 0.0)
    check_count("ImportanceSampling: seed", seed, 0)
    return LikelihoodApproximation(
        f"importance sampling({draws})",
        True,
        True,
        curvature,
        ImportanceIntegral(draws, df, seed),
        mode_search(mode_steps, mode_tolerance),
    )


NAMED = {"fo": FO, "foce": FOCE, "focei": FOCEI, "laplace": Laplace, "agq": AGQ, "is": ImportanceSampling}


def approximation(spec: str | LikelihoodApproximation, other_methods: Iterable[str] = ()) -> LikelihoodApproximation:
    """A likelihood approximation from its name or the object itself.

    **Arguments:** `spec`: "fo", "foce", "focei", "laplace", "agq", "is", or an object; `other_methods`: further names
    that the caller accepts, for the message.
    **Raises:** OptionError for an unknown name, with names of similar spelling.
    """
    if isinstance(spec, LikelihoodApproximation):
        return spec
    name = getattr(spec, "name", spec)
    if name in ("LME", "RELME", "lme", "relme"):
        raise OptionError(
            f"{str(name).upper()} is not a likelihood approximation: its estimate is a fixed point, which jn.fit "
            f"computes. Use one of {', '.join(map(repr, NAMED))}, or an object such as jn.AGQ(5)."
        )
    if not isinstance(spec, str) or spec.lower() not in NAMED:
        known = near_matches(spec.lower() if isinstance(spec, str) else "", [*NAMED, *other_methods])
        raise OptionError(f"method {shown(spec)} is not known; {known}")
    return NAMED[spec.lower()]()
