"""A running fit in a file, from which another process goes on: plain arrays and JSON, replaced whole."""

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
# Seconds between two files of a running fit, and at most this share of the time goes into writing them.
SECONDS, SHARE = 1.0, 0.05


@dataclasses.dataclass(frozen=True)
class RunState:
    """Where a minimisation stands: `x` (n,), the best point; `modes` (groups, random) there; `free` (n,) bool; `state`
    of the minimiser, None where a new minimisation begins at x; `zeroed`, `kept`: packed indices of variances at
    zero, and of those freed again; `iterations`, `evaluations`, `seconds` so far; `history`; `finished`."""

    x: np.ndarray
    modes: np.ndarray
    free: np.ndarray
    state: MaximumLikelihoodState | None
    zeroed: list[int]
    kept: list[int]
    iterations: int
    evaluations: int
    seconds: float
    history: list[dict[str, float]]
    finished: bool


class Checkpoint:
    """The file of one fit.

    **Arguments:** `path`; `binding` of the whole data, before any group is left out; `estimator`; `params`, where the
    fit would start: what it holds fixed must be the same in the file; `processes`: each writes a file of its own,
    "PATH.0-of-2".

    `run_state` is what the file holds, None where there is none yet, and `rest` (groups,) tells which groups that fit
    went on with.
    **Errors:** OptionError where the file is of other data, another model or method, of other fixed values, or no such
    file.
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
        self._written, self._pause = -np.inf, SECONDS
        self.run_state: Any = self._read()
        if self.run_state is not None:
            self._same_fixed(binding, params, self._point())

    def leave_out(self, finite: np.ndarray) -> None:
        """Notes which of the groups still there the fit goes on with."""
        there = np.arange(len(self.rest)) if len(finite) == len(self.rest) else np.flatnonzero(self.rest)
        self.rest[there[~finite]] = False

    def due(self) -> bool:
        """Whether a running fit should write now; every process says the same."""
        return self.processes.any(time.monotonic() - self._written > self._pause)

    def _point(self) -> np.ndarray:
        """x (n,) of what the file holds."""
        return self.run_state.x

    def write(self, run_state: Any) -> None:
        """Replaces the file, which is whole at every moment."""
        names = ("zeroed", "kept", "iterations", "evaluations", "seconds", "history", "finished")
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
        self._pause = max(SECONDS, (self._written - began) / SHARE)

    def _read(self) -> Any:
        own = self.processes.together(self._content)
        # Files of several processes may be an iteration apart where a run was cut off: the first one's point counts,
        # and modes of another point near by are starts as good.
        first = self.processes.everyone(own)[0]
        there = self.processes.all(own is not None)
        if not there or first is None or own is None:
            return None
        self.rest = own[1]["rest"]
        return self._run_state(first, own)

    def _run_state(self, first: tuple[dict, dict], own: tuple[dict, dict]) -> Any:
        about, arrays = first
        state = None
        if "log_likelihood" in arrays:
            bfgs, minimiser = (
                {field.name: arrays[f"{part}.{field.name}"] for field in dataclasses.fields(kind)}
                for part, kind in (("bfgs", BFGSState), ("minimiser", BFGS))
            )
            state = MaximumLikelihoodState(BFGSState(**bfgs), BFGS(**minimiser), None, arrays["log_likelihood"])
        names = ("zeroed", "kept", "iterations", "evaluations", "seconds", "history", "finished")
        told = {name: about[name] for name in names}
        return RunState(arrays["x"], own[1]["modes"], arrays["free"], state, **told)

    def _same_fixed(self, binding: Binding, params: Params, x: np.ndarray) -> None:
        """Refuses a file whose `x` (n,) holds entries fixed elsewhere than `params` does."""
        own, there = (np.asarray(v)[: len(binding.fixed)] for v in (flatten(params), x))
        # Up to rounding: where a variance is zero, all of psi is factored again.
        moved = binding.fixed & ~np.isclose(own, there, rtol=1e-9, atol=1e-12, equal_nan=True)
        if moved.any():
            names = ", ".join(name for name, differs in zip(binding.packed_names, moved, strict=True) if differs)
            raise OptionError(
                f"the checkpoint {self.path} is of a fit whose fixed values differ from this one's ({names}); give "
                "another path, or delete it."
            )

    def _content(self) -> tuple[dict[str, Any], dict[str, np.ndarray]] | None:
        if not self.path.exists():
            return None
        try:
            with np.load(self.path, allow_pickle=False) as file:
                arrays = dict(file)
            about = json.loads(str(arrays.pop("about")))
            known = about["jaxnlme checkpoint"] == FORMAT
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise OptionError(f"{self.path} is not a checkpoint of a fit: {error}; give another path.") from error
        differs = [name for name in ("data", "model", "method") if known and about[name] != self.about[name]]
        if not known or differs:
            words = {
                "data": "other data (values, weights, or the order of groups)",
                "model": "another model (its function, parameters, designs, covariance, residual model or priors)",
                "method": f"another method ({about.get('method name')}; this is {self.about['method name']})",
            }
            what = " and ".join(words[name] for name in differs) if known else "another version of jaxnlme"
            if differs == ["model"] and about["version"] != self.about["version"]:
                what += f", or of the same in jaxnlme {about['version']} (this is {self.about['version']})"
            raise OptionError(f"the checkpoint {self.path} is of a fit of {what}; give another path, or delete it.")
        return about, arrays


def _version() -> str:
    try:
        return version("jaxnlme")
    except PackageNotFoundError:
        return "not installed"
