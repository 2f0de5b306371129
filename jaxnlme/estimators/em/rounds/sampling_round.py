"""A round of draws at fixed parameters: scores are sampled in segments until the round is decided.

After each segment score, observed information and their Monte Carlo errors are computed anew from all draws of the
round, and the facts about them (`SegmentFacts`) are looked at in this order:

1. Decided, because Newton steps do not apply: psi approaches a boundary, or the model is not twice differentiable.
2. Decided, because the Newton step is significant beside its Monte Carlo error, and the information is certain enough
   to take it.
3. Decided, because the Monte Carlo errors of estimates, standard errors and slopes are within their limits.
4. Not decided: control variates are fitted to the draws so far, once in a round, where they reduce the number of
   further draws; then the next segment is sampled, as long as iterations remain.

Where little of the complete-data information is observed along a direction, the information is computed from
transported draws (`transport.py`) once control variates are fitted, and no step is taken before.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import numpy as np

from jaxnlme.estimators.em.e_step import IterationTrace
from jaxnlme.estimators.em.louis import ScoreAndInformation, louis_estimate
from jaxnlme.estimators.em.m_step import SimulationSums
from jaxnlme.estimators.em.phases import iterations_remaining, sample_scores
from jaxnlme.estimators.em.rounds.boundary_evidence import approached_boundary, direction_is_clear
from jaxnlme.estimators.em.rounds.newton import deciding_replicates, significantly_off_maximum
from jaxnlme.estimators.em.rounds.transport import TransportedInformation, fits_memory
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.settings import CRITERIA, SAMPLING, STEPS


@dataclasses.dataclass(frozen=True)
class SampledRound:
    """End of a round: `estimates`, score and information of each replicate (None if the run was stopped before they
    were computed); `decided`, false if the run was stopped or its iterations were used up before."""

    estimates: list[ScoreAndInformation] | None
    decided: bool


@dataclasses.dataclass(frozen=True, eq=False)
class SegmentFacts:
    """Facts about the draws of a round so far, each computed when it is first asked for.

    **Arguments:** `run`; `estimates` of each replicate; `initial_iterations` of the first segment of the round;
    `has_control_variates`: they are used in the estimates; `can_transport`: the information of transported draws can be
    had, and is not used yet.
    """

    run: Run
    estimates: list[ScoreAndInformation]
    initial_iterations: int
    has_control_variates: bool
    can_transport: bool = False

    @functools.cached_property
    def deciding(self) -> list[ScoreAndInformation]:
        """Estimates of the replicates that decide."""
        return deciding_replicates(self.estimates)

    @property
    def n_iterations(self) -> int:
        """Score iterations so far."""
        return self.estimates[0].n_iterations

    @property
    def tolerance(self) -> float:
        """Largest Monte Carlo error of an estimate, relative to its standard error."""
        return float(self.run.estimator.tolerance)

    @property
    def newton_does_not_apply(self) -> bool:
        """True if psi approaches a boundary, or the model is not twice differentiable."""
        return approached_boundary(self.run, self.estimates) is not None or not all(
            estimate.twice_differentiable for estimate in self.estimates
        )

    @functools.cached_property
    def information_is_uncertain(self) -> bool:
        """True if standard errors have large Monte Carlo errors, and more draws may change that. An information that is
        not positive definite may be due to noise, unless that of transported draws is so beyond its error. On the
        boundary of psi, where it often is so far from the maximum, an uphill step follows sooner."""
        on_boundary = self.run.layout.whitened
        segments = CRITERIA.uncertain_segments_on_boundary
        until = segments * self.initial_iterations if on_boundary else CRITERIA.uncertain_iterations
        uncertain = [not estimate.se_mc_error <= CRITERIA.uncertain_se_error for estimate in self.estimates]
        clear = [estimate.transported and estimate.negative_beyond_error for estimate in self.estimates]
        return any(u and not c for u, c in zip(uncertain, clear, strict=True)) and self.n_iterations < until

    @property
    def step_is_due(self) -> bool:
        """True if a replicate is significantly off the maximum, and the information certain enough for a step; without
        control variates, which reduce the Monte Carlo error, only a large step is due."""
        return not self.information_is_uncertain and any(
            significantly_off_maximum(self.run, estimate)
            and (self.has_control_variates or estimate.distance > STEPS.large_step)
            for estimate in self.deciding
        )

    @property
    def standard_errors_are_final(self) -> bool:
        """True if the Monte Carlo errors of standard errors are within their limit, or draws enough were made. Without
        control variates the first batches are too short beside the autocorrelation time of the chains."""
        batches_long_enough = self.has_control_variates or self.n_iterations >= CRITERIA.uncertain_iterations
        return batches_long_enough and (
            all(estimate.se_mc_error <= CRITERIA.se_error_limit for estimate in self.deciding)
            or self.n_iterations >= CRITERIA.max_se_iterations
        )

    @property
    def direction_is_final(self) -> bool:
        """True if the signs of the slopes from the boundary into the interior are clear, or draws enough were made."""
        return direction_is_clear(self.run, self.deciding) or self.n_iterations >= CRITERIA.max_se_iterations

    @property
    def estimates_are_accurate(self) -> bool:
        """True if the Monte Carlo errors of the estimates are within the tolerance."""
        return all(estimate.mc_error_ratio <= self.tolerance for estimate in self.deciding)

    @property
    def estimates_are_final(self) -> bool:
        """True if the Monte Carlo errors of the estimates are well within the tolerance, or within it after draws
        enough."""
        target = CRITERIA.target_per_tolerance * self.tolerance
        enough = self.n_iterations >= CRITERIA.max_target_iterations
        few_remain = iterations_remaining(self.run) < SAMPLING.max_initial_iterations
        return self.estimates_are_accurate and (
            enough or few_remain or all(estimate.mc_error_ratio <= target for estimate in self.deciding)
        )

    @property
    def is_accurate(self) -> bool:
        """True if estimates, standard errors and slopes are all known well enough."""
        return (
            self.standard_errors_are_final
            and self.direction_is_final
            and not self.information_is_uncertain
            and self.estimates_are_final
        )

    @property
    def needs_transport(self) -> bool:
        """True if the information of transported draws is wanted and can be had: of any replicate, little of the
        complete-data information is observed along a direction, or the information is not positive definite. A run
        that used it in an earlier round goes on with it."""
        limit = CRITERIA.transport_below_fraction
        little = self.run.outer_state.transported or any(
            not estimate.least_observed_fraction > limit for estimate in self.estimates
        )
        return self.can_transport and little

    @property
    def is_decided(self) -> bool:
        """True if the round is decided (steps 1 to 3 of the module)."""
        return self.newton_does_not_apply or (not self.needs_transport and (self.step_is_due or self.is_accurate))

    @property
    def control_variates_may_help(self) -> bool:
        """True if control variates are not used yet, or the estimates are not accurate with those in use."""
        return not self.has_control_variates or any(
            estimate.mc_error_ratio > self.tolerance for estimate in self.deciding
        )

    @property
    def scores_suffice(self) -> bool:
        """True if nothing but further scores is wanted: the standard errors are final, and no score of transported
        draws is in use, which has the smaller Monte Carlo error where it is."""
        return self.standard_errors_are_final and all(len(e.scores) == e.n_iterations for e in self.deciding)

    @property
    def iterations_needed(self) -> int:
        """Number of further score iterations that bring the Monte Carlo errors of estimates and standard errors to
        their limits, at most as many as there are: the Monte Carlo errors are themselves estimated with error."""
        limit = self.tolerance
        if self.estimates_are_accurate and not self.estimates_are_final:
            limit *= CRITERIA.target_per_tolerance
        ratio = max(
            max(estimate.mc_error_ratio / limit, estimate.se_mc_error / CRITERIA.se_error_limit)
            for estimate in (self.estimates if self.information_is_uncertain else self.deciding)
        )
        n, least = self.n_iterations, SAMPLING.min_score_iterations
        return int(np.clip(SAMPLING.safety_factor * n * ratio**2 - n, least, max(n, least)))


def sample_until_decided(run: Run, initial_iterations: int) -> SampledRound:
    """Sample scores at the current parameters until the round is decided (steps 1 to 4 of the module).

    **Arguments:** `initial_iterations` of the first segment.
    """
    estimates: list[ScoreAndInformation] | None = None
    # The first score iteration in which control variates are used (None: not yet). Those of an earlier round are used
    # from the beginning.
    control_variates_from, refitted = (0 if run.has_control_variates else None), False
    transported: TransportedInformation | None = None
    traces = sample_scores(run, initial_iterations)
    while not run.stopped:
        estimates = louis_estimates(run, traces, control_variates_from)
        is_transported = transported is not None and transported.is_valid
        if transported is not None and is_transported:
            estimates = transported.applied(estimates)
        elif transported is not None and transported.is_complete:
            run.outer_state.kinked, transported = True, None
        can_transport = not (run.outer_state.kinked or is_transported) and fits_memory(run)
        facts = SegmentFacts(run, estimates, initial_iterations, control_variates_from is not None, can_transport)
        # Steps 1 to 3.
        if facts.is_decided:
            return SampledRound(estimates, True)
        # Step 4.
        wanted = facts.control_variates_may_help or facts.needs_transport
        refit = not refitted and wanted and run.fit_control_variates(facts.n_iterations)
        count = min(initial_iterations if refit else facts.iterations_needed, iterations_remaining(run))
        if count < 1:
            break
        if refit:
            # Coefficients fixed before the draws that they are applied to leave the mean unbiased, earlier ones too.
            control_variates_from = facts.n_iterations if control_variates_from is None else control_variates_from
            refitted = True
        if run.has_control_variates and (facts.needs_transport or (refit and is_transported)):
            transported = TransportedInformation.begin(run, facts.n_iterations)
            run.outer_state.transported = True
            count = min(max(count, transported.least_iterations), iterations_remaining(run))
        if transported is None or (is_transported and facts.scores_suffice):
            traces += sample_scores(run, count)
        else:
            traces += transported.sample_scores(count)
    return SampledRound(estimates, False)


def _concatenated(traces: list[IterationTrace]) -> SimulationSums:
    """Sums of all iterations of the traces, leaves (iterations, replicates, ...)."""
    return jax.tree.map(lambda *leaves: np.concatenate(leaves), *(trace.simulation_sums for trace in traces))


def louis_estimates(
    run: Run, traces: list[IterationTrace], control_variates_from: int | None
) -> list[ScoreAndInformation]:
    """Score, observed information and their Monte Carlo errors of each replicate, from the score iterations so far,
    with control variates from the iteration `control_variates_from` on (None: without)."""
    simulated, group_sums = _concatenated(traces), run.score_sums()
    control_coefficients = run.to_host([chunk.control_coefficients for chunk in run.chain_states])
    data = run.binding.data
    weights = np.where(data.observed.any(axis=1), data.weights, 0.0)
    out = []
    for r in range(run.replicates):
        sums = jax.tree.map(lambda leaf, r=r: leaf[:, r], simulated)
        n_iterations = len(sums.score_sums.score)
        out.append(
            louis_estimate(
                run.binding.density,
                run.template,
                run.layout,
                np.asarray(run.em_state.packed)[r],
                sums,
                jax.tree.map(lambda leaf, r=r, n=n_iterations: leaf[:, r] / n, group_sums),
                control_coefficients[:, r],
                weights,
                control_variates_from,
                run.placed.processes,
            )
        )
    return out
