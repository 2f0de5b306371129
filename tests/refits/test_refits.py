"""Bootstrap, jackknife and multistart against single fits and against what is known."""

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
from jaxnlme.refits.jackknife import _cook
from jaxnlme.refits.jobs import blank_outcomes
from jaxnlme.refits.multistart import _sentences
from jaxnlme.refits.refits import Refits
from jaxnlme.refits.resampling import case_weights, strata_of
from tests.estimators import catalogue
from tests.refits.conftest import lines

TRACED = []


def test_a_case_replicate_is_the_fit_with_its_weights(orange):
    found = orange.bootstrap(12, seed=3)
    assert found.converged.all() and len(found.replicates) == 12
    labels = [str(label) for label in orange.data.labels]
    for r in (0, 7):
        weights = case_weights(labels, 3, r, np.zeros(5, int))
        assert weights.sum() == 5
        single = jn.fit(orange.model, orange.data.with_weights(weights), "focei").throw()
        for name, value in single.values.items():
            assert found.replicates[name][r] == pytest.approx(value, rel=1e-6, abs=1e-9)
        assert found.replicates["log_likelihood"][r] == pytest.approx(single.log_likelihood, abs=1e-8)


def test_replicates_depend_on_seed_and_labels_alone(orange):
    found = orange.bootstrap(12, seed=3).replicates
    few = orange.bootstrap(4, seed=3, width=4).replicates
    np.testing.assert_allclose(few["Asym"], found["Asym"][:4], rtol=1e-7)
    assert abs(orange.bootstrap(4, seed=4).replicates["Asym"] / few["Asym"] - 1).max() > 1e-4
    labels = ["a", "b", "c", "d"]
    turned = case_weights(labels[::-1], 1, 5, np.zeros(4, int))
    np.testing.assert_array_equal(turned[::-1], case_weights(labels, 1, 5, np.zeros(4, int)))


def test_a_parametric_replicate_is_the_fit_of_simulated_responses(orange):
    found = orange.bootstrap(5, seed=2, kind="parametric")
    assert found.converged.all()
    drawn = orange.simulate(5, key=2)
    single = jn.fit(orange.model, orange.data.with_response(drawn[3]), "focei").throw()
    for name, value in single.values.items():
        assert found.replicates[name][3] == pytest.approx(value, rel=1e-6)


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
    strata = strata_of(SimpleNamespace(data=data), ("a", "b"))
    assert len(set(strata)) == 4 and (strata[:4] == strata[4:]).all()


def test_intervals_of_a_bootstrap(orange):
    """By their definitions, from the table of replicates."""
    found = orange.bootstrap(40, seed=1)
    draws, t = found.values["xmid"], orange.values["xmid"]
    low, high = np.quantile(draws, [0.05, 0.95])
    row = found.intervals(0.9).loc["xmid"]
    assert (row.lower, row.upper) == pytest.approx((low, high))
    row = found.intervals(0.9, "basic").loc["xmid"]
    assert (row.lower, row.upper) == pytest.approx((2 * t - high, 2 * t - low))
    row = found.intervals(0.9, "normal").loc["xmid"]
    assert row.lower == pytest.approx(t - (draws.mean() - t) - 1.6448536 * draws.std(ddof=1))
    jackknife = orange.jackknife()
    bca = found.intervals(0.9, "bca", jackknife).loc["xmid"]
    assert draws.min() <= bca.lower < bca.upper <= draws.max()
    # Without bias and acceleration they are percentiles.
    even = dataclasses.replace(found, replicates=_around(found.replicates, orange))
    flat = dataclasses.replace(jackknife, deleted=_around(jackknife.deleted, orange))
    row, plain = even.intervals(0.9, "bca", flat).loc["xmid"], even.intervals(0.9).loc["xmid"]
    assert (row.lower, row.upper) == pytest.approx((plain.lower, plain.upper))
    assert found.se["xmid"] == pytest.approx(draws.std(ddof=1))
    assert found.correlation.loc["xmid", "xmid"] == 1.0
    assert "40 of 40 replicates converged" in str(found) and "<table" in found._repr_html_()


def test_a_jackknife_that_bca_refuses(orange, line):
    found, jackknife = orange.bootstrap(8), orange.jackknife()
    with pytest.raises(jn.OptionError, match="of another fit"):
        found.intervals(kind="bca", jackknife=line.jackknife())
    with pytest.raises(jn.OptionError, match=r"a record of fit\.jackknife\(\), or None; received Bootstrap"):
        found.intervals(kind="bca", jackknife=found)
    table = jackknife.deleted.copy()
    table.loc[orange.data.labels[2], "status"] = "not converged"
    with pytest.raises(jn.OptionError, match=rf"1 of these failed \(without {orange.data.labels[2]}\)"):
        found.intervals(kind="bca", jackknife=dataclasses.replace(jackknife, deleted=table))


@pytest.mark.parametrize("door", ["bootstrap", "jackknife", "multistart", "profile"])
def test_numbers_that_the_batches_refuse(orange, door):
    for option, value in (("width", 0), ("width", -1), ("width", 2.5), ("width", True), ("max_iterations", True)):
        with pytest.raises(jn.OptionError, match=rf"{option}.* a whole number >= 1; received {value}"):
            getattr(orange, door)(**{option: value})


def test_a_fit_in_chunks_is_told_that_its_refits_are_not(orange, monkeypatch):
    chunks = jn.fit(orange.model, orange.data, "focei", chunk_groups=2)
    assert "The fit used chunk_groups=2; these fits held all groups on one device." in str(chunks.jackknife())
    found = chunks.multistart(1)
    assert "chunk_groups=2" in str(found)
    assert dataclasses.replace(found, maxima=found.maxima.assign(gain=1.0)).best.options["chunk_groups"] == 2


def test_cook_needs_finite_ends(orange):
    refits = Refits(orange, "a jackknife", 1)
    ends = np.tile(refits.x, (3, 1))
    ends[1, 3], ends[2] = -np.inf, ends[2] + 0.01
    distance = _cook(orange, refits, ends)
    assert distance[0] == 0.0 and np.isnan(distance[1]) and distance[2] > 0


def test_a_multistart_that_ties_with_the_fit_elsewhere(orange):
    found = orange.multistart(2)
    table = pd.DataFrame({"status": ["converged", "converged"]})
    outcomes = dataclasses.replace(blank_outcomes(2, 5), done=np.ones(2, bool))
    for gain, said in ((5e-5, "as high"), (-5e-4, "as high"), (-0.5, "higher by 0.5000 than all")):
        maxima = found.maxima.assign(gain=gain, fit=False)
        assert said in _sentences(orange, outcomes, maxima, np.ones(2, bool), table)[-1]


def _around(table: pd.DataFrame, fit: jn.Fit) -> pd.DataFrame:
    """The rows with their mirror images about the estimates."""
    mirror = table.copy()
    for name, value in fit.values.items():
        mirror[name] = 2.0 * value - table[name]
    return pd.concat([table, mirror], ignore_index=True)


def test_failures_are_counted_and_enter_no_number(orange):
    found = orange.bootstrap(10, seed=1, max_iterations=3)
    bad = int((~found.converged).sum())
    assert bad > 0
    assert f"{bad} of 10 replicates failed ({bad} not converged)" in str(found)
    assert found.replicates.loc[~found.converged, "Asym"].isna().all()
    assert len(found.values) == 10 - bad


def test_the_jackknife_is_the_fit_without_the_group(orange):
    found = orange.jackknife()
    assert found.converged.all()
    keep = np.arange(5) != 3
    single = jn.fit(orange.model, orange.data.select(keep), "focei").throw()
    label = orange.data.labels[3]
    for name, value in single.values.items():
        assert found.deleted.loc[label, name] == pytest.approx(value, rel=1e-6)
    values = found.values
    np.testing.assert_allclose(found.bias, 4 * (values.mean() - found.estimates))
    np.testing.assert_allclose(found.se, np.sqrt(0.8 * ((values - values.mean()) ** 2).sum()))
    # Likelihood displacement: all groups' likelihood at the estimates without the group.
    params = orange.model.params(orange.data, single.values)
    moved = catalogue.likelihood(orange, params)
    row = found.influence.loc[label]
    assert row["displacement"] == pytest.approx(2 * (orange.log_likelihood - moved), abs=2e-5)
    gap = np.asarray(single.params.pack()) - np.asarray(orange.params.pack())
    assert row["cook"] == pytest.approx(gap @ orange.information.matrix @ gap / 5, rel=1e-4)
    change = (single.values["xmid"] - orange.values["xmid"]) / orange.estimates.se["xmid"]
    assert row["xmid"] == pytest.approx(change, rel=1e-4)
    assert found.influence["displacement"].is_monotonic_decreasing
    assert "Most influential groups" in str(found)


def test_a_variance_at_zero_is_decided_anew(line):
    """The slopes of these groups do not vary: their SD is zero in the fit, and in some replicates it is not."""
    model = jn.NLMEModel(catalogue.line, line.model.parameters)
    fit = jn.fit(model, lines(slope_sd=0.0, seed=8), "focei").throw()
    assert fit.values["sd(slope)"] == 0.0
    found = fit.bootstrap(12, seed=0)
    assert found.converged.all()
    zero = found.replicates["sd(slope)"] == 0.0
    assert 0 < zero.sum() < 12
    assert f"sd(slope) in {zero.sum()}" in str(found)
    labels = [str(label) for label in fit.data.labels]
    for r in (int(np.argmax(zero)), int(np.argmin(zero))):
        weights = case_weights(labels, 0, r, np.zeros(12, int))
        single = jn.fit(model, fit.data.with_weights(weights), "focei")
        assert found.replicates["log_likelihood"][r] == pytest.approx(single.log_likelihood, abs=1e-6)
        assert found.replicates["sd(slope)"][r] == pytest.approx(single.values["sd(slope)"], abs=1e-5)


@pytest.fixture(scope="module")
def theophylline() -> jn.Fit:
    return jn.fit(catalogue.oral(), catalogue.theophylline_mg(), "focei").throw()


def test_multistart_finds_both_absorptions_of_theophylline(theophylline):
    """Fast absorption and slow elimination, or the reverse (flip-flop), which fits these data better: ka and cl / v
    change places."""
    found = theophylline.multistart(16, spread=1.2, seed=1, max_iterations=60)
    assert len(found.maxima) >= 2
    top = found.maxima.iloc[0]
    assert top["gain"] == pytest.approx(3.2343, abs=1e-3)
    assert top["ka"] < top["cl"] / top["v"]
    own = found.maxima[found.maxima["fit"]].iloc[0]
    assert own["log_likelihood"] == pytest.approx(theophylline.log_likelihood, abs=1e-6)
    assert own["ka"] == pytest.approx(theophylline.values["ka"], rel=1e-4)
    assert found.maxima["starts"].sum() == (found.starts["status"] == "converged").sum()
    assert "A BETTER MAXIMUM than the fit's was found, by 3.2343" in str(found)
    assert found.best.converged
    assert found.best.log_likelihood == pytest.approx(top["log_likelihood"], abs=1e-6)


def test_a_multistart_without_a_better_maximum(orange):
    found = orange.multistart(8, spread=0.2)
    assert found.maxima["fit"].iloc[0] and found.best is orange
    assert "No better maximum" in str(found)
    assert found.starts["start of Asym"][0] == 192.0


def counted(phi, x):
    TRACED.append(1)
    return catalogue.sslogis(phi, x)


def test_another_number_and_seed_trace_nothing(orange):
    model = jn.NLMEModel(counted, orange.model.parameters, error=jn.error.constant(10.0))
    fit = jn.fit(model, orange.data, "focei")
    fit.bootstrap(20, seed=0)
    before = len(TRACED)
    fit.bootstrap(30, seed=1)
    fit.bootstrap(25, seed=2)
    assert len(TRACED) == before


def test_what_is_refused(orange):
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
    """A structural model with a weight of its own."""

    weight: jax.Array

    def __call__(self, phi, x):
        return phi.mu + self.weight[0] * x.t


def test_weights_of_the_structural_model_are_refitted():
    model = jn.NLMEModel(Slope(jnp.array([0.3])), [jn.Parameter("mu", 1.0, random=True)])
    fit = jn.fit(model, lines(), "focei").throw()
    found = fit.bootstrap(4)
    assert found.converged.all()
    weights = case_weights([str(k) for k in range(12)], 0, 2, np.zeros(12, int))
    single = jn.fit(model, lines().with_weights(weights), "focei").throw()
    assert found.replicates["log_likelihood"][2] == pytest.approx(single.log_likelihood, abs=1e-8)
    with pytest.raises(jn.OptionError, match="leaves the weights of the structural model out"):
        fit.profile("mu")


def test_priors_enter_every_refit(line):
    """The influence of a group is on likelihood times priors."""
    prior = jn.priors.LogNormal(1.0, 0.3)
    model = jn.NLMEModel(catalogue.line, line.model.parameters, priors={"sd(mu)": prior})
    fit = jn.fit(model, lines(), "focei").throw()
    found = fit.jackknife()
    weights = np.where(np.arange(12) == 6, 0.0, 1.0)
    single = jn.fit(model, lines().with_weights(weights), "focei").throw()
    label = fit.data.labels[6]
    assert found.deleted.loc[label, "sd(mu)"] == pytest.approx(single.values["sd(mu)"], rel=1e-6)
    assert (found.influence["displacement"] > 0).all()


def test_an_outcome_without_a_sampler_has_no_parametric_bootstrap():
    """Counts by a log-density of the user's own: cases can be drawn, responses cannot."""
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


def test_a_refit_without_information_is_no_success():
    """One group alone has a level of a covariate: a draw or a deletion without it leaves its coefficient anywhere."""
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
