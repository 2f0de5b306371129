"""`fit.vpc`, `fit.npc` and their picture: simulations of the fit, limits, endpoints, categories and times to event."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.diagnostics.vpc.settings import VPC

matplotlib.use("Agg")
REPLICATES = 300  # one number, so that each fit compiles its simulation once


def line(phi, x):
    return phi.a + phi.b * x.t


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    """Straight lines of 40 groups with 4 rows, in an order of rows that is not that of the groups, and one row without
    a response."""
    rng = np.random.default_rng(1)
    g, t = np.repeat(np.arange(40), 4), np.tile(np.arange(4.0), 40)
    y = 2.0 + 0.8 * rng.normal(size=40)[g] + (1.0 + 0.3 * rng.normal(size=40)[g]) * t + 0.4 * rng.normal(size=160)
    table = pd.DataFrame({"id": g, "t": t, "y": y, "w": np.where(g < 20, "low", "high")})
    table.loc[7, "y"] = np.nan
    return table.sample(frac=1.0, random_state=3)


@pytest.fixture(scope="module")
def fit(frame: pd.DataFrame) -> jn.Fit:
    data = jn.GroupedData.from_frame(frame, "id", "y", "t", "w").with_axis_labels({"t": "Time (h)"})
    parameters = [jn.Parameter("a", 1.0, random=True), jn.Parameter("b", 0.5, random=True)]
    return jn.fit(jn.NLMEModel(line, parameters), data, "fo")


def test_it_is_the_check_of_simulated_tables(fit: jn.Fit, frame: pd.DataFrame, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where replicates are simulated block by block."""
    options: dict[str, Any] = {"stratify": "w", "percentiles": (10, 50, 90), "level": 0.9}
    check = fit.vpc(REPLICATES, prediction_corrected=True, lower=-10.0, seed=3, **options)
    population = np.asarray(fit.predict(level="population"))
    by_hand = jn.vpc(frame, fit.simulate(REPLICATES, 3), x="t", y="y", group="id", prediction_corrected=True,
                     prediction=population, lower=-10.0, **options)  # fmt: skip
    pd.testing.assert_frame_equal(check.simulated, by_hand.simulated)
    pd.testing.assert_frame_equal(check.observed, by_hand.observed)
    assert check.bins is not None and sorted(check.bins["observations"]) == [19] + 7 * [20]
    monkeypatch.setattr("jaxnlme.diagnostics.vpc.fit_rows.VPC", type(VPC)(cells_kept=0))
    by_block = fit.vpc(REPLICATES, prediction_corrected=True, lower=-10.0, seed=3, **options)
    pd.testing.assert_frame_equal(check.simulated, by_block.simulated, rtol=1e-12)
    pd.testing.assert_frame_equal(
        fit.npc(REPLICATES, seed=3).table, jn.npc(frame, fit.simulate(REPLICATES, 3), y="y").table
    )


def test_bands_are_those_of_a_simulation_by_hand(fit: jn.Fit) -> None:
    """The model written out in numpy, at the estimates, with other random numbers."""
    check = fit.vpc(REPLICATES, percentiles=(5, 50, 95))
    rng, draws = np.random.default_rng(11), 4000
    psi, sigma = fit.psi.to_numpy(), float(fit.estimates["estimate"].iloc[-1])
    a, b = fit.estimates["estimate"].iloc[:2]
    effects = rng.multivariate_normal([a, b], psi, size=(draws, 40))
    for k, t in enumerate((0.0, 1.0, 2.0, 3.0)):
        groups = 39 if t == 3.0 else 40  # the missing response of group 1
        y = effects[:, :groups, 0] + effects[:, :groups, 1] * t + sigma * rng.normal(size=(draws, groups))
        percentiles = np.quantile(y, [0.05, 0.5, 0.95], axis=1)
        band = check.simulated[check.simulated["bin"] == k + 1]
        spread = percentiles.std(axis=1)
        # Standard error of a median of 300 is 0.072 SD, of a 2.5% point about 0.15 SD; 4.5 of them.
        np.testing.assert_array_less(np.abs(band["median"] - np.median(percentiles, axis=1)), 0.33 * spread)
        for column, probability in (("low", 0.025), ("high", 0.975)):
            difference = np.abs(band[column] - np.quantile(percentiles, probability, axis=1))
            np.testing.assert_array_less(difference, 0.7 * spread)


def test_a_wrong_model_is_seen(fit: jn.Fit, frame: pd.DataFrame) -> None:
    """Observations with twice the slope leave the bands; those of the model do not."""
    simulated = fit.simulate(REPLICATES, 0)
    right, wrong = (
        jn.vpc(frame.assign(y=frame["y"] + more * frame["t"]), simulated, x="t", y="y") for more in (0.0, 1.0)
    )
    assert len(right.outside) <= 2 and len(wrong.outside) >= 6
    inside = 4 - int((right.outside["percentile"] == 50).sum())
    assert f"{inside} of 4" in str(right) and f"{inside} of 4" in right._repr_html_()


def test_pictures(fit: jn.Fit, frame: pd.DataFrame) -> None:
    import matplotlib.pyplot as plt

    check = fit.vpc(REPLICATES, stratify="w", percentiles=(5, 50, 95))
    panels = fit.plot.vpc(check)
    assert [ax.get_title() for ax in panels] == ["w high", "w low"] and panels[0].get_xlabel() == "Time (h)"
    observed = check.observed.query("w == 'low' and percentile == 50")
    lines = {line.get_label(): line.get_ydata() for line in panels[1].get_lines()}
    np.testing.assert_array_equal(lines["observed median"], observed["value"])
    limited = jn.vpc(frame, fit.simulate(REPLICATES, 0), x="t", y="y", lloq=2.0)
    figure, own = plt.subplots(1, 2)
    assert list(limited.plot(own, logy=True)) == list(own) and own[0].get_yscale() == "log"
    shares = next(line for line in own[1].get_lines() if "observed share" in str(line.get_label()))
    assert limited.below_limit is not None
    np.testing.assert_array_equal(shares.get_ydata(), limited.below_limit["share"])
    with pytest.raises(jn.OptionError, match="this picture has 2 panels, half of them"):
        limited.plot(figure.add_subplot())
    with pytest.raises(jn.OptionError, match="has been computed"):
        fit.plot.vpc(check, bins=3)
    plt.close("all")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"x": "time"}, "no column 'time'"),
        ({"x": "w"}, "x: column .w. holds text"),
        ({"x": [1.0]}, "x has 1 values and the data 160 rows"),
        ({"endpoint": "cp"}, "one residual model; leave it out"),
        ({"kind": "ordinal"}, "kind must be None, 'continuous'"),
        ({"event": "w"}, "event='w' is an option for times to event"),
        ({"kind": "survival", "bins": 3}, "bins=3 is an option for percentiles"),
        ({"kind": "survival"}, "need the column that is 1 for events"),
        ({"replicates": 0}, "replicates, the number of simulated data sets"),
        ({"seed": -1}, "seed, which the random numbers"),
        ({"bin": 3}, "no option 'bin'"),
    ],
)  # fmt: skip
def test_refusals(fit: jn.Fit, options: dict[str, Any], message: str) -> None:
    with pytest.raises((jn.OptionError, jn.DataError), match=message):
        fit.vpc(**options)


def test_limits_and_endpoints() -> None:
    """Limits by endpoint; each endpoint is a stratum with bins of its own."""
    rng = np.random.default_rng(5)
    g, t = np.repeat(np.arange(30), 6), np.tile([0.0, 1.0, 2.0, 0.5, 4.0, 6.0], 30)
    kind = np.tile(np.repeat(["pk", "pd"], 3), 30)
    y = np.where(kind == "pk", 5.0, 50.0) - t + rng.normal(size=30)[g] + 0.5 * rng.normal(size=180)
    table = pd.DataFrame({"id": g, "t": t, "kind": kind, "y": y})
    data = jn.GroupedData.from_frame(table, "id", "y", "t", endpoint="kind", lloq={"pk": 4.0})

    def two(phi, x):
        return jnp.where(x.endpoints == 0, phi.a, 45.0 + phi.a) + phi.b * x.t

    parameters = [jn.Parameter("a", 5.0, random=True), jn.Parameter("b", -1.0)]
    model = jn.NLMEModel(two, parameters, error={"pk": "constant", "pd": "constant"}, censoring="M3")
    fit = jn.fit(model, data, "laplace", standard_errors=False)
    check = fit.vpc(REPLICATES)
    assert check.strata == ("kind",) and check.bins is not None
    assert {kind: set(part["x"]) for kind, part in check.bins.groupby("kind")} == {"pk": {0, 1, 2}, "pd": {0.5, 4, 6}}
    assert check.below_limit is not None
    shares = check.below_limit.query("kind == 'pk'").set_index("x")["share"]
    assert shares[2.0] == pytest.approx(np.mean(y[(kind == "pk") & (t == 2.0)] < 4.0))
    drawn = fit.simulate(REPLICATES, 0)[:, (kind == "pk") & (t == 2.0)]
    share = check.below_limit.query("kind == 'pk'").set_index("x")["median"]
    assert share[2.0] == pytest.approx(np.median(np.mean(drawn < 4.0, axis=1)))
    one = fit.vpc(REPLICATES, endpoint="pd")
    assert not one.strata
    np.testing.assert_allclose(one.observed["value"], check.observed.query("kind == 'pd'")["value"])


def test_an_ordinal_outcome() -> None:
    """Categories under their own names; strata of a column that the formula lacks."""
    rng = np.random.default_rng(2)
    g, t = np.repeat(np.arange(40), 4), np.tile(np.arange(4.0), 40)
    score = 1 + (rng.normal(size=40)[g] + 0.5 * t + rng.logistic(size=160) > 0) + (rng.logistic(size=160) > 1)
    table = pd.DataFrame({"id": g, "t": t, "score": score, "arm": np.where(g % 2, "a", "b")})
    fit = jn.glmer("score ~ t + (1 | id)", table, family="ordinal")
    check = fit.vpc(REPLICATES, stratify={"arm": table["arm"]})
    assert check.kind == "categorical" and set(check.observed["category"]) == {1, 2, 3}
    seen = check.observed.query("arm == 'a' and x == 0 and category == 2")["share"].iloc[0]
    assert seen == pytest.approx(np.mean(score[(table["arm"] == "a") & (t == 0.0)] == 2))
    assert len(fit.plot.vpc(check)) == 6
    matplotlib.pyplot.close("all")


def rate(phi, x):
    return phi.rate + 0.0 * x.end


def density(y, f, p, x, v):
    return x.event * jnp.log(f) - f * y


def sampler(key, f, p, x, v):
    return jax.random.exponential(key, f.shape) / f


def test_times_to_event() -> None:
    """Times simulated from the fit are cut at the end of follow-up; the curve is Kaplan and Meier's."""
    rng = np.random.default_rng(4)
    time, end = rng.exponential(2.0, 80), np.where(np.arange(80) % 2, 3.0, 5.0)
    table = pd.DataFrame({"id": np.arange(80), "t": np.minimum(time, end), "event": (time <= end) * 1.0, "end": end})
    data = jn.GroupedData.from_frame(table, "id", "t", ["event", "end"])
    outcome = jn.GroupLogLikelihood(density, sampler=sampler, name="exponential")
    model = jn.NLMEModel(rate, [jn.Parameter("rate", 0.4, "log")], error=outcome)
    fit = jn.fit(model, data, "laplace")
    check = fit.vpc(REPLICATES, kind="survival", event="event", follow_up="end", times=[1.0, 2.0, 4.0], seed=1)
    drawn = np.asarray(fit.simulate(REPLICATES, 1))
    curves = [np.mean(drawn > t, axis=1) for t in (1.0, 2.0)]  # nobody is censored before 3
    np.testing.assert_allclose(check.simulated["median"][:2], np.median(curves, axis=1), rtol=1e-12)
    np.testing.assert_allclose(check.observed["survival"][:2], [np.mean(time > t) for t in (1.0, 2.0)], rtol=1e-12)
    late = jn.vpc_survival(table, pd.concat([pd.DataFrame({"id": np.arange(80), "t": np.minimum(draw, end),
                           "event": (draw <= end) * 1.0, "rep": k}) for k, draw in enumerate(drawn)]),
                           time="t", event="event", group="id", times=[1.0, 2.0, 4.0])  # fmt: skip
    pd.testing.assert_frame_equal(late.simulated, check.simulated)
    assert len(check.outside) == 0
