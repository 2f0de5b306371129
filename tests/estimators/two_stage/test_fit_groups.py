"""Fits of single groups: R's nlsList, closed forms, other residual models, groups that cannot be fitted."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize
from scipy.stats import t

import jaxnlme as jn
from jaxnlme.estimators.two_stage.population import two_stage
from jaxnlme.estimators.two_stage.summary import overlap
from jaxnlme.numerics.levenberg_marquardt import levenberg_marquardt
from tests.estimators import catalogue

R_FITS = {
    "Orange_logis": {"Asym": 190.0, "xmid": 700.0, "scal": 350.0},
    "Theoph_ssfol": {"lKe": -2.4, "lKa": 0.45, "lCl": -3.2},
    "Indometh_biexp": {"A1": 2.8, "lrc1": 0.8, "A2": 0.5, "lrc2": -1.5},
    "CO2_asympOff": {"Asym": 30.0, "lrc": -4.6, "c0": 50.0},
    "DNase_logis": {"Asym": 2.3, "xmid": 1.5, "scal": 1.0},
    "ChickWeight_logis": {"Asym": 300.0, "xmid": 15.0, "scal": 7.0},
}


def from_r(name: str) -> tuple[jn.NLMEModel, jn.GroupedData]:
    dataset, function = name.split("_")
    parameters = [jn.Parameter(n, value, random=True) for n, value in R_FITS[name].items()]
    return jn.NLMEModel(catalogue.FUNCTIONS[function], parameters), catalogue.data(dataset)


@pytest.mark.parametrize("name", R_FITS)
def test_nlslist(name: str, reference) -> None:
    """R stops at a relative offset of 1e-5, so its estimates are within about 1e-5 sqrt(p) standard errors; its pooled
    SD then agrees to the square of that. The same groups fail (three chicks, ChickWeight)."""
    expected = catalogue.record(reference, f"{name}_nlsList")
    fits = jn.fit_groups(*from_r(name))
    coefficients = dict(expected["coef_per_group"])
    labels = coefficients.pop("groups")
    of_r = pd.DataFrame(coefficients, index=labels, dtype=float)
    ours = fits.estimates.set_axis([str(label) for label in fits.estimates.index]).loc[labels]
    se = fits.standard_errors.to_numpy()[[list(map(str, fits.estimates.index)).index(label) for label in labels]]
    np.testing.assert_array_equal(np.isnan(ours), np.isnan(of_r))
    assert np.nanmax(np.abs((ours - of_r).to_numpy()) / se) < 1e-4
    assert fits.pooled_sigma == pytest.approx(expected["pooled_sigma"], rel=1e-8)
    assert fits.status["df"].sum() == expected["pooled_df"]
    failed = fits.status.index[fits.status["status"] != "ok"]
    assert sorted(map(str, failed)) == sorted(map(str, expected["failed_groups"]))
    assert fits.start()["a"] == pytest.approx(fits.pooled_sigma)


def lines(seed: int = 0, groups: int = 8, spread: float = 1.0) -> pd.DataFrame:
    """Straight lines: groups of 5 to 8 rows, a column `c` that varies within groups, a group-level `w`."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rng.integers(5, 9, groups))
    time, c = rng.uniform(0.0, 4.0, len(group)), rng.normal(size=len(group))
    w = rng.normal(size=groups)[group]
    mu = 3.0 + w + spread * rng.normal(size=groups)[group]
    y = mu + (1.0 + 0.1 * spread * rng.normal(size=groups)[group]) * time + 0.5 * c + 0.3 * rng.normal(size=len(group))
    return pd.DataFrame({"g": group, "t": time, "c": c, "w": w, "y": y})


def grouped(frame: pd.DataFrame) -> jn.GroupedData:
    return jn.GroupedData.from_frame(frame, "g", "y", ["t", "c"], "w")


def line_model(**mu: object) -> jn.NLMEModel:
    return jn.NLMEModel(catalogue.line, [jn.Parameter("mu", 1.0, random=True, **mu), jn.Parameter("slope", 0.5)])


def least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    beta, square, _, _ = np.linalg.lstsq(x, y, rcond=None)
    sd = float(np.sqrt(square[0] / (len(y) - x.shape[1])))
    return beta, sd * np.sqrt(np.diag(np.linalg.inv(x.T @ x))), sd


def test_straight_lines_are_least_squares() -> None:
    """Linear models have a closed form; a group-level covariate is part of the group's parameter, the coefficient
    of one that varies within groups is a parameter of each group."""
    frame = lines()
    data = grouped(frame)
    fits = jn.fit_groups(line_model(covariates=["w", "c"]), data)
    assert list(fits.estimates.columns) == ["mu", "slope", "mu ~ c"]
    half, wide = fits.intervals(0.5), fits.intervals(0.9, pooled=True)
    df = 0
    for label, rows in frame.groupby("g"):
        x = np.stack([np.ones(len(rows)), rows["t"], rows["c"]], axis=1)
        beta, se, sd = least_squares(x, rows["y"].to_numpy())
        np.testing.assert_allclose(fits.estimates.loc[label], beta, rtol=1e-8)
        np.testing.assert_allclose(fits.standard_errors.loc[label], se, rtol=1e-8)
        assert fits.sigma[label] == pytest.approx(sd, rel=1e-8)
        np.testing.assert_allclose(half.loc[label]["upper"], beta + t.ppf(0.75, len(rows) - 3) * se, rtol=1e-8)
        df += len(rows) - 3
        wide.loc[(label, slice(None)), "expected"] = t.ppf(0.95, len(frame) - 3 * 8) * se / sd * fits.pooled_sigma
    np.testing.assert_allclose(wide["upper"] - wide["estimate"], wide["expected"], rtol=1e-8)
    assert fits.pooled_sigma == pytest.approx(np.sqrt(np.sum(fits.sigma**2 * fits.status["df"]) / df))
    assert fits.sigma.name == "a"
    start = fits.start()
    assert set(start) == {"mu", "slope", "mu ~ w", "mu ~ c", "sd(mu)", "a"}
    assert start["mu ~ w"] == pytest.approx(1.0, abs=1.0)  # eight groups with SD 1 around the line
    assert start["mu ~ c"] == pytest.approx(0.5, abs=0.15)


def rooted(phi, x):
    """NaN with slopes of its own where x.c is far below zero."""
    return phi.mu + phi.slope * x.t + jnp.sqrt(x.c)


def test_a_group_that_cannot_be_fitted_does_not_affect_the_others() -> None:
    frame = lines()
    frame["c"] = 0.0
    clean = jn.fit_groups(jn.NLMEModel(rooted, [*line_model().parameters]), grouped(frame))
    bad = frame.copy()
    bad.loc[bad.g == 1, "t"] = 2.0  # slope and level cannot be distinguished
    bad.loc[bad.g == 3, "c"] = -1.0  # not finite
    bad.loc[bad.index[bad.g == 5][2:], "y"] = np.nan  # two rows
    bad.loc[bad.g == 6, "y"] = np.nan
    fits = jn.fit_groups(jn.NLMEModel(rooted, [*line_model().parameters]), grouped(bad))
    assert fits.status["status"].to_dict() == {
        0: "ok", 1: "singular", 2: "ok", 3: "non_finite", 4: "ok", 5: "too_few_rows", 6: "no_observations", 7: "ok"
    }  # fmt: skip
    good = [0, 2, 4, 7]
    np.testing.assert_allclose(fits.estimates.loc[good], clean.estimates.loc[good], rtol=1e-9)
    assert fits.estimates.drop(good).isna().all(axis=None)
    assert fits.standard_errors.drop(good).isna().all(axis=None)
    sentences = fits.status["sentence"]
    assert "-0.71 mu +0.71 slope" in sentences[1] or "+0.71 mu -0.71 slope" in sentences[1]
    assert "2 observations are too few for 2 parameters and a residual SD" in sentences[5]
    text = str(fits)
    assert text.startswith("4 of 8 groups were fitted")
    assert "Not fitted: group 3. The model is not finite" in text
    assert "<table" in fits._repr_html_() and "singular" in fits._repr_html_()
    assert max(map(len, text.splitlines())) < 100
    few = jn.fit_groups(jn.NLMEModel(rooted, [*line_model().parameters]), grouped(bad), max_steps=1)
    assert few.status["status"][0] == "not_converged"
    assert "raise max_steps" in few.status["sentence"][0]
    with pytest.raises(jn.FitError, match="two fitted groups"):
        few.start()
    assert "cannot be assessed" in str(few.summary())


def curve(rng: np.random.Generator, b: float) -> pd.DataFrame:
    group, time = np.repeat(np.arange(6), 12), np.tile(np.linspace(0.1, 4.0, 12), 6)
    f = 10.0 * np.exp(0.3 * rng.normal(size=6))[group] * np.exp(-time * np.exp(0.2 * rng.normal(size=6))[group]) + 1.0
    return pd.DataFrame({"g": group, "t": time, "c": 0.0, "w": 0.0, "y": f + (0.05 + b * f) * rng.normal(size=len(f))})


def decline(phi, x):
    """An exponential decline to one."""
    return phi.mu * jnp.exp(-phi.slope * x.t) + 1.0


DECLINE = [jn.Parameter("mu", 8.0, "log", random=True), jn.Parameter("slope", 0.8, "log", random=True)]


def test_a_proportional_error_is_the_maximum_of_each_likelihood() -> None:
    """Every group against a simplex search of its likelihood with its own b; rtol: where such a search ends."""
    frame = curve(np.random.default_rng(3), 0.1)
    fits = jn.fit_groups(jn.NLMEModel(decline, DECLINE, error="proportional"), grouped(frame))
    assert fits.sigma.name == "b"
    for label, rows in frame.groupby("g"):

        def loss(p, rows=rows):
            f = np.exp(p[0] - np.exp(p[1]) * rows.t) + 1.0
            return np.sum(np.log(np.exp(p[2]) * f) + 0.5 * ((rows.y - f) / (np.exp(p[2]) * f)) ** 2)

        options = {"xatol": 1e-9, "fatol": 1e-12, "maxiter": 4000, "maxfev": 4000}
        end = minimize(loss, [2.3, 0.0, -2.0], method="Nelder-Mead", options=options)
        np.testing.assert_allclose(fits.estimates.loc[label], end.x[:2], rtol=1e-5, atol=1e-6)
        assert fits.sigma[label] * np.sqrt(10 / 12) == pytest.approx(np.exp(end.x[2]), rel=1e-5)
    np.testing.assert_allclose(fits.values, np.exp(fits.estimates))


def test_groups_share_the_shape_of_a_residual_model() -> None:
    """The two parts of a combined error: the groups' estimates maximise their likelihoods at the common parts (with a
    factor of each group), the common parts maximise the pooled pseudo-likelihood there. Checked against numpy at the
    end."""
    frame = curve(np.random.default_rng(3), 0.1)
    fits = jn.fit_groups(jn.NLMEModel(decline, DECLINE, error="combined"), grouped(frame))
    assert fits.usable.all()
    start = fits.start()
    a, b = start["a"], start["b"]
    assert 0.06 < b < 0.14  # simulated: 0.1, 72 rows
    assert fits.sigma.between(0.3, 2.0).all() and fits.pooled_sigma == pytest.approx(1.0, abs=0.02)
    f = [np.exp(p.mu - np.exp(p.slope) * frame.t[frame.g == label]) + 1.0 for label, p in fits.estimates.iterrows()]
    r = frame.y - np.concatenate(f)

    def pooled(log_parts):
        scale = np.exp(log_parts[0]) + np.exp(log_parts[1]) * np.concatenate(f)
        return np.sum(np.log(scale) + 0.5 * 72 / 60 * (r / scale) ** 2)

    slopes = [(pooled(np.log([a, b]) + h) - pooled(np.log([a, b]) - h)) / 2e-4 for h in 1e-4 * np.eye(2)]
    assert np.abs(slopes).max() < 1e-2  # log-likelihood units a factor e: the alternation ends near, not at, its end
    for label, rows in frame.groupby("g"):

        def profiled(p, rows=rows):
            f = np.exp(p[0] - np.exp(p[1]) * rows.t) + 1.0
            return 6.0 * np.log(np.sum(((rows.y - f) / (a + b * f)) ** 2)) + np.sum(np.log(a + b * f))

        at = fits.estimates.loc[label].to_numpy()
        slope = [(profiled(at + h) - profiled(at - h)) / 2e-5 for h in 1e-5 * np.eye(2)]
        assert np.abs(slope).max() < 1e-3


def test_counts_have_the_maximum_of_their_likelihood() -> None:
    """Poisson counts with one rate a group: the estimate is the log of the mean, its information the sum (taken one
    last step, of at most a millionth of a standard error, before the end)."""

    rng = np.random.default_rng(1)
    frame = lines()
    frame["y"] = rng.poisson(np.exp(0.3 * frame.w + 1.0))
    fits = jn.fit_groups(COUNTS, grouped(frame))
    sums = frame.groupby("g").y.agg(["mean", "sum"])
    np.testing.assert_allclose(fits.estimates["mu"], np.log(sums["mean"]), rtol=1e-9)
    np.testing.assert_allclose(fits.standard_errors["mu"], sums["sum"] ** -0.5, rtol=1e-6)
    assert fits.sigma.isna().all()
    upper = fits.intervals(0.95)["upper"].to_numpy()
    np.testing.assert_allclose(upper, np.log(sums["mean"]) + 1.959964 * sums["sum"] ** -0.5, rtol=1e-6)
    assert np.isfinite(fits.summary().table["p"]).all()
    with pytest.raises(jn.OptionError, match="Gaussian residual"):
        jn.fit_groups(COUNTS, grouped(frame), starts="pooled")


def log_mean(phi, x):
    """A log mean."""
    return phi.mu + 0.0 * x.t


def poisson(y, f, p, x, v):
    """Counts with mean exp(f)."""
    return y * f - jnp.exp(f) - jax.scipy.special.gammaln(y + 1.0)


COUNTS = jn.NLMEModel(log_mean, [jn.Parameter("mu", 1.0, random=True)], error=jn.GroupLogLikelihood(poisson))


def log_line(phi, x):
    """A log mean with a slope."""
    return phi.mu + phi.slope * x.t


def test_a_likelihood_without_finite_maximum_has_no_estimate() -> None:
    """Groups of zero counts: the log rate diverges to minus infinity, where the gain of a step vanishes, but so does
    the curvature. With a slope, and counts at time zero only, the level is finite and the slope diverges."""
    frame = lines()
    frame["y"] = np.random.default_rng(1).poisson(np.exp(0.3 * frame.w + 1.0))
    frame.loc[frame.g == 2, "y"] = 0
    fits = jn.fit_groups(COUNTS, grouped(frame))
    assert fits.status["status"].drop(2).eq("ok").all()
    assert fits.status.loc[2, "status"] == "diverging"
    sentence = fits.status.loc[2, "sentence"]
    assert "The likelihood still increases where the search ended, at mu (-" in sentence
    assert np.isnan(fits.estimates.loc[2, "mu"]) and np.isnan(fits.standard_errors.loc[2, "mu"])
    assert "Not fitted: group 2. The likelihood still increases" in str(fits)
    start = fits.start()
    assert start["sd(mu)"] < 2.0  # log means of the seven others have an SD below one
    frame["t"] = frame.groupby("g").cumcount()
    frame["y"] = np.random.default_rng(4).poisson(4.0, len(frame)) + 1
    frame.loc[frame.g == 5, "y"] = np.where(frame.t[frame.g == 5] == 0, 7, 0)
    parameters = [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 0.0)]
    two = jn.fit_groups(jn.NLMEModel(log_line, parameters, error=jn.GroupLogLikelihood(poisson)), grouped(frame))
    assert two.status["status"].drop(5).eq("ok").all()
    assert two.status.loc[5, "status"] == "diverging"
    assert "ended, at slope (" in two.status.loc[5, "sentence"]


def test_fixed_parameters_and_refused_models() -> None:
    data = grouped(lines())
    held = jn.NLMEModel(catalogue.line, [jn.Parameter("mu", 1.0, random=True), jn.Parameter("slope", 1.0, fix=True)])
    fits = jn.fit_groups(held, data)
    assert list(fits.estimates.columns) == ["mu"]
    frame = lines()
    means = (frame.y - frame.t).groupby(frame.g).mean()
    np.testing.assert_allclose(fits.estimates["mu"], means, rtol=1e-9)
    assert fits.start()["slope"] == 1.0

    def individual(beta, b, v):
        return {"mu": beta.mu + b.mu, "slope": beta.slope}

    function = jn.NLMEModel(catalogue.line, [*line_model().parameters], individual=individual)
    np.testing.assert_allclose(jn.fit_groups(function, data).estimates, jn.fit_groups(line_model(), data).estimates)

    shared = jn.NLMEModel(
        catalogue.line, [jn.Parameter("mu", 1.0), jn.Parameter("slope", 0.5)], random_design=[[1.0], [0.5]]
    )
    start = jn.fit_groups(shared, data).start()
    assert {"sd(b0)", "mu", "slope", "a"} == set(start) and 0.3 < start["sd(b0)"] < 3.0

    rows = np.zeros((data.n_groups, data.y.shape[1], 2, 1))
    rows[:, :, 0, 0] = data.x["c"]
    varying = jn.NLMEModel(catalogue.line, list(shared.parameters), random_design=rows)
    with pytest.raises(jn.ModelError, match="random_design varies within groups"):
        jn.fit_groups(varying, data)
    fixed = [jn.Parameter(name, 1.0, fix=True) for name in ("mu", "slope")]
    with pytest.raises(jn.ModelError, match="nothing to fit"):
        jn.fit_groups(jn.NLMEModel(catalogue.line, fixed), data)
    with pytest.raises(jn.OptionError, match="'pooled'"):
        jn.fit_groups(held, data, starts="groups")
    with pytest.raises(jn.OptionError, match="max_steps"):
        jn.fit_groups(held, data, max_steps=0)
    with pytest.raises(jn.OptionError, match="level"):
        fits.intervals(95)


def test_summary_names_the_parameters_that_vary() -> None:
    """If nothing varies, the p-values of the table are those of an F test of common values (a seed for which none is
    small by chance); a level that varies by far is named."""
    varied = jn.fit_groups(line_model(), grouped(lines(spread=3.0).assign(y=lambda d: d.y - 0.5 * d.c))).summary()
    assert varied.table.loc["mu", "p"] < 1e-6
    assert varied.table.loc["mu", "ratio"] > 3.0
    text = " ".join(str(varied).split())
    assert "mu" in text and "for random effects." in text and "sd between" in text
    rng = np.random.default_rng(5)
    constant = lines()
    constant["y"] = 1.0 + constant.t + rng.normal(size=len(constant))
    fits = jn.fit_groups(line_model(), grouped(constant))
    table = fits.summary().table
    assert (table["p"] > 0.05).all()
    assert "No parameter (mu and slope) varies more" in str(fits.summary())
    assert table["overlap%"].between(50, 100).all()


def test_groups_of_weight_zero_do_not_count() -> None:
    """One group of ten varies a thousand times as much, and has weight zero: the population is that of the nine others.
    It has estimates all the same."""
    frame = lines(groups=10).assign(weight=1.0)
    variable = frame.g == 3
    frame.loc[variable, "weight"] = 0.0
    frame.loc[variable, "y"] *= 1000.0

    def fits_of(rows: pd.DataFrame) -> jn.GroupFits:
        return jn.fit_groups(line_model(), jn.GroupedData.from_frame(rows, "g", "y", ["t", "c"], "w", "weight"))

    fits, without = fits_of(frame), fits_of(frame[~variable])
    assert fits.usable.all() and fits.sigma[3] > 100.0
    assert fits.pooled_sigma == pytest.approx(without.pooled_sigma, rel=1e-9)
    assert fits.start() == pytest.approx(without.start(), rel=1e-9)
    pd.testing.assert_frame_equal(fits.summary().table, without.summary().table, rtol=1e-9)
    others = [label for label in range(10) if label != 3]
    pooled = [each.intervals(pooled=True).loc[others] for each in (fits, without)]
    np.testing.assert_allclose(*(table.to_numpy() for table in pooled), rtol=1e-9)


def test_overlap_counts_pairs() -> None:
    rng = np.random.default_rng(2)
    lower = rng.normal(size=30)
    upper = lower + rng.exponential(size=30)
    pairs = [lower[i] <= upper[j] and lower[j] <= upper[i] for i in range(30) for j in range(i)]
    assert overlap(lower, upper) == pytest.approx(np.mean(pairs))
    assert np.isnan(overlap(lower[:1], upper[:1]))


def test_two_stages_recover_a_population_with_outliers() -> None:
    """300 groups, a third of which have next to no information, and six outliers: means within four standard errors,
    SDs within a quarter. The covariance of the estimates is off by a factor of thousands."""
    rng = np.random.default_rng(7)
    m = 300
    psi = np.array([[0.09, 0.03], [0.03, 0.04]])
    v = np.zeros((m, 2, 2)) + 0.01 * np.eye(2)
    v[::3] = 1e4 * np.eye(2)
    covariate = rng.normal(size=m)
    a = np.zeros((m, 2, 3))
    a[:, 0, 0] = a[:, 1, 1] = 1.0
    a[:, 0, 2] = covariate
    estimates = a @ np.array([1.0, -2.0, 0.4]) + rng.multivariate_normal([0, 0], psi, m)
    estimates += np.einsum("ikl,il->ik", np.sqrt(v), rng.normal(size=(m, 2)))
    estimates[1:19:3] += 40.0
    beta, spread, outlying = two_stage(estimates, v, a, np.array([0.0, 0.0, 0.0]), np.ones(3, bool))
    assert np.flatnonzero(outlying).tolist() == list(range(1, 19, 3))
    np.testing.assert_allclose(beta, [1.0, -2.0, 0.4], atol=4 * np.sqrt(0.1 / 200))
    np.testing.assert_allclose(np.sqrt(np.diag(spread)), np.sqrt(np.diag(psi)), rtol=0.25)
    assert np.linalg.eigvalsh(spread)[0] >= 0.0
    kept = two_stage(estimates, v, a, np.array([0.0, 0.0, 0.4]), np.array([True, True, False]))[0]
    assert kept[2] == 0.4


def test_levenberg_marquardt_follows_a_curved_valley() -> None:
    """Rosenbrock's function by Gauss-Newton, and its minimum by the relative offset's ending; a start that is not
    finite is reported."""

    def expand(x):
        r = jnp.stack([10.0 * (x[1] - x[0] ** 2), 1.0 - x[0]]) + 0.0 * jnp.sqrt(x[0] + 5.0)
        j = jnp.array([[-20.0 * x[0], 10.0], [-1.0, 0.0]])
        return 0.5 * jnp.sum(r**2), j.T @ r, j.T @ j, jnp.sum(r**2)

    end = jax.vmap(lambda x: levenberg_marquardt(expand, x, 200, 1e-20))(jnp.array([[-1.2, 1.0], [-9.0, 1.0]]))
    np.testing.assert_allclose(end.x[0], [1.0, 1.0], atol=1e-9)
    assert end.converged.tolist() == [True, False] and end.finite.tolist() == [True, False]
    assert int(end.steps[0]) < 100


def test_a_fit_starts_from_its_groups() -> None:
    """Chicks: three cannot be fitted by themselves and are left out of the averages; the fit has all fifty, and no
    fewer log-likelihood units than from a start by hand."""
    name = "ChickWeight_logis"
    model, data = from_r(name)
    options = {"standard_errors": False, "max_iterations": 0}
    fit = jn.fit(model, data, "fo", starts="groups", **options)
    sentence = next(s for s in fit.status.sentences if s.startswith("Started from fits of"))
    assert "group 18, 19 and 29" in sentence and "Left out of the averages" in sentence
    fits = jn.fit_groups(model, data)
    for key, value in fits.start().items():
        assert fit.values[key] == pytest.approx(value, rel=1e-9), key
    plain = jn.fit(model, data, "fo", **options)
    assert fit.log_likelihood > plain.log_likelihood + 100
    chunked = jn.fit(model, data, "fo", starts="groups", chunk_groups=20, **options)
    assert chunked.values == pytest.approx(fit.values, rel=1e-8)
    assert fit.data.n_groups == 50
    short = data.select(np.arange(data.n_groups) < 1)
    failed = jn.fit(model, short, "fo", starts="groups", **options)
    assert "fewer than two" in str(failed.status) and failed.values["Asym"] == 300.0
