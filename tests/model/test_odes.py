"""Model functions that call a solver of differential equations: odeint, and diffrax with any adjoint."""

from __future__ import annotations

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from jax.experimental.ode import odeint

import jaxnlme as jn
from jaxnlme.binding.placement import PlacedProblem
from jaxnlme.model.structural import structural as structural_of
from jaxnlme.records import Record

TIMES = jnp.asarray([0.5, 1.0, 2.0, 4.0, 7.0, 12.0])
ADJOINTS = {
    "default": diffrax.RecursiveCheckpointAdjoint(),
    "forward": diffrax.ForwardMode(),
    "direct": diffrax.DirectAdjoint(),
    "backsolve": diffrax.BacksolveAdjoint(),
}


def by_odeint(rhs, start, t, *parameters, tolerance=1e-10):
    times = jnp.concatenate([jnp.zeros(1), t])
    return odeint(lambda y, t, *p: rhs(t, y, p), start, times, *parameters, rtol=tolerance, atol=tolerance)[1:]


def by_diffrax(rhs, start, t, *parameters, adjoint="default", tolerance=1e-10, solver=None, **options):
    return diffrax.diffeqsolve(
        diffrax.ODETerm(rhs),
        diffrax.Tsit5() if solver is None else solver,
        0.0,
        t[-1],
        0.1,
        start,
        args=parameters,
        saveat=diffrax.SaveAt(ts=t),
        stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance),
        adjoint=ADJOINTS[adjoint],
        **options,
    ).ys


SOLVERS = {"odeint": by_odeint} | {
    name: lambda *a, name=name, **k: by_diffrax(*a, adjoint=name, **k) for name in ADJOINTS
}


def one_compartment(solve):
    def f(phi, x):
        start = jnp.stack([phi.dose, 0.0 * phi.dose])
        y = solve(lambda t, y, p: jnp.stack([-p[0] * y[0], p[0] * y[0] - p[1] * y[1]]), start, x.t, phi.ka, phi.ke)
        return y[:, 1]

    return f


def one_compartment_closed(phi, x):
    decay = jnp.exp(-phi.ke * x.t) - jnp.exp(-phi.ka * x.t)
    return phi.dose * phi.ka / (phi.ka - phi.ke) * decay


def two_compartments(solve):
    def rhs(t, y, p):
        k, k12, k21 = p
        return jnp.stack([-(k + k12) * y[0] + k21 * y[1], k12 * y[0] - k21 * y[1]])

    return lambda phi, x: solve(rhs, jnp.stack([phi.dose, 0.0 * phi.dose]), x.t, phi.k, phi.k12, phi.k21)[:, 0]


def two_compartments_closed(phi, x):
    total, product = phi.k + phi.k12 + phi.k21, phi.k * phi.k21
    root = jnp.sqrt(total**2 - 4.0 * product)
    fast, slow = (total + root) / 2.0, (total - root) / 2.0
    up, down = (fast - phi.k21) / (fast - slow), (phi.k21 - slow) / (fast - slow)
    return phi.dose * (up * jnp.exp(-fast * x.t) + down * jnp.exp(-slow * x.t))


def saturable(solve):
    """Michaelis-Menten elimination."""
    return lambda phi, x: solve(lambda t, y, p: -p[0] * y / (p[1] + y), phi.dose, x.t, phi.vmax, phi.km)


def saturable_closed(phi, x):
    """Lambert's W by Newton steps: y / km + log(y / km) = (dose - vmax t) / km + log(dose / km)."""
    right = (phi.dose - phi.vmax * x.t) / phi.km + jnp.log(phi.dose / phi.km)
    w = jnp.log1p(jnp.exp(right))  # of log w + w = right
    for _ in range(8):
        w = w * (1.0 + right - jnp.log(w)) / (1.0 + w)
    return phi.km * w


MODELS = {
    "one compartment": (one_compartment, one_compartment_closed, {"ka": 1.1, "ke": 0.2, "dose": 10.0}),
    "two compartments": (
        two_compartments,
        two_compartments_closed,
        {"k": 0.4, "k12": 0.3, "k21": 0.2, "dose": 10.0},
    ),
    "saturable": (saturable, saturable_closed, {"vmax": 1.3, "km": 2.0, "dose": 10.0}),
}


def of_parameters(f, names, t=TIMES):
    """The model function f as a function of a vector, evaluated as the package evaluates it."""
    structural, _ = structural_of(f)
    return lambda values: structural(
        None, Record(names, tuple(values), "parameter"), Record(("t",), (t,)), Record((), ())
    )


def derivatives(f, point):
    """Value, first, second and third derivatives, and a gradient and a Hessian that pass through reverse mode."""

    def total(p):
        return jnp.sum(f(p) ** 2)

    @jax.jit
    def all_of(p):
        third = jax.jvp(jax.jacfwd(jax.jacfwd(f)), (p,), (jnp.ones_like(p),))[1]
        return f(p), jax.jacfwd(f)(p), jax.jacfwd(jax.jacfwd(f))(p), third, jax.grad(total)(p), jax.hessian(total)(p)

    return all_of(point)


@pytest.mark.parametrize(
    ("model", "solver"), [("one compartment", "odeint"), ("two compartments", "default"), ("saturable", "forward")]
)
def test_derivatives_are_those_of_the_closed_form(model, solver):
    make, closed, values = MODELS[model]
    names, point = tuple(values), jnp.asarray(list(values.values()))
    found = derivatives(of_parameters(make(SOLVERS[solver]), names), point)
    expected = derivatives(of_parameters(closed, names), point)
    # Steps are chosen for the value: its derivatives have a few digits less with each order.
    for computed, exact, tolerance in zip(found, expected, (1e-8, 1e-7, 1e-6, 1e-4, 1e-7, 1e-6), strict=True):
        np.testing.assert_allclose(computed, exact, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(exact))))


@pytest.mark.parametrize("adjoint", ["default", "forward", "direct", "backsolve"])
def test_the_adjoint_makes_no_difference(adjoint):
    make, closed, values = MODELS["saturable"]
    names, point = tuple(values), jnp.asarray(list(values.values()))

    def score(f):
        """A gradient in reverse mode, differentiated in forward mode."""
        return jax.jit(jax.hessian(lambda p: jnp.sum(f(p) ** 2)))(point)

    exact = score(of_parameters(closed, names))
    found = score(of_parameters(make(SOLVERS[adjoint]), names))
    np.testing.assert_allclose(found, exact, rtol=0, atol=1e-6 * float(jnp.max(jnp.abs(exact))))


def test_a_function_without_a_solver_is_called_as_it_is():
    calls = []

    def f(phi, x):
        calls.append(phi)
        return phi.a * jnp.exp(-x.t)

    evaluate = of_parameters(f, ("a",))
    text = str(jax.make_jaxpr(evaluate)(jnp.ones(1)))
    assert len(calls) == 2 and "custom_jvp" not in text  # once to look for a solver
    jax.make_jaxpr(lambda values: evaluate(values))(jnp.ones(1))
    assert len(calls) == 3


def test_rows_at_one_time_and_a_start_at_rest():
    """odeint as it is has no derivative there: 0 / 0 in the time between two rows, and in the size of its first
    step."""
    t = jnp.asarray([0.0, 0.0, 1.0, 1.0, 3.0])

    def turnover(phi, x):
        return odeint(lambda y, t, kin, kout: kin - kout * y, phi.kin / phi.kout, x.t, phi.kin, phi.kout)

    def rest(phi, x):
        return phi.kin / phi.kout + 0.0 * x.t

    point = jnp.asarray([2.0, 0.5])
    found = derivatives(of_parameters(turnover, ("kin", "kout"), t), point)
    expected = derivatives(of_parameters(rest, ("kin", "kout"), t), point)
    for computed, exact in zip(found, expected, strict=True):
        np.testing.assert_allclose(computed, exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("solver", ["odeint", "default"])
def test_a_solver_that_fails_for_one_group_gives_nan_for_it(solver):
    """y' = k y^2 has no solution beyond t = 1 / (k y(0))."""
    solve = SOLVERS[solver]
    f = of_parameters(lambda phi, x: solve(lambda t, y, p: p[0] * y**2, 1.0 + 0.0 * phi.k, x.t, phi.k), ("k",))
    k = jnp.asarray([[0.01], [3.0], [0.02]])
    value, slope = jax.jit(jax.vmap(lambda p: (f(p), jax.jacfwd(f)(p))))(k)
    exact = 1.0 / (1.0 - k * TIMES[None])
    for good in (0, 2):
        np.testing.assert_allclose(value[good], exact[good], rtol=1e-6)
        np.testing.assert_allclose(slope[good][:, 0], TIMES * exact[good] ** 2, rtol=1e-5)
    assert np.isnan(value[1][-1])


def test_models_that_solve_equations_are_known():
    """Their programs are compiled with optimisation, and modes searched with first derivatives."""

    def flag(f):
        return jn.bind(jn.NLMEModel(f, PARAMETERS), table((3, 1))).density.solves_equations

    assert flag(decay("odeint")) and flag(decay("default")) and not flag(decay_closed)


@pytest.mark.parametrize("closure", [True, False])
def test_odeint_gives_the_states_and_derivatives_of_jax(closure):
    """Where the right-hand side reads whole numbers that are traced, by another way."""

    def f(phi, x):
        halves = jnp.sum(x.t > 0) if closure else 6
        y = by_odeint(lambda t, y, p: -p[0] * y * halves / 6, jnp.stack([phi.c, 2.0 * phi.c]), x.t, phi.k)
        return y[:, 0] + y[:, 1]

    structural, _ = structural_of(f)
    x = Record(("t",), (TIMES,))

    def predicted(model, k, c):
        return model(None, Record(("k", "c"), (k, c)), x, Record((), ()))

    point = jnp.asarray(0.3), jnp.asarray(8.0)
    plain = f(Record(("k", "c"), point), x)
    value, slope = jax.jit(lambda k, c: jax.jvp(lambda k: predicted(structural, k, c), (k,), (jnp.ones(()),)))(*point)
    np.testing.assert_allclose(value, plain, rtol=1e-12)
    np.testing.assert_allclose(slope, -TIMES * plain, rtol=1e-6)


def test_a_check_of_the_user_is_of_one_group():
    def f(phi, x):
        k = eqx.error_if(phi.k, phi.k < 0, "k must be positive")
        return jnp.exp(-k * x.t)

    value = jax.jit(jax.vmap(of_parameters(f, ("k",))))(jnp.asarray([[1.0], [-1.0]]))
    assert np.isfinite(value[0]).all() and np.isnan(value[1]).all()


def test_errors_of_the_users_code_are_raised():
    def f(phi, x):
        return diffrax.diffeqsolve(diffrax.ODETerm(lambda t, y, a: -phi.kk * y), diffrax.Tsit5(), 0.0, 1.0, 0.1, phi.c)

    with pytest.raises(jn.errors.UnknownNameError, match="kk"):
        of_parameters(f, ("k", "c"))(jnp.ones(2))


# --- data and fits ---


def table(sizes=(8,) * 8, seed=2, sd=0.3):
    rng = np.random.default_rng(seed)
    n = len(sizes)
    i = np.repeat(np.arange(n), sizes)
    t = np.concatenate([np.sort(rng.uniform(0.2, 10.0, size)) for size in sizes])
    k, c = 0.2 * np.exp(0.3 * rng.normal(size=n)), 10.0 * np.exp(0.2 * rng.normal(size=n))
    y = c[i] * np.exp(-k[i] * t) + sd * rng.normal(size=len(t))
    return jn.GroupedData.from_frame(pd.DataFrame({"id": i, "t": t, "y": y, "dose": c[i]}), "id", "y", ["t", "dose"])


PARAMETERS = [
    jn.Parameter("k", 0.3, transform="log", random=True),
    jn.Parameter("c", 8.0, transform="log", random=True),
]
UNEQUAL = (3, 9, 1, 6, 9, 2, 7, 5, 8, 4)


def decay(solver="default", **options):
    solve = SOLVERS[solver]
    return lambda phi, x: solve(lambda t, y, p: -p[0] * y, phi.c, x.t, phi.k, **options)


def decay_closed(phi, x):
    return phi.c * jnp.exp(-phi.k * x.t)


def test_times_go_on_in_padded_rows():
    data = table(UNEQUAL)
    problem = jn.bind(jn.NLMEModel(decay_closed, PARAMETERS), data).problem
    (group,) = (bucket for bucket in problem.buckets)
    (placed, _), *_ = PlacedProblem(problem)._held
    assert placed[0].y.shape[1] > group.y.shape[1]  # nine rows are padded to ten
    for x in (group.x, placed[0].x):
        t, dose, mask = np.asarray(x.t), np.asarray(x.dose), np.asarray(x.mask)
        assert (np.diff(t, axis=1) > 0).all()
        assert (dose == dose[:, :1]).all()  # a column that does not rise is repeated
        np.testing.assert_array_equal(t[mask], np.concatenate([row[: row_mask.sum()] for row, row_mask in zip(
            data.x["t"], data.rows, strict=True)]))  # fmt: skip
        last = np.array([row[m].max() for row, m in zip(t, mask, strict=True)])
        assert (t[:, -1] - last < 0.05 * 10).all()


@pytest.mark.parametrize("at", [0.0, 1.7e9])
def test_padded_times_far_from_zero(at):
    frame = pd.DataFrame({"id": [0, 0, 0, 1], "t": np.array([0.0, 1.0, 2.0, 0.5]) + at, "y": 1.0})
    data = jn.GroupedData.from_frame(frame, "id", "y", ["t"])
    (group,) = jn.bind(jn.NLMEModel(decay_closed, PARAMETERS), data).problem.buckets
    assert (np.diff(group.x.t, axis=1) > 0).all() and group.x.t[1, -1] - at < 0.6


@pytest.mark.parametrize(
    "reader",
    [
        lambda phi, x: decay("odeint")(phi, x) * (1.0 + jnp.mean(x.t)),
        lambda phi, x: decay_closed(phi, x) - decay_closed(phi, x)[-1],
    ],
)
def test_a_model_that_reads_padded_rows_is_refused(reader):
    with pytest.raises(jn.ModelError, match="change with the padding of short groups"):
        jn.fit(jn.NLMEModel(reader, PARAMETERS), table(UNEQUAL), "fo")


def value_and_gradient(f, data, method="focei"):
    model = jn.NLMEModel(f, PARAMETERS)
    params = model.params(data, {"k": 0.22, "c": 9.5, "sd(k)": 0.3, "sd(c)": 0.2})
    problem = jn.bind(model, data).problem
    packed = params.pack()
    value, slope = jax.jit(jax.value_and_grad(lambda p: jn.log_likelihood(None, params.unpack(p), problem, method)))(
        packed
    )
    return float(value), np.asarray(slope)


@pytest.mark.parametrize(("method", "solver"), [("focei", "odeint"), ("laplace", "default")])
def test_objective_and_gradient(method, solver):
    data = table((3, 1, 5))
    value, slope = value_and_gradient(decay(solver), data, method)
    exact, exact_slope = value_and_gradient(decay_closed, data, method)
    assert abs(value - exact) < 1e-6
    np.testing.assert_allclose(slope, exact_slope, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "solver", "tolerance"),
    [("focei", "odeint", 1e-8), ("fo", "default", 1e-4), ("lme", "odeint", 1e-8), ("agq", "default", 1e-8)],
)
def test_fits_are_those_of_the_closed_form(method, solver, tolerance):
    data = table(UNEQUAL)
    fit = jn.fit(jn.NLMEModel(decay(solver, tolerance=tolerance), PARAMETERS), data, method)
    closed = jn.fit(jn.NLMEModel(decay_closed, PARAMETERS), data, method)
    fine = tolerance < 1e-6
    assert closed.converged and (fit.converged or not fine), str(fit.status)
    assert abs(fit.log_likelihood - closed.log_likelihood) < (1e-4 if fine else 0.1)
    np.testing.assert_allclose(fit.estimates["estimate"], closed.estimates["estimate"], rtol=1e-3 if fine else 0.05)
    if fine:
        np.testing.assert_allclose(fit.estimates["se"], closed.estimates["se"], rtol=1e-2)


def test_a_fit_by_saem():
    data = table(UNEQUAL)
    fit = jn.fit(jn.NLMEModel(decay("default", tolerance=1e-6), PARAMETERS), data, jn.SAEM(seed=1))
    closed = jn.fit(jn.NLMEModel(decay_closed, PARAMETERS), data, jn.SAEM(seed=1))
    assert fit.converged and closed.converged
    np.testing.assert_allclose(fit.estimates["estimate"], closed.estimates["estimate"], rtol=1e-2)


def test_a_group_whose_solver_fails_is_named():
    """The solver uses up its steps in group 1 only, whose times go on for a million times as long."""
    n, t = 4, np.tile([1.0, 2.0, 4.0], (4, 1))
    t[1] *= 1e6
    frame = pd.DataFrame({"id": np.repeat(np.arange(n), 3), "t": t.ravel(), "y": np.tile([6.5, 5.4, 3.6], n)})
    late = jn.GroupedData.from_frame(frame, "id", "y", ["t"])
    model = jn.NLMEModel(decay("default", max_steps=40, tolerance=1e-6), PARAMETERS)
    fit = jn.fit(model, late, "focei", standard_errors=False)
    status = str(fit.status)
    assert not fit.converged and "group 1" in status and "rows 4, 5 and 6" in status and "used up its steps" in status


def test_what_is_asked_of_a_fit():
    data = table(UNEQUAL)
    fit = jn.fit(jn.NLMEModel(decay("default", tolerance=1e-8), PARAMETERS), data, "focei")
    closed = jn.fit(jn.NLMEModel(decay_closed, PARAMETERS), data, "focei")
    np.testing.assert_allclose(fit.predict(), closed.predict(), atol=1e-3)
    np.testing.assert_allclose(fit.simulate(1, 1), closed.simulate(1, 1), atol=1e-3)
    a, b = (f.residuals().select_dtypes(float) for f in (fit, closed))
    np.testing.assert_allclose(a, b, atol=1e-2)
    a, b = (f.bootstrap(3, seed=3, progress=False).replicates[["k", "c"]] for f in (fit, closed))
    np.testing.assert_allclose(a, b, rtol=1e-3)
