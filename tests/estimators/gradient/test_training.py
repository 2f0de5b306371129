"""Training by gradients: the gradient of a batch, its scaling, and the ends of `jn.Gradient`."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import approx_fprime

import jaxnlme as jn
from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.core.objective import flatten, unflatten
from jaxnlme.estimators.gradient.batches import Batches, group_uniforms
from jaxnlme.estimators.gradient.objective import complete_gradient, marginal_gradient
from jaxnlme.likelihood.approximations import approximation
from tests.estimators.gradient import problems

X = np.array([1.3, np.log(0.6), np.log(0.4), 0.8, 1.5])  # level, log sd, log a, weights


def exact(x: np.ndarray) -> np.ndarray:
    return problems.log_likelihoods(x[0], np.exp(x[1]), np.exp(x[2]), x[3:])


@pytest.fixture(scope="module")
def problem() -> Problem:
    return jn.bind(problems.model(), problems.data()).problem


@eqx.filter_jit
def batch_gradient(problem: Problem, method, template, x, weights):
    z0 = jnp.zeros((problem.n_groups, 1))
    value, score, _, failed = marginal_gradient(problem, method, unflatten(template, x), weights, z0)
    return value, flatten(score), failed


@pytest.mark.parametrize("method", ["focei", "laplace", "agq", "fo"])
def test_the_gradient_of_a_batch_is_that_of_the_closed_form(problem, method):
    """With f linear in b every approximation is exact; a batch is a choice of weights."""
    template = jn.bind(problems.model(), problems.data()).start
    weights = np.where(np.arange(problems.GROUPS) % 3 == 0, 4.0, 0.0)
    value, score, failed = batch_gradient(problem, approximation(method), template, X, weights)
    assert float(value) == pytest.approx(float(weights @ exact(X)), abs=1e-9)
    expected = approx_fprime(X, lambda x: float(weights @ exact(x)), 1e-7)
    np.testing.assert_allclose(score, expected, rtol=1e-5, atol=1e-4)
    assert not np.asarray(failed).any()


def test_batches_of_a_pass_have_every_group_once_whatever_the_order_of_groups():
    keys = np.arange(100, 120, dtype=np.uint32)
    trained = np.arange(20) != 7
    batches = Batches(keys, trained, 4, seed=3)
    assert (batches.steps_per_pass, batches.scale) == (4, 19 / 4)
    first = np.concatenate([batches.of_step(k) for k in range(4)])
    assert len(set(first.tolist())) == 16 and 7 not in first
    assert not np.array_equal(first, np.concatenate([batches.of_step(k) for k in range(4, 8)]))
    shuffle = np.random.default_rng(0).permutation(20)
    others = Batches(keys[shuffle], trained[shuffle], 4, seed=3)
    for step in (0, 3, 5):
        np.testing.assert_array_equal(keys[batches.of_step(step)], keys[shuffle][others.of_step(step)])
    # Unbiased: over many passes every group has the weight one in a step.
    counts = np.zeros(20)
    for step in range(400):
        counts[batches.of_step(step)] += batches.scale
    np.testing.assert_allclose(counts[trained] / 400, 1.0, atol=5 * np.sqrt((19 / 4 - 1) / 400))
    assert np.unique(group_uniforms(0, 1, 0, keys)).size == 20


def test_draws_give_the_score_by_fishers_identity(problem):
    """The mean of complete-data scores over the chains is the score of the marginal likelihood."""
    template = jn.bind(problems.model(), problems.data()).start
    weights = np.ones(problems.GROUPS)

    @eqx.filter_jit
    def scores(problem, keys):
        def step(z, key):
            _, score, z, _ = complete_gradient(problem, unflatten(template, jnp.asarray(X)), weights, z, key)
            return z, flatten(score)

        return jax.lax.scan(step, jnp.zeros((problems.GROUPS, 1)), keys)[1]

    values = np.asarray(scores(problem, jax.random.split(jax.random.key(0), 4000)))[200:]
    expected = approx_fprime(X, lambda x: float(exact(x).sum()), 1e-7)
    blocks = values.reshape(38, 100, -1).mean(axis=1)
    error = blocks.std(axis=0, ddof=1) / np.sqrt(len(blocks))
    assert (np.abs(values.mean(axis=0) - expected) < 4 * error + 1e-3).all()
    assert (error < 0.2 * np.abs(expected).max()).all()


@pytest.fixture(scope="module")
def trained() -> jn.Fit:
    method = jn.Gradient(optax.adam(3e-2), approximation="focei", steps=200, batch_groups=8)
    return jn.fit(problems.model(), problems.data(), method)


def test_a_training_ends_at_the_maximum(trained):
    """The same as the quasi-Newton fit; and the training itself comes near."""
    expected = jn.fit(problems.model(), problems.data(), "focei")
    assert expected.converged and trained.converged, trained.status
    assert trained.log_likelihood == pytest.approx(expected.log_likelihood, abs=1e-5)
    x = flatten(trained.params)
    assert trained.log_likelihood == pytest.approx(exact(np.asarray(x)).sum(), abs=1e-8)
    np.testing.assert_allclose(trained.estimates.se, expected.estimates.se, rtol=1e-3)
    record = trained.training
    assert (record.weights, record.frozen, record.steps_per_pass, record.best_step) == (2, 0, 3, 200)
    table = record.table
    assert len(table) == 200 and table["pass"].iloc[-1] == 66 and table.taken.all()
    start = exact(np.asarray(flatten(jn.bind(problems.model(), problems.data()).start))).sum()
    late = table.log_likelihood.iloc[-60:].mean()
    assert expected.log_likelihood - late < 0.05 * (expected.log_likelihood - start)
    assert "Gradient in the 2 trained weights" in str(trained.status)
    assert [entry["iteration"] for entry in trained.history][:2] == [25, 50]
    assert "200 steps" in str(record) and "<table" in record._repr_html_()
    assert trained.networks.structure.weight.shape == (2,)


def test_pictures_of_a_training(trained):
    pytest.importorskip("matplotlib").use("Agg")
    panels = trained.plot.training()
    assert len(panels) == 1 and len(panels[0].lines[0].get_xdata()) == 200


def test_a_saved_training_comes_back(trained, tmp_path):
    loaded = jn.load(trained.save(tmp_path / "fit.jaxnlme"), model=problems.model())
    np.testing.assert_array_equal(loaded.training.objective, trained.training.objective)
    np.testing.assert_array_equal(loaded.params.free.structure.weight, trained.params.free.structure.weight)
    assert loaded.training.ending == trained.training.ending


def _unpolished(data=None, callbacks=(), checkpoint=None, **options) -> jn.Fit:
    method = jn.Gradient(optax.adam(3e-2), steps=60, batch_groups=6, polish="none", **options)
    data = problems.data() if data is None else data
    errors = {"standard_errors": False}
    return jn.fit(problems.model(), data, method, callbacks=callbacks, checkpoint=checkpoint, **errors)


def test_the_order_of_groups_does_not_matter():
    base = problems.data()
    order = np.random.default_rng(1).permutation(problems.GROUPS)
    one, other = _unpolished(held_out=0.25), _unpolished(base.select(order), held_out=0.25)
    np.testing.assert_allclose(flatten(one.params), flatten(other.params), rtol=1e-9)
    assert set(one.training.labels) == set(other.training.labels) and len(one.training.labels) == 6
    np.testing.assert_allclose(one.training.held_out, other.training.held_out, rtol=1e-9)
    assert not one.converged and "without a polish" in str(one.status)
    # Held-out groups have weight zero; the values of the record are those of the others.
    held = np.isin(one.data.labels, one.training.labels)
    np.testing.assert_array_equal(one.data.weights, np.where(held, 0.0, 1.0))
    best = one.training.check_step.tolist().index(one.training.best_step)
    assert one.group_log_likelihood[held].sum() == pytest.approx(one.training.held_out[best], abs=1e-6)
    assert one.training.held_out[best] == one.training.held_out.max()


def test_an_interrupted_training_goes_on_from_its_checkpoint(tmp_path):
    def interrupt(iteration):
        if iteration.iteration == 25:
            raise KeyboardInterrupt

    path = tmp_path / "training"
    whole = _unpolished()
    part = _unpolished(callbacks=[interrupt], checkpoint=path)
    assert part.interrupted and not part.converged and len(part.training.objective) == 25
    rest = _unpolished(checkpoint=path)
    np.testing.assert_allclose(flatten(rest.params), flatten(whole.params), rtol=1e-12)
    np.testing.assert_array_equal(rest.training.objective, whole.training.objective)
    with pytest.raises(jn.OptionError, match="another optimiser"):
        method = jn.Gradient(optax.sgd(1e-3), steps=60, batch_groups=6, polish="none")
        jn.fit(problems.model(), problems.data(), method, checkpoint=path, standard_errors=False)


def test_patience_ends_a_training_without_steps():
    method = jn.Gradient(optax.adam(0.3), steps=None, batch_groups=6, held_out=0.25, patience=2, polish="none")
    fit = jn.fit(problems.model(), problems.data(), method, standard_errors=False)
    assert "did not rise in 2 checks" in fit.training.ending
    assert fit.training.best_step < len(fit.training.objective)


def test_single_precision_comes_near():
    double, single = _unpolished(), _unpolished(precision="float32")
    np.testing.assert_allclose(flatten(single.params), flatten(double.params), rtol=2e-3)
    assert single.training.precision == "float32" and "float32" in str(single.status)
    assert np.asarray(single.params.beta).dtype == float


def test_frozen_and_penalised_weights():
    """At the end the gradient of the log-likelihood in the trained weight is that of the penalty."""
    spec = eqx.tree_at(lambda m: m.weight, problems.curve(), True)
    all_frozen = jn.Gradient(optax.adam(3e-2), steps=25, freeze=spec)
    fit = jn.fit(problems.model(), problems.data(), all_frozen)
    np.testing.assert_array_equal(fit.params.free.structure.weight, [0.5, 0.5])
    assert fit.converged and fit.training.frozen == 2
    penalised = jn.Gradient(optax.adam(3e-2), steps=25, regularisation=30.0, max_iterations=100)
    fit = jn.fit(problems.model(), problems.data(), penalised)
    assert fit.converged, fit.status
    x = np.asarray(flatten(fit.params))
    score = approx_fprime(x, lambda x: float(exact(x).sum()), 1e-7)
    np.testing.assert_allclose(score[3:], 30.0 * x[3:], rtol=1e-3)
    assert fit.log_prior == pytest.approx(-15.0 * np.sum(x[3:] ** 2), rel=1e-6)
    squares = jn.Gradient(steps=1, regularisation=lambda module: 15.0 * jnp.sum(module.weight**2), max_iterations=100)
    by_function = jn.fit(problems.model(), problems.data(), squares)
    np.testing.assert_allclose(flatten(by_function.params), x, rtol=1e-3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"steps": None}, "no held-out groups"),
        ({"optimiser": optax.constant_schedule(1e-3)}, r"optax.adam\(schedule\)"),
        ({"optimiser": 0.01}, "must be an optax optimiser"),
        ({"batch_groups": 0}, "batch_groups must be a whole number"),
        ({"held_out": 1.5}, "held_out"),
        ({"held_out": "A"}, "fraction of the groups"),
        ({"approximation": "saem"}, "method 'saem' is not known"),
        ({"precision": "float16"}, "precision"),
        ({"regularisation": -1.0}, "regularisation"),
        ({"check_every": 5}, "held_out"),
        ({"objective": "joint"}, "objective"),
    ],
)
def test_options_out_of_range(options, words):
    with pytest.raises(jn.OptionError, match=words) as error:
        jn.Gradient(**options)
    assert "\n" not in str(error.value)


def test_options_that_do_not_suit_the_data():
    model, data = problems.model(), problems.data()
    plain = jn.NLMEModel(lambda phi, x: phi.level + 0.0 * x.t, [jn.Parameter("level", 1.0, random=True)])
    for method, options, words, on in (
        (jn.Gradient(batch_groups=25), {}, "batch_groups=25, and 24 groups", model),
        (jn.Gradient(precision="float32"), {}, "no standard errors", model),
        (jn.Gradient(), {"chunk_groups": 4}, "chunk_groups", model),
        (jn.Gradient(held_out=[99]), {}, "no group of the data", model),
        (jn.Gradient(held_out=list(range(24))), {}, "leaves 0 groups to train on", model),
    ):
        with pytest.raises(jn.OptionError, match=words):
            jn.fit(on, data, method, **options)
    with pytest.raises(jn.OptionError, match="max_iterations"):
        jn.fit(plain, data, jn.Gradient(), max_iterations=3)


def test_an_integer_array_is_refused():
    class Shifted(eqx.Module):
        table: jax.Array

        def __call__(self, phi, x):
            return phi.level + self.table[0] + 0.0 * x.t

    with pytest.raises(jn.ModelError, match=r"Shifted in the structural model has arrays .*: table \(int"):
        problems.model(Shifted(jnp.arange(3)))
