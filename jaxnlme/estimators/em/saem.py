"""SAEM, the stochastic approximation of EM, as a method: its options, and the schedule of its iterations."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.arguments import check_number
from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.options import check_common_options, iteration_limits, saem_phase_lengths
from jaxnlme.estimators.em.settings import COMPUTING, SAMPLING, SCHEDULE
from jaxnlme.likelihood.from_draws import AbstractFromDraws, likelihood_from_draws
from jaxnlme.likelihood.mode import ModeSearch
from jaxnlme.likelihood.requirements import require_linearisable
from jaxnlme.model.density import Density
from jaxnlme.model.effect_distribution import require_gaussian_effects
from jaxnlme.sampling.metropolis import Moves
from jaxnlme.sampling.nested_metropolis import NestedMetropolis
from jaxnlme.sampling.samplers import AbstractSampler, Metropolis


@dataclasses.dataclass(frozen=True)
class StochasticMethod:
    """Description of a stochastic method in a Fit: its `name`; `search`, the search for the conditional modes that
    residuals and predictions use."""

    name: str
    search: ModeSearch = dataclasses.field(default_factory=ModeSearch)
    at_mode: bool = True
    interaction: bool = True

    def check(self, density: Any) -> None:
        """Accept every density."""


class AbstractStochastic(AbstractEstimator):
    """Method that samples the random effects: SAEM or IMP."""

    burn_in: eqx.AbstractVar[int]
    replicates: eqx.AbstractVar[int]
    seed: eqx.AbstractVar[Any]
    m_step: eqx.AbstractVar[str]
    likelihood: eqx.AbstractVar[str]
    draws: eqx.AbstractVar[int]
    nodes: eqx.AbstractVar[int | None]
    information: eqx.AbstractVar[str]

    @property
    def omits_likelihood(self):
        """True if the log-likelihood is not computed."""
        return self.likelihood == "none"

    def run(self, model, data, plan):
        """Fit of `model` to `data` as `plan` directs.

        **Returns:** a FitRecord.  **Raises:** as `fit`.
        """
        from jaxnlme.estimators.em import pipeline

        return pipeline.run(model, data, self, plan)

    def check(self, binding: Binding) -> None:
        """**Raises:** OptionError for a model without random effects or with a free block of weights; ModelError where
        an option needs Gaussian residuals and the model has others."""
        if not binding.density.n_effects:
            raise OptionError(
                f"{self.name} draws random effects, and this model has none; fit it by 'focei' or 'laplace', which are "
                "exact here."
            )
        require_gaussian_effects(self.name, binding.density)
        if binding.start.free is not None:
            raise OptionError(
                f"{self.name} does not estimate the free block of weights inside the model, and would keep their "
                "starting values; fit it by jn.Gradient(...), 'focei' or 'laplace', or declare them as parameters."
            )
        # Checked before the run, although these options are used after it.
        if self.final_likelihood is not None:
            self.final_likelihood.check(binding.density)
        if self.information == "linearised":
            require_linearisable("information='linearised'", binding.density)

    @property
    def changeable_options(self) -> tuple[str, ...]:
        """Options that may differ when a fit continues from a checkpoint: the length of the run, its accuracy, and the
        computations after it."""
        return ("tolerance", "max_iterations", "likelihood", "draws", "nodes", "information", "method")

    @property
    def identity(self) -> list[Any]:
        changeable = self.changeable_options
        options = {f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in changeable}
        return [self.method.name, options]

    def with_seed(self, seed: int) -> AbstractStochastic:
        """Copy of the method with another `seed`."""
        # `seed` is a static field: `eqx.tree_at` changes leaves only, and `__init__` takes different arguments.
        copy = object.__new__(type(self))
        for field in dataclasses.fields(self):
            object.__setattr__(copy, field.name, seed if field.name == "seed" else getattr(self, field.name))
        return copy

    def n_chains(self, groups: int) -> int:
        """Number of chains (or of samples kept) for each of `groups` groups."""
        raise NotImplementedError

    def sampler(self, density: Density) -> AbstractSampler:
        """Sampler of a group's random effects; `density`: of a group, for their layout."""
        raise NotImplementedError

    def evaluations(self, groups: int) -> int:
        """Approximate number of evaluations of the model of a group in an iteration, for `groups` groups; it determines
        how the program is compiled."""
        return COMPUTING.evaluations_per_chain * self.n_chains(groups)

    def thread_rows(self, groups):
        return max(1, COMPUTING.row_evaluations_per_thread // self.evaluations(groups))

    @property
    def likelihood_draws(self) -> int:
        """Number of draws of likelihood="is"."""
        return self.draws

    @property
    def final_likelihood(self) -> AbstractFromDraws | None:
        """Method by which the log-likelihood is computed at the estimates; None if it is not computed."""
        if self.likelihood == "none":
            return None
        seed = self.seed if isinstance(self.seed, int) else self.seed[-1]
        options = {"is": {"draws": self.likelihood_draws, "seed": seed}, "gq": {"nodes": self.nodes}}
        return likelihood_from_draws(self.likelihood, **options.get(self.likelihood, {}))

    @property
    def remedies(self) -> tuple[str, str]:
        """Remedies beside further iterations, against Monte Carlo error and against chains that are not stationary."""
        return "more chains", "other kernels (moves)"

    def sampling_problems(self, sampler_state: Any, labels: np.ndarray) -> list[str]:
        """Sentences on groups whose draws are unreliable.

        **Arguments:** `sampler_state` of all groups (groups, replicates, ...); `labels` (groups,).
        """
        return []

    def schedule(self, warm: bool) -> Schedule:
        """Schedule of all phases, numpy arrays (iterations,).

        **Arguments:** `warm`: true for a start near the maximum, from an earlier fit.
        """
        raise NotImplementedError

    def phases(self, warm: bool) -> dict[str, tuple[int, int]]:
        """First and last iteration of each phase, counted from 0 without burn-in. `warm` as in `schedule`."""
        raise NotImplementedError


class SAEM(AbstractStochastic):
    """Maximum likelihood by the stochastic approximation of EM.

    Each iteration updates several Markov chains of every group's random effects (`moves`), averages the complete-data
    statistics, and maximises. After the scheduled phases the chains continue at fixed parameters, which gives the
    score, the observed information (Louis' identity) and their Monte Carlo errors, and with these a Newton step to the
    maximum and its Monte Carlo error. The estimates include that step. Phases and draws are added until the Monte Carlo
    error of the estimates is below `tolerance`, or `max_iterations` is reached; `converged` reports which.

    **Arguments:**

    - `iterations`: numbers of iterations with annealed variances, with full steps and with decreasing steps; one number
      is divided in the proportions of the default; None: 100, 50 and 50. A start from an earlier fit needs no annealing
      and gets none.
    - `burn_in`: iterations of simulation only, before the first update of the parameters.
    - `chains`: number of chains of each group; None: so many that groups times chains is at least 100.
    - `moves`: a `jn.Moves`, the number of updates of each kernel in an iteration.
    - `replicates`: independent runs from dispersed starts, computed in one batch; the best one is returned, the others
      check it.
    - `seed`: an integer or a JAX key. The same seed gives the same numbers, whatever the order of groups, the number of
      devices or the size of chunks.
    - `m_step`: "auto", closed forms where they exist; "gradient", Newton steps for all parameters.
    - `likelihood`: the method for the log-likelihood at the estimates: "is" (importance sampling with `draws` a group),
      "gq" (Gauss-Hermite quadrature with `nodes` an effect), "lin" (linearised), "none".
    - `information`: the matrix behind standard errors: "louis" (the observed information, by Louis' method) or
      "linearised".
    - `tolerance`: the largest Monte Carlo error of an estimate, relative to its standard error. Sampling ends at a
      third of it where a round of 2,000 iterations reaches that.
    - `max_iterations`: of all phases including those added; None: 20000, with `replicates` 5000, or twice `iterations`
      where that is more. Of fewer, the phases that `iterations=None` stands for are shortened in proportion. The 50
      iterations after the phases, which assess the result, are always run; up to 42 iterations that draw samples for
      the Fit come last and are not counted.
    - `annealing`: in an iteration of the first phase a variance falls to no less than `annealing` times its last value.

    **Raises:** OptionError for values out of range.
    **Source:** Delyon, Lavielle and Moulines (1999), Annals of Statistics 27, 94-128; Kuhn and Lavielle (2005),
    Computational Statistics and Data Analysis 49, 1020-1038.

    **Example:**

    ```python
    fit = jn.fit(model, data, jn.SAEM(seed=1))
    ```
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
        iterations: int | Sequence[int] | None = None,
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
        max_iterations: int | None = None,
        annealing: float = 0.97,
    ):
        if moves is not None and not isinstance(moves, Moves):
            raise OptionError(f"SAEM: moves is a jn.Moves; received {shown(moves)}.")
        annealing = check_number("SAEM: annealing", annealing, 0.0)
        if not annealing < 1.0:
            raise OptionError(f"SAEM: annealing is a number in [0, 1); received {shown(annealing)}.")
        self.method = StochasticMethod("SAEM")
        # Replicates run until the last one ends: one at another maximum would hold up the others.
        default = SCHEDULE.saem_max_iterations if replicates == 1 else SCHEDULE.saem_max_iterations_of_replicates
        self.max_iterations, self.iterations = iteration_limits(
            "SAEM", max_iterations, default, iterations, saem_phase_lengths
        )
        self.chains = None if chains is None else check_whole_number("SAEM: chains", chains, 1)
        self.moves = Moves() if moves is None else moves
        self.annealing = annealing
        checked = check_common_options("SAEM", locals())
        for name, value in checked.items():
            setattr(self, name, value)

    def n_chains(self, groups):
        if self.chains is not None:
            return self.chains
        return max(1, -(-SAMPLING.min_groups_times_chains // max(groups, 1)))

    def sampler(self, density):
        if density.levels is not None:
            return NestedMetropolis(self.moves, density.levels)
        return Metropolis(self.moves, density.n_effects)

    def _counts(self, warm: bool) -> tuple[int, int, int]:
        return (0, *self.iterations[1:]) if warm else self.iterations

    def phases(self, warm):
        return phase_bounds(("annealing", "full steps", "decreasing steps"), self._counts(warm))

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
            search_modes=mode_search_iterations(k),
            tuning_gain=tuning_gains(k),
            sum_scores=pilot_iterations(steps),
            reset_chains=k == 0,
            search_from_mean=(k >= SCHEDULE.first_mode_searches) & (k % SCHEDULE.search_from_mean_interval == 0),
        )


def gains(steps: np.ndarray, full: int) -> np.ndarray:
    """Gains of the stochastic approximation in the iterations `steps`: one before the iteration `full`,
    k^-SCHEDULE.gain_exponent in the k-th from there on."""
    return np.where(steps < full, 1.0, np.maximum(steps - full + 1.0, 1.0) ** -SCHEDULE.gain_exponent)


def tuning_gains(k: np.ndarray) -> np.ndarray:
    """Gains of the tuning of the kernels in the iterations `k`, counted from 0."""
    return 1.0 / np.sqrt(1.0 + k)


def pilot_iterations(steps: np.ndarray) -> np.ndarray:
    """Mask (iterations,) of the iterations that sum up scores: the last SCHEDULE.pilot_iterations of those that update
    parameters (`steps` >= 0)."""
    return (steps >= 0) & (steps > steps[-1] - SCHEDULE.pilot_iterations)


def phase_bounds(names: Sequence[str], counts: Sequence[int]) -> dict[str, tuple[int, int]]:
    """First and last iteration of phases with `names` and `counts` iterations; phases of no iteration are left out."""
    ends = np.cumsum(counts)
    return {name: (int(end - n), int(end - 1)) for name, n, end in zip(names, counts, ends, strict=True) if n}


def mode_search_iterations(k: np.ndarray) -> np.ndarray:
    """Mask (iterations,) of the iterations that search the conditional modes: the first
    SCHEDULE.first_mode_searches, and one in SCHEDULE.mode_search_interval."""
    return (k < SCHEDULE.first_mode_searches) | (k % SCHEDULE.mode_search_interval == 0)
