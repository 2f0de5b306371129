"""Residual correlations in any unit of time, at the bounds of their parameters, and from a function of the user."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.model.params import Params


def line(phi, x):
    return phi.b0 + phi.b1 * x.t


def irregular_table(unit: float) -> dict[str, np.ndarray]:
    """12 series of 10 irregular times with correlation exp(-lag / 2), times in units of `unit`."""
    rng = np.random.default_rng(11)
    t = np.cumsum(rng.exponential(1.0, (12, 10)), axis=1)
    noise = rng.normal(size=(12, 10))
    for j in range(1, 10):
        rho = np.exp(-(t[:, j] - t[:, j - 1]) / 2.0)
        noise[:, j] = rho * noise[:, j - 1] + np.sqrt(1.0 - rho**2) * noise[:, j]
    y = 3.0 + 0.5 * rng.normal(size=(12, 1)) + 0.2 * t + noise
    return {"g": np.repeat(np.arange(12), 10), "t": t.ravel() * unit, "y": y.ravel()}


def continuous_model(unit: float, **options: Any) -> jn.NLMEModel:
    parameters = [jn.Parameter("b0", 3.0, random=True), jn.Parameter("b1", 0.2 / unit)]
    correlation = jn.correlation.CAR1("t", **options.pop("correlation", {}))
    return jn.NLMEModel(line, parameters, error=jn.error.gaussian("constant", correlation), **options)


@pytest.mark.parametrize("unit", [1e-6, 1e9])
def test_continuous_autoregression_in_any_unit_of_time(unit: float, tmp_path: Path) -> None:
    """Where exp(-1 / range) is no number but 0 or 1, the range is reported, and nothing else changes."""
    tables = [jn.GroupedData.from_frame(irregular_table(u), "g", "y", "t") for u in (1.0, unit)]
    one, other = (jn.fit(continuous_model(u), data, "focei") for u, data in zip((1.0, unit), tables, strict=True))
    assert one.converged and other.converged, str(other.status)
    assert "rho" in one.values and "range" in other.values and "rho" not in other.values
    assert other.log_likelihood == pytest.approx(one.log_likelihood, abs=1e-7)
    assert np.exp(-unit / other.values["range"]) == pytest.approx(one.values["rho"], rel=1e-6)
    for limit in ("lower", "upper"):
        rho = np.exp(-unit / float(np.asarray(other.estimates.loc["range", limit])))
        assert rho == pytest.approx(one.estimates.loc["rho", limit], rel=1e-5)
    relative = other.estimates["se"] / other.estimates["estimate"].abs()
    expected = one.estimates["se"] / one.estimates["estimate"].abs()
    np.testing.assert_allclose(relative.iloc[:-1], expected.iloc[:-1], rtol=1e-5)
    assert "rho^lag with rho = exp(-1 / range) over t" in repr(other.summary())
    np.testing.assert_allclose(other.residuals("normalized"), one.residuals("normalized"), atol=1e-5)
    # Stored, updated and refitted from there.
    other.save(tmp_path / "fit.zip")
    again = jn.load(tmp_path / "fit.zip", model=continuous_model(unit))
    assert again.values == other.values
    updated = again.update(fixed=["range"])
    assert updated.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-7)
    assert updated.estimates.loc["range", "fixed"]


def test_a_correlation_that_is_held_or_has_a_prior_keeps_its_name() -> None:
    data = jn.GroupedData.from_frame(irregular_table(1e9), "g", "y", "t")
    held = continuous_model(1e9, fixed={"rho": 0.9999999995})
    prior = continuous_model(1e9, priors={"rho": jn.priors.Normal(0.9, 0.1)})
    started = continuous_model(1e9, correlation={"rho": jn.fixed(0.9999999995)})
    for model in (held, prior, started):
        assert jn.bind(model, data).density.error_names[-1] == "rho"
    # A starting value is that of the correlation at a distance of one.
    given = continuous_model(1e9, correlation={"rho": 0.999999999})
    assert jn.bind(given, data).values(jn.bind(given, data).start)["range"] == pytest.approx(1e9, rel=1e-6)
    with pytest.raises(jn.ModelError, match=r"known: .*'range'"):
        jn.fit(continuous_model(1e9), data, "focei", start={"rho": 0.9})


def test_a_correlation_that_underflows_is_a_number_to_start_from() -> None:
    """Independent residuals: rho goes to zero, and is reported as the smallest positive number."""
    rng = np.random.default_rng(2)
    table = {"g": np.repeat(np.arange(8), 6), "t": np.tile(np.arange(6.0) * 0.03, 8), "y": rng.normal(size=48)}
    data = jn.GroupedData.from_frame(table, "g", "y", "t")
    binding = jn.bind(continuous_model(1.0), data)
    params = binding.params({"rho": np.finfo(float).tiny})
    params = Params(params.beta, params.covariance, params.error - np.array([0.0, 30.0]))
    low = binding.values(params)["rho"]
    assert low > 0.0
    assert np.isfinite(binding.params({"rho": low}).error).all()


def series_data(y: np.ndarray) -> jn.GroupedData:
    n, obs = y.shape
    table = {"g": np.repeat(np.arange(n), obs), "t": np.tile(np.arange(float(obs)), n), "y": y.ravel()}
    return jn.GroupedData.from_frame(table, "g", "y", "t")


@pytest.mark.parametrize("sign, order, start", [(-1.0, (0, 1), 0.2), (-1.0, (0, 1), -0.9), (1.0, (1, 1), 0.2)])
def test_a_moving_average_at_its_bound_is_named(sign: float, order: tuple[int, int], start: float) -> None:
    """The likelihood of m and 1 / m is the same, so that its maximum at m = 1 is a result."""
    noise = np.random.default_rng(1).normal(size=(30, 9))
    data = series_data(noise[:, 1:] + sign * noise[:, :-1])
    error = jn.error.gaussian("constant", jn.correlation.ARMA(*order, "t", ma=[start]))
    fit = jn.fit(jn.NLMEModel(line, {"b0": 0.0, "b1": 0.0}, error=error), data, "focei")
    assert fit.converged, str(fit.status)
    assert f"moving average of the residuals is estimated at its bound (ma1 = {'-' if sign < 0 else ''}0.999" in str(
        fit.status
    )
    assert np.isnan(fit.estimates.loc["ma1", "se"]) and np.isfinite(fit.estimates.loc["b0", "se"])
    # No value off the bound is better.
    for value in (0.5, 0.9, 0.99):
        held = fit.binding.params({**fit.values, "ma1": sign * value})
        assert float(jn.log_likelihood(None, held, fit.binding.problem, "focei")) < fit.log_likelihood


def test_a_moving_average_inside_its_bound_is_not_said_to_be_there() -> None:
    noise = np.random.default_rng(4).normal(size=(60, 13))
    data = series_data(noise[:, 1:] - 0.7 * noise[:, :-1])
    error = jn.error.gaussian("constant", jn.correlation.ARMA(0, 1, "t", ma=[-0.9999]))
    fit = jn.fit(jn.NLMEModel(line, {"b0": 0.0, "b1": 0.0}, error=error), data, "focei").throw()
    assert fit.values["ma1"] == pytest.approx(-0.7, abs=3.0 * float(np.asarray(fit.estimates.loc["ma1", "se"])))
    assert "bound" not in str(fit.status)


def fails(s, t, length):
    raise RuntimeError("no such table")


def one_number_a_time(s, t, length):
    return jnp.ones((3,)) * length


def one_axis_more(s, t, length):
    return jnp.exp(-jnp.abs(s - t) / length)[..., None]


def returns_nothing(s, t, length):
    jnp.exp(-jnp.abs(s - t) / length)


def not_definite(s, t, length):
    return jnp.where(s == t, 1.0, -0.9 * length)


def not_symmetric(s, t, length):
    return jnp.where(s < t, 0.5, jnp.where(s > t, 0.2, 1.0)) * length


def not_finite(s, t, length):
    return jnp.where(s == t, 1.0, jnp.sqrt(s - t - 100.0) * length)


def too_large(s, t, length):
    return jnp.where(s == t, 1.0, 1.5 * length)


def of_complex_numbers(s, t, length):
    return jnp.exp(1j * (s - t) / length)


def without_length(s, t, length):
    return jnp.exp(-jnp.abs(s - t))


def decaying(s, t, length):
    return jnp.exp(-jnp.abs(s - t) / length)


KERNELS = {
    fails: r"the kernel 'fails' of jn\.correlation\.Kernel fails .* expected .* RuntimeError: no such table",
    one_number_a_time: r"'one_number_a_time' .* returns numbers of shape \(3,\) .* here \(5, 7\)",
    one_axis_more: r"'one_axis_more' .* returns numbers of shape \(5, 7, 1\)",
    returns_nothing: r"'returns_nothing' .* returns None",
    of_complex_numbers: r"'of_complex_numbers' .* returns complex numbers of shape \(5, 7\)",
    not_definite: r"'not_definite' .* no positive definite matrix for the times 0, 1 and 2 \(at length = 1\)",
    not_symmetric: r"'not_symmetric' .* symmetric, .* fn\(0, 1\) = 0\.5 and fn\(1, 0\) = 0\.2",
    not_finite: r"'not_finite' .* is not finite",
    too_large: r"'too_large' .* between -1 and 1; fn\(0, 1\) = 1\.5",
}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.__name__)
def test_a_kernel_that_is_no_correlation_is_named(kernel: Any) -> None:
    correlation = jn.correlation.Kernel(kernel, {"length": 1.0}, "t")
    model = jn.NLMEModel(line, {"b0": 0.0, "b1": 1.0}, error=jn.error.gaussian("constant", correlation))
    with pytest.raises(jn.OptionError, match=KERNELS[kernel]):
        jn.bind(model, series_data(np.arange(6.0).reshape(2, 3)))


def test_ties_of_a_kernel_are_named() -> None:
    table = {"g": [1, 1, 1, 2, 2], "t": [0.0, 1.0, 1.0, 0.0, 1.0], "y": [1.0, 2.0, 3.0, 2.0, 4.0]}
    data = jn.GroupedData.from_frame(table, "g", "y", "t")
    model = jn.NLMEModel(line, {"b0": 0.0, "b1": 1.0}, error=jn.error.gaussian(
        "constant", jn.correlation.Kernel(decaying, {"length": 1.0}, "t")))  # fmt: skip
    with pytest.raises(jn.OptionError, match=r"times 0, 1 and 1 .* two responses have the same time"):
        jn.bind(model, data)


def test_parameters_without_effect_on_residuals_are_named() -> None:
    data = series_data(np.random.default_rng(3).normal(size=(6, 4)))
    correlation = jn.correlation.Kernel(without_length, {"length": 2.0}, "t")
    unused = jn.error.custom(lambda f, a, b: a + 0.0 * f, {"a": 1.0, "b": 2.0})
    for error, message in (
        (jn.error.gaussian("constant", correlation), "no effect on the correlation of the residuals .*: length, "),
        (unused, "no effect on the residual standard deviation .*: b, declared by the residual model"),
    ):
        with pytest.raises(jn.ModelError, match=message):
            jn.fit(jn.NLMEModel(line, {"b0": 0.0, "b1": 0.0}, error=error), data, "focei")


def test_variance_functions_are_multiplied_only() -> None:
    power, strata = jn.variance.power("t"), jn.variance.strata("Sex")
    for wrong in (
        lambda: sum([power, strata]),  # pyright: ignore[reportArgumentType, reportCallIssue]
        lambda: power + strata,
        lambda: power - strata,
        lambda: power / strata,
        lambda: power**2,
        lambda: 1.0 + power,
        lambda: -power,
    ):
        with pytest.raises(jn.OptionError, match=r"variance functions are multiplied, as in .*constant_power\(\)"):
            wrong()
    for wrong in (lambda: power * 2.0, lambda: 2.0 * power):
        with pytest.raises(jn.OptionError, match=r"multiplied by another one only; received 2\.0"):
            wrong()
    assert math.prod([power, strata]) == power * strata


def test_labels_of_a_level_are_numbers_for_a_correlation() -> None:
    """AR(1) over occasions, one row each: the same as over a column of these numbers."""
    rng = np.random.default_rng(6)
    occasion = np.tile([1, 2, 4, 10], 5)
    table = {"g": np.repeat(np.arange(5), 4), "occasion": occasion, "t": occasion * 1.0, "y": rng.normal(size=20)}
    data = jn.GroupedData.from_frame(table, ["g", "occasion"], "y", ["t"])
    found = []
    for column in ("occasion", "t"):
        error = jn.error.gaussian("constant", jn.correlation.AR1(column))
        binding = jn.bind(jn.NLMEModel(line, {"b0": 0.1, "b1": 0.2}, error=error), data)
        found.append(jn.group_log_likelihoods(None, binding.params({"rho": 0.6}), binding.problem, "focei"))
    np.testing.assert_allclose(found[0], found[1], rtol=1e-12)
    strata = jn.error.gaussian(jn.variance.strata("occasion"))
    names = jn.bind(jn.NLMEModel(line, {"b0": 0.1, "b1": 0.2}, error=strata), data).density.error_names
    assert [name for name in names if name.startswith("ratio")] == [f"ratio[occasion={k}]" for k in (2, 4, 10)]
    text = jn.GroupedData.from_frame(table | {"occasion": [f"day {k}" for k in occasion]}, ["g", "occasion"], "y", "t")
    with pytest.raises(jn.ModelError, match="'occasion' of the residual correlation holds text"):
        jn.bind(jn.NLMEModel(line, {"b0": 0.1, "b1": 0.2}, error=jn.error.gaussian(
            "constant", jn.correlation.AR1("occasion"))), text)  # fmt: skip


def test_infinite_labels_are_refused() -> None:
    table = {"g": [1, 1, 2, 2], "occasion": [1.0, np.inf, 1.0, 2.0], "y": [1.0, 2.0, 3.0, 4.0]}
    with pytest.raises(jn.DataError, match="'occasion' has an infinite label in row 2"):
        jn.GroupedData.from_frame(table, ["g", "occasion"], "y")
    with pytest.raises(jn.DataError, match="'g' has an infinite label in rows 3 and 4"):
        jn.GroupedData.from_frame(table | {"g": [1.0, 1.0, -np.inf, -np.inf]}, "g", "y")
