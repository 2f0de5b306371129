"""Next action of a stochastic fit after a round of draws at fixed parameters.

`RoundFacts` names the facts that decide, and `next_action` looks at them in this order; the first that applies counts:

1. All replicates approach a face of the boundary of psi: move there.
2. On the boundary, the log-likelihood increases into the interior or the model has kinks: leave it. Far from the
   maximum on the face the slope is no evidence; it counts at that maximum, or where no Newton step leads there. Also
   at that maximum where draws do not decide and quadrature finds a higher point inside.
3. Scales have become negligible in the interior: restart them from above; at the maximum, or after as many rounds
   without a positive definite information as are allowed in the interior.
4. Parts of a residual scale are estimated as zero: hold them.
5. At the maximum of a singular psi, the log-likelihood increases along a rotation: rotate it.
6. At the maximum: stop.
7. Otherwise a step, or averaging in its place; stop if too few iterations remain for it and the next round, or after
   too many rounds without a positive definite information.
   a. The information of a replicate is positive definite: a Newton step; in the interior, after
      `STEPS.max_newton_steps` of them, averaging.
   b. That of no replicate is: an uphill step, on the boundary or from transported draws; otherwise averaging.
"""

from __future__ import annotations

import dataclasses
import enum
import functools

import numpy as np

from jaxnlme.estimators.core.zero_variances import VanishedPart
from jaxnlme.estimators.em.louis import ScoreAndInformation
from jaxnlme.estimators.em.phases import iterations_remaining
from jaxnlme.estimators.em.rounds.boundary_evidence import (
    Face,
    approached_boundary,
    rotated_face,
    scales_to_restart,
    should_leave_boundary,
    vanished_in_all,
)
from jaxnlme.estimators.em.rounds.boundary_quadrature import higher_interior_point
from jaxnlme.estimators.em.rounds.newton import (
    deciding_replicates,
    significantly_off_maximum,
    standard_errors_changed,
)
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import SAMPLING, SCHEDULE, STEPS


class Action(enum.Enum):
    """Action of a fit after a round; each but STOP is followed by another round."""

    MOVE_TO_BOUNDARY = enum.auto()
    LEAVE_BOUNDARY = enum.auto()
    RESTART_SMALL_SCALES = enum.auto()
    HOLD_VANISHED_PARTS = enum.auto()
    ROTATE = enum.auto()
    NEWTON_STEP = enum.auto()
    UPHILL_STEP = enum.auto()
    ADD_AVERAGING = enum.auto()
    STOP = enum.auto()


@dataclasses.dataclass(frozen=True, eq=False)
class RoundFacts:
    """Facts about a run after a decided round, each computed when it is first asked for, before the run changes.

    **Arguments:** `run`; `estimates`, score and information of each replicate in the round.
    """

    run: Run
    estimates: list[ScoreAndInformation]

    @property
    def on_boundary(self) -> bool:
        """True if psi is on its boundary."""
        return self.run.layout.whitened

    @property
    def n_iterations(self) -> int:
        """Score iterations of the round."""
        return self.estimates[0].n_iterations

    @functools.cached_property
    def approached_face(self) -> Face | None:
        """Face of the boundary that all replicates approach; None if there is none."""
        return approached_boundary(self.run, self.estimates)

    @functools.cached_property
    def at_maximum(self) -> bool:
        """True if no deciding replicate is significantly off the maximum (on the face, if psi is on the boundary), and
        standard errors no longer change from step to step."""
        if not self.newton_steps_used_up and standard_errors_changed(self.run, self.estimates):
            return False
        return not any(
            significantly_off_maximum(self.run, estimate) for estimate in deciding_replicates(self.estimates)
        )

    @property
    def any_positive_definite(self) -> bool:
        """True if the observed information of a replicate is positive definite, so that there is a Newton step."""
        return any(estimate.positive_definite for estimate in self.estimates)

    @property
    def newton_steps_used_up(self) -> bool:
        """True after as many Newton steps as are taken before averaging is added."""
        transported = any(estimate.transported for estimate in self.estimates)
        most = STEPS.max_transported_steps if transported else STEPS.max_newton_steps
        return self.run.outer_state.newton_steps >= most

    @property
    def no_newton_step_available(self) -> bool:
        """True if Newton steps are used up, or no replicate has a valid one."""
        return self.newton_steps_used_up or not any(
            estimate.positive_definite and estimate.twice_differentiable for estimate in self.estimates
        )

    @property
    def interior_singular_rounds_used_up(self) -> bool:
        """True in the round in which the number of rounds without a positive definite information is that allowed in
        the interior."""
        return self.run.outer_state.singular_rounds == STEPS.max_singular_rounds

    @property
    def too_many_singular_rounds(self) -> bool:
        """True if no information is positive definite, and as many such rounds as are allowed came before."""
        allowed = STEPS.max_uphill_steps if self.steps_uphill else STEPS.max_singular_rounds
        return not self.any_positive_definite and self.run.outer_state.singular_rounds >= allowed

    @property
    def steps_uphill(self) -> bool:
        """True if a step follows a round without a positive definite information: on the boundary, and where the
        information is that of transported draws."""
        return self.on_boundary or any(estimate.transported for estimate in self.estimates)

    @functools.cached_property
    def should_leave_boundary(self) -> bool:
        """True if the log-likelihood increases into the interior, or the model has kinks."""
        return should_leave_boundary(self.run, self.estimates)

    @functools.cached_property
    def higher_interior_point(self) -> np.ndarray | None:
        """At the maximum on the boundary, parameters inside it with a higher log-likelihood by quadrature; None
        otherwise."""
        return higher_interior_point(self.run, self.estimates) if self.on_boundary and self.at_maximum else None

    @functools.cached_property
    def scales_to_restart(self) -> frozenset[int]:
        """Packed entries of scales that vanish and were not restarted before."""
        return scales_to_restart(self.run, self.estimates)

    @functools.cached_property
    def vanished_parts(self) -> list[VanishedPart]:
        """Parts of a residual scale that are estimated as zero, and not held yet."""
        return vanished_in_all(self.run)

    @functools.cached_property
    def rotated_face(self) -> Face | None:
        """Parameters with a rotated psi; None if no rotation applies."""
        return rotated_face(self.run, self.estimates)

    @property
    def next_initial_iterations(self) -> int:
        """Score iterations of the first segment of the next round: `SAMPLING.initial_fraction` of the iterations behind
        the score of this one, within limits."""
        count = int(SAMPLING.initial_fraction * len(self.estimates[0].scores))
        return max(self.run.outer_state.initial_iterations, min(count, SAMPLING.max_initial_iterations))

    def enough_iterations_for(self, action: Action) -> bool:
        """True if enough iterations remain for a step or averaging, and the first segment of the round after it."""
        needed = SAMPLING.equilibration_iterations + self.next_initial_iterations
        if action is Action.ADD_AVERAGING:
            needed += sum(SCHEDULE.added_averaging)
        return iterations_remaining(self.run) >= needed


def next_action(facts: RoundFacts) -> Action:
    """The action that follows a decided round (steps 1 to 7 of the module)."""
    # Step 1.
    if facts.approached_face is not None:
        return Action.MOVE_TO_BOUNDARY
    # Step 2.
    if (facts.at_maximum or facts.no_newton_step_available) and facts.should_leave_boundary:
        return Action.LEAVE_BOUNDARY
    if facts.higher_interior_point is not None:
        return Action.LEAVE_BOUNDARY
    # Step 3.
    if (facts.at_maximum or facts.interior_singular_rounds_used_up) and facts.scales_to_restart:
        return Action.RESTART_SMALL_SCALES
    # Step 4.
    if facts.vanished_parts:
        return Action.HOLD_VANISHED_PARTS
    # Step 5.
    if facts.at_maximum and facts.rotated_face is not None:
        return Action.ROTATE
    # Step 6.
    if facts.at_maximum:
        return Action.STOP
    # Step 7.
    step = _step(facts)
    if facts.too_many_singular_rounds or not facts.enough_iterations_for(step):
        return Action.STOP
    return step


def _step(facts: RoundFacts) -> Action:
    """The step towards the maximum, or averaging in its place (step 7, a and b)."""
    if not facts.any_positive_definite:
        return Action.UPHILL_STEP if facts.steps_uphill else Action.ADD_AVERAGING
    if facts.on_boundary or not facts.newton_steps_used_up:
        return Action.NEWTON_STEP
    return Action.ADD_AVERAGING
