"""Score and observed information in coordinates of the effects that move with the parameters.

Fisher's and Louis' identities hold in whatever coordinates of the effects the complete data are written. Where the data
say little of a parameter once the effects are integrated out, the complete data in xi say much of it, and Louis'
information is a small difference of large means. With coordinates u that hold the conditional distribution of a group
nearly fixed while the parameters move, little is missing, and the difference is accurate. For draws z of group i at
theta_0 (`packed`), and a change d of its active entries:

1. T(z, d) = z_0(z, d) + sum_k d_k (m_k + S_k z) is the point of the whitened effects at theta_0 + d with the
   coordinates of z, where z_0 is the point with the same xi. m_k and S_k, of each group, are minus the coefficients of
   its control variates (`sampling/control_variates.py`): least squares of the score on them is the choice of the
   velocity that leaves the least variance to the score.
2. phi(d; z) = log p(y_i, T(z, d); theta_0 + d) + log |dT / dz| is the complete-data log-density in these coordinates.
   Its gradient s(z) at zero is the score less its control variates, with the same mean.
3. Observed information: I = -sum_i w_i E[d2 phi | y_i] - sum_i w_i var(s | y_i). In the variance, s is taken less a
   reference value of the group, near its mean, because the mean of squares has the smaller Monte Carlo error. The terms
   of each group, t = -d2 phi - s s', are regressed on the control variates as well: where the estimates are strongly
   correlated, the information along some directions is a small difference of its entries. Coefficients fitted to one
   half of the draws are applied to the other half, so that batch means show the error that is left.
4. Score: sum_i w_i E[s | y_i], from the same regression, where its Monte Carlo error is the smaller one.
5. Identity 3 needs second derivatives of the model in z. As a check, the same function is differentiated along a shift
   of each z_j as well: E[d2 phi + s^2] is zero along it unless the model has kinks.

**Source:** Louis (1982), Journal of the Royal Statistical Society B 44, 226-233; Meng and van Dyk (1999), Biometrika
86, 301-320, for the choice of the augmentation with the least missing information; Mira, Solgi and Imparato (2013),
Statistics and Computing 23, 653-662, for the control variates.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from jaxnlme.binding.problem import Problem
from jaxnlme.estimators.em.complete_data import coordinates_at
from jaxnlme.estimators.em.e_step import ChainState, IterationTrace, StepContext
from jaxnlme.estimators.em.louis import ScoreAndInformation, batch_means, mean_is_zero
from jaxnlme.estimators.em.phases import sample_scores
from jaxnlme.estimators.em.run import Run
from jaxnlme.estimators.em.scores import control_variates_of_units, observed_weight
from jaxnlme.estimators.em.settings import SAMPLING
from jaxnlme.estimators.em.sufficient_statistics import informative_and_counts, weighted_contribution
from jaxnlme.model import derivatives
from jaxnlme.model.density import Density, Group
from jaxnlme.model.levels import Levels
from jaxnlme.numerics.arrays import map_leading
from jaxnlme.numerics.linalg import small_product
from jaxnlme.sampling.control_variates import control_variates, fit_coefficients, n_control_variates, velocity_of
from jaxnlme.sampling.samplers import Chains, Whitening, whitening_at
from jaxnlme.sampling.settings import TUNING


class GroupTerms(eqx.Module):
    """Sums over iterations of means over the draws of one group: `terms` (terms,), t for each pair of active parameters
    and the scores of transported draws; `functions` (functions,), the control variates; `products` (functions,
    functions) of these, and `crossed` (terms, functions), products of the terms with them."""

    terms: Any
    functions: Any
    products: Any
    crossed: Any

    @classmethod
    def zeros(cls, shape: tuple[int, ...], active: int, functions: int) -> GroupTerms:
        """Sums of zero, with leading axes `shape`, on the host; `functions`, the number of control variates."""
        n_terms, k = active * (active + 1) // 2 + active, functions
        return cls(*(np.zeros((*shape, *rest)) for rest in ((n_terms,), (k,), (k, k), (n_terms, k))))


class TransportSums(eqx.Module):
    """Sums over groups of means over the draws of an iteration: `terms` (replicates, terms), as in GroupTerms;
    `kink_check` (replicates, effects), second derivatives plus squared slopes along each z (with nested levels, along
    the z of a distinct effect in all units at once), with mean zero where the model is twice differentiable."""

    terms: Any
    kink_check: Any


def transport_sums(
    problem: Problem, shared: tuple[StepContext, Any], per_group: tuple[ChainState, Any, GroupTerms]
) -> tuple[TransportSums, tuple[GroupTerms, Any]]:
    """Terms of the information from the current draws of all chains, for `PlacedProblem.run`.

    **Arguments:** `shared`: the StepContext and parameters (replicates, packed); `per_group`: the chains, with the
    coefficients of their control variates; references (groups, replicates, active) of the scores; the GroupTerms of
    earlier iterations (groups, replicates, ...), without weights.
    **Returns:** the TransportSums; the GroupTerms, this iteration added, and its control variates (groups, replicates,
    functions).
    """
    context, packed = shared
    chain_states, references, earlier = per_group
    density = problem.density
    params = map_leading(context.template.unpack, packed)
    whitenings = map_leading(lambda p: whitening_at(density, p, context.layout.whitened), params)

    def terms_of_group(group, weight, chains, coefficients, reference):
        def per_replicate(*arguments):
            return _group_terms(context, density, group, weight, *arguments)

        return map_leading(per_replicate, packed, whitenings, chains, coefficients, reference)

    contributions, terms = problem.map(
        terms_of_group, problem.weights, chain_states.chains, chain_states.control_coefficients, references
    )
    sums = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), contributions)
    return sums, (jax.tree.map(jnp.add, earlier, terms), terms.functions)


def _group_terms(
    context: StepContext,
    density: Density,
    group: Group,
    weight: Any,
    packed: Any,
    whitening: Whitening,
    chains: Chains,
    coefficients: Any,
    reference: Any,
) -> tuple[TransportSums, GroupTerms]:
    """Weighted contribution of one group to the sums over groups, in one replicate, and its terms without weight."""
    layout = context.layout
    active, levels = np.flatnonzero(layout.free), density.levels
    n, q = len(active), density.covariance.size
    params = context.template.unpack(packed)
    mean = layout.centring.mean(params.beta, layout.centring.coefficients(group))
    nested = control_variates_of_units(layout, whitening, params, chains, group)
    if nested is None:
        velocity = velocity_of(coefficients[active], density.n_effects)
    else:
        velocity = nested.velocity(coefficients[active])
    shifted = _shifted(levels, group)

    def log_density(change, z):
        moved = context.template.unpack(packed.at[active].add(change[:n]))
        matrix, offset = coordinates_at(layout, density, params, moved, group)
        if levels is not None:
            matrix = _of_units(levels, matrix, group)
        shift, linear = (jnp.tensordot(change[:n], part, axes=1) for part in velocity)
        along = change[n:] if shifted is None else change[n:] @ shifted
        matrix, offset = matrix + linear, offset + shift + along
        # log |1 + e| = tr e - tr e^2 / 2 to the second order.
        excess = matrix - jnp.eye(density.n_effects, dtype=z.dtype)
        log_jacobian = jnp.trace(excess) - 0.5 * jnp.sum(excess * excess.T)
        return density.log_joint(moved, small_product(matrix, z) + offset, group) + log_jacobian

    def terms_of_draw(z):
        zero = jnp.zeros((n + q,), z.dtype)
        hessian, slope = derivatives.hessian_and_gradient(log_density)(zero, z)
        deviation = slope[:n] - reference
        pairs = -hessian[:n, :n] - deviation[:, None] * deviation[None, :]
        terms = jnp.concatenate([pairs[np.tril_indices(n)], slope[:n]])
        if levels is None:
            functions = control_variates(z, slope[n:])
        else:
            in_z = derivatives.gradient(lambda z: density.log_joint(params, z, group))(z)
            functions = (control_variates if nested is None else nested)(z, in_z)
        products, crossed = functions[:, None] * functions[None, :], terms[:, None] * functions[None, :]
        kink_check = jnp.diagonal(hessian)[n:] + slope[n:] ** 2
        return TransportSums(terms, kink_check), GroupTerms(terms, functions, products, crossed)

    z = whitening.solve(chains.xi - mean[None, :])
    sums, terms = jax.tree.map(lambda leaf: jnp.mean(leaf, axis=0), jax.vmap(terms_of_draw)(z))
    return weighted_contribution(observed_weight(group, weight), sums), terms


def _of_units(levels: Levels, matrix: Any, group: Group) -> Any:
    """The map M (effects, effects) of distinct effects for the effects of all units (random, random): the identity for
    units that the data do not inform."""
    informative, _ = informative_and_counts(levels, group)
    return jnp.where(informative[levels.unit_of_entry][:, None], levels.expanded(matrix), np.eye(levels.size))


def _shifted(levels: Levels | None, group: Group) -> Any:
    """One where a shift of a distinct effect moves an entry of the vector of a group (effects, random); None without
    nested levels, where each moves its own."""
    if levels is None:
        return None
    informative, _ = informative_and_counts(levels, group)
    return jnp.where(informative[levels.unit_of_entry][None, :] & levels.entries_of_effect, 1.0, 0.0)


@dataclasses.dataclass(eq=False)
class TransportedInformation:
    """The observed information of a round from its draws, in coordinates that move with the parameters.

    **Fields:** `run`, at the parameters of the round; `references` (groups, replicates, active), mean scores of the
    groups so far, and the same `placed` on the devices; `group_terms`, for each half of the evaluations the GroupTerms
    of each chunk; `sums` and `functions` (groups, replicates, functions) of each iteration that was evaluated.
    """

    run: Run
    references: np.ndarray
    placed: list[Any]
    group_terms: list[list[GroupTerms]]
    sums: list[TransportSums]
    functions: list[np.ndarray]

    @classmethod
    def begin(cls, run: Run, iterations: int) -> TransportedInformation:
        """Begin with the control variates as they are now, after `iterations` of the round with scores."""
        active = np.flatnonzero(run.layout.free)
        means = jax.tree.map(lambda leaf: leaf / iterations, run.score_sums())
        coefficients = run.to_host([chunk.control_coefficients for chunk in run.chain_states])
        scores = means.score - (coefficients @ means.control_variates[..., None])[..., 0]
        references = np.where(np.isfinite(scores), scores, 0.0)[..., active]
        blank = GroupTerms.zeros(references.shape[:2], len(active), coefficients.shape[-1])
        halves = [run.to_device(blank) for _ in range(2)]
        return cls(run, references, run.placed.scatter(references), halves, [], [])

    @staticmethod
    def _half(number: int) -> int:
        """The half to which the evaluation of this number belongs: blocks of them in turn, longer than chains remember
        what they were, mostly."""
        return number // (SAMPLING.batches // 2) % 2

    def sample_scores(self, count: int) -> list[IterationTrace]:
        """As `phases.sample_scores`, with an evaluation after every `SAMPLING.transport_interval` iterations."""
        traces: list[IterationTrace] = []
        done = 0
        while done < count and not self.run.stopped:
            part = min(SAMPLING.transport_interval, count - done)
            traces += sample_scores(self.run, part)
            done += part
            self._evaluate()
        return traces

    def _evaluate(self) -> None:
        run = self.run
        half = self._half(len(self.sums))
        per_group = list(zip(run.chain_states, self.placed, self.group_terms[half], strict=True))
        shared = (run.context, np.asarray(run.em_state.packed))
        sums, chunks = run.placed.run(transport_sums, shared, per_group, passes=run.replicates * run.n_chains)
        self.sums.append(jax.tree.map(np.asarray, sums))
        self.group_terms[half] = [terms for terms, _ in chunks]
        self.functions.append(run.to_host([functions for _, functions in chunks]))

    @property
    def least_iterations(self) -> int:
        """Score iterations for as many evaluations as batch means and two regressions need."""
        density = self.run.binding.density
        draws = TUNING.draws_per_control_variate * (n_control_variates(density.n_effects, density.levels) + 1)
        return SAMPLING.transport_interval * max(SAMPLING.batches, 2 * -(-draws // self.run.n_chains))

    @property
    def is_complete(self) -> bool:
        """True if there are evaluations enough."""
        return len(self.sums) * SAMPLING.transport_interval >= self.least_iterations

    @property
    def is_valid(self) -> bool:
        """True if there are evaluations enough, all terms are finite and the model is, within Monte Carlo error, twice
        differentiable."""
        if not self.is_complete:
            return False
        checks = np.stack([sums.kink_check for sums in self.sums])
        finite = all(np.isfinite(sums.terms).all() for sums in self.sums)
        return finite and all(mean_is_zero(checks[:, r]) for r in range(checks.shape[1]))

    def applied(self, estimates: list[ScoreAndInformation]) -> list[ScoreAndInformation]:
        """The `estimates` of each replicate with this information in place of Louis' in xi."""
        run = self.run
        data = run.binding.data
        weights = np.where(data.observed.any(axis=1), data.weights, 0.0)
        halves = np.array([self._half(k) for k in range(len(self.sums))])
        counts = np.bincount(halves, minlength=2)
        totals = run.placed.processes.total
        terms, group_sums = np.stack([sums.terms for sums in self.sums]), np.zeros(())
        for half in range(2):
            other = jax.tree.map(lambda leaf, n=counts[1 - half]: leaf / n, run.to_host(self.group_terms[1 - half]))
            draws = counts[1 - half] * run.n_chains
            fitted = fit_coefficients(other.crossed, other.terms, other.functions, other.products, draws)
            own = run.to_host(self.group_terms[half])
            group_sums = group_sums + own.terms - (fitted @ own.functions[..., None])[..., 0]
            weighted = np.where((weights == 0)[:, None, None, None], 0.0, fitted * weights[:, None, None, None])
            for k in np.flatnonzero(halves == half):
                terms[k] -= totals(np.einsum("grtk,grk->rt", weighted, self.functions[k]))
        group_means = group_sums / len(self.sums)
        out = []
        for r, estimate in enumerate(estimates):
            n = len(estimate.active)
            deviation = np.where((weights == 0)[:, None], 0.0, group_means[:, r, -n:] - self.references[:, r])
            between = totals((deviation.T * weights) @ deviation)
            pairs, scores = np.split(terms[:, r], [-n], axis=1)
            pairs, (prior_slope, prior_curvature) = _symmetric(pairs, n), self._prior(estimate)
            changed = dataclasses.replace(
                estimate,
                information=pairs.mean(axis=0) + between + prior_curvature,
                information_batches=batch_means(pairs),
                transported=True,
            )
            scores = scores + prior_slope
            with_score = dataclasses.replace(changed, score=scores.mean(axis=0), scores=scores)
            out.append(with_score if with_score.mc_error_ratio < changed.mc_error_ratio else changed)
        return out

    def _prior(self, estimate: ScoreAndInformation) -> tuple[Any, Any]:
        """Gradient (active,) of the log prior, and minus its second derivatives (active, active); zeros without
        priors."""
        density, template = self.run.binding.density, self.run.template
        if not density.priors:
            return 0.0, 0.0

        def prior(x):
            return density.log_prior(template.unpack(x))

        matrix = -np.asarray(derivatives.hessian(prior)(estimate.packed))
        slope = np.asarray(derivatives.gradient(prior)(estimate.packed))
        return slope[estimate.active], matrix[np.ix_(estimate.active, estimate.active)]


def fits_memory(run: Run) -> bool:
    """True if the terms of all groups are within `SAMPLING.max_transport_numbers`."""
    active, density = sum(run.layout.free), run.binding.density
    functions = n_control_variates(density.n_effects, density.levels)
    terms = 2 * run.placed.n_groups_all * run.replicates * (active * (active + 3) // 2) * functions
    return terms <= SAMPLING.max_transport_numbers


def _symmetric(pairs: np.ndarray, n: int) -> np.ndarray:
    """Symmetric matrices (..., n, n) of their lower triangles (..., pairs)."""
    out = np.zeros((*pairs.shape[:-1], n, n))
    rows, columns = np.tril_indices(n)
    out[..., rows, columns] = out[..., columns, rows] = pairs
    return out
