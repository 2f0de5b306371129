"""Checkpoints: the state of a running fit in a file of arrays and JSON, from which another process can resume."""

from __future__ import annotations

import abc
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np

from jaxnlme.binding.bind import Binding
from jaxnlme.errors import JaxnlmeError, OptionError
from jaxnlme.estimators.core.base import AbstractEstimator
from jaxnlme.estimators.core.model_digest import binding_digest, digest
from jaxnlme.estimators.core.objective import flatten
from jaxnlme.estimators.core.record import versions
from jaxnlme.estimators.core.settings import RUN_SETTINGS
from jaxnlme.files import CONTENT_ERRORS, Archive, read_archive, unreadable, write_archive
from jaxnlme.model.params import Params
from jaxnlme.numerics.devices import Processes

# Layout of the file: 1 until jaxnlme 0.1, a bare numpy file; 2 an archive of `jaxnlme.files` with a digest.
FORMAT = 2
# Sections of the document: what the fit is of, and the state of the run. Arrays are called "run/..." and "groups/...".
IDENTITY, RUN = "identity", "run"
REST = "groups/rest"


class AbstractCheckpoint(abc.ABC):
    """The checkpoint file of one fit. What the state of a run is, the subclasses define.

    A file that is written again keeps sections, arrays and members that this version does not use.

    **Arguments:** `path`; `binding` of the whole data, before any group is left out; `estimator`; `params`: the start
    of the fit, whose fixed values must be those of the file; `processes`: each writes a file of its own, "PATH.0-of-2".

    **Attributes:** `run_state`: the state in the file, None if there is no file yet; `rest` (groups,) bool: the groups
    that remain in the fit.
    **Raises:** OptionError if the file is of other data, another model or method, or other fixed values, is damaged, or
    is no checkpoint of this format.
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
        self.identity = {
            "data": binding.data.fingerprint(),
            "model": binding_digest(binding),
            "method": digest(estimator.identity),
            "method name": estimator.name,
            "version": versions()["jaxnlme"],
        }
        self.rest = np.ones(binding.data.n_groups, bool)
        self._unknown = Archive({}, {})
        self._written, self._pause = -np.inf, RUN_SETTINGS.checkpoint_interval
        self.run_state: Any = self._read(binding, params)

    @abc.abstractmethod
    def to_archive(self, run_state: Any) -> Archive:
        """The document of the section "run" and the arrays, without "run/" in their names, of a state."""

    @abc.abstractmethod
    def from_archives(self, first: Archive, local: Archive) -> Any:
        """The state from what `to_archive` gave in the first process, and in this one."""

    @abc.abstractmethod
    def point(self, run_state: Any) -> np.ndarray:
        """The point x (n,) of a state."""

    def leave_out(self, finite: np.ndarray) -> None:
        """Mark groups as left out: those not `finite` (bool), among all groups or among the remaining ones."""
        indices = np.arange(len(self.rest)) if len(finite) == len(self.rest) else np.flatnonzero(self.rest)
        self.rest[indices[~finite]] = False

    def due(self) -> bool:
        """True if a running fit should write now; the same in every process."""
        return self.processes.any(time.monotonic() - self._written > self._pause)

    def write(self, run_state: Any) -> None:
        """Replace the file by one of `run_state`; the file is complete at every moment."""
        began = time.monotonic()
        run, kept = self.to_archive(run_state), self._unknown
        arrays = {f"{RUN}/{name}": array for name, array in run.arrays.items()} | {REST: self.rest}
        document = kept.document | {IDENTITY: self.identity, RUN: run.document}
        archive = Archive(document, kept.arrays | arrays, kept.members)
        write_archive(self.path, "checkpoint", FORMAT, versions()["jaxnlme"], archive, compress=False)
        self._written = time.monotonic()
        self._pause = max(RUN_SETTINGS.checkpoint_interval, (self._written - began) / RUN_SETTINGS.writing_fraction)

    def _read(self, binding: Binding, params: Params) -> Any:
        """The run state in the files of all processes, None unless every process has one."""
        local = self.processes.run_collectively(self._content)
        # If a run was cut off, the files of several processes may be one iteration apart: the point of the first
        # process is used; modes of a point nearby serve as starts of the mode searches equally well.
        first = self.processes.gather(local)[0]
        complete = self.processes.all(local is not None)
        if not complete or first is None or local is None:
            return None
        try:
            run_state = self.from_archives(first, local)
            x = self.point(run_state)
            if x.ndim != 1 or len(x) < len(binding.fixed):
                raise ValueError(f"its point has the shape {x.shape}")
        except JaxnlmeError:
            raise
        except CONTENT_ERRORS as error:
            raise unreadable(self.path, "checkpoint", error) from error
        self._check_fixed(binding, params, x)
        return run_state

    def _check_fixed(self, binding: Binding, params: Params, x: np.ndarray) -> None:
        """Refuse a file whose point `x` (n,) has other fixed values than `params`."""
        here, in_file = (np.asarray(v)[: len(binding.fixed)] for v in (flatten(params), x))
        # Up to rounding: if a variance is zero, all of psi is factored again.
        rtol, atol = RUN_SETTINGS.same_fixed_value, RUN_SETTINGS.same_fixed_zero
        changed = binding.fixed & ~np.isclose(here, in_file, rtol=rtol, atol=atol, equal_nan=True)
        if changed.any():
            names = ", ".join(name for name, differs in zip(binding.packed_names, changed, strict=True) if differs)
            raise OptionError(
                f"the checkpoint {self.path} is of a fit whose fixed values differ from this one's ({names}); give "
                "another path, or delete it."
            )

    def _content(self) -> Archive | None:
        """The part of this process's file that `to_archive` gave, None if there is no file; keeps the unknown rest."""
        if not self.path.exists():
            return None
        try:
            archive = read_archive(self.path, "checkpoint", FORMAT, versions()["jaxnlme"])
            self._check_identity(archive.document[IDENTITY])
            rest = archive.arrays[REST]
            if rest.shape != self.rest.shape or rest.dtype != bool:
                raise ValueError("its list of groups is not that of the data")
            run = Archive(archive.document[RUN], _run_arrays(archive.arrays))
        except JaxnlmeError:
            raise
        except (OSError, *CONTENT_ERRORS) as error:
            raise unreadable(self.path, "checkpoint", error) from error
        self.rest = rest
        self._unknown = _without_own(archive)
        return run

    def _check_identity(self, in_file: dict[str, str]) -> None:
        """Refuse a file of other data, another model or another method."""
        differs = [name for name in ("data", "model", "method") if in_file[name] != self.identity[name]]
        if not differs:
            return
        descriptions = {
            "data": "other data (values, weights, or the order of groups)",
            "model": "another model (its function, parameters, designs, covariance, residual model or priors)",
            "method": f"another method ({in_file['method name']}; this is {self.identity['method name']})",
        }
        difference = " and ".join(descriptions[name] for name in differs)
        if differs == ["model"] and in_file["version"] != self.identity["version"]:
            difference += f", or of the same in jaxnlme {in_file['version']} (this is {self.identity['version']})"
        raise OptionError(f"the checkpoint {self.path} is of a fit of {difference}; give another path, or delete it.")


def _run_arrays(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    prefix = f"{RUN}/"
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}


def _without_own(archive: Archive) -> Archive:
    """The sections, arrays and members of a file that no checkpoint of this version writes."""
    document = {name: section for name, section in archive.document.items() if name not in (IDENTITY, RUN)}
    arrays = {k: v for k, v in archive.arrays.items() if k != REST and not k.startswith(f"{RUN}/")}
    return dataclasses.replace(archive, document=document, arrays=arrays)
