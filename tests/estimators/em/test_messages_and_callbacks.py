"""SAEM fits that do not converge: messages; callbacks, interrupts, checkpoints; models and options that are refused."""

from __future__ import annotations

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest

import jaxnlme as jn
from jaxnlme.estimators.core import checkpoint
from jaxnlme.estimators.core.settings import RunSettings
from jaxnlme.estimators.em import run as runs

# Few iterations: these fits need not be accurate. Their chains have one shape, so that they share compiled programs.
QUICK = dict(iterations=(10, 10, 10), chains=4, likelihood="none", max_iterations=30)


def decline(phi, x):
    return phi.a * jnp.exp(-phi.c * x.t)


def columns(groups=12, rows=5, seed=1):
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(groups), rows)
    t = np.tile(0.4 * np.arange(1.0, rows + 1.0), groups)
    a, c = 3.0 * np.exp(0.3 * rng.normal(size=groups)), 0.7 * np.exp(0.25 * rng.normal(size=groups))
    y = a[group] * np.exp(-c[group] * t) + 0.15 * rng.normal(size=len(t))
    return {"id": group, "t": t, "y": y}


@functools.cache
def data():
    return table(columns())


def table(values, **options):
    return jn.GroupedData.from_arrays(values["y"], values["id"], {"t": values["t"]}, **options)


def model(**changes):
    parameters = [jn.Parameter("a", 2.0, "log", random=True), jn.Parameter("c", 1.0, "log", random=True)]
    return jn.NLMEModel(decline, parameters, error=jn.error.constant(0.3), **changes)


MODEL = model()


@functools.cache
def whole():
    fit = jn.fit(MODEL, data(), jn.SAEM(chains=8, likelihood="gq", nodes=5))
    assert fit.converged
    return fit


def test_max_iterations_bounds_the_phases():
    assert jn.SAEM().iterations == (100, 50, 50) and jn.SAEM().max_iterations == 20000
    assert jn.SAEM(max_iterations=100).iterations == (50, 25, 25)
    assert jn.SAEM(12_000).max_iterations == 24_000 and jn.SAEM(replicates=2).max_iterations == 5000
    assert sum(jn.IMP(max_iterations=16).iterations) == 16 and jn.IMP((3, 3), max_iterations=6).iterations == (3, 3)
    with pytest.raises(jn.OptionError, match="SAEM: max_iterations is 5, fewer than the 9"):
        jn.SAEM((3, 3, 3), max_iterations=5)
    with pytest.raises(jn.OptionError, match="IMP: max_iterations is 5, fewer than the 9"):
        jn.IMP(9, max_iterations=5)


def test_a_short_run_does_not_converge():
    fit = jn.fit(MODEL, data(), jn.SAEM((3, 3, 3), chains=4, max_iterations=15, likelihood="none"))
    assert not fit.converged and fit.status.sentences[0] == "NOT CONVERGED."
    (reason,) = [s for s in fit.status.sentences if "max_iterations is 15" in s]
    assert "Monte Carlo error" in reason and "(tolerance 0.05)" in reason
    assert np.isnan(fit.log_likelihood) and np.isnan(fit.aic) and np.isnan(fit.bic)
    assert "NOT CONVERGED" in str(fit.summary())


class EveryStage:
    """A callback that is called at every stage, the end included."""

    every_stage = True

    def __init__(self):
        self.states = []

    def __call__(self, entry):
        self.states.append(entry.state)


def test_callbacks_are_called_after_each_iteration_in_order():
    entries, every = [], EveryStage()
    fit = jn.fit(MODEL, data(), jn.SAEM(**QUICK), callbacks=[entries.append, every])
    assert every.states == ["init", *["iter"] * (len(entries) - 1), "done"]
    assert [entry.iteration for entry in entries] == [-5, *range(-5, len(entries) - 6)]
    assert len(entries) > 36
    assert all(np.isnan(entry.log_likelihood) and entry.procedure == "SAEM" for entry in entries)
    start = entries[0].params.pack()
    for entry in entries[1:6]:
        np.testing.assert_array_equal(entry.params.pack(), start)
    assert (entries[6].params.pack() != start).all()
    trajectory = fit.sampling.trajectory.loc[0]
    assert trajectory.index[0] == -5 and fit.sampling.phases["decreasing steps"] == (20, 29)
    np.testing.assert_allclose(entries[20].params.beta, trajectory.loc[14, ["a", "c"]], rtol=1e-12)


@pytest.mark.parametrize("last", [-3, 4, 33, 45, 75])
def test_a_callback_stops_the_run(last):
    """In burn-in, in a phase, before and while scores are summed: the parameters are those of that iteration."""
    entries = []
    fit = jn.fit(
        MODEL, data(), jn.SAEM(**QUICK | {"max_iterations": 500}),
        callbacks=[lambda entry: entries.append(entry) or entry.iteration >= last],
    )  # fmt: skip
    assert fit.stopped and not fit.converged and not fit.interrupted
    assert "Stopped by a callback" in fit.status.sentences[1]
    assert entries[-1].iteration == last
    np.testing.assert_array_equal(fit.params.pack(), entries[-1].params.pack())
    assert (
        fit.information is None
        and np.isnan(fit.log_likelihood)
        and np.isnan(fit.sampling.effects_mean.to_numpy()).all()
    )
    assert "Stopped" in str(fit.summary())


@pytest.mark.parametrize("last", [-5, 4, 45])
def test_an_interrupt_keeps_the_parameters_of_that_iteration(last):
    entries = []

    def interrupt(entry):
        entries.append(entry)
        if entry.iteration == last and entry.state == "iter":
            raise KeyboardInterrupt

    fit = jn.fit(MODEL, data(), jn.SAEM(**QUICK | {"max_iterations": 500}), callbacks=[interrupt])
    assert fit.interrupted and not fit.converged and "Interrupted by the user" in fit.status.sentences[1]
    np.testing.assert_array_equal(fit.params.pack(), entries[-1].params.pack())
    assert np.isnan(fit.sampling.parameters_mean.to_numpy()).all()
    assert fit.sampling.samples.shape[1] == 0


def test_a_block_cut_off_leaves_no_trace(monkeypatch):
    """Ctrl-C between the new parameters and the new chains of a block: the run is at the end of the block before."""
    blocks, whole_block = [], runs.run_block

    def cut_off(run, schedules, count):
        trace = whole_block(run, schedules, count)
        blocks.append((run.iteration, np.asarray(run.em_state.packed)))
        if len(blocks) == 2:
            raise KeyboardInterrupt
        return trace

    monkeypatch.setattr(runs, "run_block", cut_off)
    fit = jn.fit(MODEL, data(), jn.SAEM(**QUICK))
    (_, kept), (iteration, cut) = blocks
    assert fit.interrupted and iteration > 0 and not np.array_equal(kept, cut)
    np.testing.assert_array_equal(fit.params.pack(), kept[0])
    assert fit.iterations == iteration - jn.SAEM(**QUICK).burn_in


def test_a_callback_that_stops_a_run_leaves_its_checkpoint(tmp_path):
    path = tmp_path / "run.ckpt"
    stopped = jn.fit(MODEL, data(), jn.SAEM(**QUICK), callbacks=[lambda it: it.iteration == 20], checkpoint=path)
    assert stopped.stopped
    resumed = jn.fit(MODEL, data(), jn.SAEM(**QUICK), checkpoint=path)
    sentence = next(s for s in resumed.status.sentences if s.startswith("Resumed"))
    assert int(re.search(r"after (\d+) iterations", sentence)[1]) == 21 + jn.SAEM(**QUICK).burn_in


class Killed(Exception):
    pass


@pytest.mark.parametrize("last", [-3, 12, 30, 60, 90])
def test_a_run_that_was_killed_is_resumed(tmp_path, monkeypatch, last):
    """The same numbers as of an uninterrupted run, killed in a phase or while scores are summed."""
    always = RunSettings(checkpoint_interval=0.0, writing_fraction=1e9)
    monkeypatch.setattr(checkpoint, "RUN_SETTINGS", always)
    method, path = jn.SAEM(**QUICK | {"max_iterations": 400}, seed=2), tmp_path / "run.npz"

    def die(entry):
        if entry.iteration == last and entry.state == "iter":
            raise Killed

    with pytest.raises(Killed):
        jn.fit(MODEL, data(), method, callbacks=[die], checkpoint=path)
    fit = jn.fit(MODEL, data(), method, checkpoint=path)
    expected = unbroken()
    assert any(sentence.startswith(f"Resumed from {path}") for sentence in fit.status.sentences)
    # One iteration a call or fifty: the same operations in different programs.
    np.testing.assert_allclose(fit.params.pack(), expected.params.pack(), rtol=1e-9)
    np.testing.assert_allclose(fit.information.matrix, expected.information.matrix, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(fit.sampling.packed, expected.sampling.packed, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(fit.sampling.mean, expected.sampling.mean, rtol=1e-8, atol=1e-10)


@functools.cache
def unbroken():
    return jn.fit(MODEL, data(), jn.SAEM(**QUICK | {"max_iterations": 400}, seed=2))


def test_files_of_other_runs_are_refused(tmp_path):
    path = tmp_path / "run.npz"
    jn.fit(MODEL, data(), jn.SAEM(**QUICK), checkpoint=path)
    with pytest.raises(jn.OptionError, match="another path"):
        jn.fit(MODEL, data(), jn.SAEM(**QUICK, seed=3), checkpoint=path)
    with pytest.raises(jn.OptionError, match="another method"):
        jn.fit(MODEL, data(), "focei", checkpoint=path)


def test_a_group_that_cannot_be_fitted():
    extreme = columns()
    extreme["t"] = np.where(extreme["id"] == 4, -1e6, extreme["t"])
    fit = jn.fit(MODEL, table(extreme), jn.SAEM(**QUICK))
    assert not fit.converged and "for group 4" in " ".join(fit.status.sentences)
    fit = jn.fit(MODEL, table(extreme), jn.SAEM(**QUICK), on_bad_group="leave out")
    assert 4 not in fit.data.labels and "Left out at your request: group 4." in fit.status.sentences


def test_a_group_that_becomes_non_finite_during_the_run():
    """Finite at the start, NaN for parameters that the run reaches."""

    def fails(phi, x):
        return decline(phi, x) + jnp.where((x.id == 3) & (phi.c < 0.9), jnp.nan, 0.0)

    values = columns()
    inputs = {"t": values["t"], "id": values["id"].astype(float)}
    with_id = jn.GroupedData.from_arrays(values["y"], values["id"], inputs)
    parameters = [jn.Parameter("a", 2.0, "log", random=True), jn.Parameter("c", 1.0, "log")]
    fit = jn.fit(jn.NLMEModel(fails, parameters), with_id, jn.SAEM((0, 60, 0), chains=4, likelihood="none"))
    assert not fit.converged
    assert "group 3" in fit.status.sentences[1] and "stopped being finite" in fit.status.sentences[1]
    assert fit.information is None and "NOT CONVERGED" in str(fit.summary())
    assert np.isfinite(fit.params.pack()).all()


def test_groups_without_responses_and_of_weight_zero_change_nothing():
    """They neither change an estimate nor count as groups."""
    plain = columns()
    more = {name: np.concatenate([column, column[:3]]) for name, column in plain.items()}
    more["id"] = np.where(np.arange(len(more["y"])) >= len(plain["y"]), 99, more["id"])
    method = jn.SAEM(**QUICK)
    expected = jn.fit(MODEL, data(), method)
    unobserved = more | {"y": np.where(more["id"] == 99, np.nan, more["y"])}
    without = jn.fit(MODEL, table(unobserved), method)
    weightless = jn.fit(MODEL, table(more, weights=np.append(np.ones(12), 0.0)), method)
    for fit in (without, weightless):
        np.testing.assert_allclose(fit.params.pack(), expected.params.pack(), rtol=1e-9)
        np.testing.assert_allclose(fit.information.matrix, expected.information.matrix, rtol=1e-7, atol=1e-7)
    # The conditional distribution of the group without responses is that of the population.
    sd = np.sqrt(np.diag(without.psi))
    np.testing.assert_allclose(without.sampling.effects_sd.loc[99], sd, rtol=0.5)


def test_fixed_parameters_keep_their_values():
    parameters = [jn.Parameter("a", 2.9, "log", random=True, fix=True), jn.Parameter("c", 1.0, "log", random=True)]
    psi = np.diag([0.09, 0.06])
    fixed = jn.NLMEModel(decline, parameters, error=jn.error.constant(0.2), psi=psi, fix_psi=True)
    fit = jn.fit(fixed, data(), jn.SAEM(**QUICK | {"max_iterations": 2000}))
    assert fit.converged
    assert fit.params.beta[0] == np.log(2.9) and (np.asarray(fit.psi) == psi).all()
    assert fit.information.active.tolist() == [1, 4]
    exact = jn.fit(fixed, data(), jn.AGQ(7))
    error = np.abs(fit.params.pack() - exact.params.pack())[[1, 4]]
    assert (error < 0.15 * np.sqrt(np.diag(exact.information.covariance))).all()


@pytest.mark.parametrize("change", [{"iterations": (1, 2)}, {"iterations": 0}, {"burn_in": -1}, {"chains": 0}])
def test_options_out_of_range(change):
    with pytest.raises(jn.OptionError, match="|".join(change)):
        jn.SAEM(**change)


@pytest.mark.parametrize(
    "change",
    [{"replicates": 0}, {"seed": "a"}, {"m_step": "newton"}, {"likelihood": "agq"}, {"draws": 1}, {"nodes": 0},
     {"information": "fisher"}, {"tolerance": 0.0}, {"max_iterations": 0}, {"annealing": 1.0}, {"moves": 3}],
)  # fmt: skip
def test_more_options_out_of_range(change):
    with pytest.raises(jn.OptionError, match="|".join(change)):
        jn.SAEM(**change)


def test_a_model_without_random_effects():
    plain = jn.NLMEModel(decline, [jn.Parameter("a", 2.0, "log"), jn.Parameter("c", 1.0, "log")])
    with pytest.raises(jn.OptionError, match=r"no(ne| random effect)"):
        jn.fit(plain, data(), "saem")


def test_weights_inside_the_model_are_refused():
    """A free block has no M-step: it would stay at its start."""
    import equinox as eqx

    class Module(eqx.Module):
        shift: object

        def __call__(self, phi, x):
            return decline(phi, x) + self.shift

    parameters = MODEL.parameters
    with pytest.raises(jn.OptionError, match=r"free block|inside the model"):
        jn.fit(jn.NLMEModel(Module(jnp.zeros(())), parameters), data(), jn.SAEM(**QUICK))


def test_pure_functions_refuse_it():
    params = MODEL.params(data())
    for call in (jn.log_likelihood, jn.group_log_likelihoods, jn.estimate):
        with pytest.raises(jn.OptionError, match=r"(?i)saem"):
            call(MODEL, params, data(), "saem")
        with pytest.raises(jn.OptionError, match=r"(?i)saem"):
            call(MODEL, params, data(), jn.SAEM())


@pytest.mark.parametrize("name", ["bootstrap", "profile", "jackknife", "multistart"])
def test_refits_refuse_it(name):
    with pytest.raises((jn.OptionError, jn.ModelError), match=r"(?i)saem"):
        getattr(whole(), name)()
