"""IMP, Monte Carlo EM by importance sampling, as a method: its options, and the phases that they stand for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import numpy as np

from jaxnlme.errors import OptionError, some
from jaxnlme.estimators.em.m_step import Schedule
from jaxnlme.estimators.em.options import common, whole
from jaxnlme.estimators.em.saem import AbstractStochastic, StochasticMethod, gains, piloting, spans
from jaxnlme.sampling.importance import ImportanceSampler

# Full steps, decreasing steps; and from a start that is near.
PHASES, WARM_PHASES = (50, 30), (5, 10)
# Unweighted samples of each group that an iteration leaves, at most, and of all groups.
KEPT, KEPT_IN_ALL = 20, 200_000
# Effective draws of a group in an iteration below which its weights are not to be trusted: what remains of the bias of
# their ratios, of order 1 / draws^2, may then be a hundredth of a conditional standard deviation.
LEAST = 10


class IMP(AbstractStochastic):
    """Maximum likelihood by Monte Carlo EM with importance sampling (Wei and Tanner 1990, Journal of the American
    Statistical Association 85, 699-704; Quintana, Liu and del Pino 1999, Computational Statistics and Data Analysis 29,
    429-444; the "IMP" of NONMEM: Bauer and Guzy 2004).

    Each iteration draws every group's random effects anew, around their conditional mode, around the mean of earlier
    draws, and from the population, weights them by their densities, and maximises the weighted complete-data
    likelihood. There are no chains that must arrive, so a few iterations from a good start do: `[jn.SAEM(), jn.IMP()]`,
    `[jn.FOCEI(), jn.IMP()]`. After the phases the parameters stand still, and the end is that of `jn.SAEM`: the mean
    complete score, Louis' information and their Monte Carlo error tell where the maximum lies, and draws are added
    until it is known well enough. The leading term of the bias that weights with an estimated sum have, of order
    1 / draws, is taken away; what remains is of order 1 / draws^2.

    **Arguments:**

    - `iterations`: numbers of iterations with full steps (plain EM) and with decreasing steps; one number is split as
      50 : 30. A start from an earlier fit gets 5 and 10 at most.
    - `draws`: of each group in each iteration. A group with fewer than 10 effective ones is named, and the fit not
      called converged.
    - `likelihood_draws`: of likelihood="is", at the end.
    - `replicates`, `seed`, `m_step`, `likelihood`, `nodes`, `information`, `tolerance`, `max_iterations`: as of
      `jn.SAEM`.

    **Errors:** OptionError for values out of range.
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
        iterations: int | Sequence[int] = PHASES,
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
        max_iterations: int = 2000,
    ):
        self.method = StochasticMethod("IMP")
        self.iterations = halves(iterations)
        self.last_draws = whole("IMP", "likelihood_draws", likelihood_draws, 2)
        whole("IMP", "draws", draws, 2 * LEAST)
        for name, value in common("IMP", locals() | {"burn_in": 0}).items():
            setattr(self, name, value)

    @property
    def loose(self):
        return ("last_draws", *(name for name in super().loose if name != "draws"))

    @property
    def likelihood_draws(self):
        return self.last_draws

    @property
    def remedies(self):
        return "more draws", "more draws"

    def n_chains(self, groups):
        return max(1, min(KEPT, KEPT_IN_ALL // max(groups, 1)))

    def evaluations(self, groups):
        return self.draws

    def sampler(self, effects):
        return ImportanceSampler(self.draws, effects)

    def complaints(self, memory, labels):
        least = memory.effective.min(axis=1) * self.draws
        few = np.flatnonzero(least < LEAST)
        if not len(few):
            return []
        return [
            f"Of {self.draws} draws fewer than {LEAST} count for group {some([str(one) for one in labels[few]])} "
            f"({least[few].min():.1f} at least): importance sampling does not describe the random effects there. Allow "
            "more draws, or fit by 'saem'."
        ]

    def _counts(self, warm: bool) -> tuple[int, int]:
        if not warm:
            return self.iterations
        return min(self.iterations[0], WARM_PHASES[0]), min(self.iterations[1], WARM_PHASES[1])

    def phases(self, warm):
        return spans(("full steps", "decreasing steps"), self._counts(warm))

    def schedule(self, warm):
        first, second = self._counts(warm)
        k = np.arange(first + second)
        every = np.ones(len(k), bool)
        # A search of the mode costs little beside the draws.
        return Schedule(k, gains(k, first), every, np.zeros(len(k)), every, np.ones(len(k)), piloting(k), k == 0)


def halves(iterations: Any) -> tuple[int, int]:
    """The lengths of both phases; a total is split in the proportions of the defaults.

    **Errors:** OptionError.
    """
    given = np.asarray(iterations)
    if given.dtype.kind not in "iu" or given.shape not in ((), (2,)) or (given < 0).any() or given.sum() < 1:
        raise OptionError(
            "IMP: iterations are one number of iterations, or two: full steps, decreasing steps; received "
            f"{iterations!r}."
        )
    if given.ndim:
        return int(given[0]), int(given[1])
    first = -(-int(given) * PHASES[0] // sum(PHASES))
    return first, int(given) - first
