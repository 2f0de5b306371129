"""Covariance families from a user's specification: a name, blocks of effect names, a 0/1 pattern, or an object."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxnlme.errors import OptionError, near_matches, shown
from jaxnlme.model.covariance.held import held_fixed
from jaxnlme.model.covariance.heterogeneous import Heterogeneous
from jaxnlme.model.covariance.sd_correlation import SDCorrelation
from jaxnlme.model.covariance.structures import (
    AbstractCovariance,
    Blocks,
    CompoundSymmetry,
    Diagonal,
    LogCholesky,
    LogMatrix,
    MultipleOfIdentity,
)


def pattern_blocks(pattern: np.ndarray, full: type[LogCholesky] | type[LogMatrix] = LogCholesky) -> Blocks:
    """The block diagonal family of a 0/1 pattern: the smallest one that contains the pattern.

    **Arguments:** `pattern` (random, random), symmetric; effects connected by ones, directly or through other effects,
    form a block; `full`: the structure of blocks of several effects.
    **Raises:** OptionError where the pattern is not a symmetric matrix of zeros and ones.
    """
    pattern = np.asarray(pattern)
    n = pattern.shape[0]
    if pattern.shape != (n, n) or not np.isin(pattern, (0, 1)).all() or (pattern != pattern.T).any():
        raise OptionError(
            f"a covariance pattern must be a symmetric matrix of zeros and ones; received shape {pattern.shape}."
        )
    block = list(range(n))
    for j, k in zip(*np.nonzero(pattern), strict=True):
        low, high = sorted((block[j], block[k]))
        block = [low if entry == high else entry for entry in block]
    groups = [tuple(k for k in range(n) if block[k] == first) for first in sorted(set(block))]
    return Blocks(n, tuple((g, full(len(g)) if len(g) > 1 else Diagonal(1)) for g in groups))


_NAMED = {
    "diagonal": Diagonal,
    "full": LogCholesky,
    "log-matrix": LogMatrix,
    "identity": MultipleOfIdentity,
    "compound symmetry": CompoundSymmetry,
}


def family_name(family: AbstractCovariance) -> str | None:
    """The name of a covariance family ("diagonal", "full", ...); None for blocks and other objects."""
    if isinstance(family, SDCorrelation):
        return "full"
    return next((name for name, kind in _NAMED.items() if type(family) is kind), None)


def check_specification(spec: object) -> None:
    """Check the type of a covariance specification, and its name, as far as no effects are needed.

    **Raises:** OptionError naming what was expected.
    """
    if isinstance(spec, Heterogeneous):
        return check_specification(spec.structure)
    expected = (
        f"one of {', '.join(map(repr, _NAMED))}, a list of blocks of effect names, a 0/1 pattern, or an object of "
        "jn.covariances"
    )
    if isinstance(spec, str) and spec not in _NAMED:
        near = near_matches(spec, _NAMED)
        hint = f" {near[0].upper()}{near[1:]}" if near.endswith("?") else ""
        raise OptionError(f"covariance {spec!r} is not known; expected {expected}.{hint}")
    if not isinstance(spec, (AbstractCovariance, str, list, tuple)) and not np.ndim(np.asarray(spec, object)):
        raise OptionError(f"covariance must be {expected}; received {shown(spec)}.")


def covariance(spec: object, effects: Sequence[str]) -> AbstractCovariance:
    """The covariance family of the named `effects`.

    **Arguments:** `spec`: "diagonal", "full", "log-matrix" (full, parametrised by its matrix logarithm), "identity" (a
    multiple of it), "compound symmetry"; a list of lists of effect names (each list a full block); a 0/1 matrix, zero
    for covariances that are zero; or an AbstractCovariance. `effects`: names of the random effects.
    **Raises:** OptionError naming what was expected.
    """
    n = len(effects)
    check_specification(spec)
    if isinstance(spec, AbstractCovariance):
        if spec.size != n:
            raise OptionError(f"the covariance has {spec.size} effects, the model {n}: {', '.join(effects) or 'none'}.")
        return spec
    if isinstance(spec, str):
        return Diagonal(n) if n < 2 else _NAMED[spec](n)
    if isinstance(spec, (list, tuple)) and any(isinstance(name, str) for part in spec for name in _listed(part)):
        return _named_blocks([_listed(part) for part in spec], list(effects))
    pattern = np.asarray(spec)
    if pattern.shape != (n, n):
        raise OptionError(f"a covariance pattern must have shape ({n}, {n}); received {pattern.shape}.")
    return _of_pattern(pattern, effects)


def _of_pattern(pattern: np.ndarray, effects: Sequence[str]) -> AbstractCovariance:
    """The family of all psi with zeros where the 0/1 `pattern` (random, random) has zeros.

    **Raises:** OptionError where the pattern is not a symmetric matrix of zeros and ones, or of a form that
    `sd_correlation` does not parametrise.
    """
    family = pattern_blocks(pattern)
    if not np.diag(pattern).all():
        raise OptionError("a covariance pattern must have ones on its diagonal: every random effect has a variance.")
    zeros = [(j, k) for j, k in family.correlated_pairs if not pattern[j, k]]
    try:
        return held_fixed(family, dict.fromkeys(zeros, 0.0), effects)
    except OptionError as error:
        names = "; ".join(f"{effects[j]} and {effects[k]}" for j, k in zeros)
        raise OptionError(
            f"the covariance pattern cannot be parametrised with its zeros (for {names}): {error} Order the effects so "
            "that it is block diagonal, or set further entries to zero or one."
        ) from error


def without_effects(family: AbstractCovariance, kept: Sequence[int], effects: Sequence[str]) -> AbstractCovariance:
    """The covariance `family` of the random effects `kept`, where the variances of the others are zero.

    **Arguments:** `kept`: positions of effects; `effects`: names of all effects, for messages.
    **Raises:** OptionError where an effect shares its standard deviation with one that is left out, and for a family of
    which there is no smaller one.
    """
    for _, shared, _ in family.log_scales:
        if len(shared) > 1 and len(set(shared) & set(kept)) not in (0, len(shared)):
            names = ", ".join(f"sd({effects[k]})" for k in shared)
            raise OptionError(
                f"{names} are one parameter in this covariance structure: hold all of them at zero, or none."
            )
    if isinstance(family, Blocks):
        parts = []
        for positions, part in family.parts:
            remaining = [k for k, position in enumerate(positions) if position in kept]
            if remaining:
                smaller = without_effects(part, remaining, [effects[k] for k in positions])
                parts.append((tuple(kept.index(positions[k]) for k in remaining), smaller))
        return Blocks(len(kept), tuple(parts))
    if len(kept) == family.size:
        return family
    kind = next((kind for kind in _NAMED.values() if type(family) is kind), None)
    if kind is None:
        raise OptionError(
            f"a standard deviation cannot be held at zero with a covariance object {type(family).__name__}: leave the "
            "random effect out (random=False) and give the covariance of the others."
        )
    return Diagonal(len(kept)) if len(kept) < 2 else kind(len(kept))


def _named_blocks(blocks: list[list[str]], effects: list[str]) -> Blocks:
    named = [name for block in blocks for name in block]
    unknown = [name for name in named if name not in effects]
    missing = [name for name in effects if name not in named]
    if unknown or missing or len(named) != len(set(named)):
        raise OptionError(
            f"covariance blocks must name each random effect once; the effects are {effects}, received {blocks}."
        )
    parts = []
    for block in blocks:
        positions = tuple(sorted(effects.index(name) for name in block))
        parts.append((positions, LogCholesky(len(positions)) if len(positions) > 1 else Diagonal(1)))
    return Blocks(len(effects), tuple(parts))


def _listed(part: object) -> list:
    return list(part) if isinstance(part, (list, tuple)) else [part]
