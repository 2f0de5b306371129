"""psi and other user-scale values on the host: what users write, checked, as entries of Params, and back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.errors import ModelError
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.density import Density
from jaxnlme.model.transforms import AbstractTransform


def on_real_line(name: str, value: float, transform: AbstractTransform) -> float:
    """A user-scale value on the real line. **Errors:** ModelError where it lies outside the transform's domain."""
    low, high = transform.domain
    if not low < float(value) < high:
        raise ModelError(
            f"value of {name!r}: expected a number inside ({low:g}, {high:g}), the domain of its {transform.name} "
            f"transform; received {value!r}."
        )
    return float(transform.to_real(float(value)))


def psi_of(density: Density, theta: np.ndarray) -> np.ndarray:
    """psi (random, random) on the host."""
    lower = np.asarray(density.covariance.factor(np.asarray(theta, float)), float)
    return lower @ lower.T


def theta_from_psi(family: AbstractCovariance, psi: Any, effects: tuple[str, ...]) -> np.ndarray:
    """theta (unconstrained,) of `psi` (random, random), a member of `family`, on the host.

    **Errors:** ModelError where psi is no covariance matrix of `effects`, or no member of the family.
    """
    psi, n = np.asarray(psi, float), len(effects)
    if psi.shape != (n, n):
        raise ModelError(f"psi must have shape ({n}, {n}), got {psi.shape}.")
    if not np.isfinite(psi).all() or (np.diag(psi) < 0).any():
        raise ModelError(f"psi must be finite with variances >= 0 on its diagonal; received {psi.tolist()}.")
    sd = np.sqrt(np.diag(psi))
    unit = np.outer(*(np.where(sd > 0, sd, 1.0),) * 2)

    def at_worst(difference: np.ndarray) -> tuple[tuple[int, int], float]:
        share = np.abs(difference) / unit
        j, k = divmod(int(np.argmax(share)), n) if n else (0, 0)
        return (j, k), float(np.max(share, initial=0.0))

    (j, k), gap = at_worst(psi - psi.T)
    if gap > 1e-8:
        raise ModelError(
            f"psi must be symmetric; it has {psi[j, k]:g} and {psi[k, j]:g} for the covariance of {effects[j]!r} and "
            f"{effects[k]!r}."
        )
    no_matrix = (
        "psi must be positive semidefinite; these variances and covariances (or SDs and correlations) cannot occur "
        f"together: {psi.tolist()}."
    )
    if n and np.linalg.eigvalsh(psi / unit)[0] < -1e-8:
        raise ModelError(no_matrix)
    try:
        theta = family.from_matrix(psi)
    except ValueError as error:
        raise ModelError(no_matrix) from error
    lower = np.asarray(family.factor(theta), float)
    nearest = lower @ lower.T
    (j, k), gap = at_worst(psi - nearest)
    # A singular psi comes back with correlations off by up to 1e-5, the square root of the tolerance for null pivots.
    if gap > 2e-5:
        entry = f"variance of {effects[j]!r}" if j == k else f"covariance of {effects[j]!r} and {effects[k]!r}"
        raise ModelError(
            f"psi is no member of the covariance family {type(family).__name__}: the {entry} is {psi[j, k]:g}, and "
            f"{nearest[j, k]:g} in the nearest member. Give a psi of this family, or choose another covariance."
        )
    return theta


def psi_with(density: Density, psi: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """psi (random, random) with the "sd(...)" and "corr(...)" of `values` put in; the others stay.

    Where one entry of theta is the scale of several effects, their SDs are one parameter, and so are their
    correlations: what is said of one holds for all.
    """
    names, related = density.effect_names, density.covariance.related
    sd = np.sqrt(np.diag(psi))
    unit = np.where(sd > 0, sd, 1.0)
    correlation = np.where(np.eye(len(sd)) > 0, 1.0, psi / np.outer(unit, unit))
    shared = [set(effects) for _, effects, _ in density.covariance.log_scales if len(effects) > 1]

    def put(kind: str, limits: tuple[float, float], keys: list[tuple[int, ...]]) -> dict[tuple[int, ...], float]:
        out: dict[tuple[int, ...], float] = {}
        for key in keys:
            name = f"{kind}({', '.join(names[k] for k in key)})"
            together = next((group for group in shared if group.issuperset(key)), set(key))
            if name not in values:
                continue
            value = float(values[name])
            if not limits[0] <= value <= limits[1] or np.isinf(value):
                raise ModelError(f"value {name!r} must be a number in [{limits[0]:g}, {limits[1]:g}], got {value:g}.")
            if abs(out.get(key, value) - value) > 1e-8 * max(abs(value), 1e-300):
                raise ModelError(
                    f"value {name!r} is {value:g}, where another one says {out[key]:g}: the effects "
                    f"{', '.join(names[k] for k in sorted(together))} share this parameter."
                )
            out |= {other: value for other in keys if together.issuperset(other)}
        return out

    for (k,), value in put("sd", (0.0, np.inf), [(k,) for k in range(len(sd))]).items():
        sd[k] = value
    for (j, k), value in put("corr", (-1.0, 1.0), list(related)).items():
        correlation[j, k] = correlation[k, j] = value
    return correlation * np.outer(sd, sd)
