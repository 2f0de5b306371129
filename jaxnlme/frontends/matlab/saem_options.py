"""Simulation arguments of nlmefitsa, converted to a jn.SAEM and the starting values of its replicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.binding.bind import bind
from jaxnlme.binding.dry_run import dry_run, place_and_check
from jaxnlme.errors import OptionError, shown
from jaxnlme.estimators.core.starting_values import balanced_error_start, scaled_error_start
from jaxnlme.estimators.em.saem import SAEM
from jaxnlme.frontends.matlab.call import Call
from jaxnlme.frontends.matlab.options import StatsetSA, choice, count
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.sampling.metropolis import Moves

SIMULATION_DEFAULTS = {
    "LogLikMethod": "is",
    "NBurnIn": 5,
    "NChains": None,
    "NIterations": (150, 150, 100),
    "NMCMCIterations": (2, 2, 2),
    "Replicates": None,
}
LIKELIHOODS = ("is", "gq", "lin", "none")


def saem(arguments: Mapping[str, Any], settings: StatsetSA, replicates: int) -> SAEM:
    """The estimator that the name-value arguments and Options describe.

    **Arguments:** `arguments`: name-value arguments with their defaults; `settings`: the checked Options; `replicates`:
    their number.
    **Returns:** a SAEM.
    **Raises:** OptionError naming the argument, what was expected and what was received.
    """
    iterations = _counts(
        "NIterations", arguments["NIterations"], (1, 3), "a number, or one for each of the three phases"
    )
    if not sum(iterations):
        raise OptionError("NIterations must leave at least one iteration; received zeros.")
    planned_iterations: Any = iterations if len(iterations) == 3 else iterations[0]
    # The convergence assessment after the planned iterations takes iterations, too.
    if settings.MaxIter is not None and settings.MaxIter < sum(iterations):
        raise OptionError(
            f"Options.MaxIter is {settings.MaxIter}, fewer than the {sum(iterations)} iterations of NIterations; it "
            "bounds them and those of the convergence assessment after them."
        )
    return SAEM(
        iterations=planned_iterations,
        burn_in=count("NBurnIn", arguments["NBurnIn"]),
        chains=None if arguments["NChains"] is None else count("NChains", arguments["NChains"], 1),
        moves=_moves(arguments["NMCMCIterations"]),
        replicates=replicates,
        seed=settings.Streams,
        likelihood=choice("LogLikMethod", arguments["LogLikMethod"], LIKELIHOODS),
        tolerance=settings.tolerance,
        max_iterations=settings.MaxIter,
    )


def _moves(updates: Any) -> Moves:
    """Updates per iteration of MATLAB's three kernels: draws from the population, single coordinates, blocks of
    coordinates. A fourth number is for the kernel that proposes around the conditional modes, which MATLAB lacks."""
    meaning = "a number for all, or one for each of full multivariate, single-coordinate and multi-coordinate updates"
    counts = _counts("NMCMCIterations", updates, (1, 3, 4), f"{meaning}, and a fourth for draws about the modes")
    counts = counts * 3 if len(counts) == 1 else counts
    population, coordinates, blocks = counts[0], counts[1], counts[2]
    mode = {"mode": counts[3]} if len(counts) == 4 else {}
    if not population + coordinates + blocks + mode.get("mode", 0):
        raise OptionError(f"NMCMCIterations must leave at least one update; received {shown(updates)}.")
    return Moves(population=population, walk=0, coordinates=coordinates, blocks=blocks, **mode)


def _counts(name: str, value: Any, lengths: tuple[int, ...], meaning: str) -> tuple[int, ...]:
    """Whole numbers, as many as one of `lengths`."""
    entries = np.atleast_1d(np.asarray(value, object)).reshape(-1).tolist()
    if len(entries) not in lengths:
        raise OptionError(f"{name} must be {meaning}; received {shown(value)}.")
    return tuple(count(name, entry) for entry in entries)


def start_columns(beta0: Any, arguments: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """The starting values (F, columns) in `beta0`, and the number of replicates.

    **Arguments:** `beta0` (F,), (F, 1) or (1, F): one start; (F, REPS): one per replicate, and (1, REPS) where there is
    a single fixed effect according to the designs; `arguments`: name-value arguments with their defaults.
    **Raises:** OptionError where `Replicates` does not go with the columns.
    """
    try:
        starts = np.asarray(beta0, float)
    except (TypeError, ValueError):
        raise OptionError(f"beta0 must hold numbers; received {type(beta0).__name__}.") from None
    if starts.ndim > 2 or starts.size == 0:
        raise OptionError(f"beta0 has shape {starts.shape}; expected (F,), or (F, REPS) with one start a replicate.")
    if not np.isfinite(starts).all():
        raise OptionError(f"beta0 must be finite; received {starts.tolist()}.")
    if starts.ndim < 2 or (starts.shape[0] == 1 and _number_of_fixed_effects(arguments) != 1):
        starts = starts.reshape(-1, 1)
    columns = starts.shape[1]
    replicates = columns if arguments["Replicates"] is None else count("Replicates", arguments["Replicates"], 1)
    if columns > 1 and replicates != columns:
        raise OptionError(
            f"Replicates is {replicates}, and beta0 has {columns} columns, one start a replicate; leave Replicates "
            "out, or give one column, about which the starts of all replicates are spread."
        )
    return starts, replicates


def _number_of_fixed_effects(arguments: Mapping[str, Any]) -> int | None:
    """F, the number of fixed effects, where it follows from the arguments without beta0; else None."""
    for name in ("FEConstDesign", "FEGroupDesign", "FEObsDesign"):
        if np.ndim(arguments[name]) > 1:
            return np.shape(arguments[name])[1]
    if arguments["FEParamsSelect"] is not None:
        chosen = np.asarray(arguments["FEParamsSelect"])
        return int(chosen.sum()) if chosen.dtype == bool else chosen.size
    return None if arguments["ParamTransform"] is None else np.size(arguments["ParamTransform"])


def replicate_starts(call: Call, family: AbstractCovariance, columns: np.ndarray) -> list[Params] | None:
    """Starting values of each replicate; None for a single column, where the model's own start is used. Error
    parameters that were not given are computed from the misfit at each start, as `jn.fit` does.

    **Arguments:** `call`: the checked call; `family`: the covariance of psi; `columns` (F, columns): starts of beta.
    **Raises:** as `Call.fit`.
    """
    if columns.shape[1] == 1:
        return None
    starts: list[Params] = []
    with x64(), call.matlab_messages():
        binding = bind(call.model(family), call.data.data)
        placed = None
        for column in columns.T:
            psi = dataclasses.replace(call.designs, beta=column).psi
            params = Params(column, family.from_matrix(psi), binding.start.error, binding.start.free)
            params = balanced_error_start(binding, params)
            if placed is None:
                placed, start_check = place_and_check(binding, params, None, None)
            else:
                start_check = dry_run(binding, params, placed)
            starts.append(scaled_error_start(binding, params, start_check.misfit))
    return starts
