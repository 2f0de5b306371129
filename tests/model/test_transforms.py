"""Transforms and priors: round trips, slopes, limits, densities."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats as st

import jaxnlme as jn
from jaxnlme.binding.bind import bind
from jaxnlme.estimators.core.objective import evaluate
from jaxnlme.model.covariance.structures import CompoundSymmetry
from jaxnlme.model.transforms import transform
from tests.problems import cheap, decay, decay_data, decay_model, values

Composition, Logit, YeoJohnson = jn.transforms.Composition, jn.transforms.Logit, jn.transforms.YeoJohnson

# transform, shapes, values inside its domain
CASES = {
    "identity": ("identity", [None], [-3.0, 0.0, 2.0]),
    "log": ("log", [None], [1e-8, 0.3, 1.0, 40.0]),
    "logit": ("logit", [None], [1e-6, 0.2, 0.5, 0.999]),
    "logit(0, 12)": ("logit(0, 12)", [None], [1e-4, 5.0, 11.9]),
    "probit": ("probit", [None], [1e-6, 0.2, 0.5, 0.999]),
    "probit(-2, 3)": ("probit(-2, 3)", [None], [-1.99, 0.0, 2.5]),
    "box-cox": ("box-cox", [-1.0, 0.0, 1e-7, 0.5, 1.0, 2.0], [0.05, 0.8, 1.0, 7.0]),
    "yeo-johnson": ("yeo-johnson", [-0.5, 0.0, 1e-7, 0.5, 1.0, 2.0, 2.5], [-3.0, -0.1, 0.0, 0.4, 6.0]),
    "composition": (Composition(Logit(0.0, 12.0), YeoJohnson()), [0.0, 0.5, 1.0, 2.0], [0.1, 5.0, 6.0, 11.0]),
}
EACH = [(name, shape) for name, (_, shapes, _) in CASES.items() for shape in shapes]


@pytest.mark.parametrize(("name", "shape"), EACH)
def test_round_trip_and_slope(name: str, shape: float | None) -> None:
    h, y = transform(CASES[name][0]), np.array(CASES[name][2])
    low, high = h.domain
    assert ((y > low) & (y < high)).all()
    assert h.has_shape == (shape is not None)
    u = np.asarray(h.to_real(y, shape))
    # cancellation near a bound: a value 1e-6 from the bound 1 keeps ten digits
    assert np.asarray(h.to_natural(u, shape)) == pytest.approx(y, rel=1e-9, abs=1e-12)
    slope = np.asarray(jax.vmap(jax.grad(lambda y: jnp.reshape(h.to_real(y, shape), ())))(jnp.asarray(y)))
    assert (slope > 0).all()
    assert np.asarray(h.log_slope(jnp.asarray(y), shape)) == pytest.approx(np.log(slope), rel=1e-9, abs=1e-9)
    # against differences of fourth order, with an error of step^4
    step = 1e-3 * np.minimum(np.minimum(y - low, high - y), 1.0)
    difference = sum(
        w * np.asarray(h.to_real(y + k * step, shape)) for k, w in ((-2, 1), (-1, -8), (1, 8), (2, -1))
    ) / (12 * step)
    # The third derivative of Yeo-Johnson is not continuous at 0.
    smooth = np.abs(y) > 0.01 if "yeo" in name else np.full(y.shape, True)
    assert slope[smooth] == pytest.approx(difference[smooth], rel=1e-7)


@pytest.mark.parametrize("name", CASES)
def test_host_and_traced_values_agree(name: str) -> None:
    h, y, shape = transform(CASES[name][0]), np.array(CASES[name][2]), CASES[name][1][-1]
    traced = jax.jit(lambda y: h.to_real(y, shape))(jnp.asarray(y))
    assert np.asarray(h.to_real(y, shape)) == pytest.approx(np.asarray(traced), rel=1e-12, abs=1e-12)


def test_published_formulas() -> None:
    y = np.array([0.2, 1.0, 5.0])
    assert np.asarray(transform("box-cox").to_real(y, 0.5)) == pytest.approx((np.sqrt(y) - 1) / 0.5, rel=1e-13)
    signed = np.array([-3.0, -0.1, 0.0, 0.4, 6.0])
    for shape in (0.0, 0.5, 2.0, 2.5):
        expected = st.yeojohnson(signed, shape)
        assert np.asarray(transform("yeo-johnson").to_real(signed, shape)) == pytest.approx(expected, rel=1e-12)
    assert transform("probit").to_real(0.975) == pytest.approx(st.norm.ppf(0.975), rel=1e-13)
    assert transform("logit(2, 4)").to_real(2.5) == pytest.approx(np.log(0.25 / 0.75), rel=1e-13)


@pytest.mark.parametrize("name", ["box-cox", "yeo-johnson"])
@pytest.mark.parametrize("limit", [0.0, 2.0])
def test_derivatives_in_the_shape_are_continuous_at_its_limits(name: str, limit: float) -> None:
    h = transform(name)
    # the other branch of Yeo-Johnson has its limit at 2
    y = jnp.asarray(3.0 if limit == 0.0 else -3.0 if name == "yeo-johnson" else 3.0)
    for fn in (h.to_real, jax.grad(h.to_real, argnums=1), jax.grad(jax.grad(h.to_real, argnums=1), argnums=1)):
        at = [float(fn(y, jnp.asarray(limit + d))) for d in (-2e-4, -5e-6, 0.0, 5e-6, 2e-4)]
        assert np.isfinite(at).all()
        # Linear over 4e-4 up to a curvature times 1e-8. Within 1e-5 a series is used, whose second derivative in the
        # shape has an error of the size of the shape, some 5e-6.
        assert np.array(at) == pytest.approx(np.interp([-2e-4, -5e-6, 0, 5e-6, 2e-4], [-2e-4, 2e-4], at[::4]), rel=1e-5)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("lgo", "unknown transform 'lgo'; did you mean 'log'"),
        ("log(1, 2)", "take two bounds"),
        ("logit(1)", "two bounds"),
    ],
)
def test_unknown_transforms_are_refused(spec: str, message: str) -> None:
    with pytest.raises(jn.OptionError, match=message):
        transform(spec)


def test_empty_interval_is_refused() -> None:
    with pytest.raises(jn.OptionError, match="expected lower < upper"):
        transform("logit(2, 1)")


PRIORS = [
    (jn.priors.Normal(0.4, 1.7), st.norm(0.4, 1.7), [-3.0, 0.4, 2.0], None),
    (jn.priors.LogNormal(2.0, 0.6), st.lognorm(0.6, scale=2.0), [0.1, 2.0, 9.0], -0.5),
    (jn.priors.HalfNormal(1.5), st.halfnorm(scale=1.5), [0.0, 0.3, 4.0], -0.1),
    (jn.priors.Gamma(2.0, 3.0), st.gamma(2.0, scale=1 / 3.0), [0.1, 1.0, 4.0], -1.0),
]


@pytest.mark.parametrize(("prior", "reference", "inside", "outside"), PRIORS, ids=lambda p: type(p).__name__)
def test_prior_densities(prior, reference, inside, outside) -> None:
    for value in inside:
        assert float(prior.log_density(jnp.asarray(value))) == pytest.approx(reference.logpdf(value), rel=1e-12)
    if outside is not None:
        assert float(prior.log_density(jnp.asarray(outside))) == -np.inf
    slopes = jax.vmap(jax.grad(prior.log_density))(jnp.asarray(inside))
    assert np.isfinite(np.asarray(slopes)).all()


def test_objective_adds_the_priors_of_reported_values() -> None:
    parameters = [
        jn.Parameter("a", 2.0, "log", random=True, prior=jn.priors.Normal(0.5, 0.2)),
        jn.Parameter("b", 3.0, "log", random=True),
        jn.Parameter("c", 1.0, "log"),
    ]
    error = jn.error.combined(0.1, 0.2)
    priors = {
        "sd(b)": jn.priors.HalfNormal(0.4),
        "corr(a, b)": jn.priors.Normal(0.0, 0.3),
        "c": jn.priors.Normal(0.1, 1.0),
    }
    data, psi = decay_data(), np.array([[0.09, 0.02], [0.02, 0.04]])
    binding = bind(jn.NLMEModel(decay, parameters, "full", error, psi=psi, priors=priors), data)
    start = jax.tree.map(jnp.asarray, binding.start)
    approximation = jn.FOCEI()
    evaluation = cheap(evaluate)(binding.problem, approximation, start, start.pack(), jnp.zeros((data.n_groups, 2)))
    expected = (
        st.norm(0.5, 0.2).logpdf(np.log(2.0))
        + st.halfnorm(scale=0.4).logpdf(0.2)
        + st.norm(0.0, 0.3).logpdf(0.02 / 0.06)
        + st.norm(0.1, 1.0).logpdf(0.0)
    )
    likelihood = values(binding.problem, approximation, start).sum()
    assert float(evaluation.log_likelihood) == pytest.approx(likelihood, rel=1e-12)
    assert -float(evaluation.value) == pytest.approx(likelihood + expected, rel=1e-12)
    slope = np.asarray(jax.grad(lambda p: binding.density.log_prior(start.unpack(p)))(start.pack()))
    assert slope[:3] == pytest.approx([(0.5 - np.log(2.0)) / 0.04, 0.0, 0.1])
    scores = np.asarray(evaluation.scores).sum(axis=0)
    assert -np.asarray(evaluation.gradient) == pytest.approx(scores + slope, rel=1e-10, abs=1e-10)


def test_model_without_priors_has_none() -> None:
    binding = bind(decay_model(), decay_data())
    assert float(binding.density.log_prior(binding.start)) == 0.0


def test_priors_on_unknown_names_are_refused() -> None:
    model = jn.NLMEModel(decay, {"a": 2.0, "b": 3.0, "c": 1.0}, priors={"sd(a)": jn.priors.HalfNormal(1.0)})
    with pytest.raises(jn.ModelError, match=r"prior on 'sd\(a\)' is not a name of this model"):
        bind(model, decay_data())


@pytest.mark.parametrize("real", [-1e4, -800.0, 0.0, 800.0, 1e4])
def test_logits_have_finite_derivatives_where_exponentials_overflow(real: float) -> None:
    h = Logit(0.0, 12.0)
    value, slope = jax.value_and_grad(h.to_natural)(jnp.asarray(real))
    assert np.isfinite(slope)
    with np.errstate(all="raise", under="ignore"):
        assert h.to_natural(real) == pytest.approx(float(value), rel=1e-13)
    family = CompoundSymmetry(3)
    assert np.isfinite(jax.grad(lambda t: family._correlation(jnp.stack([0.0, t])))(jnp.asarray(real)))
