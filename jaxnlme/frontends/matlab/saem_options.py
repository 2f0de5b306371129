"""The arguments of nlmefitsa that steer its simulation, as jn.SAEM and the starts of its replicates."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxnlme.binding.bind import bind
from jaxnlme.binding.dry_run import dry_run, place
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.starting_values import scaled_error_start
from jaxnlme.estimators.em.saem import SAEM
from jaxnlme.frontends.matlab.call import Call
from jaxnlme.frontends.matlab.options import StatsetSA, choice, count
from jaxnlme.model.covariance.structures import AbstractCovariance
from jaxnlme.model.params import Params
from jaxnlme.precision import x64
from jaxnlme.sampling.metropolis import Moves

SIMULATION = {
    "LogLikMethod": "is",
    "NBurnIn": 5,
    "NChains": None,
    "NIterations": (150, 150, 100),
    "NMCMCIterations": (2, 2, 2),
    "Replicates": None,
}
LIKELIHOODS = ("is", "gq", "lin", "none")


def saem(given: Mapping[str, Any], said: StatsetSA, replicates: int) -> SAEM:
    """The estimator that the name-value arguments `given` and Options say.

    **Errors:** OptionError naming the argument, what was expected and what was received.
    """
    iterations = _counts("NIterations", given["NIterations"], (1, 3), "a number, or one for each of the three phases")
    if not sum(iterations):
        raise OptionError("NIterations must leave at least one iteration; received zeros.")
    planned: Any = iterations if len(iterations) == 3 else iterations[0]
    # Judging the estimates takes iterations, too.
    most = max(SAEM().max_iterations, 2 * sum(iterations)) if said.MaxIter is None else said.MaxIter
    if most < sum(iterations):
        raise OptionError(
            f"Options.MaxIter is {most}, fewer than the {sum(iterations)} iterations of NIterations; it bounds them "
            "and those after them that judge the estimates."
        )
    return SAEM(
        iterations=planned,
        burn_in=count("NBurnIn", given["NBurnIn"]),
        chains=None if given["NChains"] is None else count("NChains", given["NChains"], 1),
        moves=_moves(given["NMCMCIterations"]),
        replicates=replicates,
        seed=said.Streams,
        likelihood=choice("LogLikMethod", given["LogLikMethod"], LIKELIHOODS),
        tolerance=said.tolerance,
        max_iterations=most,
    )


def _moves(given: Any) -> Moves:
    """MATLAB's three kernels: draws from the population, single coordinates, blocks of coordinates. A fourth number is
    of the kernel that proposes from the conditional modes, which MATLAB does not have."""
    meaning = "a number for all, or one for each of full multivariate, single-coordinate and multi-coordinate updates"
    numbers = _counts("NMCMCIterations", given, (1, 3, 4), f"{meaning}, and a fourth for draws about the modes")
    numbers = numbers * 3 if len(numbers) == 1 else numbers
    population, coordinates, blocks = numbers[0], numbers[1], numbers[2]
    mode = {"mode": numbers[3]} if len(numbers) == 4 else {}
    if not population + coordinates + blocks + mode.get("mode", 0):
        raise OptionError(f"NMCMCIterations must leave at least one update; received {given!r}.")
    return Moves(population=population, walk=0, coordinates=coordinates, blocks=blocks, **mode)


def _counts(name: str, value: Any, lengths: tuple[int, ...], meaning: str) -> tuple[int, ...]:
    """Whole numbers, as many as one of `lengths`."""
    entries = np.atleast_1d(np.asarray(value, object)).reshape(-1).tolist()
    if len(entries) not in lengths:
        raise OptionError(f"{name} must be {meaning}; received {value!r}.")
    return tuple(count(name, entry) for entry in entries)


def start_columns(beta0: Any, given: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """The starts (F, columns) in `beta0`, and the number of replicates.

    **Arguments:** `beta0` (F,), (F, 1) or (1, F): one start; (F, REPS): one a replicate, and (1, REPS) where the
    designs say that there is one fixed effect.
    **Errors:** OptionError where `Replicates` does not go with the columns.
    """
    try:
        starts = np.asarray(beta0, float)
    except (TypeError, ValueError):
        raise OptionError(f"beta0 must hold numbers; received {type(beta0).__name__}.") from None
    if starts.ndim > 2 or starts.size == 0:
        raise OptionError(f"beta0 has shape {starts.shape}; expected (F,), or (F, REPS) with one start a replicate.")
    if not np.isfinite(starts).all():
        raise OptionError(f"beta0 must be finite; received {starts.tolist()}.")
    if starts.ndim < 2 or (starts.shape[0] == 1 and _said_fixed(given) != 1):
        starts = starts.reshape(-1, 1)
    columns = starts.shape[1]
    replicates = columns if given["Replicates"] is None else count("Replicates", given["Replicates"], 1)
    if columns > 1 and replicates != columns:
        raise OptionError(
            f"Replicates is {replicates}, and beta0 has {columns} columns, one start a replicate; leave Replicates "
            "out, or give one column, about which the starts of all replicates are spread."
        )
    return starts, replicates


def _said_fixed(given: Mapping[str, Any]) -> int | None:
    """F where the arguments say it without beta0."""
    for name in ("FEConstDesign", "FEGroupDesign", "FEObsDesign"):
        if np.ndim(given[name]) > 1:
            return np.shape(given[name])[1]
    if given["FEParamsSelect"] is not None:
        chosen = np.asarray(given["FEParamsSelect"])
        return int(chosen.sum()) if chosen.dtype == bool else chosen.size
    return None if given["ParamTransform"] is None else np.size(given["ParamTransform"])


def replicate_starts(call: Call, family: AbstractCovariance, columns: np.ndarray) -> list[Params] | None:
    """Where each replicate starts, of starts (F, columns) for beta; None for one column, the model's own start.
    Residual scales that nobody gave are those of the misfit at each start, as `jn.fit` takes them for its own.

    **Errors:** as `Call.fit`.
    """
    if columns.shape[1] == 1:
        return None
    starts: list[Params] = []
    with x64(), call.own_words():
        binding = bind(call.model(family), call.data.data)
        placed = None
        for column in columns.T:
            psi = dataclasses.replace(call.designs, beta=column).psi
            params = Params(column, family.from_matrix(psi), binding.start.error, binding.start.free)
            if placed is None:
                placed, found = place(binding, params, None, None)
            else:
                found = dry_run(binding, params, placed)
            starts.append(scaled_error_start(binding, params, found.misfit))
    return starts
