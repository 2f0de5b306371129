"""Generalised linear mixed models by formula: against lme4, glmmTMB, ordinal and quadrature by brute force.

`R_FITS` are results of R 4.2.2 with glmmTMB 1.1.5 and ordinal 2022.11-16 (gradTol = 1e-8) on reference/df/
glmm_simulated.csv, with the columns that `frame` adds.
"""

from __future__ import annotations

import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from scipy import stats
from scipy.special import logsumexp

import jaxnlme as jn
from jaxnlme.linear.glmm.fit import GeneralisedLinearFit


@pytest.fixture(scope="module")
def frame(reference: Path) -> pd.DataFrame:
    table = pd.read_csv(reference / "df" / "glmm_simulated.csv")
    row = np.arange(len(table))
    return table.assign(sub=(row % 8 < 4).astype(int), ord=np.minimum(table.p, 3), up=table.p + 1)


@pytest.fixture(scope="module")
def bernoulli(frame) -> GeneralisedLinearFit:
    return jn.glmer("bin ~ x + (1 | g)", frame, family="bernoulli")


# Formula, options, log-likelihood, coefficients, standard errors, other values by name.
R_FITS = {
    "bernoulli": ("bin ~ x + (1 | g)", {"family": "bernoulli"}, -144.591634325,
                  {"(Intercept)": -0.531708896, "x": 0.921721543, "sd((Intercept))": 0.8054742},
                  {"(Intercept)": 0.211957, "x": 0.192693}),
    "binomial": ("cbind(y, n - y) ~ x + (1 | g)", {}, -398.978215557,
                 {"(Intercept)": -0.624537926, "x": 0.698666722, "sd((Intercept))": 0.88152119},
                 {"(Intercept)": 0.1706812, "x": 0.0660023}),
    "cloglog": ("cbind(y, n - y) ~ x + (1 | g)", {"link": "cloglog"}, -398.803036562,
                {"(Intercept)": -0.900622352, "x": 0.525370609, "sd((Intercept))": 0.67684991},
                {"(Intercept)": 0.1320527, "x": 0.0483584}),
    "probit": ("bin ~ x + (1 | g)", {"link": "probit"}, -144.260061306,
               {"(Intercept)": -0.325098903, "x": 0.559840644, "sd((Intercept))": 0.50298561},
               {"(Intercept)": 0.129083, "x": 0.111264}),
    "slopes": ("p ~ x + (x | g)", {"family": "poisson"}, -449.461421465,
               {"(Intercept)": 0.729957791, "x": 0.395266919, "sd((Intercept))": 0.46849533, "sd(x)": 0.29212039},
               {"(Intercept)": 0.1004985, "x": 0.0775852}),
    "uncorrelated": ("p ~ x + (x || g)", {"family": "poisson"}, -449.465364783,
                     {"(Intercept)": 0.729049921, "x": 0.397136585, "sd((Intercept))": 0.4698076, "sd(x)": 0.29189961},
                     {"(Intercept)": 0.1001995, "x": 0.0746326}),
    "nested": ("p ~ x + offset(log(n)) + (1 | g/sub)", {"family": "poisson"}, -494.135488576,
               {"(Intercept)": -1.229645283, "x": 0.423567527, "sd((Intercept))": 0.47392621,
                "sd((Intercept)|sub)": 0.23683802},
               {"(Intercept)": 0.1037888, "x": 0.0485708}),
    "negative binomial": ("p ~ x + (1 | g)", {"family": "negative binomial"}, -456.6187038,
                          {"(Intercept)": 0.771615901, "x": 0.419914878, "sd((Intercept))": 0.48710955,
                           "size": 17.85161},
                          {"(Intercept)": 0.1023002, "x": 0.0507267}),
    "gamma": ("up ~ x + (1 | g)", {"family": "gamma", "link": "log"}, -459.992000345,
              {"(Intercept)": 1.191287877, "x": 0.269753366, "sd((Intercept))": 0.32630985,
               "shape": 1 / 0.50061601**2},
              {"(Intercept)": 0.0679156, "x": 0.0354176}),
    "ordinal": ("ord ~ x + (1 | g)", {"family": "ordinal"}, -294.64394059,
                {"0|1": -1.866291268, "1|2": -0.755929958, "2|3": 0.429350398, "x": 0.754639060,
                 "sd((Intercept))": 1.1418994},
                {"0|1": 0.287700, "1|2": 0.261003, "2|3": 0.256930, "x": 0.154561}),
    "ordinal probit": ("ord ~ x + (1 | g)", {"family": "ordinal", "link": "probit", "method": jn.AGQ(11)},
                       -294.326851412,
                       {"0|1": -1.096023266, "1|2": -0.447073978, "2|3": 0.260183704, "x": 0.452933814,
                        "sd((Intercept))": 0.68143266}, {}),
}  # fmt: skip


@pytest.mark.parametrize("name", R_FITS)
def test_fits_by_r(name, frame):
    formula, options, log_likelihood, values, errors = R_FITS[name]
    fit = jn.glmer(formula, frame, **options)
    assert fit.converged, fit.status
    assert isinstance(fit, GeneralisedLinearFit)
    # clmm's conditional modes are searched less exactly than glmmTMB's.
    assert fit.log_likelihood == pytest.approx(log_likelihood, abs=2e-4 if "ordinal" in name else 1e-6)
    for key, value in values.items():
        assert fit.values[key] == pytest.approx(value, rel=3e-4, abs=1e-5), key
    for key, value in errors.items():
        assert fit.estimates.se[key] == pytest.approx(value, rel=2e-3), key


@pytest.mark.parametrize(
    "name", ["binomial_agq1", "binomial_agq15", "bernoulli_agq1", "bernoulli_agq15", "poisson_agq1", "poisson_agq15",
             "poisson_slopes"],
)  # fmt: skip
def test_fits_by_lme4(name, frame, reference):
    """lme4 1.1-31. Its Laplace optimum is less exact than its quadrature's: glmmTMB's log-likelihoods of the same
    models (`R_FITS`) are higher by up to 4e-4, and equal ours to 1e-8."""
    found = json.loads((reference / "df" / f"glmer_{name}.json").read_text())
    nodes = found["nAGQ"]
    fit = jn.glmer(found["formula"], frame, family=found["family"], method="laplace" if nodes == 1 else jn.AGQ(nodes))
    assert fit.converged, fit.status
    for key, value in found["fixef"].items():
        assert fit.values[key] == pytest.approx(value, rel=1e-3 if nodes == 1 else 1e-5), key
        assert fit.estimates.se[key] == pytest.approx(found["se"][key], rel=1e-2 if nodes == 1 else 1e-4)
    theta = list(found["theta"].values())
    assert fit.values["sd((Intercept))"] == pytest.approx(theta[0], rel=1e-3 if nodes == 1 else 1e-5)
    if nodes == 1:
        assert found["logLik"] - 1e-5 < fit.log_likelihood < found["logLik"] + 5e-4


def _log_density(family, y, eta, n, parameters):
    """By scipy, from the mean."""
    if family == "binomial":
        return stats.binom.logpmf(y, n, 1 - np.exp(-np.exp(eta)))
    if family == "negative binomial":
        size = parameters[0]
        return stats.nbinom.logpmf(y, size, size / (size + np.exp(eta)))
    if family == "gamma":
        return stats.gamma.logpdf(y, parameters[0], scale=np.exp(eta) / parameters[0])
    cumulative = [stats.logistic.cdf(t - eta) for t in parameters]
    cumulative = np.stack([np.zeros_like(eta), *cumulative, np.ones_like(eta)])
    return np.log(np.take_along_axis(np.diff(cumulative, axis=0), y.astype(int)[None, :, None], axis=0)[0])


@pytest.mark.parametrize(
    "formula, options",
    [
        ("cbind(y, n - y) ~ x + (1 | g)", {"family": "binomial", "link": "cloglog"}),
        ("p ~ x + (1 | g)", {"family": "negative binomial"}),
        ("up ~ x + (1 | g)", {"family": "gamma", "link": "log"}),
        ("ord ~ x + (1 | g)", {"family": "ordinal"}),
    ],
)
def test_likelihoods_by_brute_force(formula, options, frame):
    """The integral over b on 2,000 equidistant points, whose error is far below 1e-8 for smooth integrands."""
    fit = jn.glmer(formula, frame, method=jn.AGQ(25), standard_errors=False, **options)
    assert fit.converged, fit.status
    values, family = fit.values, options["family"]
    y = frame[formula.split(" ~")[0].replace("cbind(y, n - y)", "y")].to_numpy(float)
    sd = values["sd((Intercept))"]
    b = np.linspace(-9 * sd, 9 * sd, 2000)
    eta = (values["(Intercept)"] + values["x"] * frame.x.to_numpy())[:, None] + b[None, :]
    parameters = [v for k, v in values.items() if k in ("size", "shape") or "|" in k]
    terms = _log_density(family, y if family == "ordinal" else y[:, None], eta, frame.n.to_numpy()[:, None], parameters)
    by_group = np.stack([terms[frame.g == g].sum(axis=0) for g in frame.g.unique()])
    expected = logsumexp(by_group + stats.norm.logpdf(b, 0, sd), axis=1) + np.log(b[1] - b[0])
    np.testing.assert_allclose(fit.group_log_likelihood, expected, atol=1e-6)


def test_saem_is_within_its_monte_carlo_error(frame):
    exact = jn.glmer("cbind(y, n - y) ~ x + (1 | g)", frame, method=jn.AGQ(15))
    fit = jn.glmer("cbind(y, n - y) ~ x + (1 | g)", frame, method="saem", progress=False)
    assert fit.converged, fit.status
    for name in fit.values:
        assert abs(fit.values[name] - exact.values[name]) < 0.1 * exact.estimates.se[name], name


def test_predictions_and_draws(frame, bernoulli):
    assert isinstance(bernoulli, GeneralisedLinearFit) and (bernoulli.family, bernoulli.link) == ("bernoulli", "logit")
    eta = bernoulli.predict(scale="link")
    b = bernoulli.random_effects["(Intercept)"].loc[frame.g].to_numpy()
    np.testing.assert_allclose(eta, bernoulli.values["(Intercept)"] + bernoulli.values["x"] * frame.x + b, rtol=1e-10)
    np.testing.assert_allclose(bernoulli.predict(), 1 / (1 + np.exp(-eta)), rtol=1e-12)
    # Rows in another order, with labels of their own; a table without groups and response at the population.
    shuffled = frame.sample(frac=1.0, random_state=0)
    pd.testing.assert_series_equal(bernoulli.predict(shuffled), bernoulli.predict().loc[shuffled.index])
    typical = bernoulli.predict({"x": [0.0, 1.0]}, level="population", scale="link")
    np.testing.assert_allclose(np.diff(typical), bernoulli.values["x"])
    # A new unit gets the mode of its effect from its responses.
    copy = frame[frame.g == 3].assign(g=99)
    np.testing.assert_allclose(bernoulli.predict(copy), bernoulli.predict(frame[frame.g == 3]), atol=1e-6)
    draws = bernoulli.simulate(400, key=1, data=frame)
    assert set(np.unique(draws)) == {0.0, 1.0}
    assert abs(draws.mean() - frame.bin.mean()) < 0.03
    with pytest.raises(jn.OptionError, match="scale"):
        bernoulli.predict(scale="logit")
    with pytest.raises(jn.DataError, match="no column 'x'"):
        bernoulli.predict(frame.drop(columns="x"))


def test_updates_files_and_refits(frame, bernoulli, tmp_path):
    quadrature = bernoulli.update(method=jn.AGQ(15), standard_errors=False)
    assert isinstance(quadrature, GeneralisedLinearFit)
    assert quadrature.values["sd((Intercept))"] == pytest.approx(0.8316615, rel=1e-5)
    loaded = jn.load(bernoulli.save(tmp_path / "a.fit"), trust_code=True)
    assert isinstance(loaded, GeneralisedLinearFit)
    pd.testing.assert_series_equal(loaded.predict(frame), bernoulli.predict())
    again = jn.load(tmp_path / "a.fit", model=bernoulli.model)
    assert isinstance(again, GeneralisedLinearFit) and again.values == bernoulli.values
    ratio = bernoulli.derive(lambda p: jnp.exp(p["x"]))
    assert float(ratio.estimate[0]) == pytest.approx(np.exp(bernoulli.values["x"]))


def test_residuals(frame):
    """The first rows as by lme4 (its modes at its own, less exact optimum)."""
    fit = jn.glmer("cbind(y, n - y) ~ x + (1 | g)", frame)
    found = fit.residuals()
    np.testing.assert_allclose(found.deviance[:3], [-0.03605937, -1.37385423, -2.36463349], atol=2e-4)
    np.testing.assert_allclose(found.pearson[:3], [-0.03602138, -1.34006700, -1.79601515], atol=2e-4)
    np.testing.assert_allclose(found.response, frame.y / frame.n - fit.predict(), atol=1e-14)
    with pytest.raises(jn.OptionError, match="deviance"):
        fit.residuals("deviant")


def test_pictures_are_on_the_scale_of_the_data(frame):
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    fit = jn.glmer("cbind(y, n - y) ~ x + (1 | g)", frame)
    (panel,) = np.ravel(fit.plot.observed_predicted(level="group"))
    points = max((line.get_xydata() for line in panel.lines), key=len)
    np.testing.assert_allclose(np.sort(points[:, 0]), np.sort(frame.n * fit.predict()), rtol=1e-10)
    assert np.ravel(fit.plot.individual_fits(groups=[1, 2]))[0].lines
    plt.close("all")


def test_text_missing_values_and_polars_like_tables(frame, bernoulli):
    table = frame.assign(bin=np.where(frame.bin == 1, "yes", "no"), g=[f"g{g}" for g in frame.g])
    table.loc[[3, 7], "bin"] = None
    fit = jn.glmer("bin ~ x + (1 | g)", {name: table[name].to_numpy() for name in ("bin", "x", "g")})
    assert "Success is 'yes'" in str(fit.status) and "2 of 240 rows have missing values" in str(fit.status)
    assert fit.data.n_obs == 238 and abs(fit.values["x"] - bernoulli.values["x"]) < 0.1
    ordered = frame.assign(ord=pd.Categorical(np.array(["d", "c", "b", "a"])[frame.ord], list("dcba"), ordered=True))
    fit = jn.glmer("ord ~ x + (1 | g)", ordered, family="ordinal", standard_errors=False)
    assert fit.values["d|c"] == pytest.approx(-1.866291268, rel=3e-4)
    probabilities = fit.predict()
    assert list(probabilities) == list("dcba")
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0)
    assert set(np.unique(fit.simulate(1))) == {0.0, 1.0, 2.0, 3.0}


def test_an_effect_without_coefficient_has_mean_zero(frame):
    fit = jn.glmer("p ~ 1 + (0 + x | g)", frame, family="poisson", standard_errors=False)
    assert fit.values["x"] == 0.0 and fit.criteria.n_parameters == 2 and fit.values["sd(x)"] > 0.1
    assert list(fit.psi) == ["x"]


def test_a_prior_on_what_separates(frame):
    table = frame.assign(q=np.where((frame.index % 17 == 0) & (frame.bin == 1), "b", "a"))
    with pytest.raises(jn.ModelError, match=r"coefficient of 'q\[T.b\]' runs off to \+infinity"):
        jn.glmer("bin ~ x + q + (1 | g)", table)
    fit = jn.glmer("bin ~ x + q + (1 | g)", table, priors={"q[T.b]": jn.priors.Normal(0, 2.5)}, standard_errors=False)
    assert fit.converged and 0.5 < fit.values["q[T.b]"] < 5


def test_a_bounded_link_that_does_not_converge_is_explained(frame):
    fit = jn.glmer("up ~ x + (1 | g)", frame, family="gamma", link="identity", standard_errors=False, max_iterations=3)
    assert not fit.converged
    assert "needs a linear predictor > 0" in str(fit.status) and "link='log'" in str(fit.status)


def test_a_negative_binomial_that_is_poisson(frame):
    even = frame.assign(q=np.round(np.exp(1 + 0.3 * frame.x + 0.2 * (frame.g % 3))))
    fit = jn.glmer("q ~ x + (1 | g)", even, family="negative binomial", standard_errors=False)
    assert "The size runs off" in str(fit.status)
    assert "sorted" not in str(fit.status) + str(fit.summary())


REFUSED = [
    ("y ~ x + (1 | g)", {}, jn.DataError, "rows 1, 2, 5, .*cbind"),
    ("p / n ~ x + (1 | g)", {}, jn.DataError, "a proportion needs its number of trials"),
    ("cbind(y, y - n) ~ x + (1 | g)", {}, jn.DataError, "failures 'y - n': the value -5 is negative"),
    ("cbind(p, n) ~ x + (1 | g)", {"family": "poisson"}, jn.OptionError, "goes with family='binomial'"),
    ("cbind(y, n, n) ~ x + (1 | g)", {}, jn.OptionError, "received 3 parts"),
    ("x ~ n + (1 | g)", {"family": "poisson"}, jn.DataError, "is negative, and family 'poisson'"),
    ("half ~ n + (1 | g)", {"family": "negative binomial"}, jn.DataError, "no whole number, .* in rows 1, 2, "),
    ("p ~ x + (1 | g)", {"family": "gamma"}, jn.DataError, "0 is not positive"),
    ("p ~ x + (1 | g)", {"family": "bernoulli"}, jn.DataError, "neither 0 nor 1"),
    ("bin ~ x + (1 | g)", {"family": "binomal"}, jn.OptionError, "did you mean 'binomial'"),
    ("p ~ x + (1 | g)", {"family": "poisson", "link": "logit"}, jn.OptionError, "it takes log, identity, sqrt"),
    ("p ~ z + (1 | g)", {"family": "poisson"}, jn.DataError, "no column 'z'"),
    ("p ~ one + (1 | g)", {"family": "poisson"}, jn.DataError, "single category 'a'"),
    ("p ~ x + (1 | one)", {"family": "poisson"}, jn.DataError, "has one unit"),
    ("p ~ x + (1 | g) + (1 | h)", {"family": "poisson"}, jn.ModelError, "'g' and 'h' are crossed"),
    ("p ~ x", {"family": "poisson"}, jn.OptionError, "no random effects"),
    ("p ~ x + (1 | g)", {"family": "poisson", "nAGQ": 3}, jn.OptionError, "no option 'nAGQ'"),
    ("p ~ x + (1 | g)", {"family": "poisson", "offset": 3}, jn.OptionError, "name of a column"),
    ("p ~ x + (1 | g)", {"family": "poisson", "offset": "zz"}, jn.DataError, "no column 'zz'"),
    ("p ~ x - offset(n) + (1 | g)", {"family": "poisson"}, jn.OptionError, "cannot be subtracted"),
    ("p ~ x + (1 | g)", {"family": "poisson", "covariance": {"h": "full"}}, jn.OptionError, "grouping factor 'h'"),
    ("p ~ gap + (1 | g)", {"family": "poisson"}, jn.DataError, "gap is missing in 3 rows .*missing='drop'"),
    ("p ~ x + (1 | g)", {"family": "poisson", "method": "focei"}, jn.ModelError, "needs a Gaussian"),
    ("ord + 1 ~ x + (1 | g)", {"family": "ordinal"}, jn.OptionError, "takes one column"),
    ("ord ~ 0 + x + (1 | g)", {"family": "ordinal"}, jn.OptionError, "take the place of the intercept"),
    ("three ~ x + (1 | g)", {}, jn.DataError, "has 3 categories"),
]


@pytest.mark.parametrize("formula, options, kind, words", REFUSED)
def test_what_is_refused(formula, options, kind, words, frame):
    table = frame.assign(
        half=frame.p + 0.5, one="a", h=np.arange(len(frame)) % 4, gap=frame.x.where(frame.index > 2),
        three=np.array(["u", "v", "w"])[np.arange(len(frame)) % 3],
    )  # fmt: skip
    with pytest.raises(kind, match=words):
        jn.glmer(formula, table, **options)


def test_rows_are_those_of_the_users_table(frame):
    table = frame.copy()
    table.loc[:9, "y"] = np.nan
    table.loc[20, "y"] = 99.0
    with pytest.raises(jn.DataError, match=r"more successes than trials\), .* in row 21"):
        jn.glmer("cbind(y, n - y) ~ x + (1 | g)", table)


def test_equal_models_share_compiled_programs(frame, bernoulli):
    """A second fit with other data of the same shape traces nothing."""
    other = frame.assign(bin=1 - frame.bin)
    fit = jn.glmer("bin ~ x + (1 | g)", other, family="bernoulli")
    assert fit.timings.get("compile", 0.0) < 0.01
    assert fit.values["x"] == pytest.approx(-bernoulli.values["x"], rel=1e-5)
