"""Nested residual models: values of the parameters of the larger one at which it is the smaller one."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.user_scale import with_error_values
from jaxnlme.comparison.settings import NESTING
from jaxnlme.errors import ModelError, some
from jaxnlme.estimators.core.model_digest import digest
from jaxnlme.numerics.arrays import on_device
from jaxnlme.precision import x64
from jaxnlme.results.record import FitRecord


@dataclasses.dataclass(frozen=True)
class ResidualNesting:
    """A residual model inside a larger one: `counterparts`: names in the larger one of parameters that the smaller one
    has by other names; `null_values`: of the parameters that are added, by reported name; `at_bound`: those of them
    that are then at a bound of their range."""

    counterparts: tuple[str, ...] = ()
    null_values: Mapping[str, float] = dataclasses.field(default_factory=dict)
    at_bound: tuple[str, ...] = ()


def residual_nesting(smaller: FitRecord, larger: FitRecord) -> ResidualNesting | str:
    """The ResidualNesting of two fits whose predictions are the same functions, or a sentence on why there is none.

    Where the models are not the same, values (0, 1 or a bound of the range) of the parameters that are added are tried
    until the densities of some groups, at the estimates of the smaller fit, are those of the smaller model.
    """
    a, b = smaller.binding, larger.binding
    ours, theirs = _parameters(a), _parameters(b)
    shared = [name for name in ours if name in theirs]
    for name in shared:
        held, value = theirs[name]
        held_by_smaller, value_of_smaller = ours[name]
        if held and not held_by_smaller:
            return f"the larger model holds {name} fixed, which the smaller one estimates."
        if held and abs(value - value_of_smaller) > NESTING.same_value * max(1.0, abs(value)):
            return f"the two models hold {name} at different values, {value_of_smaller:g} and {value:g}."
    if list(ours) == list(theirs) and digest([a.density.error]) == digest([b.density.error]):
        return ResidualNesting()
    with x64():
        return _search(smaller, larger, shared)


def _parameters(binding: Binding) -> dict[str, tuple[bool, float]]:
    """Of each residual parameter by reported name: it is held fixed, and its start."""
    density = binding.density
    return {n: (p.fix, float(p.start)) for n, p in zip(density.error_names, density.error.parameters, strict=True)}


def _search(smaller: FitRecord, larger: FitRecord, shared: list[str]) -> ResidualNesting | str:
    """The first values tried at which the densities agree."""
    a, b = smaller.binding, larger.binding
    own = [name for name in a.density.error_names if name not in shared]
    added = [name for name in b.density.error_names if name not in shared]
    values = {name: smaller.values[name] for name in a.density.error_names}
    target = _log_densities(smaller, a, np.asarray(smaller.params.error, float))
    bounds = dict(zip(b.density.error_names, (p.transform.domain for p in b.density.error.parameters), strict=True))
    held = {name: value for name, (is_held, value) in _parameters(b).items() if is_held}
    trials = 0
    for counterparts in _matches(own, added):
        extra = [name for name in added if name not in counterparts]
        choices = [_null_values(bounds[name], held.get(name)) for name in extra]
        for nulls in itertools.product(*choices):
            trials += 1
            if trials > NESTING.most_trials:
                break
            trial = {name: values[name] for name in shared}
            trial |= {name: values[of] for name, of in counterparts.items()}
            trial |= {name: value for name, (value, _) in zip(extra, nulls, strict=True)}
            if not all(bounds[name][0] < value < bounds[name][1] for name, value in trial.items()):
                continue
            try:
                theta = with_error_values(b.density, np.array(b.start.error, float), trial)
            except ModelError:
                continue
            got = _log_densities(smaller, b, theta)
            if np.allclose(got, target, rtol=NESTING.same_density, atol=NESTING.same_density):
                free = {name: null for name, null in zip(extra, nulls, strict=True) if name not in held}
                # One of several names of the same parameter is its counterpart; those beyond it are added.
                return ResidualNesting(
                    tuple(dict((of, name) for name, of in reversed(counterparts.items())).values()),
                    {name: trial[name] for name in [*free, *counterparts]},
                    tuple(name for name, (_, at_bound) in free.items() if at_bound),
                )
    names = f" with {some(list(a.density.error_names))} of the smaller one" if a.density.error_names else ""
    return (
        f"no values of {some(added) or 'its parameters'} were found at which the residual model of the larger model "
        f"({b.density.error.formula}) is that of the smaller one ({a.density.error.formula}){names}."
    )


def _matches(own: list[str], added: list[str]) -> Iterator[dict[str, str]]:
    """Assignments of the smaller model's names to names of the larger one: {name in the larger: name in the smaller}.
    A parameter corresponds to its copies for the levels of a column, "a" to "a[F]" and "a[M]", or to one parameter."""
    copies = {name: [other for other in added if other.startswith(f"{name}[")] for name in own}
    single = [name for name in own if not copies[name]]
    fixed = {other: name for name in own for other in copies[name]}
    rest = [name for name in added if name not in fixed]
    for chosen in itertools.permutations(rest, len(single)):
        yield fixed | dict(zip(chosen, single, strict=True))


def _null_values(bounds: tuple[float, float], held: float | None) -> list[tuple[float, bool]]:
    """Values that may make a parameter vanish, and whether each is a bound of its range."""
    if held is not None:
        return [(held, False)]
    low, high = bounds
    inside = [(value, False) for value in (0.0, 1.0) if low < value < high]
    at_low = [(NESTING.limit, True)] if low == 0.0 else []
    at_high = [(1.0 - np.finfo(float).eps, True)] if high == 1.0 else []
    return [*inside, *at_low, *at_high]


def _log_densities(smaller: FitRecord, binding: Binding, theta: np.ndarray) -> np.ndarray:
    """Log-densities of the responses of some groups by the residual model of `binding` at `theta` (error,), given
    predictions of the smaller fit without random effects and with random ones."""
    density, out = smaller.binding.density, []
    params, rng = on_device(smaller.params), np.random.default_rng(0)
    for k in np.unique(np.linspace(0, smaller.data.n_groups - 1, NESTING.groups).astype(int)):
        group, of_binding = (_group(each, int(k)) for each in (smaller.binding, binding))
        for size in (0.0, 1.0):
            f = density.predict(params, on_device(size * rng.standard_normal(density.n_effects)), group)
            # The two may be padded to different numbers of rows: rows of the padding have no part in the density.
            if np.ndim(f) == 1:
                f = f[np.minimum(np.arange(len(of_binding.y)), len(group.y) - 1)]
            out.append(float(binding.density.error.log_density(f, f, on_device(theta), of_binding)))
    return np.array(out)


def _group(binding: Binding, position: int) -> Any:
    """One group of the data, by its position in them."""
    for which, bucket in zip(binding.bucket_groups, binding.problem.buckets, strict=True):
        place = np.flatnonzero(which == position)
        if len(place):
            return jax.tree.map(lambda leaf, k=int(place[0]): leaf[k], bucket)
    raise IndexError(position)
