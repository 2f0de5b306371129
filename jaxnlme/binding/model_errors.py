"""Reasons why a group fails: rows and operations of the model whose value or derivative is not finite, and kinks under
a mode."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.binding.rows_of_groups import group_at, row_numbers, rows_in_words
from jaxnlme.binding.settings import CHECKS
from jaxnlme.errors import some
from jaxnlme.model.density import Group
from jaxnlme.model.derivatives import jacobian
from jaxnlme.model.params import Params
from jaxnlme.numerics.operations import Operation, Operations, source_of_non_finite, switches

_WORDS = {
    "pow": "a power",
    "integer_pow": "a power",
    "log": "a logarithm",
    "log1p": "a logarithm",
    "sqrt": "a square root",
    "rsqrt": "a square root",
    "cbrt": "a cube root",
    "div": "a division by a multiple",
    "exp": "an exponential",
    "exp2": "an exponential",
    "expm1": "an exponential",
}
# Operations that hand on a divisor of zero.
_PASSED = ("mul", "neg", "broadcast_in_dim", "convert_element_type", "reshape", "copy", "squeeze")
_ORDERS = ("value", "derivative", "second derivative")
_UNKNOWN = "; look for 0/0, log(0) or overflow (jnp.where on the argument helps)."
_OF_SOLVER = (
    ": the solver of differential equations used up its steps there, or its solution is not finite. Other starting "
    "values, a larger max_steps, or for stiff equations an implicit solver (diffrax.Kvaerno5()) may help."
)


def non_finite_sentence(binding: Binding, params: Params, z: np.ndarray, failed: np.ndarray) -> str:
    """A sentence on the rows and the operation that make the model or its derivatives not finite, with the remedy.

    **Arguments:** `params`; `z` (groups, random): whitened effects; `failed` (groups,) bool: the groups concerned, of
    which the first few are looked at.
    **Returns:** an empty text if the model and its first and second derivatives are finite in them.
    """
    for index in np.flatnonzero(failed)[: CHECKS.explained_groups]:
        group = group_at(binding, index)
        predict, names = _shifted_prediction(binding, params, z[index], group)
        observed = np.asarray(group.x.observed)
        for order in range(len(_ORDERS)):
            errors = {name: _error(partial, order, observed) for name, partial in _partials(predict, names, order)}
            errors = {name: error for name, error in errors.items() if error is not None}
            if errors:
                rows, cause = next(iter(errors.values()))
                if cause == _UNKNOWN and _calls_solver(binding, params):
                    cause = _OF_SOLVER
                subject = (
                    "the model" if not order else f"the model is finite, but its {_ORDERS[order]} in {some([*errors])}"
                )
                return f"In {_rows(binding, index, rows)} {subject} is not finite{cause}"
        outside = _outside_of_residuals(binding, params, z[index], group, observed)
        if outside.any():
            return (
                f"In {_rows(binding, index, outside)} the prediction or the response is outside the range of the error "
                f"model {binding.density.error.formula} (zero or negative, as before a first dose?): leave these rows "
                "out, or choose an error model with a constant part (error='combined')."
            )
    return ""


def _outside_of_residuals(
    binding: Binding, params: Params, z: np.ndarray, group: Group, observed: np.ndarray
) -> np.ndarray:
    """The rows (obs,) bool whose residual, such as a difference of logarithms, is not finite though the model is."""
    error = binding.density.error
    if not error.has_location_and_scale:
        return np.zeros(observed.shape, bool)
    prediction = binding.density.predict(params, jnp.asarray(z), group)
    residual, _, slope = error.moments(prediction, prediction, params.error, group)
    return observed & ~(np.isfinite(np.asarray(residual)) & np.isfinite(np.asarray(slope)))


def solver_sentence(binding: Binding, params: Params, z: np.ndarray, failed: np.ndarray) -> str:
    """A sentence on the tolerance of a solver of differential equations that the model calls; empty for other models.
    Arguments as of `non_finite_sentence`."""
    if not _calls_solver(binding, params):
        return ""
    return (
        "The model calls a solver of differential equations, whose predictions and derivatives are smooth to its "
        "tolerance only: if rtol and atol are larger than 1e-8, make them smaller (with a state whose size is far from "
        "one, atol in proportion)."
    )


def _calls_solver(binding: Binding, params: Params) -> bool:
    group = group_at(binding, 0)
    phi = binding.density.phi(params, jnp.zeros(binding.density.n_effects), group)
    return binding.density.structural.calls_solver(params.free, phi, group.x, group.v)


def kink_sentence(binding: Binding, params: Params, z: np.ndarray, failed: np.ndarray) -> str:
    """A sentence on the first of the groups `failed` (groups,) bool whose whitened effects in `z` (groups, random) lie
    on a kink of the model; empty if none of the first hundred or so does."""
    density = binding.density
    for index in np.flatnonzero(failed)[: CHECKS.kink_groups]:
        group = group_at(binding, index)
        here = np.nan_to_num(np.asarray(z[index]))
        operations = Operations(lambda z, group=group: density.predict(params, z, group), here)
        for axis in np.eye(len(here)):
            ends = [operations.run(here + sign * CHECKS.kink_step * axis)[0] for sign in (-1.0, 1.0)]
            for below, above in zip(*ends, strict=True):
                changed = [a != b for a, b in zip(switches(below), switches(above), strict=True)]
                if not any(np.any(entries) for entries in changed):
                    continue
                rows = next(np.atleast_1d(entries) for entries in changed if np.any(entries))
                rows = rows if rows.shape == group.y.shape else np.zeros(group.y.shape, bool)
                rows = rows & np.asarray(group.x.observed)
                label = binding.data.labels[index]
                where = f" ({_rows(binding, index, rows)})" if rows.any() else ""
                line = f", in {below.where}" if below.where else ""
                return (
                    f"The mode of group {label} lies on a kink of the model{where}: {below.name}{line} changes its "
                    "branch there, and the derivative jumps. A likelihood expanded at the mode does not suit such a "
                    "model: use jn.SAEM(), or a smooth form of it (jax.nn.softplus, for example)."
                )
    return ""


def _shifted_prediction(
    binding: Binding, params: Params, z: np.ndarray, group: Group
) -> tuple[Callable[..., Any], tuple[str, ...]]:
    """The prediction as a function of shifts of the individual parameters, one argument for each, as fractions of their
    size on the natural scale; and names of these parameters."""
    density = binding.density
    b = density.effects(params, jnp.nan_to_num(jnp.asarray(z)))
    phi = density.phi_given(jnp.asarray(params.beta), b, group, params.free)
    sizes = [np.max(np.abs(np.asarray(value)), initial=0.0) or 1.0 for value in phi.values]

    def predict(*shifts):
        values = tuple(v + size * shift for v, size, shift in zip(phi.values, sizes, shifts, strict=True))
        return density.structural(params.free, dataclasses.replace(phi, values=values), group.x, group.v)

    return predict, phi.names


def _partials(
    predict: Callable[..., Any], names: tuple[str, ...], order: int
) -> Iterator[tuple[str, Callable[[Any], Any]]]:
    """For each parameter its name and the derivative of `order` in it only, as a function of its shift. (In all
    together, zero times infinity would make the derivatives in the others not finite as well.)"""
    for k, name in enumerate(names if order else names[:1]):
        partial = functools.partial(_single, predict, len(names), k)
        for _ in range(order):
            partial = jacobian(partial)
        yield name, partial


def _single(predict: Callable[..., Any], n: int, k: int, shift: Any) -> Any:
    """`predict` at a `shift` of parameter `k` of `n`."""
    return predict(*(shift if j == k else 0.0 for j in range(n)))


def _error(partial: Callable[[Any], Any], order: int, observed: np.ndarray) -> tuple[np.ndarray, str] | None:
    """The observed rows (obs,) in which `partial`, a derivative of `order`, is not finite, and the cause, the end of a
    sentence; None if it is finite in all."""
    operations = Operations(partial, 0.0)
    for leaf, operation in operations.run(0.0)[1]:
        if leaf.shape[:1] != observed.shape or not np.issubdtype(leaf.dtype, np.inexact):
            continue
        bad = ~np.isfinite(leaf) & observed.reshape((-1,) + (1,) * (leaf.ndim - 1))
        if bad.any():
            rows = np.asarray(bad.reshape(len(observed), -1).any(axis=1))
            return rows, _cause(operations, source_of_non_finite(bad, operation))
    return None


def _rows(binding: Binding, index: int, rows: np.ndarray) -> str:
    """The `rows` (obs,) bool of a group by their numbers in the table, with the columns that single them out."""
    positions = np.flatnonzero(rows)
    marks = []
    for name, column in binding.data.x.items():
        values = np.asarray(column[index])
        others = values[np.asarray(binding.data.observed[index]) & ~rows[: len(values)]]
        here = values[positions]
        if (here == here[0]).all() and len(others) and not (others == here[0]).any():
            marks.append(f"{name} = {here[0]:g}")
    text = rows_in_words(row_numbers(binding.data, index, rows))
    return text + (f" ({', '.join(marks)})" if marks else "")


def _cause(operations: Operations, source: Operation | None) -> str:
    """The operation that made a result not finite, and the remedy: the end of a sentence."""
    if source is None:
        return _UNKNOWN
    wrong = ~np.isfinite(source.outputs[0])
    source = _behind_division(source)
    word = _WORDS.get(source.name, f"the operation {source.name}")
    line = f", in {source.where}" if source.where else ""
    which = -1 if source.name == "div" else 0
    zero = source.inputs[which] == 0
    zero = zero & wrong if zero.shape == wrong.shape else zero
    if not zero.any():
        return f": {word}{line}. Look for overflow, or an argument outside the range of the function."
    moved = operations.run(CHECKS.moved)[0][source.number]
    if (moved.inputs[which][zero] != 0).any():
        return (
            f": {word} of zero{line}. It is zero at these parameters only, so no rewriting makes the derivative "
            "finite: keep it away from zero, by other starting values or another parametrisation."
        )
    if source.name in ("pow", "integer_pow"):
        return (
            f": {word} of zero{line}. Write jn.safe_power(base, exponent), whose derivatives are zero where the base "
            "is zero whatever the parameters."
        )
    return (
        f": {word} of zero{line}. Put jnp.where on the argument: jnp.where(a > 0, jnp.log(jnp.where(a > 0, a, 1.0)), "
        "0.0), and so for other functions."
    )


def _behind_division(operation: Operation) -> Operation:
    """The square root (or another of `_WORDS`) by which `operation`, a division, divides; others as they are: the
    derivative of a square root is a division by it."""
    behind = operation.sources[1] if operation.name == "div" else None
    while behind is not None and behind.name in _PASSED:
        behind = next((source for source in behind.sources if source is not None), None)
    return behind if behind is not None and behind.name in _WORDS and behind.name != "div" else operation
