"""Search of profile likelihoods: rounds of refits at the points that the traces request."""

from __future__ import annotations

import equinox as eqx
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.model.covariance.reordered import Permuted
from jaxnlme.refits.jobs import empty_overlay, outcome_sentences, reached_maximum
from jaxnlme.refits.profile_trace import ProfileTrace
from jaxnlme.refits.refits import Refits
from jaxnlme.refits.settings import PROFILE


class ProfileSearch:
    """Refits at the points that the traces request, all in one program.

    `interrupted`: by Ctrl-C.

    **Arguments:** `refits`; `traces`, to which results are added; `progress` as in `fit`.
    """

    def __init__(self, refits: Refits, traces: list[ProfileTrace], progress: bool | None):
        self.refits, self.traces, self.progress = refits, traces, progress
        self.interrupted = False
        self.problem = traces[0].problem
        self.permuted = isinstance(traces[0].family, Permuted)
        self.inverse_hessians = np.array([trace.inverse_information for trace in traces])
        # The modes of the fit are whitened by its factor, which another order of the effects changes.
        self.modes = np.zeros_like(refits.fit.modes) if traces[0].family is not None else refits.fit.modes
        self.expected = sum(2 * trace.points for trace in traces)

    def run(self) -> None:
        """Refit in rounds, until both limits of every trace are exact or out of reach."""
        for _ in range(PROFILE.max_rounds):
            points = [trace.next_points() for trace in self.traces]
            if not any(len(c) for c in points):
                break
            self._refit(points)
            if self.interrupted:
                break

    def _refit(self, points: list[np.ndarray]) -> None:
        """Refit at `points`, an array of coordinates for each trace, and add the results to the traces."""
        refits = self.refits
        trace_index = np.concatenate([np.full(len(c), k) for k, c in enumerate(points)]).astype(int)
        values = np.concatenate(points)
        x = np.array([self.traces[k].starting_point(c) for k, c in zip(trace_index, values, strict=True)])
        free = np.array([self.traces[k].free for k in trace_index])

        def overlay(indices: np.ndarray) -> Problem:
            empty = empty_overlay(self.problem)
            if not self.permuted:
                return empty
            families = [self.traces[trace_index[j]].problem.density.covariance for j in indices]
            permutation = np.array([family.permutation for family in families])  # pyright: ignore[reportAttributeAccessIssue]
            return eqx.tree_at(
                lambda p: p.density.covariance.permutation, empty, permutation, is_leaf=lambda leaf: leaf is None
            )

        out = refits.run(
            overlay,
            x,
            free=free,
            modes=self.modes,
            inverse_hessians=self.inverse_hessians,
            hessian_index=trace_index,
            problem=self.problem,
            expected=self.expected,
            progress=self.progress,
            name="profile",
        )
        self.interrupted = out.interrupted
        best = refits.fit.log_likelihood + refits.fit.log_prior
        good, sentences = reached_maximum(out), outcome_sentences(out)
        for j, k in enumerate(trace_index):
            trace = self.traces[k]
            trace.c.append(float(values[j]))
            trace.deviance.append(2.0 * (best + float(out.value[j])) if good[j] else np.nan)
            trace.log_likelihood.append(float(out.log_likelihood[j]) if good[j] else np.nan)
            trace.x.append(out.x[j])
            trace.status.append(str(sentences[j]))
