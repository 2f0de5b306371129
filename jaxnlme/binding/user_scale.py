"""Conversion on the host between values on the user's scale (natural parameters, psi) and entries of Params."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.arguments import plain_number
from jaxnlme.binding.settings import CHECKS
from jaxnlme.errors import ModelError, OptionError, shown
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.density import Density
from jaxnlme.model.transforms import AbstractTransform

if TYPE_CHECKING:
    from jaxnlme.binding.bind import Binding


def numbers_by_name(values: Any) -> dict[str, float]:
    """The user's `values` by name as a dictionary. **Raises:** ModelError for what is none, or holds no numbers."""
    if values is None:
        return {}
    if not isinstance(values, Mapping):
        raise ModelError(
            f"values must be a dictionary from names to numbers, such as {{'ka': 1.5}}; received {shown(values)}."
        )
    for name, value in values.items():
        plain = plain_number(value)
        if isinstance(plain, (bool, np.bool_)) or not isinstance(plain, numbers.Real):
            raise ModelError(f"value of {name!r}: expected a number; received {shown(plain)}.")
    return dict(values)


def as_matrix(psi: Any) -> np.ndarray:
    """`psi` as an array of floats. **Raises:** ModelError where it holds no numbers."""
    try:
        return np.asarray(psi, float)
    except (TypeError, ValueError):
        raise ModelError(f"psi must be a matrix of numbers (random, random); received {shown(psi)}.") from None


def on_real_line(name: str, value: float, transform: AbstractTransform) -> float:
    """`value` of the parameter `name`, mapped by `transform` from its natural scale to the real line.

    **Raises:** ModelError where it is outside the transform's domain.
    """
    low, high = transform.domain
    if not low < float(value) < high:
        raise ModelError(
            f"value of {name!r}: expected a number inside ({low:g}, {high:g}), the domain of its {transform.name} "
            f"transform; received {shown(value)}."
        )
    return float(transform.to_real(float(value)))


def with_error_values(density: Density, theta: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """The residual-error parameters `theta` (error,) with those in `values`, by reported name, replaced.

    **Raises:** ModelError for values outside their domain, or that form no correlation together.
    """
    error, original, theta = density.error, theta, theta.copy()
    given = {k: name for k, name in enumerate(density.error_names) if name in values}
    for k, name in given.items():
        theta[k] = on_real_line(name, values[name], error.parameters[k].transform)
    for correlation, entries, _ in error.correlations():
        if not correlation.is_joint or not set(entries) & set(given):
            continue
        # Parameters of a correlation that are reported as functions of several entries of theta.
        own = list(entries)
        natural = [float(v) for v in correlation.natural(original[own])]
        natural = [values.get(density.error_names[k], v) for k, v in zip(own, natural, strict=True)]
        try:
            theta[own] = correlation.unconstrained(natural)
        except OptionError as problem:
            raise ModelError(str(problem)) from None
    return theta


def psi_of(density: Density, theta: np.ndarray) -> np.ndarray:
    """psi (random, random) at `theta` (unconstrained,), on the host."""
    lower = np.asarray(density.covariance.factor(np.asarray(theta, float)), float)
    return lower @ lower.T


def message_names(binding: Binding, entries: Iterable[int]) -> list[str]:
    """Names of packed `entries` for messages: as in `Binding.packed_names`, but entries of theta without a
    name of their own are named after what they change in psi, "corr(a, b)" or "log var(a)"."""
    covariance, names = binding.density.covariance, list(binding.packed_names)
    effects, first = binding.density.effect_names, len(binding.density.beta_names)
    theta = np.zeros(covariance.n_unconstrained)
    for k in range(len(theta)):
        if names[first + k] != f"psi[{k}]":
            continue
        beside = theta.copy()
        beside[k] = CHECKS.theta_step
        change = np.asarray(psi_of(binding.density, beside) - psi_of(binding.density, theta))
        changed = np.abs(change) > CHECKS.theta_change * CHECKS.theta_step
        pairs = np.argwhere(np.triu(changed, 1))
        chosen = sorted(set(pairs.ravel().tolist())) if len(pairs) else np.flatnonzero(np.diag(changed)).tolist()
        name = f"{'corr' if len(pairs) else 'log var'}({', '.join(effects[j] for j in chosen)})"
        if chosen and name not in names:
            names[first + k] = name
    return [names[k] for k in entries]


def theta_from_psi(family: AbstractCovariance, psi: Any, effects: tuple[str, ...]) -> np.ndarray:
    """theta (unconstrained,) of a covariance matrix in `family`, on the host.

    **Arguments:** `psi` (random, random); `effects`: names of the random effects, for messages.
    **Raises:** ModelError where psi is not a covariance matrix of these effects, or not in the family.
    """
    psi, n = as_matrix(psi), len(effects)
    if psi.shape != (n, n):
        raise ModelError(f"psi must have shape ({n}, {n}), got {psi.shape}.")
    if not np.isfinite(psi).all() or (np.diag(psi) < 0).any():
        raise ModelError(f"psi must be finite with variances >= 0 on its diagonal; received {psi.tolist()}.")
    sd = np.sqrt(np.diag(psi))
    unit = np.outer(*(np.where(sd > 0, sd, 1.0),) * 2)

    def largest(difference: np.ndarray) -> tuple[tuple[int, int], float]:
        relative = np.abs(difference) / unit
        j, k = divmod(int(np.argmax(relative)), n) if n else (0, 0)
        return (j, k), float(np.max(relative, initial=0.0))

    (j, k), gap = largest(psi - psi.T)
    if gap > CHECKS.symmetry:
        raise ModelError(
            f"psi must be symmetric; it has {psi[j, k]:g} and {psi[k, j]:g} for the covariance of {effects[j]!r} and "
            f"{effects[k]!r}."
        )
    not_semidefinite = (
        "psi must be positive semidefinite; these variances and covariances (or SDs and correlations) cannot occur "
        f"together: {psi.tolist()}."
    )
    if n and np.linalg.eigvalsh(psi / unit)[0] < -CHECKS.semidefinite:
        raise ModelError(not_semidefinite)
    try:
        theta = family.from_matrix(psi)
    except ValueError as error:
        raise ModelError(not_semidefinite) from error
    lower = np.asarray(family.factor(theta), float)
    nearest = lower @ lower.T
    (j, k), gap = largest(psi - nearest)
    if gap > CHECKS.family and family.fixed_entries:
        entry = f"sd({effects[j]})" if j == k else f"the covariance of {effects[j]!r} and {effects[k]!r}"
        here, held = (np.sqrt(m[j, k]) if j == k else m[j, k] for m in (psi, nearest))
        raise ModelError(
            f"{entry} is {here:g} in psi (or in the SDs and correlations given), and {held:g} in the model, which "
            "holds elements of psi fixed; give a psi that agrees with them."
        )
    if gap > CHECKS.family:
        entry = f"variance of {effects[j]!r}" if j == k else f"covariance of {effects[j]!r} and {effects[k]!r}"
        raise ModelError(
            f"psi is not in the covariance family {type(family).__name__}: the {entry} is {psi[j, k]:g}, and "
            f"{nearest[j, k]:g} in the nearest member. Give a psi of this family, or choose another covariance."
        )
    return theta


def psi_with(density: Density, psi: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """psi with the standard deviations "sd(...)" and correlations "corr(...)" in `values` replaced.

    Where one entry of theta is the scale of several effects, their SDs are one parameter, and so are their
    correlations: a value given for one of them is set for all.

    **Arguments:** `psi` (random, random); `values`: by reported name.
    **Returns:** (random, random).
    **Raises:** ModelError for a value out of range, or different values for one parameter.
    """
    names, pairs = density.effect_names, density.covariance.correlated_pairs
    sd = np.sqrt(np.diag(psi))
    unit = np.where(sd > 0, sd, 1.0)
    correlation = np.where(np.eye(len(sd)) > 0, 1.0, psi / np.outer(unit, unit))
    shared = [set(effects) for _, effects, _ in density.covariance.log_scales if len(effects) > 1]

    def replaced(kind: str, limits: tuple[float, float], keys: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
        out: dict[tuple[int, ...], float] = {}
        for key in keys:
            name = f"{kind}({', '.join(names[k] for k in key)})"
            same_parameter = next((group for group in shared if group.issuperset(key)), set(key))
            if name not in values:
                continue
            value = float(values[name])
            if not limits[0] <= value <= limits[1] or np.isinf(value):
                raise ModelError(f"value {name!r} must be a number in [{limits[0]:g}, {limits[1]:g}], got {value:g}.")
            if abs(out.get(key, value) - value) > CHECKS.same_value * max(abs(value), np.finfo(float).tiny):
                raise ModelError(
                    f"value {name!r} is {value:g}, and another value gives {out[key]:g}: the effects "
                    f"{', '.join(names[k] for k in sorted(same_parameter))} share this parameter."
                )
            out |= {pair: value for pair in keys if same_parameter.issuperset(pair)}
        return out

    for (k,), value in replaced("sd", (0.0, np.inf), [(k,) for k in range(len(sd))]).items():
        sd[k] = value
    for (j, k), value in replaced("corr", (-1.0, 1.0), list(pairs)).items():
        correlation[j, k] = correlation[k, j] = value
    return correlation * np.outer(sd, sd)
