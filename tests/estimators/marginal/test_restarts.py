"""Fits that start where another ended, also at a boundary; lists of methods; groups of weight zero."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn


def line(phi, x):
    return phi.level + phi.slope * x.t


def model(**options):
    parameters = [jn.Parameter("level", 1.0, random=True), jn.Parameter("slope", 0.5, random=True)]
    return jn.NLMEModel(line, parameters, **options)


def data(seed=1, groups=10, bad=()):
    """Levels vary between groups, slopes do not: with this seed their variance is estimated as zero."""
    rng = np.random.default_rng(seed)
    group, t = np.repeat(np.arange(groups), 5), np.tile(np.arange(5.0), groups)
    y = 1.0 + rng.normal(size=groups)[group] + 0.5 * t + 0.3 * rng.normal(size=len(group))
    return jn.GroupedData.from_arrays(y, group, {"t": np.where(np.isin(group, bad), -t - 1, t)})


@pytest.fixture(scope="module")
def at_zero():
    fit = jn.fit(model(), data(), "focei")
    assert fit.converged and fit.values["sd(slope)"] == 0.0 and fit.values["sd(level)"] > 0.5
    return fit


@pytest.mark.parametrize("entry", ["fit", "values", "psi"])
def test_a_start_at_the_boundary(at_zero, entry):
    """The zero variance is tested again: it remains, the fit converges, and standard errors are the same."""
    start = {"fit": at_zero, "values": at_zero.values, "psi": None}[entry]
    declared = model(psi=np.diag([0.5, 0.0])) if entry == "psi" else model()
    again = jn.fit(declared, data(), "focei", start=start)
    assert again.converged, again.status
    assert again.values["sd(slope)"] == 0.0
    assert again.log_likelihood == pytest.approx(at_zero.log_likelihood, abs=1e-8)
    # Differences of the same gradient with steps scaled by another minimiser's metric.
    np.testing.assert_allclose(again.estimates.se, at_zero.estimates.se, rtol=1e-4)


def test_a_zero_variance_grows_where_the_likelihood_rises():
    """Started at zero, a variance that the data support is freed again (the score at the boundary is positive)."""
    free = jn.fit(model(), data(), "focei")
    again = jn.fit(model(psi=np.diag([0.0, 0.01])), data(), "focei")
    assert again.converged, again.status
    assert again.log_likelihood == pytest.approx(free.log_likelihood, abs=1e-6)


def test_a_list_of_methods_ends_where_the_user_stops_it():
    calls = []

    def interrupt(iteration):
        calls.append(iteration)
        raise KeyboardInterrupt

    fit = jn.fit(model(), data(), ["fo", "focei"], callbacks=[interrupt])
    assert fit.interrupted and fit.method == "FO" and len(calls) == 1
    fit = jn.fit(model(), data(), ["fo", "focei"], callbacks=[lambda iteration: True])
    assert fit.stopped and not fit.converged and fit.method == "FO"


def rooted(phi, x):
    return phi.level + jnp.sqrt(x.t)


def test_a_group_of_weight_zero_stops_nothing():
    """Its model is NaN (the root of a negative time); the fit is that of the other groups."""
    declared = jn.NLMEModel(rooted, [jn.Parameter("level", 1.0, random=True)])
    table = data(bad=[3])
    weights = np.where(table.labels == 3, 0.0, 1.0)
    fit = jn.fit(declared, table.with_weights(weights), "focei")
    rest = jn.fit(declared, table.select(weights > 0), "focei")
    assert fit.converged and rest.converged
    assert fit.log_likelihood == pytest.approx(rest.log_likelihood, abs=1e-8)
    assert fit.estimates.se.to_numpy() == pytest.approx(rest.estimates.se.to_numpy(), rel=1e-4)


def test_a_pooled_start_without_the_bad_group():
    declared = jn.NLMEModel(rooted, [jn.Parameter("level", 1.0, random=True)])
    fit = jn.fit(declared, data(bad=[3]), "focei", starts="pooled", on_bad_group="leave out")
    assert fit.converged
    assert any("pooled fit" in sentence for sentence in fit.status.sentences)
    assert [label for label, _ in fit.status.left_out] == [3]


def test_a_model_is_needed_beside_data(at_zero):
    with pytest.raises(jn.ModelError, match="a model is needed"):
        jn.log_likelihood(None, at_zero.params, data())


def test_a_start_at_a_singular_psi():
    """The slope's effect acts through the level's: a column of zeros in the factor does not mean an effect without
    influence."""
    start = jn.fit(model(covariance="full"), data(), "focei")
    declared = model(covariance="full", psi=np.array([[1.0, 0.2], [0.2, 0.04]]))
    fit = jn.fit(declared, data(), "focei")
    assert fit.log_likelihood == pytest.approx(start.log_likelihood, abs=1e-4)


def test_a_start_where_the_scores_of_a_coefficient_vanish():
    """One group carries a coefficient, and the fit starts at that group's own maximum: the score that is zero there
    does not imply zero curvature, and must not keep the other entries from moving."""
    frame = data(seed=3).to_frame()
    frame["rare"] = (frame["group"] == 4).astype(float)
    parameters = [jn.Parameter("level", 1.0, random=True, covariates=["rare"]), jn.Parameter("slope", 0.5)]
    declared = jn.NLMEModel(line, parameters)

    def table(frame):
        return jn.GroupedData.from_frame(frame, "group", "y", ["t"], v=["rare"])

    first = jn.fit(declared, table(frame), "focei")
    other = frame.assign(y=np.where(frame["rare"] == 1, frame["y"], 1.3 * frame["y"] - 0.8))
    again, afresh = (jn.fit(declared, table(other), "focei", start=start) for start in (first, None))
    assert again.converged and len(again.history) > 2
    assert again.log_likelihood == pytest.approx(afresh.log_likelihood, abs=1e-6)
