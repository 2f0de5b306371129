"""Exceptions, the status code of a group, and checks of options; every failure has a sentence that proposes a
remedy."""

from __future__ import annotations

import dataclasses
import difflib
import enum
import numbers
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class MessageSettings:
    """Lists in messages; choices of this package."""

    items: int = 5
    """Most items of a list that a sentence names."""
    characters: int = 80
    """Longest text of a value that a sentence shows; of others it names the type."""
    near_matches: int = 3
    """Most known names that are proposed in the place of an unknown one."""
    similarity: float = 0.5
    """Least similarity of a proposed name, from 0 to 1 (the ratio of `difflib.SequenceMatcher`)."""


MESSAGES = MessageSettings()


class JaxnlmeError(Exception):
    """Base class of the exceptions of jaxnlme.

    **Example:**

    ```python
    try:
        jn.fit(model, data, "foci")
    except jn.JaxnlmeError as error:
        print(error)
    ```
    """


class DataError(JaxnlmeError, ValueError):
    """The table cannot be used; the message names rows and column, what was expected, and the remedy.

    **Example:**

    ```python
    try:
        jn.GroupedData.from_frame(table, group="Subjekt", y="conc")
    except jn.DataError as error:
        print(error)
    ```
    """


class ModelError(JaxnlmeError, ValueError):
    """The model cannot be used: its declaration or its function is wrong, or does not fit the data.

    **Example:**

    ```python
    try:
        jn.NLMEModel(oral, [ka, ka])
    except jn.ModelError as error:
        print(error)
    ```
    """


class UnknownNameError(ModelError, AttributeError, KeyError):
    """The model's function reads a name that phi, x or v do not have."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would put it in quotation marks


class OptionError(JaxnlmeError, ValueError):
    """An option is unknown or has an invalid value.

    **Example:**

    ```python
    try:
        jn.fit(model, data, "foci")
    except jn.OptionError as error:
        print(error)
    ```
    """


class ArgumentError(OptionError, TypeError):
    """A call with an argument that the function does not take, or without one that it needs."""


class MissingFileError(OptionError, FileNotFoundError):
    """A file that is not there."""


class PrecisionError(JaxnlmeError, RuntimeError):
    """64-bit floats are required, and JAX has them switched off.

    **Example:**

    ```python
    jax.config.update("jax_enable_x64", True)  # before jn.log_likelihood and its like
    ```
    """


class FitError(JaxnlmeError, RuntimeError):
    """A fit that did not converge, or that has no estimates for what was asked of it.

    **Arguments:** `message`: the sentence; `fit`: the record of the fit, None where there is none.

    **Example:**

    ```python
    try:
        jn.fit(model, data, "focei", max_iterations=1, throw=True)
    except jn.FitError as error:
        print(error)
    ```
    """

    def __init__(self, message: str, fit: object = None):
        super().__init__(message)
        self.fit = fit


class Status(enum.IntEnum):
    """Outcome of the likelihood evaluation of one group; `sentence` explains it.

    An integer enumeration: compiled programs return arrays of codes, which `Status(code)` decodes.

    **Example:**

    ```python
    fit.status.groups["status"]
    ```
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
        """The explanation of the status, with a remedy."""
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


def check_whole_number(name: str, value: Any, least: int, meaning: str = "") -> int:
    """`value` as an int.

    **Arguments:** `name` of the option; `least`, its smallest value; `meaning` of the option, for the message.
    **Raises:** OptionError where it is not a whole number >= `least`.
    """
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < least:
        subject = f"{name}, {meaning}," if meaning else name
        raise OptionError(f"{subject} must be a whole number >= {least}; received {shown(value)}.")
    return int(value)


def check_level(level: float) -> None:
    """Check the level of an interval. **Raises:** OptionError where it is not a number inside (0, 1)."""
    if isinstance(level, (bool, np.bool_)) or not isinstance(level, numbers.Real) or not 0.0 < level < 1.0:
        raise OptionError(f"level is a probability, such as 0.9 for 90%; received {shown(level)}.")


def shown(value: Any) -> str:
    """`value` as a message shows it: its `repr`, or its type where that is long or has several lines."""
    text = repr(value.item() if isinstance(value, (np.ndarray, np.generic)) and not value.ndim else value)
    if len(text) <= MESSAGES.characters and "\n" not in text:
        return text
    if isinstance(value, np.ndarray):
        return f"an array of shape {value.shape}"
    kind = type(value).__name__
    return f"{'an' if kind[:1].lower() in 'aeiou' else 'a'} {kind}"


def some(items: Sequence[str], at_most: int = MESSAGES.items) -> str:
    """Enumeration for a sentence: "a", "a, b and c"; beyond `at_most` items the first ones and "and N more"."""
    if len(items) > at_most:
        return f"{', '.join(items[:at_most])} and {len(items) - at_most} more"
    return " and ".join(part for part in (", ".join(items[:-1]), *items[-1:]) if part)


def near_matches(name: str, candidates: Iterable[str]) -> str:
    """End of an error message on an unknown `name`: the `candidates` that it begins or that are of similar spelling, or
    all of them if none is."""
    candidates = list(candidates)
    begun = [c for c in candidates if len(str(name)) > 1 and c.lower().startswith(str(name).lower())]
    similar = difflib.get_close_matches(str(name), candidates, n=MESSAGES.near_matches + 1, cutoff=MESSAGES.similarity)
    if len(similar) > MESSAGES.near_matches:
        # More names that are equally similar than would be proposed, such as M1 to M4 for M6: none is meant more.
        first, beyond = (difflib.SequenceMatcher(None, c, str(name)).ratio() for c in (similar[0], similar[-1]))
        similar = [] if first == beyond else similar[:-1]
    close = begun[: MESSAGES.near_matches] or similar
    if close:
        return f"did you mean {' or '.join(repr(c) for c in close)}?"
    return f"known: {', '.join(repr(k) for k in candidates) or 'none'}."
