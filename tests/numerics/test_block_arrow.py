"""Matrices of nested blocks against dense linear algebra."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxnlme.numerics.block_arrow import Nesting, dense, factored, factored_dense, guarded

# rounding error for a well-conditioned matrix
CLOSE = {"rel": 1e-11, "abs": 1e-11}
NESTINGS = {
    "two levels": Nesting((2, 1), (np.array([0, 0, 0]),)),
    "three levels": Nesting((2, 1, 3), (np.array([0, 0]), np.array([0, 1, 1, 0]))),
    "no root": Nesting((0, 2), (np.array([0, 0, 0, 0]),)),
    "root only": Nesting((3,), ()),
    "many unknowns": Nesting((6, 7), (np.array([0, 0]),)),
}


def blocks_of(nesting: Nesting) -> np.ndarray:
    """Positive semidefinite blocks (units, local, local)."""
    n = sum(nesting.sizes)
    a = np.random.default_rng(0).normal(size=(nesting.units[-1], n, n))
    return a @ np.swapaxes(a, 1, 2)


def flat(parts: list) -> np.ndarray:
    """A vector by level as one."""
    return np.concatenate([np.asarray(part).reshape(part.shape[0] * part.shape[1], *part.shape[2:]) for part in parts])


@pytest.mark.parametrize("name", NESTINGS)
def test_equals_the_dense_matrix(name: str) -> None:
    nesting, rng = NESTINGS[name], np.random.default_rng(1)
    blocks = blocks_of(nesting)
    matrix = np.asarray(dense(nesting, jnp.asarray(blocks)))
    arrow = factored(nesting, jnp.asarray(blocks))
    assert float(arrow.half_logdet) == pytest.approx(0.5 * np.linalg.slogdet(matrix)[1], **CLOSE)
    for columns in ((), (2,)):
        parts = [rng.normal(size=(u, s, *columns)) for u, s in zip(nesting.units, nesting.sizes, strict=True)]
        expected = np.linalg.solve(matrix, flat(parts))
        assert flat(arrow.solve([jnp.asarray(p) for p in parts])) == pytest.approx(expected, **CLOSE)
    local = np.asarray(arrow.local_inverse())
    inverse = np.linalg.inv(matrix)
    of_vector = jax.vmap(lambda e: nesting.local(unflat(nesting, e)), out_axes=-1)(jnp.eye(len(matrix)))
    for unit in range(nesting.units[-1]):
        e = np.asarray(of_vector[unit])
        assert local[unit] == pytest.approx(e @ inverse @ e.T, **CLOSE)


def unflat(nesting: Nesting, vector) -> list:
    """A vector as one, by level."""
    out, start = [], 0
    for units, size in zip(nesting.units, nesting.sizes, strict=True):
        out.append(vector[start : start + units * size].reshape(units, size))
        start += units * size
    return out


@pytest.mark.parametrize("name", NESTINGS)
def test_factors_of_the_dense_matrix_are_those_of_its_blocks(name: str) -> None:
    nesting = NESTINGS[name]
    blocks = jnp.asarray(blocks_of(nesting))
    expected, arrow = factored(nesting, blocks), factored_dense(nesting, dense(nesting, blocks))
    for ours, theirs in zip(arrow.factors + arrow.couplings, expected.factors + expected.couplings, strict=True):
        assert np.asarray(ours) == pytest.approx(np.asarray(theirs), **CLOSE)


@pytest.mark.parametrize("name", NESTINGS)
def test_adding_up_is_the_transpose_of_local_coordinates(name: str) -> None:
    nesting, rng = NESTINGS[name], np.random.default_rng(2)
    parts = [rng.normal(size=(u, s)) for u, s in zip(nesting.units, nesting.sizes, strict=True)]
    local = rng.normal(size=(nesting.units[-1], sum(nesting.sizes)))
    forward = np.sum(np.asarray(nesting.local(parts)) * local)
    backward = sum(np.sum(np.asarray(a) * b) for a, b in zip(nesting.add_up(jnp.asarray(local)), parts, strict=True))
    assert forward == pytest.approx(backward, **CLOSE)


def test_guarded_factor_changes_indefinite_matrices_only() -> None:
    nesting = NESTINGS["three levels"]
    blocks = blocks_of(nesting)
    arrow, changed = guarded(nesting, jnp.asarray(blocks))
    assert not changed
    assert float(arrow.half_logdet) == pytest.approx(float(factored(nesting, jnp.asarray(blocks)).half_logdet), **CLOSE)
    arrow, changed = guarded(nesting, jnp.asarray(-3.0 * blocks))
    assert changed
    right = [jnp.ones((u, s)) for u, s in zip(nesting.units, nesting.sizes, strict=True)]
    # the modified matrix is positive definite, so that its solutions are descent directions
    assert sum(float(jnp.sum(a * b)) for a, b in zip(arrow.solve(right), right, strict=True)) > 0
