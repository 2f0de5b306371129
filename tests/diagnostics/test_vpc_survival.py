"""Visual predictive checks of times to event: the R package vpc, and the definitions."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn

# vpc 1.2.2: repeated events of 200 subjects, 100 replicates, intervals of 90%, curves by unit of time.
EXAMPLE: dict[str, Any] = {"time": "t", "event": "dv", "group": "id", "level": 0.9, "times": np.arange(101)}
BANDS = (("low", "qmin"), ("median", "qmed"), ("high", "qmax"))


@functools.cache
def example(reference: Path) -> tuple[pd.DataFrame, pd.DataFrame, dict[str, Any]]:
    folder = reference / "diagnostics" / "vpc"
    if not folder.is_dir():
        pytest.skip(f"{folder} is missing")
    observed = pd.read_csv(folder / "rtte_obs.csv")
    simulated = pd.read_csv(folder / "rtte_sim_events_and_last.csv.gz")
    return observed, simulated, json.loads((folder / "tte_results.json").read_text())


def of_package(tables: dict[str, Any], which: str, event: int | None = None) -> pd.DataFrame:
    frame = pd.DataFrame(tables[which])
    frame = frame if event is None else frame[frame["rtte"] == event]
    return frame[frame["bin_max"].notna()] if which == "simulated_km" else frame


def test_first_events(reference: Path) -> None:
    """A bin of the package's is (t - 1, t], with the curve at t."""
    observed, simulated, tables = example(reference)
    check = jn.vpc_survival(observed, simulated, **EXAMPLE)
    theirs = of_package(tables["tte_first"], "observed_km")
    np.testing.assert_allclose(
        check.observed.set_index("time")["survival"].loc[theirs["time"]], theirs["surv"], atol=1e-10
    )
    bands = of_package(tables["tte_first"], "simulated_km")
    for ours, name in BANDS:
        np.testing.assert_allclose(check.simulated[ours][1:], bands[name].astype(float), atol=1e-10)


def test_repeated_events(reference: Path) -> None:
    """Times from the event before, a curve for each number of the event."""
    observed, simulated, tables = example(reference)
    check = jn.vpc_survival(observed, simulated, repeated=True, **EXAMPLE)
    for event in range(1, 10):
        theirs = of_package(tables["tte_repeated"], "observed_km", event)
        seen = check.observed.query("event == @event").set_index("time")["survival"]
        np.testing.assert_allclose(seen.loc[theirs["time"]], theirs["surv"], atol=1e-10)
        bands = of_package(tables["tte_repeated"], "simulated_km", event)
        drawn = check.simulated.query("event == @event and time > 0")
        for ours, name in BANDS:
            np.testing.assert_allclose(drawn[ours], bands[name].astype(float), atol=1e-10)


def test_mean_covariate_of_those_at_risk(reference: Path) -> None:
    """The observed curve is the package's. Between events the package carries the mean of the last event on, with the
    subject who had that event and is no longer at risk; ours is the mean of those at risk at each time."""
    observed, simulated, tables = example(reference)
    check = jn.vpc_survival(observed, simulated, covariate="sex", **EXAMPLE)
    theirs = of_package(tables["tte_first_kmmc_sex"], "observed_km")
    np.testing.assert_allclose(check.observed.set_index("time")["mean"].loc[theirs["time"]], theirs["surv"], atol=1e-10)
    grid = np.arange(1, 101)
    first = simulated.drop_duplicates(["sim", "id"]).sort_values(["sim", "id"])
    time, sex = (first[name].to_numpy().reshape(100, -1) for name in ("t", "sex"))
    at_risk = time[:, None, :] >= grid[:, None]  # (replicates, times, subjects)
    exact = (at_risk * sex[:, None, :]).sum(axis=2) / at_risk.sum(axis=2)
    has_event = (time[:, None, :] == grid[:, None]).any(axis=2)
    carried = pd.DataFrame(np.where(has_event, exact, np.nan)).ffill(axis=1).to_numpy()
    bands = of_package(tables["tte_first_kmmc_sex"], "simulated_km")
    for probability, (ours, name) in zip((0.05, 0.5, 0.95), BANDS, strict=True):
        np.testing.assert_allclose(check.simulated[ours][1:], np.quantile(exact, probability, axis=0), atol=1e-10)
        np.testing.assert_allclose(np.nanquantile(carried, probability, axis=0), bands[name].astype(float), atol=1e-10)
    assert np.nanmax(np.abs(exact - carried)) > 1e-3


def table() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Times to event of 60 subjects in two arms with an end at 5, and 40 replicates."""
    random = np.random.default_rng(3)
    arm = np.arange(60) % 2

    def of(replicate: int) -> pd.DataFrame:
        time = random.exponential(np.where(arm == 1, 4.0, 2.0))
        event = (time <= 5.0).astype(int)
        return pd.DataFrame(
            {"id": np.arange(60), "arm": arm, "t": np.minimum(time, 5.0), "event": event, "rep": replicate}
        )

    return of(0), pd.concat([of(k) for k in range(40)])


def test_kaplan_meier_in_strata() -> None:
    observed, simulated = table()
    check = jn.vpc_survival(
        observed.assign(event=observed["event"] == 1), simulated, time="t", event="event", group="id", stratify="arm",
        times=[1.0, 4.0],
    )  # fmt: skip
    rows = observed[observed["arm"] == 1].sort_values("t")
    survival, at_risk = 1.0, len(rows)
    for time, event in zip(rows["t"], rows["event"], strict=True):
        if time <= 4.0:
            survival *= 1.0 - event / at_risk
            at_risk -= 1
    last = check.observed.query("arm == 1 and time == 4").iloc[0]
    assert last["survival"] == pytest.approx(survival, rel=1e-12)
    assert (last["at_risk"], last["events"]) == (at_risk, int((rows["t"] <= 4.0).sum()))
    assert list(dict.fromkeys(check.observed["arm"])) == [0, 1]
    assert check.observed.query("arm == 0 and time == 4").iloc[0]["survival"] < last["survival"]
    inside = (check.simulated["low"] <= check.simulated["median"]) & (
        check.simulated["median"] <= check.simulated["high"]
    )
    assert inside.all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"event": "arm2"}, "no column 'arm2'"),
        ({"observed": {"event": 2}}, "holds 2 in rows 1"),
        ({"observed": {"t": -1.0}}, "missing or negative in rows 1"),
        ({"simulated": {"arm": 7}, "stratify": "arm"}, "a stratum that is not observed"),
        ({"times": ["late"]}, "times must be finite numbers"),
        ({"replicate": "run"}, "no column 'run'"),
        ({"covariate": "t2"}, "no column 't2'"),
    ],
)  # fmt: skip
def test_refusals(changes: dict[str, Any], message: str) -> None:
    observed, simulated = table()
    observed, simulated = (
        observed.assign(**changes.pop("observed", {})),
        simulated.assign(**changes.pop("simulated", {})),
    )
    options = {"time": "t", "event": "event", "group": "id"} | changes
    with pytest.raises((jn.OptionError, jn.DataError), match=message):
        jn.vpc_survival(observed, simulated, **options)


def test_a_table_without_replicates_is_refused() -> None:
    observed, simulated = table()
    with pytest.raises(jn.DataError, match="no column of replicates"):
        jn.vpc_survival(observed, simulated.drop(columns="rep"), time="t", event="event", group="id")
