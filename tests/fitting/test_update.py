"""fit.update: what changes, what stays, its starting values and refusals. Most tests look at the arguments with which
`fit` is called, and update a Fit that holds a model's starting values; two fit."""

from __future__ import annotations

import dataclasses
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.fitting import update as update_module
from tests import problems
from tests.results.conftest import MODEL


class Called:
    """The arguments with which an update calls `fit`."""

    def __init__(self, model, data, estimator, **options):
        self.model, self.data, self.estimator, self.options = model, data, estimator, options

    @property
    def start(self) -> dict[str, float]:
        return self.options["start"]

    @property
    def random(self) -> list[str]:
        return [p.name for p in self.model.parameters if p.random]


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch):
    """Replace `fit` by a function of the same signature that records the call."""
    real = update_module.fit_model

    def instead(*args, **options):
        return Called(*args, **options)

    instead.__signature__ = inspect.signature(real)
    monkeypatch.setattr(update_module, "fit_model", instead)


def held(fit: jn.Fit, model: jn.NLMEModel, data: jn.GroupedData, values: dict | None = None) -> jn.Fit:
    """`fit` with another model at values of its own in the place of estimates: nothing is compiled."""
    binding = jn.bind(model, data)
    return dataclasses.replace(fit, binding=binding, params=binding.params(values))


@pytest.fixture
def full(fit: jn.Fit) -> jn.Fit:
    """Three effects with a full psi."""
    model = jn.NLMEModel(
        problems.linear,
        [jn.Parameter(name, start, random=True, sd=0.5) for name, start in {"a": 1.2, "b": 0.4, "c": -0.2}.items()],
        "full",
        psi=problems.COVARIANCES["full"][1],
        priors={"sd(c)": jn.priors.Gamma(2.0, 5.0), "corr(a, b)": jn.priors.Normal(0.0, 0.5)},
    )
    return held(fit, model, problems.linear_data())


def test_dropping_an_effect_refits_from_the_estimates(fit: jn.Fit) -> None:
    """The maximum of the smaller model, from where the larger one's was; the fit of it afresh has the same."""
    smaller = fit.update(drop="vol").throw()
    parameters = [*MODEL.parameters[:2], jn.Parameter("vol", 32.0, "log")]
    afresh = jn.fit(jn.NLMEModel(MODEL.structure, parameters, error="combined"), fit.data, "focei")
    assert smaller.log_likelihood == pytest.approx(afresh.log_likelihood, abs=1e-6)
    assert smaller.log_likelihood < fit.log_likelihood - 1.0
    assert smaller.binding.density.effect_names == ("ka", "cl")
    assert list(smaller.values) == list(afresh.values)


def test_a_wider_covariance_is_no_worse(fit: jn.Fit) -> None:
    wider = fit.update(covariance="full")
    assert wider.converged and wider.log_likelihood > fit.log_likelihood + 1.0
    # It started from the estimates of the fit: the first entry of its history.
    assert wider.history[0]["log_likelihood"] == pytest.approx(fit.log_likelihood, abs=1e-6)


@pytest.mark.usefixtures("called")
def test_what_is_not_named_stays(fit: jn.Fit) -> None:
    same = fit.update()
    assert same.estimator is fit.estimator and same.data is fit.data
    assert same.start == pytest.approx(fit.values)
    assert same.options["on_bad_group"] == "stop" and same.options["standard_errors"] is True
    more = fit.update(max_iterations=7, start={"ka": 2.0}, throw=True)
    assert int(more.estimator.max_iterations) == 7 and float(more.estimator.tolerance) == 1e-8
    assert more.start["ka"] == 2.0 and more.start["cl"] == fit.values["cl"] and more.options["throw"] is True
    other = fit.update(method=["fo", "foce"], tolerance=1e-6)
    assert other.estimator == ["fo", "foce"]
    assert (other.options["tolerance"], other.options["max_iterations"]) == (1e-6, 500)
    fewer = fit.data.select([0, 1, 2])
    assert fit.update(data=fewer).data is fewer
    pooled = fit.update(starts="pooled")
    assert "start" not in pooled.options and pooled.options["starts"] == "pooled"
    assert fit.update(start=fit).start is fit


@pytest.mark.usefixtures("called")
def test_effects_and_their_psi(full: jn.Fit) -> None:
    two = full.update(drop=["b"])
    assert two.random == ["a", "c"]
    for name in ("sd(a)", "sd(c)", "corr(a, c)", "a", "b"):
        assert two.start[name] == pytest.approx(full.values[name]), name
    assert two.model.parameters[1].sd is None
    np.testing.assert_allclose(two.model.psi, problems.COVARIANCES["full"][1][np.ix_([0, 2], [0, 2])])
    assert set(two.model.priors) == {"sd(c)"}
    assert full.update(random="a").random == full.update(drop=["c", "b"]).random == ["a"]
    assert full.update(random=[]).random == []
    diagonal = full.update(covariance="diagonal")
    assert "corr(a, b)" not in diagonal.start and diagonal.start["sd(b)"] == pytest.approx(full.values["sd(b)"])
    one = full.update(covariance="identity")  # the nearest member: the mean of the variances
    assert one.start["sd(a)"] == pytest.approx(np.sqrt(np.mean([full.values[f"sd({n})"] ** 2 for n in "abc"])))


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize(
    ("spec", "remaining"),
    [
        ([["b", "a"], ["c"]], [["b"], ["c"]]),
        (np.array([[1, 0, 1], [0, 1, 0], [1, 0, 1]]), np.eye(2)),
        ("compound symmetry", "compound symmetry"),
        (jn.covariances.Diagonal(3), "diagonal"),
    ],
)
def test_a_covariance_keeps_what_remains(fit: jn.Fit, spec: object, remaining: object) -> None:
    start = held(fit, problems.linear_model(spec), problems.linear_data())
    covariance = start.update(drop="a").model.covariance
    assert (np.asarray(covariance, object) == np.asarray(remaining, object)).all()


@pytest.mark.usefixtures("called")
def test_new_effects_covariates_and_errors(fit: jn.Fit) -> None:
    less = jn.NLMEModel(
        MODEL.structure, [*MODEL.parameters[:2], jn.Parameter("vol", 32.0, "log", sd=None)], [["ka"], ["cl"]]
    )
    small = held(fit, less, fit.data)
    more = small.update(random=["vol", "ka", "cl"])
    assert more.model.covariance == [["ka"], ["cl"], ["vol"]]
    assert more.start["sd(vol)"] == 0.5 and more.start["sd(ka)"] == pytest.approx(small.values["sd(ka)"])
    assert fit.update(drop="cl ~ center(log(Wt))").model.parameters[1].covariates == ()
    swapped = fit.update(covariates={"vol": ["log(Wt / 70)"], "cl": []})
    assert swapped.start["vol ~ log(Wt / 70)"] == 0.0 and "cl ~ center(log(Wt))" not in swapped.start
    assert swapped.start["a"] == fit.values["a"]
    constant = fit.update(error="constant")
    assert "a" not in constant.start  # scaled to the data by `fit`
    assert constant.model.error.formula == "y = f + (a) e"


@pytest.mark.usefixtures("called")
def test_an_sd_at_zero_restarts_positive(full: jn.Fit) -> None:
    at_zero = held(full, full.model, full.data, {"sd(b)": 0.0, "corr(a, b)": 0.0, "corr(b, c)": 0.0})
    assert at_zero.values["sd(b)"] == 0.0
    start = at_zero.update().start
    assert start["sd(b)"] == pytest.approx(0.3 * 0.5) and start["corr(a, b)"] == 0.0
    assert start["sd(a)"] == pytest.approx(at_zero.values["sd(a)"])


@pytest.mark.usefixtures("called")
@pytest.mark.parametrize("name", ["a", "b", "c"])
def test_an_sd_held_at_zero_leaves_the_other_effects(full: jn.Fit, name: str) -> None:
    unrelated = held(full, jn.NLMEModel(problems.linear, full.model.parameters, "diagonal"), full.data)
    others = [k for k, other in enumerate("abc") if other != name]
    start = unrelated.update(fixed={f"sd({name})": 0}).start
    assert f"sd({name})" not in start
    expected = np.sqrt(np.diag(unrelated.psi.to_numpy()))[others]
    assert [start[f"sd({'abc'[k]})"] for k in others] == pytest.approx(expected)


def one_of_two(phi, x):
    return phi.mu + phi.slope * x.t + 0.0 * x.s


@pytest.mark.usefixtures("called")
def test_explicit_designs(full: jn.Fit) -> None:
    parameters = [jn.Parameter("mu", 1.0), jn.Parameter("slope", 0.5)]
    design = jn.NLMEModel(one_of_two, parameters, random_design=[[1.0, 0.0], [0.0, 1.0]])
    fit = held(full, design, full.data)
    assert fit.update(drop="slope").model.random_design.tolist() == [[1.0], [0.0]]
    assert fit.update(random=["slope"]).model.random_design.tolist() == [[0.0], [1.0]]
    assert fit.update(random=[]).model.random_design is None
    with pytest.raises(jn.OptionError, match="another design"):
        fit.update(random=["mu", "b7"])
    shared = held(full, jn.NLMEModel(one_of_two, parameters, random_design=[[1.0], [0.3]]), full.data)
    with pytest.raises(jn.OptionError, match=r"b0 of random_design, which may enter other parameters too"):
        shared.update(drop="slope")
    assert shared.update(drop="b0").model.random_design is None
    blocks = [["mu", "b1"], ["b2"]]
    three = jn.NLMEModel(one_of_two, parameters, blocks, random_design=[[1.0, 1.0, 1.0], [0.0, 0.3, 0.4]])
    remaining = held(full, three, full.data, {"sd(b1)": 0.4}).update(drop="mu")  # b1 and b2 are b0 and b1 then
    assert remaining.start["sd(b0)"] == pytest.approx(0.4) and "corr(b0, b1)" not in remaining.start
    fixed = jn.NLMEModel(one_of_two, parameters, fixed_design=np.eye(2), beta=[1.0, 0.5], random_design=[[1.0], [0.0]])
    fixed_fit = held(full, fixed, full.data)
    with pytest.raises(jn.OptionError, match="column of fixed_design"):
        fixed_fit.update(drop="beta1")
    with pytest.raises(jn.OptionError, match="covariates="):
        fixed_fit.update(covariates={"mu": ["s"]})

    def own(beta, b, v):
        return {"mu": beta.mu + b.mu, "slope": beta.slope}

    function = jn.NLMEModel(one_of_two, [jn.Parameter("mu", 1.0, random=True), parameters[1]], individual=own)
    with pytest.raises(jn.OptionError, match="individual-parameter function"):
        held(full, function, full.data).update(drop="mu")


@pytest.mark.usefixtures("called")
def test_weights_of_a_module_go_along(fit: jn.Fit) -> None:
    class Bent(eqx.Module):
        w: jnp.ndarray

        def __call__(self, phi, x):
            return phi.mu + self.w * x.t

    model = jn.NLMEModel(Bent(jnp.array(0.1)), [jn.Parameter("mu", 1.0, random=True)])
    start = held(fit, model, problems.linear_data())
    moved = jax.tree.map(lambda w: w + 1.0, start.params.free)
    trained = dataclasses.replace(start, params=eqx.tree_at(lambda p: p.free, start.params, moved))
    assert float(trained.update().model.structure.w) == 1.1


@pytest.mark.usefixtures("called")
def test_refusals(fit: jn.Fit, full: jn.Fit) -> None:
    for changes, part in [
        ({"drop": "vl"}, "did you mean 'vol'"),
        ({"drop": "cl ~ log(Age)"}, "cl has no such covariate"),
        ({"drop": "kl ~ Wt"}, "'kl' is no parameter"),
        ({"random": ["kaa"]}, "did you mean 'ka'"),
        ({"drop": "ka", "random": ["ka"]}, "one of them"),
        ({"covariates": {"klr": []}}, "no such parameter"),
        ({"covarance": "full"}, "did you mean 'covariance'"),
        ({"max_iter": 3}, "did you mean 'max_iterations'"),
    ]:
        with pytest.raises(jn.OptionError, match=part):
            fit.update(**changes)
    two = held(fit, jn.NLMEModel(problems.linear, full.update(drop="b").model.parameters), full.data)
    with pytest.raises(jn.OptionError, match="it has no random effect; those of this model: a and c"):
        two.update(drop="b")
    failed = jn.fit(MODEL, fit.data, "focei", start={"cl": 1e-300, "vol": 1e-300})
    with pytest.raises(jn.FitError, match="no estimates"):
        failed.update(drop="vol")
