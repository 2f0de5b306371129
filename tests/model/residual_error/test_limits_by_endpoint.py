"""Limits of quantification beside several endpoints: each method where it was asked for, against one endpoint by
itself, and what is refused."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

import jaxnlme as jn
from jaxnlme.likelihood.curvature import gauss_newton

TIMES = np.array([0.5, 1.0, 2.0, 4.0, 8.0])
LIMITS = {"cp": 0.5, "pca": 60.0}
CL, SD = 1.1, 0.3


def table(limits: dict[str, float] | None = None) -> pd.DataFrame:
    """Concentrations and effects of four subjects at five times; those below `limits` are their limit, with CENS 1."""
    rng, rows = np.random.default_rng(4), []
    for subject in range(4):
        c = 10.0 * np.exp(-0.5 * np.exp(0.3 * rng.standard_normal()) * TIMES)
        for label, y in (("cp", c * (1 + 0.1 * rng.standard_normal(5))), ("pca", 90 - 5 * c + rng.standard_normal(5))):
            limit = (limits or {}).get(label, -np.inf)
            rows += [
                (subject, t, label, max(value, limit), int(value < limit)) for t, value in zip(TIMES, y, strict=True)
            ]
    return pd.DataFrame(rows, columns=["ID", "TIME", "DVID", "DV", "CENS"])


def both(phi: Any, x: Any, v: Any) -> Any:
    c = 10.0 * jnp.exp(-0.5 * phi.cl * x.TIME)
    return {"cp": c, "pca": 90.0 - 5.0 * c}


def only(label: str) -> Any:
    return lambda phi, x, v: both(phi, x, v)[label]


ERRORS: dict[str, Any] = {"cp": jn.error.proportional(0.2), "pca": jn.error.constant(3.0)}


def declared(censoring: Any = None, error: Any = ERRORS, structure: Any = both) -> jn.NLMEModel:
    return jn.NLMEModel(
        structure, [jn.Parameter("cl", CL, "log", random=True, sd=SD)], error=error, censoring=censoring
    )


def read(frame: pd.DataFrame, **options: Any) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", endpoint="DVID", **options)


def value(model: jn.NLMEModel, data: jn.GroupedData, method: str = "laplace") -> float:
    return float(jax.jit(lambda params: jn.log_likelihood(model, params, data, method))(model.params(data)))


def group_of(binding: Any, k: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.asarray(leaf[k]), binding.problem.buckets[0])


def log_density(model: jn.NLMEModel, data: jn.GroupedData, z: float) -> np.ndarray:
    """log p(y | z) of each group."""
    binding = jn.bind(model, data)
    params = jax.tree.map(jnp.asarray, binding.params())

    @jax.jit
    def of_group(group):
        f = binding.density.predict(params, jnp.array([z]), group)
        return binding.density.error.log_density(f, f, params.error, group)

    return np.array([of_group(group_of(binding, k)) for k in range(data.n_groups)])


def expected_rows(frame: pd.DataFrame, methods: dict[str, str], z: float) -> np.ndarray:
    """log p(y | z) of each subject in numpy."""
    c = 10.0 * np.exp(-0.5 * CL * np.exp(SD * z) * frame.TIME.to_numpy())
    is_cp, y = (frame.DVID == "cp").to_numpy(), frame.DV.to_numpy()
    f, s = np.where(is_cp, c, 90.0 - 5.0 * c), np.where(is_cp, 0.2 * c, 3.0)
    terms = norm.logpdf(y, f, s)
    for label, method in methods.items():
        rows, limit = (label == frame.DVID).to_numpy(), LIMITS[label]
        below = rows & (frame.CENS == 1).to_numpy()
        above_zero = norm.logcdf(f / s)
        if method in ("M1", "M2"):
            terms[below] = 0.0
        if method == "M2":
            terms -= np.where(rows & ~below, norm.logsf((limit - f) / s), 0.0)
        if method == "M3":
            terms[below] = norm.logcdf((limit - f) / s)[below]
        if method == "M4":
            left_of_limit = np.log(norm.cdf((limit - f) / s) - norm.cdf(-f / s))
            terms = np.where(below, left_of_limit, terms) - np.where(rows, above_zero, 0.0)
    return pd.Series(terms).groupby(frame.ID.to_numpy()).sum().to_numpy()


@pytest.mark.parametrize(
    "methods",
    [
        {"cp": "M3"}, {"cp": "M4"}, {"pca": "M2"}, {"cp": "M1", "pca": "M3"}, {"cp": "M2", "pca": "M4"},
        {"cp": "M3", "pca": "M3"},
    ],
)  # fmt: skip
def test_each_endpoint_has_its_method(methods: dict[str, str]) -> None:
    frame = table({label: LIMITS[label] for label in methods})
    assert {label: int(frame.CENS[label == frame.DVID].sum()) > 1 for label in methods} == dict.fromkeys(methods, True)
    model = declared(methods)
    # The order of rows is of no importance.
    data = read(frame.sample(frac=1.0, random_state=3).sort_values("ID", kind="stable"), censoring="CENS")
    np.testing.assert_allclose(log_density(model, data, 0.4), expected_rows(frame, methods, 0.4), rtol=1e-9)


def test_limits_of_a_dictionary_are_those_of_the_column() -> None:
    """lloq={"cp": 0.5} censors concentrations only, also where labels are numbers, and the effects have no limit."""
    frame = table({"cp": 0.5})
    by_column, by_label = read(frame, censoring="CENS"), read(table(), lloq={"cp": 0.5})
    np.testing.assert_array_equal(by_label.y, by_column.y)
    for name in ("kind", "lower", "upper", "lloq", "uloq"):
        np.testing.assert_array_equal(getattr(by_label.limits, name), getattr(by_column.limits, name))
    lloq = by_label.rows_to_column(by_label.limits.lloq)
    assert (lloq == np.where(table().DVID == "cp", 0.5, -np.inf)).all()
    numbers = read(table().assign(DVID=lambda d: np.where(d.DVID == "cp", 1, 2)), lloq={"1": 0.5})
    np.testing.assert_array_equal(numbers.limits.kind, by_label.limits.kind)


def test_one_name_is_the_method_of_every_endpoint_with_limits() -> None:
    data = read(table({"cp": 0.5}), censoring="CENS")
    named, by_label = jn.bind(declared("M3"), data), jn.bind(declared({"cp": "M3"}), data)
    assert named.density.error.members[1].censoring is None
    assert named.density.error.formula == by_label.density.error.formula


@pytest.mark.parametrize("method", ["fo", "focei"])
def test_m1_of_an_endpoint_is_the_table_without_its_rows(method: str) -> None:
    frame = table(LIMITS if method == "focei" else {"cp": 0.5})
    others = {"pca": "M3"} if method == "focei" else {}
    without = frame[(frame.CENS == 0) | (frame.DVID != "cp")]
    expected = value(declared(others or None), read(without, censoring="CENS" if others else None), method)
    got = value(declared({"cp": "M1"} | others), read(frame, censoring="CENS"), method)
    assert got == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("method", ["focei", "laplace"])
def test_one_endpoint_with_limits_is_the_plain_model(method: str) -> None:
    frame = table({"cp": 0.5})
    frame = frame[frame.DVID == "cp"]
    several = declared({"cp": "M3"}, {"cp": ERRORS["cp"]}, lambda phi, x, v: {"cp": both(phi, x, v)["cp"]})
    plain = declared("M3", ERRORS["cp"], only("cp"))
    single = jn.GroupedData.from_frame(frame, "ID", "DV", x="TIME", censoring="CENS")
    expected = value(plain, single, method)
    assert value(several, read(frame, censoring="CENS"), method) == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("scale_at", [None, 0.2], ids=["focei", "foce"])
def test_curvature_is_the_sum_of_those_of_the_endpoints(scale_at: float | None) -> None:
    """H - 1 of FOCEI (scale at the mode) and FOCE (scale at another z) adds up over endpoints."""
    frame, z = table(LIMITS), jnp.array([-0.5])

    def curvatures(model: jn.NLMEModel, data: jn.GroupedData) -> np.ndarray:
        binding = jn.bind(model, data)
        params = jax.tree.map(jnp.asarray, binding.params())
        at = None if scale_at is None else jnp.array([scale_at])
        of_group = jax.jit(lambda group: gauss_newton(binding.density, params, z, group, at)[0, 0])
        return np.array([float(of_group(group_of(binding, k))) for k in range(4)])

    together = curvatures(declared("M3"), read(frame, censoring="CENS"))
    parts = [
        curvatures(
            declared("M3", error, only(label)),
            jn.GroupedData.from_frame(frame[label == frame.DVID], "ID", "DV", x="TIME", censoring="CENS"),
        )
        for label, error in ERRORS.items()
    ]
    np.testing.assert_allclose(together - 1.0, sum(part - 1.0 for part in parts), rtol=1e-10)


def test_drawn_responses_are_censored_in_their_endpoint() -> None:
    data = read(table(), lloq={"cp": 0.5})
    is_cp = (table().DVID == "cp").to_numpy()
    raw = np.where(is_cp, np.where(table().TIME > 3, 0.2, 2.0), 0.1)
    drawn = data.with_response(raw)
    kind, y = drawn.rows_to_column(drawn.limits.kind), drawn.rows_to_column(drawn.y)
    assert (kind == np.where(is_cp & (raw < 0.5), 1, 0)).all()
    assert (y == np.where(is_cp, np.maximum(raw, 0.5), raw)).all()
    again = read(table().assign(DV=raw), lloq={"cp": 0.5})
    assert again.fingerprint() == drawn.fingerprint()


MESSAGES = {
    "no method": (lambda: jn.bind(declared(), read(table({"cp": 0.5}), censoring="CENS")), r"censoring='M3'"),
    "endpoint without a method": (
        lambda: jn.bind(declared({"pca": "M3"}), read(table({"cp": 0.5}), censoring="CENS")),
        r"censoring='M3' for endpoint 'pca', and the data have limits of endpoint cp only",
    ),
    "limits of another endpoint": (
        lambda: jn.bind(declared({"cp": "M3"}), read(table(LIMITS), censoring="CENS")),
        r"endpoint 'pca'.*censored.*censoring='M3'",
    ),
    "unknown endpoint": (lambda: declared({"plasma": "M3"}), r"plasma.*cp"),
    "unknown method": (lambda: declared({"cp": "M5"}), r"'M1', 'M2', 'M3' or 'M4'; received 'M5'"),
    "dictionary for one endpoint": (
        lambda: declared({"cp": "M3"}, "constant", only("cp")), r"censoring.*dictionary|dictionary.*censoring",
    ),
    "a count": (
        lambda: declared({"n": "M3"}, {"cp": "constant", "n": jn.GroupLogLikelihood(lambda y, f, p, x, v: -y)}),
        r"Gaussian residual model",
    ),
    "correlated": (
        lambda: declared("M3", jn.error.endpoints(ERRORS, jn.correlation.Endpoints("TIME"))), "which has censored rows",
    ),
    "fo": (lambda: jn.fit(declared("M3"), read(table({"cp": 0.5}), censoring="CENS"), "fo"), r"FO linearises"),
    "limit beyond the domain": (
        lambda: jn.bind(
            declared("M3", ERRORS | {"cp": "exponential"}),
            read(table().assign(DV=lambda d: d.DV - 100), lloq={"cp": -1.0}),
        ),
        r"endpoint 'cp'.*known to lie below -1",
    ),
    "m2 without limits": (
        lambda: jn.bind(
            declared({"cp": "M2"}),
            read(table({"cp": 0.5}).assign(DV=lambda d: d.DV + 0.001 * d.CENS * d.index), censoring="CENS"),
        ),
        r"endpoint 'cp'.*has no limit: give lloq=",
    ),
    "unknown endpoint of lloq": (lambda: read(table(), lloq={"plasma": 0.5}), r"lloq names plasma, and the endpoints"),
}  # fmt: skip


@pytest.mark.parametrize("case", list(MESSAGES))
def test_messages(case: str) -> None:
    call, words = MESSAGES[case]
    with pytest.raises((jn.ModelError, jn.OptionError, jn.DataError), match=words) as error:
        call()
    assert "\n" not in str(error.value)
