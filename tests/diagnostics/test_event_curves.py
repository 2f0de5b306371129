"""Fits of data with dose records: predictions of new tables, curves between the records, files."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.diagnostics.curves import prediction_curves


def one_compartment(phi, x, v):
    """First-order absorption, doses added up; a dose counts from its record on, and no longer after a reset."""
    e, ke = v.events, phi.cl / phi.vol
    since = x.TIME[:, None] - e.time[None, :]
    row = jnp.arange(x.TIME.shape[0])[:, None]
    later = e.rows_before[None, :] <= row
    segment = jnp.sum(jnp.where(later, (e.reset * e.mask)[None, :], 0.0), axis=1)
    acts = e.mask[None, :] & (since >= 0) & later & (e.segment[None, :] == segment[:, None])
    t = jnp.where(acts, since, 0.0)
    one = phi.ka / (phi.vol * (phi.ka - ke)) * (jnp.exp(-ke * t) - jnp.exp(-phi.ka * t))
    return jnp.sum(jnp.where(acts, e.amount[None, :] * one, 0.0), axis=1)


def records() -> pd.DataFrame:
    """Theophylline, with a second day: a further dose and samples made by the model at typical values."""
    frame = jn.datasets.theophylline_records()
    second = frame[frame["TIME"].isin([0.0]) | frame["TIME"].between(3, 10)]
    second = second[(second["EVID"] == 1) | (second["TIME"] > 0)].assign(TIME=second["TIME"] + 48)
    both = pd.concat([frame, second]).sort_values(["ID", "TIME"], kind="stable", ignore_index=True)
    return both


@pytest.fixture(scope="module")
def fit() -> jn.Fit:
    model = jn.NLMEModel(
        one_compartment,
        [
            jn.Parameter("ka", 1.5, transform="log", random=True),
            jn.Parameter("cl", 2.8, transform="log", random=True),
            jn.Parameter("vol", 32.0, transform="log"),
        ],
        error="combined",
    )
    fit = jn.fit(model, jn.GroupedData.from_nonmem(records(), []), "focei")
    assert fit.converged
    return fit


def typical(fit: jn.Fit) -> dict[str, float]:
    return {name: float(np.exp(fit.estimates["estimate"][name])) for name in ("ka", "cl", "vol")}


def closed_form(t: np.ndarray, doses: list[tuple[float, float]], p: dict[str, float]) -> np.ndarray:
    ke, out = p["cl"] / p["vol"], np.zeros(len(t))
    for time, amount in doses:
        s = np.maximum(t - time, 0)
        out += amount * p["ka"] / (p["vol"] * (p["ka"] - ke)) * (np.exp(-ke * s) - np.exp(-p["ka"] * s))
    return out


def test_new_tables_are_read_as_the_fitted_one(fit: jn.Fit):
    """Population predictions of another regimen, from a frame, with ADDL; row labels are those of the frame."""
    new = pd.DataFrame(
        {"id": ["x"] * 4, "time": [0.0, 5, 20, 30], "amt": [200.0, 0, 0, 0], "addl": [1, 0, 0, 0], "ii": [12, 0, 0, 0]},
        index=[10, 11, 12, 13],
    )  # fmt: skip
    prediction = fit.predict(new, level="population")
    assert prediction.index.tolist() == [11, 12, 13]
    expected = closed_form(np.array([5.0, 20, 30]), [(0, 200), (12, 200)], typical(fit))
    np.testing.assert_allclose(prediction, expected, rtol=1e-10)
    with pytest.raises(jn.DataError, match="no column 'AMT', and the fitted data have doses"):
        fit.predict(pd.DataFrame({"ID": [1, 1], "TIME": [0, 1]}))
    with pytest.raises(jn.DataError, match="ADDL is 2 in row 1 without an interval II"):
        fit.predict(pd.DataFrame({"ID": [1, 1], "TIME": [0, 1], "AMT": [9, 0], "ADDL": [2, 0]}))


def test_known_subjects_keep_their_effects(fit: jn.Fit):
    """Individual predictions of the fitted records as a new table, and of a subject of the fit with another dose."""
    fitted = fit.predict()
    np.testing.assert_allclose(fit.predict(records()), fitted, rtol=1e-12)
    np.testing.assert_allclose(fit.predict(fit.data.to_nonmem()), fitted, rtol=1e-12)
    effects = fit.random_effects.loc[3]
    p = typical(fit)
    p = {name: value * np.exp(effects.get(name, 0.0)) for name, value in p.items()}
    new = {"ID": [3, 3, 3], "TIME": [0.0, 1, 7], "AMT": [50.0, 0, 0]}
    np.testing.assert_allclose(fit.predict(new), closed_form(np.array([1.0, 7]), [(0, 50)], p), rtol=1e-9)


def test_grid_is_the_closed_form(fit: jn.Fit):
    """Predictions on the grid show peak, decline and the jump in slope at the second dose."""
    grid = fit.data.grid(60, until=80, groups=[4])
    amounts = fit.data.events.columns["AMT"][fit.data.events.group == 4]
    t = grid.x["TIME"][0][grid.rows[0]]
    got = np.asarray(fit.predict(grid, level="population"))
    np.testing.assert_allclose(
        got, closed_form(t, [(0, amounts[0]), (48, amounts[1])], typical(fit)), rtol=1e-9, atol=1e-12
    )
    assert t.max() == 80
    inner = (got[1:-1] >= got[:-2]) & (got[1:-1] > got[2:])
    peaks = t[1:-1][inner]
    assert len(peaks) == 2 and (np.abs(peaks - [2, 50]) < 1.5).all(), "a peak after each dose"
    assert got[t <= 48][-1] < 0.2 * got.max()


def test_curves_go_between_the_records(fit: jn.Fit):
    """The pictures' curves have the grid, agree with the predictions at the rows, and show no dose records."""
    curves = prediction_curves(fit, [0, 4], "TIME", points=40)
    assert not curves.attrs.get("rows_only") and len(curves) > 100
    at_rows = fit.data.to_frame()
    at_rows["prediction"] = np.asarray(fit.predict())
    for label in (1, 5):
        curve, rows = curves[curves["ID"] == label], at_rows[at_rows["ID"] == label]
        found = curve.set_index("TIME")["individual prediction"].groupby(level=0).last()
        np.testing.assert_allclose(found[rows["TIME"]], rows["prediction"], rtol=1e-10)
        assert (curve["TIME"] <= rows["TIME"].max()).all()
    # The trough before the second dose is on the curve, far from any sample.
    of_first = curves[curves["ID"] == 1]
    trough = of_first[(of_first["TIME"] < 48) & (of_first["TIME"] > 47.9)]
    assert len(trough) and trough["individual prediction"].iloc[-1] < 1.5
    only = prediction_curves(fit, [0], "CMT", points=40)
    assert only.attrs["rows_only"] is False and len(only) == fit.data.sizes[0]


def test_a_reset_interrupts_the_curve(fit: jn.Fit):
    """With a reset and time from zero the curve has a gap, and begins anew."""
    frame = records()
    later = frame["TIME"] >= 48
    frame.loc[later & (frame["EVID"] == 1), "EVID"] = 4
    frame.loc[later, "TIME"] -= 48
    model = fit.model
    other = jn.fit(model, jn.GroupedData.from_nonmem(frame, []), "focei")
    curve = prediction_curves(other, [0], "TIME", points=40)
    gaps = np.flatnonzero(curve["individual prediction"].isna())
    assert len(gaps) == 1
    part = curve.iloc[: gaps[0]], curve.iloc[gaps[0] + 1 :]
    assert all((np.diff(piece["TIME"]) >= 0).all() for piece in part)
    assert part[1]["TIME"].iloc[0] == 0 and part[1]["individual prediction"].iloc[0] == 0
    axes = other.plot.individual_fits([1])
    assert len(axes) == 1


def test_files_keep_records_and_reader(fit: jn.Fit, tmp_path: Path):
    """A saved fit reads new tables as the fitted one was read, without running its code for the data."""
    fit.save(tmp_path / "fit.zip")
    stored = jn.load(tmp_path / "fit.zip")
    assert repr(stored.data.events) == repr(fit.data.events) and stored.data.fingerprint() == fit.data.fingerprint()
    loaded = jn.load(tmp_path / "fit.zip", trust_code=True)
    new = {"ID": [3, 3, 3], "TIME": [0.0, 1, 7], "AMT": [50.0, 0, 0]}
    np.testing.assert_allclose(loaded.predict(new), fit.predict(new), rtol=1e-12)


def test_tables_beside_from_frame_are_refused(fit: jn.Fit):
    """Data of from_frame with doses have no way to read doses from a frame: the error says what to pass."""
    frame = fit.data.to_frame()
    doses = fit.data.events.to_frame()
    data = jn.GroupedData.from_frame(frame, "ID", "DV", ["TIME"]).with_events(doses, "ID", "TIME", "AMT")
    other = jn.fit(fit.model, data, "focei", max_iterations=1)
    with pytest.raises(jn.DataError, match=r"further tables \(events\).*with_events\(\.\.\.\)"):
        other.predict(frame)
    np.testing.assert_allclose(other.predict(data, level="population"), other.predict(level="population"))


def declining(phi, x, v):
    """Bolus doses with a clearance that may differ from record to record (the later record's value holds before it):
    dose records are rows, so the amount goes from row to row."""
    e = v.events
    given = (
        jnp.zeros(x.TIME.shape).at[jnp.where(e.row >= 0, e.row, 0).astype(int)].add(jnp.where(e.mask, e.amount, 0.0))
    )
    gap = jnp.diff(x.TIME, prepend=x.TIME[:1])
    decay = jnp.exp(-jnp.broadcast_to(phi.cl / phi.vol, gap.shape) * gap)

    def step(amount, row):
        amount = amount * row[0] + row[1]
        return amount, amount

    return jax.lax.scan(step, 0.0 * phi.vol, (decay, given))[1] / phi.vol


def occasions() -> pd.DataFrame:
    """Two occasions of six subjects, renal function changing between the records."""
    rng = np.random.default_rng(3)
    hours, rows = np.array([0.0, 2, 6, 12, 24]), []
    for subject in range(1, 7):
        amount, base = 0.0, 80 + 10 * rng.standard_normal()
        for occasion in (1, 2):
            crcl = base + 15 * rng.standard_normal(5)
            for k, hour in enumerate(hours):
                time = hour + 30 * (occasion - 1)
                gap = 0.0 if k == 0 and occasion == 1 else (6.0 if k == 0 else hour - hours[k - 1])
                amount = amount * np.exp(-0.1 * crcl[k] / 80 * gap) + (100.0 if k == 0 else 0)
                y = np.nan if k == 0 else amount / 20 * np.exp(0.05 * rng.standard_normal())
                rows.append((subject, occasion, time, 100.0 if k == 0 else 0.0, y, crcl[k]))
    return pd.DataFrame(rows, columns=["ID", "OCC", "TIME", "AMT", "DV", "CRCL"])


def test_parameters_that_change_between_records():
    """With occasions and a varying covariate the grid keeps the predictions at the rows, and a table to predict may
    lack the occasions that are not used."""
    data = jn.GroupedData.from_nonmem(occasions(), occasion="OCC")
    assert data.events is not None and data.events.facts.rows_are_records
    model = jn.NLMEModel(
        declining,
        [
            jn.Parameter("cl", 2.0, transform="log", random=["ID", "OCC"], covariates=["log(CRCL/80)"]),
            jn.Parameter("vol", 20.0, transform="log"),
        ],
        error="proportional",
    )
    fit = jn.fit(model, data, "focei", max_iterations=5)
    curves = prediction_curves(fit, [0, 1], "TIME", points=40)
    assert not curves.attrs.get("rows_only") and len(curves) > 130
    of_first = curves[curves["ID"] == 1]
    before, after = of_first["TIME"] < 30, of_first["TIME"] == 30
    before, after = (of_first.loc[mask, "population prediction"] for mask in (before, after))
    assert after.max() > before.iloc[-1] + 4.9, "the second dose is a jump of 5"
    rows = fit.predict(level="population")
    assert len(rows) == 60 and len(prediction_curves(fit, [0], "TIME", points=0)) == 8, "dose records are not drawn"
    without = occasions().drop(columns=["OCC", "DV"])
    np.testing.assert_allclose(fit.predict(without, level="population"), rows, rtol=1e-12)
    with pytest.raises(jn.DataError, match="the new data lack 'CRCL'"):
        fit.predict(without.drop(columns="CRCL"), level="population")
