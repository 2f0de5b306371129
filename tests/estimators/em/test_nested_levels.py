"""SAEM and IMP with random effects at nested levels: against exact likelihoods of linear models, and quadrature written
out here."""

from __future__ import annotations

import functools

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
import scipy.optimize

import jaxnlme as jn

SEEDS = (0, 1)


def line(phi, x):
    """A straight line in t."""
    return phi.level + phi.slope * x.t


def decay(phi, x):
    """Exponential decay from a known dose: clearance over volume 8."""
    return 12.0 * jnp.exp(-phi.cl / 8.0 * x.t)


def carry_over(phi, x):
    """A level that keeps a half of that of the unit before."""
    own = phi.on("occ").level
    before = jnp.concatenate([jnp.zeros(1), own[:-1]])
    return (own + 0.5 * before)[x.unit.astype(int)]


def linear_frame(levels, seed, groups=40):
    """Rows of a linear model with random level and slope by id, random level by occ (and by part inside), and between 1
    and 4 units at each level; a group has one occ, and one occ has no response."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(groups):
        b, slope, size = rng.normal() * 1.0, rng.normal() * 0.5, rng.normal()
        for o in range(1 if i == 3 else rng.integers(1, 5)):
            bo, sick = rng.normal() * 0.6, rng.integers(2)
            for p in range(1 if levels < 3 else rng.integers(1, 4)):
                bp = rng.normal() * 0.4 if levels == 3 else 0.0
                for t in rng.uniform(0, 3, 4):
                    mean = 5.0 + 0.4 * size + b + bo + bp - 0.5 * sick + (1.0 + slope) * t
                    empty = i == 5 and o == 0
                    y = np.nan if empty else mean + rng.normal() * 0.5
                    rows.append((i, o + 1, p + 1, t, size, float(sick), y))
    return pd.DataFrame(rows, columns=["id", "occ", "part", "t", "size", "sick", "y"])


@functools.cache
def linear_problem(levels):
    names = ["id", "occ", "part"][:levels]
    data = jn.GroupedData.from_frame(linear_frame(levels, 1), names, "y", ["t", "sick"], v=["size"])
    model = jn.NLMEModel(
        line,
        [
            jn.Parameter("level", 4.0, random=names, covariates=["size", "sick"]),
            jn.Parameter("slope", 0.5, random="id"),
        ],
        covariance={"id": "full"},
    )
    exact = jn.fit(model, data, "focei")
    assert exact.converged
    return model, data, exact


def assert_maximum(fit, exact, tolerance=0.05, of_se=0.08):
    """Estimates within `tolerance` standard errors of the maximum, standard errors within their Monte Carlo error."""
    assert fit.converged, fit.status.sentences
    se = np.sqrt(np.diag(exact.information.covariance))
    assert (np.abs(fit.params.pack() - exact.params.pack()) < tolerance * se).all()
    assert (np.abs(fit.estimates["se"] / exact.estimates["se"] - 1.0) < of_se).all()


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("levels", [2, 3])
def test_a_linear_model(levels, seed):
    model, data, exact = linear_problem(levels)
    fit = jn.fit(model, data, jn.SAEM(seed=seed))
    assert_maximum(fit, exact)
    error = fit.sampling.log_likelihood_se
    assert error < 0.3
    assert abs(fit.log_likelihood - exact.log_likelihood) < 4.0 * error + 0.01


@pytest.mark.parametrize("levels", [2, 3])
def test_a_linear_model_by_importance_sampling(levels):
    model, data, exact = linear_problem(levels)
    fit = jn.fit(model, data, jn.IMP(seed=2))
    assert_maximum(fit, exact)
    assert abs(fit.log_likelihood - exact.log_likelihood) < 4.0 * fit.sampling.log_likelihood_se + 0.01


def test_tables_by_level():
    """Conditional means and deviations of a linear model are modes and their standard errors."""
    model, data, exact = linear_problem(2)
    fit = jn.fit(model, data, jn.SAEM(seed=0, chains=20))
    sampling = fit.sampling
    for level in ("id", "occ"):
        mean, sd = sampling.effects_mean[level], sampling.effects_sd[level]
        modes, se = exact.random_effects[level], exact.random_effects_se[level]
        assert mean.index.equals(modes.index) and list(mean.columns) == list(modes.columns)
        known = ~((mean.index.get_level_values("id") == 5) & (level == "occ"))  # it has an occ without response
        mean, sd, modes, se = (table.to_numpy()[known] for table in (mean, sd, modes, se))
        assert (np.abs(mean - modes) < 0.1 * se).all() and (np.abs(sd / se - 1.0) < 0.1).all()
    table = sampling.parameters_mean
    assert list(table.columns) == ["level", "slope"] and table.index.names == ["id", "occ"]
    assert sampling.parameter_samples.shape[0] == len(table) == int(data.nested[0].counts.sum())
    slope = fit.params.beta[list(fit.binding.density.beta_names).index("slope")] + sampling.effects_mean["id"]["slope"]
    np.testing.assert_allclose(table["slope"].groupby("id").first(), slope, atol=0.2)


# ---- a nonlinear model, by quadrature written out


@functools.cache
def decay_frame(occasions=4, groups=30):
    rng = np.random.default_rng(7)
    rows = []
    for i in range(groups):
        b = rng.normal() * 0.4
        for o in range(rng.integers(1, occasions + 1)):
            cl = np.exp(0.3 + b + rng.normal() * 0.3)
            for t in (0.5, 3.0, 9.0):
                rows.append((i, o + 1, t, 12.0 * np.exp(-cl / 8.0 * t) + rng.normal() * 0.5))
    return pd.DataFrame(rows, columns=["id", "occ", "t", "y"])


def decay_problem(occasions=4):
    data = jn.GroupedData.from_frame(decay_frame(occasions), ["id", "occ"], "y", ["t"])
    model = jn.NLMEModel(decay, [jn.Parameter("cl", 2.0, "log", random=["id", "occ"])])
    return model, data


def normal_grid(points):
    """Points and weights of the trapezoid rule for a standard normal variable, which converges exponentially."""
    x = np.linspace(-6.0, 6.0, points)
    weights = np.exp(-0.5 * x**2)
    return x, weights / weights.sum()


def quadrature(packed, frame, points=(201, 121)):
    """log-likelihood at log cl, log sd(cl), log sd(cl|occ), log a: over the effects of a group, and within that over
    those of each occasion."""
    outer, inner = map(normal_grid, points)
    beta, sd, sd_occ, a = packed[0], *np.exp(packed[1:])
    total = 0.0
    for _, group in frame.groupby("id"):
        log_outer = np.log(outer[1])
        for _, rows in group.groupby("occ"):
            log_cl = beta + sd * outer[0][:, None, None] + sd_occ * inner[0][None, :, None]
            f = 12.0 * np.exp(-np.exp(log_cl) / 8.0 * rows["t"].to_numpy())
            terms = -0.5 * ((rows["y"].to_numpy() - f) / a) ** 2 - np.log(a) - 0.5 * np.log(2.0 * np.pi)
            each = terms.sum(axis=2) + np.log(inner[1])[None, :]
            log_outer = log_outer + scipy.special.logsumexp(each, axis=1)
        total += scipy.special.logsumexp(log_outer)
    return total


@functools.cache
def decay_maximum(occasions=4):
    """Maximum by quadrature, its log-likelihood and the standard errors there."""
    frame = decay_frame(occasions)
    found = scipy.optimize.minimize(lambda x: -quadrature(x, frame), [0.3, -1.0, -1.2, -0.7], method="BFGS", tol=1e-6)
    steps = 1e-2 * np.eye(4)

    def value(x):
        return -quadrature(x, frame)

    hessian = np.array(
        [
            [(value(found.x + s + t) - value(found.x + s - t) - value(found.x - s + t) + value(found.x - s - t)) / 4e-4
             for t in steps]
            for s in steps
        ]
    )  # fmt: skip
    return found.x, -found.fun, np.sqrt(np.diag(np.linalg.inv(hessian)))


@pytest.mark.parametrize(("method", "seed"), [("saem", 0), ("saem", 1), ("imp", 0)])
def test_a_nonlinear_model(method, seed):
    model, data = decay_problem()
    maximum, log_likelihood, se = decay_maximum()
    fit = jn.fit(model, data, {"saem": jn.SAEM, "imp": jn.IMP}[method](seed=seed))
    assert fit.converged, fit.status.sentences
    assert (np.abs(fit.params.pack() - maximum) < 0.05 * se).all()
    ratio = np.sqrt(np.diag(fit.information.covariance)) / se
    assert (np.abs(ratio - 1.0) < 0.05).all()
    assert abs(fit.log_likelihood - log_likelihood) < 4.0 * fit.sampling.log_likelihood_se + 0.01


# ---- other layouts of the effects


def test_the_linearised_likelihood_and_information():
    """Exact for a linear model."""
    model, data, exact = linear_problem(2)
    fit = jn.fit(model, data, jn.SAEM(seed=0, likelihood="lin", information="linearised"))
    assert_maximum(fit, exact, of_se=0.01)
    assert abs(fit.log_likelihood - exact.log_likelihood) < 1e-3


def test_effects_of_the_inner_level_only():
    data = linear_problem(2)[1]
    model = jn.NLMEModel(line, [jn.Parameter("level", 4.0, random="occ"), jn.Parameter("slope", 0.5)])
    exact = jn.fit(model, data, "focei")
    fit = jn.fit(model, data, jn.SAEM(seed=0))
    assert_maximum(fit, exact)
    assert "closed form for level, psi and a" in fit.sampling.m_step  # centred on the effects of the units


def test_a_standard_deviation_held_at_a_level():
    data = linear_problem(2)[1]
    parameters = [
        jn.Parameter("level", 4.0, random=["id", "occ"], sd={"id": 1.0, "occ": jn.fixed(0.4)}),
        jn.Parameter("slope", 0.5, random="id"),
    ]
    model = jn.NLMEModel(line, parameters, covariance={"id": "full"})
    exact, fit = jn.fit(model, data, "focei"), jn.fit(model, data, jn.SAEM(seed=0))
    active = exact.information.active
    se = np.sqrt(np.diag(exact.information.covariance))
    assert fit.converged, fit.status.sentences
    assert (np.abs(fit.params.pack() - exact.params.pack())[active] < 0.05 * se).all()
    assert fit.estimates["estimate"]["sd(level|occ)"] == pytest.approx(0.4)


def test_a_variance_of_zero_at_the_inner_level():
    """The responses of the units of a group have no common deviation: fewer than chance, so that the maximum is at
    zero."""
    rng = np.random.default_rng(2)
    rows = []
    for i in range(40):
        b = rng.normal()
        for o in range(4):
            noise = rng.normal(size=4) * 0.5
            rows += [(i, o + 1, float(t), 5.0 + b + t + e) for t, e in enumerate(noise - 0.9 * noise.mean())]
    frame = pd.DataFrame(rows, columns=["id", "occ", "t", "y"])
    data = jn.GroupedData.from_frame(frame, ["id", "occ"], "y", ["t"])
    model = jn.NLMEModel(line, [jn.Parameter("level", 4.0, random=["id", "occ"]), jn.Parameter("slope", 0.5)])
    exact, fit = jn.fit(model, data, "focei"), jn.fit(model, data, jn.SAEM(seed=0))
    assert exact.at_zero and fit.converged, fit.status.sentences
    assert any("level|occ" in sentence for sentence in fit.at_zero)
    se = exact.estimates["se"].dropna()
    difference = (fit.estimates["estimate"] - exact.estimates["estimate"])[se.index]
    assert (np.abs(difference) < 0.05 * se).all()


def test_a_model_with_carry_over_between_units():
    """Units do not accept by themselves: the log-density is no sum over units."""
    rng = np.random.default_rng(3)
    rows = []
    for i in range(40):
        b, before = rng.normal() * 0.8, 0.0
        for o in range(rng.integers(1, 5)):
            own = 3.0 + b + rng.normal() * 0.6
            rows += [(i, o + 1, float(o), own + 0.5 * before + rng.normal() * 0.4) for _ in range(3)]
            before = own
    frame = pd.DataFrame(rows, columns=["id", "occ", "unit", "y"])
    data = jn.GroupedData.from_frame(frame, ["id", "occ"], "y", ["unit"])
    model = jn.NLMEModel(carry_over, [jn.Parameter("level", 2.0, random=["id", "occ"])])
    exact, fit = jn.fit(model, data, "focei"), jn.fit(model, data, jn.SAEM(seed=0))
    assert not fit.binding.density.levels.separable
    assert_maximum(fit, exact)
    assert abs(fit.log_likelihood - exact.log_likelihood) < 4.0 * fit.sampling.log_likelihood_se + 0.01


def count_log_density(y, f, p, x, v):
    """A Poisson outcome with log rate f."""
    return y * f - jnp.exp(f)


def test_counts():
    """An outcome of the user, by row: SAEM agrees with IMP, which draws all effects of a group at once."""
    frame = linear_frame(2, 5).dropna()
    rng = np.random.default_rng(0)
    frame["count"] = rng.poisson(np.exp(0.25 * frame["y"]))
    data = jn.GroupedData.from_frame(frame, ["id", "occ"], "count", ["t"])
    error = jn.GroupLogLikelihood(count_log_density)
    model = jn.NLMEModel(
        line, [jn.Parameter("level", 1.0, random=["id", "occ"]), jn.Parameter("slope", 0.2)], error=error
    )
    saem, imp = jn.fit(model, data, jn.SAEM(seed=0)), jn.fit(model, data, jn.IMP(seed=0))
    assert saem.converged and imp.converged, (saem.status.sentences, imp.status.sentences)
    se = np.sqrt(np.diag(imp.information.covariance))
    assert (np.abs(saem.params.pack() - imp.params.pack()) < 0.05 * se).all()
    assert any("|occ" in kernel or ", occ" in kernel for kernel in saem.sampling.kernels)
