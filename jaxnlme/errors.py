"""Exceptions, and the status of a group: every failure has a sentence that says what to try."""

from __future__ import annotations

import difflib
import enum
from collections.abc import Iterable, Sequence


class JaxnlmeError(Exception):
    """Base of every exception that jaxnlme raises on purpose."""


class DataError(JaxnlmeError, ValueError):
    """The table cannot be used: the message names rows, column, what was expected and what to do."""


class ModelError(JaxnlmeError, ValueError):
    """The model cannot be used: its declaration, its function, or the two together with the data."""


class OptionError(JaxnlmeError, ValueError):
    """An option is unknown or has a value that is not understood."""


class PrecisionError(JaxnlmeError, RuntimeError):
    """64-bit floats are needed and switched off."""


class FitError(JaxnlmeError, RuntimeError):
    """A fit that did not converge, raised only where `throw=True` was asked for; `fit` holds the record."""

    def __init__(self, message: str, fit: object = None):
        super().__init__(message)
        self.fit = fit


class Status(enum.IntEnum):
    """What happened to one group; `sentence` says it in words.

    An integer enumeration, so that a batch of codes coming out of a compiled program decodes by value.
    """

    ok = 0
    mode_not_found = 1
    non_finite_start = 2
    non_finite = 3
    not_a_maximum = 4
    no_observations = 5
    left_out = 6

    @property
    def sentence(self) -> str:
        """The status in words, with what to try."""
        return _SENTENCES[self]


_SENTENCES = {
    Status.ok: "The likelihood was evaluated (its conditional mode found, where the method uses one).",
    Status.mode_not_found: (
        "The conditional mode was not found in the allowed steps; try other starting values, a diagonal covariance, "
        "or more `mode_steps` (of LME also `reweightings`, where the residual scale depends on the prediction)."
    ),
    Status.non_finite_start: (
        "The model is not finite for this group at the population parameters (random effects zero); "
        "check its rows and the starting values."
    ),
    Status.non_finite: (
        "The likelihood or its gradient is not finite at the conditional mode or at a node of the integral; look for "
        "0/0, log(0) or overflow in the model (jnp.where on the argument helps)."
    ),
    Status.not_a_maximum: (
        "The curvature at the conditional mode is not positive definite; try `curvature='gauss-newton'` or FOCEI."
    ),
    Status.no_observations: "The group has no observed response; it adds nothing to the likelihood.",
    Status.left_out: "The group was left out of the fit at your request.",
}


def some(words: Sequence[str], at_most: int = 5) -> str:
    """Words as a list in a sentence: "a", "a, b and c", and of more than `at_most` the first and how many more."""
    if len(words) > at_most:
        return f"{', '.join(words[:at_most])} and {len(words) - at_most} more"
    return " and ".join(part for part in (", ".join(words[:-1]), *words[-1:]) if part)


def near_matches(name: str, known: Iterable[str]) -> str:
    """`name` against the `known` names, as the end of a message: close ones first, all of them otherwise."""
    known = list(known)
    close = difflib.get_close_matches(str(name), known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(repr(k) for k in known) or 'none'}."
