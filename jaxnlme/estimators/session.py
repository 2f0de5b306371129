"""One estimation on the host: the compiled objective, the iterations, callbacks, progress, Ctrl-C."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import equinox as eqx
import jax
import numpy as np

from jaxnlme.errors import Status
from jaxnlme.estimators.base import AbstractEstimator
from jaxnlme.estimators.checkpoint import Checkpoint, Standing
from jaxnlme.estimators.marginal import GROUPS_PER_PARAMETER, Marginal, MarginalState
from jaxnlme.estimators.objective import Evaluation, Groups, Sums, flatten, share, unflatten, with_prior
from jaxnlme.estimators.telling import NO_INNER, Audience, Callback, Inner, Iteration
from jaxnlme.model.binding import Binding
from jaxnlme.model.density import Density
from jaxnlme.model.params import Params
from jaxnlme.model.placed import Placed
from jaxnlme.numerics.arrays import on_device
from jaxnlme.numerics.compiling import compiled

T = TypeVar("T")
# Predicted gain (log-likelihood units) below which an estimate counts as the maximum.
CONVERGED = 1e-6


class Outcome:
    """An evaluation on the host: `sums` (numpy), the point `x` (n,) they are of, `modes` as `Session.evaluate` takes
    them, and `own`, what it says of each of this process's groups (of the `pieces` where `placed`)."""

    def __init__(self, sums: Sums, pieces: Sequence[Groups], placed: Placed, x: np.ndarray):
        self.sums, self.x = sums, x
        self.modes = [piece.modes for piece in pieces]
        self.pieces, self.placed = pieces, placed

    @property
    def value(self) -> float:
        return float(self.sums.value)

    @functools.cached_property
    def own(self) -> Groups:
        """Numpy arrays with a leading groups axis, in the order of the data."""
        return jax.tree.map(lambda *parts: self.placed.own(parts), *self.pieces)


class Session:
    """Drives a Marginal estimator: evaluations through one compiled program, minimisation, and the record of both.

    After every method, `x` (n,) is the best point, `best` its Evaluation, `modes` its modes. `interrupted` is set by
    Ctrl-C, `stopped` by a callback.
    """

    procedure, minimiser = "LAP", "PLM"

    def __init__(
        self,
        binding: Binding,
        estimator: AbstractEstimator,
        params: Params,
        callbacks: Sequence[Callback],
        placed: Placed,
        checkpoint: Checkpoint | None = None,
    ):
        self.binding = binding
        self.estimator = estimator
        self.placed = placed
        self.processes = placed.processes
        self.template = on_device(params) if placed.mesh is None else jax.tree.map(np.asarray, params)
        self.audience = Audience(callbacks, placed.processes)
        self.x = np.asarray(flatten(params))
        dense = len(binding.fixed)
        self.free = np.concatenate([~binding.fixed, np.ones(len(self.x) - dense, bool)])
        self.dense = dense
        self.history: list[dict[str, float]] = []
        self.started = time.perf_counter()
        self.evaluations = 0
        self.iterations = 0
        self.not_found_again = np.zeros(binding.data.n_groups, bool)
        self.interrupted = False
        self.stopped = False
        self.many = placed.size * self.processes.count >= GROUPS_PER_PARAMETER * dense
        self.state: MarginalState | None = None
        # An inverse Hessian (n, n) for the next minimisation to begin with, where one is known.
        self.metric: np.ndarray | None = None
        # What `finish` knows of variances at zero, by packed index: set to zero, and freed again.
        self.collapsed: set[int] = set()
        self.kept: set[int] = set()
        self.checkpoint = checkpoint
        standing = None if checkpoint is None else checkpoint.standing
        self.resumed = standing is not None
        modes = self.zero_modes() if standing is None else self._restore(standing)
        self.best = self.evaluate(self.x, modes)
        self.x = self.best.x

    def zero_modes(self) -> list[Any]:
        """Where a search begins that trusts nothing: z = 0, as `evaluate` takes modes."""
        return self.modes_from(np.zeros((self.placed.n_groups, self.binding.density.n_effects)))

    def modes_from(self, modes: np.ndarray) -> list[Any]:
        """Modes (groups, random) as `evaluate` takes them."""
        return self.placed.spread(modes)

    def evaluate(self, x: np.ndarray, modes: Sequence[Any], steps: int | None = None) -> Outcome:
        """The objective at `x` (n,), searches starting from `modes`: those of an Outcome, or from `modes_from`; at most
        `steps` evaluations each (None: as many as the method allows)."""
        self.evaluations += 1
        x = np.asarray(x)
        sums, groups = self._run(x, modes, self._method(steps))
        sums = jax.tree.map(np.asarray, sums)
        if self.binding.density.priors:
            sums = compiled(with_prior, 0)(self.binding.density, self.template, x, sums)
            sums = jax.tree.map(np.asarray, sums)
        return Outcome(sums, groups, self.placed, x)

    @property
    def restricted(self) -> bool:
        """Whether beta is integrated out of the likelihood."""
        return self.estimator.restricted

    @property
    def faults(self) -> list[str]:
        """Sentences on what is wrong with the best point beside what every fit is asked; none here."""
        return []

    def decide(self, x: np.ndarray) -> Sums:
        """The Sums at `x` (n,) that decide whether an estimate may go there."""
        return self.evaluate(x, self.best.modes).sums

    def _run(self, x: np.ndarray, modes: Sequence[Any], method: Any) -> tuple[Sums, list[Groups]]:
        """Sums, priors left out, and Groups of each piece at `x` (n,)."""
        return self.placed.run(share, (method, self.template, x), modes)

    def _method(self, steps: int | None) -> Any:
        """The method, its searches bounded by `steps`."""
        method = self.estimator.method
        if steps is None:
            return method
        return eqx.tree_at(lambda m: m.search.steps, method, np.asarray(steps, method.search.steps.dtype))

    def params(self, x: np.ndarray | None = None) -> Params:
        """Params (numpy) at `x`, by default the best point."""
        return jax.tree.map(np.asarray, unflatten(self.template, self.x if x is None else x))

    @property
    def halted(self) -> bool:
        """Whether the user asked to stop."""
        return self.interrupted or self.stopped

    def move(self, result: Outcome) -> None:
        """Makes an evaluated point the best one; a new minimisation starts from it."""
        self.x, self.best, self.state = result.x, result, None

    def minimise(self) -> None:
        """Iterates until the estimator terminates or a callback stops it, keeping the best point on the way."""
        left = max(int(self.estimator.max_iterations) - self.iterations, 0)
        method, tolerance = self.estimator.method, self.estimator.tolerance
        state = self.state if self.resumed else None
        self.resumed = False
        if state is not None:
            # A step further than where the file was written.
            estimator = Marginal(method, left + int(state.bfgs.iterations), tolerance)
            trial, over = _look(estimator, state)
        else:
            estimator = Marginal(method, left, tolerance)
            first = Evaluation(self.best.sums, Groups())
            start = (self.binding.density, self.template, self.x, first, self.free)
            state, trial, over = _init(estimator, *start, self.metric)
            self.metric = None
            self._take(state, self.best)
        if not self.history:
            self._report(state)
        self._descend(estimator, state, trial, over)

    def _descend(self, estimator: Marginal, state: MarginalState, trial: Any, over: Any) -> None:
        """The iterations of `minimise`."""
        tries = 0
        while not (bool(over) or self.stopped or self.leaving(state, tries)):
            if not tries:
                self.tell_inner(self.minimiser, "init", 0)
            tries += 1
            result = self.searched(np.asarray(trial), self.best.modes)
            before = int(state.bfgs.iterations)
            state, trial, over = _tell(estimator, state, Evaluation(result.sums, Groups()), self.many)
            self.tell_inner(self.minimiser, "iter", tries, result, np.asarray(trial))
            if int(state.bfgs.iterations) > before:
                self.iterations += 1
                self._take(state, result)
                self.tell_inner(self.minimiser, "done", tries)
                self._report(state)
                tries = 0

    def leaving(self, state: MarginalState, rejected: int) -> bool:
        """Whether `minimise` has done what it can, after so many rejected points."""
        return False

    def closeness(self, matrix: np.ndarray | None, active: np.ndarray, decrement: float) -> tuple[bool, str]:
        """Whether the end is close enough to count as converged, and how close it is, in words.

        **Arguments:** `matrix` (active, active), the information, None where it was not asked for; `decrement`, the
        predicted gain of a further step.
        """
        words = f"a further step is expected to gain {decrement:.1e} log-likelihood units (limit {CONVERGED:g})"
        return decrement < CONVERGED, words

    def searched(self, x: np.ndarray, modes: Sequence[Any]) -> Outcome:
        """`evaluate`, the search of the modes one step at a time where a callback wants to see it."""
        if not self.audience.every_stage or not self.estimator.method.at_mode:
            return self.evaluate(x, modes)
        self.tell_inner("PNLS", "init", 0)
        most, k, found = int(self.estimator.method.search.steps), 0, False
        while not found:
            k += 1
            outcome = self.evaluate(x, modes, 2)
            modes = outcome.modes
            self.tell_inner("PNLS", "iter", k, outcome, x)
            found = self.processes.all(not (outcome.own.status == Status.mode_not_found).any())
            found |= self.stopped or k == most
        self.tell_inner("PNLS", "done", k, outcome, x)
        return outcome

    @property
    def exhausted(self) -> bool:
        """Whether the iterations allowed were used up before the minimiser was done."""
        if self.state is None or self.iterations < int(self.estimator.max_iterations):
            return False
        return not float(self.state.bfgs.decrement) < float(self.estimator.tolerance)

    def _take(self, state: MarginalState, result: Outcome) -> None:
        self.best, self.x = result, result.x
        self.state = eqx.tree_at(lambda s: s.bfgs.x, state, result.x)

    def _report(self, state: MarginalState) -> None:
        entry = self._entry("iter" if self.history else "init")
        self.history.append(
            {
                name: getattr(entry, name)
                for name in ("iteration", "evaluations", "log_likelihood", "expected_gain", "seconds")
            }
        )
        self.stopped = self.stopped or self.audience.tell(entry)
        if self.checkpoint is not None and self.checkpoint.due():
            self.processes.together(self.save)

    def tell_inner(self, procedure: str, state: str, iteration: int, outcome: Outcome | None = None, x: Any = None):
        """Tells of an inner minimiser, at the point `x` (n,) where `outcome` was found (None: the best)."""
        if self.audience.every_stage and not self.stopped:
            entry = self._entry("iter" if self.history else "init", Inner(procedure, state, iteration), outcome, x)
            self.stopped = self.audience.tell(entry)

    def tell_end(self) -> None:
        """Tells that the fit has ended."""
        if self.audience.every_stage:
            self.audience.tell(self._entry("done"))

    def _entry(self, state: str, inner: Inner = NO_INNER, outcome: Outcome | None = None, x: Any = None) -> Iteration:
        gain = float("nan") if self.state is None else float(self.state.bfgs.decrement)
        return Iteration(
            self.iterations,
            self.evaluations,
            float((self.best if outcome is None else outcome).sums.log_likelihood),
            gain,
            time.perf_counter() - self.started,
            self.params(x),
            self.binding,
            self.procedure,
            state,
            inner,
        )

    def save(self, finished: bool = False) -> None:
        """Writes the checkpoint, where there is one."""
        if self.checkpoint is None:
            return
        ours = self.state is not None and np.array_equal(np.asarray(self.state.bfgs.x), self.x)
        standing = Standing(
            self.x,
            self.placed.own(self.best.modes),
            self.free,
            self.state if ours else None,
            sorted(self.collapsed),
            sorted(self.kept),
            self.iterations,
            self.evaluations,
            time.perf_counter() - self.started,
            self.history,
            finished,
        )
        self.checkpoint.write(standing)

    def _restore(self, standing: Standing) -> list[Any]:
        """Goes back to where a checkpoint stands; the modes to evaluate its point from."""
        self.x, self.free, self.state = standing.x, standing.free, standing.state
        self.collapsed, self.kept = set(standing.collapsed), set(standing.kept)
        self.iterations, self.evaluations = standing.iterations, standing.evaluations
        self.history = list(standing.history)
        self.started -= standing.seconds
        return self.modes_from(standing.modes)

    def hessian(self, active: np.ndarray) -> np.ndarray:
        """Second derivatives of the objective at `x` in the entries `active`: central differences of the exact
        gradient, which reuse the compiled program (a Hessian program would cost many times its compilation)."""
        rows = [
            (up.gradient - down.gradient)[active] / width
            for up, down, width in self.differences(active, lambda x: self.evaluate(x, self.best.modes).sums)
        ]
        matrix = np.array(rows).reshape(len(active), len(active))
        return 0.5 * (matrix + matrix.T)

    def differences(
        self, entries: np.ndarray, evaluate: Callable[[np.ndarray], T], share: float = 3e-4
    ) -> Iterator[tuple[T, T, float]]:
        """For each of `entries`, what `evaluate` gives on either side of the best point, and how far apart.

        The step is a `share` of each entry's uncertainty, as the minimiser's metric knows it.
        """
        spread = np.ones(len(self.x))
        if self.state is not None:
            spread = np.sqrt(np.maximum(np.diag(np.asarray(self.state.bfgs.inverse)), 0.0))
        size = np.abs(np.where(np.isfinite(self.x), self.x, 0.0))
        step = np.clip(share * spread, 1e-6 * np.maximum(size, 1e-2), 1e-2 * np.maximum(size, 1.0))
        for k in entries:
            up, down = self.x.copy(), self.x.copy()
            up[k] += step[k]
            down[k] -= step[k]
            yield evaluate(up), evaluate(down), float(up[k] - down[k])


# The minimiser's own steps are numpy on the host: a handful of numbers, and nothing to compile. What is not finite is
# looked at there, not warned of.


@np.errstate(all="ignore")
def _init(
    estimator: Marginal,
    density: Density,
    template: Params,
    x: np.ndarray,
    first: Evaluation,
    free: np.ndarray,
    metric: np.ndarray | None,
):
    state = estimator.init(density, template, x, first, free)
    if metric is not None:
        state = eqx.tree_at(lambda s: s.bfgs, state, state.minimiser.renew(state.bfgs, metric))
    return state, estimator.trial(state), estimator.terminate(state)


@np.errstate(all="ignore")
def _tell(estimator: Marginal, state: MarginalState, result: Evaluation, many: bool):
    state = estimator.tell(state, result, many)
    return state, estimator.trial(state), estimator.terminate(state)


@np.errstate(all="ignore")
def _look(estimator: Marginal, state: MarginalState):
    return estimator.trial(state), estimator.terminate(state)
