"""The random effects that a model declares, resolved at the levels of the data: names, starts, levels, covariance."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxnlme.binding.stacking import levels, row_levels
from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError, near_matches
from jaxnlme.model.covariance.base import AbstractCovariance, element_name
from jaxnlme.model.covariance.heterogeneous import Heterogeneous
from jaxnlme.model.covariance.specification import covariance
from jaxnlme.model.covariance.structures import Blocks
from jaxnlme.model.declaration import ModelDeclaration
from jaxnlme.model.design import Design
from jaxnlme.model.levels import EffectLevel, Levels
from jaxnlme.model.parameters import Parameter
from jaxnlme.model.settings import MODEL


@dataclasses.dataclass(frozen=True)
class RandomEffects:
    """The distinct random effects of a model, those of the outermost level first.

    **Fields:** `names`; `parameters`: index of the parameter that each belongs to (None for the columns of a
    random_design); `depths`: 0 for the groups, 1 for the first nested level, ...; `level_names`: by depth; `sds`:
    starting standard deviations; `sd_ranges`: least and largest (`Parameter.sd_start_range`); `factors`: by depth the
    levels of the factor between which the covariance differs (`Heterogeneous`); `indicators`: for each effect of these
    1 in the groups (groups,), or rows (groups, obs), of its factor level, None for other effects; `merged`: pairs
    (depth, name of the parameter) of effects that are left out, because each unit of a level around them, where there
    is the same effect, has one unit.
    """

    names: tuple[str, ...]
    parameters: tuple[int, ...] | None
    depths: tuple[int, ...]
    level_names: tuple[str, ...]
    sds: np.ndarray
    sd_ranges: tuple[tuple[float, float], ...]
    factors: Mapping[int, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    indicators: tuple[np.ndarray | None, ...] = ()
    merged: tuple[tuple[int, str], ...] = ()

    def at(self, depth: int) -> list[int]:
        """Positions of the effects of a level."""
        return [k for k, d in enumerate(self.depths) if d == depth]

    def short_names(self, depth: int) -> list[str]:
        """Names of the effects of a level without that of the level."""
        suffix = f"|{self.level_names[depth]}"
        return [self.names[k].replace(suffix, "") for k in self.at(depth)]

    def is_merged_level(self, name: str) -> bool:
        """True for a level of which effects are left out (`merged`)."""
        return any(self.level_names[depth] == name for depth, _ in self.merged)


def effect_name(parameter: str, level: str, depth: int) -> str:
    """The name of a random effect: that of the parameter, with the level where it is nested, "cl|Occasion"."""
    return f"{parameter}|{level}" if depth else parameter


def declared_depths(parameter: Parameter, levels: Sequence[str]) -> list[int]:
    """The levels, as positions among `levels`, that a parameter has random effects by.

    **Raises:** ModelError for a level that the data do not have.
    """
    names = parameter.random if isinstance(parameter.random, tuple) else (levels[0],) if parameter.random else ()
    sds = tuple(parameter.sd) if isinstance(parameter.sd, Mapping) else ()
    for option, name in (*(("random", name) for name in names), *(("sd", name) for name in sds)):
        if name not in levels:
            raise ModelError(
                f"parameter {parameter.name!r}: {option} names the level {name!r}, which the data do not have; "
                f"{near_matches(name, levels)} Levels are declared by GroupedData.from_frame(..., group=[...])."
            )
    for name in sds:
        if name not in names:
            raise ModelError(f"parameter {parameter.name!r}: sd names the level {name!r}, and random does not.")
    return [depth for depth, level in enumerate(levels) if level in names]


def random_effects(
    model: ModelDeclaration, data: GroupedData, random_design: Design | None, like: RandomEffects | None = None
) -> RandomEffects:
    """The distinct random effects of a model bound to `data`.

    **Arguments:** `random_design`: the Design of the model's random_design, None without one; `like`: those of an
    earlier binding, whose factor levels are used.
    **Raises:** ModelError for a level that the data do not have, or a factor that varies within its units.
    """
    names_of_levels = data.level_names
    if random_design is not None and model.individual is None:
        return _explicit(model, random_design, names_of_levels)
    declared = [(depth, k) for k, p in enumerate(model.parameters) for depth in declared_depths(p, names_of_levels)]
    declared.sort(key=lambda entry: entry[0])
    kept = [entry for entry in declared if not _is_merged(*entry, declared, model, data, like)]
    merged = tuple((d, model.parameters[k].name) for d, k in declared if (d, k) not in kept)
    declared = kept
    factors = _factors(model, data, {depth for depth, _ in declared}, like)
    expanded = [
        (depth, k, level)
        for d in sorted({depth for depth, _ in declared})
        for level in factors.get(d, (None,))
        for depth, k in declared
        if depth == d
    ]
    parameters = [model.parameters[k] for _, k, _ in expanded]
    names = [effect_name(p.name, names_of_levels[d], d) for p, (d, _, _) in zip(parameters, expanded, strict=True)]
    return RandomEffects(
        tuple(n if level is None else f"{n}[{level}]" for n, (_, _, level) in zip(names, expanded, strict=True)),
        tuple(k for _, k, _ in expanded),
        tuple(depth for depth, _, _ in expanded),
        names_of_levels,
        np.array([p.sd_start(names_of_levels[d]) for p, (d, _, _) in zip(parameters, expanded, strict=True)], float),
        tuple(p.sd_start_range(names_of_levels[d]) for p, (d, _, _) in zip(parameters, expanded, strict=True)),
        factors,
        tuple(None if level is None else _indicator(model, data, depth, level) for depth, _, level in expanded),
        merged,
    )


def _is_merged(
    depth: int,
    parameter: int,
    declared: Sequence[tuple[int, int]],
    model: ModelDeclaration,
    data: GroupedData,
    like: RandomEffects | None,
) -> bool:
    """True if a random effect cannot be distinguished from the one of the same parameter at a level around it, because
    each unit there has one unit of its level; where there is an earlier binding, if it was so there.

    **Arguments:** `declared`: pairs (level, parameter) of all random effects.
    """
    outer = [d for d, k in declared if k == parameter and d < depth]
    if not outer:
        return False
    if like is not None:
        return (depth, model.parameters[parameter].name) in like.merged
    around = data.nested[outer[-1] - 1].counts if outer[-1] else 1
    return bool((data.nested[depth - 1].counts == around).all())


def _specification(spec: Any, level: str) -> Any:
    """The covariance specification of one level, from that of a model."""
    return spec.get(level, "diagonal") if isinstance(spec, Mapping) else spec


def _factors(
    model: ModelDeclaration, data: GroupedData, depths: set[int], like: RandomEffects | None
) -> dict[int, tuple[str, ...]]:
    """By depth the levels of the factor of a Heterogeneous covariance."""
    if like is not None:
        return dict(like.factors)
    specs = {d: _specification(model.covariance, data.level_names[d]) for d in depths}
    return {d: tuple(map(str, levels(data, s.by))) for d, s in specs.items() if isinstance(s, Heterogeneous)}


def _indicator(model: ModelDeclaration, data: GroupedData, depth: int, level: str) -> np.ndarray:
    """1.0 in the groups (groups,), or for a nested level in the rows (groups, obs), where the factor has `level`.

    **Raises:** ModelError where the factor varies within a unit, and for a model with an individual function.
    """
    by = _specification(model.covariance, data.level_names[depth]).by
    if model.individual is not None:
        raise ModelError(
            f"covariance differs by {by!r}, and an individual function gives the parameters of this model, which takes "
            "one random effect for each parameter: use linear parameters, or one covariance for all."
        )
    column = row_levels(data, by)
    unit = data.nested[depth - 1].unit if depth else np.zeros(column.shape, int)
    first = data.nested[depth - 1].first_row if depth else np.zeros((data.n_groups, 1), int)
    of_unit = np.take_along_axis(np.take_along_axis(column, first, axis=1), unit, axis=1)
    varies = ((column != of_unit) & data.rows).any(axis=1)
    if varies.any():
        raise ModelError(
            f"covariance differs by {by!r}, which varies within a unit of {data.level_names[depth]!r} "
            f"(group {data.labels[np.flatnonzero(varies)[0]]!r}); expected one value for each of them."
        )
    inside = (of_unit == level).astype(float)
    return inside if depth else inside[:, 0]


def _explicit(model: ModelDeclaration, design: Design, levels: tuple[str, ...]) -> RandomEffects:
    """The columns of random_design, with the names and starts of the parameter where a column enters only one."""
    rows = [[p for p, terms in enumerate(design.terms) if any(t[0] == k for t in terms)] for k in range(design.columns)]
    only = [model.parameters[column[0]].name if len(column) == 1 else None for column in rows]
    names = tuple(name if name and only.count(name) == 1 else f"b{k}" for k, name in enumerate(only))
    names = model.effect_names or names
    sds = [max((model.parameters[p].sd_start(levels[0]) for p in column), default=1.0) for column in rows]
    ranges = tuple(
        model.parameters[column[0]].sd_start_range(levels[0]) if len(column) == 1 else (0.0, np.inf) for column in rows
    )
    return RandomEffects(names, None, (0,) * len(names), levels, np.array(sds, float), ranges)


def levels_of(effects: RandomEffects, data: GroupedData) -> Levels | None:
    """The layout of the random effects of nested levels; None where all are those of the groups.

    **Arguments:** `data`: whose numbers of units it has.
    """
    if not any(effects.depths):
        return None
    units = (1, *(int(level.counts.max()) for level in data.nested))
    used = sorted(set(effects.depths))
    return Levels(tuple(EffectLevel(effects.level_names[d], d, tuple(effects.at(d)), units[d]) for d in used))


def covariance_of(spec: Any, effects: RandomEffects) -> AbstractCovariance:
    """The covariance family of the distinct random effects: effects of different levels are independent.

    **Arguments:** `spec`: as for `specification.covariance`, for every level; or a dictionary of these by level, where
    levels that it does not name have independent effects.
    **Raises:** ModelError for a level without random effects, and for a structure that correlates levels.
    """
    used = sorted(set(effects.depths))
    names = [effects.level_names[d] for d in used]
    if isinstance(spec, Mapping):
        for name in spec:
            if name not in names and not effects.is_merged_level(name):
                raise ModelError(
                    f"covariance names {name!r}, which is no level with random effects; {near_matches(name, names)}"
                )
        spec_of = {d: _specification(spec, effects.level_names[d]) for d in used}
    elif isinstance(spec, AbstractCovariance) and any(effects.depths):
        return _checked_object(spec, effects)
    elif not isinstance(spec, (str, Heterogeneous)) and len(used) > 1:
        example = ", ".join(f"{name!r}: ..." for name in names)
        raise ModelError(
            f"the model has random effects at {len(used)} levels: give their covariances by level, "
            f"covariance={{{example}}}."
        )
    else:
        spec_of = dict.fromkeys(used, spec)
    families = [_family(spec_of[d], effects.short_names(d), effects.factors.get(d, ())) for d in used]
    if len(used) < 2:
        return families[0] if families else covariance("diagonal", ())
    return Blocks(len(effects.names), tuple((tuple(effects.at(d)), f) for d, f in zip(used, families, strict=True)))


def _family(spec: Any, names: Sequence[str], factor: Sequence[str]) -> AbstractCovariance:
    """The covariance of the effects of one level, for a Heterogeneous one a block for each level of its `factor`."""
    if not isinstance(spec, Heterogeneous):
        return covariance(spec, names)
    n = len(names) // len(factor)
    parameters = [name.removesuffix(f"[{factor[0]}]") for name in names[:n]]
    blocks = [(tuple(range(k * n, (k + 1) * n)), covariance(spec.structure, parameters)) for k in range(len(factor))]
    return Blocks(len(names), tuple(blocks))


def _checked_object(family: AbstractCovariance, effects: RandomEffects) -> AbstractCovariance:
    """A covariance object of all effects. **Raises:** ModelError where it correlates effects of different levels."""
    family = covariance(family, effects.names)
    psi = np.asarray(family.factor(np.linspace(*MODEL.pattern_range, family.n_unconstrained)))
    psi = psi @ psi.T
    for j, k in zip(*np.nonzero(psi), strict=True):
        if effects.depths[j] != effects.depths[k]:
            raise ModelError(
                f"the covariance object correlates {effects.names[j]} and {effects.names[k]}, random effects of "
                "different levels, which are independent: give one covariance for each level, in a dictionary."
            )
    return family


def psi_matrix(psi: Any, effects: RandomEffects) -> Any:
    """The option `psi` as one matrix (distinct effects, distinct effects), from a matrix or a dictionary of matrices by
    level. **Raises:** ModelError for a level without random effects, or matrices of other shapes."""
    if not isinstance(psi, Mapping):
        return psi
    used = {effects.level_names[d]: effects.at(d) for d in sorted(set(effects.depths))}
    out = np.diag(effects.sds**2)
    for name, matrix in psi.items():
        if name not in used and effects.is_merged_level(name):
            continue
        if name not in used:
            raise ModelError(f"psi names {name!r}, which is no level with random effects; {near_matches(name, used)}")
        n = len(used[name])
        if np.shape(matrix) != (n, n):
            raise ModelError(f"psi of level {name!r} must have shape ({n}, {n}); received {np.shape(matrix)}.")
        out[np.ix_(used[name], used[name])] = matrix
    return out


def sd_name(parameter: Parameter, level: str, depth: int) -> str:
    """The reported name of the standard deviation of a parameter's random effect by `level`."""
    return element_name((0,), [effect_name(parameter.name, level, depth)])


def parameter_without(parameter: Parameter, dropped: Sequence[str], levels: Sequence[str]) -> Parameter:
    """The parameter without its random effects that are among the names `dropped`."""
    depths = declared_depths(parameter, levels)
    remaining = [levels[d] for d in depths if effect_name(parameter.name, levels[d], d) not in dropped]
    if len(remaining) == len(depths):
        return parameter
    if not remaining:
        return dataclasses.replace(parameter, random=False, sd=None)
    sds = {level: parameter.sd_of(level) for level in remaining if parameter.sd_of(level) is not None}
    return dataclasses.replace(parameter, random=remaining, sd=sds or None)
