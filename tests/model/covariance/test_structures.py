"""Covariance families: round trips, singular members, patterns, names, refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.model.covariance.specification import covariance, pattern_blocks
from jaxnlme.model.covariance.structures import Blocks
from tests.problems import COVARIANCES, EFFECTS

CLOSE = {"rel": 1e-12, "abs": 1e-12}  # rounding of a factor of three rows


def random_member(name: str, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(3, 3))
    psi = a @ a.T + 0.1 * np.eye(3)
    if name == "identity":
        return float(psi[0, 0]) * np.eye(3)
    if name == "compound symmetry":
        r = rng.uniform(-0.45, 0.95)
        return float(psi[0, 0]) * ((1 - r) * np.eye(3) + r)
    return psi * (COVARIANCES[name][1] != 0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", COVARIANCES)
def test_round_trip_of_a_random_member(name: str, seed: int) -> None:
    family = covariance(COVARIANCES[name][0], EFFECTS)
    psi = random_member(name, seed)
    theta = family.from_matrix(psi)
    assert theta.shape == (family.n_unconstrained,)
    assert np.asarray(family.psi(jnp.asarray(theta))) == pytest.approx(psi, **CLOSE)
    again = family.from_matrix(np.asarray(family.psi(jnp.asarray(theta))))
    assert again == pytest.approx(theta, rel=1e-9, abs=1e-9)  # logs and logits of rounded values
    z = jnp.array([0.3, -1.1, 0.7])
    lower = np.asarray(family.factor(jnp.asarray(theta)))
    assert np.asarray(family.apply(jnp.asarray(theta), z)) == pytest.approx(lower @ np.asarray(z), **CLOSE)


@pytest.mark.parametrize("name", COVARIANCES)
def test_correlated_pairs_are_the_correlations(name: str) -> None:
    family = covariance(COVARIANCES[name][0], EFFECTS)
    psi = COVARIANCES[name][1]
    expected = {(j, k) for j in range(3) for k in range(j + 1, 3) if psi[j, k] != 0}
    assert set(family.correlated_pairs) == expected


@pytest.mark.parametrize("name", COVARIANCES)
def test_zero_variances_round_trip_with_finite_derivatives(name: str) -> None:
    family = covariance(COVARIANCES[name][0], EFFECTS)
    psi = COVARIANCES[name][1].copy()
    psi[0, :] = psi[:, 0] = 0.0
    if name in ("identity", "compound symmetry"):
        psi[:] = 0.0
    theta = family.from_matrix(psi)
    assert np.isneginf(theta).any()
    assert np.asarray(family.psi(jnp.asarray(theta))) == pytest.approx(psi, **CLOSE)
    slopes = jax.jacobian(lambda t: family.apply(t, jnp.array([0.3, -1.1, 0.7])))(jnp.asarray(theta))
    assert np.isfinite(np.asarray(slopes)).all()


def test_singular_matrix_of_rank_one() -> None:
    family = covariance("full", EFFECTS)
    vector = np.array([0.5, -0.2, 1.0])
    theta = family.from_matrix(np.outer(vector, vector))
    assert np.asarray(family.psi(jnp.asarray(theta))) == pytest.approx(np.outer(vector, vector), **CLOSE)


@pytest.mark.parametrize("name", ["diagonal", "full", "blocks", "interleaved"])
def test_log_scales_of_minus_infinity_remove_their_effects(name: str) -> None:
    family = covariance(COVARIANCES[name][0], EFFECTS)
    for index, effects, without_effect in family.log_scales:
        theta = family.from_matrix(COVARIANCES[name][1])
        theta[index] = -np.inf
        changed = theta.copy()
        for entry in without_effect:
            theta[entry] = 0.0
        lower = np.asarray(family.factor(jnp.asarray(theta)))
        for effect in effects:
            column = np.asarray(family.psi(jnp.asarray(theta)))[:, effect]
            # the effect keeps at most its dependence on the effects before it
            assert np.count_nonzero(np.abs(lower).sum(axis=0)) == 2
        assert np.isfinite(column).all()
        assert changed.shape == theta.shape


@pytest.mark.parametrize("name", COVARIANCES)
def test_negative_matrices_are_refused(name: str) -> None:
    family = covariance(COVARIANCES[name][0], EFFECTS)
    with pytest.raises(ValueError, match="not positive semidefinite"):
        family.from_matrix(-np.eye(3))


def test_pattern_is_completed_to_blocks() -> None:
    chain = np.eye(4, dtype=int)
    chain[0, 2] = chain[2, 0] = chain[2, 3] = chain[3, 2] = 1
    family = pattern_blocks(chain)
    assert [effects for effects, _ in family.parts] == [(0, 2, 3), (1,)]
    assert set(family.correlated_pairs) == {(0, 2), (0, 3), (2, 3)}
    assert [e for e, _ in pattern_blocks(np.ones((2, 2), int)).parts] == [(0, 1)]
    assert [e for e, _ in pattern_blocks(np.eye(3, dtype=int)).parts] == [(0,), (1,), (2,)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ([["a", "b"]], r"must name each random effect once; the effects are \['a', 'b', 'c'\]"),
        ([["a", "b"], ["b", "c"]], "must name each random effect once"),
        ([["a", "b"], ["c", "d"]], "must name each random effect once"),
        ("unstructured", "covariance 'unstructured' is not known; expected one of 'diagonal', 'full'"),
        (np.eye(2), r"must have shape \(3, 3\); received \(2, 2\)"),
        (np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1]]), "symmetric matrix of zeros and ones"),
        (2 * np.eye(3), "symmetric matrix of zeros and ones"),
        (covariance("full", EFFECTS[:2]), "the covariance has 2 effects, the model 3: a, b, c"),
    ],
)
def test_covariances_that_do_not_fit_the_effects_are_refused(spec, message: str) -> None:
    with pytest.raises(jn.OptionError, match=message):
        covariance(spec, EFFECTS)


def test_blocks_must_cover_every_effect() -> None:
    with pytest.raises(jn.OptionError, match=r"3 random effects once; received positions \[0, 2\]"):
        Blocks(3, (((0, 2), covariance("full", EFFECTS[:2])),))


def test_compound_symmetry_needs_two_effects() -> None:
    with pytest.raises(jn.OptionError, match="at least two"):
        jn.covariances.CompoundSymmetry(1)
    assert covariance("compound symmetry", ("a",)) == jn.covariances.Diagonal(1)


def test_pattern_with_zeros_inside_a_block() -> None:
    """Exactly the zeros of the pattern are zero: neighbours are correlated, the ends of the chain are not."""
    chain = np.array([[1, 1, 0], [1, 1, 1], [0, 1, 1]])
    family = covariance(chain, ["a", "b", "c"])
    psi = np.array([[1.0, 0.3, 0.0], [0.3, 2.0, 0.4], [0.0, 0.4, 0.5]])
    theta = np.asarray(family.from_matrix(psi))
    assert np.asarray(family.psi(theta)) == pytest.approx(psi, abs=1e-9)
    assert len(family.fixed_entries) == 1
    moved = theta + np.where(np.isin(np.arange(len(theta)), family.fixed_entries), 0.0, 0.2)
    assert float(family.psi(moved)[0, 2]) == pytest.approx(0.0, abs=1e-12)
    assert abs(float(family.psi(moved)[0, 1])) > 0.01


def test_pattern_without_a_variance_is_refused() -> None:
    with pytest.raises(jn.OptionError, match="ones on its diagonal"):
        covariance(np.array([[0, 0], [0, 1]]), ["a", "b"])
