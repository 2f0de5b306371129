"""Likelihoods with random effects at nested levels: brute force, closed forms, the dense path, carry-over."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.likelihood.score import value_and_score
from tests.problems import cheap

EXACT = 1e-10  # rounding of sums of a few hundred terms, relative


def occasions(groups=5, seed=0, rows=4, most=3) -> pd.DataFrame:
    """Concentrations after a bolus in one to `most` occasions, with effects of subject and occasion on clearance."""
    rng = np.random.default_rng(seed)
    out = []
    for subject in range(groups):
        b = rng.normal() * 0.3
        for occasion in range(1 + subject % most):
            cl = np.exp(0.5 + b + rng.normal() * 0.2)
            for t in np.linspace(0.5, 8.0, rows):
                out.append((subject, f"day {occasion}", t, 100 / 8 * np.exp(-cl / 8 * t) + rng.normal() * 0.5))
    return pd.DataFrame(out, columns=["id", "occ", "t", "y"])


def decay(phi, x):
    return 100.0 / phi.v * jnp.exp(-phi.cl / phi.v * x.t)


def nested_model(f=decay, error="constant", **options) -> jn.NLMEModel:
    parameters = [
        jn.Parameter("cl", 1.6, "log", random=["id", "occ"], sd={"id": 0.3, "occ": 0.2}),
        jn.Parameter("v", 8.0, "log"),
    ]
    return jn.NLMEModel(f, parameters, error=error, **options)


def nested_data(frame=None, group=("id", "occ")) -> jn.GroupedData:
    return jn.GroupedData.from_frame(occasions() if frame is None else frame, list(group), "y", ["t"])


def with_separable(problem: jn.Problem, separable: bool) -> jn.Problem:
    """The problem computed unit by unit, or by the dense path."""
    density = problem.density
    levels = dataclasses.replace(density.levels, separable=separable)
    return dataclasses.replace(problem, density=dataclasses.replace(density, levels=levels))


def group_values(model, params, data, method="focei"):
    """`jn.group_log_likelihoods` in one compiled program; `data` may be a Problem."""
    problem = jax.tree.map(jnp.asarray, data if isinstance(data, jn.Problem) else jn.bind(model, data).problem)
    return np.asarray(cheap(lambda p: jn.group_log_likelihoods(None, p, problem, method))(params))


def total(model, params, data, method="focei"):
    return float(group_values(model, params, data, method).sum())


def scores(problem, params, method):
    problem = jax.tree.map(jnp.asarray, problem)
    z = jnp.zeros((problem.n_groups, problem.density.n_effects))

    def run(x):
        return problem.map(lambda g, z: value_and_score(method, problem.density, params.unpack, x, g, z), z)

    result, score = cheap(run)(params.pack())
    return np.asarray(result.value), np.asarray(score), np.asarray(result.mode), np.asarray(result.curvature)


# --- unit by unit against the dense path ---

METHODS = {"FO": jn.FO(), "FOCE": jn.FOCE(), "FOCEI": jn.FOCEI(), "Laplace": jn.Laplace()}


@pytest.mark.parametrize(
    ("name", "error"), [("FO", "constant"), ("FOCE", "combined"), ("FOCEI", "combined"), ("Laplace", "combined")]
)
def test_units_and_the_dense_path_agree(name, error):
    model, data = nested_model(error=error), nested_data()
    problem, params = jn.bind(model, data).problem, model.params(data)
    assert problem.density.levels.separable
    by_unit = scores(problem, params, METHODS[name])
    dense = scores(with_separable(problem, False), params, METHODS[name])
    for a, b in zip(by_unit, dense, strict=True):
        assert a == pytest.approx(b, rel=1e-8, abs=1e-8)  # modes to the search's tolerance


def three_levels() -> tuple[jn.NLMEModel, jn.GroupedData]:
    rng = np.random.default_rng(3)
    out = []
    for site in range(4):
        for subject in range(1 + site % 3):
            for occasion in range(2):
                for t in (1.0, 3.0, 6.0):
                    out.append((site, subject, occasion, t, 12 * np.exp(-0.2 * t) + rng.normal()))
    frame = pd.DataFrame(out, columns=["site", "id", "occ", "t", "y"])
    parameters = [
        jn.Parameter("cl", 1.6, "log", random=["site", "id", "occ"], sd=0.2),
        jn.Parameter("v", 8.0, "log", random="id", sd=0.1),
    ]
    return jn.NLMEModel(decay, parameters), jn.GroupedData.from_frame(frame, ["site", "id", "occ"], "y", ["t"])


def inner_only() -> tuple[jn.NLMEModel, jn.GroupedData]:
    parameters = [jn.Parameter("cl", 1.6, "log", random="occ", sd=0.2), jn.Parameter("v", 8.0, "log")]
    return jn.NLMEModel(decay, parameters), nested_data()


@pytest.mark.parametrize("case", [three_levels, inner_only])
def test_other_nestings(case):
    model, data = case()
    problem, params = jn.bind(model, data).problem, model.params(data)
    by_unit = scores(problem, params, jn.FOCEI())
    dense = scores(with_separable(problem, False), params, jn.FOCEI())
    for a, b in zip(by_unit, dense, strict=True):
        assert a == pytest.approx(b, rel=1e-8, abs=1e-8)


def test_effects_of_inner_units_only_are_groups_of_their_own():
    model, data = inner_only()
    frame = data.to_frame()
    frame["unit"] = frame["id"].astype(str) + frame["occ"]
    flat = jn.NLMEModel(decay, [jn.Parameter("cl", 1.6, "log", random=True, sd=0.2), jn.Parameter("v", 8.0, "log")])
    flat_data = jn.GroupedData.from_frame(frame, "unit", "y", ["t"])
    nested = total(model, model.params(data), data, "laplace")
    assert nested == pytest.approx(total(flat, flat.params(flat_data), flat_data, "laplace"), rel=EXACT)


# --- brute force ---


def brute_force(frame, cl, v, sd_id, sd_occ, a, nodes=60, f=None):
    """log p(y) of each subject by a product rule: the effect of the subject on a grid, for each value of it the
    integrals over the effects of the occasions, one after the other."""
    x, w = np.polynomial.hermite_e.hermegauss(nodes)
    w = w / np.sqrt(2 * np.pi)
    out = []
    for _, subject in frame.groupby("id", sort=False):
        total = np.zeros(nodes)
        for _, rows in subject.groupby("occ", sort=False):
            t, y = rows["t"].to_numpy(), rows["y"].to_numpy()
            clearance = cl * np.exp(sd_id * x[:, None, None] + sd_occ * x[None, :, None])
            prediction = 100.0 / v * np.exp(-clearance / v * t)
            logs = -0.5 * ((y - prediction) / a) ** 2 - np.log(a) - 0.5 * np.log(2 * np.pi)
            total += np.log(np.exp(logs.sum(axis=2)) @ w)
        out.append(np.log(np.exp(total) @ w))
    return np.array(out)


def test_nested_quadrature_converges_to_the_exact_value():
    frame = occasions()
    model, data = nested_model(), nested_data(frame)
    params = model.params(data, {"a": 0.5})
    exact = brute_force(frame, 1.6, 8.0, 0.3, 0.2, 0.5)
    values = [group_values(model, params, data, jn.AGQ(n)) for n in (1, 5, 11, 21)]
    errors = [np.abs(value - exact).max() for value in values]
    assert errors[-1] < 1e-6  # the accuracy of the brute-force rule is 1e-9
    assert errors[0] > errors[1] > errors[2]


def test_gradient_of_nested_quadrature():
    model, data = nested_model(), nested_data()
    problem, params = jn.bind(model, data).problem, model.params(data)
    _, score, _, _ = scores(problem, params, jn.AGQ(3))
    slope = cheap(jax.grad(lambda x: jn.log_likelihood(None, params.unpack(x), problem, jn.AGQ(3))))
    gradient = slope(params.pack())
    assert score.sum(axis=0) == pytest.approx(np.asarray(gradient), rel=1e-9)


def test_one_node_is_laplace():
    model, data = nested_model(), nested_data()
    params = model.params(data)
    values = [total(model, params, data, method) for method in (jn.AGQ(1), "laplace")]
    assert values[0] == pytest.approx(values[1], rel=EXACT)


def test_counts_by_nested_quadrature():
    """A Poisson outcome, whose log-density has one term for each row."""
    rng = np.random.default_rng(5)
    frame = occasions(4)
    frame["y"] = rng.poisson(4.0, len(frame))

    def density(y, f, p, x, v):
        return y * f - jnp.exp(f) - jax.scipy.special.gammaln(y + 1.0)

    parameters = [jn.Parameter("level", 1.4, random=["id", "occ"], sd={"id": 0.4, "occ": 0.3})]
    model = jn.NLMEModel(lambda phi, x: phi.level + 0.0 * x.t, parameters, error=jn.GroupLogLikelihood(density))
    data = nested_data(frame)
    x, w = np.polynomial.hermite_e.hermegauss(60)
    w = w / np.sqrt(2 * np.pi)
    from scipy.stats import poisson

    exact = []
    for _, subject in frame.groupby("id"):
        total = np.zeros(60)
        for _, rows in subject.groupby("occ"):
            rate = np.exp(1.4 + 0.4 * x[:, None, None] + 0.3 * x[None, :, None])
            total += np.log(np.exp(poisson.logpmf(rows["y"].to_numpy(), rate).sum(axis=2)) @ w)
        exact.append(np.log(np.exp(total) @ w))
    values = group_values(model, model.params(data), data, jn.AGQ(15))
    assert values == pytest.approx(np.array(exact), abs=1e-6)


def test_a_prediction_of_several_arrays():
    """A model function that returns a dictionary, of which the outcome reads every array, unit by unit and densely."""

    def several(phi, x):
        level = phi.level + 0.0 * x.t
        return {"mean": level, "shape": jnp.stack([level, 0.3 * level], axis=1)}

    def density(y, f, p, x, v):
        return -0.5 * (y - f["mean"]) ** 2 - 0.1 * jnp.sum(f["shape"] ** 2, axis=1)

    parameters = [jn.Parameter("level", 1.4, random=["id", "occ"], sd={"id": 0.4, "occ": 0.3})]
    model = jn.NLMEModel(several, parameters, error=jn.GroupLogLikelihood(density))
    data = nested_data(occasions(3))
    problem, params = jn.bind(model, data).problem, model.params(data)
    assert problem.density.levels.separable
    by_unit = scores(problem, params, jn.Laplace())
    dense = scores(with_separable(problem, False), params, jn.Laplace())
    for a, b in zip(by_unit, dense, strict=True):
        assert a == pytest.approx(b, rel=1e-8, abs=1e-8)


# --- linear f: closed forms ---


def linear_case() -> tuple[jn.NLMEModel, jn.GroupedData, pd.DataFrame]:
    rng = np.random.default_rng(2)
    frame = occasions(6, rows=3)
    frame["y"] = rng.normal(size=len(frame)) + 0.3 * frame["t"]
    parameters = [
        jn.Parameter("level", 1.0, random=["id", "occ"], sd={"id": 0.7, "occ": 0.4}),
        jn.Parameter("slope", 0.2, random=True, sd=0.1),
    ]
    model = jn.NLMEModel(lambda phi, x: phi.level + phi.slope * x.t, parameters, covariance={"id": "full"})
    return model, nested_data(frame), frame


def closed_form(frame: pd.DataFrame, psi: np.ndarray, sd_occ: float, a: float) -> float:
    total = 0.0
    for _, rows in frame.groupby("id"):
        t = rows["t"].to_numpy()
        z = np.stack([np.ones_like(t), t], axis=1)
        same = rows["occ"].to_numpy()[:, None] == rows["occ"].to_numpy()
        v = z @ psi @ z.T + sd_occ**2 * same + a**2 * np.eye(len(t))
        r = rows["y"].to_numpy() - 1.0 - 0.2 * t
        total -= 0.5 * (r @ np.linalg.solve(v, r) + np.linalg.slogdet(2 * np.pi * v)[1])
    return total


@pytest.mark.parametrize("method", ["fo", "foce", "focei", "laplace", jn.AGQ(3)], ids=str)
def test_linear_model(method):
    model, data, frame = linear_case()
    params = model.params(data, {"corr(level, slope)": 0.3, "a": 0.8})
    psi = np.array([[0.49, 0.021], [0.021, 0.01]])
    value = total(model, params, data, method)
    assert value == pytest.approx(closed_form(frame, psi, 0.4, 0.8), rel=EXACT)


def test_row_order_padding_and_buckets_change_nothing():
    model, data, frame = linear_case()
    params = model.params(data)
    value = total(model, params, data)
    shuffled = frame.sample(frac=1.0, random_state=1)
    for other in (nested_data(shuffled), data.pad_to(20)):
        assert total(model, params, other) == pytest.approx(value, rel=EXACT)
    problem = jn.bind(model, data, buckets=3).problem
    assert total(None, params, problem) == pytest.approx(value, rel=EXACT)


# --- carry-over: rows of one occasion depend on the effects of earlier ones ---


def superposition(phi, x, v):
    """Concentration of all doses so far: each is eliminated at the clearance of the occasion that it was given in."""
    dose = phi.on(v.dose)
    elapsed = x.t[:, None] - v.dose.time[None, :]
    given = (elapsed > 0) & v.dose.mask[None, :]
    decayed = jnp.exp(-(dose.cl / phi.v)[None, :] * jnp.where(given, elapsed, 0.0))
    return jnp.sum(jnp.where(given, v.dose.amount[None, :] / phi.v * decayed, 0.0), axis=1)


def carry_over_case() -> tuple[jn.NLMEModel, jn.GroupedData, pd.DataFrame, pd.DataFrame]:
    rng = np.random.default_rng(7)
    doses = pd.DataFrame(
        [(s, f"day {o}", 10.0 * o, 100.0 + 20 * s) for s in range(3) for o in range(2)],
        columns=["id", "occ", "time", "amount"],
    )
    rows = [(s, f"day {o}", 10.0 * o + t) for s in range(3) for o in range(2) for t in (1.0, 4.0, 8.0)]
    frame = pd.DataFrame(rows, columns=["id", "occ", "t"])
    frame["y"] = rng.normal(8.0, 2.0, len(frame))
    data = nested_data(frame).with_table("dose", doses, ["id", "occ"], ["time", "amount"])
    return nested_model(superposition), data, frame, doses


def carry_over_joint(frame, doses, z, a=0.6):
    """log p(y, z) of one subject, written out: z is the effect of the subject, then of its occasions."""
    cl = 1.6 * jnp.exp(0.3 * z[0] + 0.2 * z[1:])
    prediction = 0.0
    for k, (_, dose) in enumerate(doses.iterrows()):
        elapsed = frame["t"].to_numpy() - dose["time"]
        decayed = jnp.exp(-cl[k] / 8.0 * np.maximum(elapsed, 0))
        prediction = prediction + np.where(elapsed > 0, dose["amount"] / 8.0, 0.0) * decayed
    r = (frame["y"].to_numpy() - prediction) / a
    return -0.5 * (r @ r + z @ z) - len(frame) * np.log(a) - 0.5 * (len(frame) + len(z)) * np.log(2 * np.pi)


def test_carry_over_takes_the_dense_path():
    model, data, _, _ = carry_over_case()
    assert not jn.bind(model, data).density.levels.separable
    with pytest.raises(jn.OptionError, match="integrates the units of 'occ' one by one"):
        jn.log_likelihood(model, model.params(data), data, jn.AGQ(5))
    with pytest.raises(jn.OptionError, match="centre='moments' is for one level of random effects, and this model has"):
        jn.log_likelihood(model, model.params(data), data, jn.AGQ(5, centre="moments"))


@pytest.mark.parametrize("method", ["laplace", "focei"])
def test_carry_over_equals_an_independent_evaluation(method):
    from scipy.optimize import minimize

    model, data, frame, doses = carry_over_case()
    params = model.params(data, {"a": 0.6})
    values = group_values(model, params, data, method)
    for k in range(3):
        rows, given = frame[frame["id"] == k], doses[doses["id"] == k]

        def density(z, rows=rows, given=given):
            return carry_over_joint(rows, given, z)

        joint, slope, curvature = cheap(density), cheap(jax.grad(density)), cheap(jax.hessian(density))

        def minus(z, joint=joint, slope=slope):
            return -float(joint(z)), -np.asarray(slope(z))

        ends = []
        for start in (np.zeros(3), np.ones(3), -np.ones(3)):
            z = minimize(minus, start, jac=True, method="BFGS").x
            for _ in range(5):
                z = z - np.linalg.solve(np.asarray(curvature(z)), np.asarray(slope(z)))
            ends.append((float(joint(z)), z))
        best, mode = max(ends, key=lambda end: end[0])
        hessian = -np.asarray(curvature(mode))
        if method == "focei":  # J' J / a^2 + I, from the joint of responses that the prediction meets
            met = rows.assign(y=rows["y"] - residuals(rows, given, mode))
            hessian = -np.asarray(jax.hessian(lambda z, met=met, given=given: carry_over_joint(met, given, z))(mode))
        value = best + 1.5 * np.log(2 * np.pi) - 0.5 * np.linalg.slogdet(hessian)[1]
        assert values[k] == pytest.approx(value, abs=1e-8)


def residuals(frame, doses, z):
    """Responses minus predictions: minus the derivative of the joint density with a = 1 in the responses."""
    return -np.array([float(_slope_in_response(frame, doses, z, k)) for k in range(len(frame))])


def _slope_in_response(frame, doses, z, k):
    """The derivative of the joint density in response k, with a = 1, by the exact difference of a quadratic."""
    shift = np.zeros(len(frame))
    shift[k] = 0.5
    up, down = (carry_over_joint(frame.assign(y=frame["y"] + s * shift), doses, z, 1.0) for s in (1.0, -1.0))
    return up - down


def test_model_that_asks_for_parameters_of_occasions():
    """phi.on by name and back to the rows is the plain model, and separable."""

    def by_occasion(phi, x):
        return 100.0 / phi.v * jnp.exp(-(phi.on("occ").cl / phi.v)[x.units.occ] * x.t)

    data, plain = nested_data(), nested_model()
    model = nested_model(by_occasion)
    assert jn.bind(model, data).density.levels.separable
    value = total(model, model.params(data), data)
    assert value == pytest.approx(total(plain, plain.params(data), data), rel=EXACT)
