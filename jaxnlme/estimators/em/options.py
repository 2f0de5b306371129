"""Checks of the options common to the methods that sample the random effects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import numpy as np

from jaxnlme.arguments import check_choice, check_number
from jaxnlme.errors import OptionError, check_whole_number, shown
from jaxnlme.estimators.em.settings import SCHEDULE

Lengths = TypeVar("Lengths", bound=tuple[int, ...])
LIKELIHOODS = ("is", "gq", "lin", "none")
INFORMATIONS = ("louis", "linearised")
M_STEPS = ("auto", "gradient")


def check_common_options(method: str, options: dict[str, Any]) -> dict[str, Any]:
    """Checked values of the options common to the stochastic methods.

    **Arguments:** `method`, its name for messages; `options`, values by name, others ignored.
    **Returns:** the values by name.  **Raises:** OptionError naming the option.
    """
    choices = {"m_step": M_STEPS, "likelihood": LIKELIHOODS, "information": INFORMATIONS}
    for name, allowed in choices.items():
        check_choice(f"{method}: {name}", options[name], allowed)
    # Relative to the standard errors.
    tolerance = check_number(f"{method}: tolerance", options["tolerance"], 0.0, 1.0, above=True)
    out = {name: options[name] for name in choices} | {"tolerance": tolerance}
    out["seed"] = normalise_seed(method, options["seed"])
    minima = {"burn_in": 0, "replicates": 1, "draws": 2}
    out |= {name: check_whole_number(f"{method}: {name}", options[name], minimum) for name, minimum in minima.items()}
    out["nodes"] = None if options["nodes"] is None else check_whole_number(f"{method}: nodes", options["nodes"], 1)
    return out


def phase_lengths(iterations: Any) -> np.ndarray:
    """`iterations` as an array; an empty one, which no check accepts, for what is none (lists of unequal lengths)."""
    try:
        return np.asarray(iterations)
    except (TypeError, ValueError):
        return np.zeros(0)


def iteration_limits(
    method: str, max_iterations: Any, default_limit: int, iterations: Any, lengths: Callable[[Any], Lengths]
) -> tuple[int, Lengths]:
    """The limit of iterations, and the lengths of the phases, which it includes.

    **Arguments:** `method`, its name for messages; `max_iterations` and `iterations`, as the user gave them;
    `default_limit`, the least limit where `max_iterations` is None; `lengths`, a function from `iterations` to the
    lengths of the phases, of which None gives the default.
    **Raises:** OptionError for a limit that is no whole number, or below the phases that the user gave.
    """
    phases = lengths(iterations)
    if max_iterations is None:
        return max(default_limit, 2 * sum(phases)), phases
    limit = check_whole_number(f"{method}: max_iterations", max_iterations, 1)
    if sum(phases) <= limit:
        return limit, phases
    if iterations is None:
        return limit, lengths(limit)
    raise OptionError(
        f"{method}: max_iterations is {limit}, fewer than the {sum(phases)} of iterations={iterations!r}, which it "
        "includes: give fewer iterations, or a higher max_iterations."
    )


def normalise_seed(method: str, seed: Any) -> int | tuple[int, ...]:
    """A seed as a hashable value: an integer, or the two 32-bit words of a JAX key.

    **Raises:** OptionError for anything else.
    """
    if isinstance(seed, (int, np.integer)) and not isinstance(seed, bool):
        return int(seed)
    if isinstance(seed, (jax.Array, np.ndarray)):
        typed = isinstance(seed, jax.Array) and jax.numpy.issubdtype(seed.dtype, jax.dtypes.prng_key)
        data = np.asarray(jax.random.key_data(seed) if typed else seed)
        if data.shape == (2,) and data.dtype == np.uint32:
            return tuple(int(part) for part in data)
    raise OptionError(f"{method}: seed is a whole number or a JAX key; received {shown(seed)}.")


def saem_phase_lengths(iterations: Any) -> tuple[int, int, int]:
    """Lengths of the three phases; a single number is divided in the proportions of the defaults, which None gives.

    **Raises:** OptionError for anything but one or three non-negative whole numbers, or none above zero.
    """
    if iterations is None:
        return SCHEDULE.saem_phases
    lengths = phase_lengths(iterations)
    if lengths.dtype.kind not in "iu" or lengths.shape not in ((), (3,)) or (lengths < 0).any() or lengths.sum() < 1:
        raise OptionError(
            "iterations is one whole number, or three of them: annealing, full steps, decreasing steps; received "
            f"{iterations!r}."
        )
    if lengths.ndim:
        return tuple(int(n) for n in lengths)  # pyright: ignore[reportReturnType]
    first = round(int(lengths) * SCHEDULE.saem_phases[0] / sum(SCHEDULE.saem_phases))
    second = round(int(lengths) * SCHEDULE.saem_phases[1] / sum(SCHEDULE.saem_phases))
    return first, second, int(lengths) - first - second
