"""SAEM, the stochastic approximation of EM, as a method: its options, and the phases that they stand for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.options import common, whole
from jaxnlme.likelihood.approximations import require_gaussian_moments
from jaxnlme.likelihood.from_draws import AbstractCentred, centred
from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.sampling.metropolis import Moves
from jaxnlme.sampling.samplers import AbstractSampler, Metropolis

# Annealing, full steps, decreasing steps: half of what MATLAB and saemix take, for settling runs end the work.
PHASES = (100, 50, 50)
# Lanes (groups x chains) that a run has at least, as MATLAB and saemix choose the number of chains.
MIN_GROUP_CHAINS = 100
# Steps of the last phase shrink like k^-POWER: slower than 1 / k, so that where EM is slow the start is forgotten.
POWER = 0.7
# In how many of their last iterations the phases keep scores, from which control variates are fitted.
PILOT = 40
# How often, about, an iteration of the chains goes through their rows, and how many rows gone through in an iteration
# are worth a thread of their own: threads meet at the end of each.
PASSES, THREAD_WORK = 16, 800_000


@dataclasses.dataclass(frozen=True)
class StochasticMethod:
    """What a Fit says of a stochastic method: its `name`. Modes that results rest on are searched with `search`."""

    name: str
    search: ModeSearch = dataclasses.field(default_factory=ModeSearch)
    at_mode: bool = True
    interaction: bool = True

    def check(self, density: Any) -> None:
        """Any density will do."""


class AbstractStochastic(AbstractEstimator):
    """A method that draws the random effects: SAEM and its kin."""

    burn_in: eqx.AbstractVar[int]
    replicates: eqx.AbstractVar[int]
    seed: eqx.AbstractVar[Any]
    m_step: eqx.AbstractVar[str]
    likelihood: eqx.AbstractVar[str]
    draws: eqx.AbstractVar[int]
    nodes: eqx.AbstractVar[int | None]
    information: eqx.AbstractVar[str]

    def check(self, binding: Binding) -> None:
        """**Errors:** OptionError where the model has no random effect, or a free block; ModelError where an
        option needs a Gaussian residual model that is not there."""
        if not binding.density.n_effects:
            raise OptionError(
                f"{self.name} draws random effects, and this model has none; fit it by 'focei' or 'laplace', which are "
                "exact here."
            )
        if binding.start.free is not None:
            raise OptionError(
                f"{self.name} has no step for the free block of weights inside the model, and would leave them at "
                "their start; fit it by 'focei' or 'laplace', or declare them as parameters."
            )
        # Before the run, not at its end.
        if self.last_likelihood is not None:
            self.last_likelihood.check(binding.density)
        if self.information == "linearised":
            require_gaussian_moments("information='linearised'", binding.density)

    @property
    def loose(self) -> tuple[str, ...]:
        """Options that may differ where a fit goes on from a checkpoint: how long, how exactly, and what at the end."""
        return ("tolerance", "max_iterations", "likelihood", "draws", "nodes", "information", "method")

    @property
    def identity(self) -> list[Any]:
        loose = self.loose
        own = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in loose}
        return [self.method.name, own]

    def with_seed(self, seed: int) -> AbstractStochastic:
        """The method with other random numbers."""
        # A static field of a module: `eqx.tree_at` reaches leaves alone, and `__init__` takes other arguments.
        other = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(other, field.name, seed if field.name == "seed" else getattr(self, field.name))
        return other

    def n_chains(self, groups: int) -> int:
        """Chains (or samples kept) of each group."""
        raise NotImplementedError

    def sampler(self, effects: int) -> AbstractSampler:
        """What draws the effects of a group."""
        raise NotImplementedError

    def evaluations(self, groups: int) -> int:
        """How often, about, an iteration evaluates the model of a group: how it is best compiled depends on it."""
        return PASSES * self.n_chains(groups)

    def thread_rows(self, groups):
        return max(1, THREAD_WORK // self.evaluations(groups))

    @property
    def likelihood_draws(self) -> int:
        """Draws of likelihood="is"."""
        return self.draws

    @property
    def last_likelihood(self) -> AbstractCentred | None:
        """How log L is computed at the end; None where it is not."""
        if self.likelihood == "none":
            return None
        seed = self.seed if isinstance(self.seed, int) else self.seed[-1]
        options = {"is": {"draws": self.likelihood_draws, "seed": seed}, "gq": {"nodes": self.nodes}}
        return centred(self.likelihood, **options.get(self.likelihood, {}))

    @property
    def remedies(self) -> tuple[str, str]:
        """What may help, beside further iterations, against Monte Carlo error and against drift."""
        return "more chains", "other kernels (moves)"

    def complaints(self, memory: Any, labels: np.ndarray) -> list[str]:
        """Faults of the draws of some groups, given the sampler's `memory` of them (groups, replicates, ...)."""
        return []

    def schedule(self, warm: bool) -> Schedule:
        """The Controls of all phases, numpy arrays (iterations,). **Arguments:** `warm`: a start that is near."""
        raise NotImplementedError

    def phases(self, warm: bool) -> dict[str, tuple[int, int]]:
        """The first and the last iteration of each phase, counted from 0 without burn-in."""
        raise NotImplementedError


class SAEM(AbstractStochastic):
    """Maximum likelihood by the stochastic approximation of EM (Delyon, Lavielle and Moulines 1999, Annals of
    Statistics 27, 94-128; Kuhn and Lavielle 2005, Computational Statistics and Data Analysis 49, 1020-1038).

    Each iteration updates several Markov chains of every group's random effects (`moves`), averages the complete-data
    statistics, and maximises. After the phases the parameters stand still while the chains go on: the mean complete
    score there, Louis' information and the Monte Carlo error of both tell where the maximum lies and how surely. The
    estimates take that last step, and phases and draws are added until its Monte Carlo error is small, or
    `max_iterations` are used up: `converged` means that it is.

    **Arguments:**

    - `iterations`: numbers of iterations with annealed variances, with full steps and with decreasing steps; one number
      is split in the proportions of the default. A start from an earlier fit needs no annealing and gets none.
    - `burn_in`: iterations of simulation alone before the first update.
    - `chains`: of each group; None: so many that groups times chains is 100 at least.
    - `moves`: a `jn.Moves`, how many updates each kernel makes in an iteration.
    - `replicates`: whole runs from dispersed starts, batched; the best one is the answer, the others its check.
    - `seed`: an integer or a JAX key. The same seed gives the same numbers, whatever the order of groups, the number of
      devices or the size of chunks.
    - `m_step`: "auto", closed forms where they exist; "gradient", Newton steps for everything.
    - `likelihood`: how log L is computed at the end: "is" (importance sampling with `draws` a group), "gq"
      (Gauss-Hermite quadrature with `nodes` an effect), "lin" (linearised), "none".
    - `information`: the matrix behind standard errors: "louis" (the observed information, by Louis' method) or
      "linearised".
    - `tolerance`: the largest Monte Carlo error of an estimate, as a share of its standard error.
    - `max_iterations`: of all phases and what is added to them. It does not shorten the phases of `iterations`, nor the
      first 50 iterations after them, which tell where they led; up to 42 that draw for the Fit come last, uncounted.
    - `annealing`: the share that a variance may lose in an iteration of the first phase is 1 - annealing.

    **Errors:** OptionError for values out of range.
    """

    method: StochasticMethod = eqx.field(static=True)
    iterations: tuple[int, int, int] = eqx.field(static=True)
    burn_in: int = eqx.field(static=True)
    chains: int | None = eqx.field(static=True)
    moves: Moves
    replicates: int = eqx.field(static=True)
    seed: Any = eqx.field(static=True)
    m_step: str = eqx.field(static=True)
    likelihood: str = eqx.field(static=True)
    draws: int = eqx.field(static=True)
    nodes: int | None = eqx.field(static=True)
    information: str = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)
    annealing: float = eqx.field(static=True)

    def __init__(
        self,
        iterations: int | Sequence[int] = PHASES,
        *,
        burn_in: int = 5,
        chains: int | None = None,
        moves: Moves | None = None,
        replicates: int = 1,
        seed: Any = 0,
        m_step: str = "auto",
        likelihood: str = "is",
        draws: int = 2000,
        nodes: int | None = None,
        information: str = "louis",
        tolerance: float = 0.05,
        max_iterations: int = 5000,
        annealing: float = 0.97,
    ):
        if moves is not None and not isinstance(moves, Moves):
            raise OptionError(f"SAEM: moves is a jn.Moves; received {moves!r}.")
        if not 0.0 <= annealing < 1.0:
            raise OptionError(f"SAEM: annealing is a share in [0, 1); received {annealing!r}.")
        self.method = StochasticMethod("SAEM")
        self.iterations = split(iterations)
        self.chains = None if chains is None else whole("SAEM", "chains", chains, 1)
        self.moves = Moves() if moves is None else moves
        self.annealing = float(annealing)
        checked = common("SAEM", locals())
        for name, value in checked.items():
            setattr(self, name, value)

    def n_chains(self, groups):
        return self.chains if self.chains is not None else max(1, -(-MIN_GROUP_CHAINS // max(groups, 1)))

    def sampler(self, effects):
        return Metropolis(self.moves, effects)

    def _counts(self, warm: bool) -> tuple[int, int, int]:
        return (0, *self.iterations[1:]) if warm else self.iterations

    def phases(self, warm):
        return spans(("annealing", "full steps", "decreasing steps"), self._counts(warm))

    def schedule(self, warm):
        first, second, third = self._counts(warm)
        total = self.burn_in + first + second + third
        k = np.arange(total)
        steps = k - self.burn_in
        return Schedule(
            iteration=k,
            gain=gains(steps, first + second),
            update=steps >= 0,
            annealing=np.where((steps >= 0) & (steps < first), self.annealing, 0.0),
            refresh=refreshed(k),
            tune=tuning(k),
            sum_scores=piloting(steps),
            begin=k == 0,
        )


def gains(steps: np.ndarray, full: int) -> np.ndarray:
    """Steps of the stochastic approximation: one before the iteration `full`, k^-POWER in the k-th from there on."""
    return np.where(steps < full, 1.0, np.maximum(steps - full + 1.0, 1.0) ** -POWER)


def tuning(k: np.ndarray) -> np.ndarray:
    """Gains of the tuning of kernels in the iterations `k`, counted from 0."""
    return 1.0 / np.sqrt(1.0 + k)


def piloting(steps: np.ndarray) -> np.ndarray:
    """Which iterations keep scores: of those that move parameters (`steps` >= 0) the last ones."""
    return (steps >= 0) & (steps > steps[-1] - PILOT)


def spans(names: Sequence[str], counts: Sequence[int]) -> dict[str, tuple[int, int]]:
    """The first and the last iteration of phases that last `counts` iterations; those of none are left out."""
    ends = np.cumsum(counts)
    return {name: (int(e - n), int(e - 1)) for name, n, e in zip(names, counts, ends, strict=True) if n}


def refreshed(k: np.ndarray) -> np.ndarray:
    """At which iterations modes are searched anew: often while parameters move far."""
    return (k < 20) | (k % 10 == 0)


def split(iterations: Any) -> tuple[int, int, int]:
    """The lengths of three phases; a total is split in the proportions of the defaults.

    **Errors:** OptionError.
    """
    given = np.asarray(iterations)
    if given.dtype.kind not in "iu" or given.shape not in ((), (3,)) or (given < 0).any() or given.sum() < 1:
        raise OptionError(
            "iterations are one number of iterations, or three: annealing, full steps, decreasing steps; received "
            f"{iterations!r}."
        )
    if given.ndim:
        return tuple(int(n) for n in given)  # pyright: ignore[reportReturnType]
    first = round(int(given) * PHASES[0] / sum(PHASES))
    second = round(int(given) * PHASES[1] / sum(PHASES))
    return first, second, int(given) - first - second
