"""Covariances with elements held fixed: what is held, what stays free, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.model.covariance.held import element_entry, fixed_elements, held_fixed, with_entries
from jaxnlme.model.covariance.structures import Blocks, CompoundSymmetry, Diagonal, LogCholesky, LogMatrix

EFFECTS = ("ka", "cl", "vol", "lag")
BLOCKS = Blocks(4, (((0, 2), LogCholesky(2)), ((3, 1), CompoundSymmetry(2))))
# Family, what is held, and how many of the other elements are free.
CASES = {
    "diagonal": (Diagonal(3), {(1,): 0.3}),
    "identity": (jn.covariances.MultipleOfIdentity(3), {(2,): 0.3}),
    "compound, sd": (CompoundSymmetry(3), {(0,): 0.3}),
    "compound, correlation": (CompoundSymmetry(3), {(0, 2): -0.3}),
    "full, first sd": (LogCholesky(3), {(0,): 0.3}),
    "full, last sd": (LogCholesky(3), {(2,): 0.3}),
    "full, correlation": (LogCholesky(3), {(1, 2): 0.9}),
    "full, star": (LogCholesky(4), {(0, 3): 0.8, (1, 3): -0.9, (2, 3): 0.7, (3,): 2.0}),
    "full, chain": (LogMatrix(4), {(0, 1): 0.95, (1, 2): -0.9, (2, 3): 0.9}),
    "full, triangle": (LogCholesky(4), {(0, 1): 0.5, (0, 3): 0.8, (1, 3): 0.1, (0,): 0.2}),
    "full, everything": (LogCholesky(2), {(0, 1): 0.5, (0,): 0.8, (1,): 0.1}),
    "blocks": (BLOCKS, {(0, 2): -0.4, (1,): 0.2, (0, 1): 0.0}),
}


def element(psi: np.ndarray, key: tuple[int, ...]) -> float:
    sd = np.sqrt(np.diag(psi))
    return float(sd[key[0]]) if len(key) == 1 else float(psi[key] / (sd[key[0]] * sd[key[1]]))


@pytest.mark.parametrize("name", CASES)
def test_every_theta_has_the_held_elements_and_comes_back(name: str) -> None:
    family, values = CASES[name]
    held = held_fixed(family, values, EFFECTS)
    free = np.setdiff1d(np.arange(held.n_unconstrained), held.fixed_entries)
    rng = np.random.default_rng(3)
    for _ in range(20):
        theta = rng.normal(size=held.n_unconstrained)
        theta[list(held.fixed_entries)] = held.values
        lower = np.asarray(held.factor(theta))
        psi = lower @ lower.T
        for key, value in values.items():
            assert element(psi, key) == pytest.approx(value, abs=1e-13)
        assert held.from_matrix(psi) == pytest.approx(theta, abs=1e-9)
        assert np.asarray(held.factor(jnp.asarray(theta))) == pytest.approx(lower, abs=1e-12)
    # every other parameter of the family moves psi in a direction of its own, and the family is no larger than before
    slopes = np.asarray(jax.jacobian(lambda t: held.psi(t).ravel())(jnp.asarray(theta)))
    assert np.linalg.matrix_rank(slopes) == held.n_unconstrained == family.n_unconstrained
    assert np.linalg.matrix_rank(slopes[:, free]) == len(free)
    again = family.from_matrix(psi)
    assert np.asarray(family.psi(jnp.asarray(again))) == pytest.approx(psi, abs=1e-10)


@pytest.mark.parametrize("name", ["full, last sd", "full, star", "full, triangle"])
def test_every_matrix_with_the_held_elements_is_reached(name: str) -> None:
    family, values = CASES[name]
    held = held_fixed(family, values, EFFECTS)
    rng = np.random.default_rng(4)
    found = 0
    while found < 10:
        a = rng.normal(size=(family.size, family.size + 1))
        sd = np.exp(rng.normal(size=family.size))
        r = a @ a.T
        r = r / np.sqrt(np.outer(np.diag(r), np.diag(r)))
        for key, value in values.items():
            if len(key) == 2:
                r[key] = r[key[::-1]] = value
            else:
                sd[key[0]] = value
        if np.linalg.eigvalsh(r)[0] < 0.01:
            continue
        found += 1
        psi = r * np.outer(sd, sd)
        lower = np.asarray(held.factor(held.from_matrix(psi)))
        assert lower @ lower.T == pytest.approx(psi, rel=1e-10, abs=1e-10)


def test_what_is_fixed_with_it() -> None:
    def fixed(name: str) -> tuple[list[bool], list[bool]]:
        family, values = CASES[name]
        return fixed_elements(held_fixed(family, values, EFFECTS))

    assert fixed("diagonal") == ([False, True, False], [])
    assert fixed("identity") == ([True] * 3, [])
    assert fixed("compound, correlation") == ([False] * 3, [True] * 3)
    assert fixed("full, star") == ([False, False, False, True], [False, False, False, True, True, True])
    assert fixed("blocks") == ([False, True, False, True], [True, False])
    assert fixed_elements(LogCholesky(2)) == ([False, False], [False])


def test_a_singular_psi_of_a_held_family() -> None:
    held = held_fixed(LogCholesky(3), {(0, 1): 0.5}, EFFECTS)
    psi = np.diag([0.0, 4.0, 1.0])
    theta = held.from_matrix(psi)
    assert theta[0] == -np.inf
    lower = np.asarray(held.factor(theta))
    assert lower @ lower.T == pytest.approx(psi, abs=1e-12)
    slopes = jax.jacobian(lambda t: held.psi(t).ravel())(jnp.asarray(theta))
    assert np.isfinite(np.asarray(slopes)).all()


def test_further_entries_keep_what_is_held() -> None:
    held = held_fixed(LogCholesky(3), {(0, 2): 0.5, (1,): 2.0}, EFFECTS)
    assert isinstance(held, jn.covariances.HeldFixed)
    wider = with_entries(held, [0, 2], [(0, 1)], EFFECTS)
    assert {wider.elements[k]: v for k, v in enumerate(wider.values)} == pytest.approx(
        {held.elements[k]: v for k, v in enumerate(held.values)}
    )
    theta = wider.from_matrix(np.diag([1.0, 4.0, 9.0]))
    theta[element_entry(wider, (0, 1), EFFECTS)] = np.arctanh(0.3)
    theta[element_entry(wider, (0,), EFFECTS)] = np.log(3.0)
    lower = np.asarray(wider.factor(theta))
    psi = lower @ lower.T
    expected = {(0, 1): 0.3, (0,): 3.0, (0, 2): 0.5, (1,): 2.0}
    assert {key: element(psi, key) for key in expected} == pytest.approx(expected)


class Scaled(jn.covariances.AbstractCovariance):
    """Two effects, the second with twice the standard deviation of the first: a structure of the user's own."""

    size: int = 2

    @property
    def n_unconstrained(self) -> int:
        return 1

    def factor(self, theta):
        return jnp.exp(theta[0]) * jnp.diag(jnp.array([1.0, 2.0]))

    def from_matrix(self, psi):
        return np.log(np.sqrt(psi[:1, 0]))

    @property
    def log_scales(self):
        return ((0, (0, 1), ()),)

    @property
    def correlated_pairs(self):
        return ()


class Summed(Scaled):
    """The same with two parameters that add up."""

    @property
    def n_unconstrained(self) -> int:
        return 2

    def factor(self, theta):
        return jnp.exp(theta[0] + theta[1]) * jnp.diag(jnp.array([1.0, 2.0]))

    def from_matrix(self, psi):
        return np.array([np.log(np.sqrt(psi[0, 0])), 0.0])


def test_structures_of_the_user() -> None:
    held = held_fixed(Scaled(), {(1,): 3.0}, EFFECTS)
    assert np.diag(np.asarray(held.psi(jnp.asarray(held.from_matrix(np.eye(2)))))) == pytest.approx([2.25, 9.0])
    with pytest.raises(jn.OptionError, match=r"sd\(ka\) cannot be held at a value: in the covariance structure Summed"):
        held_fixed(Summed(), {(0,): 3.0}, EFFECTS)


@pytest.mark.parametrize(
    ("family", "values", "message"),
    [
        (Diagonal(2), {(0, 1): 0.3}, r"corr\(ka, cl\) cannot be held at 0.3: it is zero in this covariance structure"),
        (
            LogCholesky(3),
            {(0, 1): 0.9, (1, 2): 0.9, (0, 2): -0.9},
            r"cannot occur together: no positive definite matrix has corr\(ka, cl\) = 0.9, corr\(cl, vol\) = 0.9, "
            r"corr\(ka, vol\) = -0.9",
        ),
        (LogCholesky(4), {(0, 1): 0.1, (1, 2): 0.1, (2, 3): 0.1, (0, 3): 0.1}, "form a ring of four or more"),
        (jn.covariances.MultipleOfIdentity(2), {(0,): 1.0, (1,): 2.0}, r"sd\(cl\) cannot be held at 2: another"),
        (CompoundSymmetry(3), {(0, 1): -0.7}, r"corr\(ka, cl\) cannot be held at -0.7: .* lies between -0.5 and 1"),
    ],
)
def test_refusals(family, values, message: str) -> None:
    with pytest.raises(jn.OptionError, match=message):
        held_fixed(family, values, EFFECTS)
