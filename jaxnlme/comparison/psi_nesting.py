"""Nested covariance structures of the random effects."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.user_scale import psi_of
from jaxnlme.comparison.settings import NESTING
from jaxnlme.errors import some
from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True)
class PsiNesting:
    """A covariance structure inside a larger one: `new_effects`, those that only the larger one has; `one_variance`:
    they are one variance at zero, and the rest of the larger structure is free around it; `counterparts`: names of
    elements of the larger one that the smaller one has by other names."""

    new_effects: tuple[str, ...]
    one_variance: bool
    counterparts: tuple[str, ...] = ()


def psi_nesting(a: Binding, b: Binding) -> PsiNesting | str:
    """The PsiNesting of the structure of `a` in that of `b`, or a sentence on why it is not inside.

    Random members of the structure of `a`, with variances of zero for the effects that only `b` has, must be members of
    that of `b`.
    """
    effects, theirs = a.density.effect_names, b.density.effect_names
    # Where the larger covariance differs between the levels of a column, effects have a copy for each of them.
    copies = {name: [other for other in theirs if other.startswith(f"{name}[")] for name in effects}
    copies = {name: [name] if name in theirs else others for name, others in copies.items()}
    missing = [name for name in effects if not copies[name]]
    if missing:
        return f"the larger model has no random effect of {some(missing)}, which the smaller one has."
    new = tuple(name for name in theirs if not any(name in names for names in copies.values()))
    if not theirs:
        return PsiNesting((), False)
    places_by_level = [
        [theirs.index(copies[name][min(k, len(copies[name]) - 1)]) for name in effects]
        for k in range(max(map(len, copies.values()), default=0))
    ]
    first_a, first_b = len(a.density.beta_names), len(b.density.beta_names)
    family = b.density.covariance
    held = b.fixed[first_b : first_b + family.n_unconstrained]
    rng = np.random.default_rng(0)
    at_minus_infinity: list[np.ndarray] = []
    for _ in range(NESTING.draws):
        theta = np.array(a.start.covariance, float)
        moving = ~a.fixed[first_a : first_a + len(theta)]
        theta = np.where(moving, np.where(np.isfinite(theta), theta, 0.0), theta)
        theta = theta + np.where(moving, NESTING.spread * rng.standard_normal(len(theta)), 0.0)
        psi = np.zeros((len(theirs), len(theirs)))
        for places in places_by_level:
            psi[np.ix_(places, places)] = psi_of(a.density, theta) if effects else 0.0
        try:
            nearest = np.array(family.from_matrix(psi), float)
        except ValueError as error:
            return f"psi of the smaller model is none of the larger one ({error})."
        nearest = np.where(held, np.asarray(b.start.covariance, float), nearest)
        gap = np.abs(psi_of(b.density, nearest) - psi)
        sd = np.sqrt(np.diag(psi))
        unit = np.where(sd > 0, sd, max(sd.max(initial=0.0), np.finfo(float).tiny) if effects else 1.0)
        relative = gap / np.outer(unit, unit)
        if not relative.max() <= NESTING.same_psi:
            j, k = np.unravel_index(int(np.argmax(relative)), relative.shape)
            what = f"the variance of {theirs[j]}" if j == k else f"the covariance of {theirs[j]} and {theirs[k]}"
            return (
                f"the covariance of the random effects of the smaller model is no special case of that of the larger "
                f"one, whose structure or held values do not allow {what} that the smaller one has."
            )
        at_minus_infinity.append(np.isneginf(nearest) & ~held)
    scales = int(at_minus_infinity[0].sum()) if at_minus_infinity[0].any() else len(new)
    within_new = any(theirs[j] in new and theirs[k] in new for j, k in family.correlated_pairs)
    renamed = {f"sd({names[0]})" for name, names in copies.items() if names != [name]}
    renamed |= {f"corr({copies[j][0]}, {copies[k][0]})" for j in effects for k in effects if copies[j] != [j]}
    return PsiNesting(new, bool(new) and scales == 1 and (len(new) == 1 or not within_new), tuple(renamed))


def psi_is_singular(binding: Binding, fit: FitRecord) -> bool:
    """True if psi of a fit is at its boundary: a variance of zero, or random effects that are linearly dependent."""
    family, first = binding.density.covariance, len(binding.density.beta_names)
    if not binding.density.effect_names or binding.fixed[first : first + family.n_unconstrained].all():
        return False
    psi = psi_of(binding.density, np.asarray(fit.params.covariance, float))
    sd = np.sqrt(np.diag(psi))
    if not (sd > 0).all() or fit.at_zero:
        return True
    return bool(np.linalg.eigvalsh(psi / np.outer(sd, sd))[0] < NESTING.singular)
