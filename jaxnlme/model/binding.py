"""A model met with data: `bind` settles designs, levels, strata, names and starts into a Problem."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.data.grouped import GroupedData
from jaxnlme.errors import ModelError, near_matches
from jaxnlme.model.covariance import AbstractCovariance
from jaxnlme.model.covariance_families import covariance
from jaxnlme.model.covariates import CovariateColumns
from jaxnlme.model.density import Density, Group
from jaxnlme.model.design import Design, Term, from_array, selection
from jaxnlme.model.error import AbstractError
from jaxnlme.model.individual import AbstractIndividual, FunctionIndividual, LinearIndividual, check_names
from jaxnlme.model.model import NLMEModel
from jaxnlme.model.params import Params
from jaxnlme.model.problem import Problem
from jaxnlme.model.transforms import AbstractTransform
from jaxnlme.records import TAKEN, TAKEN_IN_ROWS, Record, Rows


@dataclasses.dataclass(frozen=True, eq=False)
class Binding:
    """A model met with data, on the host: the Problem, starts, names and what is fixed.

    `start`: Params at the starting values; `fixed` (packed,) bool; `packed_names`: names of the packed vector;
    `transforms`: one transform per beta that is a typical value, None for other coefficients.
    """

    model: NLMEModel
    data: GroupedData
    problem: Problem
    start: Params
    fixed: np.ndarray
    packed_names: tuple[str, ...]
    transforms: tuple[Any, ...]
    covariates: dict[str, CovariateColumns]
    bucket_groups: tuple[np.ndarray, ...]

    @property
    def density(self) -> Density:
        return self.problem.density

    def params(self, values: Mapping[str, float] | None = None, *, psi: Any = None) -> Params:
        """Params from user-scale values; see `NLMEModel.params`."""
        values = dict(values or {})
        density = self.density
        errors = density.error_names
        spreads = density.reported_names[len(density.beta_names) : -len(errors) or None]
        check_names("value", tuple(values), density.reported_names)
        beta = np.array(self.start.beta, float)
        for k, (name, transform) in enumerate(zip(density.beta_names, self.transforms, strict=True)):
            if name in values:
                beta[k] = values[name] if transform is None else _real(name, values[name], transform)
        theta = np.array(self.start.covariance, float)
        if psi is not None or any(name in values for name in spreads):
            matrix = psi_of(density, theta)
            if psi is not None:  # refused here where it is no covariance, and once more with the values in it
                matrix = np.asarray(psi, float)
                _theta_from_psi(density.covariance, matrix, density.effect_names)
            matrix = _psi_with(density, matrix, values)
            theta = _theta_from_psi(density.covariance, matrix, density.effect_names)
        error = np.array(self.start.error, float)
        for k, (name, entry) in enumerate(zip(errors, density.error.parameters, strict=True)):
            if name in values:
                error[k] = _real(name, values[name], entry.transform)
        return Params(beta, theta, error, self.start.free)

    def values(self, params: Params) -> dict[str, float]:
        """User-scale values by name."""
        density = self.density
        beta = np.asarray(params.beta, float)
        out = {
            name: float(b) if t is None else float(t.to_natural(float(b)))
            for name, b, t in zip(density.beta_names, beta, self.transforms, strict=True)
        }
        if density.n_effects:
            psi = psi_of(density, np.asarray(params.covariance, float))
            sd = np.sqrt(np.diag(psi))
            out |= {f"sd({name})": float(value) for name, value in zip(density.effect_names, sd, strict=True)}
            for j, k in density.covariance.related:
                r = psi[j, k] / (sd[j] * sd[k]) if sd[j] * sd[k] > 0 else 0.0
                out[f"corr({density.effect_names[j]}, {density.effect_names[k]})"] = float(r)
        theta = np.asarray(params.error, float)
        out |= {
            name: float(p.transform.to_natural(float(t)))
            for name, p, t in zip(density.error_names, density.error.parameters, theta, strict=True)
        }
        return out


def _real(name: str, value: float, transform: AbstractTransform) -> float:
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


def _theta_from_psi(family: AbstractCovariance, psi: Any, effects: tuple[str, ...]) -> np.ndarray:
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


def _psi_with(density: Density, psi: np.ndarray, values: Mapping[str, float]) -> np.ndarray:
    """psi (random, random) with the "sd(...)" and "corr(...)" of `values` put in; the others stay.

    Where one entry of theta is the scale of several effects, their SDs are one parameter, and so are their
    correlations: what is said of one holds for all.
    """
    names, related = density.effect_names, density.covariance.related
    sd = np.sqrt(np.diag(psi))
    unit = np.where(sd > 0, sd, 1.0)
    correlation = np.where(np.eye(len(sd)) > 0, 1.0, psi / np.outer(unit, unit))
    shared = [set(effects) for _, effects, _ in density.covariance.collapses if len(effects) > 1]

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


def bind(model: NLMEModel, data: GroupedData, like: Binding | None = None, buckets: int | None = None) -> Binding:
    """Settles a model against data: designs, levels, strata, names, starting values.

    **Arguments:** `like`: an earlier binding whose factor levels, centres and strata are kept (new data, predictions);
    `buckets`: how many sizes to pad to (None: chosen from the cost of padding).
    """
    if not isinstance(data, GroupedData):
        raise ModelError(f"data must be a jn.GroupedData; received {type(data).__name__}. See GroupedData.from_frame.")
    _check_readable(data)
    individual, columns, beta0, fixed, names, transforms, covariates = _individual(model, data, like)
    if model.random_design is None or model.individual is not None:
        effects = tuple(p.name for p in model.parameters if p.random)
        sd0 = np.array([p.sd_start for p in model.parameters if p.random])
    else:
        effects, sd0 = _explicit_effects(model, individual.random)
    family = covariance(model.covariance, effects) if like is None else like.density.covariance
    error = model.error.resolve(lambda name: _levels(data, name)) if like is None else like.density.error
    # The default SDs may differ where the family has one for all: their mean is a start as good as any.
    theta0 = family.from_matrix(np.diag(sd0**2)) if model.psi is None else _theta_from_psi(family, model.psi, effects)
    error0 = np.array([float(p.transform.to_real(float(p.start))) for p in error.parameters])
    priors = {p.name: p.prior for p in model.parameters if p.prior is not None} | model.priors
    densities = tuple(priors.values())
    density = Density(model._structural, individual, family, error, densities, tuple(priors), names, effects)
    check_names("prior on", tuple(priors), density.reported_names)
    fixed = np.concatenate(
        [fixed, np.full(len(theta0), model.fix_psi), np.array([p.fix for p in error.parameters], bool)]
    )
    packed = (*names, *_theta_names(density), *density.error_names)
    groups = data.bucket_indices(buckets)
    strata = _strata(data, error)
    problem = Problem(
        density,
        tuple(_group(data, which, columns, strata) for which in groups),
        np.argsort(np.concatenate(groups), kind="stable"),
        np.asarray(data.weights, float),
    )
    start = Params(beta0, theta0, error0, model._free)
    return Binding(model, data, problem, start, fixed.astype(bool), packed, transforms, covariates, tuple(groups))


def _check_readable(data: GroupedData) -> None:
    """Refuses columns that a model could not read as attributes of x, v or a further table."""
    places = [("x", data.x, TAKEN_IN_ROWS), ("v", (*data.v, *data.tables), TAKEN)]
    places += [(f"v.{name}", table, TAKEN_IN_ROWS) for name, (table, _) in data.tables.items()]
    for place, names, taken in places:
        for name in names:
            if name in taken:
                raise ModelError(
                    f"column {name!r} cannot be read by the model: {place}.{name} has a meaning of its own there. "
                    "Rename the column in the table."
                )


def _individual(model: NLMEModel, data: GroupedData, like: Binding | None) -> tuple[Any, ...]:
    """The individual-parameter part: object, varying columns, beta starts, fixed, beta names, transforms, formulas."""
    parameters = model.parameters
    p = len(parameters)
    names = tuple(entry.name for entry in parameters)
    transforms = tuple(entry.transform for entry in parameters)
    random_rows = [k for k, entry in enumerate(parameters) if entry.random]
    starts = [entry.beta_start for entry in parameters]
    fixed = [entry.fix for entry in parameters]
    if model.individual is not None:
        effects = tuple(names[k] for k in random_rows)
        individual: AbstractIndividual = FunctionIndividual(model.individual, names, transforms, effects)
        return individual, [], np.array(starts), np.array(fixed), names, transforms, {}

    shape = data.y.shape
    columns: list[np.ndarray] = []
    formulas: dict[str, CovariateColumns] = {}
    if model.fixed_design is not None:
        fixed_design, columns = from_array(model.fixed_design, "fixed_design", p, shape, 0)
        beta = np.asarray(model.beta, float)
        if beta.shape != (fixed_design.columns,):
            raise ModelError(
                f"beta must have shape ({fixed_design.columns},), one start a column; received {beta.shape}."
            )
        beta_names = tuple(f"beta{k}" for k in range(len(beta)))
        starts, fixed, scales = list(beta), [False] * len(beta), (None,) * len(beta)
    else:
        terms: list[list[Term]] = [[(k, 1.0, None)] for k in range(p)]
        beta_list, scales_list = list(names), list[Any](transforms)
        for k, entry in enumerate(parameters):
            if not entry.covariates:
                continue
            made = like.covariates[entry.name] if like else CovariateColumns(entry.name, entry.covariates, data)
            formulas[entry.name] = made
            for name, owner, column in zip(made.names, made.owners, made.columns(data), strict=True):
                terms[k].append((len(beta_list), None, len(columns)))
                columns.append(column)
                beta_list.append(f"{entry.name} ~ {name}")
                scales_list.append(None)
                starts.append(float(entry.covariates[owner].start))
                fixed.append(entry.covariates[owner].fix)
        fixed_design = Design(tuple(tuple(row) for row in terms), len(beta_list))
        beta_names, scales = tuple(beta_list), tuple(scales_list)
    if model.random_design is not None:
        random_design, more = from_array(model.random_design, "random_design", p, shape, len(columns))
        columns = columns + more
    else:
        random_design = selection(p, random_rows)
    individual = LinearIndividual(names, transforms, fixed_design, random_design)
    return individual, columns, np.array(starts, float), np.array(fixed, bool), beta_names, scales, formulas


def _explicit_effects(model: NLMEModel, design: Design) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and starting SDs of the columns of random_design: those of the parameter, where a column serves one."""
    rows = [[p for p, terms in enumerate(design.terms) if any(t[0] == k for t in terms)] for k in range(design.columns)]
    serves = [model.parameters[which[0]].name if len(which) == 1 else None for which in rows]
    effects = tuple(name if name and serves.count(name) == 1 else f"b{k}" for k, name in enumerate(serves))
    sds = [max((model.parameters[p].sd_start for p in which), default=1.0) for which in rows]
    return effects, np.array(sds, float)


def _theta_names(density: Density) -> tuple[str, ...]:
    """Names of the entries of theta: the collapsing ones after the effect whose scale they are."""
    names = [f"psi[{k}]" for k in range(density.covariance.n_unconstrained)]
    for index, effects, _ in density.covariance.collapses:
        names[index] = f"log sd({', '.join(density.effect_names[k] for k in effects)})"
    return tuple(names)


def _levels(data: GroupedData, name: str) -> list[str]:
    """The levels of a column on rows with a response: in their declared order, or sorted."""
    values, places = _distinct(_column(data, name))
    seen = set(places[data.observed].tolist())
    if name not in data.levels:
        return [_level(value) for k, value in enumerate(values) if k in seen]
    found = {_level(values[k]) for k in seen}
    return [level for level in map(_level, data.levels[name]) if level in found]


def _distinct(column: np.ndarray) -> tuple[list[Any], np.ndarray]:
    """The distinct values of a column (groups, obs), sorted, and where in them each cell has its own."""
    if column.dtype == object:
        column = np.vectorize(_level, otypes=[object])(column).astype(str)
    values, places = np.unique(column, return_inverse=True)
    return values.tolist(), places.reshape(column.shape)


def _level(value: Any) -> str:
    """The name of a level: whole numbers without their decimal point."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _column(data: GroupedData, name: str) -> np.ndarray:
    for place in (data.x, data.v, data.text):
        if name in place:
            column = np.asarray(place[name])
            return column if column.ndim == 2 else np.repeat(column[:, None], data.y.shape[1], axis=1)
    known = [*data.x, *data.v, *data.text]
    raise ModelError(f"column {name!r} of the residual model is not in the data; {near_matches(name, known)}")


def _strata(data: GroupedData, error: AbstractError) -> np.ndarray | None:
    by, levels = getattr(error, "by", None), getattr(error, "levels", ())
    if by is None:
        return None
    values, places = _distinct(_column(data, by))
    index = [levels.index(_level(value)) if _level(value) in levels else -1 for value in values]
    strata = np.array(index)[places]
    # Rows without a response need no level where others have one; a table without responses is there to predict.
    unknown = (strata < 0) & (data.observed if data.observed.any() else data.rows)
    if unknown.any():
        names = [_level(values[k]) for k in sorted(set(places[unknown].tolist()))]
        raise ModelError(f"column {by!r} has levels that the fitted data lacked: {names[:5]}; known: {list(levels)}.")
    return np.maximum(strata, 0)


def _group(data: GroupedData, which: np.ndarray, columns: list[np.ndarray], strata: np.ndarray | None) -> Group:
    """The stacked groups `which`, trimmed to the longest of them."""
    obs = max(int(data.rows[which].sum(axis=1).max(initial=1)), 1) if len(which) < data.n_groups else data.y.shape[1]

    def cut(array: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(array[which][:, :obs] if array.ndim >= 2 else array[which])

    x = Rows(
        tuple(data.x),
        tuple(cut(c) for c in data.x.values()),
        "predictor (x)",
        cut(data.rows),
        cut(data.observed),
        text_columns=tuple(data.text),
    )
    tables = {
        name: Rows(tuple(table), tuple(c[which] for c in table.values()), f"column of table {name}", mask[which])
        for name, (table, mask) in data.tables.items()
    }
    columns_v = (*(cut(c) for c in data.v.values()), *tables.values())
    v = Record((*data.v, *tables), columns_v, "group-level predictor (v)", text_columns=tuple(data.text))
    keys = np.array([zlib.crc32(str(label).encode()) for label in data.labels[which]], np.uint32)
    return Group(cut(data.y), x, v, tuple(cut(c) for c in columns), None if strata is None else cut(strata), keys)
