"""Values held fixed: how they are declared, what is bound, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.results.inference import is_fixed


def curve(phi, x):
    return phi.a + phi.b * x.t + phi.c * jnp.square(x.t)


def data() -> jn.GroupedData:
    t = np.tile(np.arange(4.0), 3)
    frame = pd.DataFrame({"g": np.repeat([1, 2, 3], 4), "t": t, "y": 1.0 + t})
    return jn.GroupedData.from_frame(frame.assign(site=np.repeat(["n", "s", "s"], 4)), "g", "y", ["t", "site"])


def parameters(**changes: object) -> list[jn.Parameter]:
    """a, b and c, with random effects; `changes`: their `sd`."""
    return [jn.Parameter(name, 1.0, random=True, sd=changes.get(name)) for name in ("a", "b", "c")]


def held(covariance: object = "full", error: object = "constant", sd: dict | None = None, **options: object):
    return jn.bind(jn.NLMEModel(curve, parameters(**(sd or {})), covariance, error, **options), data())


def fixed_names(binding) -> list[str]:
    return [n for n, fixed in zip(binding.density.reported_names, is_fixed(binding), strict=True) if fixed]


def test_by_keyword_and_in_the_parameter() -> None:
    for binding in (held(sd={"b": jn.fixed(0.3)}), held(fixed={"sd(b)": 0.3}), held(fixed={"sd(b)": jn.fixed(0.3)})):
        assert fixed_names(binding) == ["sd(b)"]
        assert binding.values(binding.start)["sd(b)"] == pytest.approx(0.3, rel=1e-14)
        assert binding.fixed.sum() == 1
    values = {"a": 2.0, "sd(a)": 0.7, "corr(b, a)": 0.4, "error.a": 0.5}
    binding = held(fixed=values)
    assert fixed_names(binding) == ["a", "sd(a)", "corr(a, b)", "error.a"]
    start = binding.values(binding.start)
    assert [start[n] for n in ("a", "sd(a)", "corr(a, b)", "error.a")] == pytest.approx(list(values.values()))
    assert "held fixed: sd(b) = 0.3, a = 2" in repr(jn.NLMEModel(curve, parameters(b=jn.fixed(0.3)), fixed={"a": 2.0}))


def test_nothing_held_is_what_it_was() -> None:
    binding = held(fixed={"corr(a, b)": 0.0}, covariance="diagonal")
    assert type(binding.density.covariance) is jn.covariances.Diagonal
    assert not binding.fixed.any()
    assert type(held().density.covariance) is jn.covariances.LogCholesky
    assert held().held == {}


@pytest.mark.parametrize("covariance", ["full", "diagonal", [["a", "b"], ["c"]], np.eye(3, dtype=int), "log-matrix"])
def test_zero_is_a_model_without_the_effect(covariance) -> None:
    for binding in (held(covariance, sd={"b": 0.0}), held(covariance, fixed={"sd(b)": 0})):
        assert binding.density.effect_names == ("a", "c")
        assert binding.density.covariance.size == 2
        assert binding.model.parameters[1].random
    pairs = held(covariance, sd={"b": 0.0}).density.covariance.correlated_pairs
    assert pairs == (((0, 1),) if isinstance(covariance, str) and covariance != "diagonal" else ())


def test_zero_effects_of_designs_and_functions() -> None:
    design = np.eye(3)
    model = jn.NLMEModel(curve, [jn.Parameter(n, 1.0) for n in "abc"], random_design=design, fixed={"sd(a)": 0.0})
    assert jn.bind(model, data()).density.effect_names == ("b", "c")
    mixed = np.array([[1.0, 1.0], [0.0, 1.0], [0.0, 0.0]])
    model = jn.NLMEModel(curve, [jn.Parameter(n, 1.0) for n in "abc"], random_design=mixed, fixed={"sd(a)": 0.0})
    assert jn.bind(model, data()).density.effect_names == ("b1",)  # the name that it has beside the other

    def individual(beta, b, v):
        return {"a": beta.a + b.a, "b": beta.b + b.b, "c": beta.c + b.c}

    binding = held(individual=individual, sd={"b": 0.0})
    group = jax.tree.map(lambda leaf: leaf[0], binding.problem.buckets[0])
    phi = binding.density.phi(binding.start, np.array([1.0, 2.0]), group)
    assert float(phi.b) == 1.0
    assert float(phi.a) != 1.0


def test_residual_parameters() -> None:
    for error in (jn.error.combined(a=jn.fixed(0.1)), jn.error.combined(fix={"a": 0.1})):
        entry_a, entry_b = error.parameters
        assert (entry_a.fix, float(entry_a.start), entry_a.automatic) == (True, 0.1, False)
        assert (entry_b.fix, entry_b.automatic) == (False, True)
    assert jn.error.constant(fix=0.2).parameters[0].fix
    assert jn.error.proportional(jn.fixed(0.2)).parameters[0].fix
    assert jn.error.exponential(fix=0.2).parameters[0].fix
    power = jn.error.power(c=jn.fixed(0.5))
    assert [p.fix for p in power.parameters] == [False, True]
    assert [float(p.start) for p in power.parameters] == [0.2, 0.5]
    assert [p.fix for p in jn.error.constant_power(fix={"b": 0.1, "a": 0}).parameters] == [True, True, False]
    own = jn.error.custom(lambda f, a, s: a + s * f**2, {"a": 1.0}, fix={"s": 0.01})
    assert [(p.name, p.fix) for p in own.parameters] == [("a", False), ("s", True)]
    binding = held(error=jn.error.constant(by="site"), fixed={"a[s]": 0.4})
    assert fixed_names(binding) == ["a[s]"]
    none = held(error=jn.error.combined(b=0.1), fixed={"error.a": 0})  # a proportional error
    assert none.values(none.start)["error.a"] == 0.0


def test_starts_give_way_to_what_is_held() -> None:
    binding = held(fixed={"sd(b)": 0.3, "error.a": 0.5})
    with pytest.raises(jn.ModelError, match=r"sd\(b\) is held fixed at 0.3 in this model; received 0.4"):
        binding.params({"sd(b)": 0.4})
    with pytest.raises(jn.ModelError, match=r"sd\(b\) is 1 in psi .*, and 0.3 in the model, which holds"):
        held(fixed={"sd(b)": 0.3}, psi=np.eye(3))
    params = binding.params({"sd(a)": 0.9, "sd(b)": 0.3})
    correlated = held(fixed={"corr(a, c)": 0.0, "corr(a, b)": -0.3})
    values = correlated.values(correlated.start)
    assert correlated.values(correlated.params(values)) == pytest.approx(values)
    # at a variance of zero a correlation is reported as zero
    assert correlated.params({**values, "sd(b)": 0.0, "corr(a, b)": 0.0, "corr(b, c)": 0.0}).covariance[1] == -np.inf
    assert binding.values(params)["sd(a)"] == pytest.approx(0.9)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fixed": {"sd(d)": 0.3}}, r"fixed value of 'sd\(d\)' is not a name of this model; did you mean"),
        ({"fixed": {"sd(b)": -0.3}}, r"sd\(b\) must be held at a standard deviation >= 0; received -0.3"),
        ({"fixed": {"corr(a, b)": 1.0}}, r"corr\(a, b\) must be held at a correlation between -1 and 1; received 1"),
        ({"fixed": {"corr(a, b)": 0.1, "corr(b, a)": 0.2}}, "it is named twice"),
        ({"fixed": {"sd(b)": 0.0, "corr(a, b)": 0.2}}, r"corr\(a, b\) is held fixed, and the standard deviation"),
        ({"fixed": {"sd(b)": 0.2}, "fix_psi": True}, "fix_psi=True holds all of psi"),
        ({"fixed": {"sd(b)": 0.2}, "sd": {"b": jn.fixed(0.3)}}, r"sd\(b\) is held at 0.3 by the parameter and at 0.2"),
        ({"fixed": {"error.a": -1.0}}, "error parameter 'a' must start inside"),
        ({"fixed": {"error.a": 0.3}, "error": jn.error.constant(fix=0.2)}, "error.a is fixed at 0.2 by the residual"),
        ({"fixed": {"sd(b)": 0.0}, "psi": np.eye(3)}, r"sd\(b\) is held at zero, and psi= gives it a variance"),
        ({"fixed": ["sd(b)"]}, "fixed must be a dictionary from reported names"),
        ({"fixed": {"sd(b)": "0.3"}}, r"the value of 'sd\(b\)' must be one finite number"),
        ({"fixed": {"sd(b)": 0.0}, "covariance": "identity"}, r"sd\(a\), sd\(b\), sd\(c\) are one parameter"),
        ({"sd": {"b": jn.fixed(0.0)}, "fixed": {"sd(b)": 0.1}}, r"sd\(b\) is held at 0 by the parameter"),
    ],
)
def test_refusals(options: dict, message: str) -> None:
    with pytest.raises((jn.ModelError, jn.OptionError), match=message):
        held(**options)


def test_refusals_of_declarations() -> None:
    with pytest.raises(jn.ModelError, match=r"sd cannot be held at -1, which is negative"):
        jn.Parameter("a", 1.0, random=True, sd=jn.fixed(-1.0))
    with pytest.raises(jn.ModelError, match=r"parameter 'a': write start=2, fix=True to hold it at 2"):
        jn.Parameter("a", jn.fixed(2.0))
    with pytest.raises(jn.ModelError, match=r"covariate 'x': write start=2, fix=True"):
        jn.Covariate("x", jn.fixed(2.0))
    with pytest.raises(jn.OptionError, match=r"jn\.fixed takes one finite number"):
        jn.fixed("a")
    with pytest.raises(jn.OptionError, match=r"fix must be a dictionary of values to hold, as in fix={'a': 0.2}"):
        jn.error.combined(fix=0.2)
    with pytest.raises(jn.OptionError, match=r"fix must be the value to hold, as in fix=0.2; received 'x'"):
        jn.error.constant(fix="x")
    with pytest.raises(jn.OptionError, match="a has a value and one in fix="):
        jn.error.combined(a=1.0, fix={"a": 0.1})
    with pytest.raises(jn.OptionError, match="'d' is no parameter of this model"):
        jn.error.combined(fix={"d": 0.1})
    with pytest.raises(jn.OptionError, match=r"cannot be held at -0\.1, which is negative"):
        jn.error.constant(fix=-0.1)
