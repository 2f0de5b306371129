"""A residual model for each endpoint: names, densities against those of single residual models, and messages."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.model.residual_error.abstract import AbstractError
from jaxnlme.model.residual_error.families import error_model

SETTINGS: dict[str, dict[str, float]] = {"cp": {"s": 0.4}, "pca": {"s": 3.0}}


def table(groups: int = 6, seed: int = 0) -> pd.DataFrame:
    """Two responses at common times, with dose rows that belong to none, and an assay for the first."""
    rng, rows = np.random.default_rng(seed), []
    for i in range(groups):
        cl, e0 = np.exp(0.3 * rng.standard_normal()), 50.0 * np.exp(0.1 * rng.standard_normal())
        rows.append({"ID": i, "TIME": 0.0, "DVID": None, "DV": np.nan, "ASSAY": "A"})
        for t in (0.5, 1.0, 2.0, 4.0):
            f = 10.0 * np.exp(-cl * t)
            e = rng.standard_normal(2)
            rows.append({"ID": i, "TIME": t, "DVID": "cp", "DV": f * (1 + 0.1 * e[0]), "ASSAY": "AB"[i % 2]})
            if t != 1.0:
                rows.append({"ID": i, "TIME": t, "DVID": "pca", "DV": e0 - 2.0 * f + 2.0 * e[1], "ASSAY": "A"})
    return pd.DataFrame(rows)


def grouped(frame: pd.DataFrame, **options: Any) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame, "ID", "DV", x=["TIME", "ASSAY"], endpoint="DVID", **options)


def both(phi, x, v):
    f = 10.0 * jnp.exp(-phi.cl * x.TIME)
    return {"cp": f, "pca": phi.e0 - 2.0 * f}


def model(error: Any, structure: Any = both) -> jn.NLMEModel:
    parameters = [
        jn.Parameter("cl", 1.0, transform="log", random=True),
        jn.Parameter("e0", 50.0, transform="log", random=True),
    ]
    return jn.NLMEModel(structure, parameters, error=error)


def log_likelihood(m: jn.NLMEModel, data: jn.GroupedData, method: str, at: dict[str, float]) -> float:
    return float(jax.jit(lambda params: jn.log_likelihood(m, params, data, method))(m.params(data, at)))


def values(bound: Any, **others: float) -> dict[str, float]:
    """Values of all parameters, not those they start at."""
    return {"cl": 1.1, "e0": 49.0, "sd(cl)": 0.3, "sd(e0)": 0.15} | others


METHODS = ("fo", "foce", "focei", "laplace")


@pytest.mark.parametrize("label", ["cp", "pca"])
@pytest.mark.parametrize("method", METHODS)
def test_one_endpoint_is_the_plain_model(label: str, method: str) -> None:
    frame = table()
    frame = frame[(label == frame.DVID) | frame.DVID.isna()]
    name = "power" if label == "cp" else "combined"
    plain = model(name, lambda phi, x, v: both(phi, x, v)[label])
    several = model({label: name}, lambda phi, x, v: {label: both(phi, x, v)[label]})
    data = jn.GroupedData.from_frame(frame, "ID", "DV", x=["TIME"])
    scale = {"b": 0.3, "c": 0.8} if label == "cp" else {"a": 2.0, "b": 0.02}
    expected = log_likelihood(plain, data, method, values(None, **scale))
    of = {f"{key}[{label}]": value for key, value in scale.items()}
    got = log_likelihood(several, grouped(frame), method, values(None, **of))
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_endpoints_that_share_nothing_are_two_models(method: str) -> None:
    def apart(phi, x, v):
        return {"cp": 10.0 * jnp.exp(-phi.cl * x.TIME), "pca": phi.e0 + 0.0 * x.TIME}

    frame = table()
    m = model({"cp": "proportional", "pca": "exponential"}, apart)
    data = grouped(frame)
    together = log_likelihood(m, data, method, values(None, **{"b[cp]": 0.2, "a[pca]": 0.1}))
    parts = []
    for label, error, parameter, sd in (("cp", "proportional", "cl", 0.3), ("pca", "exponential", "e0", 0.15)):
        start = {"cl": 1.1, "e0": 49.0}[parameter]
        single = jn.NLMEModel(
            lambda phi, x, v, label=label: _one(apart, phi, x, v, label),
            [jn.Parameter(parameter, start, transform="log", random=True)],
            error=error,
        )
        own = jn.GroupedData.from_frame(frame[label == frame.DVID], "ID", "DV", x=["TIME"])
        at = {f"sd({parameter})": sd, "b" if label == "cp" else "a": 0.2 if label == "cp" else 0.1}
        parts.append(log_likelihood(single, own, method, at))
    assert together == pytest.approx(sum(parts), rel=1e-11)


def _one(apart: Any, phi: Any, x: Any, v: Any, label: str) -> Any:
    """The prediction of one endpoint, where phi has the parameters of that one only."""
    return 10.0 * jnp.exp(-phi.cl * x.TIME) if label == "cp" else phi.e0 + 0.0 * x.TIME


def _members() -> dict[str, AbstractError]:
    """Residual models of all kinds, for the first endpoint."""
    return {
        "strata": jn.error.proportional(by="ASSAY"),
        "transform": jn.error.transform_both_sides("box-cox", "combined"),
        "variance": jn.error.gaussian(jn.variance.power() * jn.variance.strata("ASSAY")),
        "correlated": jn.error.gaussian("constant", jn.correlation.CAR1("TIME")),
        "custom": jn.error.custom(lambda f, x, a: a * jnp.sqrt(1.0 + x.TIME), {"a": 0.3}),
    }


@pytest.mark.parametrize("kind", list(_members()))
def test_density_of_any_member_is_the_sum_of_those_of_its_rows(kind: str) -> None:
    """log p of a group against the residual models on tables of their own rows, and the derivatives of both."""
    frame = table()
    member = _members()[kind]
    m = model({"cp": member, "pca": "constant"})
    data = grouped(frame)
    bound = jn.bind(m, data)
    params = bound.params({"cl": 1.1})
    single = {
        label: jn.bind(
            model(spec, lambda phi, x, v, label=label: both(phi, x, v)[label]),
            jn.GroupedData.from_frame(frame[label == frame.DVID], "ID", "DV", x=["TIME", "ASSAY"]),
        )
        for label, spec in (("cp", member), ("pca", error_model("constant")))
    }
    density, group = bound.density, bound.problem.buckets[0]
    theta = jnp.asarray(params.error) + 0.1
    z = jnp.array([0.4, -0.2])
    names = density.error_names
    assert len(set(names)) == len(names) and all("[cp" in n or "[pca" in n for n in names)

    def one(theta, z, k):
        own = jax.tree.map(lambda leaf: leaf[k], group)
        return density.error.log_density(*(density.predict(params, z, own),) * 2, theta, own)

    def parts(theta, z, k):
        total = 0.0
        for number, (label, other) in enumerate(single.items()):
            own = jax.tree.map(lambda leaf: leaf[k], other.problem.buckets[0])
            at = jnp.asarray(other.params({"cl": 1.1}).error)
            entries = density.error.entries[number]
            at = jnp.stack([theta[e] for e in entries])
            f = other.density.predict(other.params({"cl": 1.1}), z, own)
            total = total + other.density.error.log_density(f, f, at, own)
            assert tuple(p.name for p in density.error.members[number].parameters) == tuple(
                p.name for p in other.density.error.parameters
            ), label
        return total

    for k in (0, 1):
        np.testing.assert_allclose(one(theta, z, k), parts(theta, z, k), rtol=1e-12)
        for argument in (0, 1):
            got, expected = jax.grad(one, argument)(theta, z, k), jax.grad(parts, argument)(theta, z, k)
            np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-9)


def test_gradient_of_the_likelihood_against_finite_differences() -> None:
    data = grouped(table())
    error = jn.error.endpoints({"cp": "power", "pca": "constant"}, jn.correlation.Endpoints("TIME"))
    m = model(error)
    params = m.params(data, values(None, **{"b[cp]": 0.3, "c[cp]": 0.9, "a[pca]": 2.0, "corr(cp, pca)": 0.4}))

    @jax.jit
    def value(packed):
        return jn.log_likelihood(m, params.unpack(packed), data, "focei")

    packed = np.asarray(params.pack())
    slope = np.asarray(jax.jit(jax.grad(value))(jnp.asarray(packed)))
    for k in range(len(packed)):
        step = 1e-3 * np.eye(len(packed))[k]
        f = [float(value(jnp.asarray(packed + c * step))) for c in (-2.0, -1.0, 1.0, 2.0)]
        difference = (8.0 * (f[2] - f[1]) - (f[3] - f[0])) / 12e-3
        assert slope[k] == pytest.approx(difference, rel=1e-6, abs=1e-6), k


def test_correlation_between_endpoints_is_that_of_pairs_of_rows() -> None:
    """log p of a group against the multivariate normal density with the covariance written out, rows in any order."""
    from scipy.stats import multivariate_normal

    frame = table().sample(frac=1.0, random_state=1)
    data = grouped(frame)
    m = model(jn.error.endpoints({"pca": "constant", "cp": "proportional"}, jn.correlation.Endpoints("TIME")))
    bound = jn.bind(m, data)
    params = bound.params({"a[pca]": 2.0, "b[cp]": 0.2, "corr(pca, cp)": -0.6})
    group = jax.tree.map(lambda leaf: leaf[2], bound.problem.buckets[0])
    f = bound.density.predict(params, jnp.zeros(2), group)
    rows = frame[data.labels[2] == frame.ID]
    assert np.array_equal(rows.TIME, group.x.TIME)
    use = rows.DV.notna().to_numpy()
    f_, y = np.asarray(f)[use], rows.DV.to_numpy()[use]
    is_cp, t = (rows.DVID == "cp").to_numpy()[use], rows.TIME.to_numpy()[use]
    sd = np.where(is_cp, 0.2 * f_, 2.0)
    pair = (t[:, None] == t[None, :]) & (is_cp[:, None] != is_cp[None, :])
    covariance = sd[:, None] * sd[None, :] * np.where(pair, -0.6, np.eye(len(t)))
    expected = multivariate_normal.logpdf(y, f_, covariance)
    got = bound.density.error.log_density(f, f, jnp.asarray(params.error), group)
    assert float(got) == pytest.approx(expected, rel=1e-12)
    assert pair.sum() == 6


def test_three_endpoints_have_a_correlation_for_every_pair() -> None:
    frame = table()
    extra = frame[frame.DVID == "cp"].assign(DVID="m", DV=lambda d: 0.5 * d.DV)
    data = grouped(pd.concat([frame, extra]))

    def three(phi, x, v):
        return both(phi, x, v) | {"m": 5.0 * jnp.exp(-phi.cl * x.TIME)}

    members = {"cp": "constant", "pca": "constant", "m": "constant"}
    m = model(jn.error.endpoints(members, jn.correlation.Endpoints("TIME")), three)
    at = {"corr(cp, pca)": 0.5, "corr(cp, m)": -0.3, "corr(pca, m)": 0.2}
    bound = jn.bind(m, data)
    params = bound.params(at)
    found = bound.values(params)
    assert {name: found[name] for name in at} == pytest.approx(at)
    of_two = jn.error.endpoints(members, jn.correlation.Endpoints("TIME", of=["cp", "m"]))
    assert jn.bind(model(of_two, three), data).density.error_names[-1] == "corr(cp, m)"
    with pytest.raises(jn.ModelError, match="cannot occur together"):
        jn.bind(m, data).params(at | {"corr(cp, m)": 0.99, "corr(pca, m)": -0.99})


def test_numbers_and_text_are_the_same_label() -> None:
    frame = table().replace({"DVID": {"cp": 1, "pca": 2}}).infer_objects()
    frame["DVID"] = frame.DVID.astype(float)
    data = grouped(frame)
    labels = ({1: "constant", 2: "constant"}, {"1": "constant", 2.0: "constant"})

    def numbered(phi, x, v):
        out = both(phi, x, v)
        return jnp.where(x.DVID == 1, out["cp"], out["pca"])

    def by_number(phi, x, v):
        out = both(phi, x, v)
        return jnp.where(x.endpoints == 0, out["cp"], out["pca"])

    def by_label(phi, x, v):
        out = both(phi, x, v)
        return {1: out["cp"], "2": out["pca"]}

    results = []
    for error in labels:
        for structure in (
            numbered,
            by_number,
            lambda phi, x, v: {1: both(phi, x, v)["cp"], "2": both(phi, x, v)["pca"]},
        ):
            m = model(error, structure)
            at = m.params(data, {"a[1]": 1.0, "a[2]": 2.0})
            results.append(float(jn.log_likelihood(m, at, data, "fo")))
    assert np.ptp(results) == 0.0


MESSAGES = {
    "no residual model": (lambda: jn.bind(model({"cp": "constant"}), grouped(table())), "'pca' in row"),
    "no row": (
        lambda: jn.bind(model({"cp": "constant", "pca": "constant", "x": "constant"}), grouped(table())),
        "endpoint 'x' of error= has no row",
    ),
    "no column": (
        lambda: jn.bind(
            model({"cp": "constant", "pca": "constant"}), jn.GroupedData.from_frame(table(), "ID", "DV", x="TIME")
        ),
        "name the column of labels",
    ),
    "prediction": (
        lambda: jn.fit(
            model({"cp": "constant", "pca": "constant"}, lambda phi, x, v: {"cp": both(phi, x, v)["cp"]}),
            grouped(table()),
        ),
        "without 'pca'",
    ),
    "unknown prediction": (
        lambda: jn.fit(
            model({"cp": "constant", "pca": "constant"}, lambda phi, x, v: both(phi, x, v) | {"pcb": x.TIME}),
            grouped(table()),
        ),
        "no endpoint of error=",
    ),
    "dictionary for one": (lambda: jn.fit(model("constant"), grouped(table())), "returned a dictionary"),
    "empty": (lambda: model({}), "dictionary from the labels"),
    "name": (lambda: model({"cp": "proportinal"}), "endpoint 'cp'.*proportional"),
    "twice": (lambda: model({1: "constant", "1": "constant"}), "two residual models"),
    "nested": (lambda: model({"cp": {"a": "constant"}}), "endpoint 'cp'"),
    "other correlation": (
        lambda: jn.error.endpoints({"cp": "constant", "pca": "constant"}, jn.correlation.CAR1("TIME")),
        "belongs to the residual model of one endpoint",
    ),
    "correlation of one": (
        lambda: jn.error.endpoints({"cp": "constant"}, jn.correlation.Endpoints("TIME")),
        "only cp",
    ),
    "correlation with a count": (
        lambda: jn.error.endpoints(
            {"cp": "constant", "n": jn.GroupLogLikelihood(lambda y, f, p, x, v: -((y - f) ** 2))},
            jn.correlation.Endpoints("TIME", of=["cp", "n"]),
        ),
        "'n', which has no Gaussian residual model",
    ),
    "replicates": (
        lambda: jn.bind(
            model(jn.error.endpoints({"cp": "constant", "pca": "constant"}, jn.correlation.Endpoints("TIME"))),
            grouped(pd.concat([table(), table().query("DVID == 'cp' and TIME == 2")])),
        ),
        "'cp' has two responses of one group at one TIME",
    ),
    "never together": (
        lambda: jn.bind(
            model(jn.error.endpoints({"cp": "constant", "pca": "constant"}, jn.correlation.Endpoints("TIME"))),
            grouped(table().query("DVID != 'cp' or TIME == 1")),
        ),
        "none of cp and pca",
    ),
    "no label": (lambda: grouped(table().assign(DVID=lambda d: d.DVID.where(d.index != 3))), "no label in row 4"),
    "in v": (
        lambda: jn.GroupedData.from_frame(table(), "ID", "DV", x="TIME", v="DVID", endpoint="DVID"),
        "is also in v",
    ),
    "array": (lambda: jn.GroupedData.from_arrays([1.0], ["a"], {"t": [1.0]}, endpoint="u"), "no column of x"),
    "reserved": (
        lambda: jn.bind(
            model("constant"),
            jn.GroupedData.from_frame(table().assign(endpoints=1), "ID", "DV", x=["TIME", "endpoints"]),
        ),
        "reserved",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(MESSAGES))
def test_messages(case: str) -> None:
    call, words = MESSAGES[case]
    with pytest.raises((jn.ModelError, jn.OptionError, jn.DataError), match=words) as error:
        call()
    assert "\n" not in str(error.value)


def test_data_carry_their_endpoints() -> None:
    frame = table()
    data = grouped(frame)
    assert "endpoints by DVID = cp (24), pca (18)" in repr(data)
    assert data.select([0, 1]).endpoint == data.pad_to(12).endpoint == data.with_response(data.y).endpoint == "DVID"
    assert (
        data.fingerprint()
        != jn.GroupedData.from_frame(data.to_frame(), "ID", "DV", x=["TIME", "ASSAY", "DVID"]).fingerprint()
    )
    assert data.fingerprint() == grouped(data.to_frame()).fingerprint() == data.pad_to(12).fingerprint()
    assert not any("repeated" in note for note in data.notes)
    rows = data.to_frame()
    assert (rows.DVID[rows.DV.notna()] == frame.DVID[frame.DV.notna()]).all()
