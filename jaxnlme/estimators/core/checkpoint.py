"""Checkpoints: the state of a running fit in a file of arrays and JSON, from which another process can resume."""

from __future__ import annotations

import dataclasses
import json
import os
import time
import zipfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import OptionError
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.model_digest import digest
from jaxnlme.estimators.core.objective import flatten
from jaxnlme.estimators.marginal.method import MaximumLikelihoodState
from jaxnlme.model.params import Params
from jaxnlme.numerics.bfgs import BFGS, BFGSState
from jaxnlme.numerics.devices import Processes

FORMAT = 1
# Least number of seconds between two writes, and the largest fraction of the run time that goes into writing.
MIN_INTERVAL, MAX_WRITING_FRACTION = 1.0, 0.05


@dataclasses.dataclass(frozen=True)
class RunState:
    """State of a running minimisation.

    **Fields:** `x` (n,): the best point; `modes` (groups, random) there; `free` (n,) bool: entries that may move;
    `state` of the minimiser, None if a new minimisation begins at x; `zeroed`, `freed`: packed indices of variances set
    to zero, and of those freed again; `iterations`, `evaluations`, `seconds` so far; `history`; `finished`.
    """

    x: np.ndarray
    modes: np.ndarray
    free: np.ndarray
    state: MaximumLikelihoodState | None
    zeroed: list[int]
    freed: list[int]
    iterations: int
    evaluations: int
    seconds: float
    history: list[dict[str, float]]
    finished: bool


class Checkpoint:
    """The checkpoint file of one fit.

    **Arguments:** `path`; `binding` of the whole data, before any group is left out; `estimator`; `params`: the start
    of the fit, whose fixed values must be those of the file; `processes`: each writes a file of its own, "PATH.0-of-2".

    **Attributes:** `run_state`: the state in the file, None if there is no file yet; `rest` (groups,) bool: the groups
    that remain in the fit.
    **Raises:** OptionError if the file is of other data, another model or method, or other fixed values, or is no
    checkpoint.
    """

    def __init__(
        self, path: str | Path, binding: Binding, estimator: AbstractEstimator, params: Params, processes: Processes
    ):
        self.path = Path(path)
        if processes.count > 1:
            self.path = self.path.with_name(f"{self.path.name}.{processes.index}-of-{processes.count}")
        if not self.path.parent.is_dir():
            raise OptionError(f"checkpoint: the folder {self.path.parent} does not exist.")
        self.processes = processes
        self.about = {
            "jaxnlme checkpoint": FORMAT,
            "data": binding.data.fingerprint(),
            "model": digest([binding.density, binding.packed_names, binding.fixed.tolist()]),
            "method": digest(estimator.identity),
            "method name": estimator.name,
            "version": _version(),
        }
        self.rest = np.ones(binding.data.n_groups, bool)
        self._written, self._pause = -np.inf, MIN_INTERVAL
        self.run_state: Any = self._read()
        if self.run_state is not None:
            self._same_fixed(binding, params, self._point())

    def leave_out(self, finite: np.ndarray) -> None:
        """Mark groups as left out: those not `finite` (bool), among all groups or among the remaining ones."""
        indices = np.arange(len(self.rest)) if len(finite) == len(self.rest) else np.flatnonzero(self.rest)
        self.rest[indices[~finite]] = False

    def due(self) -> bool:
        """True if a running fit should write now; the same in every process."""
        return self.processes.any(time.monotonic() - self._written > self._pause)

    def _point(self) -> np.ndarray:
        """The point x (n,) that the file holds."""
        return self.run_state.x

    def write(self, run_state: Any) -> None:
        """Replace the file by `run_state`; the file is complete at every moment."""
        names = ("zeroed", "freed", "iterations", "evaluations", "seconds", "history", "finished")
        about = {**self.about, **{name: getattr(run_state, name) for name in names}}
        arrays = {"x": run_state.x, "modes": run_state.modes, "free": run_state.free, "rest": self.rest}
        if run_state.state is not None:
            arrays["log_likelihood"] = np.asarray(run_state.state.log_likelihood)
            for part in ("bfgs", "minimiser"):
                record = getattr(run_state.state, part)
                for field in dataclasses.fields(record):
                    arrays[f"{part}.{field.name}"] = np.asarray(getattr(record, field.name))
        self._store(about, arrays)

    def _store(self, about: dict[str, Any], arrays: dict[str, np.ndarray]) -> None:
        """Write a file beside the old one, then rename it."""
        began = time.monotonic()
        part = self.path.with_name(f".{self.path.name}.{os.getpid()}.part")
        try:
            with open(part, "wb") as file:
                np.savez(file, allow_pickle=False, about=np.array(json.dumps(about)), **arrays)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, self.path)
        finally:
            part.unlink(missing_ok=True)
        self._written = time.monotonic()
        self._pause = max(MIN_INTERVAL, (self._written - began) / MAX_WRITING_FRACTION)

    def _read(self) -> Any:
        """The run state in the files of all processes, None unless every process has one."""
        local = self.processes.run_collectively(self._content)
        # If a run was cut off, the files of several processes may be one iteration apart: the point of the first
        # process is used; modes of a point nearby serve as starts of the mode searches equally well.
        first = self.processes.gather(local)[0]
        complete = self.processes.all(local is not None)
        if not complete or first is None or local is None:
            return None
        self.rest = local[1]["rest"]
        return self._run_state(first, local)

    def _run_state(self, first: tuple[dict, dict], local: tuple[dict, dict]) -> Any:
        """The run state from the contents of the first process's file and of this process's file."""
        about, arrays = first
        state = None
        if "log_likelihood" in arrays:
            bfgs, minimiser = (
                {field.name: arrays[f"{part}.{field.name}"] for field in dataclasses.fields(kind)}
                for part, kind in (("bfgs", BFGSState), ("minimiser", BFGS))
            )
            state = MaximumLikelihoodState(BFGSState(**bfgs), BFGS(**minimiser), None, arrays["log_likelihood"])
        names = ("zeroed", "freed", "iterations", "evaluations", "seconds", "history", "finished")
        counts = {name: about[name] for name in names}
        return RunState(arrays["x"], local[1]["modes"], arrays["free"], state, **counts)

    def _same_fixed(self, binding: Binding, params: Params, x: np.ndarray) -> None:
        """Refuse a file whose point `x` (n,) has other fixed values than `params`."""
        here, in_file = (np.asarray(v)[: len(binding.fixed)] for v in (flatten(params), x))
        # Up to rounding: if a variance is zero, all of psi is factored again.
        changed = binding.fixed & ~np.isclose(here, in_file, rtol=1e-9, atol=1e-12, equal_nan=True)
        if changed.any():
            names = ", ".join(name for name, differs in zip(binding.packed_names, changed, strict=True) if differs)
            raise OptionError(
                f"the checkpoint {self.path} is of a fit whose fixed values differ from this one's ({names}); give "
                "another path, or delete it."
            )

    def _content(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        """Header and arrays of this process's file, None if there is no file."""
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = dict(file)
            about = json.loads(str(arrays.pop("about")))
            same_format = about["jaxnlme checkpoint"] == FORMAT
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise OptionError(f"{self.path} is not a checkpoint of a fit: {error}; give another path.") from error
        differs = [name for name in ("data", "model", "method") if same_format and about[name] != self.about[name]]
        if not same_format or differs:
            descriptions = {
                "data": "other data (values, weights, or the order of groups)",
                "model": "another model (its function, parameters, designs, covariance, residual model or priors)",
                "method": f"another method ({about.get('method name')}; this is {self.about['method name']})",
            }
            difference = "another version of jaxnlme"
            if same_format:
                difference = " and ".join(descriptions[name] for name in differs)
            if differs == ["model"] and about["version"] != self.about["version"]:
                difference += f", or of the same in jaxnlme {about['version']} (this is {self.about['version']})"
            raise OptionError(
                f"the checkpoint {self.path} is of a fit of {difference}; give another path, or delete it."
            )
        return about, arrays


def _version() -> str:
    try:
        return version("jaxnlme")
    except PackageNotFoundError:
        return "not installed"
