"""Devices and processes: one device, a mesh of devices, several processes of one computation."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxnlme import errors
from jaxnlme.errors import OptionError, shown

# Name of the only axis of a mesh: groups are distributed along it.
AXIS = "groups"

Devices = int | str | Sequence[jax.Device] | Mesh | None


def mesh_of(devices: Devices) -> Mesh | None:
    """The mesh of `devices` with the one axis "groups"; None for the default device.

    **Arguments:** `devices`: None (the default device); a number n (the first n devices of this process); "all" (the
    devices of all processes); a sequence of jax devices; or a mesh with the one axis "groups".
    **Raises:** OptionError for anything else, devices of several kinds, a device named twice, or processes with
    unequal numbers of devices.
    """
    if devices is None:
        return None
    if isinstance(devices, Mesh):
        if devices.axis_names != (AXIS,):
            raise OptionError(
                f"the mesh must have the one axis {AXIS!r}; received {devices.axis_names}. Create it with "
                f"jax.make_mesh((n,), ({AXIS!r},))."
            )
        chosen = list(devices.devices.flat)
    else:
        chosen = _chosen(devices)
    if len(set(chosen)) < len(chosen):
        raise OptionError("devices names one device twice.")
    kinds = sorted({f"{device.platform} ({device.device_kind})" for device in chosen})
    if len(kinds) > 1:
        raise OptionError(
            f"devices are of several kinds: {', '.join(kinds)}; groups are distributed evenly, so name one kind."
        )
    counts = np.bincount([device.process_index for device in chosen])
    counts = counts[counts > 0]
    if len(counts) > 1 and (len(counts) != jax.process_count() or np.ptp(counts) > 0):
        raise OptionError(
            f"devices of several processes must be the same number of each process; received {counts.tolist()} of "
            f"{jax.process_count()} processes. Use devices='all'."
        )
    chosen = sorted(
        chosen, key=lambda device: device.process_index
    )  # stable sort: the devices of a process are consecutive
    return Mesh(np.array(chosen), (AXIS,))


def _chosen(devices: Any) -> list[jax.Device]:
    if isinstance(devices, str):
        if devices != "all":
            raise OptionError(
                f"devices must be None, a number, 'all', jax devices or a mesh; received {shown(devices)}."
            )
        return jax.devices()
    if isinstance(devices, (int, np.integer)) and not isinstance(devices, bool):
        local_devices = jax.local_devices()
        if not 1 <= devices <= len(local_devices):
            raise OptionError(
                f"devices={devices}: this process has {len(local_devices)} ({local_devices[0].device_kind}). On a CPU, "
                'jax.config.update("jax_num_cpu_devices", n) before the first computation creates n devices.'
            )
        return local_devices[: int(devices)]
    listed = list(devices) if isinstance(devices, (list, tuple, np.ndarray)) else []
    if not listed or not all(isinstance(device, jax.Device) for device in listed):
        raise OptionError(f"devices must be None, a number, 'all', jax devices or a mesh; received {shown(devices)}.")
    return listed


class Processes:
    """The processes that compute one fit: `count` of them, this one with number `index`. Every process must call each
    method, at the same point of the program.

    **Arguments:** `mesh`: the devices; None: one process.
    """

    def __init__(self, mesh: Mesh | None):
        owners = {0} if mesh is None else {device.process_index for device in mesh.devices.flat}
        self.count = len(owners)
        self.index = jax.process_index() if self.count > 1 else 0

    def gather(self, value: Any) -> list[Any]:
        """The `value` (any object that can be pickled) of every process, in the order of the processes."""
        if self.count == 1:
            return [value]
        from jax.experimental.multihost_utils import process_allgather

        content = np.frombuffer(pickle.dumps(value), np.uint8)
        sizes = np.asarray(process_allgather(np.array([len(content)], np.int32)))[:, 0]
        padded = np.zeros(sizes.max(), np.uint8)
        padded[: len(content)] = content
        rows = np.asarray(process_allgather(padded))
        return [pickle.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]

    def maximum(self, value: int) -> int:
        """The largest `value` of all processes."""
        if self.count == 1:
            return int(value)
        from jax.experimental.multihost_utils import process_allgather

        return int(np.max(process_allgather(np.array([value], np.int32))))

    def any(self, value: Any) -> bool:
        """True if `value` is true in at least one process."""
        return self.maximum(int(bool(value))) == 1

    def all(self, value: Any) -> bool:
        """True if `value` is true in every process."""
        return self.maximum(int(not value)) == 0

    def total(self, value: np.ndarray) -> np.ndarray:
        """The sum over processes of `value`, an array of the same shape in each."""
        return value if self.count == 1 else np.sum(self.gather(value), axis=0)

    def concatenate(self, values: np.ndarray) -> np.ndarray:
        """The arrays `values` of all processes, concatenated along their first axis."""
        return values if self.count == 1 else np.concatenate(self.gather(values))

    def run_collectively(self, work: Callable[[], Any]) -> Any:
        """The result of `work()`; if it raises in one process, every process raises, so that none waits for another.

        **Raises:** in a process where `work` raised, that exception; in the others one of the same class (RuntimeError
        for classes from elsewhere) with the number of that process.
        """
        if self.count == 1:
            return work()
        result, raised = None, None
        try:
            result = work()
        except Exception as error:
            raised = error
        if not self.any(raised is not None):
            return result
        outcomes = self.gather(None if raised is None else (type(raised).__name__, str(raised)))
        if raised is not None:
            raise raised
        number, (name, message) = next((k, error) for k, error in enumerate(outcomes) if error is not None)
        raise getattr(errors, name, RuntimeError)(f"in process {number}: {message}")
