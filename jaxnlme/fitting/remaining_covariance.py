"""The covariance of the random effects that remain, or come in, when `Fit.update` changes a model, level by level."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import element_name
from jaxnlme.model.covariance.specification import covariance as family
from jaxnlme.model.covariance.specification import family_name
from jaxnlme.model.covariance.structures import AbstractCovariance


def level_of(effect: str, outermost: str) -> str:
    """The level that the random effect `effect` belongs to: that after the bar in "cl|Occasion", else `outermost`."""
    return effect.partition("|")[2] or outermost


def by_level(effects: Sequence[str], outermost: str) -> dict[str, list[int]]:
    """Positions of the `effects` of each level, in the order of levels."""
    out: dict[str, list[int]] = {}
    for k, name in enumerate(effects):
        out.setdefault(level_of(name, outermost), []).append(k)
    return out


def remaining_covariance(spec: Any, before: Sequence[str], after: Sequence[str], outermost: str) -> Any:
    """The covariance specification for the effects `after`: `spec`, that of the effects `before`, without those that
    are gone. New effects are independent of the others.

    **Raises:** OptionError for a covariance object that has no smaller or larger form.
    """
    if isinstance(spec, str) or list(before) == list(after):
        return spec
    if isinstance(spec, AbstractCovariance):
        word = family_name(spec) if after else "diagonal"
        if word is None:
            raise OptionError(
                f"the covariance is an object for {len(before)} effects, and there are {len(after)} now; give "
                "covariance=."
            )
        return word
    old, new = by_level(before, outermost), by_level(after, outermost)
    spec_of = spec if isinstance(spec, Mapping) else dict.fromkeys(old, spec)
    out = {
        level: _of_level(spec_of.get(level, "diagonal"), [before[k] for k in old.get(level, ())], names)
        for level, names in ((level, [after[k] for k in positions]) for level, positions in new.items())
    }
    if isinstance(spec, Mapping) or len(out) > 1:
        return out or "diagonal"
    return next(iter(out.values()), "diagonal")


def _of_level(spec: Any, before: list[str], after: list[str]) -> Any:
    """`remaining_covariance` of the effects of one level."""
    if isinstance(spec, (str, AbstractCovariance)):
        return remaining_covariance(spec, before, after, "")
    if not before:
        return "diagonal"
    if any(isinstance(name, str) for part in spec for name in np.ravel(np.asarray(part, object))):
        short = [name.partition("|")[0] for name in after]
        blocks = [[name for name in np.ravel(np.asarray(part, object)) if name in short] for part in spec]
        listed = [name for block in blocks for name in block]
        return [block for block in blocks if block] + [[name] for name in short if name not in listed]
    pattern = np.eye(len(after), dtype=int)
    kept = [j for j, name in enumerate(after) if name in before]
    old = [before.index(after[j]) for j in kept]
    pattern[np.ix_(kept, kept)] = np.asarray(spec)[np.ix_(old, old)]
    return pattern


def remaining_psi(psi: Any, effects: Sequence[str], kept: Sequence[int], outermost: str) -> Any:
    """The option `psi` of a model, a matrix or a dictionary of matrices by level, for the effects that remain.

    **Arguments:** `effects`: those that `psi` is of; `kept`: positions among them, -1 for a new one.
    **Returns:** the same for the effects `kept`; None where one is new.
    """
    if psi is None or -1 in kept:
        return None
    if not isinstance(psi, Mapping):
        return np.asarray(psi, float)[np.ix_(kept, kept)]
    out = {}
    for level, positions in by_level(effects, outermost).items():
        chosen = [j for j, k in enumerate(positions) if k in kept]
        if level in psi and chosen:
            out[level] = np.asarray(psi[level], float)[np.ix_(chosen, chosen)]
    return out or None


def correlation_names(spec: Any, effects: Sequence[str], outermost: str) -> set[str]:
    """Names of the correlations that a covariance specification has.

    **Arguments:** `spec`: as in NLMEModel, by level or for all; `effects`: names, in the order of levels.
    """
    if isinstance(spec, AbstractCovariance):
        return pair_names(effects, spec)
    out: set[str] = set()
    for level, positions in by_level(effects, outermost).items():
        names = [effects[k] for k in positions]
        of_level = spec.get(level, "diagonal") if isinstance(spec, Mapping) else spec
        out |= pair_names(names, family(of_level, [name.partition("|")[0] for name in names]))
    return out


def pair_names(names: Sequence[str], covariance: AbstractCovariance) -> set[str]:
    """Names of the correlations in a covariance family."""
    return {element_name(pair, list(names)) for pair in covariance.correlated_pairs}
