"""Bootstrap, jackknife and multistart against single fits and against their definitions."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxnlme as jn
from jaxnlme.refits import vectorised_minimiser
from jaxnlme.refits.jackknife import _cook
from jaxnlme.refits.jobs import blank_outcomes
from jaxnlme.refits.multistart import _sentences
from jaxnlme.refits.refits import Refits
from jaxnlme.refits.resampling import case_weights, resampling_strata
from tests.estimators import catalogue
from tests.refits.conftest import lines

TRACED = []


def test_a_case_replicate_is_the_fit_with_its_weights(orange):
    result = orange.bootstrap(12, seed=3)
    assert result.converged.all() and len(result.replicates) == 12
    labels = [str(label) for label in orange.data.labels]
    for r in (0, 7):
        weights = case_weights(labels, 3, r, np.zeros(5, int))
        assert weights.sum() == 5
        single = jn.fit(orange.model, orange.data.with_weights(weights), "focei").throw()
        for name, value in single.values.items():
            assert result.replicates[name][r] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert result.replicates["log_likelihood"][r] == pytest.approx(single.log_likelihood, abs=1e-8)


def test_replicates_depend_only_on_seed_and_labels(orange):
    result = orange.bootstrap(12, seed=3).replicates
    few = orange.bootstrap(4, seed=3, width=4).replicates
    np.testing.assert_allclose(few["Asym"], result["Asym"][:4], rtol=1e-7)
    assert abs(orange.bootstrap(4, seed=4).replicates["Asym"] / few["Asym"] - 1).max() > 1e-4
    labels = ["a", "b", "c", "d"]
    reversed_weights = case_weights(labels[::-1], 1, 5, np.zeros(4, int))
    np.testing.assert_array_equal(reversed_weights[::-1], case_weights(labels, 1, 5, np.zeros(4, int)))


def test_a_parametric_replicate_is_the_fit_of_simulated_responses(orange):
    result = orange.bootstrap(5, seed=2, kind="parametric")
    assert result.converged.all()
    drawn = orange.simulate(5, key=2)
    single = jn.fit(orange.model, orange.data.with_response(drawn[3]), "focei").throw()
    for name, value in single.values.items():
        assert result.replicates[name][3] == pytest.approx(value, rel=1e-6)


def test_strata_keep_their_numbers(line):
    side = line.data.v["side"]
    strata = (side == 2.0).astype(int)
    for r in range(5):
        weights = case_weights([str(k) for k in range(12)], 0, r, strata)
        assert weights[strata == 0].sum() == 4 and weights[strata == 1].sum() == 8
    assert line.bootstrap(3, by="side").converged.all()
    with pytest.raises(jn.OptionError, match="did you mean 'side'"):
        line.bootstrap(3, by="sid")
    with pytest.raises(jn.OptionError, match="did you mean 'side'"):
        line.bootstrap(3, by=["side", "sid"])


def test_strata_of_several_columns_are_their_crossed_levels():
    frame = pd.DataFrame({"g": np.arange(8), "y": 0.0, "t": 0.0, "a": list("xxyyxxyy"), "b": [0, 1, 0, 1, 0, 1, 0, 1]})
    data = jn.GroupedData.from_frame(frame, "g", "y", ["t"], v=["a", "b"])
    strata = resampling_strata(SimpleNamespace(data=data), ("a", "b"))
    assert len(set(strata)) == 4 and (strata[:4] == strata[4:]).all()


def test_intervals_of_a_bootstrap(orange):
    """By their definitions, from the table of replicates."""
    result = orange.bootstrap(40, seed=1)
    draws, t = result.values["xmid"], orange.values["xmid"]
    low, high = np.quantile(draws, [0.05, 0.95])
    row = result.intervals(0.9).loc["xmid"]
    assert (row.lower, row.upper) == pytest.approx((low, high))
    row = result.intervals(0.9, "basic").loc["xmid"]
    assert (row.lower, row.upper) == pytest.approx((2 * t - high, 2 * t - low))
    row = result.intervals(0.9, "normal").loc["xmid"]
    assert row.lower == pytest.approx(t - (draws.mean() - t) - 1.6448536 * draws.std(ddof=1))
    jackknife = orange.jackknife()
    bca = result.intervals(0.9, "bca", jackknife).loc["xmid"]
    assert draws.min() <= bca.lower < bca.upper <= draws.max()
    # Without bias and acceleration they are percentiles.
    even = dataclasses.replace(result, replicates=_around(result.replicates, orange))
    flat = dataclasses.replace(jackknife, deleted=_around(jackknife.deleted, orange))
    row, plain = even.intervals(0.9, "bca", flat).loc["xmid"], even.intervals(0.9).loc["xmid"]
    assert (row.lower, row.upper) == pytest.approx((plain.lower, plain.upper))
    assert result.se["xmid"] == pytest.approx(draws.std(ddof=1))
    assert result.correlation.loc["xmid", "xmid"] == 1.0
    assert "40 of 40 replicates converged" in str(result) and "<table" in result._repr_html_()


def test_a_jackknife_that_bca_refuses(orange, line):
    result, jackknife = orange.bootstrap(8), orange.jackknife()
    with pytest.raises(jn.OptionError, match="of another fit"):
        result.intervals(kind="bca", jackknife=line.jackknife())
    with pytest.raises(jn.OptionError, match=r"a record of fit\.jackknife\(\), or None; received Bootstrap"):
        result.intervals(kind="bca", jackknife=result)
    table = jackknife.deleted.copy()
    table.loc[orange.data.labels[2], "status"] = "not converged"
    with pytest.raises(jn.OptionError, match=rf"1 of these failed \(without {orange.data.labels[2]}\)"):
        result.intervals(kind="bca", jackknife=dataclasses.replace(jackknife, deleted=table))


@pytest.mark.parametrize("method", ["bootstrap", "jackknife", "multistart", "profile"])
def test_numbers_that_refits_refuse(orange, method):
    for option, value in (("width", 0), ("width", -1), ("width", 2.5), ("width", True), ("max_iterations", True)):
        with pytest.raises(jn.OptionError, match=rf"{option}.* a whole number >= 1; received {value}"):
            getattr(orange, method)(**{option: value})


def test_refits_of_a_fit_in_chunks_report_that_they_use_one_device(orange, monkeypatch):
    chunks = jn.fit(orange.model, orange.data, "focei", chunk_groups=2)
    assert "The fit used chunk_groups=2; these refits held all groups on one device." in str(chunks.jackknife())
    result = chunks.multistart(1)
    assert "chunk_groups=2" in str(result)
    assert dataclasses.replace(result, maxima=result.maxima.assign(gain=1.0)).best.options["chunk_groups"] == 2


def test_cooks_distance_needs_finite_estimates(orange):
    refits = Refits(orange, "a jackknife", 1)
    x = np.tile(refits.x, (3, 1))
    x[1, 3], x[2] = -np.inf, x[2] + 0.01
    distance = _cook(orange, refits, x)
    assert distance[0] == 0.0 and np.isnan(distance[1]) and distance[2] > 0


def test_a_multistart_that_ties_with_the_fit_elsewhere(orange):
    result = orange.multistart(2)
    table = pd.DataFrame({"status": ["converged", "converged"]})
    outcomes = dataclasses.replace(blank_outcomes(2, 5), done=np.ones(2, bool))
    for gain, sentence in ((5e-5, "as high"), (-5e-4, "as high"), (-0.5, "higher by 0.5000 than all")):
        maxima = result.maxima.assign(gain=gain, fit=False)
        assert sentence in _sentences(orange, outcomes, maxima, np.ones(2, bool), table)[-1]


def _around(table: pd.DataFrame, fit: jn.Fit) -> pd.DataFrame:
    """The rows with their mirror images about the estimates."""
    mirror = table.copy()
    for name, value in fit.values.items():
        mirror[name] = 2.0 * value - table[name]
    return pd.concat([table, mirror], ignore_index=True)


def test_failures_are_counted_and_enter_no_statistic(orange):
    result = orange.bootstrap(10, seed=1, max_iterations=3)
    bad = int((~result.converged).sum())
    assert bad > 0
    assert f"{bad} of 10 replicates failed ({bad} not converged)" in str(result)
    assert result.replicates.loc[~result.converged, "Asym"].isna().all()
    assert len(result.values) == 10 - bad


def test_the_jackknife_is_the_fit_without_the_group(orange):
    result = orange.jackknife()
    assert result.converged.all()
    keep = np.arange(5) != 3
    single = jn.fit(orange.model, orange.data.select(keep), "focei").throw()
    label = orange.data.labels[3]
    for name, value in single.values.items():
        assert result.deleted.loc[label, name] == pytest.approx(value, rel=1e-6)
    values = result.values
    np.testing.assert_allclose(result.bias, 4 * (values.mean() - result.estimates))
    np.testing.assert_allclose(result.se, np.sqrt(0.8 * ((values - values.mean()) ** 2).sum()))
    # Likelihood displacement: all groups' likelihood at the estimates without the group.
    params = orange.model.params(orange.data, single.values)
    moved = catalogue.likelihood(orange, params)
    row = result.influence.loc[label]
    assert row["displacement"] == pytest.approx(2 * (orange.log_likelihood - moved), abs=2e-5)
    gap = np.asarray(single.params.pack()) - np.asarray(orange.params.pack())
    assert row["cook"] == pytest.approx(gap @ orange.information.matrix @ gap / 5, rel=1e-4)
    change = (single.values["xmid"] - orange.values["xmid"]) / orange.estimates.se["xmid"]
    assert row["xmid"] == pytest.approx(change, rel=1e-4)
    assert result.influence["displacement"].is_monotonic_decreasing
    assert "Most influential groups" in str(result)


def test_a_variance_at_zero_is_estimated_anew(line):
    """The slopes of these groups do not vary: their SD is zero in the fit, and in some replicates it is not."""
    model = jn.NLMEModel(catalogue.line, line.model.parameters)
    fit = jn.fit(model, lines(slope_sd=0.0, seed=8), "focei").throw()
    assert fit.values["sd(slope)"] == 0.0
    result = fit.bootstrap(12, seed=0)
    assert result.converged.all()
    zero = result.replicates["sd(slope)"] == 0.0
    assert 0 < zero.sum() < 12
    assert f"sd(slope) in {zero.sum()}" in str(result)
    labels = [str(label) for label in fit.data.labels]
    for r in (int(np.argmax(zero)), int(np.argmin(zero))):
        weights = case_weights(labels, 0, r, np.zeros(12, int))
        single = jn.fit(model, fit.data.with_weights(weights), "focei")
        assert result.replicates["log_likelihood"][r] == pytest.approx(single.log_likelihood, abs=1e-6)
        assert result.replicates["sd(slope)"][r] == pytest.approx(single.values["sd(slope)"], abs=1e-5)


@pytest.fixture(scope="module")
def theophylline() -> jn.Fit:
    return jn.fit(catalogue.oral(), catalogue.theophylline_mg(), "focei").throw()


@pytest.mark.parametrize("method", ["focei", "lme"])
def test_starts_multi_begins_at_the_best_maximum(theophylline, method):
    """From its own starts the fit ends at the slower elimination; with the other one the log-likelihood is higher."""
    fit = jn.fit(theophylline.model, theophylline.data, method, starts="multi")
    assert fit.converged and fit.options["starts"] == "multi"
    assert fit.values["ka"] == pytest.approx(0.0848, abs=2e-3) and fit.values["sd(ka)"] == 0.0
    if method == "focei":
        assert fit.log_likelihood == pytest.approx(-176.46731, abs=1e-4)
    assert fit.log_likelihood > theophylline.log_likelihood + 2.0
    (sentence,) = [s for s in fit.status.sentences if s.startswith("Started from the best of 16 fits by FOCEI")]
    assert "-176.467 (from" in sentence and f"from the given start {theophylline.log_likelihood:.3f}" in sentence


def test_starts_multi_from_a_start_without_a_likelihood(theophylline):
    """At ka = cl / v the curve is 0 / 0; from other starts it is not."""
    model = theophylline.model
    names = list(theophylline.values)[:3]
    singular = {names[0]: 1.0, names[1]: 1.0, names[2]: 1.0}
    assert not jn.fit(model, theophylline.data, "focei", start=singular).converged
    fit = jn.fit(model, theophylline.data, "focei", start=singular, starts="multi")
    assert fit.converged and "from the given start it is not finite" in str(fit.status)


def test_an_interruption_of_the_search_for_a_start_ends_the_fit(theophylline, monkeypatch):
    def show(self, text, done=None):
        if done is not None:  # the count of refits: the fit from the given start has none
            raise KeyboardInterrupt

    monkeypatch.setattr(vectorised_minimiser.ProgressLine, "show", show)
    fit = jn.fit(theophylline.model, theophylline.data, "lme", starts="multi")
    assert fit.interrupted and not fit.converged and fit.method == "FOCEI"
    assert fit.log_likelihood == pytest.approx(theophylline.log_likelihood, abs=1e-6)
    first, second, *_ = fit.status.sentences
    assert first == "NOT CONVERGED." and "before the fit by LME began" in second


def test_multistart_finds_both_absorptions_of_theophylline(theophylline):
    """Fast absorption and slow elimination, or the reverse (flip-flop), which fits these data better: ka and cl / v
    change places."""
    result = theophylline.multistart(16, spread=1.2, seed=1, max_iterations=60)
    assert len(result.maxima) >= 2
    top = result.maxima.iloc[0]
    assert top["gain"] == pytest.approx(3.2343, abs=1e-3)
    assert top["ka"] < top["cl"] / top["v"]
    of_fit = result.maxima[result.maxima["fit"]].iloc[0]
    assert of_fit["log_likelihood"] == pytest.approx(theophylline.log_likelihood, abs=1e-6)
    assert of_fit["ka"] == pytest.approx(theophylline.values["ka"], rel=1e-4)
    assert result.maxima["starts"].sum() == (result.starts["status"] == "converged").sum()
    assert "A BETTER MAXIMUM than the fit's was found, by 3.2343" in str(result)
    assert result.best.converged
    assert result.best.log_likelihood == pytest.approx(top["log_likelihood"], abs=1e-6)


def test_a_multistart_without_a_better_maximum(orange):
    result = orange.multistart(8, spread=0.2)
    assert result.maxima["fit"].iloc[0] and result.best is orange
    assert "No better maximum" in str(result)
    assert result.starts["start of Asym"][0] == 192.0


def counted(phi, x):
    TRACED.append(1)
    return catalogue.sslogis(phi, x)


def test_another_number_and_seed_need_no_new_trace(orange):
    model = jn.NLMEModel(counted, orange.model.parameters, error=jn.error.constant(10.0))
    fit = jn.fit(model, orange.data, "focei")
    fit.bootstrap(20, seed=0)
    before = len(TRACED)
    fit.bootstrap(30, seed=1)
    fit.bootstrap(25, seed=2)
    assert len(TRACED) == before


def test_refused_options(orange):
    with pytest.raises(jn.OptionError, match="did you mean 'case'"):
        orange.bootstrap(10, kind="cases")
    with pytest.raises(jn.OptionError, match="no option 'sead'; did you mean 'seed'"):
        orange.bootstrap(10, sead=1)
    with pytest.raises(jn.OptionError, match="whole number >= 2"):
        orange.bootstrap(1)
    with pytest.raises(jn.OptionError, match="did you mean 'estimates'"):
        orange.multistart(4, around="estimate")
    with pytest.raises(jn.OptionError, match="did you mean 'percentile'"):
        orange.bootstrap(3).intervals(kind="percentiles")
    short = jn.fit(orange.model, orange.data, "focei", max_iterations=1)
    for refused in (short.bootstrap, short.jackknife, short.profile):
        with pytest.raises(jn.FitError, match=r"needs a fit that converged. NOT CONVERGED"):
            refused()
    assert short.multistart(3).maxima["log_likelihood"][0] == pytest.approx(orange.log_likelihood, abs=1e-6)


class Slope(eqx.Module):
    """A structural model with a trainable weight."""

    weight: jax.Array

    def __call__(self, phi, x):
        return phi.mu + self.weight[0] * x.t


def test_weights_of_the_structural_model_are_refitted():
    model = jn.NLMEModel(Slope(jnp.array([0.3])), [jn.Parameter("mu", 1.0, random=True)])
    fit = jn.fit(model, lines(), "focei").throw()
    result = fit.bootstrap(4)
    assert result.converged.all()
    weights = case_weights([str(k) for k in range(12)], 0, 2, np.zeros(12, int))
    single = jn.fit(model, lines().with_weights(weights), "focei").throw()
    assert result.replicates["log_likelihood"][2] == pytest.approx(single.log_likelihood, abs=1e-8)
    with pytest.raises(jn.OptionError, match="does not include the weights of the structural model"):
        fit.profile("mu")


def test_priors_enter_every_refit(line):
    """The influence of a group is on likelihood times priors."""
    prior = jn.priors.LogNormal(1.0, 0.3)
    model = jn.NLMEModel(catalogue.line, line.model.parameters, priors={"sd(mu)": prior})
    fit = jn.fit(model, lines(), "focei").throw()
    result = fit.jackknife()
    weights = np.where(np.arange(12) == 6, 0.0, 1.0)
    single = jn.fit(model, lines().with_weights(weights), "focei").throw()
    label = fit.data.labels[6]
    assert result.deleted.loc[label, "sd(mu)"] == pytest.approx(single.values["sd(mu)"], rel=1e-6)
    assert (result.influence["displacement"] > 0).all()


def test_parametric_replicates_do_not_depend_on_the_precision_of_the_session(orange):
    expected = orange.bootstrap(3, seed=2, kind="parametric").replicates["log_likelihood"]
    with jax.enable_x64(False):
        single = orange.bootstrap(3, seed=2, kind="parametric").replicates["log_likelihood"]
    np.testing.assert_allclose(single, expected, rtol=1e-9)


def test_an_outcome_without_a_sampler_has_no_parametric_bootstrap():
    """Counts with a log-density of the user: groups can be resampled, responses cannot be drawn."""
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(15), 4)
    y = rng.poisson(np.exp(1.0 + 0.5 * rng.normal(size=15)[group])).astype(float)
    data = jn.GroupedData.from_arrays(y, group, {"one": np.ones(60)})

    def poisson(y, f, p, x, v):
        return jnp.sum(jnp.where(x.observed, y * jnp.log(f) - f, 0.0))

    model = jn.NLMEModel(
        catalogue.level, [jn.Parameter("mu", 2.0, "log", random=True)], error=jn.GroupLogLikelihood(poisson)
    )
    fit = jn.fit(model, data, "laplace").throw()
    assert fit.bootstrap(4).converged.all()
    with pytest.raises(jn.ModelError, match="add a sampler"):
        fit.bootstrap(4, kind="parametric")


def test_a_refit_without_information_on_a_parameter_fails():
    """Only one group has a level of a covariate: without that group the coefficient is not identifiable."""
    rng = np.random.default_rng(4)
    group, t = np.repeat(np.arange(9), 5), np.tile(np.arange(5.0), 9)
    rare = (group == 6).astype(float)
    y = 1.0 + rng.normal(size=9)[group] + 2.0 * rare + 0.5 * t + 0.3 * rng.normal(size=45)
    data = jn.GroupedData.from_arrays(y, group, {"t": t}, v={"rare": rare[::5]})
    parameters = [jn.Parameter("level", 1.0, random=True, covariates=["rare"]), jn.Parameter("slope", 0.5)]
    fit = jn.fit(jn.NLMEModel(straight, parameters), data, "focei")
    boot = fit.bootstrap(60, seed=2)
    drawn = np.array([case_weights([str(k) for k in range(9)], 2, r, np.zeros(9, int))[6] > 0 for r in range(60)])
    assert 10 < drawn.sum() < 55
    assert (boot.replicates["status"] == "without information on some parameter").tolist() == (~drawn).tolist()
    assert "by=" in str(boot)
    jack = fit.jackknife()
    assert jack.converged.tolist() == [k != 6 for k in range(9)]
    assert jack.se.isna().all()


def straight(phi, x):
    return phi.level + phi.slope * x.t
