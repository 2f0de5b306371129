"""The likelihood ladder: each rung is where to expand, which curvature, and how to integrate."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from jaxnlme.errors import ModelError, OptionError, Status, near_matches
from jaxnlme.likelihood.curvature import exact, gauss_newton
from jaxnlme.likelihood.integrals import AbstractIntegral, GaussHermite, Gaussian, ImportanceIntegral, MonteCarlo
from jaxnlme.likelihood.mode import ModeSearch, conditional_mode
from jaxnlme.model.density import Density, Group
from jaxnlme.model.params import Params
from jaxnlme.numerics.implicit import barrier
from jaxnlme.numerics.linalg import cholesky, half_logdet
from jaxnlme.numerics.newton import NewtonResult
from jaxnlme.typing import Scalar, Vector


class GroupResult(eqx.Module):
    """What a rung says of one group: `value`, log p(y); `mode` (random,), whitened; `status`, a Status code;
    `evaluations` of the mode search; `curvature` (random, random) at the mode; `monte_carlo`."""

    value: Any
    mode: Any
    status: Any
    evaluations: Any
    curvature: Any
    monte_carlo: MonteCarlo


def require_gaussian_moments(name: str, density: Density) -> None:
    """**Errors:** ModelError where the outcome has no Gaussian face, which the method `name` needs."""
    if not density.error.has_gaussian_moments:
        raise ModelError(
            f"{name} needs a Gaussian residual model (a mean and a scale), and this outcome has none; "
            "use 'laplace', jn.AGQ(...) or jn.ImportanceSampling(...), with curvature='exact'."
        )


class LikelihoodApproximation(eqx.Module):
    """One likelihood of the ladder.

    **Fields:** `name`; `at_mode`: expand at the conditional mode (else at z = 0); `interaction`: the residual scale
    moves with z (else it is taken at z = 0, in mode, density and curvature alike); `curvature`: "gauss-newton" or
    "exact"; `integral`; `search`, how modes are searched.
    """

    name: str = eqx.field(static=True)
    at_mode: bool = eqx.field(static=True)
    interaction: bool = eqx.field(static=True)
    curvature: str = eqx.field(static=True)
    integral: AbstractIntegral
    search: ModeSearch

    def __check_init__(self):
        if self.curvature not in ("gauss-newton", "exact"):
            raise OptionError(f"curvature must be 'gauss-newton' or 'exact'; received {self.curvature!r}.")

    @property
    def needs_gaussian_moments(self) -> bool:
        """Whether outcomes without a Gaussian face are refused."""
        return self.curvature == "gauss-newton" or not self.interaction

    @property
    def stochastic(self) -> bool:
        """Whether the value carries Monte Carlo error."""
        return isinstance(self.integral, ImportanceIntegral)

    def check(self, density: Density) -> None:
        """**Errors:** ModelError where the outcome has no Gaussian face and this rung needs one."""
        if self.needs_gaussian_moments:
            require_gaussian_moments(self.name, density)

    def scale_prediction(self, density: Density, params: Params, group: Group) -> Any:
        """The prediction that fixes the residual scale (at z = 0), None where the scale moves with z."""
        return None if self.interaction else density.predict(params, jnp.zeros(density.n_effects), group)

    def integrate(self, density: Density, params: Params, z: Vector, group: Group) -> tuple[Scalar, tuple]:
        """log p(y) of one group expanded at a given z, and (curvature, MonteCarlo); z is an argument like any other."""
        at_zero = self.scale_prediction(density, params, group)

        def log_joint(z):
            return density.log_joint_given(params, z, group, at_zero)

        if density.n_effects == 0:
            return log_joint(z), (jnp.zeros((0, 0)), MonteCarlo(jnp.zeros(()), jnp.full((), jnp.nan)))
        shape = exact if self.curvature == "exact" else gauss_newton
        hessian = barrier(shape(density, params, z, group, at_zero))
        value, monte_carlo = self.integral(log_joint, z, hessian, group.key, at_mode=self.at_mode)
        return value, (hessian, monte_carlo)

    def evaluate(self, density: Density, params: Params, group: Group, z0: Vector) -> GroupResult:
        """log p(y) of one group, with exact derivatives of every order in params (through the mode implicitly).

        **Arguments:** `z0` (random,): where the search of the mode starts.
        """
        if self.at_mode and density.n_effects:
            at_zero = self.scale_prediction(density, params, group)
            z, found = conditional_mode(self.search, density, params, group, at_zero, z0)
        else:
            z, found = jnp.zeros(density.n_effects), None
        value, (hessian, monte_carlo) = self.integrate(density, params, z, group)
        return group_result(value, z, hessian, monte_carlo, found, group)


def group_result(
    value: Scalar, z: Vector, hessian: Any, monte_carlo: MonteCarlo, found: NewtonResult | None, group: Group
) -> GroupResult:
    """The record of one group, with its status; `found` is None where nothing was searched. A group without an observed
    response has likelihood one and mode zero, exactly."""
    arrived = jnp.ones((), bool) if found is None else found.converged
    begun = jnp.isfinite(value) if found is None else found.finite
    evaluations = jnp.ones((), int) if found is None else found.evaluations
    status = jnp.where(arrived, Status.ok, Status.mode_not_found)
    # The factor of a curvature that is not positive definite is NaN. A value may be NaN beside a sound factor: at a
    # node of the integral.
    sound = jnp.isfinite(half_logdet(cholesky(jax.lax.stop_gradient(hessian))))
    status = jnp.where(jnp.isfinite(value), status, jnp.where(sound, Status.non_finite, Status.not_a_maximum))
    status = jnp.where(jnp.all(jnp.isfinite(hessian)), status, Status.non_finite)
    status = jnp.where(begun, status, Status.non_finite_start)
    seen = jnp.any(group.x.observed)
    status = jnp.where(seen, status, Status.no_observations)
    value, z = jnp.where(seen, value, 0.0), jnp.where(seen, z, 0.0)
    monte_carlo = MonteCarlo(jnp.where(seen, monte_carlo.variance, 0.0), monte_carlo.ess)
    return GroupResult(value, z, status, evaluations, hessian, monte_carlo)


def mode_search(mode_steps: int, mode_tolerance: float) -> ModeSearch:
    if not mode_steps >= 1 or not mode_tolerance > 0:
        raise OptionError(f"mode_steps must be >= 1 and mode_tolerance > 0; received {mode_steps}, {mode_tolerance}.")
    return ModeSearch(mode_steps, mode_tolerance)


def FO(*, mode_steps: int = 100, mode_tolerance: float = 1e-6) -> LikelihoodApproximation:
    """First order: y linearised at z = 0, residual scale there.

    **Source:** Beal and Sheiner (1982), CRC Critical Reviews in Biomedical Engineering 8, 195-222."""
    return LikelihoodApproximation(
        "FO", False, False, "gauss-newton", Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


def FOCE(*, mode_steps: int = 100, mode_tolerance: float = 1e-6) -> LikelihoodApproximation:
    """First order conditional estimation without interaction: the residual scale is taken at z = 0 in mode, quadratic
    form, log-scale and curvature.

    **Source:** Lindstrom and Bates (1990), Biometrics 46, 673-687; Wang (2007), J Pharmacokinet Pharmacodyn 34,
    575-593, section "FOCE"."""
    return LikelihoodApproximation(
        "FOCE", True, False, "gauss-newton", Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


def FOCEI(*, mode_steps: int = 100, mode_tolerance: float = 1e-6) -> LikelihoodApproximation:
    """First order conditional estimation with interaction: Laplace with the Gauss-Newton curvature that keeps the
    scale's part.

    **Source:** Wang (2007), J Pharmacokinet Pharmacodyn 34, 575-593, equations 26 to 31."""
    return LikelihoodApproximation(
        "FOCEI", True, True, "gauss-newton", Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


def Laplace(
    *, curvature: str = "exact", mode_steps: int = 100, mode_tolerance: float = 1e-6
) -> LikelihoodApproximation:
    """Laplace's approximation at the conditional mode with the exact Hessian.

    **Source:** Tierney and Kadane (1986), JASA 81, 82-86; Wolfinger (1993), Biometrika 80, 791-795."""
    return LikelihoodApproximation(
        "Laplace", True, True, curvature, Gaussian(), mode_search(mode_steps, mode_tolerance)
    )


def AGQ(
    nodes: int = 5, *, curvature: str = "exact", mode_steps: int = 100, mode_tolerance: float = 1e-6
) -> LikelihoodApproximation:
    """Adaptive Gauss-Hermite quadrature with `nodes` per random effect (nodes ** random points a group); one node is
    Laplace."""
    if not isinstance(nodes, int) or nodes < 1:
        raise OptionError(f"AGQ: nodes must be a whole number of at least 1; received {nodes!r}.")
    return LikelihoodApproximation(
        f"AGQ({nodes})", True, True, curvature, GaussHermite(nodes), mode_search(mode_steps, mode_tolerance)
    )


def ImportanceSampling(
    draws: int = 1000,
    *,
    df: float = 5.0,
    seed: int = 0,
    curvature: str = "exact",
    mode_steps: int = 100,
    mode_tolerance: float = 1e-6,
) -> LikelihoodApproximation:
    """Importance sampling around the conditional mode with `draws` a group from a multivariate t with `df` degrees of
    freedom (0: Gaussian), with its Monte Carlo error and effective sample size."""
    if not isinstance(draws, int) or draws < 2 or df < 0:
        raise OptionError(f"ImportanceSampling needs draws >= 2 and df >= 0; received {draws!r}, {df!r}.")
    return LikelihoodApproximation(
        f"importance sampling({draws})",
        True,
        True,
        curvature,
        ImportanceIntegral(draws, float(df), seed),
        mode_search(mode_steps, mode_tolerance),
    )


NAMED = {"fo": FO, "foce": FOCE, "focei": FOCEI, "laplace": Laplace, "agq": AGQ, "is": ImportanceSampling}


def approximation(spec: str | LikelihoodApproximation, others: Iterable[str] = ()) -> LikelihoodApproximation:
    """A rung from its name or the object itself; `others` are names that the caller knows beside these.

    **Errors:** OptionError with the near matches.
    """
    if isinstance(spec, LikelihoodApproximation):
        return spec
    name = getattr(spec, "name", spec)
    if name in ("LME", "RELME", "lme", "relme"):
        raise OptionError(
            f"{str(name).upper()} is no likelihood of the ladder: its answer is a fixed point, and jn.fit finds it. "
            f"Name one of {', '.join(map(repr, NAMED))}, or a rung."
        )
    if not isinstance(spec, str) or spec.lower() not in NAMED:
        raise OptionError(f"method {spec!r} is not known; {near_matches(str(spec).lower(), [*NAMED, *others])}")
    return NAMED[spec.lower()]()
