"""The covariance structure of a model whose random effects `Fit.update` changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jaxnlme.binding.random_effects import covariance_of, declared_depths, effect_name, random_effects
from jaxnlme.errors import OptionError
from jaxnlme.model.covariance.base import element_name
from jaxnlme.model.covariance.specification import covariance, family_name
from jaxnlme.model.covariance.structures import AbstractCovariance

if TYPE_CHECKING:
    from jaxnlme.binding.model import NLMEModel
    from jaxnlme.fitting.model_changes import ModelChange


def remaining_covariance(change: ModelChange) -> Any:
    """The covariance specification for the effects that remain."""
    spec, kept = change.old_model.covariance, change.kept_effects
    if isinstance(spec, str):
        return spec
    if isinstance(spec, Mapping):
        return _by_level(change, spec)
    names = [change.effects[k] for k in kept if k >= 0]
    if isinstance(spec, AbstractCovariance):
        family_word = family_name(spec) if kept else "diagonal"
        if family_word is None:
            raise OptionError(
                f"the covariance is an object for {len(change.effects)} effects, and there are {len(kept)} now; give "
                "covariance=."
            )
        return family_word
    if any(isinstance(name, str) for part in spec for name in np.ravel(np.asarray(part, object))):
        blocks = [[name for name in np.ravel(np.asarray(part, object)) if name in names] for part in spec]
        if change.design is not None:  # the effects may have other names in the new model
            block = {name: k for k, part in enumerate(blocks) for name in part}
            labels = np.array([block[name] for name in names])
            return (labels[:, None] == labels[None, :]).astype(int)
        new_blocks = [[name] for name in change.effects_now() if name not in change.effects]
        return [block for block in blocks if block] + new_blocks or "diagonal"
    pattern = np.eye(len(kept), dtype=int)
    after = [j for j, k in enumerate(kept) if k >= 0]
    before = [kept[j] for j in after]
    pattern[np.ix_(after, after)] = np.asarray(spec)[np.ix_(before, before)]
    return pattern if kept else "diagonal"


def _by_level(change: ModelChange, spec: Mapping[str, Any]) -> dict[str, Any]:
    """The covariance specifications by level for the effects that remain.

    **Raises:** OptionError where one is neither a word nor blocks and its effects have changed.
    """
    out = {}
    for depth, level in enumerate(change.levels):
        before, names = (
            [effect_name(p.name, level, depth) for p in parameters if depth in declared_depths(p, change.levels)]
            for parameters in (change.old_model.parameters, change.parameters)
        )
        part = spec.get(level, "diagonal")
        if not names:
            continue
        if not isinstance(part, str) and names != before:
            raise OptionError(
                f"the covariance of level {level!r} is given for {', '.join(before)}, and the effects are now "
                f"{', '.join(names)}: give covariance= as well."
            )
        out[level] = part
    return out


def remaining_psi(change: ModelChange) -> Any:
    """The option `psi`, a matrix or a dictionary of matrices by level, for the effects that remain; none is new."""
    psi, kept, random = change.old_model.psi, change.kept_effects, change.fit.binding.random
    if not isinstance(psi, Mapping):
        return np.asarray(psi, float)[np.ix_(kept, kept)]
    out = {}
    for level, matrix in psi.items():
        of_level = [k for k, depth in enumerate(random.depths) if random.level_names[depth] == level]
        chosen = [j for j, k in enumerate(of_level) if k in kept]
        if chosen:
            out[level] = np.asarray(matrix, float)[np.ix_(chosen, chosen)]
    return out or None


def removed_elements(change: ModelChange, model: NLMEModel) -> set[str]:
    """Names of the standard deviations and correlations of the fit that the new `model` lacks."""
    effects = [change.effects[k] for k in change.kept_effects]
    if change.design is None:
        random = random_effects(model, change.fit.data, None)
        effects, structure = list(random.names), covariance_of(model.covariance, random)
    else:
        structure = covariance(model.covariance, effects)
    remaining = [change.effects[k] for k in change.kept_effects if k >= 0]
    removed = {f"sd({name})" for name in change.effects if name not in remaining}
    before = change.fit.binding.density.covariance
    return removed | (set(_pairs(change.effects, before)) - set(_pairs(effects, structure)))


def _pairs(names: list[str], covariance: AbstractCovariance) -> list[str]:
    """Names of the correlations in a covariance family."""
    return [element_name(pair, names) for pair in covariance.correlated_pairs]
