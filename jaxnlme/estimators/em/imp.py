"""IMP, Monte Carlo EM by importance sampling, as a method: its options, and the schedule of its iterations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import OptionError, check_whole_number, some
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.options import check_common_options, iteration_limits, phase_lengths
from jaxnlme.estimators.em.saem import (
    AbstractStochastic,
    StochasticMethod,
    gains,
    phase_bounds,
    pilot_iterations,
)
from jaxnlme.estimators.em.settings import SAMPLING, SCHEDULE
from jaxnlme.sampling.importance import ImportanceSampler


class IMP(AbstractStochastic):
    """Maximum likelihood by Monte Carlo EM with importance sampling (the "IMP" of NONMEM).

    Each iteration draws every group's random effects around their conditional mode, around the mean of earlier draws,
    and from the population, weights them by importance ratios, and maximises the weighted complete-data likelihood.
    There are no chains that must become stationary, so few iterations suffice from a good start: `[jn.SAEM(),
    jn.IMP()]`, `[jn.FOCEI(), jn.IMP()]`. The end is that of `jn.SAEM`: draws at fixed parameters give the score, Louis'
    information and their Monte Carlo errors, and draws are added until the maximum is known accurately enough. The
    leading term of the bias of ratios with an estimated sum of weights, of order 1 / draws, is removed; the rest is of
    order 1 / draws^2.

    **Arguments:**

    - `iterations`: numbers of iterations with full steps (plain EM) and with decreasing steps; one number is divided as
      50 : 30, which None gives. A start from an earlier fit gets at most 5 and 10.
    - `draws`: number of draws of each group in each iteration. If a group has fewer than 10 effective ones, it is named
      and the fit is reported as not converged.
    - `likelihood_draws`: number of draws of likelihood="is", at the estimates.
    - `replicates`, `seed`, `m_step`, `likelihood`, `nodes`, `information`, `tolerance`, `max_iterations` (None: at
      least 2000): as of `jn.SAEM`.

    **Raises:** OptionError for values out of range.
    **Source:** Wei and Tanner (1990), Journal of the American Statistical Association 85, 699-704; Quintana, Liu and
    del Pino (1999), Computational Statistics and Data Analysis 29, 429-444; Bauer and Guzy (2004), Monte Carlo
    parametric expectation maximization, in D'Argenio (ed.), Advanced Methods of PK and PD Systems Analysis 3, 135-163.

    **Example:**

    ```python
    fit = jn.fit(model, data, ["focei", jn.IMP(seed=1)])
    ```
    """

    method: StochasticMethod = eqx.field(static=True)
    iterations: tuple[int, int] = eqx.field(static=True)
    burn_in: int = eqx.field(static=True)
    draws: int = eqx.field(static=True)
    last_draws: int = eqx.field(static=True)
    replicates: int = eqx.field(static=True)
    seed: Any = eqx.field(static=True)
    m_step: str = eqx.field(static=True)
    likelihood: str = eqx.field(static=True)
    nodes: int | None = eqx.field(static=True)
    information: str = eqx.field(static=True)
    tolerance: float = eqx.field(static=True)
    max_iterations: int = eqx.field(static=True)

    def __init__(
        self,
        iterations: int | Sequence[int] | None = None,
        *,
        draws: int = 300,
        likelihood_draws: int = 2000,
        replicates: int = 1,
        seed: Any = 0,
        m_step: str = "auto",
        likelihood: str = "is",
        nodes: int | None = None,
        information: str = "louis",
        tolerance: float = 0.05,
        max_iterations: int | None = None,
    ):
        self.method = StochasticMethod("IMP")
        self.max_iterations, self.iterations = iteration_limits(
            "IMP", max_iterations, SCHEDULE.imp_max_iterations, iterations, imp_phase_lengths
        )
        self.last_draws = check_whole_number("IMP: likelihood_draws", likelihood_draws, 2)
        check_whole_number("IMP: draws", draws, 2 * SAMPLING.min_effective_draws)
        for name, value in check_common_options("IMP", locals() | {"burn_in": 0}).items():
            setattr(self, name, value)

    @property
    def changeable_options(self):
        return ("last_draws", *(name for name in super().changeable_options if name != "draws"))

    @property
    def likelihood_draws(self):
        return self.last_draws

    @property
    def remedies(self):
        return "more draws", "more draws"

    def n_chains(self, groups):
        return max(1, min(SAMPLING.max_samples_per_group, SAMPLING.max_samples // max(groups, 1)))

    def evaluations(self, groups):
        return self.draws

    def sampler(self, density):
        return ImportanceSampler(self.draws, density.n_effects)

    def sampling_problems(self, sampler_state, labels):
        effective = sampler_state.effective_fraction.min(axis=1) * self.draws
        few = np.flatnonzero(effective < SAMPLING.min_effective_draws)
        if not len(few):
            return []
        groups = some([str(label) for label in labels[few]])
        return [
            f"Fewer than {SAMPLING.min_effective_draws} of {self.draws} draws are effective for group {groups} "
            f"(smallest number: {effective[few].min():.1f}): importance sampling does not represent the random effects "
            "there. Allow more draws, or fit by 'saem'."
        ]

    def _counts(self, warm: bool) -> tuple[int, int]:
        if not warm:
            return self.iterations
        first, second = SCHEDULE.imp_warm_phases
        return min(self.iterations[0], first), min(self.iterations[1], second)

    def phases(self, warm):
        return phase_bounds(("full steps", "decreasing steps"), self._counts(warm))

    def schedule(self, warm):
        first, second = self._counts(warm)
        k = np.arange(first + second)
        every = np.ones(len(k), bool)
        # A search for the mode costs little compared with the draws, and is made in every iteration; draws near a
        # higher mode lead it there.
        return Schedule(
            k, gains(k, first), every, np.zeros(len(k)), every, np.ones(len(k)), pilot_iterations(k), k == 0, ~every
        )


def imp_phase_lengths(iterations: Any) -> tuple[int, int]:
    """Lengths of both phases; a single number is divided in the proportions of the defaults, which None gives.

    **Raises:** OptionError for anything but one or two non-negative whole numbers, or none above zero.
    """
    if iterations is None:
        return SCHEDULE.imp_phases
    lengths = phase_lengths(iterations)
    if lengths.dtype.kind not in "iu" or lengths.shape not in ((), (2,)) or (lengths < 0).any() or lengths.sum() < 1:
        raise OptionError(
            "IMP: iterations is one whole number, or two of them: full steps, decreasing steps; received "
            f"{iterations!r}."
        )
    if lengths.ndim:
        return int(lengths[0]), int(lengths[1])
    first = -(-int(lengths) * SCHEDULE.imp_phases[0] // sum(SCHEDULE.imp_phases))
    return first, int(lengths) - first
