"""Linear mixed models by formula against the dense closed form: likelihood, estimates, predictions, units, bad
input."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn


def nested_frame(seed=0, blocks=9, varieties=3, rows=4):
    """Unequal numbers of varieties a block and rows a variety, slopes of blocks and intercepts of varieties."""
    rng = np.random.default_rng(seed)
    records = []
    for block in range(blocks):
        b = rng.normal(size=2) * [2.0, 0.6]
        for variety in range(varieties - block % 2):
            c = rng.normal()
            for _ in range(rows - (block + variety) % 3):
                x = rng.normal()
                records.append((f"b{block}", variety, x, 3.0 + b[0] + c + (1.5 + b[1]) * x + 0.5 * rng.normal()))
    return pd.DataFrame(records, columns=["block", "variety", "x", "y"])


def dense(fit, residual=None):
    """Log-likelihood, fixed effects, their covariance and predictions from the marginal covariance of all rows at the
    estimated covariances: Harville (1977), Journal of the American Statistical Association 72, 320-340."""
    X, y = fit.model.fixed.matrix, fit.model.y
    n, p = X.shape
    V = fit.sigma**2 * (np.eye(n) if residual is None else residual)
    parts = []
    for grouping, psi in zip(fit.model.groupings, fit.psi.values(), strict=True):
        Z = np.zeros((n, grouping.units.count * len(psi)))
        for row, code in enumerate(grouping.units.codes):
            Z[row, code * len(psi) : (code + 1) * len(psi)] = grouping.matrix[row]
        G = np.kron(np.eye(grouping.units.count), psi.to_numpy())
        parts.append((Z, G))
        V = V + Z @ G @ Z.T
    inverse = np.linalg.inv(V)
    information = X.T @ inverse @ X
    beta = np.linalg.solve(information, X.T @ inverse @ y)
    r = y - X @ beta
    value = -0.5 * (np.linalg.slogdet(V)[1] + r @ inverse @ r)
    if fit.restricted:
        value -= 0.5 * np.linalg.slogdet(information)[1] + 0.5 * (n - p) * np.log(2 * np.pi)
    else:
        value -= 0.5 * n * np.log(2 * np.pi)
    fitted = X @ beta + sum(Z @ G @ Z.T @ inverse @ r for Z, G in parts)
    return value, beta, np.linalg.inv(information), fitted


FRAME = nested_frame()
MODELS = {
    "slopes": dict(formula="y ~ x + (x | block)"),
    "uncorrelated": dict(formula="y ~ x + (x || block)"),
    "nested": dict(formula="y ~ x + (x | block) + (1 | block:variety)"),
    "both": dict(formula="y ~ x", random="~ x | block/variety"),
    "identity": dict(formula="y ~ x", random="~ x | block", covariance="identity"),
    "compound symmetry": dict(formula="y ~ x", random="~ x | block", covariance="compound symmetry"),
}


@pytest.mark.parametrize("method", ["REML", "ML"])
@pytest.mark.parametrize("name", MODELS)
def test_estimates_are_those_of_the_dense_marginal_model(name, method):
    fit = jn.lme(data=FRAME, method=method, **MODELS[name])
    assert fit.converged, fit.status
    value, beta, covariance, fitted = dense(fit)
    assert fit.log_likelihood == pytest.approx(value, abs=1e-9)
    np.testing.assert_allclose(fit.beta, beta, atol=1e-9)
    np.testing.assert_allclose(fit.beta_covariance, covariance, rtol=1e-8, atol=1e-12)
    np.testing.assert_allclose(fit.fitted, fitted, atol=1e-8)


def test_maximum_of_the_likelihood():
    """No change of a variance parameter by a tenth of its standard error raises the likelihood."""
    fit = jn.lme("y ~ x + (x | block) + (1 | block:variety)", data=FRAME, method="ML")
    blocks = fit.psi["block"].to_numpy()
    for factor in (0.97, 1.03):
        for k in range(2):
            scale = np.eye(2)
            scale[k, k] = factor
            moved = scale @ blocks @ scale
            assert _dense_with(fit, {"block": moved}) < fit.log_likelihood
        assert _dense_with(fit, {"block:variety": factor * fit.psi["block:variety"].to_numpy()}) < fit.log_likelihood


def _dense_with(fit, changes):
    """The dense log-likelihood with other covariances of random effects."""

    class Changed:
        psi = {name: pd.DataFrame(changes.get(name, psi)) for name, psi in fit.psi.items()}
        model, sigma, restricted = fit.model, fit.sigma, fit.restricted

    return dense(Changed)[0]


def test_standard_errors_of_variance_parameters_are_those_of_the_general_engine():
    """The same model as an NLMEModel with linear f, restricted: its information is by derivatives of another
    program."""
    fit = jn.lme("y ~ x + (x | block)", data=FRAME)
    data = jn.GroupedData.from_frame(FRAME, group="block", y="y", x=["x"])
    model = jn.NLMEModel(
        lambda phi, x: phi.a + phi.b * x.x,
        [jn.Parameter("a", 3.0, random=True), jn.Parameter("b", 1.5, random=True)],
        covariance="full",
    )
    other = jn.fit(model, data, "foce", restricted=True, progress=False)
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-7)
    ours, theirs = fit.estimates, other.estimates
    pairs = {"sd((Intercept))": "sd(a)", "sd(x)": "sd(b)", "corr((Intercept), x)": "corr(b, a)", "sigma": "a"}
    names = {name: name if name in theirs.index else "corr(a, b)" for name in pairs.values()}
    errors = theirs[theirs.kind != "fixed effect"]
    for name, its in pairs.items():
        row = errors.loc[names[its]] if its != "a" else errors[errors.kind == "error"].iloc[0]
        # Differences of an exact gradient on both sides, at estimates that agree to 1e-6 standard errors.
        assert ours.loc[name, "estimate"] == pytest.approx(row["estimate"], rel=1e-4)
        assert ours.loc[name, "se"] == pytest.approx(row["se"], rel=1e-3)


@pytest.mark.parametrize(("of_y", "of_x", "shift"), [(1e6, 1.0, 0.0), (1e-6, 1e5, 0.0), (1.0, 0.01, 2000.0)])
def test_units_and_origin_change_nothing(of_y, of_x, shift):
    plain = jn.lme("y ~ x + (x | block) + (1 | block:variety)", data=FRAME, method="ML")
    frame = FRAME.assign(y=of_y * FRAME.y, x=of_x * FRAME.x + shift)
    fit = jn.lme("y ~ x + (x | block) + (1 | block:variety)", data=frame, method="ML")
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood - len(frame) * np.log(of_y), abs=1e-6)
    np.testing.assert_allclose(fit.fitted / of_y, plain.fitted, atol=1e-6)
    assert fit.estimates.loc["sd(x|block)", "estimate"] * of_x / of_y == pytest.approx(
        plain.estimates.loc["sd(x|block)", "estimate"], rel=1e-5
    )


def test_order_of_rows_changes_nothing():
    plain = jn.lme("y ~ x + (x | block/variety)", data=FRAME)
    order = np.random.default_rng(1).permutation(len(FRAME))
    fit = jn.lme("y ~ x + (x | block/variety)", data=FRAME.iloc[order])
    assert fit.log_likelihood == pytest.approx(plain.log_likelihood, abs=1e-9)
    np.testing.assert_allclose(fit.fitted, plain.fitted[order], atol=1e-7)
    np.testing.assert_allclose(fit.residuals("pearson"), plain.residuals("pearson")[order], atol=1e-7)


def test_units_far_from_equal_in_number():
    """One block with many varieties: units are then not stored by slots of their parents."""
    frame = pd.concat([FRAME, pd.concat([FRAME.assign(block="big", variety=FRAME.index + k) for k in (0, 500)])])
    fit = jn.lme("y ~ x + (1 | block/variety)", data=frame, method="ML")
    value, beta, _, fitted = dense(fit)
    assert fit.converged
    assert fit.log_likelihood == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(fit.beta, beta, atol=1e-8)
    np.testing.assert_allclose(fit.fitted, fitted, atol=1e-7)


def test_variance_of_zero_is_a_result_with_a_sentence():
    rng = np.random.default_rng(3)
    frame = pd.DataFrame({"g": np.repeat(np.arange(8), 6), "y": rng.normal(size=48)})
    frame["y"] -= frame.groupby("g")["y"].transform("mean")  # less variance between units than by chance
    fit = jn.lme("y ~ 1 + (1 | g)", data=frame)
    assert fit.converged
    assert fit.estimates.loc["sd((Intercept))", "estimate"] == 0.0
    assert any("estimated as zero" in sentence for sentence in fit.status.sentences)
    assert (fit.random_effects["g"] == 0).all().all()
    assert fit.log_likelihood == pytest.approx(jn.gls("y ~ 1", data=frame).log_likelihood, abs=1e-10)


def test_singular_covariance_is_named():
    rng = np.random.default_rng(5)
    g, x = np.repeat(np.arange(12), 5), np.tile(np.arange(5.0), 12)
    b = rng.normal(size=12)
    frame = pd.DataFrame({"g": g, "x": x, "y": 1 + b[g] + 0.5 * b[g] * x + 0.1 * rng.normal(size=60)})
    fit = jn.lme("y ~ x + (x | g)", data=frame)
    assert fit.converged
    assert abs(fit.estimates.loc["corr((Intercept), x)", "estimate"]) > 0.99
    assert fit.log_likelihood == pytest.approx(dense(fit)[0], abs=1e-6)


# ---- residual covariance


def test_correlation_and_strata_against_the_dense_model():
    fit = jn.lme(
        "y ~ x",
        random="~ 1 | block",
        data=FRAME.assign(half=np.where(FRAME.variety == 0, "first", "rest"), t=FRAME.groupby("block").cumcount()),
        weights=jn.variance.strata("half"),
        correlation=jn.correlation.AR1("t"),
        method="ML",
    )
    assert fit.converged, fit.status
    g = np.where(FRAME.variety == 0, 1.0, fit.estimates.loc["ratio[half=rest]", "estimate"])
    t, block = FRAME.groupby("block").cumcount().to_numpy(), FRAME.block.to_numpy()
    lag = np.abs(t[:, None] - t[None, :])
    R = np.where(block[:, None] == block[None, :], fit.estimates.loc["rho", "estimate"] ** lag, 0.0) * np.outer(g, g)
    value, beta, covariance, fitted = dense(fit, R)
    assert fit.log_likelihood == pytest.approx(value, abs=1e-8)
    np.testing.assert_allclose(fit.beta, beta, atol=1e-8)
    np.testing.assert_allclose(fit.beta_covariance, covariance, rtol=1e-7)
    np.testing.assert_allclose(fit.fitted, fitted, atol=1e-7)
    whitened = fit.residuals("normalized")
    inverse = np.linalg.inv(R * fit.sigma**2)
    raw = fit.residuals()
    assert whitened @ whitened == pytest.approx(raw @ inverse @ raw, rel=1e-8)


def test_gls_of_series_in_any_order_of_rows():
    frame = FRAME.assign(t=FRAME.groupby("block").cumcount())
    options = dict(correlation=jn.correlation.CAR1("t", within="block"), method="ML")
    fit = jn.gls("y ~ x", data=frame, **options)
    shuffled = frame.sample(frac=1.0, random_state=2)
    other = jn.gls("y ~ x", data=shuffled, **options)
    assert fit.log_likelihood == pytest.approx(other.log_likelihood, abs=1e-9)
    lag = np.abs(frame.t.to_numpy()[:, None] - frame.t.to_numpy()[None, :])
    same = frame.block.to_numpy()[:, None] == frame.block.to_numpy()[None, :]
    R = np.where(same, fit.estimates.loc["rho", "estimate"] ** lag, 0.0)
    assert fit.log_likelihood == pytest.approx(dense(fit, R)[0], abs=1e-8)


def test_fixed_weights_are_known_variances():
    frame = FRAME.assign(v=np.random.default_rng(0).uniform(0.5, 2.0, len(FRAME)))
    fit = jn.lme("y ~ x", random="~ 1 | block", data=frame, weights="v")
    assert fit.log_likelihood == pytest.approx(dense(fit, np.diag(frame.v))[0], abs=1e-8)


def test_units_of_the_fitted_values_change_nothing():
    """A power of the fitted values: sigma has units of its own, nothing else does."""
    frame = FRAME.assign(y=FRAME.y + 20.0)
    options = dict(random="~ 1 | block", weights=jn.variance.power())
    fit = jn.lme("y ~ x", data=frame, **options)
    other = jn.lme("y ~ x", data=frame.assign(y=1e3 * frame.y), **options)
    assert fit.converged and other.converged
    assert fit.estimates.loc["power", "estimate"] == pytest.approx(other.estimates.loc["power", "estimate"], rel=1e-4)
    np.testing.assert_allclose(other.fitted / 1e3, fit.fitted, rtol=1e-6)


# ---- predictions, bad input


def test_predictions_of_new_rows_and_units():
    fit = jn.lme("y ~ x + (x | block/variety)", data=FRAME)
    np.testing.assert_allclose(fit.predict(FRAME), fit.fitted, atol=1e-12)
    np.testing.assert_allclose(fit.predict(FRAME, level="block"), fit.predict(level=1), atol=1e-12)
    new = pd.DataFrame({"x": [0.0, 1.0], "block": ["unknown", "b0"], "variety": [0, 99]})
    at_zero, known = fit.predict(new)
    assert at_zero == pytest.approx(fit.beta["(Intercept)"])
    assert known == pytest.approx(fit.predict(new, level=1)[1])


def test_simulated_responses_have_the_fitted_covariance():
    fit = jn.lme("y ~ x + (1 | block)", data=FRAME)
    draws = fit.simulate(4000, key=1)
    rows = np.flatnonzero(FRAME.block == "b0")[:2]
    sample = np.cov(draws[:, rows].T)
    psi = fit.psi["block"].iloc[0, 0]
    expected = np.full((2, 2), psi) + np.diag([fit.sigma**2] * 2)
    # Standard error of a variance from 4,000 draws: sqrt(2 / 4000) = 2.2%; four of them.
    np.testing.assert_allclose(sample, expected, rtol=0.09, atol=0.09 * expected[0, 0])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (dict(formula="y ~ z + (1 | block)"), jn.JaxnlmeError, "z"),
        (dict(formula="y ~ x"), jn.OptionError, "no random effects"),
        (dict(formula="y ~ x + (1 | block)", method="reml"), jn.OptionError, "REML"),
        (dict(formula="y ~ x + (zero | block)"), jn.ModelError, "zero in every row"),
        (dict(formula="y ~ x + (1 | one)"), jn.DataError, "one unit"),
        (dict(formula="y ~ x + (1 | block)", covariance={"plot": "diagonal"}), jn.OptionError, "plot"),
        (dict(formula="y ~ x + (1 | block)", weights=3), jn.OptionError, "weights"),
        (dict(formula="y ~ x + (1 | block)", correlation=jn.correlation.CAR1("x0")), jn.JaxnlmeError, "x0"),
        (dict(formula="exact ~ x + (1 | block)"), jn.DataError, "exactly"),
    ],
)
def test_bad_input_is_named(options, error, words):
    frame = FRAME.assign(zero=0.0, one="a", x0=np.nan, exact=2.0 + 3.0 * FRAME.x)
    with pytest.raises(error, match=words):
        jn.lme(data=frame, **options)


def test_missing_values():
    frame = FRAME.copy()
    frame.loc[3, "y"] = np.nan
    fit = jn.lme("y ~ x + (1 | block)", data=frame)
    assert fit.model.n_rows == len(frame) - 1
    assert any("left out" in sentence for sentence in fit.status.sentences)
    frame.loc[5, "x"] = np.nan
    with pytest.raises(jn.DataError, match="row 6"):
        jn.lme("y ~ x + (1 | block)", data=frame)
    assert jn.lme("y ~ x + (1 | block)", data=frame, missing="drop").model.n_rows == len(frame) - 2


def test_aliased_columns_are_left_out_and_named():
    frame = FRAME.assign(twice=2.0 * FRAME.x)
    fit = jn.lme("y ~ x + twice + (1 | block)", data=frame)
    assert list(fit.beta.index) == ["(Intercept)", "x"]
    assert any("twice" in sentence for sentence in fit.status.sentences)
    assert fit.log_likelihood == pytest.approx(jn.lme("y ~ x + (1 | block)", data=FRAME).log_likelihood, abs=1e-9)


def test_functions_of_parameters():
    """The intraclass correlation, by the delta method and by hand from the joint covariance."""
    fit = jn.lme("y ~ x + (1 | block)", data=FRAME)
    derived = fit.derive(lambda p: p["sd((Intercept))"] ** 2 / (p["sd((Intercept))"] ** 2 + p["sigma"] ** 2))
    s, e = fit.estimates.loc["sd((Intercept))", "estimate"], fit.sigma
    gradient = np.array([2 * s * e**2, -2 * e * s**2]) / (s**2 + e**2) ** 2
    names = ["sd((Intercept))", "sigma"]
    variance = gradient @ fit.covariance.loc[names, names].to_numpy() @ gradient
    assert derived.estimate[0] == pytest.approx(s**2 / (s**2 + e**2))
    assert derived.standard_errors[0] == pytest.approx(np.sqrt(variance), rel=1e-10)
    both = fit.derive({"ratio": lambda p: p["x"] / p["(Intercept)"], "slope": lambda p: p["x"]})
    assert both.standard_errors[1] == pytest.approx(fit.estimates.loc["x", "se"])


@pytest.mark.parametrize(
    "formula", ["y ~ x + (x | block)", "y ~ x + (1 | block/variety)", "y ~ x + (1 | block) + (1 | variety)"]
)
def test_a_refit_to_the_same_responses_repeats_the_fit(formula):
    """Nested and crossed factors: a likelihood-ratio bootstrap refits both."""
    fit = jn.lme(formula, data=FRAME, method="ML")
    other = FRAME.assign(y=FRAME.y + 0.3 * np.sin(np.arange(len(FRAME))))
    again = jn.lme(formula, data=other, method="ML")
    values = fit.refit_log_likelihoods(np.stack([FRAME.y, other.y]))
    np.testing.assert_allclose(values, [fit.log_likelihood, again.log_likelihood], atol=1e-7)
