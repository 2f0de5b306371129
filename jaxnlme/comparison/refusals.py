"""Fits that cannot be compared, each with the reason."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxnlme.comparison.comparable import Candidate
from jaxnlme.comparison.designs import different_column
from jaxnlme.comparison.exactness import IMPORTANCE_SAMPLING
from jaxnlme.errors import OptionError
from jaxnlme.results.record import FitRecord

TRANSFORMED = {
    "log": np.log,
    "log10": np.log10,
    "log2": np.log2,
    "square root": np.sqrt,
    "logarithm of 1 + y": np.log1p,
}


def check_comparable(candidates: Sequence[Candidate], allow_unconverged: bool) -> None:
    """Check that the log-likelihoods are of the same responses and mean the same.

    **Raises:** OptionError naming the first pair that is not comparable, and why.
    """
    for each in candidates:
        if getattr(each.fit, "posterior", None) is not None:
            raise OptionError(
                f"{each.name} is a posterior by {each.fit.method}, whose log-likelihood is that at the posterior means "
                "and no maximum. Compare posteriors by arviz.compare on fit.posterior.to_arviz(), or fits by 'focei', "
                "'laplace' and the like here."
            )
        if not np.isfinite(each.log_likelihood):
            raise OptionError(
                f"{each.name} has no log-likelihood ({each.log_likelihood}): a stochastic fit computes it unless "
                "likelihood='none'. Fit it again with one."
            )
        if not each.converged and not allow_unconverged:
            raise OptionError(
                f"{each.name} did not converge, so its log-likelihood is not a maximum: fit it again (see its status "
                f"below), or pass allow_unconverged=True to compare all the same. {each.fit.status}"
            )
    first = candidates[0]
    for other in candidates[1:]:
        for reason in (_other_responses, _other_likelihood, _other_design):
            text = reason(first, other)
            if text:
                raise OptionError(f"{other.name} cannot be compared with {first.name}: {text}")


def _other_responses(first: Candidate, other: Candidate) -> str:
    """The reason why two fits are not of the same responses with the same weights; empty where they are."""
    counts = [each.criteria.n_obs for each in (first, other)]
    if first.responses is None or other.responses is None:
        if first.fingerprint == other.fingerprint:
            return ""
        if counts[0] != counts[1]:
            return f"their data have {counts[0]:g} and {counts[1]:g} observations. Fit both to the same rows."
        return (
            "their responses, or the weights or the order of their rows, differ. Fit both to the same table; a "
            "transformed response is another one."
        )
    (y, w), (y2, w2) = first.responses, other.responses
    if len(y) != len(y2):
        return (
            f"their data have {len(y)} and {len(y2)} observations. Fit both to the same rows (groups that were left "
            "out, and rows without a predictor, have to be absent from both)."
        )
    if not np.array_equal(y, y2):
        for name, transform in TRANSFORMED.items():
            with np.errstate(all="ignore"):
                if np.allclose(transform(y), y2, rtol=1e-6) or np.allclose(y, transform(y2), rtol=1e-6):
                    return (
                        f"the responses of one are the {name} of those of the other, and the density of a transformed "
                        "response lacks the Jacobian. Give the transform to the residual model (jn.error.exponential, "
                        "...), whose likelihood is that of the response itself."
                    )
        if np.array_equal(np.sort(y), np.sort(y2)):
            return "they have the same responses in another order of rows. Fit both to one table."
        rows = np.flatnonzero(y != y2)
        return (
            f"their responses differ in {len(rows)} of {len(y)} rows, first in observed row {rows[0]} ({y[rows[0]]:g} "
            f"and {y2[rows[0]]:g}). Fit both to the same responses."
        )
    if not np.array_equal(w, w2):
        return "the weights of their groups differ, and so does what is maximised. Fit both with the same weights."
    return ""


def _other_likelihood(first: Candidate, other: Candidate) -> str:
    """The reason why two log-likelihoods are different functions of the parameters; empty where they are the same."""
    if first.restricted != other.restricted:
        restricted, plain = (first, other) if first.restricted else (other, first)
        return (
            f"the log-likelihood of {restricted.name} is restricted (the fixed effects are integrated out), that of "
            f"{plain.name} is not. Fit both with restricted=True, or neither."
        )
    if first.approximation == other.approximation:
        return ""
    if first.exact and other.exact:
        return ""
    monte_carlo = [each for each in (first, other) if each.approximation == IMPORTANCE_SAMPLING]
    if len(monte_carlo) == 1 and all(each.exact for each in (first, other) if each not in monte_carlo):
        return ""
    inexact = first if not first.exact else other
    return (
        f"their log-likelihoods are approximated in different ways ({first.approximation} and {other.approximation}), "
        f"and that of {inexact.name} is not exact: the difference of the approximations would count as one of the "
        "models. Fit one of them again by the method of the other, as in fit.update(method=...)."
    )


def _other_design(first: Candidate, other: Candidate) -> str:
    """The reason why two restricted log-likelihoods are not comparable; empty where they are, or are not restricted."""
    if not first.restricted:
        return ""
    if first.fixed_effects_design() != other.fixed_effects_design():
        return (
            "their restricted log-likelihoods integrate out different fixed effects (other terms, other centring or "
            "scaling of a term), which are densities of different contrasts "
            "of the responses. Compare fits by maximum likelihood: method='ML' "
            "of jn.lme and jn.gls, jn.fit without restricted=True."
        )
    if isinstance(first.fit, FitRecord) and isinstance(other.fit, FitRecord):
        column = different_column(first.fit.binding, other.fit.binding)
        if column:
            return (
                f"their data have different values of {column}, and a restricted log-likelihood depends on the scale "
                "of what multiplies the fixed effects. Fit both to the same table."
            )
    return ""
