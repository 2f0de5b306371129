"""Errors of JAX that a user's model causes, explained: code that cannot be traced, derivatives that JAX does not have,
checks of solvers."""

from __future__ import annotations

import re
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import jax

from jaxnlme.errors import JaxnlmeError, ModelError
from jaxnlme.numerics.tracing import is_users_file

TRACER_ERRORS = (
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
    jax.errors.ConcretizationTypeError,
    jax.errors.NonConcreteBooleanIndexError,
)
SOLVERS = (
    "jax.experimental.ode.odeint, diffrax with any adjoint (its default, diffrax.ForwardMode(), "
    "diffrax.DirectAdjoint()), a fixed number of steps by jax.lax.scan, or the closed form where there is one"
)
# A Python function that a compiled program calls has raised: a check of equinox or diffrax.
CALLBACK_ERROR = "CpuCallback error"
# Parts of JAX's and diffrax's messages, the reason, and the remedy.
DERIVATIVE_ERRORS = (
    (
        ("custom_lin", "autodiff (jvp) to a custom_vjp", "filter_custom_vjp"),
        "part of it has a derivative in reverse mode only (a rule of its own, jax.custom_vjp), and a fit takes "
        "derivatives in both modes",
        f"Write the rule as jax.custom_jvp, or leave it out; to solve a differential equation use {SOLVERS}.",
    ),
    (
        ("does not work for lax.while_loop", "Cannot reverse-mode autodifferentiate"),
        "the number of steps of a loop in it depends on values (jax.lax.while_loop), and such a loop has no derivative "
        "in reverse mode",
        "Use a loop with fixed bounds, or move it into the model function f(phi, x, v), where such loops are served.",
    ),
    (
        ("callbacks do not support JVP",),
        "it calls Python from inside a JAX program, and such a call has no derivative",
        "Write that part with jax.numpy.",
    ),
)


CONDITION_ADVICE = (
    "A Python `if`, `and` or `while` cannot depend on parameters or data: use jnp.where(condition, a, b)."
)
# Parts of messages of JAX and numpy on code that changes or tests arrays in a way that cannot be traced, with the
# remedy.
CODE_ERRORS = (
    (("truth value of an array",), CONDITION_ADVICE),
    (
        ("Only integer scalar arrays can be converted to a scalar index",),
        "A number of steps or a size cannot depend on parameters.",
    ),
    (
        ("JAX arrays are immutable", "setting an array element with a sequence"),
        "An array cannot be filled entry by entry: build it with jnp.where, jnp.stack([...]) or jnp.concatenate, or "
        "write y = y.at[k].set(value) for y[k] = value.",
    ),
)


def tracer_advice(error: Exception, subject: str = "The model") -> str:
    """Message on the user's line that cannot be traced, with what to write instead; `subject`: the user's function."""
    if isinstance(error, jax.errors.TracerBoolConversionError):
        advice = CONDITION_ADVICE
    elif isinstance(error, jax.errors.NonConcreteBooleanIndexError):
        advice = "Indexing with a condition changes shapes: use jnp.where(condition, a, b) instead."
    else:
        advice = (
            f"{subject} must be written with jax.numpy (import jax.numpy as jnp), not numpy or math: jnp.exp for "
            "np.exp, and no float() or int() of a parameter."
        )
    return f"{subject} is not pure JAX{_users_line(error)}. {advice}"


def model_error(error: BaseException, subject: str = "The model") -> str | None:
    """Message on an error of JAX that the model (or another function of the user, `subject`) causes: code that cannot
    be traced, a derivative that JAX does not have, a check of a solver that failed while it ran; None for other
    errors."""
    text = str(error)
    for parts, advice in CODE_ERRORS:
        if any(part in text for part in parts) and (line := _users_line(error)):
            return f"{subject} is not pure JAX{line}. {advice}"
    for parts, reason, remedy in DERIVATIVE_ERRORS:
        if any(part in text for part in parts):
            return f"{subject} cannot be differentiated as a fit needs it{_users_line(error)}: {reason}. {remedy}"
    if CALLBACK_ERROR not in text:
        return None
    raised = [line for line in text.splitlines() if re.match(r"[\w.]*(Error|Exception): ", line)]
    reason = raised[-1].partition(": ")[2].rstrip(".") if raised else "an error in a callback to Python"
    return (
        f"{subject} stopped while it was computed: {reason}. A fit computes it at extreme parameters too, and in rows "
        "that repeat the last time of a short group: with diffrax use throw=False, and a dense solution, "
        "saveat=diffrax.SaveAt(dense=True) with jax.vmap(solution.evaluate)(x.Time)."
    )


@contextmanager
def explained_errors(subject: str = "The model") -> Iterator[None]:
    """Context in which errors of JAX that the model (or another function of the user, `subject`) causes become a
    ModelError that names what works."""
    try:
        yield
    except JaxnlmeError:
        raise
    except (NotImplementedError, TypeError, ValueError, RuntimeError) as error:
        message = model_error(error, subject)
        if message is None:
            raise
        raise ModelError(message) from error


@contextmanager
def explained_user_code(subject: str = "The model") -> Iterator[None]:
    """As `explained_errors`, around calls of the user's function only: code in it that cannot be traced becomes a
    ModelError with the line, too."""
    try:
        with explained_errors(subject):
            yield
    except TRACER_ERRORS as error:
        raise ModelError(tracer_advice(error, subject)) from error


def _users_line(error: BaseException) -> str:
    """The last line of the user's own code in the traceback of `error`, as the end of a clause; "" if there is none."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if is_users_file(frame.filename):
            return f' in {frame.filename}, line {frame.lineno}: "{frame.line}"'
    return ""
